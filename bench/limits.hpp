// What the machine can do at most on several threads, measured in the same process.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "bench_common.hpp"
#include "casa/core/executor.hpp"
#include "casa/linear/panel_format.hpp"

namespace bench {

/// Reads all of memory_to_read(), a part on each of `threads` workers, and adds up what is there;
/// `sums` has one value a worker.
inline void read_memory(Index threads, const casa::Executor& workers, std::span<float> sums) {
  const std::span<const float> data = memory_to_read();
  const Index count = static_cast<Index>(data.size());
  workers.run(threads, [&](Index w) {
    // Whole turns of sum_of's loop for every worker; the last one takes the rest.
    const Index part = count / threads / kReadStep * kReadStep;
    const Index begin = w * part, end = w + 1 == threads ? count : begin + part;
    sums[static_cast<std::size_t>(w)] = sum_of(data.data() + begin, end - begin);
  });
}

/// What bfloat16 is multiplied as: pairs where the machine has an instruction for them, else float.
using Bfloat16Factor = std::conditional_t<casa::simd::kMultipliesPairs<casa::bfloat16>,
                                          casa::simd::bfloat16_pair, float>;
/// What int8 is multiplied as.
using Int8Factor = casa::simd::ValueQuad;

/// The peak of one thread in the arithmetic that many rows of a Linear<float> with such weights are
/// multiplied in, in operations a second. It is measured again at each call, because the clock of a
/// shared machine changes, and the best one so far counts.
inline double product_peak(casa::WeightType type, casa::Precision precision) {
  static double best[3] = {};
  const auto measured = [](double& peak, double now) { return peak = (std::max)(peak, now); };
  if (type == casa::WeightType::int8 && precision == casa::Precision::int8)
    return measured(best[2], fma_peak<Int8Factor>());
  if (type == casa::WeightType::bfloat16 && precision != casa::Precision::full)
    return measured(best[1], fma_peak<Bfloat16Factor>());
  return measured(best[0], fma_peak<float>());
}

/// The machine's limits on some number of threads.
struct Limits {
  double flops = 0;  ///< multiply-adds of float, FLOP/s (a multiply-add counts two)
  double bytes = 0;  ///< read from memory, B/s

  /// Measures both again and keeps the larger figures: the clock of a shared machine changes.
  void measure(Index threads, const casa::Executor& workers) {
    flops = (std::max)(flops, fma_peak<float>() * static_cast<double>(threads));
    if (threads == 1) {
      bytes = (std::max)(bytes, read_bandwidth());
      return;
    }
    std::vector<float> sums(static_cast<std::size_t>(threads));
    const double size = 4.0 * static_cast<double>(memory_to_read().size());
    for (int i = 0; i < 4; ++i) {
      const double begin = wall_seconds();
      read_memory(threads, workers, sums);
      bytes = (std::max)(bytes, size / (wall_seconds() - begin));
    }
    volatile float keep = sums[0];
    static_cast<void>(keep);
  }
};

}  // namespace bench
