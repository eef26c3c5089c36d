// How near is attention to the machine's limits, and what do the variants cost on the same stream?
//
//   attention/<naive|fast>/<case>/<scalar>/threads:<n>    the cases that are compared with other
//                                                         libraries, and other head sizes
//   decode/rows:<r>/keys:<k>/<scalar>/threads:<n>         few query rows over a long cache
//   variant/<sa|ca|casa|ti>/<stream>/<scalar>/threads:<n> one stream as each variant attends to it
//
// <scalar> is the type of keys and values; bfloat16_rounded runs with Precision::storage, which
// rounds queries and weights to bfloat16, too.
//
// FLOP/s count 4 head_dim operations for each visible (query, key) pair and head, in the fastest
// iteration. `peak` is FLOP/s over the multiply-add peak of so many threads; for decode it is B/s
// over the read rate of memory. The limits are measured in this process on one thread, in its
// processor time. The work is timed in processor time on one thread, and on the wall clock on more.
#include <benchmark/benchmark.h>

#include <memory>

#include "attention_cases.hpp"

namespace {

using bench::Case;
using casa::Index;
using casa::Path;
using casa::Precision;

template <class S>
const char* scalar_name(Precision precision) {
  if constexpr (std::is_same_v<S, double>) return "double";
  if constexpr (std::is_same_v<S, casa::bfloat16>)
    return precision == Precision::full ? "bfloat16" : "bfloat16_rounded";
  if constexpr (std::is_same_v<S, casa::half>) return "half";
  return "float";
}

// The clock of a shared machine changes while benchmarks run, so the peak is measured again for
// every case, and the best one so far counts.
template <class T>
double peak_flops() {
  static double best = 0;
  return best = (std::max)(best, bench::fma_peak<T>());
}
double read_rate() {
  static double best = 0;
  return best = (std::max)(best, bench::read_bandwidth());
}

template <class T, class S>
void run_case(benchmark::State& state, const Case& c, Path path, Precision precision,
              Index threads) {
  bench::Problem<T, S> problem(c);
  std::unique_ptr<casa::ThreadPool> pool;
  casa::Context context;
  context.path = path;
  context.precision = precision;
  if (threads > 1) {
    pool = std::make_unique<casa::ThreadPool>(threads);
    context.executor = *pool;
  }
  const double limit = c.decode ? read_rate() : peak_flops<T>();
  problem.run(context);
  double best = 1e30;
  for (auto _ : state) {
    const double begin = threads > 1 ? bench::wall_seconds() : bench::thread_seconds();
    problem.run(context);
    const double t = (threads > 1 ? bench::wall_seconds() : bench::thread_seconds()) - begin;
    state.SetIterationTime(t);
    best = (std::min)(best, t);
  }
  const double work = c.decode ? c.key_bytes<S>() : c.flop();
  state.counters["FLOP/s"] = benchmark::Counter(c.flop() / best);
  if (c.decode) {
    state.counters["B/s"] = benchmark::Counter(work / best);
    state.counters["keys"] = static_cast<double>(c.keys);
    state.counters["rows"] = static_cast<double>(c.rows * c.num_heads / c.num_kv_heads);
  }
  state.counters["peak"] = work / best / limit / static_cast<double>(threads);
}

template <class T, class S = T>
void add(const std::string& prefix, const Case& c, Path path = Path::fast,
         Precision precision = Precision::full) {
  for (const Index threads : {1, 2}) {
    const std::string name =
        prefix + c.name + "/" + scalar_name<S>(precision) + "/threads:" + std::to_string(threads);
    auto* b = benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
      run_case<T, S>(state, c, path, precision, threads);
    });
    b->UseManualTime()->Unit(benchmark::kMillisecond);
    if (path == Path::naive) b->Iterations(1);
  }
}

const bool registered = [] {
  for (const Case& c : bench::peer_cases()) {
    add<float>("attention/fast/", c);
    add<double>("attention/fast/", c);
    add<float, casa::bfloat16>("attention/fast/", c);
    add<float, casa::bfloat16>("attention/fast/", c, Path::fast, Precision::storage);
    add<float, casa::half>("attention/fast/", c);
    add<float>("attention/naive/", c, Path::naive);
    add<double>("attention/naive/", c, Path::naive);
  }
  for (const Index d : {64, 80, 96, 111, 256}) {
    Case c = bench::causal("causal_T1024_kv8_d" + std::to_string(d), 1024);
    c.head_dim = d;
    add<float>("attention/fast/", c);
  }
  for (const Index rows : {1, 2, 4, 8})  // query rows times query heads that share one kv head
    for (const Index keys : {276, 1024, 4096, 16384, 65536}) {
      Case c = bench::decode("rows:" + std::to_string(rows) + "/keys:" + std::to_string(keys),
                             rows == 1 ? 1 : rows / 2, keys);
      if (rows == 1) c.num_heads = c.num_kv_heads;
      add<float>("decode/", c);
      add<float, casa::bfloat16>("decode/", c);
      add<float, casa::bfloat16>("decode/", c, Path::fast, Precision::storage);
    }
  for (const Index frames : {8, 64})
    for (const Case& c : bench::variant_cases(frames)) add<float>("variant/", c);
  return true;
}();

}  // namespace
