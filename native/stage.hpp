// A stage: currents from bit-packed spikes, then the neurons, for all steps; spikes in and out, currents never stored.
//
// A spike map is [samples][steps][rows][columns][bytes of channels]: bit c % 8 of byte c / 8 is channel c. Around the
// map lies a halo of zeros as wide as any reader needs, so that no window needs a check.
#pragma once

#include <cstdlib>

#include "currents.hpp"
#include "neurons.hpp"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace transpike {
namespace {

constexpr std::ptrdiff_t kCurrents = 1 << 14;    // currents of a block: stay in the second cache
constexpr std::ptrdiff_t kChunks = 64;           // parts that the threads take in turn

struct Pixel {
  std::ptrdiff_t n, y, x;
  std::ptrdiff_t place; // y * columns + x
  std::ptrdiff_t out;   // of its first spikes in the map that the stage writes
};

struct Scratch {
  std::uint16_t *column;  // active rows of one column
  std::uint16_t *list;    // active rows of the pixels of a block, one list per pixel and step
  std::int32_t *begin;    // where each list begins, and its length
  Pixel *pixel;           // the output pixels of a block
  float *current;         // [steps][pixels of a block][lanes]
  float *v;               // [pixels of a block][lanes]
  std::int64_t *spikes;   // [steps]
  Vec *vectors;           // [probe + 2]
};

inline const float *initial_potential(const Stage &stage, const Pixel &pixel, std::ptrdiff_t channel) {
  return stage.v_init + pixel.n * stage.v_sample + pixel.place * stage.v_pixel + channel;
}

// Writes the lowest bytes of a word; little-endian, as every CPU with these vectors.
inline void put(std::uint8_t *to, std::uint64_t word, std::ptrdiff_t bytes) {
  for (std::ptrdiff_t i = 0; i < bytes; ++i)
    to[i] = static_cast<std::uint8_t>(word >> (8 * i));
}

// Fires a block of neurons, all steps of a pixel while its potentials are in registers, and writes their spikes.
// Currents of one step lie `step` behind those of the step before.
template <int kVectors, bool kSoft, bool kWhole>
void fire(const Stage &stage, int count, std::ptrdiff_t step, std::ptrdiff_t channel, std::ptrdiff_t bytes,
          const Scratch &scratch) {
  constexpr int kLanes = kVectors * kWidth;
  const bool started = stage.rule.schedule != Rule::kPlain; // whether scratch holds what the neurons start with
  const int steps = stage.steps; // copies, since the bytes written might be those of the stage for all the compiler knows
  const std::ptrdiff_t out_step = stage.out_step;
  std::int64_t *spikes = scratch.spikes;
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
        const std::uint64_t bits = spikes_of<kSoft>(v[k], current + k * kWidth, theta[k]);
        word |= bits << (k * kWidth);
      }
      if (kWhole)
        __builtin_memcpy(out, &word, kLanes / 8);
      else
        put(out, word, bytes);
      spikes[t] += __builtin_popcountll(word);
    }
  }
}

