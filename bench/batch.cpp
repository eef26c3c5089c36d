// What does one call for 64 sequences gain over a call for each? One row of each sequence over a
// cache of its own, 9 query heads of 64 over 3 kv heads.
//
//   batch/<one_call|loop>/keys:<k>/threads:<n>   time of all 64; the caches are float
#include <benchmark/benchmark.h>

#include <memory>
#include <string>

#include "bench_common.hpp"
#include "casa/attention/batch.hpp"

namespace {

using namespace casa;

constexpr Index kSequences = 64;
constexpr AttentionShape kShape{9, 3, 64};

void run(benchmark::State& state, bool one_call) {
  const Index keys = state.range(0), threads = state.range(1);
  const Index width = kShape.num_heads * kShape.head_dim;
  ThreadPool pool(threads);
  const Context context{.executor = pool};
  const Index size = kShape.num_kv_heads * keys * kShape.head_dim;  // of one cache's keys
  const auto values = bench::random_values<float>(2 * size * kSequences + kSequences * width, 1);
  std::vector<KeyPiece<float>> pieces;
  for (Index s = 0; s < kSequences; ++s) {
    const float* k = values.data() + 2 * size * s;
    pieces.push_back({k, k + size, keys, kShape.head_dim, keys * kShape.head_dim});
  }
  std::vector<SequenceInput<float>> sequences;
  for (const auto& piece : pieces) sequences.push_back({1, {&piece, 1}});
  const MatrixView<const float> q(values.data() + 2 * size * kSequences, kSequences, width);
  const double scale = default_scale(kShape.head_dim);
  Matrix<float> out(kSequences, width);
  const Interval all{0, keys};
  for (auto _ : state) {
    if (one_call) {
      attend(AttentionBatch<float>{kShape, scale, q, sequences}, out, nullptr, context);
      continue;
    }
    for (Index s = 0; s < kSequences; ++s)
      attend(AttentionInput<float>{.shape = kShape,
                                   .scale = scale,
                                   .q = q.middle_rows(s, 1),
                                   .keys = {&pieces[static_cast<std::size_t>(s)], 1},
                                   .intervals = {&all, 1}},
             out.view().middle_rows(s, 1), nullptr, context);
  }
}

const int registered = [] {
  for (const bool one_call : {true, false})
    benchmark::RegisterBenchmark(one_call ? "batch/one_call" : "batch/loop",
                                 [=](benchmark::State& state) { run(state, one_call); })
        ->ArgNames({"keys", "threads"})
        ->ArgsProduct({{20, 200, 2000}, {1, 2}})
        ->UseRealTime()
        ->Unit(benchmark::kMicrosecond);
  return 0;
}();

}  // namespace
