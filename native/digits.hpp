// Signed digits (schedules/digits.py): events of -1, 0 and 1 that are worth something else at every step.
//
// Currents are increments: those of spikes are worth what their digit is, others and biases arrive once. A map has twice
// the bytes of channels, first the positive digits, then the negative ones.
#pragma once

#include "neurons.hpp"
#include "scratch.hpp"

namespace transpike {
namespace {

// Sends the digits of a block of neurons, all steps of a pixel at once; currents of one step lie a block behind those of
// the step before, if any spikes arrive.
template <int kVectors>
void fire_digits(const Stage &stage, int count, std::ptrdiff_t channel, std::ptrdiff_t bytes, bool spikes_in,
                 const Scratch &scratch) {
  constexpr int kLanes = kVectors * kWidth;
  const std::ptrdiff_t step = static_cast<std::ptrdiff_t>(count) * kLanes;
  const std::ptrdiff_t dense_step = stage.image != nullptr ? 0 : stage.dense_step; // 0: everything comes first
  const std::ptrdiff_t half = stage.out_channel_bytes / 2, out_step = stage.out_step;
  const int steps = stage.steps, lag = stage.lag;
  const float *const places = stage.rule.places, decision = stage.rule.decision;
  std::int64_t *const spikes = scratch.spikes;
  Vec theta[kVectors], unit[kVectors];
  for (int k = 0; k < kVectors; ++k) {
    theta[k] = load(stage.theta + channel + k * kWidth);
    unit[k] = theta[k] / stage.rule.all_places;
  }
  for (int i = 0; i < count; ++i) {
    const float *current = scratch.current + i * kLanes;
    const float *dense = dense_currents(stage, i, channel, kLanes, scratch);
    std::uint8_t *out = stage.out + scratch.pixel[i].out + channel / 8;
    Vec arrived[kVectors], sent[kVectors] = {};
    for (int k = 0; k < kVectors; ++k) {
      arrived[k] = load(stage.bias + channel + k * kWidth);
      if (dense != nullptr)
        arrived[k] += load(dense + k * kWidth);
    }
    int next = 0; // step that has not arrived
    for (int t = 0; t < steps; ++t, out += out_step) {
      for (; next < steps && next <= t + lag; ++next)
        for (int k = 0; k < kVectors; ++k) {
          if (spikes_in)
            arrived[k] += places[next] * load(current + next * step + k * kWidth);
          if (dense_step != 0 && next > 0)
            arrived[k] += load(dense + next * dense_step + k * kWidth);
        }
      const float share = t + 1 == steps ? 0.5f : decision; // the last digit rounds to the nearest
      std::uint64_t more = 0, less = 0;
      for (int k = 0; k < kVectors; ++k) {
        const Vec size = places[t] * unit[k], bound = share * size;
        const Vec missing = smaller(theta[k], larger(Vec{}, arrived[k])) - sent[k]; // not a number stays one
        const Mask up = missing >= bound, down = missing <= -bound;
        sent[k] += select(up, size, Vec{}) - select(down, size, Vec{});
        more |= static_cast<std::uint64_t>(bits_of(up)) << (k * kWidth);
        less |= static_cast<std::uint64_t>(bits_of(down)) << (k * kWidth);
      }
      put(out, more, bytes);
      put(out + half, less, bytes);
      if (spikes != nullptr)
        spikes[t] += __builtin_popcountll(more) + __builtin_popcountll(less);
    }
  }
}

} // namespace
} // namespace transpike
