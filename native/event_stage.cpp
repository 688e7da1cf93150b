// The Python side of a stage: every number that becomes an address is checked here.
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <limits>
#include <new>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "binding.hpp"
#include "spike_map.hpp"

namespace nb = nanobind;

namespace transpike {
namespace {

constexpr std::ptrdiff_t kEntries = std::numeric_limits<std::int32_t>::max() / 2;
constexpr std::ptrdiff_t kMostChannels = 1 << 24;
constexpr std::ptrdiff_t kCachedWeights = 1 << 20; // bytes, of a usual second-level cache

using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;

// What a source does to an output pixel (y, x): windows begin at row top + y * stride_y of its map, halo included.
struct Reader {
  std::ptrdiff_t rows, columns, channel_bytes, top, left, stride_y, stride_x;

  // Pixel (dy, dx) of the window must lie in the map for every output pixel, with `inputs` from its first channel on,
  // `per_byte` of which are in a byte.
  void check(std::ptrdiff_t dy, std::ptrdiff_t dx, std::ptrdiff_t inputs, std::ptrdiff_t per_byte,
             std::ptrdiff_t out_rows, std::ptrdiff_t out_columns) const {
    expect(dy >= -rows && dy <= rows && dx >= -columns && dx <= columns && inside(top + dy, out_rows, stride_y, rows) &&
               inside(left + dx, out_columns, stride_x, columns),
           "a window leaves the spike map");
    const std::ptrdiff_t last_x = left + dx + (out_columns - 1) * stride_x;
    expect(inputs >= 1 && inputs <= (columns - last_x) * channel_bytes * per_byte, "a run leaves its row");
  }

  std::ptrdiff_t offset(std::ptrdiff_t dy, std::ptrdiff_t dx) const { return (dy * columns + dx) * channel_bytes; }

  Map map(const std::uint8_t *data, std::ptrdiff_t steps) const {
    const std::ptrdiff_t step = rows * columns * channel_bytes;
    return {data + (top * columns + left) * channel_bytes, data, step * steps, step,
            stride_y * columns * channel_bytes, stride_x * channel_bytes};
  }
};

using Geometry = std::tuple<std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t,
                            std::ptrdiff_t, std::ptrdiff_t>;

using Place = std::tuple<std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t>;

Reader reader(const Geometry &g) {
  const Reader found{std::get<0>(g), std::get<1>(g), std::get<2>(g), std::get<3>(g),
                     std::get<4>(g), std::get<5>(g), std::get<6>(g)};
  expect(found.rows >= 1 && found.columns >= 1 && found.channel_bytes >= 1, "a spike map is empty");
  MapShape{1, 8, found.rows, found.columns, found.channel_bytes}.size(); // places in it can be numbered
  expect(found.top >= 0 && found.top < found.rows && found.left >= 0 && found.left < found.columns,
         "a halo is larger than its map");
  expect(found.stride_y >= 1 && found.stride_x >= 1, "strides must be positive");
  return found;
}

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
};

class EventStage {
public:
  // It writes spikes, one bit per step, or counts, one byte (counts.hpp). Sources that hold counts say so: where it
  // writes spikes those of a window at one step (pool.hpp).
  // `place` in the map that it writes: rows and columns of the map with its halo, row and column of the first pixel.
  EventStage(std::ptrdiff_t rows, std::ptrdiff_t columns, std::ptrdiff_t channels, int lanes, Floats weights,
             Floats bias, Floats theta, bool counts, const Place &place)
      : rows_(rows), columns_(columns), channels_(channels), per_byte_(counts ? 1 : 8), lanes_(lanes),
        weights_(weights), bias_(bias), theta_(theta), place_(place) {
    expect(rows >= 1 && columns >= 1 && channels >= 1, "the population is empty");
    expect(channels <= kMostChannels, "too many channels");
    const auto [out_rows, out_columns, top, left] = place;
    expect(inside(top, rows, 1, out_rows) && inside(left, columns, 1, out_columns),
           "the population does not fit into its spike map");
    expect(lanes == 16 || lanes == 32 || lanes == 64, "lanes must be 16, 32 or 64");
    tiles_ = static_cast<int>((channels + lanes - 1) / lanes);
    expect(weights.ndim() == 3 && static_cast<std::ptrdiff_t>(weights.shape(0)) == tiles_ && weights.shape(1) >= 1 &&
               static_cast<std::ptrdiff_t>(weights.shape(2)) == lanes,
           "weights must be [tiles, rows + 1, lanes]");
    weight_rows_ = static_cast<std::ptrdiff_t>(weights.shape(1)) - 1;
    expect(weight_rows_ < 65536, "more than 65,535 weight rows");
    expect(static_cast<std::ptrdiff_t>(bias.size()) == padded() && static_cast<std::ptrdiff_t>(theta.size()) == padded(),
           "bias and theta must have one value per padded channel");
  }

