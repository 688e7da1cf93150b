// A chain: stages and pools one after the other, computed by all threads without a meeting in between.
//
// A thread takes turns of the first link until none is left and goes on with the next one while others are still at
// work. Before the turns that it takes at once it waits until the links that it reads are done with their samples: with
// several samples in a batch they have been for long. Turns are taken in order, so the earliest that is not done never
// waits.
#pragma once

#include "arena.hpp"
#include "blocks.hpp"

namespace transpike {
namespace {

// Waits for samples `first` to `last` of the links before, and for their neighbours, since whole vectors that are read at
// the border of a sample reach into these; false if the run shall end.
inline bool wait_for(Member &member, const Link *links, const Link &link, std::ptrdiff_t first, std::ptrdiff_t last) {
  const std::ptrdiff_t before_first = first - link.reach, behind = last + 1 + link.reach;
  const std::ptrdiff_t begin = before_first > 0 ? before_first : 0, end = behind < link.samples ? behind : link.samples;
  for (int i = 0; i < link.afters; ++i) {
    const Link &before = links[link.after[i]];
    for (std::ptrdiff_t n = begin; n < end; ++n)
      if (__atomic_load_n(before.done + n * kDone, __ATOMIC_ACQUIRE) < before.units)
        wait_for_count(member, before.done + n * kDone, before.units);
  }
  return !stopped(member);
}

// Tells the others that units `first` to `end` are done; samples have `per_sample`.
inline void tell(Member &member, const Link &link, std::ptrdiff_t per_sample, std::ptrdiff_t first,
                 std::ptrdiff_t end) {
  while (first < end) {
    const std::ptrdiff_t n = first / per_sample, next = (n + 1) * per_sample < end ? (n + 1) * per_sample : end;
    raise_count(member, link.done + n * kDone, next - first);
    first = next;
  }
}

// Runs the blocks of a stage: `block(first, end, tile, last)` runs output pixels for tiles `tile` .. `last` - 1.
template <typename Block>
void take_blocks(Member &member, const Link *links, Link &link, const Blocks &blocks, Block block) {
  const Stage &stage = *link.stage;
  const std::ptrdiff_t count = blocks.count * blocks.groups, chunk = blocks.chunk(stage);
  take_turns(member, &link.next, count, chunk, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    while (begin < end) { // blocks that follow one another, all for one group of tiles
      const std::ptrdiff_t group = begin / blocks.count * blocks.count;
      const std::ptrdiff_t stop = end < group + blocks.count ? end : group + blocks.count;
      const std::ptrdiff_t first = blocks.first(stage, begin - group), last = blocks.last(stage, stop - 1 - group);
      if (!wait_for(member, links, link, first / stage.pixels, (last - 1) / stage.pixels))
        return;
      const int tile = blocks.tile(stage, begin), next = blocks.tile(stage, begin + blocks.count);
      for (; begin < stop; ++begin) {
        if (stopped(member))
          return;
        block(blocks.first(stage, begin - group), blocks.last(stage, begin - group), tile, next);
      }
      tell(member, link, stage.pixels, first, last);
    }
  });
}

} // namespace
} // namespace transpike
