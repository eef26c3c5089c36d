// Where does a small change of shape cost more than it should? Each benchmark runs a case and a
// neighbour of it in turn, and reports the ratio.
//
//   rows/keys:<k>/rows:<r>/<scalar>      r query rows a kv head over a cache of k keys; `ratio`:
//                                        the time over that of r - 1 rows
//   layout/keys:<k>/rows:<r>/<scalar>    keys and values token by token, all heads of a token side
//                                        by side; `ratio`: the rate over that of head-major ones
//   decode_dim/<d>/<scalar>              one row over head_dim d; `ratio`: B/s over those of 128
//   prefill_dim/<d>/<scalar>             causal, head_dim d; `ratio`: FLOP/s over those of 128
//   decode_group/<g>/<scalar>            g query heads a kv head; `ratio`: time a visible pair over
//                                        that of the next smaller power of two
//   prefill_group/<g>/<scalar>           the same, causal
//
//   state/<by_value|in_place>            states over half of 128 keys each, of 4,096 rows and 16
//                                        heads, merged and finished; `faults`: page faults a call
//
// One thread, in its processor time. A ratio is the median of those of pairs of runs, one case
// directly after the other, so that what else the machine does moves it little. `peak` is the rate
// over the machine's limit, as in attention.cpp.
#include <benchmark/benchmark.h>
#include <sys/resource.h>

#include <algorithm>
#include <bit>
#include <string>
#include <vector>

#include "attention_cases.hpp"

