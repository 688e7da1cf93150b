// What the files of the binding share: the chosen kernels, and checks that raise in Python.
#pragma once

#include <nanobind/nanobind.h>

#include <stdexcept>
#include <vector>

#include "kernels.hpp"

namespace transpike {

// Those that this CPU can run, the best last.
std::vector<const Kernels *> runnable_kernels();

// The best, unless another was chosen.
const Kernels &kernels();
void use_kernels(const Kernels &chosen);

inline void expect(bool condition, const char *what) {
  if (!condition)
    throw std::invalid_argument(what);
}

void bind_event_stage(nanobind::module_ &m);

} // namespace transpike
