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

// Inputs that send something: the number of the weight row of each, and how often it sends.
struct Senders {
  std::uint16_t *row;
  float *times;
};

// Appends the senders among `size` neighbouring inputs; writes up to 32 entries more than it returns.
inline int append_senders(const std::uint8_t *from, int size, int first, Senders list) {
  int n = 0;
#if defined(__AVX512VBMI2__)
  for (int b = 0; b < size; b += 32) {
    const __m256i counts = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from + b));
    std::uint32_t some = _mm256_test_epi8_mask(counts, counts);
    if (size - b < 32)
      some &= (1u << (size - b)) - 1;
    const __m256i packed = _mm256_maskz_compress_epi8(some, counts);
    store(list.times + n, (Vec)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm256_castsi256_si128(packed))));
    store(list.times + n + 16, (Vec)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm256_extracti128_si256(packed, 1))));
    n += append(some, first + b, list.row + n);
  }
#elif defined(__AVX2__)
  for (int b = 0; b < size; b += 8) { // runs are whole eights
    const __m128i counts = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(from + b));
    const int none = _mm_movemask_epi8(_mm_cmpeq_epi8(counts, _mm_setzero_si128()));
    const int some = ~none & 255;
    const __m128i places = _mm_loadu_si128(reinterpret_cast<const __m128i *>(kBytes.places[some]));
    const __m128i rows = _mm_add_epi16(places, _mm_set1_epi16(static_cast<short>(first + b)));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(list.row + n), rows);
    const __m256 times = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(counts));
    store(list.times + n, (Vec)_mm256_permutevar8x32_ps(times, _mm256_cvtepu16_epi32(places)));
    n += kBytes.count[some];
  }
#else
  for (int b = 0; b < size; ++b) {
    list.row[n] = static_cast<std::uint16_t>(first + b);
    list.times[n] = static_cast<float>(from[b]);
    n += from[b] != 0;
  }
#endif
  return n;
}

// Lists the senders of a window; returns how many there are.
inline int list_senders(const std::uint8_t *base, const Run *runs, int size, Senders list) {
  int n = 0;
  for (int r = 0; r < size; ++r)
    n += append_senders(base + runs[r].offset, runs[r].bits, runs[r].row, {list.row + n, list.times + n});
  return n;
}

// Makes a list whole fours long with the zero row.
inline int fill_up(int n, std::ptrdiff_t zero_row, Senders list) {
  for (int i = 0; i < 3; ++i) {
    list.row[n + i] = static_cast<std::uint16_t>(zero_row);
    list.times[n + i] = 0;
  }
  return (n + 3) & ~3;
}

// Adds kRows neighbouring weight rows, of kVectors out of `lanes` each, of every sender to as many sums.
template <int kRows, int kVectors>
inline void add_senders(Senders list, int count, const float *weights, std::ptrdiff_t lanes, Vec (*sum)[kVectors]) {
  constexpr int kSums = kRows * kVectors <= 2 ? 4 : (kRows * kVectors <= 6 ? 2 : 1); // hides the latency of additions
  Vec part[kSums][kRows][kVectors] = {};
  for (int i = 0; i < count; i += 4) {
    std::uint64_t rows; // of four senders: the loads of weights need the memory's ports
    __builtin_memcpy(&rows, list.row + i, sizeof rows);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const float *row = weights + (rows >> (16 * j) & 0xffff) * kRows * static_cast<std::uint64_t>(lanes);
      const float times = list.times[i + j];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
        for (int k = 0; k < kVectors; ++k)
          part[j % kSums][r][k] += times * load(row + r * lanes + k * kWidth);
    }
  }
  for (int s = 0; s < kSums; ++s)
    for (int r = 0; r < kRows; ++r)
      for (int k = 0; k < kVectors; ++k)
        sum[r][k] += part[s][r][k];
}

struct CountScratch {
  Senders list;
  std::int32_t *column; // where the list of each column begins, and its length
  std::int32_t *window; // the same for the other sources' windows, one per pixel
  Pixel *pixel;         // the output pixels of a block
  float *total;         // [pixels of a block][lanes]
};

inline Senders from(Senders list, std::ptrdiff_t begin) { return {list.row + begin, list.times + begin}; }

