// How does the time of attention grow with the number of frames, with text per window, with image
// tokens per frame, and with context? The variants attend to the same streams, with 16 query heads
// over 8 kv heads of 128; bench/plot.py fits the exponents.
//
//   scaling/<axis>/<variant>/<n>    axis: frames, text, image, context; variant: sa
//                                   (self-attention), ca (cross-attention), casa, ti (insertion)
#include <benchmark/benchmark.h>

#include <string>

#include "bench_common.hpp"
#include "casa/attention/attend.hpp"
#include "casa/stream/visibility.hpp"

namespace {

using namespace casa;

constexpr Index kHeads = 16, kKvHeads = 8, kDim = 128;

struct Problem {
  Index rows = 0, keys = 0;
  std::vector<Interval> intervals;
};

// The queries of `frames` windows of `image` image tokens and `text` text tokens, and what they
// see. Queries are text tokens; for token insertion also image tokens.
Problem problem(const std::string& variant, Index frames, Index image, Index text) {
  StreamLayout layout;
  for (Index f = 0; f < frames; ++f) {
    layout.append_image(image);
    layout.append_text(text);
  }
  const Interval rows{0, layout.text_len()};
  Problem p{rows.size(), 0, std::vector<Interval>(static_cast<std::size_t>(rows.size()))};
  const Keys keys = variant == "sa" ? Keys::text : variant == "ca" ? Keys::image : Keys::image_text;
  const History history = variant == "sa" || variant == "ti" ? History::all : History::window;
  text_intervals(layout, rows, keys, history, p.intervals);
  p.keys = num_keys(layout, keys);
  if (variant == "ti") {
    p.rows = p.keys;
    p.intervals.clear();
    for (Index r = 0; r < p.rows; ++r) p.intervals.push_back({0, r + 1});
  }
  return p;
}

void run(benchmark::State& state, const std::string& axis, const std::string& variant) {
  const Index n = state.range(0);
  Index frames = 8, image = 256, text = 20;
  if (axis == "frames") frames = n;
  if (axis == "text") text = n;
  if (axis == "image") image = n;
  if (axis == "context") frames = 1, image = 0, text = n;
  const Problem p = problem(variant, frames, image, text);
  const auto q = bench::random_values<float>(p.rows * kHeads * kDim, 1);
  const auto k = bench::random_values<float>(p.keys * kKvHeads * kDim, 2);
  const auto v = bench::random_values<float>(p.keys * kKvHeads * kDim, 3);
  Matrix<float> out(p.rows, kHeads * kDim);
  const KeyPiece<float> piece{k.data(), v.data(), p.keys, kDim, p.keys * kDim};
  const AttentionInput<float, float> in{{kHeads, kKvHeads, kDim},
                                        default_scale(kDim),
                                        MatrixView<const float>(q.data(), p.rows, kHeads * kDim),
                                        {&piece, 1},
                                        p.intervals};
  const Context context;
  attend(in, out.view(), nullptr, context);  // not timed: it touches fresh memory
  for (auto _ : state) attend(in, out.view(), nullptr, context);
  state.counters["n"] = static_cast<double>(n);
  state.counters["kv_bytes"] = 8.0 * static_cast<double>(p.keys * kKvHeads * kDim);
}

const int registered = [] {
  const auto add = [](const std::string& axis, const std::string& variant, Index from, Index to,
                      Index factor = 4) {
    auto* b = benchmark::RegisterBenchmark(
        ("scaling/" + axis + "/" + variant).c_str(),
        [axis, variant](benchmark::State& state) { run(state, axis, variant); });
    for (Index n = from; n <= to; n *= factor) b->Arg(n);
    b->Unit(benchmark::kMillisecond);
  };
  for (const char* variant : {"ca", "casa"}) {
    add("frames", variant, 1, 1024);
    add("text", variant, 1, 512, 8);
    add("image", variant, 64, 4096);
  }
  // Insertion takes quadratic time, so its curves end earlier.
  add("frames", "ti", 1, 64);
  add("text", "ti", 1, 512, 8);
  add("image", "ti", 64, 1024);
  add("context", "sa", 1024, 32768, 2);
  return 0;
}();

}  // namespace
