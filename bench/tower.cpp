// What does an image cost in Qwen2.5-VL's vision tower at its real shape, and how far is that from
// the machine's limit?
//
//   tower/<pixels>/threads:<n>         a square image, float weights
//   tower/<pixels>/<type>/threads:<n>  weights of another type
//
// To save time and memory, the tower that runs has two blocks, one with window attention and one
// with full attention, each timed by a trace. The reported time is that of the whole tower,
// computed from these: 28 and 4 such blocks, the patch embedding and the merger.
#include <benchmark/benchmark.h>

#include <cmath>
#include <memory>
#include <string>

#include "bench_common.hpp"
#include "casa/vision/vision_tower.hpp"

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

const VisionTower<float>& tower(WeightType type) {
  static std::unique_ptr<VisionTower<float>> made[4];
  auto& t = made[static_cast<std::size_t>(type)];
  if (t) return *t;
  // Weights that are packed into one Linear must all be alive until it has been made.
  std::vector<Matrix<float>> kept;
  kept.reserve(64);
  const WeightSource source{[&](const TensorSpec& spec) -> StoredView {
    const Index rows = spec.cols == 0 ? 1 : spec.rows;
    const Index cols = spec.cols == 0 ? spec.rows : spec.cols;
    Matrix<float>& m = kept.emplace_back(rows, cols);
    const auto random = bench::random_values<float>(m.size(), static_cast<unsigned>(cols));
    const float scale = 1 / std::sqrt(static_cast<float>(cols));
    for (Index i = 0; i < m.size(); ++i) m.data()[i] = random[i] * scale;
    return m;
  }};
  t = std::make_unique<VisionTower<float>>(two_blocks(), source, type);
  return *t;
}

struct Times {
  double embed = 0, windowed = 0, full = 0, merge = 0;
  double total() const {
    return embed + static_cast<double>(kWindowed) * windowed + static_cast<double>(kFull) * full +
           merge;
  }
};

// Operations of the whole tower for one image; a multiply-add counts two.
double flops(const VisionTowerConfig& c, const VisionOrder& order) {
  const auto rows = static_cast<double>(order.num_rows()), d = static_cast<double>(c.hidden_size);
  const auto seen = [](const std::vector<Interval>& intervals) {
    double sum = 0;
    for (const Interval& i : intervals) sum += static_cast<double>(i.size());
    return sum;
  };
  const double block = rows * (4 * d * d + 3 * d * static_cast<double>(c.intermediate_size));
  const double attention = 2 * d *
                           (static_cast<double>(kWindowed) * seen(order.window) +
                            static_cast<double>(kFull) * seen(order.frame));
  const auto unit = static_cast<double>(c.merge_unit());
  const double merger =
      rows / unit * unit * d * (unit * d + static_cast<double>(c.out_hidden_size));
  return 2 * (rows * static_cast<double>(c.patch_width()) * d +
              static_cast<double>(kWindowed + kFull) * block + attention + merger);
}

void run(benchmark::State& state, Index pixels, WeightType type, Index threads) {
  const VisionTower<float>& t = tower(type);
  const VisionTowerConfig& c = t.config();
  const Index side = pixels / c.patch_size;
  const VisionGrid grid{1, side, side};
  Matrix<float> patches(side * side, c.frame_width());
  const auto random = bench::random_values<float>(patches.size(), 3);
  std::copy_n(random.data(), patches.size(), patches.data());
  Matrix<float> tokens(num_tokens(c, grid), c.out_hidden_size);
  VisionTower<float>::Scratch scratch;
  ThreadPool pool(threads);
  const Context context{.executor = pool};

  // On one thread its processor time, which leaves out what other jobs on the machine take.
  const auto seconds = [&] {
    return threads == 1 ? bench::thread_seconds() : bench::wall_seconds();
  };
  Times times;
  double last = 0;
  const Trace<float> clock = [&](Index layer, const std::string& sublayer,
                                 MatrixView<const float>) {
    const double now = seconds();
    if (sublayer == "self_attention") return;
    (layer < 0 ? times.embed : layer == 0 ? times.windowed : times.full) = now - last;
    last = now;
  };
  const auto encode = [&] {
    last = seconds();
    t.encode(patches, {&grid, 1}, tokens, scratch, context, {}, &clock);
    times.merge = seconds() - last;
  };
  encode();
  Times best = times;
  for (auto _ : state) {
    encode();
    state.SetIterationTime(times.total());
    for (const auto part : {&Times::embed, &Times::windowed, &Times::full, &Times::merge})
      best.*part = (std::min)(best.*part, times.*part);
  }
  const double rate = flops(c, scratch.order) / best.total();
  static const double peak = bench::fma_peak<float>();
  state.counters["s/image"] = best.total();
  state.counters["GFLOP/s"] = rate / 1e9;
  state.counters["peak"] = rate / (peak * static_cast<double>(threads));
  state.counters["ms_window_block"] = best.windowed * 1e3;
  state.counters["ms_full_block"] = best.full * 1e3;
}

const bool registered = [] {
  const auto add = [](Index pixels, const char* type_name, WeightType type, Index threads) {
    const std::string infix = *type_name ? std::string("/") + type_name : "";
    benchmark::RegisterBenchmark(
        ("tower/" + std::to_string(pixels) + infix + "/threads:" + std::to_string(threads)).c_str(),
        [=](benchmark::State& state) { run(state, pixels, type, threads); })
        ->UseManualTime()
        ->Iterations(pixels > 500 ? 2 : 6)
        ->Unit(benchmark::kSecond);
  };
  for (const Index threads : {1, 2}) {
    for (const Index pixels : {224, 448, 896}) add(pixels, "", WeightType::native, threads);
    add(448, "bfloat16", WeightType::bfloat16, threads);
    add(448, "int8", WeightType::int8, threads);
  }
  return true;
}();

}  // namespace
