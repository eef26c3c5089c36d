// Memory that the attention kernel will need soon, fetched while it computes.
#pragma once

#include <algorithm>
#include <bit>
#include <utility>

#include "casa/attention/kernel/strided_rows.hpp"
#include "casa/simd/simd.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Where a tile's prefetches stand. They go on in four streams, two per turn of the tile's loop, so
/// that more of memory's pages and channels are at work than one stream would reach.
struct FetchCursor {
  const char* at = nullptr;     ///< this turn: here and `gap` bytes on,
  const char* other = nullptr;  ///< the next turn: here and `gap` bytes on
  Index step = 0;               ///< bytes of a stream from one of its turns to the next
  Index gap = 0;
};

/// Memory that will be needed soon, fetched in small steps from inside the tiles' loops. Bursts of
/// prefetches before a tile gain nothing: the arithmetic must run beside them.
struct Prefetcher {
  static constexpr int kRegions = 8;
  struct Region {
    const char* begin;
    const char* end;  // of the first stream
    Index quarter;    // bytes from one stream to the next
  };
  Region regions[kRegions];
  int count = 0, current = 0;
  float bytes_per_work = 0;  // of each stream
  // Rows too short for a tile's loop (queries): some lines of them before each tile.
  const char* row = nullptr;
  Index row_bytes = 0, row_stride = 0, rows_left = 0, row_at = 0, lines_per_take = 0;

  /// Whether nothing was added: tiles ask for what they will read themselves.
  bool idle() const { return count == 0; }
  void clear() { count = current = 0, rows_left = 0; }
  /// [first, first + bytes): its quarters, side by side.
  void add(const void* first, Index bytes) {
    skip_fetched();
    if (current == count) current = count = 0;
    if (count == kRegions || bytes <= 0) return;
    const char* begin = static_cast<const char*>(first);
    const Index quarter = (bytes + 255) / 256 * 64;
    regions[count++] = {begin, begin + quarter, quarter};
  }
  /// Rows, evenly before so many tiles.
  void add_rows(const void* first, Index bytes, Index stride, Index rows, Index tiles) {
    row = static_cast<const char*>(first);
    row_bytes = bytes, row_stride = stride, rows_left = rows, row_at = 0;
    lines_per_take = rows * (bytes / 64 + 1) / (std::max<Index>)(tiles, 1) + 1;
  }
  /// Spreads what is left of the regions over most of so many multiply-adds (of vectors): memory
  /// that is asked for at an even pace comes without stalls.
  void spread(Index work) {
    Index bytes = 0;
    for (int i = current; i < count; ++i)
      bytes += (std::max<Index>)(0, regions[i].end - regions[i].begin);
    const Index most = (std::max<Index>)(work * 7 / 8, 1);
    bytes_per_work = static_cast<float>(bytes) / static_cast<float>(most);
  }
  /// The cursor of the next `turns` turns, each of so many multiply-adds and up to `lines` lines of
  /// each stream. Idle, it stays at memory that the tile reads anyway.
  FetchCursor take(Index turns, Index work_per_turn, int lines, const void* idle) {
    if (rows_left > 0) take_rows();
    skip_fetched();
    if (current == count) return {static_cast<const char*>(idle), static_cast<const char*>(idle)};
    Region& r = regions[current];
    const auto even = 2 * bytes_per_work * static_cast<float>(work_per_turn);
    const Index step = (std::min<Index>)(64 * lines, static_cast<Index>(even) + 1);
    const FetchCursor cursor{r.begin, r.begin + r.quarter, step, 2 * r.quarter};
    r.begin += turns * step / 2;
    return cursor;
  }

 private:
  void skip_fetched() {
    while (current < count && regions[current].begin >= regions[current].end) ++current;
  }
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

/// Lines of a stream fetched per turn of a tile's loop, at most: the fewer rows share a value, the
/// faster memory must come.
inline constexpr int kScoreLines = 1;
template <int M>
inline constexpr int kSumLines = M <= 2                                  ? 8
                                 : M <= (simd::kRegisters == 32 ? 6 : 4) ? 4
                                 : M <= 8                                ? 2
                                                                         : 1;

/// Few rows read memory as fast as it comes. Their tiles follow its order and fetch but a little
/// ahead of themselves, which the hardware's own prefetchers go along with; streams far away would
/// take their places: what is read in one run, simd::kReadAhead bytes ahead; what meets one row
/// after another is taken in parts of so many bytes, and the next part fetched.
inline constexpr Index kNearBytes = 16384;

/// Bytes from one row of memory to another, perhaps of another array.
template <class E>
Index bytes_between(const E* from, const E* to) {
  return std::bit_cast<Index>(to) - std::bit_cast<Index>(from);
}

/// Whether rows of `size` values follow one another in memory, as far as the first two tell.
template <class Rows>
bool side_by_side(Rows rows, Index count, Index size) {
  return count > 1 &&
         bytes_between(rows[0], rows[1]) == size * static_cast<Index>(sizeof(Value<Rows>));
}

/// Bytes from the first of some rows in memory to where the row `ahead` would lie.
template <class Rows>
Index near_distance(Rows rows, Index count, Index ahead) {
  return count > 1 ? bytes_between(rows[0], rows[1]) * ahead : 0;
}
/// The same to the row that a run of rows of `size` values has simd::kReadAhead bytes on.
template <class Rows>
Index segment_distance(Rows rows, Index count, Index size) {
  const Index bytes = size * static_cast<Index>(sizeof(Value<Rows>));
  return near_distance(rows, count, (std::max<Index>)(1, simd::kReadAhead / bytes));
}

/// Asks for the lines of Count values that lie `distance` bytes behind p.
template <int Count, class E>
CASA_INLINE void fetch_near(const E* p, Index distance) {
  const char* at = static_cast<const char*>(static_cast<const void*>(p)) + distance;
  CASA_UNROLL
  for (int i = 0; i < Count * static_cast<int>(sizeof(E)); i += 64) simd::prefetch(at + i);
}

/// Goes with a tile that takes Count values a turn from rows in one run, `distance` bytes ahead.
template <int Count, class E>
FetchCursor segment_cursor(const E* p, Index distance) {
  constexpr Index bytes = Count * static_cast<Index>(sizeof(E));
  const char* at = static_cast<const char*>(static_cast<const void*>(p)) + distance;
  return {at, at + bytes, 2 * bytes, bytes / 2};
}

/// One turn's prefetches.
template <int Lines>
CASA_INLINE void fetch_turn(FetchCursor& cursor) {
  CASA_UNROLL
  for (int i = 0; i < Lines; ++i) simd::prefetch(cursor.at + i * 64);
  CASA_UNROLL
  for (int i = 0; i < Lines; ++i) simd::prefetch(cursor.at + cursor.gap + i * 64);
  cursor.at = std::exchange(cursor.other, cursor.at + cursor.step);
}

}  // namespace detail

CASA_NAMESPACE_END
