// A stage as Python describes it. Every number that becomes an address is checked when it comes in.
#pragma once

#include <nanobind/ndarray.h>

#include <array>
#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "binding.hpp"
#include "spike_map.hpp"

namespace transpike {

using Floats = nanobind::ndarray<const float, nanobind::c_contig, nanobind::device::cpu>;

constexpr std::ptrdiff_t kMostSteps = 1 << 20, kMostStride = 1 << 20; // beyond them numbers of bytes might overflow

// What a source does to an output pixel (y, x): windows begin at row top + y * stride_y of its map, halo included.
struct Reader {
  std::ptrdiff_t rows, columns, channel_bytes, top, left, stride_y, stride_x;

  // Pixel (dy, dx) of the window must lie in the map for every output pixel, with `inputs` from its first channel on,
  // `per_byte` of which are in a byte.
  void check(std::ptrdiff_t dy, std::ptrdiff_t dx, std::ptrdiff_t inputs, std::ptrdiff_t per_byte,
             std::ptrdiff_t out_rows, std::ptrdiff_t out_columns) const;
  std::ptrdiff_t offset(std::ptrdiff_t dy, std::ptrdiff_t dx) const { return (dy * columns + dx) * channel_bytes; }
  Map map(const Given &given, std::ptrdiff_t samples, std::ptrdiff_t steps) const;
};

using Geometry = std::tuple<std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t,
                            std::ptrdiff_t, std::ptrdiff_t>;
using Place = std::tuple<std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t>;
using RuleNumbers = std::tuple<int, bool, int, int, double, std::vector<float>, double, double>; // as in Rule

// The maps that a stage reads, its windows of columns at most once.
template <typename Each> struct Sources {
  std::optional<Each> columns;
  std::vector<Each> gathers, diagonals;
};

// What a run hands to the kernels; the stage points to the rest, so it must stay where it is.
struct Prepared {
  std::vector<Gather> gather;
  std::vector<Diagonal> diagonal;
  Columns column{};
  Image image{};
  Stage stage{};
};

// Runs links in order on so many threads, the GIL released; they say what makes their maps and what they wait for.
void run_links(std::vector<Link> &links, std::ptrdiff_t samples, int threads);

class EventStage {
public:
  // What it writes: spikes, one bit per step; counts, one byte (counts.hpp); or signed digits, at every step the bits of
  // the positive ones of a pixel, then those of the negative ones (digits.hpp), which readers take for further channels.
  enum Form { kSpikes = 0, kCounts = 1, kSigned = 2 };

  // Sources that hold counts say so: where it writes spikes those of a window at one step (pool.hpp).
  // `place` in the map that it writes: rows and columns of the map with its halo, row and column of the first pixel.
  EventStage(std::ptrdiff_t rows, std::ptrdiff_t columns, std::ptrdiff_t channels, int lanes, Floats weights,
             Floats bias, Floats theta, int form, const Place &place);

  void add_gather(const Geometry &geometry,
                  const std::vector<std::tuple<std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t>> &runs,
                  bool of_counts);

  // The sums of every choice of four weight rows, for all gathers: [tiles, rows / 4, 16, lanes].
  void set_table(Floats table);

  // Taps of the first column of windows three columns wide.
  void set_columns(const Geometry &geometry, const std::vector<std::tuple<std::ptrdiff_t, std::ptrdiff_t>> &taps,
                   Floats weights, std::optional<Floats> table, bool of_counts);

  // Channel c reads channel c - shift, whole eights of either sign; weights [taps, padded channels].
  void add_diagonal(const Geometry &geometry, const std::vector<std::tuple<std::ptrdiff_t, std::ptrdiff_t>> &taps,
                    Floats weights, std::ptrdiff_t shift);

  // A convolution of an image [channels, rows, columns], which is then what a run is given as dense currents; weights
  // [channels, kernel rows, kernel columns, padded channels]. `moves`: stride, padding and
  // dilation of rows, then of columns.
  void set_image(const std::tuple<std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t> &shape,
                 const std::array<std::ptrdiff_t, 6> &moves, Floats weights);

  // Initial potentials of the following runs: [1 or samples, 1 or pixels, padded channels].
  void set_potential(Floats v_init);

  // Steps that digits wait, of the following runs.
  void set_lag(int lag);

  bool counts() const { return form_ == kCounts; }

  // Where its spikes lie: rows, columns and bytes of a pixel of the map, row and column of the first pixel, and rows and
  // columns that have neurons.
  std::vector<std::ptrdiff_t> layout() const;

  // Describes a run to the kernels: neurons that receive the sources and the dense currents, and where they write.
  void prepare(Prepared &prepared, const Sources<Given> &sources, const std::optional<Floats> &dense,
               const RuleNumbers &rule, std::uint8_t *out, std::ptrdiff_t samples, std::ptrdiff_t steps,
               int threads) const;

  // Writes the mean current of the first 1, 2, .. steps to out [steps, samples, channels, rows, columns]; no neuron fires.
  void means(const Sources<Given> &sources,
             nanobind::ndarray<float, nanobind::ndim<5>, nanobind::c_contig, nanobind::device::cpu> out) const;

private:
  struct GatherSource {
    Reader reader;
    std::vector<Run> runs;
    bool counts;
  };
  struct ColumnsSource {
    Reader reader;
    std::vector<Run> runs;
    bool counts;
    std::ptrdiff_t rows;
    Floats weights;
    std::optional<Floats> table;
  };
  struct DiagonalSource {
    Reader reader;
    std::vector<std::int32_t> offsets;
    Floats weights;
    std::ptrdiff_t first, end;
  };

  void prepare_currents(Prepared &prepared, const Sources<Given> &sources, const std::optional<Floats> &dense,
                        std::ptrdiff_t samples, std::ptrdiff_t steps, int threads) const;
  void divide_work(Stage &stage) const;
  void take_means(const float *currents, std::ptrdiff_t samples, std::ptrdiff_t steps, int threads, float *out) const;
  void check_kind(bool of_counts) const { expect(of_counts || !counts(), "a stage of counts cannot read spikes"); }
  std::ptrdiff_t kept_steps(std::ptrdiff_t steps) const { return counts() ? 1 : steps; } // of a map
  std::ptrdiff_t channel_bytes() const { // of a pixel
    return (channels_ + 7) / 8 * (form_ == kCounts ? 8 : (form_ == kSigned ? 2 : 1));
  }
  std::ptrdiff_t pixels() const { return rows_ * columns_; }
  std::ptrdiff_t padded() const { return static_cast<std::ptrdiff_t>(tiles_) * lanes_; }

  std::ptrdiff_t rows_, columns_, channels_;
  Form form_;
  std::ptrdiff_t per_byte_; // inputs in one byte of a map
  int lanes_, tiles_, lag_ = 0;
  std::ptrdiff_t weight_rows_ = 0, inputs_ = 0;
  Floats weights_, bias_, theta_;
  Place place_;
  std::optional<ColumnsSource> columns_source_;
  std::optional<Floats> v_init_, image_weights_, table_;
  Image image_{};
  std::vector<GatherSource> gathers_;
  std::vector<DiagonalSource> diagonals_;
};

} // namespace transpike
