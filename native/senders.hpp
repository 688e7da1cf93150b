// Inputs that count for several spikes: weight rows times how often, added up in registers.
#pragma once

#include "active.hpp"

namespace transpike {
namespace {

// Inputs that send something: the number of the weight row of each, and how often it sends.
struct Senders {
  std::uint16_t *row;
  float *times;
};

inline Senders from(Senders list, std::ptrdiff_t begin) { return {list.row + begin, list.times + begin}; }

// Of inputs that send something at the first step, at the second, and the same at both: those that belong to a list.
template <Which kWhich, typename Bits> inline Bits belong(Bits first, Bits second, Bits equal) {
  switch (kWhich) {
  case kFirst:
    return first;
  case kSecond:
    return second;
  case kBoth:
    return first & equal;
  case kOnlyFirst:
    return first & ~equal;
  default:
    return second & ~equal;
  }
}

// Appends senders of a run, those of two steps that `kWhich` says; writes up to 32 entries more than it returns.
template <Which kWhich>
inline int append_senders(const std::uint8_t *first, const std::uint8_t *second, const Run &run, Senders list) {
  constexpr bool kOfSecond = kWhich == kSecond || kWhich == kOnlySecond; // whose counts the list has
  int n = 0;
#if defined(__AVX512VBMI2__)
  if (run.bits <= 32) { // half a vector takes half the time
    const __m256i one = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(first));
    const __m256i two = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(second));
    const std::uint32_t some = static_cast<std::uint32_t>(run_mask(run, 0)) &
                               belong<kWhich, std::uint32_t>(_mm256_test_epi8_mask(one, one),
                                                             _mm256_test_epi8_mask(two, two),
                                                             _mm256_cmpeq_epi8_mask(one, two));
    const __m256i packed = _mm256_maskz_compress_epi8(some, kOfSecond ? two : one);
    store(list.times, (Vec)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm256_castsi256_si128(packed))));
    store(list.times + 16, (Vec)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm256_extracti128_si256(packed, 1))));
    return append_half(some, run.row, list.row);
  }
  for (int b = 0; b < run.bits; b += 64) {
    const __m512i one = _mm512_loadu_si512(first + b), two = _mm512_loadu_si512(second + b);
    const std::uint64_t some = run_mask(run, b) & belong<kWhich, std::uint64_t>(_mm512_test_epi8_mask(one, one),
                                                                                _mm512_test_epi8_mask(two, two),
                                                                                _mm512_cmpeq_epi8_mask(one, two));
    const __m512i packed = _mm512_maskz_compress_epi8(some, kOfSecond ? two : one);
    const int found = append(some, run.row + b, list.row + n);
    float *to = list.times + n;
    store(to, (Vec)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm512_castsi512_si128(packed))));
    if (found > 16)
      store(to + 16, (Vec)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32(packed, 1))));
    if (found > 32) {
      store(to + 32, (Vec)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32(packed, 2))));
      store(to + 48, (Vec)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32(packed, 3))));
    }
    n += found;
  }
#elif defined(__AVX2__)
  const auto bytes_where = [](__m128i mask) { return static_cast<unsigned>(_mm_movemask_epi8(mask)); };
  for (int b = 0; b < run.bits; b += 8) { // runs are whole eights
    const __m128i one = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(first + b));
    const __m128i two = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(second + b)), none = _mm_setzero_si128();
    const unsigned some =
        255 & belong<kWhich, unsigned>(~bytes_where(_mm_cmpeq_epi8(one, none)), ~bytes_where(_mm_cmpeq_epi8(two, none)),
                                       bytes_where(_mm_cmpeq_epi8(one, two)));
    const __m128i places = _mm_loadu_si128(reinterpret_cast<const __m128i *>(kBytes.places[some]));
    const __m128i rows = _mm_add_epi16(places, _mm_set1_epi16(static_cast<short>(run.row + b)));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(list.row + n), rows);
    const __m256 times = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(kOfSecond ? two : one));
    _mm256_storeu_ps(list.times + n, _mm256_permutevar8x32_ps(times, _mm256_cvtepu16_epi32(places)));
    n += kBytes.count[some];
  }
#else
  for (int b = 0; b < run.bits; ++b) {
    const int one = first[b], two = second[b];
    list.row[n] = static_cast<std::uint16_t>(run.row + b);
    list.times[n] = static_cast<float>(kOfSecond ? two : one);
    n += belong<kWhich, int>(one != 0, two != 0, one == two ? 1 : 0) & 1;
  }
#endif
  return n;
}

// Lists senders of a window, those of two steps that `kWhich` says.
template <Which kWhich>
inline int list_senders(const std::uint8_t *first, const std::uint8_t *second, const Run *runs, int size,
                        Senders list) {
  int n = 0;
  for (int r = 0; r < size; ++r)
    n += append_senders<kWhich>(first + runs[r].offset, second + runs[r].offset, runs[r], from(list, n));
  return n;
}

inline int list_senders(const std::uint8_t *first, const std::uint8_t *second, Which which, const Run *runs, int size,
                        Senders list) {
  switch (which) {
  case kFirst:
    return list_senders<kFirst>(first, first, runs, size, list); // `second` may be null
  case kSecond:
    return list_senders<kSecond>(first, second, runs, size, list);
  case kBoth:
    return list_senders<kBoth>(first, second, runs, size, list);
  case kOnlyFirst:
    return list_senders<kOnlyFirst>(first, second, runs, size, list);
  default:
    return list_senders<kOnlySecond>(first, second, runs, size, list);
  }
}

// Makes a list whole fours long with the zero row.
inline int fill_up(int n, std::ptrdiff_t zero_row, Senders list) {
  for (int i = 0; i < 3; ++i) {
    list.row[n + i] = static_cast<std::uint16_t>(zero_row);
    list.times[n + i] = 0;
  }
  return (n + 3) & ~3;
}

// Adds kRows neighbouring weight rows, of kVectors out of `lanes` each, of every sender to as many sums.
template <int kRows, int kVectors>
inline void add_senders(Senders list, int count, const float *weights, std::ptrdiff_t lanes, Vec (*sum)[kVectors]) {
  constexpr int kSums = kRows * kVectors <= 2 ? 4 : (kRows * kVectors <= 6 ? 2 : 1); // hides the latency of additions
  Vec part[kSums][kRows][kVectors] = {};
  for (int i = 0; i < count; i += 4) {
    std::uint64_t rows; // of four senders: the loads of weights need the memory's ports
    __builtin_memcpy(&rows, list.row + i, sizeof rows);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const float *row = weights + (rows >> (16 * j) & 0xffff) * kRows * static_cast<std::uint64_t>(lanes);
      const float times = list.times[i + j];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
        for (int k = 0; k < kVectors; ++k)
          part[j % kSums][r][k] += times * load(row + r * lanes + k * kWidth);
    }
  }
  for (int s = 0; s < kSums; ++s)
    for (int r = 0; r < kRows; ++r)
      for (int k = 0; k < kVectors; ++k)
        sum[r][k] += part[s][r][k];
}

} // namespace
} // namespace transpike
