// Stages and pools that Python hands over as one chain (chain.hpp), and the memory of the maps in between.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <iterator>
#include <mutex>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "event_stage.hpp"

namespace nb = nanobind;

namespace transpike {
namespace {

constexpr std::ptrdiff_t kSpareBytes = 64 << 20; // of maps that a chain keeps for its next run

using Windows = std::tuple<std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t>;

// Windows whose pixels are counted.
struct PoolSource {
  int source;
  std::ptrdiff_t rows, columns, bytes; // of the map read
  bool counts;                         // whether that holds counts
  std::ptrdiff_t stride_y, stride_x;
  std::vector<std::ptrdiff_t> offsets;
  std::ptrdiff_t out_rows, out_columns;
};

class Chain {
public:
  // Maps have numbers: first those that are given to a run, then those that its links make.
  explicit Chain(int given) : given_(given) { expect(given >= 0, "a chain cannot have fewer than no given maps"); }

  // Adds a stage and returns the number of its map. The chain keeps that from run to run, or returns it if `wanted`.
  int add_stage(const EventStage &stage, std::optional<int> columns, std::vector<int> gathers,
                std::vector<int> diagonals, bool wanted) {
    Each each{&stage, {columns, std::move(gathers), std::move(diagonals)}, {}, stage.layout(), wanted};
    std::vector<int> reads = each.sources.gathers;
    reads.insert(reads.end(), each.sources.diagonals.begin(), each.sources.diagonals.end());
    if (columns)
      reads.push_back(*columns);
    return add(std::move(each), std::move(reads));
  }

  // Adds a map that says how many of the pixels at `places` (row, column) have each channel, or the sum of their counts;
  // places count from pixel (y * stride_y, x * stride_x) of map `source`. One byte per channel. `shape` of that map:
  // rows, columns, bytes of a pixel, and the largest count, 0 where it holds bits.
  int add_pool(int source, const Windows &shape,
               const std::vector<std::tuple<std::ptrdiff_t, std::ptrdiff_t>> &places,
               const std::tuple<std::ptrdiff_t, std::ptrdiff_t> &stride,
               const std::tuple<std::ptrdiff_t, std::ptrdiff_t> &out_shape, bool wanted) {
    const auto [rows, columns, bytes, probe] = shape;
    const bool counts = probe > 0;
    const auto [stride_y, stride_x] = stride;
    const auto [out_rows, out_columns] = out_shape;
    expect(rows >= 1 && columns >= 1 && bytes >= 1 && out_rows >= 1 && out_columns >= 1, "the pooled map is empty");
    MapShape{1, 1, rows, columns, bytes}.size(); // places in it can be numbered
    expect(places.size() >= 1 && places.size() <= 255 && probe >= 0 &&
               probe <= 255 / static_cast<std::ptrdiff_t>(places.size()),
           "counts have one byte: a window has 1 to 255 spikes at most");
    expect(stride_y >= 1 && stride_x >= 1, "strides must be positive");
    expect(stride_y <= kMostStride && stride_x <= kMostStride, "a stride leaves the map");
    PoolSource pool{source, rows, columns, bytes, counts, stride_y, stride_x, {}, out_rows, out_columns};
    for (const auto &[y, x] : places) {
      expect(inside(y, out_rows, stride_y, rows) && inside(x, out_columns, stride_x, columns),
             "a window leaves the spike map");
      pool.offsets.push_back((y * columns + x) * bytes);
    }
    const std::ptrdiff_t out_bytes = counts ? bytes : MapShape{8, 1, 1, 1, bytes}.size();
    return add({nullptr, {}, pool, {out_rows, out_columns, out_bytes, 0, 0, out_rows, out_columns}, wanted}, {source});
  }

