// A stage whose maps hold counts: how many spikes each neuron sends in the first rho steps, one byte per channel.
//
// Accumulate-then-fire sees only the sum of a neuron's input over rho steps, so one pass over the inputs that send
// anything, weight times count, serves all steps. `Stage` is read as for spikes with one step (stage.hpp): a run's bits
// are bytes here, and `rule.probe` is rho.
#pragma once

#include "stage.hpp"

namespace transpike {
namespace {

typedef std::uint8_t Bytes __attribute__((vector_size(kWidth)));

inline Vec load_counts(const std::uint8_t *from) {
  Bytes value;
  __builtin_memcpy(&value, from, sizeof value);
  return __builtin_convertvector(value, Vec);
}
inline void store_counts(std::uint8_t *to, Vec counts, std::ptrdiff_t bytes) {
  const Bytes value = __builtin_convertvector(__builtin_convertvector(counts, Mask), Bytes);
  __builtin_memcpy(to, &value, static_cast<std::size_t>(bytes < kWidth ? bytes : kWidth));
}

struct CountScratch {
  Senders list;
  std::int32_t *column; // where the list of each column begins, and its length
  std::int32_t *window; // the same for the other sources' windows, one per pixel
  Pixel *pixel;         // the output pixels of a block
  float *total;         // [pixels of a block][lanes]
  float *rows;          // of the image, for the pixels of a block
  float *image;         // their currents from it, [pixels of a block][lanes]
};

// Three output pixels see a column; their sums stay in registers while the column moves along the row. Columns have one
// list each, `entry` says where; `weights` and `out` begin with the first of the vectors, out of `lanes`.
template <int kVectors>
void add_columns(Senders list, const std::int32_t *entry, int count, const float *weights, std::ptrdiff_t lanes,
                 const Vec *start, float *out) {
  Vec sum[3][kVectors]; // of the output pixels that the column is the first, second and third column of
  for (int k = 0; k < kVectors; ++k)
    sum[0][k] = sum[1][k] = sum[2][k] = start[k];
  for (int c = 0; c < count + 2; ++c, entry += 2) {
    add_senders<3, kVectors>(from(list, entry[0]), entry[1], weights, lanes, sum);
    for (int k = 0; k < kVectors; ++k) {
      if (c >= 2)
        store(out + (c - 2) * lanes + k * kWidth, sum[2][k]);
      sum[2][k] = sum[1][k];
      sum[1][k] = sum[0][k];
      sum[0][k] = start[k];
    }
  }
}

// Counts of `kVectors` vectors of channels, from `channel` of tile `tile` on, for a block of pixels.
template <int kVectors>
void count_channels(const Stage &stage, int count, int tile, std::ptrdiff_t inside, const CountScratch &scratch) {
  const std::ptrdiff_t lanes = stage.lanes, channel = tile * lanes + inside;
  const float rho = static_cast<float>(stage.rule.probe);
  const Pixel *pixel = scratch.pixel;
  float *total = scratch.total + inside;
  Vec start[kVectors];
  for (int k = 0; k < kVectors; ++k)
    start[k] = rho * load(stage.bias + channel + k * kWidth);

  if (stage.columns != nullptr)
    add_columns<kVectors>(scratch.list, scratch.column, count,
                          stage.columns->weights + tile * (stage.columns->rows + 1) * 3 * lanes + inside, lanes,
                          start, total);
  if (stage.gathers > 0 || stage.columns == nullptr) {
    const float *rows = stage.weights + tile * (stage.rows + 1) * lanes + inside;
    const std::int32_t *entry = scratch.window;
    for (int i = 0; i < count; ++i, entry += 2) {
      float *out = total + i * lanes;
      Vec sum[1][kVectors];
      for (int k = 0; k < kVectors; ++k)
        sum[0][k] = stage.columns != nullptr ? load(out + k * kWidth) : start[k];
      if (stage.gathers > 0)
        add_senders<1, kVectors>(from(scratch.list, entry[0]), entry[1], rows, lanes, sum);
      for (int k = 0; k < kVectors; ++k)
        store(out + k * kWidth, sum[0][k]);
    }
  }
  for (int s = 0; s < stage.diagonals; ++s) {
    const Diagonal &source = stage.diagonal[s];
    if (!source.feeds(channel, kVectors * kWidth))
      continue;
    for (int tap = 0; tap < source.taps; ++tap) {
      const float *weights = source.weights + tap * stage.padded_channels + channel;
      for (int i = 0; i < count; ++i) {
        const std::uint8_t *times =
            source.map.at(pixel[i].n, 0, pixel[i].y, pixel[i].x) + source.offset[tap] + channel;
        float *out = total + i * lanes;
        for (int k = 0; k < kVectors; ++k)
          store(out + k * kWidth,
                load(out + k * kWidth) + load_counts(times + k * kWidth) * load(weights + k * kWidth));
      }
    }
  }
  const std::ptrdiff_t bytes = stage.out_channel_bytes - channel;
  for (int i = 0; i < count; ++i) {
    const float *initial = initial_potential(stage, pixel[i], channel);
    std::uint8_t *out = stage.out + pixel[i].out + channel;
    for (int k = 0; k < kVectors; ++k) {
      Vec sum = load(total + i * lanes + k * kWidth);
      if (stage.image != nullptr)
        sum += rho * load(scratch.image + i * lanes + inside + k * kWidth);
      else if (stage.dense != nullptr) {
        const float *dense =
            stage.dense + pixel[i].n * stage.dense_sample + pixel[i].place * stage.dense_pixel + channel + k * kWidth;
        if (stage.dense_step == 0)
          sum += rho * load(dense);
        else
          for (int t = 0; t < stage.rule.probe; ++t)
            sum += load(dense + t * stage.dense_step);
      }
      const Vec found = round_down((sum + load(initial + k * kWidth)) / load(stage.theta + channel + k * kWidth));
      if (bytes > k * kWidth)
        store_counts(out + k * kWidth, smaller(larger(found, Vec{}), splat(rho)), bytes - k * kWidth);
    }
  }
}

void count_tile(const Stage &stage, int count, int tile, const CountScratch &scratch) {
  constexpr int kPair = 2 * kWidth; // more sums at once do not fit into sixteen registers
  if (stage.image != nullptr)
    image_currents(*stage.image, scratch.pixel, count, tile * static_cast<std::ptrdiff_t>(stage.lanes), stage.lanes,
                   stage.padded_channels, scratch.rows, scratch.image);
  if (stage.lanes < kPair)
    count_channels<1>(stage, count, tile, 0, scratch);
  else
    for (int inside = 0; inside < stage.lanes; inside += kPair)
      count_channels<2>(stage, count, tile, inside, scratch);
}

// Lists the senders of all gathers at one output pixel.
inline int count_window(const Stage &stage, const Pixel &pixel, Senders list) {
  int n = 0;
  for (int s = 0; s < stage.gathers; ++s) {
    const Gather &source = stage.gather[s];
    const std::uint8_t *base = source.map.at(pixel.n, 0, pixel.y, pixel.x);
    n += list_senders<kFirst>(base, base, source.run, source.runs, from(list, n));
  }
  return fill_up(n, stage.rows, list);
}

// Lists the senders of every column that the windows of a segment of a row see, from entry `used` on.
inline void count_columns(const Columns &source, const Pixel &begin, int count, const CountScratch &scratch,
                          std::ptrdiff_t used) {
  for (int c = 0; c < count + 2; ++c) {
    const Senders list = from(scratch.list, used);
    const std::uint8_t *base = source.map.at(begin.n, 0, begin.y, begin.x + c);
    const int n = list_senders<kFirst>(base, base, source.run, source.runs, list);
    used = note(scratch.column + 2 * c, used, fill_up(n, source.rows, list));
  }
}

// Takes part in a stage of counts; false if there is no memory for it.
bool run_counts(Member &member, const Link *links, Link &link, Arena &arena) {
  const Stage &stage = *link.stage;
  const Blocks blocks = divide(stage);
  // Entries beyond the end of a list are written, too.
  const std::ptrdiff_t per_pixel = stage.gathers > 0 ? stage.inputs + 64 : 0;
  const std::ptrdiff_t per_column = stage.columns != nullptr ? stage.columns->rows + 64 : 0;
  const std::ptrdiff_t columns = stage.columns != nullptr ? blocks.size + 2 : 0;
  const std::ptrdiff_t fixed = columns * per_column;
  const std::ptrdiff_t free = per_pixel == 0 || per_pixel > stage.list_entries ? per_pixel : stage.list_entries;
  const std::ptrdiff_t seen = stage.image != nullptr ? image_room(*stage.image, blocks.size) : 0;
  const std::ptrdiff_t of_image = stage.image != nullptr ? blocks.size * stage.lanes : 0;
  if (!arena.reserve(Arena::bytes<std::uint16_t>(fixed + free) + Arena::bytes<float>(fixed + free) +
                     Arena::bytes<std::int32_t>(2 * columns) + Arena::bytes<std::int32_t>(2 * blocks.size) +
                     Arena::bytes<float>(seen) + Arena::bytes<float>(of_image) + Arena::bytes<Pixel>(blocks.size) +
                     Arena::bytes<float>(blocks.size * stage.lanes)))
    return false;
  CountScratch scratch{};
  scratch.list = {arena.take<std::uint16_t>(fixed + free), arena.take<float>(fixed + free)};
  scratch.column = arena.take<std::int32_t>(2 * columns);
  scratch.window = arena.take<std::int32_t>(2 * blocks.size);
  scratch.pixel = arena.take<Pixel>(blocks.size);
  scratch.total = arena.take<float>(blocks.size * stage.lanes);
  scratch.rows = arena.take<float>(seen);
  scratch.image = arena.take<float>(of_image);
  take_blocks(member, links, link, blocks, [&](std::ptrdiff_t first, std::ptrdiff_t end, int tile, int last) {
    run_pixels(
        stage, first, end, per_pixel, free, scratch.pixel,
        [&](const Pixel &pixel, int number, std::ptrdiff_t used) {
          if (stage.gathers == 0)
            return used;
          return note(scratch.window + 2 * number, used, count_window(stage, pixel, from(scratch.list, used)));
        },
        [&](int count) {
          if (stage.columns != nullptr)
            count_columns(*stage.columns, *scratch.pixel, count, scratch, free);
          for (int each = tile; each < last; ++each)
            count_tile(stage, count, each, scratch);
        });
  });
  return true;
}

} // namespace
} // namespace transpike
