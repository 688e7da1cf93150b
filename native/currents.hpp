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
// Writes the currents of `count` output pixels from column x on to out[pixel][lanes].
template <int kVectors, bool kTable>
inline void run_columns(const Columns &columns, const std::uint8_t *base, int count, const float *weights,
                        const Vec *bias, std::uint16_t *list, float *out) {
  constexpr std::ptrdiff_t kLanes = kVectors * kWidth, kRow = 3 * kLanes;
  constexpr int kAll = 3 * kVectors;
  // One table lookup after the other would wait for the addition before it: two sums where registers allow.
  constexpr int kSums = kTable && kAll <= 6 ? 2 : 1;
  const std::ptrdiff_t pixel = columns.map.column;
  const int bytes = columns.rows / 8;
  Vec sum[3][kVectors]; // of the output pixels that the column is the first, second and third column of
  for (int k = 0; k < kVectors; ++k)
    sum[0][k] = sum[1][k] = sum[2][k] = bias[k];
  for (int c = 0; c < count + 2; ++c, base += pixel) {
    if (kTable) {
      Vec other[kAll] = {};
      const float *table = weights;
      int i = 0;
      for (; i + kSums <= bytes; i += kSums) {
        const float *row = table + base[columns.byte[i]] * kRow;
#pragma GCC unroll 16
        for (int k = 0; k < kAll; ++k)
          sum[k / kVectors][k % kVectors] += load(row + k * kWidth);
        table += 256 * kRow;
        if (kSums == 2) {
          row = table + base[columns.byte[i + 1]] * kRow;
#pragma GCC unroll 16
          for (int k = 0; k < kAll; ++k)
            other[k] += load(row + k * kWidth);
          table += 256 * kRow;
        }
      }
      for (; i < bytes; ++i, table += 256 * kRow) {
        const float *row = table + base[columns.byte[i]] * kRow;
        for (int k = 0; k < kAll; ++k)
          other[k] += load(row + k * kWidth);
      }
      if (kSums == 2)
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
