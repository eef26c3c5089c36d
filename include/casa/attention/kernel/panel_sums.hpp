// One worker's sums of weighted values: which rows and keys share a tile, where sums are carried
// from block to block, and where they go in the end.
#pragma once

#include <algorithm>

#include "casa/attention/kernel/key_rows.hpp"
#include "casa/attention/kernel/row_limits.hpp"
#include "casa/attention/kernel/sum_tiles.hpp"
#include "casa/attention/kernel/tile_policy.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// The keys of a block that a panel sees, with their values.
template <class T, class Values>
struct PanelBlock {
  Values values;  ///< of each of the keys
  PanelKeys<T> keys;
  Interval places;  ///< the part of the job's places that they were taken from
};

template <class T, class S>
class PanelSums {
  static constexpr Index lanes = simd::kLanes<T>;

 public:
  /// For jobs of up to `rows` rows, rounded up to whole vectors and one more.
  PanelSums(KeyRows<T, S>& key_rows, const RowLimits<T>& limits, Index rows, Workspace& workspace)
      : key_rows_(key_rows),
        limits_(limits),
        carried_(workspace.take<T>(rows * key_rows.padded_value_dim())),
        factor_(workspace.take<T>(rows)),
        result_(workspace.take<T*>(rows)) {}

  /// Where the sums that are carried in a row go, and what they are multiplied by. Set before the
  /// last block that the row's panel sees.
  void set_result(Index row, T* to, T factor) {
    result_[row] = to;
    factor_[row] = factor;
  }

  /// Whether results of the next job are streamed past the caches.
  void set_streams(bool streams) { streams_ = streams; }

  /// Adds the weighted values of the keys that a panel sees of a block to its rows' sums. `mix`:
  /// rows that see different keys may share a tile.
  template <class W, class Values>
  void add(const QueryPanel<T>& panel, const PanelBlock<T, Values>& block, const TilePolicy& tiles,
           bool mix, Prefetcher& prefetcher) {
    SumShape shape{panel.width(), key_rows_.value_dim(), key_rows_.padded_value_dim()};
    shape.streams = streams_;
    const Index count = block.keys.count;
    const Index most = rows_of_tile<W, Values>(panel, tiles, mix, shape);
    Index part = count;
    if constexpr (kIsStrided<Values>) {
      if (panel.rows > most) part = tiles.near_keys;
      shape.near = segment_distance(block.values, count, shape.value_dim);
    } else if (tiles.few_rows) {
      part = tiles.near_keys;
      shape.near = near_distance(block.values, count, part);
    }
    for (Index begin = 0; begin < count; begin += part) {
      const Index end = (std::min)(begin + part, count);
      add_part<W>(panel, block, {{begin, end}, most}, shape, prefetcher);
      if (end < count) std::fill_n(panel.rescale, panel.width(), T(1));
    }
  }

  /// The same of some keys of a block that all rows see, among those of other heads: in calls for
  /// one range after the other.
  template <class W, class Values>
  void add_some(const QueryPanel<T>& panel, const PanelBlock<T, Values>& block, Interval keys,
                const TilePolicy& tiles, Ahead ahead, Prefetcher& prefetcher) {
    const SumShape shape{panel.width(), key_rows_.value_dim(), key_rows_.padded_value_dim(),
                         ahead.first, ahead.per_row};
    const Index most = rows_of_tile<W, Values>(panel, tiles, true, shape);
    add_part<W>(panel, block, {keys, most}, shape, prefetcher);
    if (keys.end < block.keys.count) std::fill_n(panel.rescale, panel.width(), T(1));
  }

 private:
  /// The most rows of a tile.
  template <class W, class Values>
  static Index rows_of_tile(const QueryPanel<T>& panel, const TilePolicy& tiles, bool mix,
                            const SumShape& shape) {
    Index most = mix ? tiles.most_rows : 1;
    if (!kIsStrided<Values> && tiles.few_rows) {
      // Where one tile takes whole values, the rows are split over two tiles: the second reads from
      // the first-level cache, and a line that is prefetched twice measured faster than one that is
      // prefetched once. Not for 16-bit values, which both tiles would widen: 4 rows of bfloat16
      // read 34 GB/s in one tile, 32 in two.
      constexpr bool widens = kUnit<W> == 1 && !std::is_same_v<Value<Values>, T>;
      const Index half = (panel.rows + 1) / 2;
      if (!widens && sum_vectors(half) * lanes >= shape.padded_dim) most = (std::min)(most, half);
    }
    return most;
  }

  /// Some keys of a block, and how many rows a tile has.
  struct Part {
    Interval keys;
    Index most_rows;
  };

  /// The sums over one part of a block's keys, in tiles of nearly equal sizes, each over the keys
  /// that its rows see. With pairs of keys the range is widened to whole pairs, and the key that is
  /// not seen has weight 0.
  template <class W, class Values>
  void add_part(const QueryPanel<T>& panel, const PanelBlock<T, Values>& block, const Part& part,
                const SumShape& shape, Prefetcher& prefetcher) {
    constexpr Index unit = kUnit<W>;
    const bool first = block.keys.first && part.keys.begin == 0;
    const bool last = block.keys.last && part.keys.end == block.keys.count;
    const auto tile_of = [&](Index r, Index end) {
      const Index row = panel.sums + r;
      Interval keys = limits_.trimmed(panel, r, end, block.places, part.keys);
      if (keys.size() <= 0) keys = {};
      const Index skipped = keys.begin / unit * unit;
      const Index count = (keys.end + unit - 1) / unit * unit - skipped;
      SumRows<T, W, Values> tile{end - r,
                                 panel.template weights<W>() + skipped / unit * panel.width() + r,
                                 block.values + skipped,
                                 count,
                                 carried_ + row * shape.padded_dim,
                                 first ? nullptr : panel.rescale + r,
                                 last ? result_ + row : nullptr,
                                 factor_ + row};
      // A row by itself reads zeros for what it does not see, which may be NaN: the other value of
      // a pair, and what stands between the intervals of a list.
      if constexpr (!kIsStrided<Values>)
        if (part.most_rows == 1 && (unit == 2 || limits_.lists()))
          tile.values = key_rows_.only(tile.values, count, [&](Index j) {
            const Index at = skipped + j;
            return keys.contains(at) && (!limits_.lists() || (block.keys.bits[at] >> r & 1) != 0);
          });
      return tile;
    };
    if (part.most_rows == 1 && (unit == 2 || limits_.lists())) {
      for (Index r = 0; r < panel.rows; ++r) {
        const auto tile = tile_of(r, r + 1);
        sum_panel<T, W, Values>({&tile, 1}, shape, prefetcher);
      }
      return;
    }
    const Index tiles = (panel.rows + part.most_rows - 1) / part.most_rows;
    Row<SumRows<T, W, Values>, kMaxVectors* static_cast<int>(lanes)> rows;
    for (Index t = 0; t < tiles; ++t)
      rows[t] = tile_of(panel.rows * t / tiles, panel.rows * (t + 1) / tiles);
    sum_panel<T, W, Values>({rows, static_cast<std::size_t>(tiles)}, shape, prefetcher);
  }

  KeyRows<T, S>& key_rows_;
  const RowLimits<T>& limits_;
  T *carried_, *factor_;
  T** result_;
  bool streams_ = false;
};

}  // namespace detail

CASA_NAMESPACE_END
