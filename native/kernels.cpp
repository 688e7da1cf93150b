// The kernels, compiled once per instruction set. See kernels.hpp for the rule about the standard library.
#include "kernels.hpp"

#include "counts.hpp"
#include "dense.hpp"
#include "digest.hpp"
#include "peak.hpp"
#include "pool.hpp"

#define TRANSPIKE_JOIN2(a, b) a##b
#define TRANSPIKE_JOIN(a, b) TRANSPIKE_JOIN2(a, b)
#define TRANSPIKE_STRING2(a) #a
#define TRANSPIKE_STRING(a) TRANSPIKE_STRING2(a)

namespace transpike {
namespace {

bool run_chain(Member &member, Link *links, int count) {
  static thread_local Arena arena;
  bool enough = true;
  for (int i = 0; i < count && enough && !stopped(member); ++i)
    if (links[i].pool != nullptr)
      run_pool(member, links, links[i]);
    else
      enough = links[i].counts ? run_counts(member, links, links[i], arena) : run_stage(member, links, links[i], arena);
  return enough;
}

} // namespace

const Kernels &TRANSPIKE_JOIN(kernels_, TRANSPIKE_ISA)() {
  static const Kernels table{TRANSPIKE_STRING(TRANSPIKE_ISA), run_chain, add_up, digest,
                             dense_table<float>(), dense_table<double>()};
  return table;
}

} // namespace transpike
