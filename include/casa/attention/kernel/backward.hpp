// The fast backward pass of attention: workers take jobs, ranges of keys of one kv head
// (backward_plan.hpp); backward_runner.hpp does one.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <new>

#include "casa/attention/kernel/backward_runner.hpp"
#include "casa/core/context.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Gradients of sinks: -sum over rows of exp(sink - lse) d_out . out, in double.
template <class T, class S>
void sink_gradients(const AttentionInput<T, S>& in, const AttentionResult<T>& result,
                    const AttentionGradients<T>& gradients, const Context& context) {
  if (gradients.sinks.empty()) return;
  const Index heads = in.shape.num_heads, dim = in.shape.output_dim();
  context.executor.for_each(heads, [&](Index h, Index) {
    const auto at = static_cast<std::size_t>(h);
    const auto sink = static_cast<double>(in.sinks[at]);
    double sum = 0;
    for (Index r = 0; r < in.num_rows(); ++r) {
      const auto lse = static_cast<double>(result.lse[r * heads + h]);
      if (lse == -std::numeric_limits<double>::infinity()) continue;
      const T* const out = result.out.row(r) + h * dim;
      const T* const d_out = result.d_out.row(r) + h * dim;
      double product = 0;
      for (Index i = 0; i < dim; ++i)
        product += static_cast<double>(out[i]) * static_cast<double>(d_out[i]);
      sum -= std::exp(sink - lse) * product;
    }
    gradients.sinks[at] = static_cast<T>(sum);
  });
}

/// Zeros where no job writes: rows that see no key, keys that no row may see.
template <class T, class S>
void clear_unseen(const AttentionInput<T, S>& in, const AttentionGradients<T>& gradients,
                  const BackwardPlan& plan) {
  if (gradients.q.data() != nullptr)
    for (Index r = 0; r < in.num_rows(); ++r) {
      const auto list = in.mask().row(r);
      if (list.empty() || list.back().end <= list.front().begin)
        std::fill_n(gradients.q.row(r), in.shape.num_heads * in.shape.head_dim, T(0));
    }
  if (gradients.keys.empty()) return;
  Index place = 0;
  auto range = plan.ranges.begin();
  for (const KeyGradients<T>& piece : gradients.keys)
    for (Index t = 0; t < piece.count; ++t, ++place) {
      while (range != plan.ranges.end() && range->keys.end <= place) ++range;
      if (range != plan.ranges.end() && range->keys.begin <= place) continue;
      for (Index h = 0; h < in.shape.num_kv_heads; ++h) {
        if (piece.k) std::fill_n(piece.key(h, t), in.shape.head_dim, T(0));
        if (piece.v) std::fill_n(piece.value(h, t), in.shape.output_dim(), T(0));
      }
    }
}

template <class T, class S, class Score, class Parameters>
void attend_backward_fast(const AttentionInput<T, S>& in, const AttentionResult<T>& result,
                          const AttentionGradients<T>& gradients, const Context& context,
                          const Score& score, const Parameters& parameters) {
  Workspace& workspace = context.workspace;
  const Workspace::Frame frame(workspace);
  const BackwardPlan plan =
      make_backward_plan(in.mask(), in.shape.group(), kBackwardPairs<T>, workspace);
  clear_unseen(in, gradients, plan);
  sink_gradients(in, result, gradients, context);
  const Index ranges = static_cast<Index>(plan.ranges.size());
  double* sums = nullptr;
  Index num_sums = 0;
  if constexpr (kCollects<Parameters>) {
    num_sums = parameters.num_sums();
    const Index all = checked_mul((std::max<Index>)(ranges, 1), num_sums, "attend_backward: sums");
    sums = workspace.take<double>(all);
    std::fill_n(sums, all, 0.0);
    parameters.start();
  }

  const Index panels = static_cast<Index>(plan.panels.size()), heads = in.shape.num_kv_heads;
  auto* const turns = workspace.take<std::atomic<Index>>(panels * heads);
  for (Index i = 0; i < panels * heads; ++i) new (turns + i) std::atomic<Index>(0);
  // All heads of a range come before the next range: workers that compute different heads do not
  // wait for each other. Where gradients of parameters are summed, heads may share them, and all
  // heads of a range are one job.
  const Index heads_a_job = kCollects<Parameters> ? heads : 1;
  const Index jobs = ranges * heads / heads_a_job;
  const Index workers = (std::min)(context.executor.num_workers(), jobs);
  using Runner = BackwardRunner<T, S, Score, Parameters>;
  Runner* const runners = workspace.take<Runner>(workers);
  const BackwardProblem<T, S, Score, Parameters> problem{in,         result, gradients, score,
                                                         parameters, sums,   plan,      turns};
  for (Index w = 0; w < workers; ++w) new (runners + w) Runner(problem, workspace);
  // Jobs are taken in order, so that one never waits for a job that nobody has taken.
  std::atomic<Index> next{0};
  if (workers > 0)
    context.executor.run(workers, [&](Index worker) {
      for (Index job = next++; job < jobs; job = next++)
        for (Index h = job * heads_a_job; h < (job + 1) * heads_a_job; ++h)
          runners[worker].run(h % heads, h / heads);
    });
  if constexpr (kCollects<Parameters>) {
    for (Index r = 1; r < ranges; ++r)
      for (Index i = 0; i < num_sums; ++i) sums[i] += sums[r * num_sums + i];
    parameters.finish(sums);
  }
}

}  // namespace detail

CASA_NAMESPACE_END
