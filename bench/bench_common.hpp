// What the benchmarks share: the machine's limits measured in the same process, the processor time
// of a thread, aligned random data, and the CSV line of a result.
#pragma once

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "casa/core/context.hpp"
#include "casa/simd/pairs.hpp"
#include "casa/simd/quads.hpp"
#include "casa/simd/simd.hpp"

namespace bench {

using casa::Index;

inline double seconds(clockid_t clock) {
  timespec t{};
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}
/// Processor time of the calling thread in seconds: it stands still while other jobs have the core.
inline double thread_seconds() { return seconds(CLOCK_THREAD_CPUTIME_ID); }
inline double wall_seconds() { return seconds(CLOCK_MONOTONIC); }

/// The shortest of several runs of f, in seconds of `clock` (thread_seconds or wall_seconds).
template <class F>
double best_seconds(double (*clock)(), int runs, F&& f) {
  double best = 1e30;
  for (int i = 0; i < runs; ++i) {
    const double begin = clock();
    f();
    best = (std::min)(best, clock() - begin);
  }
  return best;
}
/// The same in the thread's processor time.
template <class F>
double best_thread_seconds(int runs, F&& f) {
  return best_seconds(thread_seconds, runs, f);
}

/// The value in the middle, the upper one of two.
inline double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Independent sums in run_fma_chains. A core with two multiply-add units of four cycles' latency
/// needs eight or more; two more vector registers hold the factors.
inline constexpr std::size_t kFmaChains = casa::simd::kRegisters == 32 ? 24 : 12;

/// What a sum of products of A is: A a float or double, a pair of bfloat16, or a quad of int8.
template <class A>
using FmaSum =
    casa::simd::Vec<std::conditional_t<std::is_same_v<A, casa::simd::ValueQuad>, std::int32_t,
                                       std::conditional_t<casa::simd::kUnit<A> == 1, A, float>>>;

/// x as A, as often as A holds values.
template <class A>
A fma_factor(double x) {
  if constexpr (std::is_same_v<A, casa::simd::ValueQuad>) {
    static_cast<void>(x);
    return {{1, 1, 1, 1}};
  } else if constexpr (casa::simd::kUnit<A> == 2) {
    const auto value = casa::narrow<casa::bfloat16>(static_cast<float>(x));
    return {value, value};
  } else {
    return static_cast<A>(x);
  }
}

/// Adds a constant product to each of `Chains` vectors `steps` times, and returns their sum.
/// Not inlined, because g++ 12 keeps the vectors in memory when it inlines this loop among other
/// code, which halves the measured peak.
template <class A, std::size_t Chains>
[[gnu::noinline]] auto run_fma_chains(long steps) {
  using Sum = FmaSum<A>;
  auto a = casa::simd::broadcast(fma_factor<A>(0.999999)),
       b = casa::simd::broadcast(fma_factor<A>(1e-7));
  Sum sum[Chains];
  casa::simd::keep(a);
  casa::simd::keep(b);
  CASA_UNROLL
  for (std::size_t i = 0; i < Chains; ++i) {
    sum[i] = casa::simd::broadcast(static_cast<casa::simd::Element<Sum>>(i));
    casa::simd::keep(sum[i]);
  }
  CASA_NO_UNROLL
  for (long s = 0; s < steps; ++s) {
    CASA_UNROLL
    for (std::size_t i = 0; i < Chains; ++i) casa::simd::accumulate(sum[i], a, b);
  }
  Sum total{};
  CASA_UNROLL
  for (std::size_t i = 0; i < Chains; ++i) total += sum[i];
  return casa::simd::reduce_add(total);
}

/// Operations of one step of run_fma_chains (a multiply-add counts two).
template <class A>
constexpr double fma_operations(std::size_t chains) {
  return 2.0 * static_cast<double>(chains) *
         static_cast<double>(casa::simd::kUnit<A> * Index{sizeof(FmaSum<A>)} /
                             Index{sizeof(casa::simd::Element<FmaSum<A>>)});
}

/// The multiply-add peak of the calling thread for A, in operations a second.
template <class A>
double fma_peak() {
  constexpr long steps = 40000;
  volatile casa::simd::Element<FmaSum<A>> keep = 0;
  const double best = best_thread_seconds(5, [&] { keep = run_fma_chains<A, kFmaChains>(steps); });
  return fma_operations<A>(kFmaChains) * static_cast<double>(steps) / best;
}

/// 256 MiB of floats, larger than any cache. They are never freed, so that they are filled once.
inline std::span<const float> memory_to_read() {
  constexpr Index count = Index{64} << 20;
  static const casa::Buffer<float>& data = *[] {
    auto* b = new casa::Buffer<float>(count);
    std::fill_n(b->data(), count, 1.0f);
    return b;
  }();
  return data.span();
}

/// How many floats one turn of sum_of's loop reads.
inline constexpr Index kReadStep = 8 * casa::simd::kLanes<float>;

/// The sum of `count` floats from `data` on, a multiple of kReadStep.
inline float sum_of(const float* data, Index count) {
  constexpr Index lanes = casa::simd::kLanes<float>;
  casa::simd::VecF sum[8] = {};
  for (Index i = 0; i < count; i += kReadStep) CASA_UNROLL
  for (int j = 0; j < 8; ++j) sum[j] += casa::simd::load(data + i + j * lanes);
  float total = 0;
  for (const auto& s : sum) total += casa::simd::reduce_add(s);
  return total;
}

/// Bytes per second that the calling thread reads from memory (256 MiB, the best of four passes).
inline double read_bandwidth() {
  const std::span<const float> data = memory_to_read();
  volatile float keep = 0;
  const double best =
      best_thread_seconds(4, [&] { keep = sum_of(data.data(), static_cast<Index>(data.size())); });
  return 4.0 * static_cast<double>(data.size()) / best;
}

/// `count` random values that are nearly normal (mean 0, deviation 1), the same for the same seed.
template <class S, class T = float>
casa::Buffer<S> random_values(Index count, unsigned seed) {
  casa::Buffer<S> values(count);
  std::uint32_t state = seed * 2654435761u + 1;
  for (Index i = 0; i < count; ++i) {
    float x = -2;  // the sum of four uniform values, which is faster than a normal distribution
    for (int j = 0; j < 4; ++j) {
      state = state * 1664525u + 1013904223u;
      x += static_cast<float>(state >> 8) * 0x1p-24f;
    }
    values[i] = casa::narrow<S>(static_cast<T>(1.7f * x));
  }
  return values;
}

/// The columns of print_csv. min_s and med_s are the shortest and the median wall time of a run in
/// seconds; work is what one run does, in the billions of `unit`.
inline constexpr const char* kCsvColumns = "bench,case,impl,threads,min_s,med_s,work,unit";

/// Prints one line of results with the columns kCsvColumns on stdout; `times` has a run or more.
inline void print_csv_line(const std::string& bench, const std::string& name,
                           const std::string& impl, Index threads, std::vector<double> times,
                           double work, const char* unit) {
  std::sort(times.begin(), times.end());
  std::printf("%s,%s,%s,%td,%.9g,%.9g,%.9g,%s\n", bench.c_str(), name.c_str(), impl.c_str(),
              threads, times.front(), times[times.size() / 2], work, unit);
  std::fflush(stdout);
}

/// Runs f once to warm up, then three times or more until `budget` seconds have passed, and prints
/// the line of that.
template <class F>
void print_csv(const std::string& bench, const std::string& name, const std::string& impl,
               Index threads, double work, const char* unit, F&& f, double budget = 0.25) {
  f();
  std::vector<double> times;
  const double begin = wall_seconds();
  while (times.size() < 3 || (wall_seconds() - begin < budget && times.size() < 2000)) {
    const double t = wall_seconds();
    f();
    times.push_back(wall_seconds() - t);
  }
  print_csv_line(bench, name, impl, threads, std::move(times), work, unit);
}

}  // namespace bench
