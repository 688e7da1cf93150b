// What this CPU does at most: adding up a buffer, one vector after the other, as a stage adds its rows of weights.
#pragma once

#include "simd.hpp"

namespace transpike {
namespace {

// The sum of a row, added up `passes` times. In rows that stay in the first cache this is the rate of additions, in longer
// ones the bandwidth of the memory that holds them.
float add_up(const float *row, std::ptrdiff_t count, std::ptrdiff_t passes) {
  constexpr int kSums = 8; // more than an addition takes cycles, so that none waits for the one before
  Vec sum[kSums] = {};
  for (std::ptrdiff_t pass = 0; pass < passes; ++pass)
    for (std::ptrdiff_t i = 0; i < count; i += kSums * kWidth)
#pragma GCC unroll 8
      for (int k = 0; k < kSums; ++k)
        sum[k] += load(row + i + k * kWidth);
  float total = 0;
  for (int k = 0; k < kSums; ++k)
    for (int lane = 0; lane < kWidth; ++lane)
      total += sum[k][lane];
  return total;
}

} // namespace
} // namespace transpike
