// Do unusual masks and sizes keep the rate of usual ones? Each case is timed in turn with a usual
// one, and the counter `relative` is its rate of visible pairs over that of the usual one, the
// median of all turns: casa_bench --benchmark_filter=cliffs/ --benchmark_counters_tabular=true
//
//   cliffs/order/  rows in an order in which neighbours see different keys; usual: a causal mask
//                  over 2,048 tokens. `sorted` beside each: the caller has put the rows in order.
//   cliffs/few/    few rows over 100,000 keys, so that there are few jobs; usual: 16 rows
//   cliffs/tiny/   intervals of few keys; usual: the causal mask. seq3 is 10,000 sequences of three
//                  tokens; usual: a loop of Eigen's products over sequences and heads
//   cliffs/inf/    a window of 256 with an infinite value; usual: the same without
#include <benchmark/benchmark.h>

#include <Eigen/Core>
#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <random>

#include "bench_common.hpp"
#include "casa/attention/attend.hpp"
#include "casa/attention/masks.hpp"

namespace {

using casa::Index;
using casa::Interval;
using casa::Mask;

/// A problem of attention: its mask, and sizes. Keys are as many as the mask needs.
struct Sizes {
  Mask mask;
  Index num_heads = 16;
  Index num_kv_heads = 8;
  Index head_dim = 128;

  double pairs() const {  // visible, of all heads
    Index n = 0;
    for (const Interval i : mask.intervals) n += i.size();
    return static_cast<double>(n * num_heads);
  }
  Index keys() const {
    Index n = 0;
    for (const Interval i : mask.intervals) n = (std::max)(n, i.end);
    return n;
  }
};

/// The same with its memory; keys and values are stored as S, heads after one another.
template <class T, class S>
struct Problem {
  Sizes sizes;
  Index rows, keys;
  casa::Buffer<T> q, out;
  casa::Buffer<S> k, v;

  explicit Problem(Sizes given)
      : sizes(std::move(given)),
        rows(sizes.mask.num_rows()),
        keys(sizes.keys()),
        q(bench::random_values<T, T>(rows * sizes.num_heads * sizes.head_dim, 1)),
        out(rows * sizes.num_heads * sizes.head_dim),
        k(bench::random_values<S, T>(keys * sizes.num_kv_heads * sizes.head_dim, 2)),
        v(bench::random_values<S, T>(keys * sizes.num_kv_heads * sizes.head_dim, 3)) {}

