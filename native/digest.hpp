// A number that tells one content of memory from another.
#pragma once

#include "kernels.hpp"
#include "simd.hpp"

namespace transpike {
namespace {

typedef std::uint32_t Words __attribute__((vector_size(kWidth * 4)));

// What differs in one word has another digest for certain, else with a chance of 1 in 2^32 not: every step is a bijection
// of the state, and the shift keeps changes of many words from adding up to none.
inline Words mix(Words state, Words words) {
  state = (state ^ words) * 0x9e3779b1u;
  return state ^ state >> 15;
}

std::uint64_t digest(const Span *spans, std::ptrdiff_t count, std::ptrdiff_t stride) {
  constexpr int kChains = 4; // hide the latency of multiplications
  constexpr std::ptrdiff_t kVector = sizeof(Words);
  constexpr std::ptrdiff_t kGroup = kChains * kVector, kLines = kGroup / kLine;
  Words state[kChains] = {};
  const std::ptrdiff_t step = stride == 0 ? kLine : stride; // from a line that is read to the next
  for (std::ptrdiff_t s = 0; s < count; ++s) {
    const char *data = spans[s].data;
    std::ptrdiff_t left = spans[s].bytes;
    for (; left >= (kLines - 1) * step + kLine; left -= kLines * step, data += kLines * step)
#pragma GCC unroll 4
      for (int k = 0; k < kChains; ++k) {
        Words words;
        __builtin_memcpy(&words, data + k * kVector / kLine * step + k * kVector % kLine, kVector);
        state[k] = mix(state[k], words);
      }
    for (; left > 0; left -= step, data += step) {
      const std::ptrdiff_t size = left < kLine ? left : kLine;
      for (std::ptrdiff_t i = 0; i < size; i += kVector) {
        Words words = {};
        __builtin_memcpy(&words, data + i, static_cast<std::size_t>(size - i < kVector ? size - i : kVector));
        state[i / kVector] = mix(state[i / kVector], words);
      }
    }
  }
  std::uint64_t found = 0;
  for (int k = 0; k < kChains; ++k)
    for (int lane = 0; lane < kWidth; ++lane) {
      found = (found ^ state[k][lane]) * 0x9e3779b97f4a7c15u;
      found ^= found >> 29;
    }
  return found;
}

} // namespace
} // namespace transpike
