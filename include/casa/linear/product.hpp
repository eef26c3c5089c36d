// The loops around the micro-kernel: x W^T for packed weights, any number of rows, on all threads.
//
// Few rows (decode): each panel streams from memory once, from end to end. Many rows (prefill): x
// is packed into tiles; a block of k of one panel is multiplied by every tile of a block of rows
// while both stay in cache, and the next block is prefetched meanwhile. Weights are widened in
// registers; only where that takes many instructions is a block widened once, into scratch, for all
// its tiles.
#pragma once

#include "casa/linear/amx_product.hpp"
#include "casa/linear/product_jobs.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Whether weights of type S are widened into scratch before many rows use them, not in registers:
/// where widening takes more than an instruction or two. Without 256-bit vectors, widening bfloat16
/// in registers fell from 62 to 43 % of the peak at 96 rows.
template <Scalar T, class S>
inline constexpr bool kWidensBefore =
    !std::same_as<S, T> && !simd::kWidensFast<S> && (simd::kBytes < 32 || std::same_as<S, half>);

/// x W^T for a sequence of panels. Calls store(panel, row, rows, tile, worker) once for each panel
/// and each tile of rows: tile (rows x kWidth) holds the outputs of rows [row, row + rows). The
/// panels of a job come to one worker in order, and a job holds an even number of them: where
/// panels of gate and up alternate, a job holds whole pairs, which swiglu.hpp combines.
template <Scalar T>
class Product {
 public:
  static constexpr Index kWidth = PackedWeight<T>::kWidth;

  Product(const PackedWeight<T>& weight, PanelSequence panels, const Context& context)
      : weight_(weight), panels_(panels), context_(context) {}

  template <class Store>
  void run(MatrixView<const T> x, Store&& store) const {
    with_stored_type<T>(weight_.type(), [&]<class S>() {
      const auto run_all = [&]<class A>() {
        for (Index row = 0; row < x.rows(); row += kPackRows)
          run_many<S, A>(x.middle_rows(row, (std::min)(kPackRows, x.rows() - row)), row, store);
      };
      const bool few = x.rows() <= kWholePanelRows;
      if constexpr (std::same_as<S, std::int8_t>)
        if (context_.precision == Precision::int8) {
          if (few) return run_few<S, QuantizedValues>(x, store);
          if (run_amx<S>(x, store)) return;
          return run_all.template operator()<QuantizedValues>();
        }
      if (few) return run_few<S, T>(x, store);
      if constexpr (std::same_as<S, bfloat16>)
        if (context_.precision != Precision::full && weight_.depth() % 2 == 0 &&
            run_amx<S>(x, store))
          return;
      if constexpr (simd::kMultipliesPairs<S>)
        if (context_.precision != Precision::full && weight_.depth() % 2 == 0)
          return run_all.template operator()<simd::bfloat16_pair>();
      run_all.template operator()<T>();
    });
  }

 private:
  // Computes the product on AMX's tiles, or returns false: they are not compiled in, or the system
  // does not allow them.
  template <class S, class Store>
  bool run_amx([[maybe_unused]] MatrixView<const T> x, [[maybe_unused]] Store& store) const {
#if CASA_AMX
    if (!uses_amx()) return false;
    for (Index row = 0; row < x.rows(); row += kPackRows)
      amx_product<S>(weight_, panels_, context_,
                     x.middle_rows(row, (std::min)(kPackRows, x.rows() - row)), row, store);
    return true;
#else
    return false;
#endif
  }

