// The Python side of the kernels: checks of types and shapes, and the choice of the instruction set.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <new>
#include <string>

#include "binding.hpp"

namespace nb = nanobind;
using namespace transpike;

namespace {

template <typename Real> const Dense<Real> &dense();
template <> const Dense<float> &dense<float>() { return kernels().dense_float; }
template <> const Dense<double> &dense<double>() { return kernels().dense_double; }

// Runs work whose blocks the threads take in turn.
template <typename Part> void run_shared(Part part) {
  std::ptrdiff_t next = 0;
  run_released(threads(), [&](Member &member) { part(member, &next); });
}

template <typename Real> using Read = nb::ndarray<const Real, nb::device::cpu>;
template <typename Real> using Vector = nb::ndarray<Real, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename Real> using Matrix = nb::ndarray<Real, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// [steps, neurons], each step contiguous; an expanded first dimension has stride 0.
template <typename Real> Currents<Real> currents(const Read<Real> &drive) {
  expect(drive.ndim() == 2, "drive must be [steps, neurons]");
  const auto steps = static_cast<std::ptrdiff_t>(drive.shape(0));
  const auto neurons = static_cast<std::ptrdiff_t>(drive.shape(1));
  expect(steps >= 1, "drive needs at least one step");
  expect(neurons <= 1 || drive.stride(1) == 1, "each step of drive must be contiguous");
  const std::ptrdiff_t stride = steps == 1 ? 0 : static_cast<std::ptrdiff_t>(drive.stride(0));
  expect(stride >= 0, "steps of drive must not run backwards");
  return {drive.data(), stride, steps, neurons};
}

template <typename Real>
Thresholds<Real> thresholds(const Vector<const Real> &theta, std::ptrdiff_t inner, std::ptrdiff_t neurons) {
  const auto channels = static_cast<std::ptrdiff_t>(theta.shape(0));
  expect(channels >= 1 && inner >= 1, "there must be at least one threshold, for at least one neuron");
  expect(neurons % (channels * inner) == 0, "thresholds do not divide the neurons");
  return {theta.data(), channels, inner};
}

template <typename Real> void bind(nb::module_ &m) {
  m.def(
      "integrate_fire",
      [](Read<Real> drive, Vector<const Real> theta, std::ptrdiff_t inner, bool soft_reset, Vector<Real> v,
         Matrix<Real> events) {
        const auto c = currents<Real>(drive);
        const auto th = thresholds<Real>(theta, inner, c.neurons);
        expect(static_cast<std::ptrdiff_t>(v.shape(0)) == c.neurons, "v must have one value per neuron");
        expect(events.shape(0) == drive.shape(0) && events.shape(1) == drive.shape(1), "events must be like drive");
        const auto fire = dense<Real>().integrate_fire;
        run_shared([&](Member &member, std::ptrdiff_t *next) {
          fire(member, next, c, th, soft_reset, v.data(), events.data());
        });
      },
      nb::arg("drive").noconvert(), nb::arg("theta").noconvert(), nb::arg("inner"), nb::arg("soft_reset"),
      nb::arg("v").noconvert(), nb::arg("events").noconvert());
  m.def(
      "offset_potential",
      [](Read<Real> drive, Vector<const Real> theta, std::ptrdiff_t inner, int iterations, double epsilon,
         Vector<Real> v) {
        const auto c = currents<Real>(drive);
        const auto th = thresholds<Real>(theta, inner, c.neurons);
        expect(static_cast<std::ptrdiff_t>(v.shape(0)) == c.neurons, "v must have one value per neuron");
        const auto move = dense<Real>().offset_potential;
        run_shared([&](Member &member, std::ptrdiff_t *next) {
          move(member, next, c, th, iterations, static_cast<Real>(epsilon), v.data());
        });
      },
      nb::arg("drive").noconvert(), nb::arg("theta").noconvert(), nb::arg("inner"), nb::arg("iterations"),
      nb::arg("epsilon"), nb::arg("v").noconvert());
  m.def(
      "exact_potential",
      [](Read<Real> drive, Vector<const Real> theta, std::ptrdiff_t inner, Vector<Real> v) {
        const auto c = currents<Real>(drive);
        const auto th = thresholds<Real>(theta, inner, c.neurons);
        expect(static_cast<std::ptrdiff_t>(v.shape(0)) == c.neurons, "v must have one value per neuron");
        const auto replace = dense<Real>().exact_potential;
        run_shared([&](Member &member, std::ptrdiff_t *next) {
          if (!replace(member, next, c, th, v.data()))
            throw std::bad_alloc();
        });
      },
      nb::arg("drive").noconvert(), nb::arg("theta").noconvert(), nb::arg("inner"), nb::arg("v").noconvert());
  m.def(
      "accumulate",
      [](Read<Real> drive, Vector<const Real> theta, std::ptrdiff_t inner, std::ptrdiff_t sample, Vector<const Real> v,
         Matrix<Real> events) {
        const auto c = currents<Real>(drive);
        const auto th = thresholds<Real>(theta, inner, c.neurons);
        expect(static_cast<std::ptrdiff_t>(v.shape(0)) == c.neurons, "v must have one value per neuron");
        expect(static_cast<std::ptrdiff_t>(events.shape(1)) == c.neurons, "events must have one column per neuron");
        expect(sample >= 1, "a sample has at least one neuron");
        const auto send = dense<Real>().accumulate;
        const auto steps = static_cast<std::ptrdiff_t>(events.shape(0));
        run_shared([&](Member &member, std::ptrdiff_t *next) {
          send(member, next, c, th, steps, sample, v.data(), events.data());
        });
      },
      nb::arg("drive").noconvert(), nb::arg("theta").noconvert(), nb::arg("inner"), nb::arg("sample"),
      nb::arg("v").noconvert(),
      nb::arg("events").noconvert());
}

bool interrupted() {
  const nb::gil_scoped_acquire acquire;
  return PyErr_CheckSignals() != 0;
}

} // namespace

