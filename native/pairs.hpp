// Lists of active inputs for two steps at a time: weight rows of inputs that do the same at both are added once.
#pragma once

#include "blocks.hpp"
#include "senders.hpp"

namespace transpike {
namespace {

// A neuron with a steady input rarely fires at two steps running, and often does what it did some steps ago: the first of
// eight steps goes with the fifth, the first of four with the third.
struct Pair {
  int first, second; // second < 0: a step on its own
  bool alone() const { return second < 0; }
};
inline int pairs_of(int steps) { return (steps + 1) / 2; }
inline Pair pair_of(int index, int steps) {
  const int eight = index / 4 * 8;
  index %= 4;
  if (steps - eight >= 8)
    return {eight + index, eight + index + 4};
  const int four = eight + index / 2 * 4, left = steps - four;
  index %= 2;
  if (left <= 2)
    return {four, left == 2 ? four + 1 : -1};
  return {four + index, index + 2 < left ? four + index + 2 : -1};
}

constexpr int kLists = 3; // of a pair: inputs alike at both steps, others of the first step, others of the second

// The highest bit of every byte that is not zero.
inline std::uint64_t some_bytes(std::uint64_t bytes) {
  constexpr std::uint64_t kLow = 0x7f7f7f7f7f7f7f7f;
  return (((bytes & kLow) + kLow) | bytes) & ~kLow;
}

// How often inputs of one sample are active alike at both steps of a pair: a share of all inputs, halo included.
inline float share_alike(const Map &map, bool counts, std::ptrdiff_t n, int steps) {
  std::int64_t alike = 0;
  const std::uint8_t *base = map.data + n * map.sample;
  for (int p = 0; p < pairs_of(steps); ++p) {
    const Pair pair = pair_of(p, steps);
    if (pair.alone())
      continue;
    const std::uint8_t *first = base + pair.first * map.step, *second = base + pair.second * map.step;
    for (std::ptrdiff_t i = 0; i < map.step; i += 8) {
      const std::uint64_t one = load64(first + i), two = load64(second + i);
      const std::uint64_t both = counts ? some_bytes(one) & ~some_bytes(one ^ two) : one & two;
      const std::ptrdiff_t left = map.step - i;
      alike += __builtin_popcountll(left < 8 ? both & ((std::uint64_t{1} << 8 * left) - 1) : both);
    }
  }
  return static_cast<float>(alike) / static_cast<float>(map.step * (counts ? 1 : 8) * pairs_of(steps));
}

// Whether common lists save a sample more additions than they cost, in vectors; the costs were fitted to measured stages.
// It depends on the sample and T alone, so that its sums have one order whatever else is in the batch.
struct Together {
  std::ptrdiff_t sample;
  bool windows, columns;

  // Decides for sample n, unless it did so last.
  void decide(const Stage &stage, std::ptrdiff_t n) {
    if (n == sample)
      return;
    sample = n;
    const float vectors = static_cast<float>(stage.padded_channels / kWidth);
    float saved = 0, listed = 0;
    for (int s = 0; s < stage.gathers; ++s) {
      const Gather &source = stage.gather[s];
      int inputs = 0;
      for (int r = 0; r < source.runs; ++r)
        inputs += source.run[r].bits;
      saved += share_alike(source.map, source.counts, n, stage.steps) * static_cast<float>(inputs) * vectors;
      listed += static_cast<float>(inputs) / 16;
    }
    windows = saved > listed + 2 * vectors + 16 * static_cast<float>(stage.tiles);
    columns = false;
    if (stage.columns != nullptr && stage.columns->table == nullptr) {
      const Columns &source = *stage.columns;
      const float inputs = static_cast<float>(source.rows);
      saved = share_alike(source.map, source.counts, n, stage.steps) * inputs * 3 * vectors;
      columns = saved > inputs / 16 + 6 * vectors + 16 * static_cast<float>(stage.tiles);
    }
  }
};

// Makes the lists of a pair from entry `used` on: `append(which, list)` lists inputs. Returns where they end.
template <typename Append>
inline std::ptrdiff_t list_pair(Pair pair, bool together, Append append, std::int32_t *entry, std::ptrdiff_t used) {
  together = together && !pair.alone();
  used = note(entry, used, together ? append(kBoth, used) : 0);
  used = note(entry + 2, used, append(together ? kOnlyFirst : kFirst, used));
  return note(entry + 4, used, pair.alone() ? 0 : append(together ? kOnlySecond : kSecond, used));
}

// Lists which weight rows the inputs of one output pixel select at a pair of steps, in whole fours.
inline std::ptrdiff_t list_window(const Stage &stage, const Pixel &pixel, Pair pair, bool together, Senders list,
                                  std::int32_t *entry, std::ptrdiff_t used) {
  const auto append = [&](Which which, std::ptrdiff_t begin) {
    int count = 0;
    const Senders to = from(list, begin);
    for (int s = 0; s < stage.gathers; ++s) {
      const Gather &source = stage.gather[s];
      const std::uint8_t *first = source.map.at(pixel.n, pair.first, pixel.y, pixel.x);
      const std::uint8_t *second = pair.alone() ? first : source.map.at(pixel.n, pair.second, pixel.y, pixel.x);
      if (source.counts) {
        count += list_senders(first, second, which, source.run, source.runs, from(to, count));
      } else {
        const int active = append_runs(first, second, which, source.run, source.runs, to.row + count);
        for (int i = 0; stage.times && i < active; ++i)
          to.times[count + i] = 1;
        count += active;
      }
    }
    return stage.times ? fill_up(count, stage.rows, to) : round_up(to.row, count, stage.rows);
  };
  return list_pair(pair, together, append, entry, used);
}

// The same for every column that the windows of `count` output pixels of a row see, not rounded up.
inline std::ptrdiff_t list_columns(const Columns &source, const Pixel &begin, int count, Pair pair, bool together,
                                   Senders list, std::int32_t *entry, std::ptrdiff_t used) {
  for (int c = 0; c < count + 2; ++c, entry += 2 * kLists) {
    const std::uint8_t *first = source.map.at(begin.n, pair.first, begin.y, begin.x + c);
    const std::uint8_t *second = pair.alone() ? first : source.map.at(begin.n, pair.second, begin.y, begin.x + c);
    const auto append = [&](Which which, std::ptrdiff_t at) {
      if (source.counts)
        return list_senders(first, second, which, source.run, source.runs, from(list, at));
      return append_runs(first, second, which, source.run, source.runs, list.row + at);
    };
    used = list_pair(pair, together, append, entry, used);
  }
  return used;
}

} // namespace
} // namespace transpike
