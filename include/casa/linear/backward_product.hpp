// The products of a backward pass on the micro-kernel of the forward pass: what is multiplied is
// transposed on its way into the layouts that it reads, block by block.
//
// The micro-kernel multiplies packed rows by panels, k after k. Of y = x W^T, W packed in panels:
//
//   d_x = d_y W        rows of d_y are packed as rows of x are; the panels are those of W^T, a
//   block
//                      of which is transposed from W's panels when its turn comes
//   d_W = d_y^T x      columns of d_y are packed as rows; the panels are columns of x, a block of
//                      which is copied out
//
// Writing a block costs some instructions for each of its vectors, which hundreds of rows share:
// about one part in forty of a product of 512 rows. No transposed copy of a weight is kept.
#pragma once

#include "casa/core/interval.hpp"
#include "casa/linear/linear.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// to (kWidth columns) = the transpose of rows [k, k + count) and outputs [begin, end) of a panel:
/// row i of it is output begin + i. Columns from count on are 0. S: how the panel is held.
template <Scalar T, class S>
void transpose_panel(const std::byte* panel, Index k, Index count, Interval outputs, T* to) {
  using Format = PanelFormat<T, S>;
  constexpr Index lanes = simd::kLanes<T>, width = Format::kWidth;
  alignas(64) T rows[std::size_t{lanes * width}];
  for (Index c = 0; c < width; c += lanes) {
    const T* from = rows;
    const Index here = std::clamp<Index>(count - c, 0, lanes);
    if (std::same_as<S, T> && here == lanes) {
      from = static_cast<const T*>(static_cast<const void*>(panel)) + (k + c) * width;
    } else {
      for (Index i = 0; i < here; ++i) Format::unpack_outputs(panel, k + c + i, rows + i * width);
      std::fill_n(rows + here * width, (lanes - here) * width, T{0});
    }
    for (Index o = outputs.begin / lanes * lanes; o < outputs.end; o += lanes) {
      simd::Vec<T> block[std::size_t{lanes}];
      CASA_UNROLL
      for (Index i = 0; i < lanes; ++i) block[i] = simd::load(from + i * width + o);
      simd::transpose(block);
      T* at = to + (o - outputs.begin) * width + c;
      if (outputs.begin <= o && o + lanes <= outputs.end) {
        CASA_UNROLL
        for (Index i = 0; i < lanes; ++i) simd::store(at + i * width, block[i]);
      } else {
        CASA_UNROLL
        for (Index i = 0; i < lanes; ++i)
          if (outputs.contains(o + i)) simd::store(at + i * width, block[i]);
      }
    }
  }
}

/// to (outputs x kWidth) = columns [k, k + kWidth) of the rows `outputs` of a Linear's weight;
/// those that it does not have are 0.
template <Scalar T>
void unpack_block(const Linear<T>& linear, Interval outputs, Index k, T* to) {
  constexpr Index width = PackedWeight<T>::kWidth;
  const PackedWeight<T>& weight = linear.packed();
  const Index count = (std::min)(width, weight.depth() - k);
  with_stored_type<T>(weight.type(), [&]<class S>() {
    for (Index piece = 0; piece < linear.num_pieces(); ++piece) {
      const Interval of_piece{linear.piece_begin(piece), linear.piece_begin(piece + 1)};
      const Index end = (std::min)(outputs.end, of_piece.end);
      for (Index o = (std::max)(outputs.begin, of_piece.begin); o < end;) {
        const Index p = (o - of_piece.begin) / width, first = of_piece.begin + p * width;
        const Interval in_panel{o - first, (std::min)(width, end - first)};
        transpose_panel<T, S>(weight.data(weight.piece(piece)(p)), k, count, in_panel,
                              to + (o - outputs.begin) * width);
        o = first + in_panel.end;
      }
    }
  });
}

/// to (rows x kWidth) = columns [c, c + kWidth) of some rows of m; those that it does not have are
/// 0.
template <Scalar T>
void copy_block(MatrixView<const T> m, Interval rows, Index c, T* to) {
  constexpr Index lanes = simd::kLanes<T>, width = PackedWeight<T>::kWidth;
  const Index count = (std::min)(width, m.cols() - c);
  for (Index r = rows.begin; r < rows.end; ++r, to += width) {
    const T* from = m.row(r) + c;
    CASA_UNROLL
    for (Index i = 0; i < width; i += lanes)
      simd::store(to + i,
                  load_n(from + (std::min)(i, count), std::clamp<Index>(count - i, 0, lanes)));
  }
}

