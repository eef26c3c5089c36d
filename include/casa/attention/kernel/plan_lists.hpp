// How attention's work is cut into jobs where rows see lists of intervals.
//
// A job's keys are the union of its rows' lists, its spans laid end to end. Rows join a job while
// they see much the same keys: under a block-sparse mask a job ends where the chosen blocks change,
// and a job whose rows share their lists is one whole interval of its places.
#pragma once

#include "casa/attention/kernel/plan.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// A union of lists of intervals, which grows by one list at a time: ascending, with a gap between
/// any two.
class KeyUnion {
 public:
  /// For unions of up to `intervals` intervals.
  KeyUnion(Index intervals, Workspace& workspace)
      : now_(workspace.take<Interval>(intervals)), next_(workspace.take<Interval>(intervals)) {}

  void clear() { count_ = 0; }
  std::span<const Interval> intervals() const { return {now_, static_cast<std::size_t>(count_)}; }

  /// Places that a list shares with the union.
  Index common(std::span<const Interval> list) const {
    Index shared = 0, at = 0;
    for (const Interval i : list) {
      while (at < count_ && now_[at].end <= i.begin) ++at;
      for (Index u = at; u < count_ && now_[u].begin < i.end; ++u)
        shared += meet(now_[u], i).size();
    }
    return shared;
  }
  void add(std::span<const Interval> list) {
    Index count = 0, at = 0;
    const auto append = [&](Interval i) {
      if (count > 0 && next_[count - 1].end >= i.begin)
        next_[count - 1].end = (std::max)(next_[count - 1].end, i.end);
      else
        next_[count++] = i;
    };
    for (const Interval i : list) {
      while (at < count_ && now_[at].begin <= i.begin) append(now_[at++]);
      append(i);
    }
    while (at < count_) append(now_[at++]);
    std::swap(now_, next_);
    count_ = count;
  }

 private:
  Interval *now_, *next_;
  Index count_ = 0;
};

/// Query tokens that are one job of each kv head, and the spans of their keys.
struct ListWindow {
  Interval rows;
  std::span<const KeySpan> spans;
  Index num_keys = 0;
};

inline Index size_of(std::span<const Interval> list) {
  Index n = 0;
  for (const Interval i : list) n += i.size();
  return n;
}

/// Cuts the rows of a mask into windows, from the last row to the first: under a causal mask the
/// rows that see most keys come first (see for_each_job). A row begins another window where it has
/// no key in common with this one, where the window is full, or where it shares less than half of
/// its keys and the window has enough rows: then panels of both would skip many of the other's
/// keys.
inline std::span<const ListWindow> make_windows(const MaskView& mask, const AttentionShape& shape,
                                                Workspace& workspace) {
  const Index rows = mask.num_rows(), group = shape.group();
  const Index whole = kWholeRows % group == 0 ? kWholeRows / group : 1;
  const Index tokens = (std::max)(kJobRows / group / whole * whole, whole);
  const auto offset = [&](Index r) { return mask.offsets[static_cast<std::size_t>(r)]; };
  Index most = 0;  // intervals of a window's rows
  for (Index r = 1; r <= rows; ++r)
    most = (std::max)(most, offset(r) - offset((std::max<Index>)(0, r - tokens)));
  KeyUnion keys(most, workspace);
  ListWindow* windows = workspace.take<ListWindow>(rows);
  KeySpan* spans = workspace.take<KeySpan>(offset(rows));
  std::size_t count = 0;
  for (Index end = rows, begin = rows; end > 0; end = begin) {
    keys.clear();
    keys.add(mask.row(--begin));
    for (; begin > 0 && end - begin < tokens; --begin) {
      const auto list = mask.row(begin - 1);
      const Index size = size_of(list), common = keys.common(list);
      if (common == 0 && size > 0 && !keys.intervals().empty()) break;
      if (2 * common < size && (end - begin) * group >= kWholeRows) break;
      if (common < size) keys.add(list);
    }
    Index at = 0;
    const std::size_t num_spans = keys.intervals().size();
    for (std::size_t i = 0; i < num_spans; ++i) {
      spans[i] = {keys.intervals()[i], at};
      at += spans[i].keys.size();
    }
    windows[count++] = {{begin, end}, {spans, num_spans}, at};
    spans += num_spans;
  }
  return {windows, count};
}

/// All jobs, in memory of the workspace.
inline Plan make_plan(const MaskView& mask, const AttentionShape& shape, Workspace& workspace) {
  const Index group = shape.group();
  if (mask.offsets.empty())
    return store_jobs(mask, group, workspace,
                      [&](auto emit) { for_each_job(mask.intervals, shape, emit); });
  bool lists = false;
  for (Index r = 0; r < mask.num_rows(); ++r) lists = lists || mask.row(r).size() > 1;
  if (!lists) {  // one interval a row after all
    Interval* one = workspace.take<Interval>(mask.num_rows());
    for (Index r = 0; r < mask.num_rows(); ++r)
      one[r] = mask.row(r).empty() ? Interval{} : mask.row(r)[0];
    return make_plan({{one, static_cast<std::size_t>(mask.num_rows())}, {}}, shape, workspace);
  }
  const auto windows = make_windows(mask, shape, workspace);
  Plan plan = store_jobs(mask, group, workspace, [&](auto emit) {
    for (const ListWindow& w : windows)
      for (Index head = 0; head < shape.num_kv_heads; ++head) {
        Job job{w.rows.begin, w.rows.end, head};
        job.spans = w.spans;
        emit_parts(job, {0, w.num_keys}, group, emit);
      }
  });
  for (const ListWindow& w : windows)
    plan.max_job_intervals = (std::max)(plan.max_job_intervals,
                                        mask.offsets[static_cast<std::size_t>(w.rows.end)] -
                                            mask.offsets[static_cast<std::size_t>(w.rows.begin)]);
  return plan;
}

}  // namespace detail

CASA_NAMESPACE_END
