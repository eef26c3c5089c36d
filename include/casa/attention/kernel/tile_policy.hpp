// How the tiles of a job are cut, decided once a job in the plan, from its rows and the types of a
// call.
//
//   rows of the job                tiles
//   one or two (kFewQueries)       strided: keys and values are read piece by piece, each address
//                                  the last one plus a stride; one tile takes whole values
//   few (fits a narrow panel, ...)  near: lists of pointers, tiles follow the order of memory and
//                                  prefetch a little ahead of their own reads
//   more                           wide: lists of pointers, tiles follow the schedule of fetch.hpp
//
// Where the rows of a job are cut into panels, for_each_panel() says: in the plan where several
// windows share a job, else by the worker, as the cut follows from the number of rows and a list of
// panels a job would only take memory.
#pragma once

#include <algorithm>
#include <type_traits>

#include "casa/attention/kernel/panels.hpp"
#include "casa/attention/kernel/plan.hpp"
#include "casa/attention/kernel/sum_tiles.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Head sizes rounded up to whole vectors of T.
template <class T>
struct PaddedDims {
  Index key, value;
  explicit PaddedDims(const AttentionShape& shape)
      : key(whole_vectors(shape.head_dim)), value(whole_vectors(shape.output_dim())) {}

 private:
  static Index whole_vectors(Index dim) {
    return (dim + simd::kLanes<T> - 1) / simd::kLanes<T> * simd::kLanes<T>;
  }
};

/// Whether tiles widen 16-bit values in registers as they load them. Else they read widened copies.
template <class T, class S>
bool widens_in_place(const AttentionShape& shape) {
  const PaddedDims<T> padded(shape);
  return simd::kWidensFast<S> && padded.key == shape.head_dim && padded.value == shape.output_dim();
}

/// `rounds`: Precision::storage, which lets products of pairs round. Tiles of wide panels broadcast
/// each value of a key: widening it there would serve one vector, so they read copies.
template <class T, class S>
Operands choose_operands(const Job& job, const AttentionShape& shape, bool rounds) {
  if (!widens_in_place<T, S>(shape)) return Operands::copied;
  const Index rows = job.rows(shape.group());
  if (simd::kMultipliesPairs<S> && rounds && rows > kFewQueries) return Operands::pairs;
  const bool all_narrow =
      rows <= kNarrowRows<T> || (job.panels.empty() && rows <= kTwoNarrowRows<T, T, S>);
  return all_narrow ? Operands::stored : Operands::copied_keys;
}

/// The tiles of a job over keys stored as S, with weights of type W and values read as V. `lists`:
/// rows see lists of intervals, so that keys are gathered.
template <class T, class S, class W, class V>
void cut_tiles(TilePolicy& tiles, Index rows, Index padded_value_dim, bool lists) {
  constexpr Index lanes = simd::kLanes<T>;
  // A job waits for memory if its rows fit one narrow panel or two, or, as pairs, one vector, or if
  // keys are stored as T and at most 2 sizeof(S) rows fit one vector.
  constexpr Index shared = 2 * static_cast<Index>(sizeof(S)) * std::is_same_v<S, T>;
  constexpr Index narrow = (std::max)(kNarrowRows<T>, kTwoNarrowRows<T, W, V>);
  constexpr Index few = kUnit<W> == 2 ? lanes : (std::max)(narrow, (std::min)(lanes, shared));
  // One tile of one or two rows takes whole values, of up to kSegmentVectors.
  constexpr Index strided = (std::min)(kFewQueries, kNarrowRows<T>);
  const Index near = kNearBytes / (padded_value_dim * static_cast<Index>(sizeof(V)));
  tiles.few_rows = rows <= few;
  tiles.strided = !lists && rows <= strided && kSegmentVectors * lanes >= padded_value_dim;
  tiles.most_rows = kSumRows;
  tiles.near_keys = (std::max<Index>)(near / kUnit<W>, 1) * kUnit<W>;
}

/// Whether some row of a job sees more than one interval of its places; looked for in jobs of few
/// rows only, as the tiles of others do not depend on it.
inline bool sees_lists(const Job& job, const MaskView& mask, Index rows) {
  bool lists = false;
  if (!mask.offsets.empty() && rows <= kFewQueries)
    for (Index t = job.row_begin; t < job.row_end; ++t) {
      int intervals = 0;
      job.for_each_seen(mask.row(t), [&](Interval) { ++intervals; });
      lists = lists || intervals > 1;
    }
  return lists;
}

template <class T, class S>
TilePolicy choose_tiles(const Job& job, const MaskView& mask, const AttentionShape& shape,
                        bool rounds) {
  const Index rows = job.rows(shape.group()), padded = PaddedDims<T>(shape).value;
  const bool lists = sees_lists(job, mask, rows);
  TilePolicy tiles{choose_operands<T, S>(job, shape, rounds)};
  switch (tiles.operands) {
    case Operands::pairs:
      cut_tiles<T, S, simd::bfloat16_pair, S>(tiles, rows, padded, lists);
      break;
    case Operands::copied:
      cut_tiles<T, S, T, T>(tiles, rows, padded, lists);
      break;
    case Operands::stored:
    case Operands::copied_keys:
      cut_tiles<T, S, T, S>(tiles, rows, padded, lists);
      break;
  }
  return tiles;
}

}  // namespace detail

CASA_NAMESPACE_END
