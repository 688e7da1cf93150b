// Pools maps: how often the pixels of a window spike, by channel, one byte each.
#pragma once

#include "chain.hpp"
#include "simd.hpp"

namespace transpike {
namespace {

// Eight channels at a time, a byte of a word each.
inline void count_bits(const std::uint8_t *from, const Pool &pool, std::uint8_t *sums) {
  std::ptrdiff_t b = 0;
#if defined(__AVX512BW__)
  for (; b + 8 <= pool.bytes; b += 8) {
    __m512i sum = _mm512_setzero_si512();
    for (std::ptrdiff_t i = 0; i < pool.pixels; ++i)
      sum = _mm512_sub_epi8(sum, _mm512_movm_epi8(load64(from + pool.offset[i] + b)));
    _mm512_storeu_si512(sums + 8 * b, sum);
  }
#endif
  for (; b < pool.bytes; ++b) {
    std::uint64_t sum = 0;
    for (std::ptrdiff_t i = 0; i < pool.pixels; ++i) {
      std::uint64_t bits = from[pool.offset[i] + b] * 0x0101010101010101u & 0x8040201008040201u; // bit j in byte j
      bits = (bits + 0x7f7f7f7f7f7f7f7fu) >> 7 & 0x0101010101010101u; // one where the byte is not zero
      sum += bits;
    }
    __builtin_memcpy(sums + 8 * b, &sum, sizeof sum);
  }
}

inline void add_counts(const std::uint8_t *from, const Pool &pool, std::uint8_t *sums) {
  for (std::ptrdiff_t b = 0; b < pool.bytes; ++b)
    sums[b] = 0;
  for (std::ptrdiff_t i = 0; i < pool.pixels; ++i)
    for (std::ptrdiff_t b = 0; b < pool.bytes; ++b)
      sums[b] = static_cast<std::uint8_t>(sums[b] + from[pool.offset[i] + b]);
}

// Takes part in pooling, rows of windows in turn.
void run_pool(Member &member, const Link *links, Link &link) {
  const Pool &pool = *link.pool;
  const std::ptrdiff_t bytes = pool.counts ? pool.bytes : 8 * pool.bytes;
  const std::ptrdiff_t lines = pool.samples * pool.steps * pool.rows, per_sample = pool.steps * pool.rows;
  take_turns(member, &link.next, lines, lines / kChunks + 1, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    if (!wait_for(member, links, link, begin / per_sample, (end - 1) / per_sample))
      return;
    for (std::ptrdiff_t line = begin; line < end; ++line) {
      const std::uint8_t *from = pool.from + line / pool.rows * pool.image + line % pool.rows * pool.row;
      std::uint8_t *to = pool.to + line * pool.columns * bytes;
      for (std::ptrdiff_t x = 0; x < pool.columns; ++x, from += pool.column, to += bytes)
        if (pool.counts)
          add_counts(from, pool, to);
        else
          count_bits(from, pool, to);
    }
    tell(member, link, per_sample, begin, end);
  });
}

} // namespace
} // namespace transpike
