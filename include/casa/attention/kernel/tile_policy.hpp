// How the tiles of a job are cut, decided once a job from its rows and types.
//
//   rows of the job                tiles
//   one or two (kFewQueries)       strided: keys and values are read piece by piece, each address
//                                  the last one plus a stride; one tile takes whole values
//   few (fits a narrow panel, ...)  near: lists of pointers, tiles follow the order of memory and
//                                  prefetch a little ahead of their own reads
//   more                           wide: lists of pointers, tiles follow BlockFetches' schedule
#pragma once

#include <algorithm>
#include <type_traits>

#include "casa/attention/kernel/panels.hpp"
#include "casa/attention/kernel/sum_tiles.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// The decision. Which rows are wide and which narrow, for_each_panel() says.
struct TilePolicy {
  bool few_rows = false;  ///< the job waits for memory rather than for arithmetic
  bool strided = false;   ///< keys and values are read as segments (StridedRows)
  Index most_rows = 1;    ///< of a tile of sums, where rows may share one
  Index near_keys = 1;    ///< keys whose values stay in the first-level cache: a part of a block
};

/// For a job of `rows` rows over keys stored as S, with weights of type W and values read as V, of
/// `padded_dim` values. `lists`: rows see lists of intervals, so that keys are gathered.
template <class T, class S, class W, class V>
TilePolicy choose_tiles(Index rows, Index padded_dim, bool lists) {
  constexpr Index lanes = simd::kLanes<T>;
  // A job waits for memory if its rows fit one narrow panel or two, or, as pairs, one vector, or if
  // keys are stored as T and at most 2 sizeof(S) rows fit one vector.
  constexpr Index shared = 2 * static_cast<Index>(sizeof(S)) * std::is_same_v<S, T>;
  constexpr Index narrow = (std::max)(kNarrowRows<T>, kTwoNarrowRows<T, W, V>);
  constexpr Index few = kUnit<W> == 2 ? lanes : (std::max)(narrow, (std::min)(lanes, shared));
  // One tile of one or two rows takes whole values, of up to kSegmentVectors.
  constexpr Index strided = (std::min)(kFewQueries, kNarrowRows<T>);
  const Index near = kNearBytes / (padded_dim * static_cast<Index>(sizeof(V)));
  return {rows <= few, !lists && rows <= strided && kSegmentVectors * lanes >= padded_dim, kSumRows,
          (std::max<Index>)(near / kUnit<W>, 1) * kUnit<W>};
}

}  // namespace detail

CASA_NAMESPACE_END
