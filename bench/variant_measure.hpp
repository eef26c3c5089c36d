// What is measured of a variant, and what follows from it.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "counters.hpp"
#include "limits.hpp"
#include "variants/variant.hpp"

namespace bench {

/// Runs of one variant, one after the other.
struct Block {
  std::string name;
  double began = 0;          ///< seconds since 1970
  std::vector<double> wall;  ///< of each run, seconds on the wall clock
  std::vector<double> cpu;   ///< and in processor time of the calling thread
  Counts counts;             ///< of one run, the mean
};

/// What a variant needs and keeps, by its sizes and its mask alone.
struct Facts {
  double flop = 0;   ///< of visible pairs: 2 (head_dim + value_dim) for each, and query head
  double bytes = 0;  ///< queries, outputs, and those keys and values that some row sees, each once
  double kept = 0;   ///< bytes of the cache that tokens to come need
};

/// All of one variant.
struct Result {
  Facts facts;
  double error = 0;        ///< the largest difference from the definition
  double error_bound = 0;  ///< what rounding alone can make of it
  std::vector<Block> blocks;

  bool is_right() const { return error <= error_bound; }
};

/// Facts of a problem whose keys and values take `value_bytes` each.
inline Facts facts_of(const Attention& a, Index value_bytes) {
  std::vector<char> seen(static_cast<std::size_t>(a.keys));
  double pairs = 0;
  for (const Interval i : a.mask.intervals) {
    pairs += static_cast<double>(i.size());
    for (Index j = i.begin; j < i.end; ++j) seen[static_cast<std::size_t>(j)] = 1;
  }
  Index seen_keys = 0, last_sees = 0;
  for (const char s : seen) seen_keys += s;
  if (a.rows() > 0)
    for (const Interval i : a.mask.row(a.rows() - 1)) last_sees += i.size();
  const double dims = static_cast<double>(a.head_dim + a.value_dim);
  const double key_bytes = dims * static_cast<double>(a.num_kv_heads * value_bytes);
  return {.flop = 2 * dims * static_cast<double>(a.num_heads) * pairs,
          .bytes = 4 * dims * static_cast<double>(a.rows() * a.num_heads) +
                   key_bytes * static_cast<double>(seen_keys),
          .kept = key_bytes * static_cast<double>(a.kept_keys < 0 ? last_sees : a.kept_keys)};
}

/// How a time stands to the two limits of the roofline model.
struct Roofline {
  const char* bound = "";  ///< arithmetic, memory, caches or latency
  double part = 0;         ///< the time that the binding limit alone would take, over the time
};

/// arithmetic or memory: the limit that takes longer, if it explains a third of the time or more.
/// latency: neither does; the time goes into starting, waiting and what is not a multiply-add.
/// caches: the time is shorter than memory would take, so that the keys came from nearer.
inline Roofline roofline(const Facts& facts, double seconds, const Limits& limits) {
  const double arithmetic = facts.flop / limits.flops / seconds;
  const double memory = facts.bytes / limits.bytes / seconds;
  const double part = (std::max)(arithmetic, memory);
  if (part < 1.0 / 3) return {"latency", part};
  if (arithmetic >= memory) return {"arithmetic", part};
  return {memory > 1.1 ? "caches" : "memory", part};
}

/// Runs for `seconds`, and at least three times (once, if that takes ten times as long).
inline Block measure(const std::string& name, const Runnable& variant, const casa::Context& context,
                     double seconds, const Counters& counters) {
  Block block;
  block.name = name;
  block.began = bench::seconds(CLOCK_REALTIME);
  const double begin = wall_seconds();
  const Counts before = counters.now();
  for (double spent = 0; spent < seconds || (block.wall.size() < 3 && spent < 10 * seconds);
       spent = wall_seconds() - begin) {
    const double wall = wall_seconds(), cpu = thread_seconds();
    variant.run(context);
    block.cpu.push_back(thread_seconds() - cpu);
    block.wall.push_back(wall_seconds() - wall);
  }
  block.counts = (counters.now() - before) / static_cast<double>(block.wall.size());
  return block;
}

}  // namespace bench