  // Makes all maps; `dense` has the further currents of each link, or None. Returns the wanted maps in the order of their
  // numbers, and the spikes of each link at each step if they shall be `counted`, none where maps hold counts.
  std::pair<std::vector<SpikeMap>, std::vector<std::vector<std::int64_t>>>
  run(const std::vector<const SpikeMap *> &given, const std::vector<std::optional<Floats>> &dense,
      const RuleNumbers &rule, std::ptrdiff_t samples, std::ptrdiff_t steps, bool counted) {
    const auto &[kind, soft_reset, probe, iterations, epsilon, places, all_places, decision] = rule;
    const bool counts = kind == Rule::kAccumulate, digits = kind == Rule::kDigits;
    expect(kind >= Rule::kPlain && kind <= Rule::kDigits, "unknown schedule");
    expect(samples >= 0 && steps >= 1, "there must be at least one step");
    expect(steps <= kMostSteps, "too many steps for one run; use smaller chunks");
    expect(probe >= (kind == Rule::kPlain || digits ? 0 : 1) && probe <= steps, "the probe must lie in 1 .. steps");
    expect(places.size() == static_cast<std::size_t>(digits ? steps : 0), "digits have one place for every step");
    expect(!digits || (decision > 0 && all_places > 0), "what decides on a digit must be positive");
    expect(!counts || probe <= 255, "counts have one byte: the probe must lie in 1 .. 255");
    expect(soft_reset || kind == Rule::kPlain, "schedules that probe need soft reset");
    expect(given.size() == static_cast<std::size_t>(given_) && dense.size() == links_.size(), "a source is missing");
    const std::ptrdiff_t kept = counts ? 1 : steps;
    if (!arranged_)
      arrange();

    std::vector<SpikeMap> wanted, memory = take_memory(samples, kept);
    std::vector<std::uint8_t *> to;
    std::vector<Given> maps;
    for (const SpikeMap *map : given) {
      expect(map != nullptr, "a source is missing");
      maps.push_back(map->given());
    }
    wanted.reserve(links_.size()); // maps must not move
    for (const Each &each : links_) {
      if (each.wanted)
        wanted.emplace_back(size_of(each.layout, samples, kept));
      SpikeMap &map = each.wanted ? wanted.back() : memory[each.slot];
      to.push_back(map.data());
      maps.push_back(map.given());
    }

    const int number = threads();
    std::vector<Prepared> prepared(links_.size());
    std::vector<Pool> pools(links_.size());
    std::vector<Link> links(links_.size());
    std::vector<std::vector<std::int64_t>> spikes;
    for (std::size_t i = 0; i < links_.size(); ++i) {
      const Each &each = links_[i];
      Link &link = links[i];
      const bool added = counted && each.stage != nullptr && !counts;
      spikes.emplace_back(static_cast<std::size_t>(added ? steps : 0), 0);
      link.spikes = added ? spikes.back().data() : nullptr;
      link.after = each.after.data();
      link.afters = static_cast<int>(each.after.size());
      link.counts = counts;
      std::ptrdiff_t least = kGuard; // bytes of a sample of the maps that it reads, and of its own
      for (const int map : each.reads)
        least = std::min(least, maps[static_cast<std::size_t>(map)].size / std::max<std::ptrdiff_t>(1, samples));
      least = std::min(least, size_of(each.layout, 1, kept));
      link.reach = (kGuard + least - 1) / std::max<std::ptrdiff_t>(1, least);
      if (each.stage != nullptr) {
        each.stage->prepare(prepared[i], chosen(each.sources, maps), dense[i], rule, to[i], samples, steps,
                            number);
        link.stage = &prepared[i].stage;
      } else {
        pools[i] = pooled(*each.pool, maps, to[i], samples, kept);
        link.pool = &pools[i];
      }
    }
    run_links(links, samples, number);
    keep_memory(std::move(memory), samples, kept);
    return {std::move(wanted), std::move(spikes)};
  }

private:
  using Layout = std::vector<std::ptrdiff_t>; // EventStage::layout

  struct Each {
    const EventStage *stage; // or a pool
    Sources<int> sources;
    std::optional<PoolSource> pool;
    Layout layout;
    bool wanted;
    std::vector<int> reads{}; // maps
    std::vector<int> after{}; // links that must be done with a sample before this one begins it
    std::size_t slot = 0;     // memory that it has in turn with other maps, if it is not wanted
  };

  static std::ptrdiff_t size_of(const Layout &layout, std::ptrdiff_t samples, std::ptrdiff_t kept) {
    return MapShape{samples, kept, layout[0], layout[1], layout[2]}.size();
  }

  int add(Each each, std::vector<int> reads) {
    const int number = given_ + static_cast<int>(links_.size());
    expect(!arranged_, "a chain that has run cannot grow");
    for (const int map : reads)
      expect(map >= 0 && map < number, "a link reads a map that is not there");
    each.reads = std::move(reads);
    links_.push_back(std::move(each));
    return number;
  }

