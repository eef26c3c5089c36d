// The micro-kernel of every product: a few rows times a few panels, accumulated in registers.
//
// Each output has one accumulator and adds its terms in order of k, one fused multiply-add each.
// For int8 weights the terms of a group are added by themselves, and that sum times the group's
// scale is added in the same way. A block of k continues from the sums that the block before
// stored. So an output's bits depend on its row and its weights alone: not on the rows beside it,
// on threads, or on how k was cut into blocks. (Rows of x that are rounded to pairs of bfloat16
// take two k at once.)
#pragma once

#include <array>

#include "casa/linear/packed_weight.hpp"
#include "casa/linear/quantized_rows.hpp"
#include "casa/simd/elementwise.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Rows of the largest tile.
inline constexpr Index kTileRows = 6;

/// Up to this number of rows, a tile takes all four vectors of a panel: enough accumulators to hide
/// the latency of the multiply-add, few enough for the registers (6 x 4 of 32, 2 x 4 of 16). With
/// more rows it takes two vectors at a time.
inline constexpr Index kWholePanelRows = simd::kRegisters >= 32 ? kTileRows : 2;

/// Vectors of a panel that a tile of int8 products takes at once. Their sums and the groups' sums
/// in float stay in registers: with the latter in memory, the loop reached 73 instead of 82 % of
/// the peak (Zen 5).
constexpr Index quantized_vectors(Index rows) {
  return simd::kRegisters < 32 ? 1 : rows <= 3 ? 4 : 2;
}

/// Vectors of a panel that a tile of `rows` rows takes in one call. (Tiles of int8 products take
/// the panel in parts by themselves.)
template <Scalar T, class A = T>
constexpr Index tile_vectors(Index rows) {
  constexpr Index all = PanelFormat<T, T>::kVectors;
  return std::same_as<A, QuantizedValues> || rows <= kWholePanelRows ? all : 2;
}

/// x is packed in blocks of this many k: 16 values of the tile's first row, 16 of the second, ... A
/// block's rows lie close together however far apart those of x are, and nothing is transposed:
/// transposing made products of few rows 20 % slower.
inline constexpr Index kPackedBlock = 16;
/// How many A one row of packed x takes: its values or pairs in whole blocks, or groups of int8.
template <class A>
constexpr Index packed_depth(Index depth) {
  if (std::same_as<A, QuantizedValues>) return (depth + kQuantGroup - 1) / kQuantGroup;
  return (depth / simd::kUnit<A> + kPackedBlock - 1) / kPackedBlock * kPackedBlock;
}

/// Packs x as A, values or pairs of bfloat16 (then x.cols() must be even), into `to` (blocks x rows
/// x kPackedBlock). Values after the last of x are undefined.
template <class A, Scalar T>
void pack_tile(MatrixView<const T> x, A* to) {
  constexpr Index block = simd::kUnit<A> * kPackedBlock, lanes = simd::kLanes<T>;
  for (Index k = 0; k < x.cols(); k += block)
    for (Index r = 0; r < x.rows(); ++r, to += kPackedBlock) {
      const T* from = x.row(r) + k;
      const Index count = (std::min)(block, x.cols() - k);
      if constexpr (simd::kUnit<A> == 1) {
        for_each_vector<T>(count,
                           [&](Index i, Index n) { simd::store(to + i, load_n(from + i, n)); });
      } else {
        for (Index i = 0; i < count; i += 2 * lanes) {
          const auto at = [&](Index begin) {
            return load_n(from + (std::min)(begin, count),
                          std::clamp<Index>(count - begin, 0, lanes));
          };
          simd::store(to + i / 2, simd::to_pairs<1>(at(i), at(i + lanes)));
        }
      }
    }
}
/// Packs x as int8, into `to` (groups x rows).
inline void pack_tile(MatrixView<const float> x, QuantizedValues* to) {
  for (Index k = 0; k < x.cols(); k += kRowGroup, to += 2 * x.rows())
    for (Index r = 0; r < x.rows(); ++r) {
      const Index count = (std::min)(kRowGroup, x.cols() - k);
      quantize_row_group(x.row(r) + k, count, to[r],
                         count > kQuantGroup ? to + x.rows() + r : nullptr);
    }
}

/// For each k (or pair of k) the tile prefetches, at `at`, as many lines as it reads, then advances
/// `at` by `step` bytes. For each group of int8 values it also prefetches the lines of its scales,
/// then advances `at` by `group_step` bytes. (Tiles take it by reference: g++ 12 copies an argument
/// in pieces other than those it was just written in, which waited for all stores of the tile
/// before: a tenth of the time of int8 products on a Zen 5.)
struct Prefetch {
  const std::byte* at = nullptr;
  Index step = 0;
  Index group_step = 0;
};