  void add_gather(const Geometry &geometry,
                  const std::vector<std::tuple<std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t>> &runs,
                  bool of_counts) {
    check_kind(of_counts);
    GatherSource source{reader(geometry), {}, of_counts};
    for (const auto &[dy, dx, bits, row] : runs) {
      source.reader.check(dy, dx, bits, of_counts ? 1 : 8, rows_, columns_);
      expect(row >= 0 && row + bits <= weight_rows_, "a run leaves the weight rows");
      source.runs.push_back({static_cast<std::int32_t>(source.reader.offset(dy, dx)), static_cast<std::int32_t>(bits),
                             static_cast<std::int32_t>(row)});
      inputs_ += bits;
    }
    gathers_.push_back(std::move(source));
  }

  // Taps of the first column of windows three columns wide.
  void set_columns(const Geometry &geometry, const std::vector<std::tuple<std::ptrdiff_t, std::ptrdiff_t>> &taps,
                   Floats weights, std::optional<Floats> table, bool of_counts) {
    check_kind(of_counts);
    ColumnsSource source{reader(geometry), {}, of_counts, 0, weights, table};
    const std::ptrdiff_t per_byte = of_counts ? 1 : 8, bits = source.reader.channel_bytes * per_byte;
    expect(!table || !of_counts, "counts have no table of columns");
    expect(source.reader.stride_x == 1, "windows must move by one column");
    for (const auto &[dy, dx] : taps) {
      source.reader.check(dy, dx, bits, per_byte, rows_, columns_ + 2);
      source.runs.push_back({static_cast<std::int32_t>(source.reader.offset(dy, dx)), static_cast<std::int32_t>(bits),
                             static_cast<std::int32_t>(source.rows)});
      source.rows += bits;
    }
    expect(source.rows >= 1 && source.rows < 65536, "a column must have 1 to 65,535 bits");
    expect(weights.ndim() == 4 && static_cast<int>(weights.shape(0)) == tiles_ &&
               static_cast<std::ptrdiff_t>(weights.shape(1)) == source.rows + 1 && weights.shape(2) == 3 &&
               static_cast<int>(weights.shape(3)) == lanes_,
           "weights of columns must be [tiles, rows + 1, 3, lanes]");
    if (table)
      expect(source.reader.channel_bytes <= 2 && table->ndim() == 5 && static_cast<int>(table->shape(0)) == tiles_ &&
                 static_cast<std::ptrdiff_t>(table->shape(1)) == source.rows / 8 && table->shape(2) == 256 &&
                 table->shape(3) == 3 && static_cast<int>(table->shape(4)) == lanes_,
             "the table of columns must be [tiles, rows / 8, 256, 3, lanes], for at most 16 channels");
    columns_source_ = std::move(source);
  }

  void add_diagonal(const Geometry &geometry, const std::vector<std::tuple<std::ptrdiff_t, std::ptrdiff_t>> &taps,
                    Floats weights) {
    DiagonalSource source{reader(geometry), {}, weights};
    expect(weights.ndim() == 2 && weights.shape(0) == taps.size() &&
               static_cast<std::ptrdiff_t>(weights.shape(1)) == padded(),
           "diagonal weights must be [taps, padded channels]");
    expect(source.reader.channel_bytes >= channel_bytes(), "a channel-wise source has too few channels");
    for (const auto &[dy, dx] : taps) {
      source.reader.check(dy, dx, source.reader.channel_bytes * per_byte_, per_byte_, rows_, columns_);
      source.offsets.push_back(static_cast<std::int32_t>(source.reader.offset(dy, dx)));
    }
    diagonals_.push_back(std::move(source));
  }

  // Initial potentials of the following runs: [1 or samples, 1 or pixels, padded channels].
  void set_potential(Floats v_init) {
    expect(v_init.ndim() == 3 && (v_init.shape(1) == 1 || static_cast<std::ptrdiff_t>(v_init.shape(1)) == pixels()) &&
               static_cast<std::ptrdiff_t>(v_init.shape(2)) == padded(),
           "v_init must be [1 or samples, 1 or pixels, padded channels]");
    v_init_ = v_init;
  }

