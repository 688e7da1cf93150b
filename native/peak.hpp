// What this CPU does at most: adding up a buffer, one vector after the other, as a stage adds its rows of weights.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif

#include "simd.hpp"

namespace transpike {
namespace {

// Each thread adds up its own row of data [threads][count], `passes` times; totals [threads]. In rows that stay in the
// first cache this is the rate of additions, in longer ones the bandwidth of the memory that holds them.
void add_up(const float *data, std::ptrdiff_t threads, std::ptrdiff_t count, std::ptrdiff_t passes, float *totals) {
  constexpr int kSums = 8; // more than an addition takes cycles, so that none waits for the one before
#pragma omp parallel for schedule(static, 1) num_threads(static_cast<int>(threads))
  for (std::ptrdiff_t thread = 0; thread < threads; ++thread) {
    const float *row = data + thread * count;
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
    totals[thread] = total;
  }
}

} // namespace
} // namespace transpike