namespace {

using bench::Case;
using casa::Index;
using casa::Precision;

/// Some query tokens of `group` heads a kv head over a cache that all of them see.
Case cache(Index tokens, Index group, Index keys, Index kv_heads, Index head_dim = 128) {
  Case c = bench::decode("", tokens, keys);
  c.num_kv_heads = kv_heads;
  c.num_heads = kv_heads * group;
  c.head_dim = head_dim;
  return c;
}
Case causal(Index rows, Index group, Index kv_heads, Index head_dim = 128) {
  Case c = bench::causal("", rows);
  c.num_kv_heads = kv_heads;
  c.num_heads = kv_heads * group;
  c.head_dim = head_dim;
  return c;
}

struct Pair {
  Case tested, neighbour;
  bool token_major = false;  ///< the tested one's keys lie token by token
  bool of_rates = false;     ///< the ratio is of rates, else of times a visible pair
};

double per_pair(const Case& c) {
  return static_cast<double>(c.visible_pairs()) * static_cast<double>(c.num_heads);
}

template <class T, class S>
void run_pair(benchmark::State& state, const Pair& pair, bool decode_step, Precision precision) {
  bench::Problem<T, S> tested(pair.tested), neighbour(pair.neighbour);
  if (pair.token_major) {
    tested.piece.head_stride = pair.tested.head_dim;
    tested.piece.token_stride = pair.tested.num_kv_heads * pair.tested.head_dim;
  }
  casa::Context context;
  context.precision = precision;
  const auto time = [&](auto& problem) {
    const double begin = bench::thread_seconds();
    problem.run(context);
    return bench::thread_seconds() - begin;
  };
  const Case& c = pair.tested;
  const Case& n = pair.neighbour;
  static double read = 0, flops = 0;
  read = (std::max)(read, bench::read_bandwidth());
  flops = (std::max)(flops, bench::fma_peak<T>());
  // Work that the two times are divided by.
  double work = 1, other = 1;
  if (pair.of_rates) {
    work = c.decode ? c.template key_bytes<S>() : c.flop();
    other = n.decode ? n.template key_bytes<S>() : n.flop();
  } else if (!decode_step) {
    work = per_pair(c), other = per_pair(n);
  }
  time(tested), time(neighbour);
  std::vector<double> ratios;
  double best = 1e30;
  for (auto _ : state) {
    double a = 0, b = 0;
    if (ratios.size() % 2 == 0) {
      a = time(tested);
      b = time(neighbour);
    } else {
      b = time(neighbour);
      a = time(tested);
    }
    ratios.push_back(a / work / (b / other));
    best = (std::min)(best, a);
    state.SetIterationTime(a + b);
  }
  const double ratio = bench::median(ratios);
  state.counters["ratio"] = pair.of_rates ? 1 / ratio : ratio;
  state.counters["FLOP/s"] = benchmark::Counter(c.flop() / best);
  if (c.decode) state.counters["B/s"] = benchmark::Counter(c.template key_bytes<S>() / best);
  state.counters["peak"] =
      c.decode ? c.template key_bytes<S>() / best / read : c.flop() / best / flops;
}

template <class T, class S = T>
void add(const std::string& name, const Pair& pair, const char* scalar,
         Precision precision = Precision::full) {
  const bool decode_step = name.starts_with("rows/");
  benchmark::RegisterBenchmark(
      (name + "/" + scalar).c_str(),
      [=](benchmark::State& state) { run_pair<T, S>(state, pair, decode_step, precision); })
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
}
void add_all(const std::string& name, const Pair& pair) {
  add<float>(name, pair, "float");
  add<double>(name, pair, "double");
  add<float, casa::bfloat16>(name, pair, "bfloat16");
  add<float, casa::bfloat16>(name, pair, "bfloat16_rounded", Precision::storage);
}

/// Two halves of the keys, merged and finished: as values, or in memory that is kept.
void run_states(benchmark::State& state, bool in_place) {
  const Index rows = 4096, keys = 128;
  Case c = bench::decode("", rows, keys);
  bench::Problem<float> problem(c);
  const std::vector<casa::Interval> first(static_cast<std::size_t>(rows), {0, keys / 2}),
      second(static_cast<std::size_t>(rows), {keys / 2, keys});
  const Index cols = c.num_heads * c.head_dim;
  casa::AttentionInput<float> in{{c.num_heads, c.num_kv_heads, c.head_dim},
                                 casa::default_scale(c.head_dim),
                                 {problem.q.data(), rows, cols},
                                 {&problem.piece, 1},
                                 first};
  const casa::MatrixView<float> out(problem.out.data(), rows, cols);
  casa::Context context;
  casa::AttentionState<float> a, b;
  const auto pass = [&] {
    if (in_place) {
      in.intervals = first;
      casa::attend_state(in, a, context);
      in.intervals = second;
      casa::attend_state(in, b, context);
      casa::merge(a, b, context);
      casa::finish(a, out, nullptr, context);
    } else {
      in.intervals = first;
      auto whole = casa::attend_state(in, context);
      in.intervals = second;
      casa::merge(whole, casa::attend_state(in, context));
      casa::finish(whole, out);
    }
  };
  const auto faults = [] {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return static_cast<double>(usage.ru_minflt);
  };
  pass();
  const double before = faults();
  for (auto _ : state) {
    const double begin = bench::thread_seconds();
    pass();
    state.SetIterationTime(bench::thread_seconds() - begin);
  }
  state.counters["faults"] = (faults() - before) / static_cast<double>(state.iterations());
}

const bool registered = [] {
  for (const bool in_place : {false, true})
    benchmark::RegisterBenchmark(in_place ? "state/in_place" : "state/by_value",
                                 [=](benchmark::State& state) { run_states(state, in_place); })
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  for (const Index keys : {1024, 32768}) {
    const std::string at = "/keys:" + std::to_string(keys) + "/rows:";
    for (Index rows = 2; rows <= 17; ++rows)
      add_all("rows" + at + std::to_string(rows),
              {cache(1, rows, keys, 2), cache(1, rows - 1, keys, 2)});
    for (const Index rows : {1, 2, 4, 7, 8, 16}) {
      const Case c = cache(1, rows, keys, 8);
      add_all("layout" + at + std::to_string(rows), {c, c, true, true});
    }
  }
  for (const Index d : {32, 48, 64, 80, 96, 112, 160, 192, 256}) {
    const std::string name = "_dim/" + std::to_string(d);
    // As many bytes as the neighbour has.
    add_all("decode" + name,
            {cache(1, 1, 16384 * 128 / d, 4, d), cache(1, 1, 16384, 4), false, true});
    add_all("prefill" + name, {causal(1024, 2, 2, d), causal(1024, 2, 2), false, true});
  }
  for (const Index g : {3, 5, 7, 16, 64}) {
    const Index n =
        g == 16 || g == 64 ? g / 2 : static_cast<Index>(std::bit_floor(static_cast<unsigned>(g)));
    const std::string name = "_group/" + std::to_string(g);
    add_all("decode" + name, {cache(1, g, 8192, 4), cache(1, n, 8192, 4)});
    add_all("prefill" + name, {causal(512, g, 1), causal(512, n, 1)});
  }
  return true;
}();

}  // namespace
