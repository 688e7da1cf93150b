// Currents from active inputs: rows of weights added up in registers.
#pragma once

#include "pairs.hpp"

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

// Adds three neighbouring weight rows, of kVectors vectors out of kLanes each, of every input of a column's list.
template <int kVectors, std::ptrdiff_t kLanes, bool kTimes>
inline void add_column(Senders list, const std::int32_t *entry, const float *weights, Vec (*sum)[kVectors]) {
  for (std::ptrdiff_t i = entry[0], end = i + entry[1]; i < end; ++i) {
    const float *row = weights + list.row[i] * 3 * kLanes;
    const float times = kTimes ? list.times[i] : 1;
#pragma GCC unroll 3
    for (int r = 0; r < 3; ++r)
#pragma GCC unroll 4
      for (int k = 0; k < kVectors; ++k)
        sum[r][k] += kTimes ? times * load(row + r * kLanes + k * kWidth) : load(row + r * kLanes + k * kWidth);
  }
}

// Three output pixels at once see a column; their sums move along the row with it. Writes the currents of `count` pixels
// to out[step][pixel][lanes], of one step or of two that have a list in common; `entry` says where the lists of each
// column are: the common one first.
template <int kVectors, std::ptrdiff_t kLanes, bool kTimes, int kSteps>
void run_columns(Senders list, const std::int32_t *entry, int count, const float *weights, const Vec *bias,
                 float *const *out) {
  Vec sum[kSteps][3][kVectors]; // of the output pixels that the column is the first, second and third column of
  for (int s = 0; s < kSteps; ++s)
    for (int r = 0; r < 3; ++r)
      for (int k = 0; k < kVectors; ++k)
        sum[s][r][k] = bias[k];
  for (int c = 0; c < count + 2; ++c, entry += 2 * kLists) {
    Vec both[3][kVectors] = {};
    if (kSteps == 2)
      add_column<kVectors, kLanes, kTimes>(list, entry, weights, both);
    for (int s = 0; s < kSteps; ++s) {
      Vec own[3][kVectors]; // in registers
      for (int r = 0; r < 3; ++r)
        for (int k = 0; k < kVectors; ++k)
          own[r][k] = kSteps == 2 ? sum[s][r][k] + both[r][k] : sum[s][r][k];
      add_column<kVectors, kLanes, kTimes>(list, entry + 2 * (s + kSteps - 1), weights, own);
      for (int k = 0; k < kVectors; ++k) {
        if (c >= 2)
          store(out[s] + (c - 2) * kLanes + k * kWidth, own[2][k]);
        sum[s][2][k] = own[1][k];
        sum[s][1][k] = own[0][k];
        sum[s][0][k] = bias[k];
      }
    }
  }
}

} // namespace
} // namespace transpike
