// The kernels of one instruction set, as a table of functions.
//
// kernels.cpp is compiled several times with other compiler flags. Nothing in it may instantiate a template of the
// standard library: the linker would keep one copy for all instruction sets, perhaps one that this CPU cannot run.
#pragma once

#include <cstddef>
#include <cstdint>

namespace transpike {

// Thresholds of a population [N, C, inner]: neuron i has theta[(i / inner) % channels].
template <typename Real> struct Thresholds {
  const Real *theta;
  std::ptrdiff_t channels;
  std::ptrdiff_t inner;
};

// Input currents [steps, neurons]; `stride` 0 means the same current at every step.
template <typename Real> struct Currents {
  const Real *data;
  std::ptrdiff_t stride;
  std::ptrdiff_t steps;
  std::ptrdiff_t neurons;
};

// All potentials and events are arrays of one value per neuron (and step); `v` is read and overwritten.
template <typename Real> struct Dense {
  // Integrate and fire over all steps; events are 0 or 1.
  void (*integrate_fire)(Currents<Real>, Thresholds<Real>, bool soft_reset, Real *v, Real *events);
  // COS: moves the initial potential v by the offset spikes seen in the steps given (schedules/offset_spike.py).
  void (*offset_potential)(Currents<Real>, Thresholds<Real>, int iterations, Real epsilon, Real *v);
  // Replaces v by an initial potential with which the steps give the expected count (schedules/exact_potential.py).
  void (*exact_potential)(Currents<Real>, Thresholds<Real>, Real *v);
  // The expected count of the first `probe` steps, emitted evenly over `steps` steps (schedules/accumulate.py).
  void (*accumulate)(Currents<Real>, Thresholds<Real>, std::ptrdiff_t steps, const Real *v, Real *events);
};

struct Kernels {
  const char *name;
  Dense<float> dense_float;
  Dense<double> dense_double;
};

const Kernels &kernels_generic();
#ifdef TRANSPIKE_X86
const Kernels &kernels_avx2();
const Kernels &kernels_avx512();
#endif

} // namespace transpike
