// Neurons on currents that lie in memory as real numbers: a block of neurons stays in the first cache over all steps.
#pragma once

#include <cstdint>
#include <cstdlib>

#include "kernels.hpp"

namespace transpike {
namespace { // every instruction set has its own copy

constexpr std::ptrdiff_t kBlock = 512;      // neurons per block
constexpr std::ptrdiff_t kSmallBlock = 64;  // where a block needs one array per step

template <typename Real> constexpr Real kInfinity = static_cast<Real>(__builtin_inf());

inline float round_down(float x) { return __builtin_floorf(x); }
inline double round_down(double x) { return __builtin_floor(x); }

template <typename Real>
inline void fill_thresholds(const Thresholds<Real> &from, std::ptrdiff_t begin, std::ptrdiff_t count, Real *theta) {
  std::ptrdiff_t channel = (begin / from.inner) % from.channels;
  std::ptrdiff_t left = from.inner - begin % from.inner;
  for (std::ptrdiff_t i = 0; i < count;) {
    const std::ptrdiff_t end = i + left < count ? i + left : count;
    const Real value = from.theta[channel];
    for (; i < end; ++i)
      theta[i] = value;
    left = from.inner;
    channel = channel + 1 == from.channels ? 0 : channel + 1;
  }
}

// Takes neurons in blocks: `block(begin, count)`.
template <std::ptrdiff_t kSize, typename Block>
void take_neurons(Member &member, std::ptrdiff_t *next, std::ptrdiff_t neurons, Block block) {
  const std::ptrdiff_t blocks = neurons / kSize + (neurons % kSize != 0 ? 1 : 0);
  take_turns(member, next, blocks, blocks / kChunks + 1, [&](std::ptrdiff_t first, std::ptrdiff_t end) {
    for (std::ptrdiff_t begin = first * kSize; first < end; ++first, begin += kSize)
      block(begin, neurons - begin < kSize ? neurons - begin : kSize);
  });
}

template <typename Real>
void integrate_fire(Member &member, std::ptrdiff_t *next, Currents<Real> drive, Thresholds<Real> thresholds,
                    bool soft_reset, Real *v, Real *events) {
  take_neurons<kBlock>(member, next, drive.neurons, [&](std::ptrdiff_t begin, std::ptrdiff_t count) {
    alignas(64) Real theta[kBlock], state[kBlock];
    fill_thresholds(thresholds, begin, count, theta);
    for (std::ptrdiff_t i = 0; i < count; ++i)
      state[i] = v[begin + i];
    for (std::ptrdiff_t t = 0; t < drive.steps; ++t) {
      const Real *current = drive.data + t * drive.stride + begin;
      Real *event = events + t * drive.neurons + begin;
      if (soft_reset) {
#pragma GCC ivdep
        for (std::ptrdiff_t i = 0; i < count; ++i) {
          const Real u = state[i] + current[i];
          const bool fires = u >= theta[i];
          event[i] = fires ? Real(1) : Real(0);
          state[i] = fires ? u - theta[i] : u;
        }
      } else {
#pragma GCC ivdep
        for (std::ptrdiff_t i = 0; i < count; ++i) {
          const Real u = state[i] + current[i];
          const bool fires = u >= theta[i];
          event[i] = fires ? Real(1) : Real(0);
          state[i] = fires ? Real(0) : u;
        }
      }
    }
    for (std::ptrdiff_t i = 0; i < count; ++i)
      v[begin + i] = state[i];
  });
}

template <typename Real>
void offset_potential(Member &member, std::ptrdiff_t *next, Currents<Real> drive, Thresholds<Real> thresholds,
                      int iterations, Real epsilon, Real *v) {
  const Real all = static_cast<Real>(drive.steps);
  take_neurons<kBlock>(member, next, drive.neurons, [&](std::ptrdiff_t begin, std::ptrdiff_t count) {
    alignas(64) Real theta[kBlock], state[kBlock], fired[kBlock], lowest[kBlock], highest[kBlock];
    alignas(64) Real rest[kBlock], sent[kBlock]; // residual and spikes of the first probe
    Real *initial = v + begin;
    fill_thresholds(thresholds, begin, count, theta);
    for (int iteration = 0; iteration < iterations && !stopped(member); ++iteration) {
      for (std::ptrdiff_t i = 0; i < count; ++i) {
        state[i] = initial[i];
        fired[i] = 0;
        lowest[i] = kInfinity<Real>;
        highest[i] = -kInfinity<Real>;
      }
      for (std::ptrdiff_t t = 0; t < drive.steps; ++t) {
        const Real *current = drive.data + t * drive.stride + begin;
#pragma GCC ivdep
        for (std::ptrdiff_t i = 0; i < count; ++i) {
          const Real u = state[i] + current[i];
          const bool fires = u >= theta[i];
          const Real after = fires ? u - theta[i] : u;
          state[i] = after;
          fired[i] += fires ? Real(1) : Real(0);
          lowest[i] = fires && after < lowest[i] ? after : lowest[i];
          highest[i] = !fires && after > highest[i] ? after : highest[i];
        }
      }
      for (std::ptrdiff_t i = 0; iteration == 0 && i < count; ++i) {
        rest[i] = state[i];
        sent[i] = fired[i];
      }
#pragma GCC ivdep
      for (std::ptrdiff_t i = 0; i < count; ++i) { // Theorems 1 and 2
        const Real residual = rest[i] + (sent[i] - fired[i]) * theta[i];
        const Real margin = epsilon * theta[i];
        const Real lower = lowest[i] + margin > theta[i] ? lowest[i] + margin : theta[i];
        const Real above = theta[i] + margin - highest[i];
        const Real raise = above > theta[i] ? above : theta[i];
        const bool down = residual < 0 && fired[i] > 0;
        const bool up = residual >= theta[i] && fired[i] < all;
        initial[i] = initial[i] + ((up ? raise : Real(0)) - (down ? lower : Real(0)));
      }
    }
  });
}

template <typename Real> inline Real expected_count(Real total, Real v, Real theta, Real most) {
  const Real count = round_down((total + v) / theta);
  return count > 0 ? (count < most ? count : most) : Real(0); // not a number becomes 0, which is safe as an index
}

template <typename Real>
bool exact_potential(Member &member, std::ptrdiff_t *next, Currents<Real> drive, Thresholds<Real> thresholds, Real *v) {
  constexpr std::ptrdiff_t kMostRows = PTRDIFF_MAX / static_cast<std::ptrdiff_t>(sizeof(Real) * kSmallBlock);
  if (drive.steps > kMostRows - 2)
    return false;
  const std::ptrdiff_t rows = drive.steps + 2;
  // least[j]: the least initial potential that gives at least j spikes (schedules/exact_potential.py)
  Real *least = static_cast<Real *>(std::malloc(sizeof(Real) * static_cast<std::size_t>(rows * kSmallBlock)));
  if (least == nullptr)
    return false;
  take_neurons<kSmallBlock>(member, next, drive.neurons, [&](std::ptrdiff_t begin, std::ptrdiff_t count) {
    alignas(64) Real theta[kSmallBlock], total[kSmallBlock];
    fill_thresholds(thresholds, begin, count, theta);
    for (std::ptrdiff_t i = 0; i < count; ++i) {
      least[i] = -kInfinity<Real>;
      total[i] = 0;
    }
    for (std::ptrdiff_t i = kSmallBlock; i < rows * kSmallBlock; ++i)
      least[i] = kInfinity<Real>;
    for (std::ptrdiff_t t = 0; t < drive.steps; ++t) {
      if (stopped(member))
        return;
      const Real *current = drive.data + t * drive.stride + begin;
      for (std::ptrdiff_t i = 0; i < count; ++i)
        total[i] += current[i];
      for (std::ptrdiff_t j = t + 1; j > 0; --j) {
        Real *here = least + j * kSmallBlock;
        const Real *below = here - kSmallBlock;
        const Real number = static_cast<Real>(j);
#pragma GCC ivdep
        for (std::ptrdiff_t i = 0; i < count; ++i) {
          const Real needed = number * theta[i] - total[i];
          const Real candidate = below[i] > needed ? below[i] : needed;
          here[i] = candidate < here[i] ? candidate : here[i];
        }
      }
    }
    for (std::ptrdiff_t i = 0; i < count; ++i) {
      const Real start = v[begin + i];
      const Real wanted = expected_count(total[i], start, theta[i], static_cast<Real>(drive.steps));
      const std::ptrdiff_t whole = static_cast<std::ptrdiff_t>(wanted); // may have been rounded up
      const Real *at = least + (whole < drive.steps ? whole : drive.steps) * kSmallBlock + i;
      const Real low = at[0], high = at[kSmallBlock];
      if (start >= low && start < high)
        continue;
      if (high == kInfinity<Real>)
        v[begin + i] = low + theta[i] / 2;
      else if (low == -kInfinity<Real>)
        v[begin + i] = high - theta[i] / 2;
      else
        v[begin + i] = (low + high) / 2;
    }
  });
  std::free(least);
  return true;
}

template <typename Real>
void accumulate(Member &member, std::ptrdiff_t *next, Currents<Real> drive, Thresholds<Real> thresholds,
                std::ptrdiff_t steps, std::ptrdiff_t sample, const Real *v, Real *events) {
  const Real probe = static_cast<Real>(drive.steps);
  take_neurons<kBlock>(member, next, drive.neurons, [&](std::ptrdiff_t begin, std::ptrdiff_t count) {
    alignas(64) Real theta[kBlock], number[kBlock], sent[kBlock], start[kBlock];
    fill_thresholds(thresholds, begin, count, theta);
    for (std::ptrdiff_t i = 0; i < count; ++i) {
      number[i] = sent[i] = 0;
      start[i] = probe - static_cast<Real>((begin + i) % sample % 2);
    }
    for (std::ptrdiff_t t = 0; t < drive.steps; ++t) {
      const Real *current = drive.data + t * drive.stride + begin;
      for (std::ptrdiff_t i = 0; i < count; ++i)
        number[i] += current[i];
    }
    for (std::ptrdiff_t i = 0; i < count; ++i)
      number[i] = expected_count(number[i], v[begin + i], theta[i], probe);
    for (std::ptrdiff_t t = 0; t < steps; ++t) {
      Real *event = events + t * drive.neurons + begin;
      const Real twice = static_cast<Real>(2 * (t + 1));
      for (std::ptrdiff_t i = 0; i < count; ++i) {
        const Real total = round_down((number[i] * twice + start[i]) / (2 * probe));
        event[i] = total - sent[i];
        sent[i] = total;
      }
    }
  });
}

template <typename Real> constexpr Dense<Real> dense_table() {
  return {integrate_fire<Real>, offset_potential<Real>, exact_potential<Real>, accumulate<Real>};
}

} // namespace
} // namespace transpike
