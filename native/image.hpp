// The convolution in front of the first neurons: currents of a block of output pixels from an image of numbers.
#pragma once

#include "blocks.hpp"
#include "simd.hpp"

namespace transpike {
namespace {

// Columns of the image that `count` neighbouring output pixels see.
inline std::ptrdiff_t seen_columns(const Image &image, std::ptrdiff_t count) {
  return (count - 1) * image.stride_x + (image.kernel_columns - 1) * image.dilation_x + 1;
}

// Floats for the rows that a block of `size` output pixels sees.
inline std::ptrdiff_t image_room(const Image &image, std::ptrdiff_t size) {
  return image.channels * image.kernel_rows * seen_columns(image, size);
}

// Copies what the output pixels from `pixel` on see, row by row of all channels; zeros beyond the image.
inline void copy_rows(const Image &image, const Pixel &pixel, std::ptrdiff_t width, float *to) {
  const std::ptrdiff_t begin = pixel.x * image.stride_x - image.left;
  const std::ptrdiff_t low = begin < 0 ? (-begin < width ? -begin : width) : 0; // the first that is in the image
  const std::ptrdiff_t inner = image.columns - begin < width ? image.columns - begin : width;
  const std::ptrdiff_t high = inner > low ? inner : low;
  for (std::ptrdiff_t c = 0; c < image.channels; ++c)
    for (std::ptrdiff_t ky = 0; ky < image.kernel_rows; ++ky, to += width) {
      const std::ptrdiff_t y = pixel.y * image.stride_y - image.top + ky * image.dilation_y;
      const bool there = y >= 0 && y < image.rows;
      const std::ptrdiff_t end = there ? high : low;
      const float *from = image.data + ((pixel.n * image.channels + c) * image.rows + y) * image.columns + begin;
      for (std::ptrdiff_t i = 0; i < low; ++i)
        to[i] = 0;
      for (std::ptrdiff_t i = low; i < end; ++i)
        to[i] = from[i];
      for (std::ptrdiff_t i = end; i < width; ++i)
        to[i] = 0;
    }
}

// Currents of `kPixels` neighbouring output pixels, one vector of channels, from copied rows.
template <int kPixels>
void convolve(const Image &image, const float *rows, std::ptrdiff_t width, const float *weights, std::ptrdiff_t padded,
              float *out, std::ptrdiff_t lanes) {
  Vec sum[kPixels] = {};
  for (std::ptrdiff_t row = 0; row < image.channels * image.kernel_rows; ++row, rows += width)
    for (std::ptrdiff_t kx = 0; kx < image.kernel_columns; ++kx, weights += padded) {
      const float *value = rows + kx * image.dilation_x;
      const Vec weight = load(weights);
      for (int p = 0; p < kPixels; ++p, value += image.stride_x)
        sum[p] += (*value - Vec{}) * weight; // minus zero: the same number in all lanes
    }
  for (int p = 0; p < kPixels; ++p)
    store(out + p * lanes, sum[p]);
}

// Currents of a block of output pixels, the channels from `channel` on: out [count][lanes].
inline void image_currents(const Image &image, const Pixel *pixel, int count, std::ptrdiff_t channel,
                           std::ptrdiff_t lanes, std::ptrdiff_t padded, float *rows, float *out) {
  constexpr int kPixels = 8;
  for (int begin = 0; begin < count;) {
    int end = begin + 1;
    while (end < count && pixel[end].n == pixel[begin].n && pixel[end].y == pixel[begin].y)
      ++end;
    const std::ptrdiff_t width = seen_columns(image, end - begin);
    copy_rows(image, pixel[begin], width, rows);
    for (std::ptrdiff_t lane = 0; lane < lanes; lane += kWidth) {
      const float *weights = image.weights + channel + lane;
      int i = begin;
      for (; i + kPixels <= end; i += kPixels)
        convolve<kPixels>(image, rows + (i - begin) * image.stride_x, width, weights, padded, out + i * lanes + lane,
                          lanes);
      for (; i < end; ++i)
        convolve<1>(image, rows + (i - begin) * image.stride_x, width, weights, padded, out + i * lanes + lane, lanes);
    }
    begin = end;
  }
}

} // namespace
} // namespace transpike