  void run(const casa::Context& context) {
    const Index d = sizes.head_dim, columns = sizes.num_heads * d;
    const casa::KeyPiece<S> piece{k.data(), v.data(), keys, d, keys * d};
    const casa::AttentionInput<T, S> in{{sizes.num_heads, sizes.num_kv_heads, d},
                                        casa::default_scale(d),
                                        {q.data(), rows, columns},
                                        {&piece, 1},
                                        sizes.mask.intervals,
                                        sizes.mask.offsets};
    casa::attend(in, casa::MatrixView<T>(out.data(), rows, columns), nullptr, context);
  }
};

/// What is timed: how many visible pairs a run has, and the run.
struct Work {
  double pairs;
  std::function<void(const casa::Context&)> run;
};
using MakeWork = std::function<Work()>;

template <class T, class S>
Work attention(const Sizes& sizes) {
  auto problem = std::make_shared<Problem<T, S>>(sizes);
  return {sizes.pairs(), [problem](const casa::Context& context) { problem->run(context); }};
}

/// Causal attention of sequences of `length` tokens that stand end to end.
Sizes sequences(Index count, Index length, Index num_heads, Index num_kv_heads, Index head_dim) {
  const std::vector<Index> lengths(static_cast<std::size_t>(count), length);
  return {casa::masks::packed_documents(count * length, lengths), num_heads, num_kv_heads,
          head_dim};
}

/// The same by Eigen's products, a head of a sequence at a time; every head has its own keys.
Work eigen_loop(Index count, Index length, Index num_heads, Index head_dim) {
  using Matrix = casa::RowMatrix<float>;
  const Sizes sizes = sequences(count, length, num_heads, num_heads, head_dim);
  const auto random = [&](unsigned seed) {
    const auto values = bench::random_values<float>(count * length * num_heads * head_dim, seed);
    return Matrix(Eigen::Map<const Matrix>(values.data(), count * length, num_heads * head_dim));
  };
  auto q = std::make_shared<Matrix>(random(1)), k = std::make_shared<Matrix>(random(2)),
       v = std::make_shared<Matrix>(random(3)),
       out = std::make_shared<Matrix>(q->rows(), q->cols());
  return {sizes.pairs(), [=](const casa::Context&) {
            const auto scale = static_cast<float>(casa::default_scale(head_dim));
            Matrix scores(length, length);
            for (Index b = 0; b < count * length; b += length)
              for (Index h = 0; h < num_heads * head_dim; h += head_dim) {
                scores.noalias() =
                    q->block(b, h, length, head_dim) * k->block(b, h, length, head_dim).transpose();
                for (Index r = 0; r < length; ++r) {
                  auto seen = scores.row(r).head(r + 1).array();
                  seen = (scale * (seen - seen.maxCoeff())).exp().eval();
                  seen /= seen.sum();
                  scores.row(r).tail(length - r - 1).setZero();
                }
                out->block(b, h, length, head_dim).noalias() =
                    scores * v->block(b, h, length, head_dim);
              }
            benchmark::DoNotOptimize(out->data());
          }};
}

/// Times a case in turn with its usual one.
void measure(benchmark::State& state, const MakeWork& make, const MakeWork& make_usual,
             Index threads) {
  const Work work = make(), usual = make_usual();
  casa::ThreadPool pool(threads);
  casa::Context context;
  if (threads > 1) context.executor = pool;
  const auto seconds = [&](const Work& w) {
    return bench::best_seconds(threads > 1 ? bench::wall_seconds : bench::thread_seconds, 3,
                               [&] { w.run(context); });
  };
  seconds(work);
  std::vector<double> ratios;
  for (auto _ : state) {
    const double of_usual = seconds(usual), of_work = seconds(work);
    state.SetIterationTime(of_work);
    ratios.push_back(work.pairs / of_work * of_usual / usual.pairs);
  }
  state.counters["relative"] = bench::median(ratios);
}

void add(const std::string& name, const MakeWork& make, const MakeWork& usual, Index threads = 1) {
  benchmark::RegisterBenchmark(
      ("cliffs/" + name + "/threads:" + std::to_string(threads)).c_str(),
      [=](benchmark::State& state) { measure(state, make, usual, threads); })
      ->UseManualTime()
      ->Iterations(5)
      ->Unit(benchmark::kMillisecond);
}

/// A mask of the same rows in another order: row r of it is row order[r].
Mask reordered(const Mask& mask, const std::vector<Index>& order) {
  Mask result;
  for (const Index r : order) {
    const auto row = mask.row(r);
    result.add_row(casa::ListView<Interval>(row.data(), row.size()));
  }
  result.compact();
  return result;
}

Mask shuffled(const Mask& mask) {
  std::vector<Index> order(static_cast<std::size_t>(mask.num_rows()));
  std::iota(order.begin(), order.end(), Index{0});
  std::mt19937 random(1);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random() % i]);
  return reordered(mask, order);
}

/// Rows of few keys before those of many, each in the order of their keys.
Mask in_order(const Mask& mask, Index few) {
  std::vector<Index> order(static_cast<std::size_t>(mask.num_rows()));
  std::iota(order.begin(), order.end(), Index{0});
  const auto key = [&](Index r) {
    Index begin = 0, end = 0, size = 0;
    for (const Interval i : mask.row(r)) {
      if (size == 0) begin = i.begin;
      end = i.end;
      size += i.size();
    }
    return std::tuple(size > few, begin, end);
  };
  std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) { return key(a) < key(b); });
  return reordered(mask, order);
}

