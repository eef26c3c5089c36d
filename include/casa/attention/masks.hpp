// Masks by name: causal, windows, prefixes, packed documents, sinks, global tokens, blocks, trees;
// and the union and the intersection of masks. stream_masks.hpp has those of streams with images.
//
// Every maker takes the places of its rows (RowPlaces) and gives a Mask whose rows' intervals are
// ascending and do not touch, except where it says so. Where no row has more than one interval the
// mask has the form of one interval a row (Mask::compact), which is the cheapest to compute. In the
// pictures a line is a row, a column a key, # a key that is seen.
#pragma once

#include <algorithm>
#include <limits>
#include <span>
#include <string_view>
#include <vector>

#include "casa/attention/mask.hpp"
#include "casa/attention/row_places.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Adds rows to a mask. Intervals of a row come ascending; those that touch or overlap become one.
class MaskWriter {
 public:
  /// `mask` must outlive this and have offsets.
  explicit MaskWriter(Mask& mask) : mask_(mask) {}

  /// The row sees [begin, end), which may be empty. No earlier interval of it begins later.
  void see(Index begin, Index end) {
    if (begin >= end) return;
    const bool first = static_cast<Index>(mask_.intervals.size()) == mask_.offsets.back();
    if (!first && mask_.intervals.back().end >= begin)
      mask_.intervals.back().end = (std::max)(mask_.intervals.back().end, end);
    else
      mask_.intervals.push_back({begin, end});
  }
  void see(Interval i) { see(i.begin, i.end); }
  /// The same, but stays an interval of its own. Begins where the one before ends, or later.
  void see_apart(Index begin, Index end) {
    if (begin < end) mask_.intervals.push_back({begin, end});
  }
  void end_row() { mask_.offsets.push_back(static_cast<Index>(mask_.intervals.size())); }

 private:
  Mask& mask_;
};

/// The mask of rows at `places`, made by `maker` (a name for errors), each of which `row(writer,
/// place)` writes.
template <class Row>
Mask make_mask(std::string_view maker, const RowPlaces& places, Row row) {
  constexpr Index most = (std::numeric_limits<Index>::max)() / sizeof(Interval) - 1;
  if (places.size() > most) fail(maker, ": ", places.size(), " rows are more than memory can have");
  Mask mask;
  mask.offsets.reserve(static_cast<std::size_t>(places.size()) + 1);
  mask.intervals.reserve(static_cast<std::size_t>(places.size()));
  MaskWriter writer(mask);
  for (Index r = 0; r < places.size(); ++r) {
    row(writer, places[r]);
    writer.end_row();
  }
  mask.compact();
  return mask;
}

/// Where the last `window` places up to p begin.
inline Index window_begin(Index p, Index window) { return (std::max)(Index{0}, p - (window - 1)); }

/// Documents that stand one after the other.
class Documents {
 public:
  /// Throws casa::error for a negative length, and where they do not fit a number together.
  Documents(std::string_view maker, Index begin, std::span<const Index> lengths) {
    begins_.reserve(lengths.size() + 1);
    begins_.push_back(begin);
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      if (lengths[i] < 0) fail(maker, ": lengths[", i, "] must not be negative, got ", lengths[i]);
      begins_.push_back(checked_add(begins_.back(), lengths[i], maker));
    }
  }
  /// The place after the last one.
  Index end() const { return begins_.back(); }
  /// Where the document of place p begins. (One that is empty has no places.)
  Index begin_of(Index p) const {
    return *(std::upper_bound(begins_.begin(), begins_.end(), p) - 1);
  }

 private:
  std::vector<Index> begins_;
};

/// Throws casa::error unless every number is in [0, end) and greater than the one before.
inline void check_ascending(std::string_view what, std::span<const Index> numbers, Index end) {
  Index least = 0;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    if (numbers[i] < least || numbers[i] >= end)
      fail(what, ": number ", i, " must be at least ", least, " (ascending) and below ", end,
           ", got ", numbers[i]);
    least = numbers[i] + 1;
  }
}

/// Throws casa::error unless the intervals of every row of a mask of any number of keys are in
/// order.
inline void check_list(std::string_view which, const MaskView& mask) {
  check_mask(which, mask, mask.num_rows(), (std::numeric_limits<Index>::max)());
}

}  // namespace detail

