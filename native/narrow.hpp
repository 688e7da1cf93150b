// Stages whose sources have few channels: spikes from spikes, currents stay in registers.
#pragma once

#include "lookups.hpp"
#include "neurons.hpp"
#include "scratch.hpp"

namespace transpike {
namespace {

// The table of a tile of channels.
template <int kVectors> const float *table_of(const Columns &source, int tile) {
  return source.table + static_cast<std::ptrdiff_t>(tile) * (source.rows / 8) * 256 * 3 * kVectors * kWidth;
}

// What the first column of a segment of a row is at step t.
inline const std::uint8_t *first_column(const Stage &stage, const Scratch &scratch, int t) {
  return stage.columns->map.at(scratch.pixel->n, t, scratch.pixel->y, scratch.pixel->x);
}

// Currents of kSteps steps from step t on, from columns by table and from channel-wise maps, and what neurons that start
// anywhere and lose a threshold make of them: nothing is stored in between but potentials, in scratch.
template <int kVectors, int kBytes, int kRuns, int kSteps>
void look_up_and_fire(const Stage &stage, int count, int tile, int t, const Vec *bias, const Vec *theta,
                      const Scratch &scratch) {
  constexpr int kLanes = kVectors * kWidth;
  const std::ptrdiff_t channel = static_cast<std::ptrdiff_t>(tile) * kLanes, out_step = stage.out_step;
  const bool last = t + kSteps == stage.steps;
  std::int64_t *const spikes = scratch.spikes;
  look_up_columns<kVectors, kBytes, kRuns, kSteps>(
      *stage.columns, first_column(stage, scratch, t), count, table_of<kVectors>(*stage.columns, tile), bias,
      [&](int i, Vec(&current)[kSteps][kVectors]) {
        const Pixel &pixel = scratch.pixel[i];
        for (int s = 0; s < stage.diagonals; ++s) {
          const Diagonal &source = stage.diagonal[s];
          if (!source.feeds(channel, kLanes))
            continue;
          for (int tap = 0; tap < source.taps; ++tap) {
            const std::uint8_t *bits =
                source.map.at(pixel.n, t, pixel.y, pixel.x) + source.offset[tap] + channel / 8;
            const float *weights = source.weights + tap * stage.padded_channels + channel;
            for (int at = 0; at < kSteps; ++at, bits += source.map.step)
              for (int k = 0; k < kVectors; ++k)
                current[at][k] = add_where(load32(bits + k * kWidth / 8) >> (k * kWidth % 8), current[at][k],
                                           load(weights + k * kWidth));
          }
        }
        const float *start = t == 0 ? initial_potential(stage, pixel, channel) : scratch.v + i * kLanes;
        Vec v[kVectors];
        for (int k = 0; k < kVectors; ++k)
          v[k] = load(start + k * kWidth);
        std::uint8_t *out = stage.out + pixel.out + channel / 8 + t * out_step;
        for (int at = 0; at < kSteps; ++at, out += out_step) {
          std::uint64_t word = 0;
          for (int k = 0; k < kVectors; ++k)
            word |= static_cast<std::uint64_t>(spikes_of<true>(v[k], current[at][k], theta[k])) << (k * kWidth);
          __builtin_memcpy(out, &word, kLanes / 8);
          if (spikes != nullptr)
            spikes[t + at] += __builtin_popcountll(word);
        }
        if (!last)
          for (int k = 0; k < kVectors; ++k)
            store(scratch.v + i * kLanes + k * kWidth, v[k]);
      });
}

// The same for all steps, as many at once as have room for their sums in half of the registers.
template <int kVectors>
void look_up_and_fire(const Stage &stage, int count, int tile, const Vec *bias, const Scratch &scratch) {
  constexpr int kAtOnce = 3 * kVectors * 4 <= kRegisters / 2 ? 4 : 1;
  Vec theta[kVectors];
  for (int k = 0; k < kVectors; ++k)
    theta[k] = load(stage.theta + (static_cast<std::ptrdiff_t>(tile) * kVectors + k) * kWidth);
  for_columns(*stage.columns, [&](auto bytes, auto runs) {
    int t = 0;
    for (; t + kAtOnce <= stage.steps; t += kAtOnce)
      look_up_and_fire<kVectors, bytes.value, runs.value, kAtOnce>(stage, count, tile, t, bias, theta, scratch);
    for (; t < stage.steps; ++t)
      look_up_and_fire<kVectors, bytes.value, runs.value, 1>(stage, count, tile, t, bias, theta, scratch);
  });
}

// Whether a stage's neurons can fire as their currents are found.
inline bool fires_at_once(const Stage &stage) {
  return stage.columns != nullptr && stage.columns->table != nullptr && stage.gathers == 0 && stage.dense == nullptr &&
         stage.image == nullptr && stage.currents == nullptr && stage.rule.schedule == Rule::kPlain &&
         stage.rule.soft_reset;
}

} // namespace
} // namespace transpike
