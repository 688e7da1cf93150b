// What a thread keeps while it works on a stage.
#pragma once

#include "pairs.hpp"

namespace transpike {
namespace {

struct Scratch {
  Senders list;           // active rows of a block, and, where a source has counts, how often
  std::int32_t *window;   // where the lists of each pixel begin, and their lengths, kLists per pair of steps
  std::int32_t *column;   // the same of each column
  Together together;      // whether the steps of a pair have lists in common, for the sample at work
  int end;                // of the tiles at work
  Pixel *pixel;           // the output pixels of a block
  float *current;         // [steps][pixels of a block][lanes]
  float *rows;            // of the image, for the pixels of a block
  float *image;           // their currents from it, [pixels of a block][lanes]
  float *v;               // [pixels of a block][lanes]
  std::int64_t *spikes;   // [steps], or null where nobody asks
  Vec *vectors;           // [probe + 2]
};

inline const float *initial_potential(const Stage &stage, const Pixel &pixel, std::ptrdiff_t channel) {
  return stage.v_init + pixel.n * stage.v_sample + pixel.place * stage.v_pixel + channel;
}

// The currents that pixel number `i` of a block receives beside spikes, its channels from `channel` on; or null.
inline const float *dense_currents(const Stage &stage, int i, std::ptrdiff_t channel, std::ptrdiff_t lanes,
                                   const Scratch &scratch) {
  if (stage.image != nullptr)
    return scratch.image + i * lanes;
  if (stage.dense == nullptr)
    return nullptr;
  const Pixel &pixel = scratch.pixel[i];
  return stage.dense + pixel.n * stage.dense_sample + pixel.place * stage.dense_pixel + channel;
}

// Writes the lowest bytes of a word; little-endian, as every CPU with these vectors.
inline void put(std::uint8_t *to, std::uint64_t word, std::ptrdiff_t bytes) {
  for (std::ptrdiff_t i = 0; i < bytes; ++i)
    to[i] = static_cast<std::uint8_t>(word >> (8 * i));
}

} // namespace
} // namespace transpike
