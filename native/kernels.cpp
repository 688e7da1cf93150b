// The kernels, compiled once per instruction set. See kernels.hpp for the rule about the standard library.
#include "kernels.hpp"

#include <cstdlib>

#include "counts.hpp"
#include "dense.hpp"
#include "peak.hpp"
#include "pool.hpp"

#define TRANSPIKE_JOIN2(a, b) a##b
#define TRANSPIKE_JOIN(a, b) TRANSPIKE_JOIN2(a, b)
#define TRANSPIKE_STRING2(a) #a
#define TRANSPIKE_STRING(a) TRANSPIKE_STRING2(a)

namespace transpike {
namespace {

bool run_chain(Link *links, int count) {
  bool enough = true;
#pragma omp parallel
  {
    static thread_local Arena arena;
    bool ready = true; // a thread without memory leaves the links from there on to the others
    for (int i = 0; i < count && ready; ++i)
      if (links[i].pool != nullptr)
        run_pool(links, links[i]);
      else
        ready = links[i].counts ? run_counts(links, links[i], arena) : run_stage(links, links[i], arena);
    if (!ready) {
#pragma omp atomic write
      enough = false;
    }
  }
  return enough;
}

} // namespace

const Kernels &TRANSPIKE_JOIN(kernels_, TRANSPIKE_ISA)() {
  static const Kernels table{TRANSPIKE_STRING(TRANSPIKE_ISA), run_chain, add_up,
                             dense_table<float>(), dense_table<double>()};
  return table;
}

} // namespace transpike