  // Returns the spike map and the spikes of each step, none where maps hold counts.
  std::pair<SpikeMap, std::vector<std::int64_t>>
  run(const SpikeMap *columns, const std::vector<const SpikeMap *> &gathers,
      const std::vector<const SpikeMap *> &diagonals, const std::optional<Floats> &dense,
      const std::tuple<int, bool, int, int, double> &rule, std::ptrdiff_t samples, std::ptrdiff_t steps) const {
    const auto [out_rows, out_columns, top, left] = place_;
    const std::ptrdiff_t bytes = channel_bytes(), kept = kept_steps(steps);
    const auto [kind, soft_reset, probe, iterations, epsilon] = rule;
    expect(kind >= Rule::kPlain && kind <= Rule::kAccumulate, "unknown schedule");
    expect(counts() == (kind == Rule::kAccumulate), "accumulate-then-fire needs counts, other schedules need spikes");
    expect(kind == Rule::kPlain || (probe >= 1 && probe <= steps), "the probe must lie in 1 .. steps");
    expect(!counts() || probe <= 255, "counts have one byte: the probe must lie in 1 .. 255");
    expect(soft_reset || kind == Rule::kPlain, "schedules that probe need soft reset");

    Prepared prepared;
    prepare(prepared, columns, gathers, diagonals, dense, samples, steps);
    Stage &stage = prepared.stage;
    expect(v_init_.has_value() && (v_init_->shape(0) == 1 || static_cast<std::ptrdiff_t>(v_init_->shape(0)) == samples),
           "v_init must be set, for one or for all samples");
    const Floats &v_init = *v_init_;
    stage.v_init = v_init.data();
    stage.v_pixel = v_init.shape(1) == 1 ? 0 : padded();
    stage.v_sample = v_init.shape(0) == 1 ? 0 : static_cast<std::ptrdiff_t>(v_init.shape(1)) * padded();
    stage.rule = {static_cast<Rule::Schedule>(kind), soft_reset, probe, iterations, static_cast<float>(epsilon)};
    SpikeMap out(MapShape{samples, kept, out_rows, out_columns, bytes}.size());
    stage.out = out.data() + (top * out_columns + left) * bytes;
    stage.out_channel_bytes = bytes;
    stage.out_row = out_columns * bytes;
    stage.out_step = out_rows * stage.out_row;
    stage.out_sample = kept * stage.out_step;
    std::vector<std::int64_t> spikes(static_cast<std::size_t>(counts() ? 0 : steps), 0);
    compute(stage, spikes);
    return {std::move(out), std::move(spikes)};
  }

  // Writes the mean current of the first 1, 2, .. steps to out [steps, samples, channels, rows, columns]; no neuron fires.
  void means(const SpikeMap *columns, const std::vector<const SpikeMap *> &gathers,
             const std::vector<const SpikeMap *> &diagonals,
             nb::ndarray<float, nb::ndim<5>, nb::c_contig, nb::device::cpu> out) const {
    const auto steps = static_cast<std::ptrdiff_t>(out.shape(0)), samples = static_cast<std::ptrdiff_t>(out.shape(1));
    expect(static_cast<std::ptrdiff_t>(out.shape(2)) == channels_ && static_cast<std::ptrdiff_t>(out.shape(3)) == rows_ &&
               static_cast<std::ptrdiff_t>(out.shape(4)) == columns_,
           "means must be [steps, samples, channels, rows, columns]");
    expect(!counts(), "only spikes are read step by step");
    Prepared prepared;
    prepare(prepared, columns, gathers, diagonals, std::nullopt, samples, steps);
    std::vector<float> currents(static_cast<std::size_t>(samples * steps * pixels() * padded()));
    prepared.stage.currents = currents.data(); // [samples, steps, pixels, padded channels]
    std::vector<std::int64_t> spikes(static_cast<std::size_t>(steps), 0);
    compute(prepared.stage, spikes);
    nb::gil_scoped_release release;
    take_means(currents.data(), samples, steps, out.data());
  }

private:
  // What both kinds of runs hand to the kernels; the stage points to the rest.
  struct Prepared {
    std::vector<Gather> gather;
    std::vector<Diagonal> diagonal;
    Columns column{};
    Stage stage{};
  };

