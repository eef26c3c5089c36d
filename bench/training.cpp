// What does the backward pass of attention cost beside the forward pass, and how far is it from the
// machine's limit?
//
//   backward/<case>/<type>   the gradients of queries, keys and values: 2.5 times the operations of
//                            the forward pass; `ratio` is (forward + backward) / forward
#include "training.hpp"

#include <benchmark/benchmark.h>

#include <string>

#include "attention_cases.hpp"
#include "casa/attention/attend_backward.hpp"

namespace {

using namespace casa;
using bench::Case;

std::vector<Case> cases() {
  Case small = bench::causal("causal_512_heads9_3_dim64", 512);  // of SmolLM2-135M
  small.num_heads = 9;
  small.num_kv_heads = 3;
  small.head_dim = 64;
  return {bench::causal("attention_T1024", 1024), bench::windows("casa_stream", 8, 256, 20, 8),
          small};
}

// One problem, forward and backward.
template <class T>
class Step {
 public:
  Step(const Case& c, Context& context)
      : c_(c),
        context_(context),
        q_(bench::random_values<T, T>(c.rows * columns(), 1)),
        k_(bench::random_values<T, T>(c.keys * c.num_kv_heads * c.head_dim, 2)),
        v_(bench::random_values<T, T>(c.keys * c.num_kv_heads * c.head_dim, 3)),
        d_out_(bench::random_values<T, T>(c.rows * columns(), 4)),
        out_(c.rows * columns()),
        lse_(c.rows * c.num_heads),
        d_q_(q_.size()),
        d_k_(k_.size()),
        d_v_(v_.size()) {}

  void forward() { attend(input(), MatrixView<T>(rows(out_)), lse_.data(), context_); }
  void backward() {
    const KeyGradients<T> keys{d_k_.data(), d_v_.data(), c_.keys, c_.head_dim,
                               c_.keys * c_.head_dim};
    attend_backward(input(), {rows(out_), lse_.data(), rows(d_out_)},
                    {.q = rows(d_q_), .keys = {&keys, 1}}, context_);
  }

 private:
  Index columns() const { return c_.num_heads * c_.head_dim; }
  MatrixView<T> rows(Buffer<T>& values) const { return {values.data(), c_.rows, columns()}; }
  AttentionInput<T> input() {
    piece_ = {k_.data(), v_.data(), c_.keys, c_.head_dim, c_.keys * c_.head_dim};
    return {.shape = {c_.num_heads, c_.num_kv_heads, c_.head_dim},
            .scale = default_scale(c_.head_dim),
            .q = rows(q_),
            .keys = {&piece_, 1},
            .intervals = c_.intervals};
  }

  const Case c_;
  Context& context_;
  Buffer<T> q_, k_, v_, d_out_, out_, lse_, d_q_, d_k_, d_v_;
  KeyPiece<T> piece_;
};

template <class T>
void run(benchmark::State& state, const Case& c) {
  Context context;
  Step<T> step(c, context);
  step.forward();
  step.backward();
  double forward = 1e30, backward = 1e30;
  for (auto _ : state) {
    forward = std::min(forward, bench::best_thread_seconds(1, [&] { step.forward(); }));
    const double now = bench::best_thread_seconds(1, [&] { step.backward(); });
    backward = std::min(backward, now);
    state.SetIterationTime(now);
  }
  const double rate = 2.5 * c.flop() / backward;
  state.counters["FLOP/s"] = rate;
  state.counters["peak"] = rate / bench::fma_peak<T>();
  state.counters["ratio"] = (forward + backward) / forward;
}

const bool registered = [] {
  for (const Case& c : cases()) {
    const auto add = [&](const char* type, auto function) {
      benchmark::RegisterBenchmark(("backward/" + c.name + "/" + type).c_str(),
                                   [=](benchmark::State& s) { function(s, c); })
          ->UseManualTime()
          ->Iterations(20)
          ->Unit(benchmark::kMillisecond);
    };
    add("float", run<float>);
    add("double", run<double>);
  }
  return true;
}();

}  // namespace

namespace bench {

void print_training(Index threads) {
  ThreadPool pool(threads);
  Context context;
  if (threads > 1) context.executor = pool;
  for (const Case& c : cases()) {
    if (c.head_dim != 128) continue;
    Step<float> step(c, context);
    print_csv(
        "training", c.name, "casa", threads, 3.5e-9 * c.flop(), "GFLOP",
        [&] {
          step.forward();
          step.backward();
        },
        1.0);
  }
}

}  // namespace bench
