// What does an image cost in Qwen2.5-VL's vision tower at its real shape, and how far is that from
// the machine's limit?
//
//   tower/<pixels>[/<type>]/threads:<n>       a square image
//   tower/whole/<pixels>/<type>/threads:<n>   the same, all blocks computed
//
// A type is that of the weights, none is float. bfloat16_rounded and int8_rounded are
// Precision::storage and Precision::int8 as well.
//
// To save time and memory, the tower that runs has two blocks, unless it is whole: one with window
// attention and one with full attention, each timed by a trace. The reported time is that of the
// whole tower, computed from these: 28 and 4 such blocks, the patch embedding and the merger.
#include "tower.hpp"

#include <benchmark/benchmark.h>

#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "casa/vision/vision_tower.hpp"
#include "limits.hpp"

namespace {

using namespace casa;

constexpr Index kWindowed = 28, kFull = 4;  // fullatt_block_indexes [7, 15, 23, 31] of depth 32

VisionTowerConfig two_blocks() {
  VisionTowerConfig c;
  c.depth = 2;
  c.fullatt_block_indexes = {1};
  c.out_hidden_size = 2048;
  return c;
}
VisionTowerConfig all_blocks() {
  VisionTowerConfig c;
  c.out_hidden_size = 2048;
  return c;
}

struct Type {
  const char* name;
  WeightType weights;
  Precision precision;
};

// Weights of one shape are the same values everywhere, so that the whole tower's need not all be
// made.
VisionTower<float> random_tower(const VisionTowerConfig& config, const Type& type) {
  std::map<std::pair<Index, Index>, Matrix<float>> kept;
  const WeightSource source{[&](const TensorSpec& spec) -> StoredView {
    const Index rows = spec.cols == 0 ? 1 : spec.rows;
    const Index cols = spec.cols == 0 ? spec.rows : spec.cols;
    const auto [at, is_new] = kept.try_emplace({rows, cols}, rows, cols);
    Matrix<float>& m = at->second;
    if (!is_new) return m;
    const auto random = bench::random_values<float>(m.size(), static_cast<unsigned>(cols));
    const float scale = 1 / std::sqrt(static_cast<float>(cols));
    for (Index i = 0; i < m.size(); ++i) m.data()[i] = random[i] * scale;
    return m;
  }};
  return {config, source, type.weights, type.precision};
}

// Of two blocks; made once for each name.
const VisionTower<float>& small_tower(const Type& type) {
  static std::map<std::string, VisionTower<float>> made;
  const auto at = made.find(type.name);
  if (at != made.end()) return at->second;
  return made.emplace(type.name, random_tower(two_blocks(), type)).first->second;
}

// A square image, and the memory of a call.
class Encoding {
 public:
  Encoding(const VisionTower<float>& tower, Index pixels, Index threads)
      : tower_(tower),
        grid_{1, pixels / tower.config().patch_size, pixels / tower.config().patch_size},
        patches_(grid_.h * grid_.w, tower.config().frame_width()),
        tokens_(num_tokens(tower.config(), grid_), tower.config().out_hidden_size),
        pool_(threads),
        context_{.executor = pool_} {
    const auto random = bench::random_values<float>(patches_.size(), 3);
    std::copy_n(random.data(), patches_.size(), patches_.data());
  }

  void run(const Trace<float>* trace = nullptr) {
    tower_.encode(patches_, {&grid_, 1}, tokens_, scratch_, context_, {}, trace);
  }
  const VisionOrder& order() const { return scratch_.order; }

