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
  explicit Step(const Case& c)
      : p_(c),
        d_out_(bench::random_values<T, T>(p_.out.size(), 4)),
        lse_(c.rows * c.num_heads),
        d_q_(p_.q.size()),
        d_k_(p_.k.size()),
        d_v_(p_.v.size()) {}

  void forward(const Context& context) { p_.run(context, lse_.data()); }
  void backward(const Context& context) {
    const KeyGradients<T> keys{d_k_.data(), d_v_.data(), p_.piece.count, p_.piece.token_stride,
                               p_.piece.head_stride};
    attend_backward(p_.input(), {p_.rows(p_.out), lse_.data(), p_.rows(d_out_)},
                    {.q = p_.rows(d_q_), .keys = {&keys, 1}}, context);
  }

 private:
  bench::Problem<T> p_;
  Buffer<T> d_out_, lse_, d_q_, d_k_, d_v_;
};

template <class T>
void run(benchmark::State& state, const Case& c) {
  Context context;
  Step<T> step(c);
  step.forward(context);
  step.backward(context);
  double forward = 1e30, backward = 1e30;
  for (auto _ : state) {
    forward = std::min(forward, bench::best_thread_seconds(1, [&] { step.forward(context); }));
    const double now = bench::best_thread_seconds(1, [&] { step.backward(context); });
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
    Step<float> step(c);
    print_csv(
        "training", c.name, "casa", threads, 3.5e-9 * c.flop(), "GFLOP",
        [&] {
          step.forward(context);
          step.backward(context);
        },
        1.0);
  }
  print_training_steps(threads);
}

}  // namespace bench