/// A window, and every 64th row sees all keys before it.
Mask window_with_global_rows(Index window) {
  Mask mask;
  for (Index r = 0; r < 2048; ++r)
    mask.add_row({{r % 64 == 63 ? 0 : (std::max)(Index{0}, r + 1 - window), r + 1}});
  mask.compact();
  return mask;
}
/// The same beside four sinks: lists of intervals.
Mask sinks_window_with_global_rows(Index window) {
  Mask mask;
  for (Index r = 0; r < 2048; ++r)
    if (r % 64 == 63 || r < window + 4)
      mask.add_row({{0, r + 1}});
    else
      mask.add_row({{0, 4}, {r + 1 - window, r + 1}});
  return mask;
}
/// Rows see one of two far intervals in turn.
Mask alternating() {
  Mask mask;
  for (Index r = 0; r < 2048; ++r)
    mask.add_row({r % 2 == 0 ? Interval{0, 256} : Interval{1792, 2048}});
  mask.compact();
  return mask;
}
Mask every_other_row_empty() {
  Mask mask;
  for (Index r = 0; r < 2048; ++r)
    if (r % 2 == 0)
      mask.add_row({{0, r + 1}});
    else
      mask.add_row({});
  mask.compact();
  return mask;
}
/// `rows` rows that see all of 100,000 keys.
Sizes few(Index rows, Index heads_of_row) {
  Sizes sizes{{}, heads_of_row, 1, 128};
  for (Index r = 0; r < rows; ++r) sizes.mask.add_row({{0, 100000}});
  sizes.mask.compact();
  return sizes;
}

// Masks are made when a case runs: a program that runs others only does not wait for them.
template <class T, class S = T>
void add_all(const std::string& type) {
  using MakeMask = std::function<Mask()>;
  const auto of = [](std::function<Sizes()> sizes) -> MakeWork {
    return [sizes] { return attention<T, S>(sizes()); };
  };
  const MakeWork causal = of([] { return Sizes{casa::masks::causal(2048)}; });
  const auto order = [&](const std::string& name, const MakeMask& mask, Index few_keys) {
    add("order/" + name + "/" + type, of([=] { return Sizes{mask()}; }), causal);
    add("order/" + name + "/sorted/" + type, of([=] { return Sizes{in_order(mask(), few_keys)}; }),
        causal);
  };
  order(
      "window64_global64", [] { return window_with_global_rows(64); }, 64);
  order(
      "shuffled_window256", [] { return shuffled(casa::masks::sliding_window(2048, 256)); }, 2048);
  order("alternating", alternating, 2048);
  order("every_other_empty", every_other_row_empty, 0);
  order(
      "shuffled_causal", [] { return shuffled(casa::masks::causal(2048)); }, 2048);
  order(
      "lists_window256_global64", [] { return sinks_window_with_global_rows(256); }, 260);
  order(
      "lists_shuffled", [] { return shuffled(casa::masks::sinks_window(2048, 4, 256)); }, 2048);
  const auto rows_of = [&](Index rows, Index heads) {
    return of([=] { return few(rows, heads); });
  };
  for (const Index threads : {1, 2}) {
    add("few/rows17/" + type, rows_of(17, 2), rows_of(16, 2), threads);
    add("few/rows1_heads64/" + type, rows_of(1, 64), rows_of(16, 2), threads);
    add("few/rows100/" + type, rows_of(100, 2), rows_of(16, 2), threads);
  }
  add("tiny/seq40/" + type, of([] { return sequences(1000, 40, 16, 8, 128); }), causal);
  add("tiny/seq40_heads4_dim64/" + type, of([] { return sequences(1000, 40, 4, 4, 64); }), causal);
  const auto window_of = [&](Index window) {
    return of([=] { return Sizes{casa::masks::sliding_window(2048, window)}; });
  };
  for (const Index window : {1, 4, 16, 64, 128})
    add("tiny/window" + std::to_string(window) + "/" + type, window_of(window), causal);
  add(
      "inf/window256/" + type,
      [] {
        const Sizes sizes{casa::masks::sliding_window(2048, 256)};
        auto problem = std::make_shared<Problem<T, S>>(sizes);
        problem->v[1024 * 128] = casa::narrow<S>(std::numeric_limits<T>::infinity());
        return Work{sizes.pairs(), [problem](const casa::Context& c) { problem->run(c); }};
      },
      window_of(256));
}

const bool registered = [] {
  add_all<float>("float");
  add_all<float, casa::bfloat16>("bf16");
  add_all<double>("double");
  for (const auto& [heads, dim] : {std::pair<Index, Index>{1, 64}, {4, 64}, {8, 128}})
    add(
        "tiny/seq3_heads" + std::to_string(heads) + "_dim" + std::to_string(dim) + "/float",
        [heads = heads, dim = dim] {
          return attention<float, float>(sequences(10000, 3, heads, heads, dim));
        },
        [heads = heads, dim = dim] { return eigen_loop(10000, 3, heads, dim); });
  return true;
}();

}  // namespace
