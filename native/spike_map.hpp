// Bit-packed spikes as Python owns them, and their way back to numbers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "binding.hpp"

namespace transpike {

constexpr std::ptrdiff_t kGuard = 64; // bytes before and behind every spike map, so that whole words can be read

// A spike map that is read.
struct Given {
  const std::uint8_t *data;
  std::ptrdiff_t size;
};

// Bits with a guard on either side, all zero at first.
class SpikeMap {
public:
  explicit SpikeMap(std::ptrdiff_t size) : bytes_(static_cast<std::size_t>(checked(size) + 2 * kGuard)) {}

  std::ptrdiff_t size() const { return static_cast<std::ptrdiff_t>(bytes_.size()) - 2 * kGuard; }
  std::uint8_t *data() { return bytes_.data() + kGuard; }
  Given given() const { return {bytes_.data() + kGuard, size()}; }

private:
  static std::ptrdiff_t checked(std::ptrdiff_t size) {
    expect(size >= 0, "a spike map cannot have a negative size");
    expect(size <= std::numeric_limits<std::ptrdiff_t>::max() - 2 * kGuard, "a spike map would be too large");
    return size;
  }
  std::vector<std::uint8_t> bytes_;
};

// The size of a spike map with its halo; bytes of one pixel.
struct MapShape {
  std::ptrdiff_t samples, steps, rows, columns, channel_bytes;
  std::ptrdiff_t size() const {
    std::ptrdiff_t product = samples;
    for (const std::ptrdiff_t factor : {steps, rows, columns, channel_bytes})
      expect(!__builtin_mul_overflow(product, factor, &product), "a spike map would be too large");
    return product;
  }
};

// Bit j of byte i becomes bit i of byte j.
inline std::uint64_t transpose(std::uint64_t bits) {
  std::uint64_t moved = (bits ^ bits >> 7) & 0x00aa00aa00aa00aa;
  bits ^= moved ^ moved << 7;
  moved = (bits ^ bits >> 14) & 0x0000cccc0000cccc;
  bits ^= moved ^ moved << 14;
  moved = (bits ^ bits >> 28) & 0x00000000f0f0f0f0;
  return bits ^ moved ^ moved << 28;
}

// Numbers of one row of pixels, eight pixels and eight channels at a time: to[channel * stride + x].
inline void unpack_row(const std::uint8_t *from, std::ptrdiff_t columns, std::ptrdiff_t channels, const float *factor,
                float *to, std::ptrdiff_t stride) {
  const std::ptrdiff_t bytes = (channels + 7) / 8;
  for (std::ptrdiff_t first = 0; first < channels; first += 8)
    for (std::ptrdiff_t x = 0; x < columns; x += 8) {
      const std::ptrdiff_t width = std::min<std::ptrdiff_t>(8, columns - x);
      std::uint64_t bits = 0;
      for (std::ptrdiff_t i = 0; i < width; ++i)
        bits |= static_cast<std::uint64_t>(from[(x + i) * bytes + first / 8]) << (8 * i);
      bits = transpose(bits);
      for (std::ptrdiff_t c = first; c < std::min(first + 8, channels); ++c, bits >>= 8) {
        float *row = to + c * stride + x;
        if (width == 8) // a loop that compilers unroll and turn into vectors
          for (int i = 0; i < 8; ++i)
            row[i] = (bits & 1u << i) != 0 ? factor[c] : 0.0f;
        else
          for (std::ptrdiff_t i = 0; i < width; ++i)
            row[i] = (bits & 1u << i) != 0 ? factor[c] : 0.0f;
      }
    }
}

} // namespace transpike
