// The Python side of spike maps: what is read from them beside stages.
#include "spike_map.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>

namespace nb = nanobind;

namespace transpike {
namespace {

using Factors = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Events = nb::ndarray<float, nb::ndim<5>, nb::c_contig, nb::device::cpu>;

// How many of the pixels at these places (row, column) have each channel, or the sum of their counts, for every pixel of
// the map that it returns; places count from pixel (y * stride_y, x * stride_x) of the map read. One byte per channel.
SpikeMap pool(const SpikeMap &map,
              const std::tuple<std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t> &shape,
              const std::vector<std::tuple<std::ptrdiff_t, std::ptrdiff_t>> &places,
              const std::tuple<std::ptrdiff_t, std::ptrdiff_t> &stride,
              const std::tuple<std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t> &out_shape) {
  const auto [rows, columns, bytes, probe] = shape; // probe: the largest count, 0 where the map holds bits
  const bool counts = probe > 0;
  const auto [stride_y, stride_x] = stride;
  const auto [images, out_rows, out_columns] = out_shape; // samples times steps
  expect(images >= 0 && rows >= 1 && columns >= 1 && bytes >= 1 && out_rows >= 1 && out_columns >= 1,
         "the pooled map is empty");
  expect(places.size() >= 1 && places.size() <= 255 && probe >= 0 &&
             probe <= 255 / static_cast<std::ptrdiff_t>(places.size()),
         "counts have one byte: a window has 1 to 255 spikes at most");
  const std::ptrdiff_t out_bytes = counts ? bytes : 8 * bytes;
  expect(map.size() == MapShape{images, 1, rows, columns, bytes}.size(), "the spike map has another size");
  expect(stride_y >= 1 && stride_x >= 1, "strides must be positive");
  std::vector<std::ptrdiff_t> offsets;
  for (const auto &[y, x] : places) {
    expect(inside(y, out_rows, stride_y, rows) && inside(x, out_columns, stride_x, columns),
           "a window leaves the spike map");
    offsets.push_back((y * columns + x) * bytes);
  }
  SpikeMap out(MapShape{images, 1, out_rows, out_columns, out_bytes}.size());
  const Pool pool{map.data(), rows * columns * bytes, stride_y * columns * bytes, stride_x * bytes, offsets.data(),
                  static_cast<std::ptrdiff_t>(offsets.size()), bytes, counts, images, out_rows, out_columns, out.data()};
  nb::gil_scoped_release release;
  kernels().run_pool(pool);
  return out;
}

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
  const std::uint8_t *data = map.data();
  const float *factor = factors.data();
  float *to = events.data();
  nb::gil_scoped_release release;
#pragma omp parallel for collapse(2)
  for (std::ptrdiff_t t = 0; t < steps; ++t)
    for (std::ptrdiff_t n = 0; n < samples; ++n)
      for (std::ptrdiff_t y = 0; y < rows; ++y)
        unpack_row(data + (((n * steps + t) * padded_rows + top + y) * padded_columns + left) * bytes, columns, channels,
                   factor, to + (t * samples + n) * channels * rows * columns + y * columns, rows * columns);
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
  const std::uint8_t *data = map.data();
  const float *factor = factors.data();
  float *to = events.data();
  nb::gil_scoped_release release;
  float sends[2][256] = {}; // of the even and the odd neurons of a sample
  for (std::ptrdiff_t t = 0; t < steps; ++t) {
    for (std::ptrdiff_t odd = 0; odd < 2; ++odd)
      for (std::ptrdiff_t k = 0; k <= probe; ++k) {
        const std::ptrdiff_t start = probe - odd;
        sends[odd][k] = static_cast<float>((2 * k * (t + 1) + start) / (2 * probe) - (2 * k * t + start) / (2 * probe));
      }
    for (std::ptrdiff_t n = 0; n < samples; ++n)
      for (std::ptrdiff_t c = 0; c < channels; ++c)
        for (std::ptrdiff_t y = 0; y < rows; ++y) {
          const std::uint8_t *from = data + ((n * padded_rows + top + y) * padded_columns + left) * bytes + c;
          const std::ptrdiff_t neuron = (c * rows + y) * columns;
          for (std::ptrdiff_t x = 0; x < columns; ++x)
            *to++ = sends[(neuron + x) % 2][from[x * bytes]] * factor[c];
        }
  }
}

} // namespace

void bind_spike_map(nb::module_ &m) {
  nb::class_<SpikeMap>(m, "SpikeMap")
      .def(nb::init<std::ptrdiff_t>(), nb::arg("size"))
      .def_prop_ro(
          "bytes", [](SpikeMap &map) { return nb::ndarray<nb::pytorch, std::uint8_t, nb::ndim<1>>(
                         map.data(), {static_cast<std::size_t>(map.size())}); },
          nb::rv_policy::reference_internal);
  m.def("pool", &pool, nb::arg("map"), nb::arg("shape"), nb::arg("places"), nb::arg("stride"), nb::arg("out_shape"));
  m.def("unpack", &unpack, nb::arg("map"), nb::arg("padded_rows"), nb::arg("padded_columns"), nb::arg("top"),
        nb::arg("left"), nb::arg("factors").noconvert(), nb::arg("events").noconvert());
  m.def("unpack_counts", &unpack_counts, nb::arg("map"), nb::arg("padded_rows"), nb::arg("padded_columns"),
        nb::arg("top"), nb::arg("left"), nb::arg("probe"), nb::arg("factors").noconvert(),
        nb::arg("events").noconvert());
}

} // namespace transpike
