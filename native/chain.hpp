// A chain: stages and pools one after the other, computed by all threads without a meeting in between.
//
// A thread takes turns of the first link until none is left and goes on with the next one while others are still at
// work. Before the turns that it takes at once it waits until the links that it reads are done with their samples: with
// several samples in a batch they have been for long. Turns are taken in order, so the earliest that is not done never
// waits.
#pragma once

#include <sched.h>

#include "arena.hpp"
#include "blocks.hpp"

namespace transpike {
namespace {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits for samples `first` to `last` of the links before.
inline void wait_for(const Link *links, const Link &link, std::ptrdiff_t first, std::ptrdiff_t last) {
  constexpr int kPatience = 1 << 12; // looks before other threads of this core get a chance
  for (int i = 0; i < link.afters; ++i) {
    const Link &before = links[link.after[i]];
    for (std::ptrdiff_t n = first; n <= last; ++n)
      for (int looks = 0; __atomic_load_n(before.done + n, __ATOMIC_ACQUIRE) < before.units;)
        if (looks < kPatience) {
          ++looks;
          pause();
        } else {
          sched_yield();
        }
  }
}

// Tells the others that units `first` to `end` are done; samples have `per_sample`.
inline void tell(const Link &link, std::ptrdiff_t per_sample, std::ptrdiff_t first, std::ptrdiff_t end) {
  while (first < end) {
    const std::ptrdiff_t n = first / per_sample, next = (n + 1) * per_sample < end ? (n + 1) * per_sample : end;
    __atomic_fetch_add(link.done + n, next - first, __ATOMIC_RELEASE);
    first = next;
  }
}

// Takes turns 0 .. count - 1, `chunk` at a time, until the threads have taken all: `turns(begin, end)`.
template <typename Turns> void take_turns(Link &link, std::ptrdiff_t count, std::ptrdiff_t chunk, Turns turns) {
  for (;;) {
    const std::ptrdiff_t begin = __atomic_fetch_add(&link.next, chunk, __ATOMIC_RELAXED);
    if (begin >= count)
      return;
    turns(begin, begin + chunk < count ? begin + chunk : count);
  }
}

// Runs the blocks of a stage: `block(first, end, tile, last)` runs output pixels for tiles `tile` .. `last` - 1.
template <typename Block> void take_blocks(const Link *links, Link &link, const Blocks &blocks, Block block) {
  const Stage &stage = *link.stage;
  take_turns(link, blocks.count * blocks.groups, blocks.chunk(stage), [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    while (begin < end) { // blocks that follow one another, all for one group of tiles
      const std::ptrdiff_t group = begin / blocks.count * blocks.count;
      const std::ptrdiff_t stop = end < group + blocks.count ? end : group + blocks.count;
      const std::ptrdiff_t first = blocks.first(stage, begin - group), last = blocks.last(stage, stop - 1 - group);
      wait_for(links, link, first / stage.pixels, (last - 1) / stage.pixels);
      const int tile = blocks.tile(stage, begin), next = blocks.tile(stage, begin + blocks.count);
      for (; begin < stop; ++begin)
        block(blocks.first(stage, begin - group), blocks.last(stage, begin - group), tile, next);
      tell(link, stage.pixels, first, last);
    }
  });
}

} // namespace
} // namespace transpike