/// The vectors of a row of weights from w on; of pairs, of that row and the next; of quads, as they
/// are.
template <Index Unit, class W, class X, std::size_t Vectors>
CASA_INLINE void load_weights(const W* w, [[maybe_unused]] Index width, X (&x)[Vectors]) {
  if constexpr (std::same_as<W, simd::WeightQuad>) {
    CASA_UNROLL
    for (std::size_t v = 0; v < Vectors; ++v)
      x[v] = simd::load(w + static_cast<Index>(v) * simd::kLanes<float>);
  } else {
    constexpr Index lanes = simd::kLanes<simd::Element<X>>;
    CASA_UNROLL
    for (std::size_t v = 0; v < Vectors; v += 2) {
      const W* at = w + static_cast<Index>(v) * lanes;
      if constexpr (Unit == 2)
        simd::load_rows(at, at + width, x[v], x[v + 1]);
      else
        simd::load_two(at, x[v], x[v + 1]);
    }
  }
}

/// Calls f(first, second) for the vectors 2 v and 2 v + 1 of each row of a tile.
template <Index Rows, Index Vectors, class V, class F>
CASA_INLINE void for_each_two(V (&sum)[std::size_t{Rows}][std::size_t{Vectors}], F f) {
  CASA_UNROLL
  for (Index r = 0; r < Rows; ++r) {
    CASA_UNROLL
    for (Index v = 0; v < Vectors; v += 2) f(sum[r][v], sum[r][v + 1]);
  }
}

/// sum[r][v] gains x[v] times the value (or pair, quad) of row r, `RowStride` apart from a on.
/// Prefetches `Lines` lines.
template <Index RowStride, Index Lines, class Sum, std::size_t Rows, std::size_t Vectors, class A,
          class X>
CASA_INLINE void add_row(Sum (&sum)[Rows][Vectors], const A* a, X (&x)[Vectors], Prefetch& ahead) {
  CASA_UNROLL
  for (Index line = 0; line < Lines; ++line) simd::prefetch(ahead.at + 64 * line);
  CASA_UNROLL
  for (Index r = 0; r < Index{Rows}; ++r) {
    const auto y = simd::broadcast(a[r * RowStride]);
    CASA_UNROLL
    for (Index v = 0; v < Index{Vectors}; ++v) sum[r][v] = simd::fma(y, x[v], sum[r][v]);
  }
  ahead.at += ahead.step;
}

/// sum[r][v] gains the products of vector v of each row of weights, from w on, with the value of
/// row r, `RowStride` apart, for the values (or pairs) of the first row in [a, end). Moves
/// a, w (by rows of `width` outputs each) and what is prefetched on.
template <Index RowStride, class Sum, std::size_t Rows, std::size_t Vectors, class A, class W>
CASA_INLINE void add_products(Sum (&sum)[Rows][Vectors], const A*& a, const A* end, const W*& w,
                              Index width, Prefetch& ahead) {
  constexpr Index vectors = Index{Vectors};
  constexpr Index bytes = vectors * simd::kLanes<simd::Element<Sum>> * Index{sizeof(*w)};
  if constexpr (std::same_as<W, simd::WeightQuad>) {
    constexpr Index lines = (bytes / 4 + 63) / 64;
    const auto add = [&](Index i) __attribute__((always_inline)) {
      simd::VecF x[Vectors];
      CASA_UNROLL
      for (Index v = 0; v < vectors; ++v)
        x[v] = simd::load_one_of_four<(Rows <= 3)>(w + v * simd::kLanes<float>, i);
      add_row<RowStride, lines>(sum, a + i, x, ahead);
    };
    CASA_NO_UNROLL
    for (; a + 4 <= end; a += 4, w += width) {
      CASA_UNROLL
      for (Index i = 0; i < 4; ++i) add(i);
    }
    // The last values of a weight may not fill a quad.
    CASA_NO_UNROLL
    for (Index i = 0; a + i < end; ++i) add(i);
    a = end;
  } else {
    constexpr Index unit = simd::kUnit<A>;
    CASA_NO_UNROLL
    for (; a < end; ++a, w += unit * width) {
      decltype(simd::broadcast(*a)) x[Vectors];
      load_weights<unit>(w, width, x);
      if constexpr (Rows > 1) {
        CASA_UNROLL
        for (Index v = 0; v < vectors; ++v) simd::keep(x[v]);
      }
      add_row<RowStride, (bytes + 63) / 64>(sum, a, x, ahead);
    }
  }
}

