// Vectors of floats as wide as the instruction set: arithmetic is the compiler's, only bit masks need intrinsics.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace transpike {
namespace {

// Floats in a vector, and vectors that fit into registers (at least: AArch64 has more).
#if defined(__AVX512F__)
constexpr int kWidth = 16, kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kWidth = 8, kRegisters = 16;
#else
constexpr int kWidth = 4, kRegisters = 16;
#endif

typedef float Vec __attribute__((vector_size(kWidth * 4)));
typedef std::int32_t Mask __attribute__((vector_size(kWidth * 4))); // all ones where true

inline Vec load(const float *from) {
  Vec value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}
inline void store(float *to, Vec value) { __builtin_memcpy(to, &value, sizeof value); }
inline Vec splat(float value) { return Vec{} + value; }
inline Vec select(Mask mask, Vec yes, Vec no) { return mask ? yes : no; }
inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }
inline Vec smaller(Vec a, Vec b) { return a < b ? a : b; }

// One bit per lane.
inline std::uint32_t bits_of(Mask mask) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask((__m512i)mask);
#elif defined(__AVX2__)
  return static_cast<std::uint32_t>(_mm256_movemask_ps((__m256)mask));
#elif defined(__x86_64__) || defined(_M_X64)
  return static_cast<std::uint32_t>(_mm_movemask_ps((__m128)mask));
#elif defined(__ARM_NEON) && defined(__aarch64__)
  const uint32x4_t weights = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32((uint32x4_t)mask, weights));
#else
  std::uint32_t bits = 0;
  for (int i = 0; i < kWidth; ++i)
    bits |= static_cast<std::uint32_t>(mask[i] != 0) << i;
  return bits;
#endif
}

// Where `value` has reached `limit` it becomes `other`; one bit per lane.
inline std::uint32_t replace_reached(Vec &value, Vec limit, Vec other) {
#if defined(__AVX512F__)
  const __mmask16 reached = _mm512_cmp_ps_mask((__m512)value, (__m512)limit, _CMP_GE_OQ);
  value = (Vec)_mm512_mask_mov_ps((__m512)value, reached, (__m512)other);
  std::uint32_t bits; // by hand: compilers use the mask only after it has gone to a general register and back
  asm("kmovw %1, %0" : "=r"(bits) : "k"(reached));
  return bits;
#else
  const Mask reached = value >= limit;
  value = select(reached, other, value);
  return bits_of(reached);
#endif
}

// Adds `value` in the lanes whose bit is set.
inline Vec add_where(std::uint32_t bits, Vec sum, Vec value) {
#if defined(__AVX512F__)
  return (Vec)_mm512_mask_add_ps((__m512)sum, static_cast<__mmask16>(bits), (__m512)sum, (__m512)value);
#else
  Mask lanes{};
  for (int i = 0; i < kWidth; ++i)
    lanes[i] = 1 << i;
  const Mask set = (lanes & static_cast<std::int32_t>(bits)) != 0;
  return sum + select(set, value, Vec{});
#endif
}

inline Vec round_down(Vec x) {
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_roundscale_ps(0xffff, (__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
  return (Vec)_mm256_floor_ps((__m256)x);
#else
  for (int i = 0; i < kWidth; ++i)
    x[i] = __builtin_floorf(x[i]);
  return x;
#endif
}

inline std::uint64_t load64(const std::uint8_t *from) {
  std::uint64_t value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

inline std::uint32_t load32(const std::uint8_t *from) {
  std::uint32_t value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

} // namespace
} // namespace transpike