  void prepare(Prepared &prepared, const SpikeMap *columns, const std::vector<const SpikeMap *> &gathers,
               const std::vector<const SpikeMap *> &diagonals, const std::optional<Floats> &dense,
               std::ptrdiff_t samples, std::ptrdiff_t steps) const {
    const std::ptrdiff_t kept = kept_steps(steps);
    expect(samples >= 0 && steps >= 1, "there must be at least one step");
    // Numbers of list entries: those of one pixel, and those of the columns of a segment (run_stage).
    const std::ptrdiff_t rows = columns_source_ ? columns_source_->rows : 0;
    expect(steps <= 1 << 20 && 2 * (inputs_ + 64) * kept + (2 * rows + 64) * (kCurrents / lanes_ + 3 * kept) < kEntries,
           "too many steps for one run; use smaller chunks");
    expect(gathers.size() == gathers_.size() && diagonals.size() == diagonals_.size(), "a source is missing");
    auto &[gather, diagonal, column, stage] = prepared;
    for (std::size_t i = 0; i < gathers_.size(); ++i) {
      const auto &source = gathers_[i];
      check_map(source.reader, *gathers[i], samples, kept);
      gather.push_back({source.reader.map(gathers[i]->data(), kept), source.runs.data(),
                        static_cast<int>(source.runs.size()), source.counts});
      stage.times = stage.times || source.counts;
    }
    for (std::size_t i = 0; i < diagonals_.size(); ++i) {
      const auto &source = diagonals_[i];
      check_map(source.reader, *diagonals[i], samples, kept);
      diagonal.push_back({source.reader.map(diagonals[i]->data(), kept), source.offsets.data(), source.weights.data(),
                          static_cast<int>(source.offsets.size())});
    }

    expect((columns != nullptr) == columns_source_.has_value(), "a source is missing");
    if (columns) {
      const auto &source = *columns_source_;
      check_map(source.reader, *columns, samples, kept);
      column = {source.reader.map(columns->data(), kept), source.runs.data(), static_cast<int>(source.runs.size()),
                static_cast<int>(source.rows), source.counts, source.weights.data(),
                source.table ? source.table->data() : nullptr};
    }

    stage.columns = columns ? &column : nullptr;
    stage.samples = samples;
    stage.pixels = pixels();
    stage.row_pixels = columns_;
    stage.steps = static_cast<int>(kept);
    stage.lanes = lanes_;
    stage.tiles = tiles_;
    stage.padded_channels = padded();
    stage.gather = gather.data();
    stage.gathers = static_cast<int>(gather.size());
    stage.diagonal = diagonal.data();
    stage.diagonals = static_cast<int>(diagonal.size());
    stage.weights = weights_.data();
    stage.rows = weight_rows_;
    stage.inputs = inputs_;
    if (dense) { // [samples, 1 or steps, pixels, padded channels]
      expect(dense->ndim() == 4 && static_cast<std::ptrdiff_t>(dense->shape(0)) == samples &&
                 (dense->shape(1) == 1 || static_cast<std::ptrdiff_t>(dense->shape(1)) == steps) &&
                 static_cast<std::ptrdiff_t>(dense->shape(2)) == stage.pixels &&
                 static_cast<std::ptrdiff_t>(dense->shape(3)) == padded(),
             "dense currents must be [samples, 1 or steps, pixels, padded channels]");
      stage.dense = dense->data();
      stage.dense_pixel = padded();
      stage.dense_step = dense->shape(1) == 1 ? 0 : stage.pixels * padded();
      stage.dense_sample = static_cast<std::ptrdiff_t>(dense->shape(1)) * stage.pixels * padded();
    }
    stage.bias = bias_.data();
    stage.theta = theta_.data();
    // Every block reads all weights of its tiles: where they do not stay in the cache, blocks are large.
    const bool streamed = (weight_rows_ + 1) * padded() * 4 > kCachedWeights;
    stage.streamed = streamed;
    const std::ptrdiff_t total = samples * stage.pixels;
    stage.groups = streamed && !columns ? groups(total, (kept + 1) / 2) : 1;
    stage.threads = threads();
    const std::ptrdiff_t share = (total * stage.groups + threads() - 1) / threads();
    stage.block = std::clamp<std::ptrdiff_t>(streamed ? share : total / 16, 1, streamed ? 512 : 64);
    stage.list_entries = streamed ? 1 << 19 : 1 << 16;
  }

  // Pixels go in blocks, whose currents stay in the cache while one channel after the other is read.
  void take_means(const float *currents, std::ptrdiff_t samples, std::ptrdiff_t steps, float *out) const {
    constexpr std::ptrdiff_t kBlock = 32;
    const std::ptrdiff_t blocks = (pixels() + kBlock - 1) / kBlock;
#pragma omp parallel for collapse(2) if (samples * steps * pixels() * padded() > 1 << 16)
    for (std::ptrdiff_t n = 0; n < samples; ++n)
      for (std::ptrdiff_t block = 0; block < blocks; ++block)
        for (std::ptrdiff_t channel = 0; channel < channels_; ++channel)
          for (std::ptrdiff_t pixel = block * kBlock; pixel < std::min(pixels(), (block + 1) * kBlock); ++pixel) {
            double sum = 0; // as torch adds up float32
            for (std::ptrdiff_t t = 0; t < steps; ++t) {
              sum += currents[((n * steps + t) * pixels() + pixel) * padded() + channel];
              out[((t * samples + n) * channels_ + channel) * pixels() + pixel] =
                  static_cast<float>(sum) / static_cast<float>(t + 1);
            }
          }
  }

