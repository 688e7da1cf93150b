// What the files of the binding share: the chosen kernels, and checks that raise in Python.
#pragma once

#include <nanobind/nanobind.h>

#include <stdexcept>
#include <vector>

#include "kernels.hpp"
#include "threads.hpp"

namespace transpike {

// As many as the kernels take, the calling one included: torch.get_num_threads(). Needs the GIL.
int threads();

// Runs work on so many threads (threads.hpp), the GIL released. Signals are handled meanwhile: where their handler raises,
// as that of Ctrl-C does, the work is given up and the error raised.
void run_released(int count, const Work &work);

// Those that this CPU can run, the best last.
std::vector<const Kernels *> runnable_kernels();

// The best, unless another was chosen.
const Kernels &kernels();
void use_kernels(const Kernels &chosen);

inline void expect(bool condition, const char *what) {
  if (!condition)
    throw std::invalid_argument(what);
}

// Whether `first`, first + stride, .. (`count` numbers, stride > 0) all lie in 0 .. size - 1. No product can overflow.
inline bool inside(std::ptrdiff_t first, std::ptrdiff_t count, std::ptrdiff_t stride, std::ptrdiff_t size) {
  return first >= 0 && count >= 0 && (count == 0 || (first < size && count - 1 <= (size - 1 - first) / stride));
}

void bind_spike_map(nanobind::module_ &m);
void bind_event_stage(nanobind::module_ &m);
void bind_chain(nanobind::module_ &m);
void bind_watch(nanobind::module_ &m);

} // namespace transpike
