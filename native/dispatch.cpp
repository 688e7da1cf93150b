// The choice of the instruction set at run time.
#include <atomic>

#include "binding.hpp"

namespace transpike {

std::vector<const Kernels *> runnable_kernels() {
  std::vector<const Kernels *> found{&kernels_generic()};
#ifdef TRANSPIKE_X86
  if (__builtin_cpu_supports("avx2"))
    found.push_back(&kernels_avx2());
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    found.push_back(&kernels_avx512());
    if (__builtin_cpu_supports("avx512vbmi2"))
      found.push_back(&kernels_avx512_vbmi2());
  }
#endif
  return found;
}

static std::atomic<const Kernels *> chosen{nullptr};

const Kernels &kernels() {
  const Kernels *found = chosen;
  if (found == nullptr)
    chosen = found = runnable_kernels().back(); // whoever else comes here at the same time finds the same
  return *found;
}

void use_kernels(const Kernels &wanted) { chosen = &wanted; }

} // namespace transpike
