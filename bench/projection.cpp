// How near are projections to the machine's limits, for a prefill, a window's text and a decode
// step, and what do the loops around them cost?
//
//   projection/<casa|eigen>/<in>x<out>/T:<rows>/<storage>/threads:<n>
//   mlp/<hidden>x<width>/T:<rows>/<storage>/threads:<n>      gate, up, SwiGLU and down
//   pack/<in>x<out>/<storage>                                what loading a weight costs
//   rows/<rms_norm|swiglu|rope_half|rope_interleaved|rope_table|softmax>/<values>/T:<rows>
//
// With up to 64 rows, weights come from memory: iterations take turns among copies of 192 MB in
// all, more than the caches hold. Rates are of the fastest iteration. `peak` is its part of the
// multiply-add peak and `read` its part of the read rate of so many threads, both measured in this
// process. bfloat16_rounded rounds x to bfloat16, too (Precision::storage), int8_rounded to int8
// (Precision::int8): their `peak` is that of the arithmetic of bfloat16 or int8.
#include <benchmark/benchmark.h>

#include <cmath>
#include <optional>
#include <string>

#include "bench_common.hpp"
#include "casa/layers/rms_norm.hpp"
#include "casa/layers/rope.hpp"
#include "casa/layers/softmax.hpp"
#include "casa/layers/swiglu.hpp"
#include "limits.hpp"

