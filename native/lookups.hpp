// Currents from few channels: sums of weight rows looked up by the bits of the inputs, nothing is listed.
#pragma once

#include "blocks.hpp"
#include "simd.hpp"

namespace transpike {
namespace {

// Adds what the windows of all gathers give an output pixel at one step, four inputs at a time: larger tables would not stay
// in the first cache.
template <int kVectors>
inline void look_up_windows(const Stage &stage, const Pixel &pixel, int t, const float *table, Vec *sum) {
  constexpr int kSums = 8 * kVectors <= kRegisters ? 4 : (4 * kVectors <= kRegisters ? 2 : 1); // hides their latency
  constexpr std::ptrdiff_t kLanes = kVectors * kWidth;
  Vec part[kSums][kVectors] = {};
  const auto add = [&](const float *row, int to) {
#pragma GCC unroll 16
    for (int k = 0; k < kVectors; ++k)
      part[to % kSums][k] += load(row + k * kWidth);
  };
  for (int s = 0; s < stage.gathers; ++s) {
    const Gather &source = stage.gather[s];
    const std::uint8_t *base = source.map.at(pixel.n, t, pixel.y, pixel.x);
    for (const Run *run = source.run, *end = run + source.runs; run < end; ++run) {
      const std::uint8_t *bits = base + run->offset, *last = bits + run->bits / 8;
      const float *rows = table + run->row * 4 * kLanes;
      for (; bits + 1 < last; bits += 2, rows += 64 * kLanes) {
        add(rows + (bits[0] & 15) * kLanes, 0);
        add(rows + (16 + (bits[0] >> 4)) * kLanes, 1);
        add(rows + (32 + (bits[1] & 15)) * kLanes, 2);
        add(rows + (48 + (bits[1] >> 4)) * kLanes, 3);
      }
      if (bits < last) {
        add(rows + (bits[0] & 15) * kLanes, 0);
        add(rows + (16 + (bits[0] >> 4)) * kLanes, 1);
      }
    }
  }
  for (int to = 0; to < kSums; ++to)
    for (int k = 0; k < kVectors; ++k)
      sum[k] += part[to][k];
}

// Three output pixels at once see a column; their sums move along the row with it (run_columns). A column has kRuns runs of
// kBytes bytes, 0: as many runs as `columns` says. `finish(i, current)` takes the currents [kSteps][kVectors] of pixel i.
template <int kVectors, int kBytes, int kRuns, int kSteps, typename Finish>
inline void look_up_columns(const Columns &columns, const std::uint8_t *base, int count, const float *weights,
                            const Vec *bias, Finish finish) {
  constexpr std::ptrdiff_t kRow = 3 * kVectors * kWidth;
  constexpr int kAll = 3 * kVectors;
  // One table lookup after the other would wait for the addition before it: two sums where registers allow. Whatever
  // kSteps is, so that the sums of a step do not depend on how many steps there are.
  constexpr bool kTwoSums = kBytes == 2 && kAll <= 6;
  const std::ptrdiff_t pixel = columns.map.column, step = columns.map.step;
  const int runs = kRuns > 0 ? kRuns : columns.runs;
  std::ptrdiff_t offset[kRuns > 0 ? kRuns : 1];
  for (int r = 0; r < kRuns; ++r)
    offset[r] = columns.run[r].offset;
  Vec sum[kSteps][3][kVectors]; // of the output pixels that the column is the first, second and third column of
  for (int t = 0; t < kSteps; ++t)
    for (int k = 0; k < kVectors; ++k)
      sum[t][0][k] = sum[t][1][k] = sum[t][2][k] = bias[k];
  const auto add_column = [&] {
#pragma GCC unroll 4
    for (int t = 0; t < kSteps; ++t) {
      Vec other[kAll] = {};
      const float *table = weights;
#pragma GCC unroll 3
      for (int r = 0; r < runs; ++r, table += kBytes * 256 * kRow) {
        const std::uint8_t *bits = base + t * step + (kRuns > 0 ? offset[r] : columns.run[r].offset);
        const float *row = table + bits[0] * kRow;
#pragma GCC unroll 16
        for (int k = 0; k < kAll; ++k)
          sum[t][k / kVectors][k % kVectors] += load(row + k * kWidth);
        if (kBytes == 2) {
          row = table + (256 + bits[1]) * kRow;
#pragma GCC unroll 16
          for (int k = 0; k < kAll; ++k) {
            if (kTwoSums)
              other[k] += load(row + k * kWidth);
            else
              sum[t][k / kVectors][k % kVectors] += load(row + k * kWidth);
          }
        }
      }
      if (kTwoSums)
        for (int k = 0; k < kAll; ++k)
          sum[t][k / kVectors][k % kVectors] += other[k];
    }
    base += pixel;
  };
  const auto move = [&] {
    for (int t = 0; t < kSteps; ++t)
      for (int k = 0; k < kVectors; ++k) {
        sum[t][2][k] = sum[t][1][k];
        sum[t][1][k] = sum[t][0][k];
        sum[t][0][k] = bias[k];
      }
  };
  for (int c = 0; c < 2; ++c) {
    add_column();
    move();
  }
  for (int i = 0; i < count; ++i) {
    add_column();
    Vec current[kSteps][kVectors];
    for (int t = 0; t < kSteps; ++t)
      for (int k = 0; k < kVectors; ++k)
        current[t][k] = sum[t][2][k];
    finish(i, current);
    move();
  }
}

// A number that a lambda can take as a constant.
template <int kNumber> struct Number { static constexpr int value = kNumber; };

// Calls `run` with the bytes of a pixel and the runs of a column (look_up_columns).
template <typename Run> inline void for_columns(const Columns &columns, Run run) {
  if (columns.run->bits == 8)
    run(Number<1>{}, Number<0>{});
  else if (columns.runs == 3)
    run(Number<2>{}, Number<3>{});
  else
    run(Number<2>{}, Number<0>{});
}

} // namespace
} // namespace transpike