  void compute(const Stage &stage, std::vector<std::int64_t> &spikes) const {
    if (stage.samples == 0)
      return;
    nb::gil_scoped_release release;
    if (!(counts() ? kernels().run_counts(stage) : kernels().run_stage(stage, spikes.data())))
      throw std::bad_alloc();
  }

  // Threads may share the weights, a group of tiles each, instead of the `pixels`: then each lists the inputs of all.
  std::ptrdiff_t groups(std::ptrdiff_t pixels, std::ptrdiff_t pairs) const {
    constexpr double kReading = 5, kListing = 0.2; // bytes of weights per cycle, cycles per input and pair of steps
    std::ptrdiff_t best = 1;
    double least = std::numeric_limits<double>::infinity();
    for (std::ptrdiff_t count = 1; count <= std::min<std::ptrdiff_t>(tiles_, threads()); count *= 2) {
      const double weights = static_cast<double>(weight_rows_ * padded() * 4) / static_cast<double>(count);
      const double inputs = static_cast<double>(pixels * inputs_ * pairs * count) / threads();
      const double cycles = weights / kReading + inputs * kListing;
      if (cycles < least) {
        least = cycles;
        best = count;
      }
    }
    return best;
  }

  bool counts() const { return per_byte_ == 1; }
  void check_kind(bool of_counts) const { expect(of_counts || !counts(), "a stage of counts cannot read spikes"); }
  std::ptrdiff_t kept_steps(std::ptrdiff_t steps) const { return counts() ? 1 : steps; } // of a map
  std::ptrdiff_t channel_bytes() const { return (channels_ + 7) / 8 * (8 / per_byte_); }
  std::ptrdiff_t pixels() const { return rows_ * columns_; }
  std::ptrdiff_t padded() const { return static_cast<std::ptrdiff_t>(tiles_) * lanes_; }

  void check_map(const Reader &reader, const SpikeMap &map, std::ptrdiff_t samples, std::ptrdiff_t steps) const {
    const MapShape shape{samples, steps, reader.rows, reader.columns, reader.channel_bytes};
    expect(map.size() == shape.size(), "a source's spike map has another size");
  }

  std::ptrdiff_t rows_, columns_, channels_;
  std::ptrdiff_t per_byte_; // inputs in one byte of a map
  int lanes_, tiles_;
  std::ptrdiff_t weight_rows_ = 0, inputs_ = 0;
  Floats weights_, bias_, theta_;
  Place place_;
  std::optional<ColumnsSource> columns_source_;
  std::optional<Floats> v_init_;
  std::vector<GatherSource> gathers_;
  std::vector<DiagonalSource> diagonals_;
};

} // namespace

void bind_event_stage(nb::module_ &m) {
  nb::class_<EventStage>(m, "EventStage")
      .def(nb::init<std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t, int, Floats, Floats, Floats, bool, Place>(),
           nb::arg("rows"), nb::arg("columns"), nb::arg("channels"), nb::arg("lanes"), nb::arg("weights").noconvert(),
           nb::arg("bias").noconvert(), nb::arg("theta").noconvert(), nb::arg("counts"), nb::arg("place"))
      .def("add_gather", &EventStage::add_gather, nb::arg("geometry"), nb::arg("runs"),
           nb::arg("counts") = false)
      .def("set_columns", &EventStage::set_columns, nb::arg("geometry"), nb::arg("taps"),
           nb::arg("weights").noconvert(), nb::arg("table").none().noconvert(), nb::arg("counts") = false)
      .def("add_diagonal", &EventStage::add_diagonal, nb::arg("geometry"), nb::arg("taps"),
           nb::arg("weights").noconvert())
      .def("run", &EventStage::run, nb::arg("columns").none(), nb::arg("gathers"), nb::arg("diagonals"),
           nb::arg("dense").none().noconvert(), nb::arg("rule"), nb::arg("samples"), nb::arg("steps"))
      .def("means", &EventStage::means, nb::arg("columns").none(), nb::arg("gathers"), nb::arg("diagonals"),
           nb::arg("out").noconvert())
      .def("set_potential", &EventStage::set_potential, nb::arg("v_init").noconvert());
}

} // namespace transpike