int transpike::threads() {
  static PyObject *asked = nb::object(nb::module_::import_("torch").attr("get_num_threads")).release().ptr(); // for ever
  return std::max(1, nb::cast<int>(nb::handle(asked)()));
}

void transpike::run_released(int count, const Work &work) {
  bool complete = false;
  {
    const nb::gil_scoped_release release;
    complete = run_on_threads(count, work, interrupted);
  }
  if (!complete)
    throw nb::python_error();
}

NB_MODULE(_native, m) {
  nb::set_leak_warnings(false); // objects that Python keeps until it ends are no leaks
  bind<float>(m);
  bind<double>(m);
  bind_spike_map(m);
  bind_event_stage(m);
  bind_chain(m);
  bind_watch(m);
  m.def("threads", &threads);
  m.def(
      "add_up", // rows [threads, count] -> the sum of each row, added up `passes` times
      [](Matrix<const float> rows, std::ptrdiff_t passes) {
        const auto threads = static_cast<std::ptrdiff_t>(rows.shape(0)), count = static_cast<std::ptrdiff_t>(rows.shape(1));
        expect(threads >= 1 && passes >= 1, "there must be at least one row and one pass");
        expect(count % 128 == 0, "rows must be whole multiples of 128 numbers long");
        std::vector<float> totals(static_cast<std::size_t>(threads));
        const auto add_up = kernels().add_up;
        std::ptrdiff_t next = 0;
        run_released(static_cast<int>(threads), [&](Member &member) {
          take_turns(member, &next, threads, 1, [&](std::ptrdiff_t row, std::ptrdiff_t) {
            totals[static_cast<std::size_t>(row)] = add_up(rows.data() + row * count, count, passes);
          });
        });
        return totals;
      },
      nb::arg("rows").noconvert(), nb::arg("passes"));
  m.def("instruction_set", [] { return std::string(kernels().name); });
  m.def("instruction_sets", [] {
    nb::list names;
    for (const Kernels *found : runnable_kernels())
      names.append(found->name);
    return names;
  });
  m.def("use_instruction_set", [](const std::string &name) {
    for (const Kernels *found : runnable_kernels())
      if (name == found->name)
        return use_kernels(*found);
    throw std::invalid_argument("this CPU or this build does not have that instruction set");
  });
}