  // Finds out what every link waits for, and where its map lies. A map takes the place of an earlier one of the same
  // layout that no later link reads, so that its halo is zero already; then it waits for the readers of that one.
  void arrange() {
    std::vector<std::vector<int>> readers(links_.size());
    for (std::size_t i = 0; i < links_.size(); ++i)
      for (const int map : links_[i].reads)
        if (map >= given_) {
          links_[i].after.push_back(map - given_);
          readers[static_cast<std::size_t>(map - given_)].push_back(static_cast<int>(i));
        }
    for (std::size_t i = 0; i < links_.size(); ++i) {
      Each &each = links_[i];
      if (each.wanted)
        continue;
      auto slot = slots_.begin();
      for (; slot != slots_.end(); ++slot) {
        const auto &before = readers[*slot];
        if (links_[*slot].layout == each.layout && !before.empty() && before.back() < static_cast<int>(i)) {
          each.after.insert(each.after.end(), before.begin(), before.end());
          break;
        }
      }
      each.slot = static_cast<std::size_t>(slot - slots_.begin());
      if (slot == slots_.end())
        slots_.push_back(i);
      else
        *slot = i;
    }
    arranged_ = true;
  }

  // Maps with halos of zeros, one for every slot: those of the run before if they fit.
  std::vector<SpikeMap> take_memory(std::ptrdiff_t samples, std::ptrdiff_t kept) {
    std::vector<SpikeMap> found;
    {
      const std::lock_guard<std::mutex> guard(mutex_);
      found.swap(spare_);
      if (spare_samples_ == samples && spare_kept_ == kept && found.size() == slots_.size())
        return found;
    }
    found.clear();
    for (const std::size_t owner : slots_)
      found.emplace_back(size_of(links_[owner].layout, samples, kept));
    return found;
  }

  void keep_memory(std::vector<SpikeMap> maps, std::ptrdiff_t samples, std::ptrdiff_t kept) {
    std::ptrdiff_t bytes = 0;
    for (const SpikeMap &map : maps)
      bytes += map.given().size;
    const std::lock_guard<std::mutex> guard(mutex_);
    if (bytes > kSpareBytes)
      return;
    spare_ = std::move(maps);
    spare_samples_ = samples;
    spare_kept_ = kept;
  }

  static Sources<Given> chosen(const Sources<int> &sources, const std::vector<Given> &maps) {
    const auto at = [&](int number) { return maps[static_cast<std::size_t>(number)]; };
    Sources<Given> found;
    if (sources.columns)
      found.columns = at(*sources.columns);
    std::transform(sources.gathers.begin(), sources.gathers.end(), std::back_inserter(found.gathers), at);
    std::transform(sources.diagonals.begin(), sources.diagonals.end(), std::back_inserter(found.diagonals), at);
    return found;
  }

  static Pool pooled(const PoolSource &pool, const std::vector<Given> &maps, std::uint8_t *to, std::ptrdiff_t samples,
                     std::ptrdiff_t kept) {
    const Given &map = maps[static_cast<std::size_t>(pool.source)];
    expect(map.size == MapShape{samples, kept, pool.rows, pool.columns, pool.bytes}.size(),
           "the spike map has another size");
    return {map.data,
            pool.rows * pool.columns * pool.bytes,
            pool.stride_y * pool.columns * pool.bytes,
            pool.stride_x * pool.bytes,
            pool.offsets.data(),
            static_cast<std::ptrdiff_t>(pool.offsets.size()),
            pool.bytes,
            pool.counts,
            samples,
            kept,
            pool.out_rows,
            pool.out_columns,
            to};
  }

  int given_;
  std::vector<Each> links_;
  bool arranged_ = false;
  std::vector<std::size_t> slots_; // the last owner of each
  std::mutex mutex_;               // of what follows: maps of the last run
  std::vector<SpikeMap> spare_;
  std::ptrdiff_t spare_samples_ = 0, spare_kept_ = 0;
};

} // namespace

void bind_chain(nb::module_ &m) {
  nb::class_<Chain>(m, "Chain")
      .def(nb::init<int>(), nb::arg("given"))
      .def("add_stage", &Chain::add_stage, nb::arg("stage"), nb::arg("columns").none(), nb::arg("gathers"),
           nb::arg("diagonals"), nb::arg("wanted"), nb::keep_alive<1, 2>())
      .def("add_pool", &Chain::add_pool, nb::arg("source"), nb::arg("shape"), nb::arg("places"), nb::arg("stride"),
           nb::arg("out_shape"), nb::arg("wanted"))
      .def("run", &Chain::run, nb::arg("given"), nb::arg("dense").noconvert(), nb::arg("rule"), nb::arg("samples"),
           nb::arg("steps"), nb::arg("counted") = true);
}

} // namespace transpike