/// Packs the columns of m as pack_tile() packs rows, tile by tile: `split` cuts the columns.
template <Scalar T>
void pack_columns(MatrixView<const T> m, const TileSplit& split, Index packed_size, T* packed,
                  const Context& context) {
  constexpr Index lanes = simd::kLanes<T>;
  static_assert(kPackedBlock % lanes == 0);
  context.executor.for_each(ceil_div(m.cols(), lanes), [&](Index group, Index) {
    // Where the next block of each column goes, and how far it is to the one after it.
    T* to[std::size_t{lanes}];
    Index step[std::size_t{lanes}];
    const Index first = group * lanes, count = (std::min)(lanes, m.cols() - first);
    for (Index i = 0; i < count; ++i) {
      const Index tile = split.tile_of(first + i), begin = split.begin(tile);
      step[i] = split.size(tile) * kPackedBlock;
      to[i] = packed + begin * packed_size + (first + i - begin) * kPackedBlock;
    }
    for (Index k = 0; k < m.rows(); k += lanes) {
      simd::Vec<T> block[std::size_t{lanes}];
      CASA_UNROLL
      for (Index r = 0; r < lanes; ++r)
        block[r] = k + r < m.rows() ? load_n(m.row(k + r) + first, count) : simd::Vec<T>{};
      simd::transpose(block);
      const Index within = k % kPackedBlock;
      CASA_UNROLL
      for (Index i = 0; i < lanes; ++i)
        if (i < count) simd::store(to[i] + k / kPackedBlock * step[i] + within, block[i]);
    }
  });
}

/// c (+)= a b, a (rows x depth), b (depth x columns of c). Calls pack(Interval of rows, split,
/// packed_size, packed) to pack rows of a, cut into tiles, and block(Interval of k, column, to) to
/// write kWidth columns of b from `column` on. Each value of c is the sum over k in order, one
/// fused multiply-add each where the machine has it, plus what stood there: its bits depend on its
/// row of a and its column of b alone.
template <Scalar T, class Pack, class Block>
void multiply_backward(MatrixView<T> c, Index depth, Accumulate accumulate, const Context& context,
                       Pack&& pack, Block&& block) {
  constexpr Index width = PackedWeight<T>::kWidth;
  const Index workers = context.executor.num_workers();
  const Index parts = ceil_div(c.rows(), kPackRows),
              part = ceil_div(c.rows(), (std::max)(parts, Index{1}));
  for (Index first = 0; first < c.rows(); first += part) {
    const Workspace::Frame frame(context.workspace);
    const Index rows = (std::min)(part, c.rows() - first), packed_size = packed_depth<T>(depth);
    // A block is written anew for each block of rows. So those are as few as give every worker four
    // jobs of two panels, but not of fewer tiles than a forward product has; one worker needs but
    // one. (With 576 columns and two workers: 2 to 7 points of the multiply-add peak.)
    const Index panels = ceil_div(c.cols(), width), tiles = TileSplit(rows).tiles;
    const Index row_blocks = workers == 1 ? 1 : ceil_div(4 * workers, ceil_div(panels, 2));
    const ProductBlocking cut(rows, panels, depth, packed_size * Index{sizeof(T)}, workers,
                              {.tiles = (std::max)(kBlockTiles, ceil_div(tiles, row_blocks))});
    T* packed = context.workspace.take<T>(checked_mul(rows, packed_size, "Linear: packed rows"));
    pack(Interval{first, first + rows}, cut.rows, packed_size, packed);
    multiply_jobs<T, T>(
        cut, static_cast<const T*>(packed), packed_size, cut.block_depth * width, context,
        [&](const ProductBlocking::Step& step, const ProductBlocking::Step&, T* scratch) {
          block(Interval{step.k, step.k + step.depth}, step.panel * width, scratch);
          const auto* data = static_cast<const std::byte*>(static_cast<const void*>(scratch));
          return WeightBlock{data, data, 0};
        },
        [&](Index panel, Index row, Index n, const T* tile, Index) {
          const Index column = panel * width;
          for (Index r = 0; r < n; ++r) {
            T* to = c.row(first + row + r) + column;
            for_each_vector<T>((std::min)(width, c.cols() - column), [&](Index i, Index count) {
              const simd::Vec<T> sum = simd::load(tile + r * width + i);
              store_n(to + i, accumulate == Accumulate::yes ? load_n(to + i, count) + sum : sum,
                      count);
            });
          }
        });
  }
}

}  // namespace detail

CASA_NAMESPACE_END
