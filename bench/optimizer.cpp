// Does an update of all parameters run at the speed of memory?
//
//   optimizer/<what>/<type>/threads:<n>   16 million parameters: `adamw` reads weight, gradient and
//                                         two moments and writes all but the gradient; `norm` reads
//                                         the gradients; `step` is both, and clears the gradients.
//                                         bytes/s counts each array as often as it is read or
//                                         written
#include <benchmark/benchmark.h>

#include <algorithm>
#include <string>

#include "bench_common.hpp"
#include "casa/train/trainer.hpp"

namespace {

using namespace casa;

constexpr Index kParameters = Index{1} << 24;

// Milliseconds by the wall, as threads share the memory's bandwidth.
template <class T>
void run(benchmark::State& state, const std::string& what, Index threads) {
  ThreadPool pool(threads);
  const Context context{.executor = pool};
  TensorSet<T> start({{"w", kParameters / 4096, 4096}});
  start.fill(T(0.5));
  Trainer<T> trainer(start, {.clip_norm = 1});
  TensorSet<T> weights = start;
  AdamW<T> adamw(start.specs());
  TensorSet<T>& gradients = trainer.gradients();
  gradients.fill(T(1e-3));
  const double arrays = what == "adamw" ? 7 : what == "norm" ? 1 : 9;
  double best = 1e30;
  for (auto _ : state) {
    const double seconds = bench::best_seconds(bench::wall_seconds, 1, [&] {
      if (what == "adamw") {
        adamw.step(weights, gradients, 1e-3, 1, context);
      } else if (what == "norm") {
        benchmark::DoNotOptimize(global_norm(gradients, context));
      } else {
        trainer.step(1, context);
      }
    });
    best = std::min(best, seconds);
    state.SetIterationTime(seconds);
  }
  state.counters["bytes/s"] = arrays * static_cast<double>(kParameters) * sizeof(T) / best;
}

const bool registered = [] {
  for (const std::string what : {"adamw", "norm", "step"})
    for (const Index threads : {1, 2}) {
      const auto add = [&](const char* type, auto function) {
        benchmark::RegisterBenchmark(
            ("optimizer/" + what + "/" + type + "/threads:" + std::to_string(threads)).c_str(),
            [=](benchmark::State& s) { function(s, what, threads); })
            ->UseManualTime()
            ->Iterations(5)
            ->Unit(benchmark::kMillisecond);
      };
      add("float", run<float>);
      add("double", run<double>);
    }
  return true;
}();

}  // namespace
