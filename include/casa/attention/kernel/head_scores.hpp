// Scores of a block for several heads whose keys lie side by side in memory, read in its order.
//
// Few rows wait for memory. Token by token the keys of one head are whole tokens apart, and the
// processor's own prefetchers lose their way; so a few keys are read in all heads before the next
// ones. Each head's results have the bits that softmax_block() gives.
#pragma once

#include <algorithm>
#include <limits>
#include <span>

#include "casa/attention/kernel/score_tiles.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Keys that are read in all heads before the next ones, whose tokens take so many bytes: whole
/// tiles, and few enough that those of the next group, which is prefetched meanwhile, wait in the
/// second-level cache. (16, 32 and 64 keys of 4 KiB read 26, 29 and 29 GB/s from memory, and 72, 78
/// and 84 from the third-level cache: smaller groups load and store their sums more often.)
inline Index keys_of_group(Index token_bytes) {
  constexpr Index bytes = 262144, whole = kMaxTileKeys;
  return std::clamp<Index>(bytes / (std::max<Index>)(1, token_bytes) / whole * whole, whole,
                           8 * whole);
}

/// The narrow panels of several heads, and their keys: keys_of(h).
template <class T, class KeysOf>
struct HeadPanels {
  std::span<const QueryPanel<T>> panels;
  KeysOf keys_of;
  const PanelKeys<T>& seen;  ///< by each of them: all keys of the block
  HeadsAhead ahead;
  const void* after;  ///< what is read after the block's keys
  Index group;        ///< keys that are read in all heads before the next ones
};

/// The scores of the block, and in each panel's rescale the largest of each lane.
template <int R, class Q, class T, class KeysOf>
void score_heads(const HeadPanels<T, KeysOf>& heads, Prefetcher& prefetcher) {
  using V = simd::Vec<T>;
  using Rows = decltype(heads.keys_of(Index{}));
  using Block = ScoreBlock<1, R, Q, Rows, T, PlainScore>;
  constexpr int M = static_cast<int>(simd::kLanes<T>) / R;
  const PlainScore score;
  const Index count = heads.seen.count, group = heads.group;
  for (const QueryPanel<T>& panel : heads.panels)
    simd::store(panel.rescale, simd::broadcast(-std::numeric_limits<T>::infinity()));
  for (Index begin = 0; begin < count; begin += group) {
    const Index end = (std::min)(begin + group, count);
    const void* next = end < count ? heads.keys_of(0)[end] : heads.after;
    for (Index h = 0; const QueryPanel<T>& panel : heads.panels) {
      const auto keys = heads.keys_of(h);
      const Ahead ahead = heads.ahead.of(h, group, keys[begin], next);
      Block block{panel,       keys,         heads.seen,
                  score,       prefetcher,   panel.head_dim / kUnit<Q>,
                  ahead.first, ahead.per_row};
      Row<V, 1> max{simd::load(panel.rescale)};
      const Row<typename Block::OfRows, 1> of_rows{};
      for (Index key = begin; key < end; key += M) {
        score_tile<M>(block, key, of_rows, max);
        block.near += M * ahead.per_row;
      }
      simd::store(panel.rescale, max[0]);
      ++h;
    }
  }
}

/// softmax_block() of several heads' panels.
template <class Q, class T, class KeysOf>
void softmax_heads(const HeadPanels<T, KeysOf>& heads, Prefetcher& prefetcher) {
  using Rows = decltype(heads.keys_of(Index{}));
  const Index count = heads.seen.count;
  const auto run = [&]<int R>() {
    score_heads<R, Q>(heads, prefetcher);
    constexpr Index M = simd::kLanes<T> / R;
    for (const QueryPanel<T>& panel : heads.panels) {
      Row<simd::Vec<T>, 1> max{simd::load(panel.rescale)};
      if constexpr (kUnit<Q> == 2)  // as in score_block()
        simd::store(panel.scores + (count + M - 1) / M * M * R,
                    simd::broadcast(-std::numeric_limits<T>::infinity()));
      weigh_block<1, R, Q>(panel, count, heads.seen.first, max);
    }
  };
  run_narrow<T, Rows>(heads.panels[0].narrow, run);
}

}  // namespace detail

CASA_NAMESPACE_END
