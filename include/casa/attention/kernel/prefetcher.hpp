// Prefetches from inside the attention kernel's loops, of what it will read soon.
//
// Jobs with many rows follow a schedule (Prefetcher, filled by Fetch in fetch.hpp). Jobs with few
// rows read memory as fast as it comes and prefetch a fixed distance ahead of their own reads.
#pragma once

#include <algorithm>
#include <utility>

#include "casa/attention/kernel/strided_rows.hpp"
#include "casa/core/bits.hpp"
#include "casa/simd/simd.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// The addresses that a tile prefetches next. A region is fetched as four streams, two of them in
/// each turn of the tile's loop, so that more pages and memory channels work at once: with one
/// stream, 64 windows ran at 54 % of the peak, with four at 64 (an AVX-512 Xeon).
struct FetchCursor {
  const char* at = nullptr;     ///< this turn: here and `gap` bytes on,
  const char* other = nullptr;  ///< the next turn: here and `gap` bytes on
  Index step = 0;               ///< bytes of a stream from one of its turns to the next
  Index gap = 0;
};

/// Rows that are too short for streams (the next job's queries): some lines of them are fetched
/// before each tile.
struct FetchRows {
  const void* matrix = nullptr;  ///< row 0 of the matrix they are in
  Index stride = 0;              ///< bytes from a row of it to the next
  Index bytes = 0;               ///< of a row that are fetched
  Index count = 0;
  Index first = 0;               ///< which row of the matrix is the first
  const Index* order = nullptr;  ///< or the rows, listed

  const char* operator[](Index i) const {
    return static_cast<const char*>(matrix) + (order ? order[i] : first + i) * stride;
  }
};

/// A schedule of prefetches: some regions of memory, fetched in small steps from inside the loops
/// of tiles. Bursts before a tile gain nothing, as nothing is computed meanwhile.
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
  FetchRows rows = {};
  Index rows_left = 0, row_at = 0, lines_per_take = 0;

  /// Whether nothing is scheduled, so that tiles prefetch what they read themselves.
  bool idle() const { return count == 0; }
  void clear() { count = current = 0, rows_left = 0; }
  /// Schedules [first, first + bytes), as four streams of a quarter each.
  void add(const void* first, Index bytes) {
    skip_fetched();
    if (current == count) current = count = 0;
    if (count == kRegions || bytes <= 0) return;
    const char* begin = static_cast<const char*>(first);
    const Index quarter = (bytes + 255) / 256 * 64;
    regions[count++] = {begin, begin + quarter, quarter};
  }
  /// Schedules rows, their lines shared evenly among the next `tiles` tiles.
  void add_rows(const FetchRows& next, Index tiles) {
    rows = next;
    rows_left = next.count, row_at = 0;
    lines_per_take = next.count * (next.bytes / 64 + 1) / (std::max<Index>)(tiles, 1) + 1;
  }
  /// Sets the pace: what is left of the regions is fetched during 7/8 of the next `work`
  /// multiply-adds of vectors. An even pace does not stall.
  void spread(Index work) {
    Index bytes = 0;
    for (int i = current; i < count; ++i)
      bytes += (std::max<Index>)(0, regions[i].end - regions[i].begin);
    const Index most = (std::max<Index>)(work * 7 / 8, 1);
    bytes_per_work = static_cast<float>(bytes) / static_cast<float>(most);
  }
  /// The cursor for the next `turns` turns of a tile's loop, each of `work_per_turn` multiply-adds
  /// and at most `lines` lines of each stream. When nothing is left it stays at `idle`, memory that
  /// the tile reads anyway, so that loops need no branch.
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
      simd::prefetch(rows[rows.count - rows_left] + row_at);
      row_at += 64;
      if (row_at >= rows.bytes) {
        row_at = 0;
        --rows_left;
      }
    }
  }
};

/// The most lines of a stream that a turn of a tile's loop prefetches. A tile of sums with few rows
/// does little arithmetic for each value, so its prefetches must keep a higher pace.
inline constexpr int kScoreLines = 1;
template <int M>
inline constexpr int kSumLines = M <= 2                                  ? 8
                                 : M <= (simd::kRegisters == 32 ? 6 : 4) ? 4
                                 : M <= 8                                ? 2
                                                                         : 1;

/// Few rows read memory as fast as it comes. Their tiles follow the order of memory and prefetch
/// only a little ahead, because distant streams displace those of the hardware's own prefetchers:
/// one contiguous segment simd::kReadAhead bytes ahead; values that several tiles read one after
/// another in parts of kNearBytes, which stay in the first-level cache meanwhile, the next part
/// ahead.
inline constexpr Index kNearBytes = 16384;

/// Bytes from one row in memory to another, which may belong to another array.
template <class E>
Index bytes_between(const E* from, const E* to) {
  return bit_cast<Index>(to) - bit_cast<Index>(from);
}

/// Whether rows of `size` values are contiguous, judged by the first two.
template <class Rows>
bool side_by_side(Rows rows, Index count, Index size) {
  return count > 1 &&
         bytes_between(rows[0], rows[1]) == size * static_cast<Index>(sizeof(Value<Rows>));
}

/// Bytes from row 0 to row `ahead`, if all rows are as far apart as the first two.
template <class Rows>
Index near_distance(Rows rows, Index count, Index ahead) {
  return count > 1 ? bytes_between(rows[0], rows[1]) * ahead : 0;
}
/// The same to the row that is simd::kReadAhead bytes on where rows of `size` values are
/// contiguous.
template <class Rows>
Index segment_distance(Rows rows, Index count, Index size) {
  const Index bytes = size * static_cast<Index>(sizeof(Value<Rows>));
  return near_distance(rows, count, (std::max<Index>)(1, simd::kReadAhead / bytes));
}

/// Where few rows prefetch while they read rows of memory: so many bytes after each.
struct Ahead {
  Index first = 0;    ///< after row 0
  Index per_row = 0;  ///< more after each further row
};

/// Keys or values whose heads lie side by side, of which all heads of a few rows are read before
/// the next rows. While those of one head are read, its share of the memory that is read next is
/// prefetched, in the order of that memory: a head's own next rows are whole tokens apart, and a
/// Zen 5 reads memory at 24 GB/s in that order, at 34 in this one, and at 37 where each head's keys
/// are contiguous.
struct HeadsAhead {
  Index row;    ///< bytes of a row of one head
  Index token;  ///< bytes to its next row
  bool all;     ///< all heads of a token are read, and nothing lies between tokens

  /// For `rows` rows of a head from `from` on, of all heads' memory from `next` on.
  Ahead of(Index head, Index rows, const void* from, const void* next) const {
    if (!all) return {rows * token, 0};
    return {bytes_between(static_cast<const char*>(from), static_cast<const char*>(next)) +
                head * rows * row,
            row - token};
  }
};

/// Prefetches the lines of Count values at p + `distance` bytes.
template <int Count, class E>
CASA_INLINE void fetch_near(const E* p, Index distance) {
  const char* at = static_cast<const char*>(static_cast<const void*>(p)) + distance;
  CASA_UNROLL
  for (int i = 0; i < Count * static_cast<int>(sizeof(E)); i += 64) simd::prefetch(at + i);
}

/// A cursor for a tile that reads Count values a turn from one contiguous segment: it stays
/// `distance` bytes ahead of the reads.
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
