// The fast attention kernel: blocks of keys, online softmax, and never more scores in memory than
// one panel times one block.
//
// plan.hpp cuts the work into jobs, job_runner.hpp does one; here workers take them, and the parts
// of long key ranges are merged. The online softmax is Milakov & Gimelshein's (arXiv 1805.02867),
// the blocking FlashAttention's (arXiv 2205.14135).
#pragma once

#include <algorithm>
#include <atomic>

#include "casa/attention/kernel/job_runner.hpp"
#include "casa/attention/kernel/plan_sequences.hpp"
#include "casa/core/context.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

template <class T, class S, class Score>
void attend_fast(const AttentionInput<T, S>& in, const Destination<T>& to, const Context& context,
                 const Score& score) {
  if (in.num_rows() == 0) return;
  Workspace& workspace = context.workspace;
  const Workspace::Frame frame(workspace);
  const Plan plan = make_plan(in, context.precision != Precision::full, workspace);

  Index* piece_begin = workspace.take<Index>(static_cast<Index>(in.keys.size()) + 1);
  piece_begin[0] = 0;
  for (std::size_t p = 0; p < in.keys.size(); ++p)
    piece_begin[p + 1] = piece_begin[p] + in.keys[p].count;

  Parts<T> parts;
  parts.rows = plan.max_part_rows;
  if (plan.num_parts > 0) {
    parts.max = workspace.take<T>(plan.num_parts * parts.rows);
    parts.sum = workspace.take<T>(plan.num_parts * parts.rows);
    parts.out = workspace.take<T>(plan.num_parts * parts.rows * in.shape.output_dim());
  }

  const Index jobs = static_cast<Index>(plan.jobs.size());
  const Index workers = (std::min)(context.executor.num_workers(), jobs);
  using Runner = JobRunner<T, S, Score>;
  Runner* runners = workspace.take<Runner>(workers);
  const AttentionProblem<T, S, Score> problem{
      in, score, plan, to, parts, piece_begin, streams_results(to.out, in.shape.output_dim())};
  for (Index w = 0; w < workers; ++w) new (runners + w) Runner(problem, workspace);
  // Consecutive jobs share their window's memory, and each prefetches for the next, so a worker
  // takes up to a window's heads at once. As the end nears it takes fewer, so that all workers end
  // together (on two threads 3 to 4 % for long causal masks).
  std::atomic<Index> next{0};
  const auto take = [&] {
    Index begin = next.load(), end;
    do {
      const Index share = workers == 1 ? jobs : (jobs - begin) / (4 * workers);
      end = begin + std::clamp<Index>(share, 1, in.shape.num_kv_heads);
    } while (!next.compare_exchange_weak(begin, end));
    return Interval{begin, (std::min)(jobs, end)};
  };
  context.executor.run(workers, [&](Index worker) {
    for (Interval mine = take(); mine.size() > 0;) {
      const auto begin = static_cast<std::size_t>(mine.begin);
      const Index heads = plan.jobs[begin].together;  // that are read together, of those taken
      const auto count = std::clamp<Index>(heads, 1, mine.size());
      const auto run = plan.jobs.subspan(begin, static_cast<std::size_t>(count));
      mine.begin += count;
      // The next jobs are taken before the last one is run, so that it can prefetch for them; not
      // when too few are left, as another worker may be idle.
      if (mine.size() == 0 && jobs - next.load() >= workers) mine = take();
      runners[worker].run(run, mine.size() > 0 ? plan.jobs.data() + mine.begin : nullptr);
      if (mine.size() == 0) mine = take();
    }
    if (problem.streams) simd::stream_fence();
  });
  if (plan.num_parts > 0) merge_parts(in, plan, parts, to);
}

}  // namespace detail

CASA_NAMESPACE_END
