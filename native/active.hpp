// Which inputs of a window are active: numbers of weight rows from bits.
#pragma once

#include "kernels.hpp"
#include "simd.hpp"

namespace transpike {
namespace {

#if defined(__AVX512VBMI2__)
inline __m512i iota_bytes() {
  alignas(64) static const std::uint8_t numbers[64] = {
      0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
      22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
      44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
  return _mm512_load_si512(numbers);
}

// Appends the numbers first + i of the set bits i; writes up to 32 entries more than it returns.
inline int append(std::uint64_t bits, int first, std::uint16_t *list) {
  const int count = __builtin_popcountll(bits);
  const __m512i places = _mm512_maskz_compress_epi8(bits, iota_bytes());
  const __m512i begin = _mm512_set1_epi16(static_cast<short>(static_cast<std::uint16_t>(first)));
  _mm512_storeu_si512(list, _mm512_add_epi16(_mm512_cvtepu8_epi16(_mm512_castsi512_si256(places)), begin));
  if (count > 32)
    _mm512_storeu_si512(list + 32,
                        _mm512_add_epi16(_mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(places, 1)), begin));
  return count;
}
// The same for 32 bits, which takes half the time.
inline int append_half(std::uint32_t bits, int first, std::uint16_t *list) {
  const __m512i begin = _mm512_set1_epi16(static_cast<short>(static_cast<std::uint16_t>(first)));
  const __m512i numbers = _mm512_add_epi16(_mm512_cvtepu8_epi16(_mm512_castsi512_si256(iota_bytes())), begin);
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

inline int append(std::uint64_t bits, int first, std::uint16_t *list) {
  int n = 0;
  for (; bits != 0; bits >>= 8, first += 8) {
    const std::uint64_t value = bits & 255;
    for (int i = 0; i < 8; ++i)
      list[n + i] = static_cast<std::uint16_t>(kBytes.places[value][i] + first);
    n += kBytes.count[value];
  }
  return n;
}
inline int append_half(std::uint32_t bits, int first, std::uint16_t *list) { return append(bits, first, list); }
#endif

// The bits that a run has from bit b on, at most 64.
inline std::uint64_t run_mask(const Run &run, int b) {
  return run.bits - b < 64 ? (std::uint64_t{1} << (run.bits - b)) - 1 : ~std::uint64_t{0};
}

// Which inputs of two steps: those active at the first, at the second, at both alike, at the first or second otherwise.
enum Which { kFirst, kSecond, kBoth, kOnlyFirst, kOnlySecond };

template <typename Word> inline int append_words(Word word, const Run *runs, int size, std::uint16_t *list) {
  int count = 0;
  for (int r = 0; r < size; ++r) {
    const Run &run = runs[r];
    if (run.bits <= 32)
      count += append_half(static_cast<std::uint32_t>(word(run.offset) & run_mask(run, 0)), run.row, list + count);
    else
      for (int b = 0; b < run.bits; b += 64)
        count += append(word(run.offset + b / 8) & run_mask(run, b), run.row + b, list + count);
  }
  return count;
}

// Appends the numbers of the active bits of a window's runs.
inline int append_runs(const std::uint8_t *first, const std::uint8_t *second, Which which, const Run *runs, int size,
                       std::uint16_t *list) {
  switch (which) {
  case kFirst:
    return append_words([=](int at) { return load64(first + at); }, runs, size, list);
  case kSecond:
    return append_words([=](int at) { return load64(second + at); }, runs, size, list);
  case kBoth:
    return append_words([=](int at) { return load64(first + at) & load64(second + at); }, runs, size, list);
  case kOnlyFirst:
    return append_words([=](int at) { return load64(first + at) & ~load64(second + at); }, runs, size, list);
  default:
    return append_words([=](int at) { return load64(second + at) & ~load64(first + at); }, runs, size, list);
  }
}

// Makes a list whole fours long with the number of the zero row.
inline int round_up(std::uint16_t *list, int count, std::ptrdiff_t zero_row) {
  for (int i = 0; i < 3; ++i)
    list[count + i] = static_cast<std::uint16_t>(zero_row);
  return (count + 3) & ~3;
}

// Notes where a list begins and how long it is; returns where it ends.
inline std::ptrdiff_t note(std::int32_t *entry, std::ptrdiff_t begin, int length) {
  entry[0] = static_cast<std::int32_t>(begin);
  entry[1] = length;
  return begin + length;
}

} // namespace
} // namespace transpike
