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

} // namespace
} // namespace transpike
