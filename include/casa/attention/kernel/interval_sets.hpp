// Sets of keys as intervals: hulls, intersections, unions of lists.
#pragma once

#include <algorithm>
#include <span>
#include <utility>

#include "casa/core/interval.hpp"
#include "casa/core/workspace.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// The smallest interval that holds both.
inline Interval hull(Interval a, Interval b) {
  if (a.size() == 0) return b;
  if (b.size() == 0) return a;
  return {(std::min)(a.begin, b.begin), (std::max)(a.end, b.end)};
}

/// Their intersection (empty, begin >= end, where they have no key in common).
inline Interval meet(Interval a, Interval b) {
  return {(std::max)(a.begin, b.begin), (std::min)(a.end, b.end)};
}

/// Places of a list.
inline Index size_of(std::span<const Interval> list) {
  Index n = 0;
  for (const Interval i : list) n += i.size();
  return n;
}

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

}  // namespace detail

CASA_NAMESPACE_END
