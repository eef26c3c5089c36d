// Memory that the attention kernel will need soon, fetched while it computes.
#pragma once

#include <algorithm>

#include "casa/core/simd.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Memory that will be needed soon, fetched in small steps from inside the tiles' loops. Bursts of
/// prefetches before a tile gain nothing: the arithmetic must run beside them.
struct Prefetcher {
  static constexpr int kRegions = 8;
  struct Region {
    const char* begin;
    const char* end;
  };
  Region regions[kRegions];
  int count = 0, current = 0;
  Index step = 0;
  float bytes_per_work = 0;
  // Rows too short for a tile's loop (queries): some lines of them before each tile.
  const char* row = nullptr;
  Index row_bytes = 0, row_stride = 0, rows_left = 0, row_at = 0, lines_per_take = 0;

  void clear() { count = current = 0, step = rows_left = 0; }
  void add(const void* begin, const void* end) {
    if (count < kRegions && begin < end)
      regions[count++] = {static_cast<const char*>(begin), static_cast<const char*>(end)};
  }
  void add_rows(const void* first, Index bytes, Index stride, Index rows) {
    row = static_cast<const char*>(first);
    row_bytes = bytes, row_stride = stride, rows_left = rows, row_at = 0;
  }
  /// Spreads what was added over that many multiply-adds (of vectors), in that many tiles: memory
  /// that is asked for at an even pace comes without stalls.
  void spread(Index work, Index tiles) {
    Index bytes = 0;
    for (int i = 0; i < count; ++i) bytes += regions[i].end - regions[i].begin;
    bytes_per_work = static_cast<float>(bytes) / static_cast<float>((std::max<Index>)(work, 1));
    lines_per_take = rows_left * (row_bytes / 64 + 1) / (std::max<Index>)(tiles, 1) + 1;
  }
  /// Where the next `steps` steps, each of so many multiply-adds and `lines` prefetches, begin;
  /// they go on by `step`.
  const char* take(Index steps, Index work_per_step, int lines, const void* idle) {
    if (rows_left > 0) take_rows();
    while (current < count && regions[current].begin >= regions[current].end) ++current;
    if (current == count) {
      step = 0;
      return static_cast<const char*>(idle);
    }
    step = (std::min<Index>)(64 * lines, static_cast<Index>(bytes_per_work *
                                                            static_cast<float>(work_per_step)) +
                                             1);
    const char* p = regions[current].begin;
    regions[current].begin += steps * step;
    return p;
  }

 private:
  void take_rows() {
    for (Index i = 0; i < lines_per_take && rows_left > 0; ++i) {
      simd::prefetch(row + row_at);
      row_at += 64;
      if (row_at >= row_bytes) {
        row += row_stride;
        row_at = 0;
        --rows_left;
      }
    }
  }
};

/// Cache lines fetched per step of a tile: the fewer rows share a key, the faster memory must come.
template <int Fold>
inline constexpr int kScoreLines = Fold >= 4 ? Fold / 2 : 1;
template <int M>
inline constexpr int kSumLines = M <= 2   ? 8
                                 : M <= 4 ? 4
                                 : M <= 8 ? 2
                                          : 1;

/// One step of a prefetch cursor.
template <int Lines>
CASA_INLINE void fetch_step(const char*& ahead, Index step) {
  if constexpr (Lines == 1) {
    simd::prefetch(ahead);
  } else {
    CASA_UNROLL
    for (int i = 0; i < Lines; ++i) simd::prefetch(ahead + i * 64);
  }
  ahead += step;
}

}  // namespace detail

CASA_NAMESPACE_END
