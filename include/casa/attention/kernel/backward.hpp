// The fast backward pass of attention: workers take jobs, ranges of keys of one kv head
// (backward_plan.hpp); backward_runner.hpp does one.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <new>
#include <span>

#include "casa/attention/kernel/backward_runner.hpp"
#include "casa/attention/state.hpp"
#include "casa/core/context.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// d_out . out of each row and head, (rows, num_heads): the mean of the gradients of its weights.
template <class T, class S>
const T* output_means(const AttentionInput<T, S>& in, const AttentionResult<T>& result,
                      const Context& context) {
  const Index heads = in.shape.num_heads, dim = in.shape.output_dim();
  T* const means = context.workspace.take<T>(in.num_rows() * heads);
  const auto mean = [&](Index i, Index) {
    constexpr Index lanes = simd::kLanes<T>;
    const T* const out = result.out.row(i / heads) + i % heads * dim;
    const T* const d_out = result.d_out.row(i / heads) + i % heads * dim;
    simd::Vec<T> sum{};
    Index at = 0;
    for (; at + lanes <= dim; at += lanes)
      sum = simd::fma(simd::load(d_out + at), simd::load(out + at), sum);
    if (at < dim)
      sum = simd::fma(simd::load_partial(d_out + at, dim - at),
                      simd::load_partial(out + at, dim - at), sum);
    means[i] = simd::reduce_add(sum);
  };
  context.executor.for_each(in.num_rows() * heads, mean, kStateValues / (dim + 1) + 1);
  return means;
}

/// Gradients of sinks: -sum over rows of exp(sink - lse) d_out . out, in double.
template <class T, class S>
void sink_gradients(const AttentionInput<T, S>& in, const AttentionResult<T>& result,
                    const T* means, std::span<T> gradients) {
  const Index heads = in.shape.num_heads;
  for (std::size_t h = 0; h < gradients.size(); ++h) {
    double sum = 0;
    for (Index i = static_cast<Index>(h); i < in.num_rows() * heads; i += heads) {
      const auto lse = static_cast<double>(result.lse[i]);
      if (lse != -std::numeric_limits<double>::infinity())
        sum -= std::exp(static_cast<double>(in.sinks[h]) - lse) * static_cast<double>(means[i]);
    }
    gradients[h] = static_cast<T>(sum);
  }
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
  const T* const means = output_means(in, result, context);
  sink_gradients(in, result, means, gradients.sinks);
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
  const BackwardProblem<T, S, Score, Parameters> problem{
      in, result, gradients, means, score, parameters, sums, plan, turns};
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