 private:
  const VisionTower<float>& tower_;
  VisionGrid grid_;
  Matrix<float> patches_, tokens_;
  ThreadPool pool_;
  Context context_;
  VisionTower<float>::Scratch scratch_;
};

struct Times {
  double embed = 0, windowed = 0, full = 0, merge = 0;
  double total() const {
    return embed + static_cast<double>(kWindowed) * windowed + static_cast<double>(kFull) * full +
           merge;
  }
};

// One call of a tower of two blocks, by `clock`.
Times time_parts(Encoding& encoding, double (*clock)()) {
  Times times;
  double last = clock();
  const Trace<float> trace = [&](Index layer, const std::string& sublayer,
                                 MatrixView<const float>) {
    if (sublayer == "self_attention") return;
    const double now = clock();
    (layer < 0 ? times.embed : layer == 0 ? times.windowed : times.full) = now - last;
    last = clock();
  };
  encoding.run(&trace);
  times.merge = clock() - last;
  return times;
}

double sum_of_sizes(const std::vector<Interval>& intervals) {
  double sum = 0;
  for (const Interval& i : intervals) sum += static_cast<double>(i.size());
  return sum;
}

// Operations of a block for some rows that see so many keys together; a multiply-add counts two.
double block_flops(const VisionTowerConfig& c, double rows, double seen) {
  const auto d = static_cast<double>(c.hidden_size);
  return 2 * (rows * (4 * d * d + 3 * d * static_cast<double>(c.intermediate_size)) + 2 * d * seen);
}

// ... of the whole tower for one image.
double flops(const VisionTowerConfig& c, const VisionOrder& order) {
  const auto rows = static_cast<double>(order.num_rows()), d = static_cast<double>(c.hidden_size);
  const auto unit = static_cast<double>(c.merge_unit());
  const double merger =
      rows / unit * unit * d * (unit * d + static_cast<double>(c.out_hidden_size));
  return 2 * (rows * static_cast<double>(c.patch_width()) * d + merger) +
         static_cast<double>(kWindowed) * block_flops(c, rows, sum_of_sizes(order.window)) +
         static_cast<double>(kFull) * block_flops(c, rows, sum_of_sizes(order.frame));
}

// On one thread its processor time, which leaves out what other jobs on the machine take.
double (*clock_of(Index threads))() {
  return threads == 1 ? bench::thread_seconds : bench::wall_seconds;
}

void report(benchmark::State& state, const Type& type, Index threads, double work, double seconds) {
  const double peak = bench::product_peak(type.weights, type.precision);
  state.counters["s/image"] = seconds;
  state.counters["GFLOP/s"] = work / seconds / 1e9;
  state.counters["peak"] = work / seconds / (peak * static_cast<double>(threads));
}

void run(benchmark::State& state, Index pixels, const Type& type, Index threads) {
  const VisionTower<float>& tower = small_tower(type);
  Encoding encoding(tower, pixels, threads);
  Times best = time_parts(encoding, clock_of(threads));
  for (auto _ : state) {
    const Times times = time_parts(encoding, clock_of(threads));
    state.SetIterationTime(times.total());
    for (const auto part : {&Times::embed, &Times::windowed, &Times::full, &Times::merge})
      best.*part = (std::min)(best.*part, times.*part);
  }
  report(state, type, threads, flops(tower.config(), encoding.order()), best.total());
  state.counters["ms_window_block"] = best.windowed * 1e3;
  state.counters["ms_full_block"] = best.full * 1e3;
}

void run_whole(benchmark::State& state, Index pixels, const Type& type, Index threads) {
  // The last one that was asked for, since two would take much memory.
  static std::string name;
  static VisionTower<float> tower;
  if (name != type.name) {
    tower = {};
    tower = random_tower(all_blocks(), type);
    name = type.name;
  }
  Encoding encoding(tower, pixels, threads);
  encoding.run();
  double best = 1e30;
  for (auto _ : state) {
    const double seconds = bench::best_seconds(clock_of(threads), 1, [&] { encoding.run(); });
    state.SetIterationTime(seconds);
    best = (std::min)(best, seconds);
  }
  report(state, type, threads, flops(tower.config(), encoding.order()), best);
}

constexpr Type kFloat{"", WeightType::native, Precision::full};
constexpr Type kBfloat16{"bfloat16", WeightType::bfloat16, Precision::full};
constexpr Type kInt8{"int8", WeightType::int8, Precision::full};
constexpr Type kBfloat16Rounded{"bfloat16_rounded", WeightType::bfloat16, Precision::storage};
constexpr Type kInt8Rounded{"int8_rounded", WeightType::int8, Precision::int8};

const bool registered = [] {
  const auto add = [](const std::string& name, auto function, Index pixels, const Type& type,
                      Index threads) {
    const std::string infix = *type.name ? std::string("/") + type.name : "";
    benchmark::RegisterBenchmark(
        (name + std::to_string(pixels) + infix + "/threads:" + std::to_string(threads)).c_str(),
        [=](benchmark::State& s) { function(s, pixels, type, threads); })
        ->UseManualTime()
        ->Iterations(pixels > 500 ? 2 : 6)
        ->Unit(benchmark::kSecond);
  };
  for (const Index threads : {1, 2}) {
    for (const Index pixels : {224, 448, 896}) add("tower/", run, pixels, kFloat, threads);
    for (const Type& type : {kBfloat16, kInt8}) add("tower/", run, 448, type, threads);
    for (const Type& type : {kBfloat16Rounded, kInt8Rounded})
      for (const Index pixels : {224, 448}) add("tower/", run, pixels, type, threads);
  }
  for (const Type& type : {kInt8Rounded, kBfloat16Rounded, kFloat})
    for (const Index pixels : {224, 448}) add("tower/whole/", run_whole, pixels, type, 2);
  return true;
}();

}  // namespace

namespace bench {

void print_tower(Index threads) {
  for (const auto& named : {std::pair{"casa float", kFloat},
                            {"casa bf16", kBfloat16Rounded},
                            {"casa int8", kInt8Rounded}}) {
    const Type& type = named.second;
    const VisionTower<float>& tower = small_tower(type);
    Encoding encoding(tower, 448, threads);
    time_parts(encoding, wall_seconds);
    std::vector<double> full, windowed;
    for (const double begin = wall_seconds(); full.size() < 5 || wall_seconds() - begin < 2;) {
      const Times times = time_parts(encoding, wall_seconds);
      full.push_back(times.full);
      windowed.push_back(times.windowed);
    }
    const auto print = [&](const char* what, const std::vector<double>& times,
                           const std::vector<Interval>& seen) {
      const double work =
          block_flops(tower.config(), static_cast<double>(seen.size()), sum_of_sizes(seen));
      print_csv_line("tower", what, named.first, threads, times, 1e-9 * work, "GFLOP");
    };
    print("full", full, encoding.order().frame);
    print("window", windowed, encoding.order().window);
  }
}

}  // namespace bench
