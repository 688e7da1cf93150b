// The Python side of spike maps: what is read from them beside stages.
#include "spike_map.hpp"

#include <nanobind/ndarray.h>
namespace nb = nanobind;

namespace transpike {
namespace {

using Factors = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Events = nb::ndarray<float, nb::ndim<5>, nb::c_contig, nb::device::cpu>;

// Events [steps, samples, channels, rows, columns] of a map with a halo, times one factor per channel.
void unpack(const SpikeMap &map, std::ptrdiff_t padded_rows, std::ptrdiff_t padded_columns, std::ptrdiff_t top,
            std::ptrdiff_t left, Factors factors, Events events) {
  const auto steps = static_cast<std::ptrdiff_t>(events.shape(0)), samples = static_cast<std::ptrdiff_t>(events.shape(1));
  const auto channels = static_cast<std::ptrdiff_t>(events.shape(2)), rows = static_cast<std::ptrdiff_t>(events.shape(3));
  const auto columns = static_cast<std::ptrdiff_t>(events.shape(4));
  const std::ptrdiff_t bytes = (channels + 7) / 8;
  expect(inside(top, rows, 1, padded_rows) && inside(left, columns, 1, padded_columns),
         "the events do not fit into the spike map");
  expect(map.size() == MapShape{samples, steps, padded_rows, padded_columns, bytes}.size(),
         "the spike map has another size");
  expect(static_cast<std::ptrdiff_t>(factors.size()) == channels, "factors must have one number per channel");
  const std::uint8_t *data = map.given().data;
  const float *factor = factors.data();
  float *to = events.data();
  std::ptrdiff_t next = 0;
  run_released(threads(), [&](Member &member) {
    take_turns(member, &next, steps * samples, 1, [&](std::ptrdiff_t turn, std::ptrdiff_t) {
      const std::ptrdiff_t t = turn / samples, n = turn % samples;
      for (std::ptrdiff_t y = 0; y < rows; ++y)
        unpack_row(data + (((n * steps + t) * padded_rows + top + y) * padded_columns + left) * bytes, columns, channels,
                   factor, to + turn * channels * rows * columns + y * columns, rows * columns);
    });
  });
}

// The same from a map of counts: k spikes per `probe` steps, sent as evenly as possible (schedules/accumulate.py).
void unpack_counts(const SpikeMap &map, std::ptrdiff_t padded_rows, std::ptrdiff_t padded_columns, std::ptrdiff_t top,
                   std::ptrdiff_t left, std::ptrdiff_t probe, Factors factors, Events events) {
  const auto steps = static_cast<std::ptrdiff_t>(events.shape(0)), samples = static_cast<std::ptrdiff_t>(events.shape(1));
  const auto channels = static_cast<std::ptrdiff_t>(events.shape(2)), rows = static_cast<std::ptrdiff_t>(events.shape(3));
  const auto columns = static_cast<std::ptrdiff_t>(events.shape(4));
  const std::ptrdiff_t bytes = (channels + 7) / 8 * 8;
  expect(probe >= 1 && probe <= 255, "counts have one byte: the probe must lie in 1 .. 255");
  expect(inside(top, rows, 1, padded_rows) && inside(left, columns, 1, padded_columns),
         "the events do not fit into the map");
  expect(map.size() == MapShape{samples, 1, padded_rows, padded_columns, bytes}.size(), "the map has another size");
  expect(static_cast<std::ptrdiff_t>(factors.size()) == channels, "factors must have one number per channel");
  const std::uint8_t *data = map.given().data;
  const float *factor = factors.data();
  float *to = events.data();
  std::ptrdiff_t next = 0;
  run_released(threads(), [&](Member &member) {
    take_turns(member, &next, steps * samples, 1, [&](std::ptrdiff_t turn, std::ptrdiff_t) {
      const std::ptrdiff_t t = turn / samples, n = turn % samples;
      float sends[2][256] = {}; // of the even and the odd neurons of a sample
      for (std::ptrdiff_t odd = 0; odd < 2; ++odd)
        for (std::ptrdiff_t k = 0; k <= probe; ++k) {
          const std::ptrdiff_t start = probe - odd, before = (2 * k * t + start) / (2 * probe);
          sends[odd][k] = static_cast<float>((2 * k * (t + 1) + start) / (2 * probe) - before);
        }
      float *event = to + turn * channels * rows * columns;
      for (std::ptrdiff_t c = 0; c < channels; ++c)
        for (std::ptrdiff_t y = 0; y < rows; ++y) {
          const std::uint8_t *from = data + ((n * padded_rows + top + y) * padded_columns + left) * bytes + c;
          const std::ptrdiff_t neuron = (c * rows + y) * columns;
          for (std::ptrdiff_t x = 0; x < columns; ++x)
            *event++ = sends[(neuron + x) % 2][from[x * bytes]] * factor[c];
        }
    });
  });
}

} // namespace

void bind_spike_map(nb::module_ &m) {
  nb::class_<SpikeMap>(m, "SpikeMap")
      .def(nb::init<std::ptrdiff_t>(), nb::arg("size"))
      .def_prop_ro(
          "bytes", [](SpikeMap &map) { return nb::ndarray<nb::pytorch, std::uint8_t, nb::ndim<1>>(
                         map.data(), {static_cast<std::size_t>(map.size())}); },
          nb::rv_policy::reference_internal);
  m.def("unpack", &unpack, nb::arg("map"), nb::arg("padded_rows"), nb::arg("padded_columns"), nb::arg("top"),
        nb::arg("left"), nb::arg("factors").noconvert(), nb::arg("events").noconvert());
  m.def("unpack_counts", &unpack_counts, nb::arg("map"), nb::arg("padded_rows"), nb::arg("padded_columns"),
        nb::arg("top"), nb::arg("left"), nb::arg("probe"), nb::arg("factors").noconvert(),
        nb::arg("events").noconvert());
}

} // namespace transpike