// Three output pixels see a column; their sums stay in registers while the column moves along the row.
template <int kVectors>
void add_columns(const Stage &stage, int count, const float *weights, const Vec *start, const CountScratch &scratch,
                 float *out) {
  Vec sum[3][kVectors]; // of the output pixels that the column is the first, second and third column of
  for (int k = 0; k < kVectors; ++k)
    sum[0][k] = sum[1][k] = sum[2][k] = start[k];
  const std::int32_t *entry = scratch.column;
  for (int c = 0; c < count + 2; ++c, entry += 2) {
    add_senders<3, kVectors>(from(scratch.list, entry[0]), entry[1], weights, stage.lanes, sum);
    for (int k = 0; k < kVectors; ++k) {
      if (c >= 2)
        store(out + (c - 2) * stage.lanes + k * kWidth, sum[2][k]);
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
  Vec start[1][kVectors];
  for (int k = 0; k < kVectors; ++k)
    start[0][k] = rho * load(stage.bias + channel + k * kWidth);

  if (stage.columns != nullptr)
    add_columns<kVectors>(stage, count, stage.columns->weights + tile * (stage.columns->rows + 1) * 3 * lanes + inside,
                          start[0], scratch, total);
  if (stage.gathers > 0 || stage.columns == nullptr) {
    const float *rows = stage.weights + tile * (stage.rows + 1) * lanes + inside;
    const std::int32_t *entry = scratch.window;
    for (int i = 0; i < count; ++i, entry += 2) {
      float *out = total + i * lanes;
      Vec sum[1][kVectors];
      for (int k = 0; k < kVectors; ++k)
        sum[0][k] = stage.columns != nullptr ? load(out + k * kWidth) : start[0][k];
      if (stage.gathers > 0)
        add_senders<1, kVectors>(from(scratch.list, entry[0]), entry[1], rows, lanes, sum);
      for (int k = 0; k < kVectors; ++k)
        store(out + k * kWidth, sum[0][k]);
    }
  }
  for (int s = 0; s < stage.diagonals; ++s) {
    const Diagonal &source = stage.diagonal[s];
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
      if (stage.dense != nullptr) {
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
  if (stage.lanes < kPair)
    count_channels<1>(stage, count, tile, 0, scratch);
  else
    for (int inside = 0; inside < stage.lanes; inside += kPair)
      count_channels<2>(stage, count, tile, inside, scratch);
}

// Lists the senders of all gathers at one output pixel.
inline int list_window(const Stage &stage, const Pixel &pixel, Senders list) {
  int n = 0;
  for (int s = 0; s < stage.gathers; ++s) {
    const Gather &source = stage.gather[s];
    n += list_senders(source.map.at(pixel.n, 0, pixel.y, pixel.x), source.run, source.runs,
                      {list.row + n, list.times + n});
  }
  return fill_up(n, stage.rows, list);
}

// Notes where a list begins and how long it is; returns where it ends.
inline std::ptrdiff_t note(std::int32_t *entry, std::ptrdiff_t begin, int length) {
  entry[0] = static_cast<std::int32_t>(begin);
  entry[1] = length;
  return begin + length;
}

// Lists the senders of every column that the windows of a segment of a row see, from entry `used` on.
inline void list_columns(const Stage &stage, int count, const CountScratch &scratch, std::ptrdiff_t used) {
  const Columns &source = *stage.columns;
  const std::uint8_t *base = source.map.at(scratch.pixel->n, 0, scratch.pixel->y, scratch.pixel->x);
  for (int c = 0; c < count + 2; ++c, base += source.map.column) {
    const Senders list = from(scratch.list, used);
    const int n = list_senders(base, source.run, source.runs, list);
    used = note(scratch.column + 2 * c, used, fill_up(n, source.rows, list));
  }
}

bool run_counts(const Stage &stage) {
  const Blocks blocks = divide(stage);
  // Entries beyond the end of a list are written, too.
  const std::ptrdiff_t per_pixel = stage.gathers > 0 ? stage.inputs + 64 : 0;
  const std::ptrdiff_t per_column = stage.columns != nullptr ? stage.columns->rows + 64 : 0;
  const std::ptrdiff_t chunk = blocks.count / kChunks + 1;
  const std::ptrdiff_t columns = stage.columns != nullptr ? blocks.size + 2 : 0;
  const std::ptrdiff_t fixed = columns * per_column;
  const std::ptrdiff_t free = per_pixel == 0 || per_pixel > stage.list_entries ? per_pixel : stage.list_entries;
  bool enough = true;
#pragma omp parallel
  {
    static thread_local Arena arena;
    const bool ready = arena.reserve(
        Arena::bytes<std::uint16_t>(fixed + free) + Arena::bytes<float>(fixed + free) +
        Arena::bytes<std::int32_t>(2 * columns) + Arena::bytes<std::int32_t>(2 * blocks.size) +
        Arena::bytes<Pixel>(blocks.size) + Arena::bytes<float>(blocks.size * stage.lanes));
    CountScratch scratch{};
    if (ready) {
      scratch.list = {arena.take<std::uint16_t>(fixed + free), arena.take<float>(fixed + free)};
      scratch.column = arena.take<std::int32_t>(2 * columns);
      scratch.window = arena.take<std::int32_t>(2 * blocks.size);
      scratch.pixel = arena.take<Pixel>(blocks.size);
      scratch.total = arena.take<float>(blocks.size * stage.lanes);
    } else {
#pragma omp atomic write
      enough = false;
    }
#pragma omp for schedule(dynamic, chunk)
    for (std::ptrdiff_t index = 0; index < blocks.count; ++index) {
      const std::ptrdiff_t end = ready ? blocks.last(stage, index) : 0; // every thread must come here
      run_pixels(
          stage, blocks.first(stage, index), end, per_pixel, free, scratch.pixel,
          [&](const Pixel &pixel, int number, std::ptrdiff_t used) {
            if (stage.gathers == 0)
              return used;
            return note(scratch.window + 2 * number, used, list_window(stage, pixel, from(scratch.list, used)));
          },
          [&](int count) {
            if (stage.columns != nullptr)
              list_columns(stage, count, scratch, free);
            for (int tile = 0; tile < stage.tiles; ++tile)
              count_tile(stage, count, tile, scratch);
          });
    }
  }
  return enough;
}

} // namespace
} // namespace transpike