/// add_products() for the kGroupQuads quads of a row of weights in int8, unrolled. With
/// `Dense` every quad prefetches what it reads, which is for few rows that stream a panel from
/// memory. Many rows read each block many times and prefetch less than a line in four quads; asking
/// for two at each quad took 1.07 times as long (Zen 5).
template <Index RowStride, bool Dense, std::size_t Rows, std::size_t Vectors>
CASA_INLINE void add_group(simd::VecI (&sum)[Rows][Vectors], const simd::ValueQuad* a,
                           const simd::WeightQuad* w, Index width, Prefetch& ahead) {
  constexpr Index lines = Index{Vectors} * simd::kBytes / 64;
  CASA_UNROLL
  for (Index q = 0; q < kGroupQuads; ++q) {
    simd::VecQuads x[Vectors];
    load_weights<1>(w + q * width, width, x);
    if (Dense)
      add_row<RowStride, (std::max)(Index{1}, lines)>(sum, a + q, x, ahead);
    else if (q % 4 == 0)
      add_row<RowStride, 1>(sum, a + q, x, ahead);
    else
      add_row<RowStride, 0>(sum, a + q, x, ahead);
  }
}

/// n / d, rounded up.
constexpr Index ceil_div(Index n, Index d) { return (n + d - 1) / d; }

/// c = a w, or c += a w with `accumulate`, for tile_vectors(Rows) vectors of a panel from output
/// `lane` on: a (Rows x depth, packed; a single row as it is), c (Rows x kWidth). Without
/// `accumulate` c is only written.
///
/// Sums of pairs are kept in the order that simd::load_rows() gives (lane_order.hpp), and c is in
/// the outputs' order.
template <Scalar T, class S, Index Rows, class A = T>
void multiply_tile(const A* a, const std::byte* weights, Index lane, Index depth, T* c,
                   bool accumulate, const Prefetch& prefetch) {
  Prefetch ahead{prefetch.at, simd::kUnit<A> * prefetch.step, prefetch.group_step};
  using V = simd::Vec<T>;
  using Format = PanelFormat<T, S>;
  constexpr Index lanes = simd::kLanes<T>, width = Format::kWidth;
  constexpr Index rows = Rows, vectors = tile_vectors<T>(Rows);
  constexpr bool scaled = Format::kScaled;
  constexpr Index unit = simd::kUnit<A>;
  static_assert(unit == 1 || std::same_as<S, bfloat16>);
  const auto at = [&](Index r, Index v) { return c + r * width + lane + v * lanes; };

  const Index step = scaled ? kQuantGroup : depth;
  for (Index begin = 0; begin < depth; begin += step) {
    V sum[std::size_t{Rows}][std::size_t{vectors}];
    CASA_UNROLL
    for (Index r = 0; r < rows; ++r) {
      CASA_UNROLL
      for (Index v = 0; v < vectors; ++v)
        sum[r][v] = scaled || !accumulate ? V{} : simd::load(at(r, v));
    }
    if constexpr (unit == 2)
      for_each_two<rows, vectors>(sum, [](V& first, V& second) {
        simd::merge_pair(first, second);
        simd::split_pair<4>(first, second);
      });
    const Index count = (std::min)(step, depth - begin);
    const auto* w = Format::stored(weights + Format::row(begin)) + lane;
    const Index block = Rows == 1 ? count / unit : kPackedBlock;
    CASA_UNROLL
    for (Index line = 0; line < Format::kScaleBytes; line += 64) simd::prefetch(ahead.at + line);
    ahead.at += ahead.group_step;
    for (Index left = count / unit; left > 0; left -= block) {
      const A* const end = a + (std::min)(left, block);
      add_products<kPackedBlock>(sum, a, end, w, width, ahead);
      a += (Rows - 1) * kPackedBlock;
    }
    if constexpr (unit == 2)
      for_each_two<rows, vectors>(sum, [](V& first, V& second) {
        simd::merge_pair<4>(first, second);
        simd::split_pair(first, second);
      });
    [[maybe_unused]] const auto* scale = Format::scales(weights + Format::group(begin)) + lane;
    CASA_UNROLL
    for (Index v = 0; v < vectors; ++v) {
      V factor;
      if constexpr (scaled) factor = simd::load(scale + v * lanes);
      CASA_UNROLL
      for (Index r = 0; r < rows; ++r) {
        V result = sum[r][v];
        if constexpr (scaled)
          result = simd::fma(result, factor, accumulate ? simd::load(at(r, v)) : V{});
        simd::store(at(r, v), result);
      }
    }
    accumulate = true;
  }
}

