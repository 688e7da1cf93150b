// A stage of a network: its weights, the maps it reads, and what the kernels must know of a run.
#include "event_stage.hpp"

#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <limits>
#include <new>
#include <utility>

namespace nb = nanobind;

namespace transpike {
namespace {

constexpr std::ptrdiff_t kEntries = std::numeric_limits<std::int32_t>::max() / 2;
constexpr std::ptrdiff_t kMostChannels = 1 << 24;
constexpr std::ptrdiff_t kMostBits = std::ptrdiff_t{1} << 33; // of one step of a map
constexpr std::ptrdiff_t kMostMove = 1024, kMostTaps = 4096;
constexpr std::ptrdiff_t kCachedWeights = 1 << 20; // bytes, of a usual second-level cache

Reader reader(const Geometry &g) {
  const Reader found{std::get<0>(g), std::get<1>(g), std::get<2>(g), std::get<3>(g),
                     std::get<4>(g), std::get<5>(g), std::get<6>(g)};
  expect(found.rows >= 1 && found.columns >= 1 && found.channel_bytes >= 1, "a spike map is empty");
  expect(MapShape{1, 8, found.rows, found.columns, found.channel_bytes}.size() <= kMostBits,
         "a spike map would be too large"); // its places have numbers of 32 bits
  expect(found.top >= 0 && found.top < found.rows && found.left >= 0 && found.left < found.columns,
         "a halo is larger than its map");
  expect(found.stride_y >= 1 && found.stride_x >= 1, "strides must be positive");
  expect(found.stride_y <= kMostStride && found.stride_x <= kMostStride, "a stride leaves the map");
  return found;
}

// Threads may share the weights, a group of tiles each, instead of the `pixels`: then each lists the inputs of all.
std::ptrdiff_t groups_of_tiles(std::ptrdiff_t tiles, std::ptrdiff_t weight_bytes, std::ptrdiff_t listed,
                               std::ptrdiff_t threads) {
  constexpr double kReading = 5, kListing = 0.2; // bytes of weights per cycle, cycles per input and pair of steps
  std::ptrdiff_t best = 1;
  double least = std::numeric_limits<double>::infinity();
  for (std::ptrdiff_t count = 1; count <= std::min(tiles, threads); count *= 2) {
    const double weights = static_cast<double>(weight_bytes) / static_cast<double>(count);
    const double inputs = static_cast<double>(listed * count) / static_cast<double>(threads);
    const double cycles = weights / kReading + inputs * kListing;
    if (cycles < least) {
      least = cycles;
      best = count;
    }
  }
  return best;
}

} // namespace

void run_links(std::vector<Link> &links, std::ptrdiff_t samples, int threads) {
  if (samples == 0)
    return;
  struct alignas(kLine) Line {
    std::ptrdiff_t count[kDone];
  };
  std::vector<Line> done(links.size() * static_cast<std::size_t>(samples));
  for (std::size_t i = 0; i < links.size(); ++i) {
    Link &link = links[i];
    link.done = done[i * static_cast<std::size_t>(samples)].count;
    link.samples = samples;
    link.units = link.pool != nullptr ? link.pool->steps * link.pool->rows : link.stage->pixels * link.stage->groups;
  }
  const Kernels &chosen = kernels();
  run_released(threads, [&](Member &member) {
    if (!chosen.run_chain(member, links.data(), static_cast<int>(links.size())))
      throw std::bad_alloc();
  });
}

void Reader::check(std::ptrdiff_t dy, std::ptrdiff_t dx, std::ptrdiff_t inputs, std::ptrdiff_t per_byte,
                   std::ptrdiff_t out_rows, std::ptrdiff_t out_columns) const {
  expect(dy >= -rows && dy <= rows && dx >= -columns && dx <= columns && inside(top + dy, out_rows, stride_y, rows) &&
             inside(left + dx, out_columns, stride_x, columns),
         "a window leaves the spike map");
  const std::ptrdiff_t last_x = left + dx + (out_columns - 1) * stride_x;
  expect(inputs >= 1 && inputs <= (columns - last_x) * channel_bytes * per_byte, "a run leaves its row");
}

Map Reader::map(const Given &given, std::ptrdiff_t samples, std::ptrdiff_t steps) const {
  expect(given.size == MapShape{samples, steps, rows, columns, channel_bytes}.size(),
         "a source's spike map has another size");
  const std::ptrdiff_t step = rows * columns * channel_bytes;
  return {given.data + (top * columns + left) * channel_bytes, given.data, step * steps, step,
          stride_y * columns * channel_bytes, stride_x * channel_bytes};
}

EventStage::EventStage(std::ptrdiff_t rows, std::ptrdiff_t columns, std::ptrdiff_t channels, int lanes, Floats weights,
                       Floats bias, Floats theta, int form, const Place &place)
    : rows_(rows), columns_(columns), channels_(channels), form_(static_cast<Form>(form)),
      per_byte_(form == kCounts ? 1 : 8), lanes_(lanes), weights_(weights), bias_(bias), theta_(theta), place_(place) {
  expect(form >= kSpikes && form <= kSigned, "unknown form of a map");
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

void EventStage::add_gather(
    const Geometry &geometry,
    const std::vector<std::tuple<std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t>> &runs,
    bool of_counts) {
  check_kind(of_counts);
  expect(!table_, "windows come before their table");
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

void EventStage::set_table(Floats table) {
  for (const auto &source : gathers_) {
    expect(!source.counts, "counts have no table");
    for (const Run &run : source.runs)
      expect(run.bits % 8 == 0 && run.row % 8 == 0, "a table needs windows of whole bytes");
  }
  expect(weight_rows_ % 4 == 0 && table.ndim() == 4 && static_cast<int>(table.shape(0)) == tiles_ &&
             static_cast<std::ptrdiff_t>(table.shape(1)) == weight_rows_ / 4 && table.shape(2) == 16 &&
             static_cast<int>(table.shape(3)) == lanes_,
         "the table of windows must be [tiles, rows / 4, 16, lanes]");
  table_ = table;
}

void EventStage::set_columns(const Geometry &geometry,
                             const std::vector<std::tuple<std::ptrdiff_t, std::ptrdiff_t>> &taps, Floats weights,
                             std::optional<Floats> table, bool of_counts) {
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

void EventStage::add_diagonal(const Geometry &geometry,
                              const std::vector<std::tuple<std::ptrdiff_t, std::ptrdiff_t>> &taps, Floats weights,
                              std::ptrdiff_t shift) {
  DiagonalSource source{reader(geometry), {}, weights, 0, 0};
  expect(weights.ndim() == 2 && weights.shape(0) == taps.size() &&
             static_cast<std::ptrdiff_t>(weights.shape(1)) == padded(),
         "diagonal weights must be [taps, padded channels]");
  const std::ptrdiff_t inputs = source.reader.channel_bytes * per_byte_;
  expect(shift > -inputs && shift < channels_ && shift % 8 == 0, "channels move by whole eights of them");
  source.first = std::max<std::ptrdiff_t>(0, shift);
  source.end = std::min(shift + inputs, padded());
  for (std::size_t tap = 0; tap < taps.size(); ++tap) {
    const auto [dy, dx] = taps[tap];
    source.reader.check(dy, dx, inputs, per_byte_, rows_, columns_);
    source.offsets.push_back(static_cast<std::int32_t>(source.reader.offset(dy, dx) - shift / per_byte_));
    const float *row = weights.data() + static_cast<std::ptrdiff_t>(tap) * padded();
    for (std::ptrdiff_t c = 0; c < padded(); ++c)
      expect(row[c] == 0 || (c >= source.first && c < source.end), "a channel has a weight, but no input");
  }
  diagonals_.push_back(std::move(source));
}

void EventStage::set_image(const std::tuple<std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t> &shape,
                           const std::array<std::ptrdiff_t, 6> &moves, Floats weights) {
  const auto [channels, rows, columns] = shape;
  const auto [stride_y, top, dilation_y, stride_x, left, dilation_x] = moves;
  MapShape{1, channels, rows, columns, 4}.size(); // places in it can be numbered
  expect(channels >= 1 && rows >= 1 && columns >= 1, "the image is empty");
  expect(weights.ndim() == 4 && static_cast<std::ptrdiff_t>(weights.shape(0)) == channels && weights.shape(1) >= 1 &&
             weights.shape(2) >= 1 && static_cast<std::ptrdiff_t>(weights.shape(3)) == padded(),
         "weights of an image must be [channels, kernel rows, kernel columns, padded channels]");
  const auto kernel_rows = static_cast<std::ptrdiff_t>(weights.shape(1));
  const auto kernel_columns = static_cast<std::ptrdiff_t>(weights.shape(2));
  for (const std::ptrdiff_t move : {stride_y, stride_x, dilation_y, dilation_x})
    expect(move >= 1 && move <= kMostMove, "strides and dilations of an image must lie in 1 .. 1024");
  expect(top >= 0 && top <= kMostMove && left >= 0 && left <= kMostMove, "padding of an image must lie in 0 .. 1024");
  expect(channels * kernel_rows * kernel_columns <= kMostTaps, "a window of an image has at most 4096 values");
  image_ = {nullptr,  channels, rows,       columns,    kernel_rows, kernel_columns, stride_y,
            stride_x, dilation_y, dilation_x, top,        left,        weights.data()};
  image_weights_ = weights;
}

void EventStage::set_potential(Floats v_init) {
  expect(v_init.ndim() == 3 && (v_init.shape(1) == 1 || static_cast<std::ptrdiff_t>(v_init.shape(1)) == pixels()) &&
             static_cast<std::ptrdiff_t>(v_init.shape(2)) == padded(),
         "v_init must be [1 or samples, 1 or pixels, padded channels]");
  v_init_ = v_init;
}

void EventStage::set_lag(int lag) {
  expect(lag >= 0, "a lag must not be negative");
  lag_ = lag;
}

std::vector<std::ptrdiff_t> EventStage::layout() const {
  const auto [out_rows, out_columns, top, left] = place_;
  return {out_rows, out_columns, channel_bytes(), top, left, rows_, columns_};
}

void EventStage::prepare(Prepared &prepared, const Sources<Given> &sources, const std::optional<Floats> &dense,
                         const RuleNumbers &rule, std::uint8_t *out, std::ptrdiff_t samples, std::ptrdiff_t steps,
                         int threads) const {
  const auto &[kind, soft_reset, probe, iterations, epsilon, places, all_places, decision] = rule;
  const Form needed = kind == Rule::kAccumulate ? kCounts : (kind == Rule::kDigits ? kSigned : kSpikes);
  expect(form_ == needed, "accumulate-then-fire needs counts, digits need signs, other schedules need spikes");
  prepare_currents(prepared, sources, dense, samples, steps, threads);
  Stage &stage = prepared.stage;
  expect(v_init_.has_value() && (v_init_->shape(0) == 1 || static_cast<std::ptrdiff_t>(v_init_->shape(0)) == samples),
         "v_init must be set, for one or for all samples");
  const Floats &v_init = *v_init_;
  stage.v_init = v_init.data();
  stage.v_pixel = v_init.shape(1) == 1 ? 0 : padded();
  stage.v_sample = v_init.shape(0) == 1 ? 0 : static_cast<std::ptrdiff_t>(v_init.shape(1)) * padded();
  stage.rule = {static_cast<Rule::Schedule>(kind), soft_reset, probe, iterations, static_cast<float>(epsilon),
                places.data(), static_cast<float>(all_places), static_cast<float>(decision)};
  stage.lag = lag_;
  const auto [out_rows, out_columns, top, left] = place_;
  const std::ptrdiff_t bytes = channel_bytes();
  stage.out = out + (top * out_columns + left) * bytes;
  stage.out_channel_bytes = bytes;
  stage.out_row = out_columns * bytes;
  stage.out_step = out_rows * stage.out_row;
  stage.out_sample = kept_steps(steps) * stage.out_step;
}

void EventStage::means(const Sources<Given> &sources,
                       nb::ndarray<float, nb::ndim<5>, nb::c_contig, nb::device::cpu> out) const {
  const auto steps = static_cast<std::ptrdiff_t>(out.shape(0)), samples = static_cast<std::ptrdiff_t>(out.shape(1));
  expect(static_cast<std::ptrdiff_t>(out.shape(2)) == channels_ && static_cast<std::ptrdiff_t>(out.shape(3)) == rows_ &&
             static_cast<std::ptrdiff_t>(out.shape(4)) == columns_,
         "means must be [steps, samples, channels, rows, columns]");
  expect(form_ == kSpikes, "only spikes are read step by step");
  Prepared prepared;
  const int number = threads();
  prepare_currents(prepared, sources, std::nullopt, samples, steps, number);
  std::vector<float> currents(static_cast<std::size_t>(samples * steps * pixels() * padded()));
  prepared.stage.currents = currents.data(); // [samples, steps, pixels, padded channels]
  Link link{};
  link.stage = &prepared.stage;
  std::vector<Link> links{link};
  run_links(links, samples, number);
  take_means(currents.data(), samples, steps, number, out.data());
}

void EventStage::prepare_currents(Prepared &prepared, const Sources<Given> &sources, const std::optional<Floats> &dense,
                                  std::ptrdiff_t samples, std::ptrdiff_t steps, int threads) const {
  const std::ptrdiff_t kept = kept_steps(steps);
  expect(samples >= 0 && steps >= 1, "there must be at least one step");
  // Numbers of list entries: those of one pixel, and those of the columns of a segment (run_stage).
  const std::ptrdiff_t rows = columns_source_ ? columns_source_->rows : 0;
  expect(steps <= kMostSteps && 2 * (inputs_ + 64) * kept + (2 * rows + 64) * (kCurrents / lanes_ + 3 * kept) < kEntries,
         "too many steps for one run; use smaller chunks");
  expect(sources.gathers.size() == gathers_.size() && sources.diagonals.size() == diagonals_.size() &&
             sources.columns.has_value() == columns_source_.has_value(),
         "a source is missing");
  auto &[gather, diagonal, column, image, stage] = prepared;
  for (std::size_t i = 0; i < gathers_.size(); ++i) {
    const auto &source = gathers_[i];
    gather.push_back({source.reader.map(sources.gathers[i], samples, kept), source.runs.data(),
                      static_cast<int>(source.runs.size()), source.counts});
    stage.times = stage.times || source.counts;
  }
  for (std::size_t i = 0; i < diagonals_.size(); ++i) {
    const auto &source = diagonals_[i];
    diagonal.push_back({source.reader.map(sources.diagonals[i], samples, kept), source.offsets.data(),
                        source.weights.data(), source.first, source.end, static_cast<int>(source.offsets.size())});
  }
  if (columns_source_) {
    const auto &source = *columns_source_;
    column = {source.reader.map(*sources.columns, samples, kept), source.runs.data(),
              static_cast<int>(source.runs.size()), static_cast<int>(source.rows), source.counts, source.weights.data(),
              source.table ? source.table->data() : nullptr};
    stage.columns = &column;
  }
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
  stage.table = table_ ? table_->data() : nullptr;
  stage.rows = weight_rows_;
  stage.inputs = inputs_;
  expect(dense || !image_weights_, "an image is missing");
  if (image_weights_) {
    expect(dense->ndim() == 4 && static_cast<std::ptrdiff_t>(dense->shape(0)) == samples &&
               static_cast<std::ptrdiff_t>(dense->shape(1)) == image_.channels &&
               static_cast<std::ptrdiff_t>(dense->shape(2)) == image_.rows &&
               static_cast<std::ptrdiff_t>(dense->shape(3)) == image_.columns,
           "the image has another shape");
    image = image_;
    image.data = dense->data();
    stage.image = &image;
  } else if (dense) { // [samples, 1 or steps, pixels, padded channels]
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
  stage.threads = threads;
  divide_work(stage);
}

// Every block reads all weights of its tiles: where they do not stay in the cache, blocks are large.
void EventStage::divide_work(Stage &stage) const {
  const std::ptrdiff_t bytes = (weight_rows_ + 1) * padded() * 4, total = stage.samples * stage.pixels;
  const bool streamed = bytes > kCachedWeights;
  const std::ptrdiff_t pairs = (stage.steps + 1) / 2;
  stage.streamed = streamed;
  stage.groups = streamed && !columns_source_ ? groups_of_tiles(tiles_, bytes, total * inputs_ * pairs, stage.threads) : 1;
  const std::ptrdiff_t share = (total * stage.groups + stage.threads - 1) / stage.threads;
  stage.block = std::clamp<std::ptrdiff_t>(streamed ? share : total / 16, 1, streamed ? 512 : 64);
  stage.list_entries = streamed ? 1 << 19 : 1 << 16;
}

// Pixels go in blocks, whose currents stay in the cache while one channel after the other is read.
void EventStage::take_means(const float *currents, std::ptrdiff_t samples, std::ptrdiff_t steps, int threads,
                            float *out) const {
  constexpr std::ptrdiff_t kBlock = 32;
  const std::ptrdiff_t blocks = (pixels() + kBlock - 1) / kBlock;
  const bool small = samples * steps * pixels() * padded() <= 1 << 16;
  std::ptrdiff_t next = 0;
  run_released(small ? 1 : threads, [&](Member &member) {
    take_turns(member, &next, samples * blocks, 1, [&](std::ptrdiff_t turn, std::ptrdiff_t) {
      const std::ptrdiff_t n = turn / blocks, begin = turn % blocks * kBlock, end = std::min(pixels(), begin + kBlock);
      for (std::ptrdiff_t channel = 0; channel < channels_; ++channel)
        for (std::ptrdiff_t pixel = begin; pixel < end; ++pixel) {
          double sum = 0; // as torch adds up float32
          for (std::ptrdiff_t t = 0; t < steps; ++t) {
            sum += currents[((n * steps + t) * pixels() + pixel) * padded() + channel];
            out[((t * samples + n) * channels_ + channel) * pixels() + pixel] =
                static_cast<float>(sum) / static_cast<float>(t + 1);
          }
        }
    });
  });
}

void bind_event_stage(nb::module_ &m) {
  nb::class_<EventStage>(m, "EventStage")
      .def(nb::init<std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t, int, Floats, Floats, Floats, int, Place>(),
           nb::arg("rows"), nb::arg("columns"), nb::arg("channels"), nb::arg("lanes"), nb::arg("weights").noconvert(),
           nb::arg("bias").noconvert(), nb::arg("theta").noconvert(), nb::arg("form"), nb::arg("place"))
      .def("add_gather", &EventStage::add_gather, nb::arg("geometry"), nb::arg("runs"), nb::arg("counts") = false)
      .def("set_table", &EventStage::set_table, nb::arg("table").noconvert())
      .def("set_columns", &EventStage::set_columns, nb::arg("geometry"), nb::arg("taps"),
           nb::arg("weights").noconvert(), nb::arg("table").none().noconvert(), nb::arg("counts") = false)
      .def("add_diagonal", &EventStage::add_diagonal, nb::arg("geometry"), nb::arg("taps"),
           nb::arg("weights").noconvert(), nb::arg("shift") = 0)
      .def(
          "means",
          [](const EventStage &stage, const SpikeMap *columns, const std::vector<const SpikeMap *> &gathers,
             const std::vector<const SpikeMap *> &diagonals,
             nb::ndarray<float, nb::ndim<5>, nb::c_contig, nb::device::cpu> out) {
            Sources<Given> sources;
            if (columns != nullptr)
              sources.columns = columns->given();
            for (const SpikeMap *map : gathers)
              sources.gathers.push_back(map->given());
            for (const SpikeMap *map : diagonals)
              sources.diagonals.push_back(map->given());
            stage.means(sources, out);
          },
          nb::arg("columns").none(), nb::arg("gathers"), nb::arg("diagonals"), nb::arg("out").noconvert())
      .def("set_image", &EventStage::set_image, nb::arg("shape"), nb::arg("moves"), nb::arg("weights").noconvert())
      .def("set_potential", &EventStage::set_potential, nb::arg("v_init").noconvert())
      .def("set_lag", &EventStage::set_lag, nb::arg("lag"));
}

} // namespace transpike
