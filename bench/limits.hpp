// What the machine can do at most on several threads, measured in the same process.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "bench_common.hpp"
#include "casa/core/executor.hpp"

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
