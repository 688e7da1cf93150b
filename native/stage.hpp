// A stage: currents from bit-packed spikes, then the neurons, for all steps; spikes in and out, currents never stored.
//
// A spike map is [samples][steps][rows][columns][bytes of channels]: bit c % 8 of byte c / 8 is channel c. Around the
// map lies a halo of zeros as wide as any reader needs, so that no window needs a check.
#pragma once

#include "chain.hpp"
#include "currents.hpp"
#include "digits.hpp"
#include "image.hpp"
#include "narrow.hpp"

namespace transpike {
namespace {

constexpr std::ptrdiff_t kLine = 16; // floats in a line of the cache

// Whether active inputs of gathers are listed.
inline bool lists_windows(const Stage &stage) { return stage.gathers > 0 && stage.table == nullptr; }

// Fires a block of neurons, all steps of a pixel while its potentials are in registers, and writes their spikes.
// Currents of one step lie `step` behind those of the step before.
template <int kVectors, bool kSoft, bool kWhole>
void fire(const Stage &stage, int count, std::ptrdiff_t step, std::ptrdiff_t channel, std::ptrdiff_t bytes,
          const Scratch &scratch) {
  constexpr int kLanes = kVectors * kWidth;
  const bool started = stage.rule.schedule != Rule::kPlain; // whether scratch holds what the neurons start with
  const int steps = stage.steps; // copies, since the bytes written might be those of the stage for all the compiler knows
  const std::ptrdiff_t out_step = stage.out_step;
  std::int64_t *const spikes = scratch.spikes;
  Vec theta[kVectors];
  for (int k = 0; k < kVectors; ++k)
    theta[k] = load(stage.theta + channel + k * kWidth);
  for (int i = 0; i < count; ++i) {
    const float *current = scratch.current + i * kLanes;
    const float *start = started ? scratch.v + i * kLanes : initial_potential(stage, scratch.pixel[i], channel);
    std::uint8_t *out = stage.out + scratch.pixel[i].out + channel / 8;
    Vec v[kVectors];
    for (int k = 0; k < kVectors; ++k)
      v[k] = load(start + k * kWidth);
    for (int t = 0; t < steps; ++t, current += step, out += out_step) {
      std::uint64_t word = 0;
      for (int k = 0; k < kVectors; ++k) {
        const std::uint64_t bits = spikes_of<kSoft>(v[k], load(current + k * kWidth), theta[k]);
        word |= bits << (k * kWidth);
      }
      if (kWhole)
        __builtin_memcpy(out, &word, kLanes / 8);
      else
        put(out, word, bytes);
      if (spikes != nullptr)
        spikes[t] += __builtin_popcountll(word);
    }
  }
}

// Currents of one tile of channels for a segment of one row, from columns.
template <int kVectors>
void column_currents(const Stage &stage, int count, int tile, const Vec *bias, const Scratch &scratch) {
  constexpr int kLanes = kVectors * kWidth, kPart = kVectors < 4 ? kVectors : 4; // three sums each fit into registers
  const Columns &source = *stage.columns;
  const std::ptrdiff_t step = static_cast<std::ptrdiff_t>(count) * kLanes;
  if (source.table != nullptr) {
    for_columns(source, [&](auto bytes, auto runs) {
      for (int t = 0; t < stage.steps; ++t)
        look_up_columns<kVectors, bytes.value, runs.value, 1>(
            source, first_column(stage, scratch, t), count, table_of<kVectors>(source, tile), bias,
            [&](int i, const Vec(&current)[1][kVectors]) {
              for (int k = 0; k < kVectors; ++k)
                store(scratch.current + t * step + i * kLanes + k * kWidth, current[0][k]);
            });
    });
    return;
  }
  for (int part = 0; part < kVectors; part += kPart) {
    const float *weights = source.weights + tile * (source.rows + 1) * 3 * kLanes + part * kWidth;
    float *out = scratch.current + part * kWidth;
    const std::int32_t *entry = scratch.column;
    for (int p = 0; p < pairs_of(stage.steps); ++p, entry += 2 * kLists * (count + 2)) {
      const Pair pair = pair_of(p, stage.steps);
      float *const outs[2] = {out + pair.first * step, out + (pair.alone() ? 0 : pair.second * step)};
      if (scratch.together.columns && !pair.alone()) {
        const auto run = source.counts ? run_columns<kPart, kLanes, true, 2> : run_columns<kPart, kLanes, false, 2>;
        run(scratch.list, entry, count, weights, bias + part, outs);
      } else {
        const auto run = source.counts ? run_columns<kPart, kLanes, true, 1> : run_columns<kPart, kLanes, false, 1>;
        for (int s = 0; s < (pair.alone() ? 1 : 2); ++s)
          run(scratch.list, entry + 2 + 2 * s, count, weights, bias + part, outs + s);
      }
    }
  }
}

// How many cache lines of the next tile's weights to fetch at each pixel of a block, since each line that comes from
// memory would be waited for. None where the block does not use each row about once.
inline std::ptrdiff_t lines_ahead(const Stage &stage, int count, int tile, const Scratch &scratch) {
  if (!stage.streamed || tile + 1 == scratch.end || !lists_windows(stage))
    return 0;
  std::ptrdiff_t uses = 0;
  const std::ptrdiff_t lists = static_cast<std::ptrdiff_t>(count) * pairs_of(stage.steps) * kLists;
  for (std::ptrdiff_t i = 0; i < lists; ++i)
    uses += scratch.window[2 * i + 1];
  return uses < stage.rows ? 0 : (stage.rows + 1) * stage.lanes / kLine / count + 1;
}

// Currents of one tile of channels for a block of pixels from windows and from memory, on top of those from columns.
template <int kVectors>
void window_currents(const Stage &stage, int count, int steps, std::ptrdiff_t step, int tile, const Vec *bias,
                     const Scratch &scratch) {
  constexpr int kLanes = kVectors * kWidth;
  const float *rows = stage.weights + tile * (stage.rows + 1) * kLanes;
  const float *next = rows + (stage.rows + 1) * kLanes, *end = next + (stage.rows + 1) * kLanes;
  const float *table = stage.table == nullptr ? nullptr : stage.table + tile * stage.rows * 4 * kLanes;
  const std::ptrdiff_t ahead = lines_ahead(stage, count, tile, scratch);
  const std::int32_t *entry = scratch.window;
  const auto add = [&](const std::int32_t *at, Vec(&sum)[kVectors]) {
    if (stage.times)
      add_senders<1, kVectors>(from(scratch.list, at[0]), at[1], rows, kLanes, &sum);
    else
      add_rows<kVectors>(scratch.list.row + at[0], at[1], rows, sum);
  };
  for (int i = 0; i < count; ++i) {
    const Pixel &pixel = scratch.pixel[i];
    const float *dense = nullptr;
    if (stage.rule.schedule != Rule::kDigits)
      dense = dense_currents(stage, i, static_cast<std::ptrdiff_t>(tile) * kLanes, kLanes, scratch);
    for (std::ptrdiff_t line = 0; line < ahead && next < end; ++line, next += kLine)
      __builtin_prefetch(next, 0, 2);
    const auto begin = [&](int t, Vec(&sum)[kVectors]) { // with all that is neither listed nor looked up
      for (int k = 0; k < kVectors; ++k)
        sum[k] = stage.columns != nullptr ? load(scratch.current + t * step + i * kLanes + k * kWidth) : bias[k];
      if (dense != nullptr)
        for (int k = 0; k < kVectors; ++k)
          sum[k] += load(dense + t * stage.dense_step + k * kWidth);
    };
    const auto finish = [&](int t, const Vec(&sum)[kVectors]) {
      for (int k = 0; k < kVectors; ++k)
        store(scratch.current + t * step + i * kLanes + k * kWidth, sum[k]);
    };
    if (!lists_windows(stage)) {
      for (int t = 0; t < steps; ++t) {
        Vec sum[kVectors];
        begin(t, sum);
        if (stage.table != nullptr)
          look_up_windows<kVectors>(stage, pixel, t, table, sum);
        finish(t, sum);
      }
      continue;
    }
    for (int p = 0; p < pairs_of(steps); ++p, entry += 2 * kLists) {
      const Pair pair = pair_of(p, steps);
      Vec both[kVectors] = {};
      if (entry[1] > 0)
        add(entry, both);
      for (int s = 0; s < (pair.alone() ? 1 : 2); ++s) {
        const int t = s == 0 ? pair.first : pair.second;
        Vec sum[kVectors];
        begin(t, sum);
        if (entry[1] > 0)
          for (int k = 0; k < kVectors; ++k)
            sum[k] += both[k];
        add(entry + 2 + 2 * s, sum);
        finish(t, sum);
      }
    }
  }
}

// Adds currents of channel-wise maps.
template <int kVectors>
void diagonal_currents(const Stage &stage, int count, int tile, const Scratch &scratch) {
  constexpr int kLanes = kVectors * kWidth;
  const std::ptrdiff_t channel = static_cast<std::ptrdiff_t>(tile) * kLanes;
  const std::ptrdiff_t step = static_cast<std::ptrdiff_t>(count) * kLanes;
  const int steps = stage.steps;
  for (int s = 0; s < stage.diagonals; ++s) {
    const Diagonal &source = stage.diagonal[s];
    if (!source.feeds(channel, kLanes))
      continue;
    const std::ptrdiff_t map_step = source.map.step;
    for (int tap = 0; tap < source.taps; ++tap) {
      Vec weights[kVectors];
      for (int k = 0; k < kVectors; ++k)
        weights[k] = load(source.weights + tap * stage.padded_channels + channel + k * kWidth);
      const std::ptrdiff_t offset = source.offset[tap] + channel / 8;
      for (int i = 0; i < count; ++i) {
        const Pixel &pixel = scratch.pixel[i];
        const std::uint8_t *bits = source.map.at(pixel.n, 0, pixel.y, pixel.x) + offset;
        float *current = scratch.current + i * kLanes;
        for (int t = 0; t < steps; ++t, bits += map_step, current += step)
          for (int k = 0; k < kVectors; ++k) {
            const std::uint32_t word = load32(bits + k * kWidth / 8) >> (k * kWidth % 8);
            store(current + k * kWidth, add_where(word, load(current + k * kWidth), weights[k]));
          }
      }
    }
  }
}

// Currents of one tile of channels for a block of pixels, then their neurons.
template <int kVectors>
void run_tile(const Stage &stage, int count, int tile, const Scratch &scratch) {
  constexpr int kLanes = kVectors * kWidth;
  const bool spikes_in = stage.columns != nullptr || stage.gathers > 0 || stage.diagonals > 0;
  const bool digits = stage.rule.schedule == Rule::kDigits;
  const bool constant = !spikes_in && (stage.dense == nullptr || stage.dense_step == 0);
  const int steps = constant ? 1 : stage.steps; // steps with currents of their own
  const std::ptrdiff_t channel = static_cast<std::ptrdiff_t>(tile) * kLanes;
  const std::ptrdiff_t step = constant ? 0 : static_cast<std::ptrdiff_t>(count) * kLanes;
  const Pixel *pixel = scratch.pixel;
  Vec bias[kVectors];
  for (int k = 0; k < kVectors; ++k)
    bias[k] = digits ? Vec{} : load(stage.bias + channel + k * kWidth);
  const std::ptrdiff_t left = stage.out_channel_bytes / (digits ? 2 : 1) - channel / 8;
  const std::ptrdiff_t bytes = left < kLanes / 8 ? left : kLanes / 8;
  const bool whole = bytes == kLanes / 8;
  if (whole && fires_at_once(stage))
    return look_up_and_fire<kVectors>(stage, count, tile, bias, scratch);
  if (stage.columns != nullptr)
    column_currents<kVectors>(stage, count, tile, bias, scratch);
  if (stage.image != nullptr)
    image_currents(*stage.image, pixel, count, channel, kLanes, stage.padded_channels, scratch.rows, scratch.image);
  const bool beside = stage.gathers > 0 || stage.columns == nullptr || stage.dense != nullptr || stage.image != nullptr;
  if (digits ? spikes_in && (stage.gathers > 0 || stage.columns == nullptr) : beside)
    window_currents<kVectors>(stage, count, steps, step, tile, bias, scratch);
  diagonal_currents<kVectors>(stage, count, tile, scratch);
  if (digits)
    return fire_digits<kVectors>(stage, count, channel, bytes, spikes_in, scratch);
  if (stage.currents != nullptr) {
    for (int i = 0; i < count; ++i)
      for (int t = 0; t < stage.steps; ++t)
        for (int k = 0; k < kVectors; ++k)
          store(stage.currents + ((pixel[i].n * stage.steps + t) * stage.pixels + pixel[i].place) * stage.padded_channels +
                    channel + k * kWidth,
                load(scratch.current + t * step + i * kLanes + k * kWidth));
    return;
  }
  if (stage.rule.schedule != Rule::kPlain)
    for (int i = 0; i < count; ++i)
      for (int k = 0; k < kVectors; ++k) {
        const Vector vector{scratch.current + i * kLanes + k * kWidth, step, load(stage.theta + channel + k * kWidth),
                            load(initial_potential(stage, pixel[i], channel) + k * kWidth)};
        store(scratch.v + i * kLanes + k * kWidth, start_of(vector, stage.rule, scratch.vectors));
      }
  if (stage.rule.soft_reset && whole)
    fire<kVectors, true, true>(stage, count, step, channel, bytes, scratch);
  else if (stage.rule.soft_reset)
    fire<kVectors, true, false>(stage, count, step, channel, bytes, scratch);
  else
    fire<kVectors, false, false>(stage, count, step, channel, bytes, scratch);
}

void run_tile(const Stage &stage, int count, int tile, const Scratch &scratch) {
  switch (stage.lanes) {
  case 16:
    return run_tile<16 / kWidth>(stage, count, tile, scratch);
  case 32:
    return run_tile<32 / kWidth>(stage, count, tile, scratch);
  default:
    return run_tile<64 / kWidth>(stage, count, tile, scratch);
  }
}

// Lists the inputs of one output pixel at all steps, from entry `used` of the list on; returns where the lists end.
inline std::ptrdiff_t list_pixel(const Stage &stage, const Pixel &pixel, int number, std::ptrdiff_t used,
                                 const Scratch &scratch) {
  const int pairs = pairs_of(stage.steps);
  std::int32_t *entry = scratch.window + static_cast<std::ptrdiff_t>(number) * pairs * 2 * kLists;
  for (int p = 0; p < pairs; ++p, entry += 2 * kLists)
    used = list_window(stage, pixel, pair_of(p, stage.steps), scratch.together.windows, scratch.list, entry, used);
  return used;
}

// The same for all columns that a segment of a row sees.
inline void list_segment(const Stage &stage, int count, std::ptrdiff_t used, const Scratch &scratch) {
  std::int32_t *entry = scratch.column;
  for (int p = 0; p < pairs_of(stage.steps); ++p, entry += 2 * kLists * (count + 2))
    used = list_columns(*stage.columns, *scratch.pixel, count, pair_of(p, stage.steps), scratch.together.columns,
                        scratch.list, entry, used);
}

// Takes part in a stage; false if there is no memory for it.
bool run_stage(Member &member, const Link *links, Link &link, Arena &arena) {
  const Stage &stage = *link.stage;
  const Blocks blocks = divide(stage);
  // What a pixel, or a column, lists at a pair of steps: an input is in one list or in two, and entries beyond the end of
  // the last list are written, too.
  const std::ptrdiff_t pairs = pairs_of(stage.steps);
  const bool listed = stage.columns != nullptr && stage.columns->table == nullptr;
  const std::ptrdiff_t per_pixel = lists_windows(stage) ? (2 * stage.inputs + 64) * pairs : 0;
  const std::ptrdiff_t free = per_pixel == 0 || per_pixel > stage.list_entries ? per_pixel : stage.list_entries;
  const std::ptrdiff_t columns = listed ? blocks.size + 2 : 0;
  const std::ptrdiff_t room = free + (listed ? columns * (2 * stage.columns->rows + 64) * pairs : 0);
  const std::ptrdiff_t times = stage.times || (listed && stage.columns->counts) ? room : 0;
  const std::ptrdiff_t windows = 2 * kLists * pairs * blocks.size, entries = 2 * kLists * pairs * columns;
  const std::ptrdiff_t currents = blocks.size * stage.steps * stage.lanes;
  const std::ptrdiff_t seen = stage.image != nullptr ? image_room(*stage.image, blocks.size) : 0;
  const std::ptrdiff_t of_image = stage.image != nullptr ? blocks.size * stage.lanes : 0;
  if (!arena.reserve(Arena::bytes<std::uint16_t>(room) + Arena::bytes<float>(times) +
                     Arena::bytes<std::int32_t>(windows) + Arena::bytes<std::int32_t>(entries) +
                     Arena::bytes<Pixel>(blocks.size) + Arena::bytes<float>(currents) +
                     Arena::bytes<float>(seen) + Arena::bytes<float>(of_image) +
                     Arena::bytes<float>(blocks.size * stage.lanes) + Arena::bytes<std::int64_t>(stage.steps) +
                     Arena::bytes<Vec>(stage.rule.probe + 2)))
    return false;
  Scratch scratch{};
  scratch.together.sample = -1;
  scratch.list = {arena.take<std::uint16_t>(room), arena.take<float>(times)};
  scratch.window = arena.take<std::int32_t>(windows);
  scratch.column = arena.take<std::int32_t>(entries);
  scratch.pixel = arena.take<Pixel>(blocks.size);
  scratch.current = arena.take<float>(currents);
  scratch.rows = arena.take<float>(seen);
  scratch.image = arena.take<float>(of_image);
  scratch.v = arena.take<float>(blocks.size * stage.lanes);
  scratch.spikes = link.spikes == nullptr ? nullptr : arena.take<std::int64_t>(stage.steps);
  scratch.vectors = arena.take<Vec>(stage.rule.probe + 2);
  for (int t = 0; t < stage.steps && scratch.spikes != nullptr; ++t)
    scratch.spikes[t] = 0;
  take_blocks(member, links, link, blocks, [&](std::ptrdiff_t first, std::ptrdiff_t end, int tile, int last) {
    scratch.end = last;
    run_pixels(
        stage, first, end, per_pixel, free, scratch.pixel,
        [&](const Pixel &pixel, int number, std::ptrdiff_t used) {
          if (!lists_windows(stage))
            return used;
          scratch.together.decide(stage, pixel.n);
          return list_pixel(stage, pixel, number, used, scratch);
        },
        [&](int count) {
          if (listed) {
            scratch.together.decide(stage, scratch.pixel->n);
            list_segment(stage, count, free, scratch);
          }
          for (int each = tile; each < last; ++each)
            run_tile(stage, count, each, scratch);
        });
  });
  for (int t = 0; t < stage.steps && scratch.spikes != nullptr; ++t)
    __atomic_fetch_add(link.spikes + t, scratch.spikes[t], __ATOMIC_RELAXED);
  return true;
}

} // namespace
} // namespace transpike