  // One tile of rows. Each panel is read once, and prefetched simd::kReadAhead bytes ahead.
  template <class S, class A, class Store>
  void run_few(MatrixView<const T> x, Store& store) const {
    const Workspace::Frame frame(context_.workspace);
    const Index rows = x.rows(), depth = weight_.depth();
    const A* a = nullptr;
    if constexpr (std::same_as<A, T>) a = x.data();
    if (rows > 1 || !std::same_as<A, T>) {
      A* packed = context_.workspace.take<A>(rows * packed_depth<A>(depth));
      pack_tile(x, packed);
      a = packed;
    }
    using Format = PanelFormat<T, S>;
    const auto multiply = tile_function<T, S, A>(rows);
    // `body` rows of a panel prefetch ahead in the panel itself, the rest in the next one.
    constexpr Index ahead = simd::kReadAhead;
    const Index step = !std::same_as<A, T> ? kRowGroup
                       : Format::kScaled   ? kQuantGroup
                       : rows > 1          ? kPackedBlock
                                           : 1;
    const Index body = std::max<Index>(0, depth - ahead / Format::kRowBytes) / step * step;
    const Index workers = context_.executor.num_workers();
    const Index share = workers == 1 ? panels_.count : even_share(panels_.count, workers * 8);
    context_.executor.for_each(ceil_div(panels_.count, share), [&](Index job, Index worker) {
      alignas(64) T tile[std::size_t{kWholePanelRows * kWidth}];
      const Index end = (std::min)(panels_.count, (job + 1) * share);
      for (Index i = job * share; i < end; ++i) {
        const std::byte* w = weight_.data(panels_(i));
        const std::byte* next =
            i + 1 < panels_.count ? weight_.data(panels_(i + 1)) : w + weight_.panel_bytes();
        multiply(a, w, 0, body, tile, false, {w + ahead, Format::kRowBytes, Format::kScaleBytes});
        multiply(a + body / simd::kUnit<A> * rows, w + Format::group(body), 0, depth - body, tile,
                 body > 0, {next, Format::kRowBytes, Format::kScaleBytes});
        store(panels_(i), Index{0}, rows, tile, worker);
      }
    });
  }

  // The rows of x, tile by tile, as the micro-kernel reads them. A: what rows are multiplied as, T
  // or pairs of bfloat16.
  template <class A>
  const A* pack_rows(MatrixView<const T> x, const TileSplit& split, Index packed_size) const {
    A* packed = context_.workspace.take<A>(x.rows() * packed_size);
    context_.executor.for_each(split.tiles, [&](Index t, Index) {
      const Index row = split.begin(t);
      pack_tile(x.middle_rows(row, split.size(t)), packed + row * packed_size);
    });
    return packed;
  }

  template <class S, class A, class Store>
  void run_many(MatrixView<const T> x, Index first_row, Store& store) const {
    using Format = PanelFormat<T, S>;
    constexpr bool quantizes = std::same_as<A, QuantizedValues>;
    constexpr bool widens = kWidensBefore<T, S> && !quantizes;
    using TileWeights = std::conditional_t<widens, typename Format::WideStored, S>;
    // Blocks of k are whole packed blocks.
    static_assert(kRowGroup % (simd::kUnit<A> * (quantizes ? 1 : kPackedBlock)) == 0);
    const Workspace::Frame frame(context_.workspace);
    const Index packed_size = packed_depth<A>(weight_.depth());
    const ProductBlocking cut(x.rows(), panels_.count, weight_.depth(),
                              packed_size * Index{sizeof(A)}, context_.executor.num_workers());
    const A* packed = pack_rows<A>(x, cut.rows, packed_size);
    Index wide_size = 0;
    if constexpr (widens)
      wide_size = PanelFormat<T, TileWeights>::bytes(cut.block_depth) / Index{sizeof(T)};
    multiply_jobs<T, TileWeights>(
        cut, packed, packed_size, wide_size, context_,
        [&](const ProductBlocking::Step& step, const ProductBlocking::Step& next, T* scratch) {
          const auto begin_of = [&](const ProductBlocking::Step& s) {
            return weight_.data(panels_(s.panel)) + Format::group(s.k);
          };
          const std::byte* w = begin_of(step);
          if constexpr (widens) {
            auto* wide = static_cast<std::byte*>(static_cast<void*>(scratch));
            Format::widen_rows(w, step.depth, wide);
            w = wide;
          }
          return WeightBlock{w, begin_of(next), Format::bytes(step.depth)};
        },
        [&](Index panel, Index row, Index rows, const T* tile, Index worker) {
          store(panels_(panel), first_row + row, rows, tile, worker);
        });
  }

  const PackedWeight<T>& weight_;
  PanelSequence panels_;
  const Context& context_;
};

}  // namespace detail

CASA_NAMESPACE_END
