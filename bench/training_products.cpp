// How fast are the products of a training step: forward, the gradient of the input, and that of the
// weight?
//
//   product/<forward|d_x|d_weight>/<in>x<out>/T:<rows>/<storage>   one Linear: x W^T, d_y W, d_y^T
//   x loss/<forward|backward>/<hidden>x<vocabulary>/T:<rows>         cross-entropy of all rows:
//   alone,
//                                                                  and with both gradients
//
// `peak` is the part of the multiply-add peak, measured beside each case, of one thread's processor
// time in its fastest iteration. Shapes: SmolLM2-135M with 512 rows, and a reader of pictures (192
// wide) with 480. A loss computes 2 or 6 operations for each hidden value and logit.
#include <benchmark/benchmark.h>

#include <string>

#include "bench_common.hpp"
#include "casa/layers/cross_entropy.hpp"

namespace {

using namespace casa;

Matrix<float> random_matrix(Index rows, Index cols, unsigned seed) {
  Matrix<float> m(rows, cols);
  const auto values = bench::random_values<float, float>(m.size(), seed);
  std::copy_n(values.data(), m.size(), m.data());
  return m;
}

template <class F>
void measure(benchmark::State& state, double flop, F&& f) {
  f();
  double best = 1e30;
  for (auto _ : state) {
    const double now = bench::best_thread_seconds(1, f);
    state.SetIterationTime(now);
    best = std::min(best, now);
  }
  state.counters["FLOP/s"] = flop / best;
  state.counters["peak"] = flop / best / bench::fma_peak<float>();
}

struct Shape {
  Index in, out, rows;
  WeightType type = WeightType::native;

  double flop() const { return 2.0 * static_cast<double>(in) * static_cast<double>(out * rows); }
  std::string name() const {
    return std::to_string(in) + "x" + std::to_string(out) + "/T:" + std::to_string(rows);
  }
};

enum class Pass { forward, d_x, d_weight };

void run_product(benchmark::State& state, const Shape& s, Pass pass) {
  const Matrix<float> w = random_matrix(s.out, s.in, 1), x = random_matrix(s.rows, s.in, 2);
  const Matrix<float> d_y = random_matrix(s.rows, s.out, 3);
  const Linear<float> linear({w}, s.type);
  Matrix<float> y(s.rows, s.out), d_x(s.rows, s.in), d_w(s.out, s.in);
  d_w.fill(0);
  const Context context;
  measure(state, s.flop(), [&] {
    if (pass == Pass::forward) linear.forward(x, y, context);
    if (pass == Pass::d_x) linear_backward_input<float>(linear, d_y, d_x, context);
    if (pass == Pass::d_weight) linear_backward_weight<float>(x, d_y, d_w, {}, context);
  });
}

void run_loss(benchmark::State& state, const Shape& s, bool backward) {
  const Matrix<float> w = random_matrix(s.out, s.in, 1), x = random_matrix(s.rows, s.in, 2);
  const Linear<float> head({w});
  Matrix<float> d_x(s.rows, s.in), d_w(backward ? s.out : 0, s.in);
  d_w.fill(0);
  std::vector<int> targets;
  for (Index r = 0; r < s.rows; ++r) targets.push_back(static_cast<int>(r * 7919 % s.out));
  const Context context;
  measure(state, (backward ? 3 : 1) * s.flop(), [&] {
    if (backward)
      cross_entropy_backward<float>(head, x, targets, 1, d_x, d_w, context);
    else
      benchmark::DoNotOptimize(cross_entropy<float>(head, x, targets, context).sum);
  });
}

const bool registered = [] {
  const auto add = [](const std::string& name, int iterations, auto function) {
    benchmark::RegisterBenchmark(name.c_str(), function)
        ->UseManualTime()
        ->Iterations(iterations)
        ->Unit(benchmark::kMillisecond);
  };
  const Shape shapes[] = {{576, 960, 512},
                          {576, 576, 512},
                          {576, 3072, 512},
                          {1536, 576, 512},
                          {192, 320, 480},
                          {192, 192, 480},
                          {192, 1024, 480},
                          {512, 192, 480},
                          {576, 3072, 512, WeightType::bfloat16},
                          {576, 3072, 512, WeightType::int8}};
  for (const Shape& s : shapes)
    for (const auto& [pass, name] :
         {std::pair{Pass::forward, "forward"}, {Pass::d_x, "d_x"}, {Pass::d_weight, "d_weight"}}) {
      constexpr const char* types[] = {"float", "bfloat16", "half", "int8"};
      if (pass == Pass::d_weight && s.type != WeightType::native) continue;
      add("product/" + std::string(name) + "/" + s.name() + "/" + types[static_cast<int>(s.type)],
          20, [s, p = pass](benchmark::State& state) { run_product(state, s, p); });
    }
  for (const Shape& s : {Shape{576, 49152, 512}, Shape{192, 104, 480}})
    for (const bool backward : {false, true})
      add(std::string("loss/") + (backward ? "backward/" : "forward/") + s.name(), 3,
          [s, backward](benchmark::State& state) { run_loss(state, s, backward); });
  return true;
}();

}  // namespace
