// The kernels of one instruction set, as a table of functions.
//
// kernels.cpp is compiled several times with other compiler flags. Nothing in it may instantiate a template of the
// standard library: the linker would keep one copy for all instruction sets, perhaps one that this CPU cannot run.
#pragma once

#include <cstddef>
#include <cstdint>

#include "team.hpp"

namespace transpike {

constexpr std::ptrdiff_t kChunks = 64; // parts of a piece of work that the threads take in turn
constexpr std::ptrdiff_t kCurrents = 1 << 14; // currents of a block: stay in the second cache

// Thresholds of a population [N, C, inner]: neuron i has theta[(i / inner) % channels].
template <typename Real> struct Thresholds {
  const Real *theta;
  std::ptrdiff_t channels;
  std::ptrdiff_t inner;
};

// Input currents [steps, neurons]; `stride` 0 means the same current at every step.
template <typename Real> struct Currents {
  const Real *data;
  std::ptrdiff_t stride;
  std::ptrdiff_t steps;
  std::ptrdiff_t neurons;
};

// All potentials and events are arrays of one value per neuron (and step); `v` is read and overwritten. Every thread of
// a run calls the same function; `next` counts the blocks of neurons that are taken, from 0.
template <typename Real> struct Dense {
  // Integrate and fire over all steps; events are 0 or 1.
  void (*integrate_fire)(Member &, std::ptrdiff_t *next, Currents<Real>, Thresholds<Real>, bool soft_reset, Real *v,
                         Real *events);
  // COS: moves the initial potential v by the offset spikes seen in the steps given (schedules/offset_spike.py).
  void (*offset_potential)(Member &, std::ptrdiff_t *next, Currents<Real>, Thresholds<Real>, int iterations,
                           Real epsilon, Real *v);
  // Replaces v by an initial potential with which the steps give the expected count (schedules/exact_potential.py).
  // False if there is no memory for a block.
  bool (*exact_potential)(Member &, std::ptrdiff_t *next, Currents<Real>, Thresholds<Real>, Real *v);
  // The expected count of the first `probe` steps, emitted evenly over `steps` steps (schedules/accumulate.py).
  // `sample`: neurons of one.
  void (*accumulate)(Member &, std::ptrdiff_t *next, Currents<Real>, Thresholds<Real>, std::ptrdiff_t steps,
                     std::ptrdiff_t sample, const Real *v, Real *events);
};

// A spike map (stage.hpp) as one reader sees it: `at` is the first byte of the window of output pixel (y, x).
struct Map {
  const std::uint8_t *first, *data; // of the first window, of the first sample's halo
  std::ptrdiff_t sample, step, row, column; // bytes from one to the next output sample, step, row, column
  const std::uint8_t *at(std::ptrdiff_t n, std::ptrdiff_t t, std::ptrdiff_t y, std::ptrdiff_t x) const {
    return first + n * sample + t * step + y * row + x * column;
  }
};

// Neighbouring bits of a window and the weight row of the first of them.
struct Run {
  std::int32_t offset;
  std::int32_t bits;
  std::int32_t row;
};

// A convolution or linear map: every active input adds its row of weights.
struct Gather {
  Map map;
  const Run *run;
  int runs;
  bool counts; // whether the map has a byte per input, how many spikes it stands for: adds that multiple of its row
};

// A convolution with kernels three columns wide and stride 1, in windows of one column: an active input of a column adds
// three neighbouring rows of weights, for the three output pixels that see it.
struct Columns {
  Map map;        // of the windows' first column
  const Run *run; // of one column, `row` counted within it
  int runs;
  int rows;       // inputs of one column
  bool counts;    // as above
  const float *weights; // [tiles][rows + 1][3][lanes]; the last row is zero
  const float *table;   // [tiles][rows / 8][256][3][lanes]: the sums of all rows of a byte; or null
};

// A channel-wise map (shortcut, depthwise convolution): channel c adds weights[tap][c] where its input is active.
struct Diagonal {
  Map map;
  const std::int32_t *offset; // byte of channel 0's input of each tap, before the pixel where only later ones have one
  const float *weights;       // [taps][padded channels], zero outside
  std::ptrdiff_t first, end;  // channels that have inputs
  int taps;
  bool feeds(std::ptrdiff_t channel, std::ptrdiff_t lanes) const { return channel + lanes > first && channel < end; }
};

// A convolution of an image of numbers, the same at every step.
struct Image {
  const float *data; // [samples][channels][rows][columns]
  std::ptrdiff_t channels, rows, columns;
  std::ptrdiff_t kernel_rows, kernel_columns, stride_y, stride_x, dilation_y, dilation_x;
  std::ptrdiff_t top, left; // rows and columns of zeros before the image; behind it there are as many as are needed
  const float *weights;     // [channels][kernel rows][kernel columns][padded channels of the stage]
};

// How the neurons of a stage turn currents into spikes.
struct Rule {
  enum Schedule { kPlain = 0, kResidual = 1, kOffset = 2, kExact = 3, kAccumulate = 4, kDigits = 5 };
  Schedule schedule;
  bool soft_reset;
  int probe;
  int iterations;
  float epsilon;
  const float *places; // weights of the digits, one per step; null for other schedules
  float all_places;    // their sum, which is worth one threshold
  float decision;      // share of its worth from which a digit is sent
};

// Everything a stage needs. Channels are padded to whole tiles of `lanes`; padded ones have an infinite threshold.
struct Stage {
  std::ptrdiff_t samples, pixels, row_pixels;
  int steps, lanes, tiles;
  std::ptrdiff_t padded_channels;
  const Columns *columns; // at most one, or null
  const Gather *gather;
  int gathers;
  bool times;             // whether a gather reads counts
  const float *table;     // [tiles][rows / 4][16][lanes]: the sums of every choice of four rows; or null
  const Diagonal *diagonal;
  int diagonals;
  const float *weights; // [tiles][rows + 1][lanes]; the last row is zero
  std::ptrdiff_t rows;
  std::ptrdiff_t inputs; // of all windows of one output pixel
  const float *dense;   // currents in memory [samples][steps][pixels][padded channels], by strides; or null
  std::ptrdiff_t dense_sample, dense_step, dense_pixel;
  const Image *image;        // or null
  const float *bias, *theta; // [padded channels]
  const float *v_init;       // by strides, channels contiguous
  std::ptrdiff_t v_sample, v_pixel;
  Rule rule;
  int lag; // steps that a digit waits
  float *currents; // where neurons do not fire: [samples][steps][pixels][padded channels] for the currents; or null
  std::uint8_t *out;
  std::ptrdiff_t out_sample, out_step, out_row, out_channel_bytes; // the last of a pixel
  std::ptrdiff_t block; // output pixels that one thread takes at a time, as far as their lists of inputs have room:
  std::ptrdiff_t list_entries;
  bool streamed;         // whether its weights do not stay in the cache from one block to the next
  std::ptrdiff_t groups; // of tiles, which the threads share among them
  std::ptrdiff_t threads;
};

// Sums over windows of a map: how often the pixels at `offset` bytes spike, or the sum of their counts, by channel.
struct Pool {
  const std::uint8_t *from;
  std::ptrdiff_t image, row, column; // bytes from one to the next image, row and column of windows
  const std::ptrdiff_t *offset;
  std::ptrdiff_t pixels, bytes; // of a window; of a pixel
  bool counts;                  // whether a channel has a byte, not a bit
  std::ptrdiff_t samples, steps; // an image each
  std::ptrdiff_t rows, columns;
  std::uint8_t *to; // [samples][steps][rows][columns][channels]
};

constexpr std::ptrdiff_t kDone = kLine / sizeof(std::ptrdiff_t);

// One map of a chain (chain.hpp), what makes it, and how far the threads have come with it.
struct Link {
  const Stage *stage; // one of the two, the other is null
  const Pool *pool;
  bool counts;          // whether the stage's maps hold counts (counts.hpp)
  std::int64_t *spikes; // of each step, to which the stage's are added, or null; not read where maps hold counts
  const int *after;     // links that must be done with a sample before this one begins it
  int afters;
  std::ptrdiff_t *done; // by sample, kDone from one to the next: how many of its units are done,
  std::ptrdiff_t units; // of so many
  std::ptrdiff_t samples;
  std::ptrdiff_t reach; // neighbours of a sample into which a read at its border may reach
  alignas(kLine) std::ptrdiff_t next; // turn that nobody has taken
};

// Bytes that lie one after the other.
struct Span {
  const char *data;
  std::ptrdiff_t bytes;
};

struct Kernels {
  const char *name;
  // Takes part in making all maps of a chain; false if there is no memory for the lists of active inputs.
  bool (*run_chain)(Member &, Link *links, int count);
  // Adds up one row of numbers `passes` times (peak.hpp); count % 128 == 0.
  float (*add_up)(const float *row, std::ptrdiff_t count, std::ptrdiff_t passes);
  // A number that tells one content of memory from another (digest.hpp): of all bytes if `stride` is 0, else of kLine bytes
  // every so many.
  std::uint64_t (*digest)(const Span *spans, std::ptrdiff_t count, std::ptrdiff_t stride);
  Dense<float> dense_float;
  Dense<double> dense_double;
};

const Kernels &kernels_generic();
#ifdef TRANSPIKE_X86
const Kernels &kernels_avx2();
const Kernels &kernels_avx512();
const Kernels &kernels_avx512_vbmi2();
#endif

} // namespace transpike
