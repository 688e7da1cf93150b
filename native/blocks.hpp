// Output pixels in blocks, and who works on which.
#pragma once

#include "kernels.hpp"

namespace transpike {
namespace {

struct Pixel {
  std::ptrdiff_t n, y, x;
  std::ptrdiff_t place; // y * columns + x
  std::ptrdiff_t out;   // of its first spikes in the map that the stage writes
};

// How the output pixels are dealt to the threads: in blocks, or in segments of rows where columns move along rows.
struct Blocks {
  std::ptrdiff_t count, size, per_row;
  std::ptrdiff_t groups; // of tiles: every block has a turn for each
  // A thread takes as many turns at once, of blocks for one group of tiles after the other: the weights of a group are
  // read once, and the threads meet less often at the counter that they share.
  std::ptrdiff_t chunk(const Stage &stage) const {
    const std::ptrdiff_t share = count * groups / stage.threads;
    return groups == 1 ? count / kChunks + 1 : (share < 1 ? 1 : share);
  }
  int tile(const Stage &stage, std::ptrdiff_t turn) const { // the first of a turn
    return static_cast<int>(turn / count * stage.tiles / groups);
  }
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
  const std::ptrdiff_t kept = stage.groups > 1 ? 4 * kCurrents : kCurrents; // one block, not to read the weights again
  std::ptrdiff_t most = kept / (static_cast<std::ptrdiff_t>(stage.steps) * stage.lanes);
  most = most < 1 ? 1 : most;
  if (stage.columns == nullptr) {
    const std::ptrdiff_t size = stage.block < most ? stage.block : most;
    return {(total + size - 1) / size, size, 0, stage.groups};
  }
  const std::ptrdiff_t segments = (stage.row_pixels + most - 1) / most;
  const std::ptrdiff_t size = (stage.row_pixels + segments - 1) / segments;
  return {total / stage.row_pixels * segments, size, segments, stage.groups};
}

// Takes the output pixels from `first` to `end` in blocks, as many at once as have room for their lists:
// `list(pixel, number, used)` lists the inputs of one and says how much is used then, `run(count)` runs a block.
template <typename List, typename Run>
void run_pixels(const Stage &stage, std::ptrdiff_t first, std::ptrdiff_t end, std::ptrdiff_t per_pixel,
                std::ptrdiff_t room, Pixel *pixels, List list, Run run) {
  const std::ptrdiff_t row = stage.row_pixels, bytes = stage.out_channel_bytes;
  std::ptrdiff_t n = first / stage.pixels, y = first % stage.pixels / row, x = first % row;
  while (first < end) {
    std::ptrdiff_t used = 0;
    int count = 0;
    while (first < end && used + per_pixel <= room) { // the rest of a row
      const std::ptrdiff_t begin = x, stop = end - first < row - x ? x + end - first : row;
      std::ptrdiff_t out = n * stage.out_sample + y * stage.out_row + x * bytes;
      for (; x < stop && used + per_pixel <= room; ++x, ++count, out += bytes) {
        pixels[count] = {n, y, x, y * row + x, out};
        used = list(pixels[count], count, used);
      }
      first += x - begin;
      if (x == row) {
        x = 0;
        if (++y * row == stage.pixels) {
          y = 0;
          ++n;
        }
      }
    }
    run(count);
  }
}

} // namespace
} // namespace transpike