/// multiply_tile for rows of x that are rounded to int8: c (+)= a w for all outputs of a panel.
/// The products of kQuantGroup values are summed in integers; that sum times the weights' scale is
/// added to the sum of kRowGroup values, which times x's scale is added to c; each in one rounding.
/// The outputs are taken in parts, all of them for kRowGroup values before the next values, so that
/// few rows read a panel from end to end.
template <Index Rows>
void multiply_quantized(const QuantizedValues* a, const std::byte* weights, Index, Index depth,
                        float* c, bool accumulate, const Prefetch& prefetch) {
  using Format = PanelFormat<float, std::int8_t>;
  constexpr Index lanes = simd::kLanes<float>, rows = Rows, vectors = quantized_vectors(Rows);
  constexpr Index parts = Format::kVectors / vectors;
  Prefetch ahead{prefetch.at, Format::kUnit * prefetch.step / parts, prefetch.group_step / parts};
  const bool dense = 4 * ahead.step > 64;
  constexpr Index row_stride = Index{sizeof(QuantizedValues)} / Index{sizeof(simd::ValueQuad)};
  constexpr Index row_groups = kRowGroup / kQuantGroup;
  for (Index left = ceil_div(depth, kQuantGroup); left > 0; left -= row_groups) {
    const Index groups = (std::min)(left, row_groups);
    for (Index lane = 0; lane < Format::kWidth; lane += vectors * lanes) {
      simd::VecF part[std::size_t{Rows}][std::size_t{vectors}] = {};
      CASA_NO_UNROLL
      for (Index g = 0; g < groups; ++g) {
        const QuantizedValues* values = a + g * rows;
        const std::byte* group = weights + g * Format::kGroupBytes;
        simd::VecI sum[std::size_t{Rows}][std::size_t{vectors}];
        CASA_UNROLL
        for (Index r = 0; r < rows; ++r) {
          CASA_UNROLL
          for (Index v = 0; v < vectors; ++v) sum[r][v] = simd::broadcast(values[r].start);
        }
        CASA_UNROLL
        for (Index line = 0; line < Format::kScaleBytes / parts; line += 64)
          simd::prefetch(ahead.at + line);
        ahead.at += ahead.group_step;
        const simd::WeightQuad* w = Format::stored(group + Format::row(0)) + lane;
        const simd::ValueQuad* quads = values->quads;
        if (dense)
          add_group<row_stride, true>(sum, quads, w, Format::kWidth, ahead);
        else
          add_group<row_stride, false>(sum, quads, w, Format::kWidth, ahead);
        CASA_UNROLL
        for (Index v = 0; v < vectors; ++v) {
          const simd::VecF scale = simd::load(Format::scales(group) + lane + v * lanes);
          CASA_UNROLL
          for (Index r = 0; r < rows; ++r)
            part[r][v] =
                simd::fused(__builtin_convertvector(sum[r][v], simd::VecF), scale, part[r][v]);
        }
      }
      const QuantizedValues* last = a + (groups - 1) * rows;
      CASA_UNROLL
      for (Index r = 0; r < rows; ++r) {
        const simd::VecF scale = simd::broadcast(last[r].scale);
        CASA_UNROLL
        for (Index v = 0; v < vectors; ++v) {
          float* to = c + r * Format::kWidth + lane + v * lanes;
          simd::store(to,
                      simd::fused(part[r][v], scale, accumulate ? simd::load(to) : simd::VecF{}));
        }
      }
    }
    a += groups * rows;
    weights += groups * Format::kGroupBytes;
    accumulate = true;
  }
}

template <Scalar T, class A = T>
using TileFunction = void (*)(const A*, const std::byte*, Index, Index, T*, bool, const Prefetch&);

/// multiply_tile, or multiply_quantized, for `rows` <= kTileRows rows.
template <Scalar T, class S, class A = T>
TileFunction<T, A> tile_function(Index rows) {
  constexpr auto make_table = []<std::size_t... I>(std::index_sequence<I...>) {
    if constexpr (std::same_as<A, QuantizedValues>)
      return std::array<TileFunction<T, A>, sizeof...(I)>{&multiply_quantized<Index{I} + 1>...};
    else
      return std::array<TileFunction<T, A>, sizeof...(I)>{&multiply_tile<T, S, Index{I} + 1, A>...};
  };
  constexpr auto table = make_table(std::make_index_sequence<std::size_t{kTileRows}>{});
  return table[static_cast<std::size_t>(rows - 1)];
}

}  // namespace detail

CASA_NAMESPACE_END