// Currents of one tile of channels for a block of pixels, then their neurons.
template <int kVectors>
void run_tile(const Stage &stage, int count, int tile, const Scratch &scratch) {
  constexpr int kLanes = kVectors * kWidth;
  const bool spikes_in = stage.columns != nullptr || stage.gathers > 0 || stage.diagonals > 0;
  const bool constant = !spikes_in && (stage.dense == nullptr || stage.dense_step == 0);
  const int steps = constant ? 1 : stage.steps; // steps with currents of their own
  const std::ptrdiff_t channel = static_cast<std::ptrdiff_t>(tile) * kLanes;
  const std::ptrdiff_t step = constant ? 0 : static_cast<std::ptrdiff_t>(count) * kLanes;
  const Pixel *pixel = scratch.pixel;
  Vec bias[kVectors];
  for (int k = 0; k < kVectors; ++k)
    bias[k] = load(stage.bias + channel + k * kWidth);

  if (stage.columns != nullptr) { // the block is a segment of one row
    const Columns &source = *stage.columns;
    for (int t = 0; t < steps; ++t) {
      const std::uint8_t *base = source.map.at(pixel->n, t, pixel->y, pixel->x);
      float *out = scratch.current + t * step;
      if (source.table == nullptr)
        run_columns<kVectors, 0>(source, base, count, source.weights + tile * (source.rows + 1) * 3 * kLanes, bias,
                                 scratch.column, out);
      else if (source.run->bits == 8)
        run_columns<kVectors, 1>(source, base, count, source.table + tile * (source.rows / 8) * 256 * 3 * kLanes,
                                 bias, scratch.column, out);
      else
        run_columns<kVectors, 2>(source, base, count, source.table + tile * (source.rows / 8) * 256 * 3 * kLanes,
                                 bias, scratch.column, out);
    }
  }
  if (stage.gathers > 0 || stage.dense != nullptr || stage.columns == nullptr) {
    const float *rows = stage.weights + tile * (stage.rows + 1) * kLanes;
    const std::int32_t *entry = scratch.begin;
    for (int i = 0; i < count; ++i) {
      const float *dense = nullptr;
      if (stage.dense != nullptr)
        dense = stage.dense + pixel[i].n * stage.dense_sample + pixel[i].place * stage.dense_pixel + channel;
      for (int t = 0; t < steps; ++t, entry += 2) {
        float *current = scratch.current + t * step + i * kLanes;
        Vec sum[kVectors];
        for (int k = 0; k < kVectors; ++k)
          sum[k] = stage.columns != nullptr ? load(current + k * kWidth) : bias[k];
        if (dense != nullptr)
          for (int k = 0; k < kVectors; ++k)
            sum[k] += load(dense + t * stage.dense_step + k * kWidth);
        if (stage.gathers > 0)
          add_rows<kVectors>(scratch.list + entry[0], entry[1], rows, sum);
        for (int k = 0; k < kVectors; ++k)
          store(current + k * kWidth, sum[k]);
      }
    }
  }
  for (int s = 0; s < stage.diagonals; ++s) {
    const Diagonal &source = stage.diagonal[s];
    for (int tap = 0; tap < source.taps; ++tap) {
      Vec weights[kVectors];
      for (int k = 0; k < kVectors; ++k)
        weights[k] = load(source.weights + tap * stage.padded_channels + channel + k * kWidth);
      const std::ptrdiff_t offset = source.offset[tap] + channel / 8;
      for (int i = 0; i < count; ++i) {
        const std::uint8_t *bits = source.map.at(pixel[i].n, 0, pixel[i].y, pixel[i].x) + offset;
        float *current = scratch.current + i * kLanes;
        for (int t = 0; t < steps; ++t, bits += source.map.step, current += step)
          for (int k = 0; k < kVectors; ++k) {
            const std::uint32_t word = load32(bits + k * kWidth / 8) >> (k * kWidth % 8);
            store(current + k * kWidth, add_where(word, load(current + k * kWidth), weights[k]));
          }
      }
    }
  }
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
  const std::ptrdiff_t left = stage.out_channel_bytes - channel / 8;
  const std::ptrdiff_t bytes = left < kLanes / 8 ? left : kLanes / 8;
  const bool whole = bytes == kLanes / 8;
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

#ifdef __SANITIZE_ADDRESS__
constexpr std::size_t kGap = 64; // behind every buffer of an arena, for the sanitizer to see who writes beyond its end
#else
constexpr std::size_t kGap = 0;
#endif

// Memory of one thread that stays from stage to stage: fresh pages would cost more than a small stage.
class Arena {
public:
  ~Arena() { std::free(memory_); }

  // Makes room, or returns false; earlier contents are lost.
  bool reserve(std::size_t bytes) {
    used_ = 0;
    if (bytes > size_) {
      std::free(memory_);
      size_ = bytes / 64 * 64 + 64;
      memory_ = static_cast<char *>(aligned_alloc(64, size_));
      if (memory_ == nullptr) {
        size_ = 0;
        return false;
      }
    }
#ifdef __SANITIZE_ADDRESS__
    ASAN_UNPOISON_MEMORY_REGION(memory_, size_);
#endif
    return true;
  }
  template <typename T> static std::size_t bytes(std::ptrdiff_t count) {
    return (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64 + kGap;
  }
  template <typename T> T *take(std::ptrdiff_t count) {
    T *found = reinterpret_cast<T *>(memory_ + used_);
    used_ += bytes<T>(count);
#ifdef __SANITIZE_ADDRESS__
    const char *end = reinterpret_cast<const char *>(found + count);
    ASAN_POISON_MEMORY_REGION(end, static_cast<std::size_t>(memory_ + used_ - end));
#endif
    return found;
  }

private:
  char *memory_ = nullptr;
  std::size_t size_ = 0, used_ = 0;
};

// How the output pixels are dealt to the threads: in blocks, or in segments of rows where columns move along rows.
struct Blocks {
  std::ptrdiff_t count, size, per_row;
  std::ptrdiff_t first(const Stage &stage, std::ptrdiff_t index) const {
    return per_row == 0 ? index * size : index / per_row * stage.row_pixels + index % per_row * size;
  }
  std::ptrdiff_t last(const Stage &stage, std::ptrdiff_t index) const {
    const std::ptrdiff_t end = first(stage, index) + size;
    const std::ptrdiff_t limit =
        per_row == 0 ? stage.samples * stage.pixels : (index / per_row + 1) * stage.row_pixels;
    return end < limit ? end : limit;
  }
};

Blocks divide(const Stage &stage) {
  const std::ptrdiff_t total = stage.samples * stage.pixels;
  std::ptrdiff_t most = kCurrents / (static_cast<std::ptrdiff_t>(stage.steps) * stage.lanes);
  most = most < 1 ? 1 : most;
  if (stage.columns == nullptr) {
    const std::ptrdiff_t size = stage.block < most ? stage.block : most;
    return {(total + size - 1) / size, size, 0};
  }
  const std::ptrdiff_t segments = (stage.row_pixels + most - 1) / most;
  const std::ptrdiff_t size = (stage.row_pixels + segments - 1) / segments;
  return {total / stage.row_pixels * segments, size, segments};
}

// Takes the output pixels from `first` to `end` in blocks, as many at once as have room for their lists:
// `list(pixel, number, used)` lists the inputs of one and says how much is used then, `run(count)` runs a block.
template <typename List, typename Run>
void run_pixels(const Stage &stage, std::ptrdiff_t first, std::ptrdiff_t end, std::ptrdiff_t per_pixel,
                std::ptrdiff_t room, Pixel *pixels, List list, Run run) {
  std::ptrdiff_t n = first / stage.pixels, y = first % stage.pixels / stage.row_pixels, x = first % stage.row_pixels;
  while (first < end) {
    std::ptrdiff_t used = 0;
    int count = 0;
    for (; first < end && used + per_pixel <= room; ++first, ++count) {
      pixels[count] = {n, y, x, y * stage.row_pixels + x,
                       n * stage.out_sample + y * stage.out_row + x * stage.out_channel_bytes};
      used = list(pixels[count], count, used);
      if (++x == stage.row_pixels) {
        x = 0;
        if (++y * stage.row_pixels == stage.pixels) {
          y = 0;
          ++n;
        }
      }
    }
    run(count);
  }
}

bool run_stage(const Stage &stage, std::int64_t *spikes) {
  // Entries beyond the count of a list are written, too.
  const std::ptrdiff_t per_pixel = stage.gathers > 0 ? (stage.inputs + 64) * stage.steps : 0;
  const std::ptrdiff_t room = stage.gathers == 0 ? 0 : (per_pixel > stage.list_entries ? per_pixel : stage.list_entries);
  const std::ptrdiff_t column = stage.columns != nullptr ? stage.columns->rows + 64 : 0;
  const Blocks blocks = divide(stage);
  const std::ptrdiff_t chunk = blocks.count / kChunks + 1; // fewer turns at the counter that the threads share
  const std::ptrdiff_t entries = 2 * blocks.size * stage.steps, currents = blocks.size * stage.steps * stage.lanes;
  bool enough = true;
#pragma omp parallel
  {
    static thread_local Arena arena;
    const bool ready = arena.reserve(Arena::bytes<std::uint16_t>(column) + Arena::bytes<std::uint16_t>(room) +
                  Arena::bytes<std::int32_t>(entries) + Arena::bytes<Pixel>(blocks.size) +
                  Arena::bytes<float>(currents) + Arena::bytes<float>(blocks.size * stage.lanes) +
                  Arena::bytes<std::int64_t>(stage.steps) + Arena::bytes<Vec>(stage.rule.probe + 2));
    Scratch scratch{};
    if (ready) {
      scratch.column = arena.take<std::uint16_t>(column);
      scratch.list = arena.take<std::uint16_t>(room);
      scratch.begin = arena.take<std::int32_t>(entries);
      scratch.pixel = arena.take<Pixel>(blocks.size);
      scratch.current = arena.take<float>(currents);
      scratch.v = arena.take<float>(blocks.size * stage.lanes);
      scratch.spikes = arena.take<std::int64_t>(stage.steps);
      scratch.vectors = arena.take<Vec>(stage.rule.probe + 2);
      for (int t = 0; t < stage.steps; ++t)
        scratch.spikes[t] = 0;
    } else {
#pragma omp atomic write
      enough = false;
    }
#pragma omp for schedule(dynamic, chunk)
    for (std::ptrdiff_t index = 0; index < blocks.count; ++index) {
      const std::ptrdiff_t end = ready ? blocks.last(stage, index) : 0; // every thread must come here
      run_pixels(
          stage, blocks.first(stage, index), end, per_pixel, room, scratch.pixel,
          [&](const Pixel &pixel, int number, std::ptrdiff_t used) {
            for (int t = 0; stage.gathers > 0 && t < stage.steps; ++t) {
              std::int32_t *entry = scratch.begin + (number * stage.steps + t) * 2;
              entry[0] = static_cast<std::int32_t>(used);
              entry[1] = list_active(stage, pixel.n, t, pixel.y, pixel.x, scratch.list + used);
              used += entry[1];
            }
            return used;
          },
          [&](int count) {
            for (int tile = 0; tile < stage.tiles; ++tile)
              run_tile(stage, count, tile, scratch);
          });
    }
#pragma omp critical(transpike_spikes)
    for (int t = 0; ready && t < stage.steps; ++t)
      spikes[t] += scratch.spikes[t];
  }
  return enough;
}

} // namespace
} // namespace transpike
