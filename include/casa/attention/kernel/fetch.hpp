// What a tile prefetches: the one place that decides it.
//
//   none     nothing is scheduled, and what the tile reads next is not known
//   planned  jobs of many rows: BlockFetches' schedule, a share of it for each tile
//   ahead    keys that lie side by side, and values as a segment: the tile's own reads,
//            simd::kReadAhead bytes on
//   near     jobs of few rows, whose values several tiles read in parts: the next part
//
// Measured by leaving one out (2,048 queries and keys under a causal mask, eight frames, a stream
// of 64 windows; a Zen 5, processor time, best of 42): without the keys of the next block in the
// schedule the frames took 1.09 to 1.14 times the time, without the queries of the next job 1.06 to
// 1.15. Prefetching the rows that sums are carried in and written to gained nothing anywhere, and
// is gone.
#pragma once

#include "casa/attention/kernel/prefetcher.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// How many bytes ahead tiles of scores prefetch keys of `units` values or pairs; 0: none or
/// planned. With a schedule the keys are in cache already; tiles of wide panels prefetch only keys
/// that are contiguous, as else what follows a key are other heads.
template <class Rows>
Index keys_ahead(const Prefetcher& prefetcher, Rows keys, Index count, Index units, bool narrow) {
  const bool ahead = prefetcher.idle() && (narrow || side_by_side(keys, count, units));
  return ahead ? segment_distance(keys, count, units) : 0;
}

/// What a tile of scores of M keys and N vectors prefetches in each turn of kScoreSteps units.
/// `near`: keys_ahead(). `q`: the queries, which it reads anyway.
template <int M, int N, int Steps, class Q>
FetchCursor score_cursor(Prefetcher& prefetcher, const Q* key, Index near, const Q* q,
                         Index units) {
  return near != 0 ? segment_cursor<M * Steps>(key, near)
                   : prefetcher.take(units / Steps, Steps * M * N, kScoreLines, q);
}

/// What a tile of sums of M rows prefetches in each turn of two keys, or two pairs of them; it
/// reads `Columns` values of each key from `column` on. Near: shape.near bytes ahead; where keys
/// are contiguous, the tiles of all columns together prefetch the next part in memory's order, each
/// its share, instead of each its own columns.
template <int M, Index Columns, class Rows, class Shape>
FetchCursor sum_cursor(Prefetcher& prefetcher, const Rows& rows, const Shape& shape, Index column) {
  using E = Value<decltype(rows.values)>;
  using W = std::remove_cvref_t<decltype(*rows.weights)>;
  constexpr Index size = static_cast<Index>(sizeof(E)), vectors = Columns / Rows::kLanes;
  if (shape.near == 0 || rows.count <= 1)
    return prefetcher.take(rows.count / 2, 2 * M * vectors / kUnit<W>, kSumLines<M>, rows.weights);
  const bool in_order = side_by_side(rows.values, rows.count, shape.padded_dim);
  const Index key = in_order ? Columns * size : bytes_between(rows.values[0], rows.values[1]);
  const char* at = static_cast<const char*>(static_cast<const void*>(rows.values[0])) + shape.near +
                   column * size * (in_order ? rows.count : 1);
  return {at, at + 2 * key, 4 * key, key};
}

}  // namespace detail

CASA_NAMESPACE_END