/// Makers of masks.
namespace masks {

/// The row at p sees the keys at 0 .. p. Throws casa::error for a negative place, as all makers do.
///
///   # . . .
///   # # . .
///   # # # .
///   # # # #
inline Mask causal(const RowPlaces& rows) {
  rows.check("causal");
  return detail::make_mask("causal", rows, [](auto& row, Index p) { row.see(0, p + 1); });
}

/// The row at p sees itself and the window - 1 keys before it. Throws casa::error unless window is
/// positive.
///
///   # . . . .
///   # # . . .
///   . # # . .     window 2
///   . . # # .
///   . . . # #
inline Mask sliding_window(const RowPlaces& rows, Index window) {
  rows.check("sliding_window");
  require(window >= 1, "sliding_window: window must be positive, got ", window);
  return detail::make_mask("sliding_window", rows, [&](auto& row, Index p) {
    row.see(detail::window_begin(p, window), p + 1);
  });
}

/// The row at p sees the keys at 0 .. p and the whole prefix, whose tokens thereby see each other.
/// Throws casa::error for a negative prefix.
///
///   # # # . .
///   # # # . .
///   # # # . .     prefix 3
///   # # # # .
///   # # # # #
inline Mask prefix_lm(const RowPlaces& rows, Index prefix) {
  rows.check("prefix_lm");
  require(prefix >= 0, "prefix_lm: prefix must not be negative, got ", prefix);
  return detail::make_mask("prefix_lm", rows,
                           [&](auto& row, Index p) { row.see(0, (std::max)(p + 1, prefix)); });
}

/// Documents of these lengths stand one after the other, and a row sees its own document up to
/// itself. Throws casa::error for a negative length, and for a row that stands in no document.
///
///   # . . . .
///   # # . . .
///   . . # . .     lengths 2, 3
///   . . # # .
///   . . # # #
inline Mask packed_documents(const RowPlaces& rows, ListView<Index> lengths) {
  const detail::Documents documents("packed_documents", 0, lengths.span());
  rows.check("packed_documents", documents.end());
  return detail::make_mask("packed_documents", rows,
                           [&](auto& row, Index p) { row.see(documents.begin_of(p), p + 1); });
}

/// A prefix, and after it documents of these lengths, which all see the prefix and not each
/// other: many answers to one prompt. Throws casa::error for a negative prefix or length, and for a
/// row after the last document.
///
///   # . . . . .
///   # # . . . .
///   # # # . . .
///   # # # # . .   prefix 2, lengths 2, 2
///   # # . . # .
///   # # . . # #
inline Mask shared_prefix(const RowPlaces& rows, Index prefix, ListView<Index> lengths) {
  require(prefix >= 0, "shared_prefix: prefix must not be negative, got ", prefix);
  const detail::Documents documents("shared_prefix", prefix, lengths.span());
  rows.check("shared_prefix", documents.end());
  return detail::make_mask("shared_prefix", rows, [&](auto& row, Index p) {
    row.see(0, (std::min)(p + 1, prefix));
    if (p >= prefix) row.see(documents.begin_of(p), p + 1);
  });
}

/// The row at p sees the first `sinks` keys, itself and the window - 1 keys before it
/// (StreamingLLM, arXiv 2309.17453). Throws casa::error for negative sinks, and unless window is
/// positive.
///
///   # . . . . .
///   # # . . . .
///   # # # . . .   sinks 1, window 2
///   # . # # . .
///   # . . # # .
///   # . . . # #
inline Mask sinks_window(const RowPlaces& rows, Index sinks, Index window) {
  rows.check("sinks_window");
  require(sinks >= 0, "sinks_window: sinks must not be negative, got ", sinks);
  require(window >= 1, "sinks_window: window must be positive, got ", window);
  return detail::make_mask("sinks_window", rows, [&](auto& row, Index p) {
    row.see(0, (std::min)(p + 1, sinks));
    row.see(detail::window_begin(p, window), p + 1);
  });
}

/// Whether a mask may show keys after the row.
enum class Direction { both, causal };

/// A row sees the keys nearer than `window` and the global tokens; a row that is a global token
/// sees all keys (Longformer, arXiv 2004.05150). Direction::causal hides what stands after the row
/// from all of them. `global` is ascending. A row may stand after the last key: it sees what of its
/// window is a key, and the global tokens. Throws casa::error unless num_keys is not negative,
/// window is positive and the global tokens are keys in order.
///
///   # # . # .
///   # # # # .
///   . # # # .     5 keys, window 2, global 3
///   # # # # #
///   . . . # #
inline Mask global_window(const RowPlaces& rows, Index num_keys, Index window,
                          ListView<Index> global, Direction direction = Direction::both) {
  rows.check("global_window");
  require(num_keys >= 0, "global_window: num_keys must not be negative, got ", num_keys);
  require(window >= 1, "global_window: window must be positive, got ", window);
  const std::span<const Index> tokens = global.span();
  detail::check_ascending("global_window: global", tokens, num_keys);
  return detail::make_mask("global_window", rows, [&](auto& row, Index p) {
    const Index end = direction == Direction::causal ? (std::min)(num_keys, p + 1) : num_keys;
    if (std::binary_search(tokens.begin(), tokens.end(), p)) return row.see(0, end);
    const Index begin = detail::window_begin(p, window);
    const Interval near{begin, p >= end || window >= end - p ? end : p + window};
    const auto first_near = std::lower_bound(tokens.begin(), tokens.end(), begin);
    for (auto g = tokens.begin(); g != first_near && *g < end; ++g) row.see(*g, *g + 1);
    row.see(near);
    for (auto g = first_near; g != tokens.end() && *g < end; ++g)
      if (*g >= near.end) row.see(*g, *g + 1);
  });
}

/// Rows and keys are cut into blocks of `block`, and the rows of block b see the key blocks
/// chosen[b], which are ascending; with Direction::causal only up to themselves. Each chosen block
/// is an interval of its own, also beside another. The last block of keys may be short, and rows
/// may stand after the last key. Throws casa::error unless num_keys is not negative, block is
/// positive, chosen blocks are blocks of keys in order, and every row stands in a block that has
/// choices.
///
///   # # . . # #
///   # # . . # #
///   . . # # . .   6 keys in blocks of 2, chosen {{0, 2}, {1}}
///   . . # # . .
inline Mask block_sparse(const RowPlaces& rows, Index num_keys, Index block,
                         std::span<const std::vector<Index>> chosen,
                         Direction direction = Direction::both) {
  require(num_keys >= 0, "block_sparse: num_keys must not be negative, got ", num_keys);
  require(block >= 1, "block_sparse: block must be positive, got ", block);
  const Index num_blocks = num_keys / block + (num_keys % block != 0);
  for (std::size_t b = 0; b < chosen.size(); ++b)
    detail::check_ascending(text("block_sparse: chosen[", b, "]"), chosen[b], num_blocks);
  rows.check("block_sparse");
  for (Index r = 0; r < rows.size(); ++r)
    if (rows[r] / block >= std::ssize(chosen))
      fail("block_sparse: row ", r, " at ", rows[r], " stands in block ", rows[r] / block,
           ", choices were given for ", chosen.size());
  return detail::make_mask("block_sparse", rows, [&](auto& row, Index p) {
    const Index end = direction == Direction::causal ? (std::min)(num_keys, p + 1) : num_keys;
    for (const Index b : chosen[static_cast<std::size_t>(p / block)]) {
      const Index begin = b * block;
      row.see_apart(begin, begin + (std::min)(block, end - begin));
    }
  });
}

/// A tree of drafted tokens after `context` keys (SpecInfer, arXiv 2305.09781): node u stands at
/// context + u, and its row sees the context, its ancestors and itself. parents[u] < u is its
/// parent, or -1 where it follows the context. Any order in which parents stand before their
/// children does; with nodes in depth-first order, a node next to its first child, rows have the
/// fewest intervals. Rows are nodes: {context, context + parents.size()} are all of them. Throws
/// casa::error for a negative context, a parent out of range, and a row that is no node.
///
///   # # # . . . .                    0
///   # # # # . . .                   / \        .
///   # # # # # . .   context 2,     1   3    4
///   # # # . . # .   parents        |
///   # # . . . . #   -1 0 1 0 -1    2
inline Mask draft_tree(const RowPlaces& rows, Index context, ListView<Index> parents) {
  require(context >= 0, "draft_tree: context must not be negative, got ", context);
  const std::span<const Index> parent = parents.span();
  for (std::size_t u = 0; u < parent.size(); ++u)
    if (parent[u] < -1 || parent[u] >= static_cast<Index>(u))
      fail("draft_tree: parents[", u, "] must be in [-1, ", u, "), got ", parent[u]);
  const Index end =
      checked_add(context, static_cast<Index>(parent.size()), "draft_tree: context + nodes");
  rows.check("draft_tree", end);
  std::vector<Index> path;
  return detail::make_mask("draft_tree", rows, [&](auto& row, Index p) {
    if (p < context) fail("draft_tree: rows must be nodes, at ", context, " or later, got ", p);
    path.clear();
    for (Index u = p - context; u >= 0; u = parent[static_cast<std::size_t>(u)]) path.push_back(u);
    row.see(0, context);
    for (auto u = path.rbegin(); u != path.rend(); ++u) row.see(context + *u, context + *u + 1);
  });
}

/// Each row sees what it sees in a or in b. Throws casa::error unless both have as many rows and
/// their lists are in order.
///
///   # . .     # # .     # # .
///   . # .  +  . . .  =  . # .
///   . . #     # . .     # . #
inline Mask unite(const MaskView& a, const MaskView& b) {
  detail::check_list("unite: the first mask", a);
  detail::check_list("unite: the second mask", b);
  require_equal("unite: rows of the second mask", b.num_rows(), a.num_rows());
  return detail::make_mask("unite", a.num_rows(), [&](auto& row, Index r) {
    const auto left = a.row(r), right = b.row(r);
    auto i = left.begin(), j = right.begin();
    while (i != left.end() || j != right.end())
      row.see(j == right.end() || (i != left.end() && i->begin <= j->begin) ? *i++ : *j++);
  });
}

/// Each row sees what it sees in both a and b. Throws as unite does.
inline Mask intersect(const MaskView& a, const MaskView& b) {
  detail::check_list("intersect: the first mask", a);
  detail::check_list("intersect: the second mask", b);
  require_equal("intersect: rows of the second mask", b.num_rows(), a.num_rows());
  return detail::make_mask("intersect", a.num_rows(), [&](auto& row, Index r) {
    const auto left = a.row(r), right = b.row(r);
    for (auto i = left.begin(), j = right.begin(); i != left.end() && j != right.end();) {
      row.see((std::max)(i->begin, j->begin), (std::min)(i->end, j->end));
      i->end < j->end ? ++i : ++j;
    }
  });
}

}  // namespace masks

CASA_NAMESPACE_END
