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

const Kernels &TRANSPIKE_JOIN(kernels_, TRANSPIKE_ISA)() {
  static const Kernels table{TRANSPIKE_STRING(TRANSPIKE_ISA), run_stage, run_counts, run_pool, add_up,
                             dense_table<float>(), dense_table<double>()};
  return table;
}

} // namespace transpike