namespace {

using namespace casa;

template <class T>
Matrix<T> random_matrix(Index rows, Index cols, unsigned seed) {
  Matrix<T> m(rows, cols);
  const auto values = bench::random_values<T, T>(m.size(), seed);
  std::copy_n(values.data(), m.size(), m.data());
  return m;
}

const char* name_of(WeightType type) {
  constexpr const char* names[] = {"float", "bfloat16", "half", "int8"};
  return names[static_cast<int>(type)];
}
double bytes_per_weight(WeightType type) {
  constexpr double bytes[] = {4, 2, 2, 1.0625};
  return bytes[static_cast<int>(type)];
}

// The limits of a shared machine change while benchmarks run, so they are measured again for every
// case, and the best ones so far count.
double double_peak() {
  static double best = 0;
  return best = std::max(best, bench::fma_peak<double>());
}
// The read rate of four streams at once. Some machines read these faster than one stream
// (bench::read_bandwidth), some more slowly.
double four_streams_read_rate() {
  constexpr Index count = Index{48} << 20, stream = count / 4, lanes = simd::kLanes<float>;
  static const Buffer<float>& data = *[] {
    auto* b = new Buffer<float>(count);
    std::fill_n(b->data(), count, 1.0f);
    return b;
  }();
  simd::VecF sum[4] = {};
  const double best = bench::best_thread_seconds(4, [&] {
    for (Index i = 0; i < stream; i += lanes) CASA_UNROLL
    for (Index j = 0; j < 4; ++j) sum[j] += simd::load(data.data() + j * stream + i);
  });
  benchmark::DoNotOptimize(simd::reduce_add(sum[0] + sum[1] + sum[2] + sum[3]));
  return 4.0 * static_cast<double>(count) / best;
}
double read_rate() {
  static double best = 0;
  return best = std::max({best, bench::read_bandwidth(), four_streams_read_rate()});
}

// Runs f(0) to warm up, then f(i) once an iteration, and returns the shortest time: processor time
// on one thread, wall time on several.
template <class F>
double fastest_iteration(benchmark::State& state, Index threads, F&& f) {
  double best = 1e30;
  Index i = 0;
  f(i++);
  const auto now = [&] { return threads == 1 ? bench::thread_seconds() : bench::wall_seconds(); };
  for (auto _ : state) {
    const double begin = now();
    f(i++);
    const double taken = now() - begin;
    state.SetIterationTime(taken);
    best = std::min(best, taken);
  }
  return best;
}

// `peak`: of one thread, in the arithmetic that was used.
void report(benchmark::State& state, double best, double flop, double bytes, Index threads,
            double peak) {
  const auto n = static_cast<double>(threads);
  state.counters["FLOP/s"] = flop / best;
  state.counters["bytes/s"] = bytes / best;
  state.counters["peak"] = flop / best / (n * peak);
  state.counters["read"] = bytes / best / (n * read_rate());
}

Index copies_for(Index rows, double bytes) {
  return rows > 64 ? 1 : std::max<Index>(1, static_cast<Index>(192e6 / bytes));
}

struct Product {
  Index in, out, rows;
  WeightType type;
  Index threads;
  Precision precision = Precision::full;
};

// The same with rows rounded to the weights' type, where there is arithmetic for it.
Product rounds_rows(Product p) {
  if (p.type == WeightType::bfloat16) p.precision = Precision::storage;
  if (p.type == WeightType::int8) p.precision = Precision::int8;
  return p;
}
const char* rounded_name(WeightType type) {
  return type == WeightType::int8 ? "int8_rounded" : "bfloat16_rounded";
}

std::string suffix(const Product& p, const char* storage) {
  return std::to_string(p.in) + "x" + std::to_string(p.out) + "/T:" + std::to_string(p.rows) + "/" +
         storage + "/threads:" + std::to_string(p.threads);
}

template <class T>
void run_casa(benchmark::State& state, const Product& p) {
  const auto weight = random_matrix<T>(p.out, p.in, 1);
  const auto x = random_matrix<T>(p.rows, p.in, 2);
  const auto flop = 2.0 * static_cast<double>(p.in) * static_cast<double>(p.out * p.rows);
  std::vector<Linear<T>> copies;
  for (Index left =
           copies_for(p.rows, bytes_per_weight(p.type) * flop / static_cast<double>(2 * p.rows));
       left > 0; --left)
    copies.emplace_back(LinearPiece{weight}, p.type);
  Matrix<T> y(p.rows, p.out);
  ThreadPool pool(p.threads);
  const Context context{.executor = pool, .precision = p.precision};
  const double best = fastest_iteration(state, p.threads, [&](Index i) {
    copies[static_cast<std::size_t>(i) % copies.size()].forward(x, y, context);
  });
  report(state, best, flop, static_cast<double>(copies[0].bytes()), p.threads,
         std::same_as<T, float> ? bench::product_peak(p.type, p.precision) : double_peak());
}

void run_eigen(benchmark::State& state, const Product& p) {
  const auto weight = random_matrix<float>(p.out, p.in, 1),
             x = random_matrix<float>(p.rows, p.in, 2);
  const auto flop = 2.0 * static_cast<double>(p.in) * static_cast<double>(p.out * p.rows);
  const auto bytes = 4.0 * static_cast<double>(weight.size());
  const std::vector<Matrix<float>> copies(static_cast<std::size_t>(copies_for(p.rows, bytes)),
                                          weight);
  Matrix<float> y(p.rows, p.out);
  const double best = fastest_iteration(state, 1, [&](Index i) {
    const auto w = copies[static_cast<std::size_t>(i) % copies.size()].eigen();
    if (p.rows == 1) {
      y.eigen().row(0).transpose().noalias() = w * x.eigen().row(0).transpose();
    } else {
      y.eigen().noalias() = x.eigen() * w.transpose();
    }
    benchmark::DoNotOptimize(y.data());
  });
  report(state, best, flop, bytes, 1, bench::product_peak(WeightType::native, Precision::full));
}

void run_mlp(benchmark::State& state, const Product& p) {
  const auto wide = random_matrix<float>(p.out, p.in, 1),
             down = random_matrix<float>(p.in, p.out, 3);
  const auto x = random_matrix<float>(p.rows, p.in, 2);
  const auto flop = 6.0 * static_cast<double>(p.in) * static_cast<double>(p.out * p.rows);
  std::vector<Mlp<float>> copies;
  for (Index left =
           copies_for(p.rows, bytes_per_weight(p.type) * flop / static_cast<double>(2 * p.rows));
       left > 0; --left)
    copies.emplace_back(LinearPiece{wide}, LinearPiece{wide}, LinearPiece{down}, p.type);
  Matrix<float> y(p.rows, p.in);
  ThreadPool pool(p.threads);
  const Context context{.executor = pool, .precision = p.precision};
  const double best = fastest_iteration(state, p.threads, [&](Index i) {
    copies[static_cast<std::size_t>(i) % copies.size()].forward(x, y, context);
  });
  report(state, best, flop, static_cast<double>(copies[0].bytes()), p.threads,
         bench::product_peak(p.type, p.precision));
}

void run_pack(benchmark::State& state, Index in, Index out, WeightType type) {
  const auto values = bench::random_values<bfloat16>(in * out, 1);
  const MatrixView<const bfloat16> weight(values.data(), out, in);
  const double best = fastest_iteration(state, 1, [&](Index) {
    const Linear<float> linear({weight}, type);
    benchmark::DoNotOptimize(linear.bytes());
  });
  state.counters["values/s"] = static_cast<double>(in * out) / best;
}

// Reports the rates of f(), which computes `values` values and reads and writes `bytes` bytes.
template <class F>
void run_rows(benchmark::State& state, double values, double bytes, F&& f) {
  const double best = fastest_iteration(state, 1, [&](Index) { f(); });
  state.counters["values/s"] = values / best;
  state.counters["bytes/s"] = bytes / best;
  state.counters["read"] = bytes / best / read_rate();
}

void add(const std::string& name, auto&& run) {
  benchmark::RegisterBenchmark(name.c_str(), run)->UseManualTime()->Unit(benchmark::kMicrosecond);
}

void add_rows(Index width, Index rows) {
  const std::string end = "/" + std::to_string(width) + "/T:" + std::to_string(rows);
  const double values = static_cast<double>(width * rows);
  add("rows/rms_norm" + end, [=](benchmark::State& state) {
    const auto x = random_matrix<float>(rows, width, 1), w = random_matrix<float>(1, width, 2);
    Matrix<float> y(rows, width);
    const Context context;
    run_rows(state, values, 8 * values, [&] {
      rms_norm<float>(x, {w.data(), static_cast<std::size_t>(width)}, 1e-6, y, context);
    });
  });
  add("rows/swiglu" + end, [=](benchmark::State& state) {
    const auto gate = random_matrix<float>(rows, width, 1),
               up = random_matrix<float>(rows, width, 2);
    Matrix<float> y(rows, width);
    const Context context;
    run_rows(state, values, 12 * values, [&] { swiglu<float>(gate, up, y, context); });
  });
  add("rows/softmax" + end, [=](benchmark::State& state) {
    const auto x = random_matrix<float>(rows, width, 1);
    Matrix<float> y(rows, width);
    const auto n = static_cast<std::size_t>(width);
    run_rows(state, values, 8 * values, [&] {
      for (Index r = 0; r < rows; ++r) softmax<float>({x.row(r), n}, {y.row(r), n});
    });
  });
  const std::vector<Position> at(static_cast<std::size_t>(rows), Position(12345));
  for (const RopeStyle style : {RopeStyle::half, RopeStyle::interleaved}) {
    const char* name = style == RopeStyle::half ? "rows/rope_half" : "rows/rope_interleaved";
    add(name + end, [=](benchmark::State& state) {
      auto x = random_matrix<float>(rows, width, 1);
      const Context context;
      RopeTable<float> table;
      table.assign(make_rope<float>(64, 1e4, style), at, context);
      run_rows(state, values, 8 * values, [&] { apply_rope<float>(x, table, 64, context); });
    });
  }
  add("rows/rope_table" + end, [=](benchmark::State& state) {
    const Rope rope = make_rope<float>(128, 1e4, RopeStyle::half);
    const Context context;
    RopeTable<float> table;
    const double angles = static_cast<double>(rows * 64);
    run_rows(state, angles, 8 * angles, [&] { table.assign(rope, at, context); });
  });
}

const int registered = [] {
  constexpr WeightType all[] = {WeightType::native, WeightType::bfloat16, WeightType::half,
                                WeightType::int8};
  struct Shape {
    Index in, out;
  };
  for (const Shape& s :
       {Shape{2048, 8192}, Shape{8192, 2048}, Shape{2048, 2048}, Shape{2048, 11008},
        Shape{11008, 2048}, Shape{576, 576}, Shape{576, 1536}, Shape{1536, 576}}) {
    for (const Index rows : {1, 4, 20, 276}) {
      for (const WeightType type : all)
        for (const Index threads : {1, 2}) {
          const Product p{s.in, s.out, rows, type, threads};
          add("projection/casa/" + suffix(p, name_of(type)),
              [=](benchmark::State& state) { run_casa<float>(state, p); });
          const Product rounded = rounds_rows(p);
          if (rounded.precision == Precision::full) continue;
          add("projection/casa/" + suffix(p, rounded_name(type)),
              [=](benchmark::State& state) { run_casa<float>(state, rounded); });
        }
      const Product p{s.in, s.out, rows, WeightType::native, 1};
      add("projection/eigen/" + suffix(p, "float"),
          [=](benchmark::State& state) { run_eigen(state, p); });
      if (s.in == 2048 && s.out == 2048)
        add("projection/casa/" + suffix(p, "double"),
            [=](benchmark::State& state) { run_casa<double>(state, p); });
    }
  }
  for (const Shape& s : {Shape{2048, 8192}, Shape{2048, 11008}, Shape{576, 1536}})
    for (const Index rows : {1, 20, 276})
      for (const WeightType type : all)
        for (const Index threads : {1, 2}) {
          const Product p{s.in, s.out, rows, type, threads};
          add("mlp/" + suffix(p, name_of(type)),
              [=](benchmark::State& state) { run_mlp(state, p); });
          const Product rounded = rounds_rows(p);
          if (rounded.precision == Precision::full) continue;
          add("mlp/" + suffix(p, rounded_name(type)),
              [=](benchmark::State& state) { run_mlp(state, rounded); });
        }
  for (const WeightType type : all)
    add(std::string("pack/2048x2048/") + name_of(type),
        [=](benchmark::State& state) { run_pack(state, 2048, 2048, type); });
  add_rows(2048, 20);
  add_rows(11008, 276);
  return 0;
}();

}  // namespace
