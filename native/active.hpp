// Which inputs of a window are active: numbers of weight rows from bits.
#pragma once

#include "kernels.hpp"
#include "simd.hpp"

namespace transpike {
namespace {

#if defined(__AVX512VBMI2__)
// Appends the numbers first + i of the set bits i; writes up to 32 entries, returns how many count.
inline int append(std::uint32_t bits, int first, std::uint16_t *list) {
  alignas(64) static const std::uint16_t iota[32] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                                     16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31};
  const __m512i numbers =
      _mm512_add_epi16(_mm512_load_si512(iota), _mm512_set1_epi16(static_cast<short>(static_cast<std::uint16_t>(first))));
  _mm512_storeu_si512(list, _mm512_maskz_compress_epi16(bits, numbers));
  return __builtin_popcount(bits);
}
#else
struct ByteTable {
  std::uint16_t places[256][8];
  std::uint8_t count[256];
  constexpr ByteTable() : places(), count() {
    for (int byte = 0; byte < 256; ++byte) {
      int n = 0;
      for (int bit = 0; bit < 8; ++bit)
        if (byte >> bit & 1)
          places[byte][n++] = static_cast<std::uint16_t>(bit);
      count[byte] = static_cast<std::uint8_t>(n);
    }
  }
};
constexpr ByteTable kBytes{};

inline int append(std::uint32_t bits, int first, std::uint16_t *list) {
  int n = 0;
  for (int byte = 0; byte < 4; ++byte) {
    const std::uint32_t value = bits >> (8 * byte) & 255;
    for (int i = 0; i < 8; ++i)
      list[n + i] = static_cast<std::uint16_t>(kBytes.places[value][i] + first + 8 * byte);
    n += kBytes.count[value];
  }
  return n;
}
#endif

// Appends the numbers of the active bits of a window's runs.
inline int append_runs(const std::uint8_t *base, const Run *runs, int size, std::uint16_t *list) {
  int count = 0;
  for (int r = 0; r < size; ++r) {
    const Run run = runs[r];
    const std::uint8_t *bits = base + run.offset;
    for (int b = 0; b < run.bits; b += 32, bits += 4) {
      std::uint32_t word = load32(bits);
      if (run.bits - b < 32)
        word &= (1u << (run.bits - b)) - 1;
      count += append(word, run.row + b, list + count);
    }
  }
  return count;
}

// Makes a list whole fours long with the number of the zero row.
inline int round_up(std::uint16_t *list, int count, std::ptrdiff_t zero_row) {
  for (int i = 0; i < 3; ++i)
    list[count + i] = static_cast<std::uint16_t>(zero_row);
  return (count + 3) & ~3;
}

// Numbers of the weight rows whose inputs spike at one output pixel and step.
inline int list_active(const Stage &stage, std::ptrdiff_t n, std::ptrdiff_t t, std::ptrdiff_t y, std::ptrdiff_t x,
                       std::uint16_t *list) {
  int count = 0;
  for (int s = 0; s < stage.gathers; ++s) {
    const Gather &source = stage.gather[s];
    count += append_runs(source.map.at(n, t, y, x), source.run, source.runs, list + count);
  }
  return round_up(list, count, stage.rows);
}

} // namespace
} // namespace transpike
