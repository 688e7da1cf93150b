// Currents from active inputs: rows of weights added up in registers.
#pragma once

#include "active.hpp"

namespace transpike {
namespace {

// Adds the weight rows of a list. Few vectors per row: several sums side by side, to hide the latency of additions.
template <int kVectors>
inline void add_rows(const std::uint16_t *list, int count, const float *rows, Vec *sum) {
  constexpr int kSums = kVectors == 1 ? 4 : (kVectors == 2 ? 2 : 1);
  constexpr std::ptrdiff_t kLanes = kVectors * kWidth;
  Vec part[kSums][kVectors] = {};
  for (int k = 0; k < kVectors; ++k)
    part[0][k] = sum[k];
  for (int i = 0; i < count; i += 4) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const float *row = rows + list[i + j] * kLanes;
#pragma GCC unroll 16
      for (int k = 0; k < kVectors; ++k)
        part[j % kSums][k] += load(row + k * kWidth);
    }
  }
  for (int s = 1; s < kSums; ++s)
    for (int k = 0; k < kVectors; ++k)
      part[0][k] += part[s][k];
  for (int k = 0; k < kVectors; ++k)
    sum[k] = part[0][k];
}

// Three output pixels at once see a column; their sums stay in registers while the column moves along the row.
// Writes the currents of `count` output pixels from column x on to out[pixel][lanes]. Looks up sums of weights by the
// kBytes bytes of a pixel; 0: adds the weights of a list instead.
template <int kVectors, int kBytes>
inline void run_columns(const Columns &columns, const std::uint8_t *base, int count, const float *weights,
                        const Vec *bias, std::uint16_t *list, float *out) {
  constexpr std::ptrdiff_t kLanes = kVectors * kWidth, kRow = 3 * kLanes;
  constexpr int kAll = 3 * kVectors;
  // One table lookup after the other would wait for the addition before it: two sums where registers allow.
  constexpr bool kTwoSums = kBytes == 2 && kAll <= 6;
  const std::ptrdiff_t pixel = columns.map.column;
  Vec sum[3][kVectors]; // of the output pixels that the column is the first, second and third column of
  for (int k = 0; k < kVectors; ++k)
    sum[0][k] = sum[1][k] = sum[2][k] = bias[k];
  for (int c = 0; c < count + 2; ++c, base += pixel) {
    if (kBytes > 0) {
      Vec other[kAll] = {};
      const float *table = weights;
      for (int r = 0; r < columns.runs; ++r, table += kBytes * 256 * kRow) {
        const std::uint8_t *bits = base + columns.run[r].offset;
        const float *row = table + bits[0] * kRow;
#pragma GCC unroll 16
        for (int k = 0; k < kAll; ++k)
          sum[k / kVectors][k % kVectors] += load(row + k * kWidth);
        if (kBytes == 2) {
          row = table + (256 + bits[1]) * kRow;
#pragma GCC unroll 16
          for (int k = 0; k < kAll; ++k) {
            if (kTwoSums)
              other[k] += load(row + k * kWidth);
            else
              sum[k / kVectors][k % kVectors] += load(row + k * kWidth);
          }
        }
      }
      if (kTwoSums)
        for (int k = 0; k < kAll; ++k)
          sum[k / kVectors][k % kVectors] += other[k];
    } else {
      const int active = append_runs(base, columns.run, columns.runs, list);
      round_up(list, active, columns.rows);
      for (int i = 0; i < active; i += 2) {
        const float *first = weights + list[i] * kRow, *second = weights + list[i + 1] * kRow;
#pragma GCC unroll 16
        for (int k = 0; k < kAll; ++k)
          sum[k / kVectors][k % kVectors] += load(first + k * kWidth);
#pragma GCC unroll 16
        for (int k = 0; k < kAll; ++k)
          sum[k / kVectors][k % kVectors] += load(second + k * kWidth);
      }
    }
    for (int k = 0; k < kVectors; ++k) {
      if (c >= 2)
        store(out + (c - 2) * kLanes + k * kWidth, sum[2][k]);
      sum[2][k] = sum[1][k];
      sum[1][k] = sum[0][k];
      sum[0][k] = bias[k];
    }
  }
}

} // namespace
} // namespace transpike
