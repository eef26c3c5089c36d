// A mask whose rows see lists of intervals: the aggregate, and a view of one.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "casa/core/error.hpp"
#include "casa/core/interval.hpp"
#include "casa/core/list_view.hpp"

CASA_NAMESPACE_BEGIN

/// Which keys each query row sees, in somebody else's memory. Row r sees the places of
/// intervals[offsets[r]] .. intervals[offsets[r + 1] - 1], as the rows of a sparse matrix in CSR
/// form have their columns. They are ascending, have no place in common and are not empty; they may
/// touch, and a row may have none.
///
/// Without offsets every row has exactly one interval, which may be empty: the form of causal
/// attention, of windows, and of all that is cheapest to compute.
struct MaskView {
  std::span<const Interval> intervals;  ///< of all rows, one row after the other
  std::span<const Index> offsets;       ///< (rows + 1), from 0; or none: one interval a row

  /// Query rows.
  Index num_rows() const {
    return static_cast<Index>(offsets.empty() ? intervals.size() : offsets.size() - 1);
  }
  /// The intervals of row r. Not checked.
  std::span<const Interval> row(Index r) const {
    const auto at = static_cast<std::size_t>(r);
    if (offsets.empty()) return intervals.subspan(at, 1);
    const auto begin = static_cast<std::size_t>(offsets[at]);
    return intervals.subspan(begin, static_cast<std::size_t>(offsets[at + 1]) - begin);
  }
};

/// A mask that owns its lists; see MaskView for their form. masks.hpp and stream_masks.hpp make the
/// usual ones by name.
///
///   Mask mask;                          // sinks and a window:
///   mask.add_row({{0, 1}});             //   row 0   x
///   mask.add_row({{0, 2}});             //   row 1   x x
///   mask.add_row({{0, 1}, {2, 3}});     //   row 2   x . x
///   mask.add_row({{0, 1}, {3, 4}});     //   row 3   x . . x
///   const auto out = attend(q, k, v, mask);
struct Mask {
  std::vector<Interval> intervals;  ///< of all rows, one row after the other
  /// (rows + 1): where each row's begin in `intervals`; or none, after compact().
  std::vector<Index> offsets = {0};

  /// Query rows.
  Index num_rows() const { return MaskView(*this).num_rows(); }
  /// The intervals of row r. Not checked.
  std::span<const Interval> row(Index r) const { return MaskView(*this).row(r); }
  /// Adds a row that sees these intervals. (They are checked where the mask is used.)
  void add_row(ListView<Interval> seen) {
    expand();
    intervals.insert(intervals.end(), seen.span().begin(), seen.span().end());
    offsets.push_back(static_cast<Index>(intervals.size()));
  }
  /// Where no row has more than one interval: drops the offsets, so that the mask takes the form of
  /// one interval a row, which is the cheapest to compute. A row that sees nothing then has an
  /// empty interval. Every maker of masks has called it.
  void compact() {
    if (offsets.empty()) return;
    for (std::size_t r = 1; r < offsets.size(); ++r)
      if (offsets[r] - offsets[r - 1] > 1) return;
    const std::size_t rows = offsets.size() - 1;
    intervals.resize(rows);
    for (std::size_t r = rows; r-- > 0;) {  // offsets[r] <= r: what is read was not overwritten yet
      const auto at = static_cast<std::size_t>(offsets[r]);
      intervals[r] = offsets[r] < offsets[r + 1] ? intervals[at] : Interval{};
    }
    offsets.clear();
  }
  /// Undoes compact(): gives the mask offsets, and rows with an empty interval none.
  void expand() {
    if (!offsets.empty()) return;
    offsets.reserve(intervals.size() + 1);
    offsets.push_back(0);
    std::size_t end = 0;
    for (const Interval i : intervals) {
      if (i.size() > 0) intervals[end++] = i;
      offsets.push_back(static_cast<Index>(end));
    }
    intervals.resize(end);
  }
  /// Back to no rows; memory is kept.
  void clear() {
    intervals.clear();
    offsets.assign(1, 0);
  }
  /// The same lists, to be read.
  operator MaskView() const { return {intervals, offsets}; }
  /// Whether all lists are the same.
  friend bool operator==(const Mask&, const Mask&) = default;
};

namespace detail {

/// Throws casa::error unless a mask has `rows` rows and every interval lies within [0, num_keys).
/// (Without offsets an empty interval may lie anywhere.) `where` begins the error: what was called.
inline void check_mask(std::string_view where, const MaskView& mask, Index rows, Index num_keys) {
  const auto count = static_cast<Index>(mask.intervals.size());
  if (mask.offsets.empty()) {
    if (count != rows)
      fail(where, ": intervals (one per row of q): expected ", rows, ", got ", count);
    for (std::size_t r = 0; r < mask.intervals.size(); ++r) {
      const Interval i = mask.intervals[r];
      if (i.size() > 0 && (i.begin < 0 || i.end > num_keys))
        fail(where, ": intervals[", r, "] must lie within [0, ", num_keys, "), got [", i.begin,
             ", ", i.end, ")");
    }
    return;
  }
  if (mask.num_rows() != rows)
    fail(where, ": rows of interval_offsets (one less than there are): expected ", rows, ", got ",
         mask.num_rows());
  if (mask.offsets[0] != 0) fail(where, ": interval_offsets[0]: expected 0, got ", mask.offsets[0]);
  for (Index r = 0; r < rows; ++r) {
    const auto at = static_cast<std::size_t>(r);
    const Index begin = mask.offsets[at], end = mask.offsets[at + 1];
    if (end < begin || end > count)
      fail(where, ": interval_offsets must not decrease nor exceed the ", count, " intervals, got ",
           begin, " and ", end, " for row ", r);
  }
  if (mask.offsets.back() != count)
    fail(where, ": the last of interval_offsets: expected ", count, ", got ", mask.offsets.back());
  for (Index r = 0; r < rows; ++r) {
    Index end = 0;
    for (const Interval i : mask.row(r)) {
      if (i.begin >= i.end)
        fail(where, ": row ", r, " has an empty interval: [", i.begin, ", ", i.end, ")");
      if (i.begin < 0 || i.end > num_keys)
        fail(where, ": intervals of row ", r, " must lie within [0, ", num_keys, "), got [",
             i.begin, ", ", i.end, ")");
      if (i.begin < end)
        fail(where, ": intervals of row ", r, " must ascend without overlap, got [", i.begin, ", ",
             i.end, ") after one that ends at ", end);
      end = i.end;
    }
  }
}

}  // namespace detail

CASA_NAMESPACE_END
