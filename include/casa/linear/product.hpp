// The loops around the micro-kernel: x W^T for packed weights, any number of rows, on all threads.
//
// Few rows (decode): each panel streams from memory once, from end to end. Many rows (prefill): x
// is packed into tiles; a block of k of one panel is multiplied by every tile of a block of rows
// while both stay in cache, and the next block is prefetched meanwhile. Weights are widened in
// registers; only where that takes many instructions is a block widened once, into scratch, for all
// its tiles.
#pragma once

#include "casa/core/context.hpp"
#include "casa/linear/tile.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Rows [0, rows) cut into tiles of at most kTileRows whose sizes differ by one at most.
struct TileSplit {
  Index rows = 0;
  Index tiles = 0;

  explicit TileSplit(Index n) : rows(n), tiles((n + kTileRows - 1) / kTileRows) {}
  Index begin(Index t) const { return t * (rows / tiles) + (std::min)(t, rows % tiles); }
  Index size(Index t) const { return begin(t + 1) - begin(t); }
};

/// Rows of x packed at a time: bounds the scratch memory.
inline constexpr Index kPackRows = 960;
/// Tiles that share a block of weights, at most: more reuse of each block against more packed rows
/// that must stay in the second-level cache.
inline constexpr Index kBlockTiles = 24;
/// Panels of a job, at most: more reuse of the packed rows against jobs that threads can share out.
inline constexpr Index kJobPanels = 16;
/// Packed rows of up to so many bytes count as staying in a core's second-level cache beside the
/// weights that pass through it. (Machines with 512-bit vectors have 1 MiB and more.)
inline constexpr Index kRowBlockBytes = simd::kBytes >= 64 ? Index{1} << 20 : Index{1} << 18;

/// Whether weights of type S are widened into scratch before many rows use them, not in registers:
/// where widening takes more than an instruction or two. Without 256-bit vectors, widening bfloat16
/// in registers fell from 62 to 43 % of the peak at 96 rows.
template <Scalar T, class S>
inline constexpr bool kWidensBefore =
    !std::same_as<S, T> && !simd::kWidensFast<S> && (simd::kBytes < 32 || std::same_as<S, half>);

/// The k of a block: 64 for each tile that shares it, between 128 and 512, rounded so that blocks
/// are even and hold whole groups. Deeper blocks store and load the sums less often; shallower ones
/// leave more of the cache to the packed rows.
inline Index block_depth_for(Index depth, Index tiles) {
  const Index aim = std::clamp<Index>(64 * tiles, 128, 512);
  const Index blocks = std::max<Index>(1, (depth + aim / 2) / aim);
  return ((depth + blocks - 1) / blocks + kQuantGroup - 1) / kQuantGroup * kQuantGroup;
}

/// x W^T for a sequence of panels. Calls store(panel, row, rows, tile, worker) once for each panel
/// and each tile of rows: tile (rows x kWidth) holds the outputs of rows [row, row + rows). The
/// panels of a job come to one worker in order, and a job holds an even number of them, so that a
/// caller may combine a panel with the one before (swiglu.hpp).
template <Scalar T>
class Product {
 public:
  static constexpr Index kWidth = PackedWeight<T>::kWidth;

  Product(const PackedWeight<T>& weight, PanelSequence panels, const Context& context)
      : weight_(weight), panels_(panels), context_(context) {}

  template <class Store>
  void run(MatrixView<const T> x, Store&& store) const {
    with_stored_type<T>(weight_.type(), [&]<class S>() {
      if (x.rows() <= kWholePanelRows) return run_few<S>(x, store);
      const auto run_all = [&]<class A>() {
        for (Index row = 0; row < x.rows(); row += kPackRows)
          run_many<S, A>(x.middle_rows(row, (std::min)(kPackRows, x.rows() - row)), row, store);
      };
      if constexpr (simd::kMultipliesPairs<S>)
        if (context_.precision == Precision::storage && weight_.depth() % 2 == 0)
          return run_all.template operator()<simd::bfloat16_pair>();
      run_all.template operator()<T>();
    });
  }

 private:
  Index job_panels(Index shares, Index multiple) const {
    const Index share = (panels_.count + shares - 1) / shares;
    return (share + multiple - 1) / multiple * multiple;
  }

  // One tile of rows. Each panel is read once, and its reads stay simd::kReadAhead bytes behind the
  // prefetches.
  template <class S, class Store>
  void run_few(MatrixView<const T> x, Store& store) const {
    const Workspace::Frame frame(context_.workspace);
    const Index rows = x.rows(), depth = weight_.depth();
    const T* a = x.data();
    if (rows > 1) {
      T* packed = context_.workspace.take<T>(rows * packed_depth(depth));
      pack_tile<T>(x, packed);
      a = packed;
    }
    using Format = PanelFormat<T, S>;
    const auto multiply = tile_function<T, S>(rows);
    // `body` rows of a panel prefetch ahead in the panel itself, the rest in the next one.
    constexpr Index ahead = simd::kReadAhead;
    const Index step = Format::kScaled ? kQuantGroup : rows > 1 ? kPackedBlock : 1;
    const Index body = std::max<Index>(0, depth - ahead / Format::kRowBytes) / step * step;
    const Index workers = context_.executor.num_workers();
    const Index share = workers == 1 ? panels_.count : job_panels(workers * 8, 2);
    context_.executor.for_each((panels_.count + share - 1) / share, [&](Index job, Index worker) {
      alignas(64) T tile[std::size_t{kWholePanelRows * kWidth}];
      const Index end = (std::min)(panels_.count, (job + 1) * share);
      for (Index i = job * share; i < end; ++i) {
        const std::byte* w = weight_.data(panels_(i));
        const std::byte* next =
            i + 1 < panels_.count ? weight_.data(panels_(i + 1)) : w + weight_.panel_bytes();
        multiply(a, w, 0, body, tile, false, {w + ahead, Format::kRowBytes, Format::kScaleBytes});
        multiply(a + body * rows, w + Format::group(body), 0, depth - body, tile, body > 0,
                 {next, Format::kRowBytes, Format::kScaleBytes});
        store(panels_(i), Index{0}, rows, tile, worker);
      }
    });
  }

  // A: the type as which rows of x are multiplied, T or pairs of bfloat16.
  template <class S, class A, class Store>
  void run_many(MatrixView<const T> x, Index first_row, Store& store) const {
    using Format = PanelFormat<T, S>;
    using Wide = typename Format::Wide;
    constexpr bool widens = kWidensBefore<T, S>;
    constexpr Index unit = simd::kUnit<A>;
    static_assert(kQuantGroup % (unit * kPackedBlock) == 0);  // blocks of k are whole packed blocks
    using TileWeights = std::conditional_t<widens, typename Format::WideStored, S>;
    const Workspace::Frame frame(context_.workspace);
    const Index depth = weight_.depth(), workers = context_.executor.num_workers();
    const TileSplit split(x.rows());
    const Index a_depth = packed_depth(depth / unit);
    A* packed = context_.workspace.take<A>(x.rows() * a_depth);
    context_.executor.for_each(split.tiles, [&](Index t, Index) {
      pack_tile<A>(x.middle_rows(split.begin(t), split.size(t)), packed + split.begin(t) * a_depth);
    });

    const Index row_blocks = (split.tiles + kBlockTiles - 1) / kBlockTiles;
    const Index block_tiles = (split.tiles + row_blocks - 1) / row_blocks;
    const Index block_rows = block_tiles * split.size(0);
    const Index shares = workers == 1 ? 1 : (workers * 4 + row_blocks - 1) / row_blocks;
    const Index share = (std::min)(kJobPanels, job_panels(shares, 2));
    const Index jobs_per_block = (panels_.count + share - 1) / share;
    // Where a block's rows stay in cache, each panel is read to its end before the next. Else all
    // panels of the job use one block of k before the next block, so that the rows' part of it
    // stays.
    const bool panels_outer = block_rows * a_depth * Index{sizeof(A)} <= kRowBlockBytes;
    const Index block_depth = block_depth_for(depth, block_tiles);
    const Index depth_blocks = (depth + block_depth - 1) / block_depth;
    const Index parts = Format::kVectors / tile_vectors<T>(split.size(0));  // of a panel
    const Index sum_panels = panels_outer || depth_blocks == 1 ? 1 : share;
    const Index sum_size = sum_panels * block_rows * kWidth;
    const Index wide_size = widens ? Wide::bytes(block_depth) / Index{sizeof(T)} : 0;
    T* scratch = context_.workspace.take<T>(workers * (sum_size + wide_size));

    context_.executor.for_each(jobs_per_block * row_blocks, [&](Index job, Index worker) {
      T* sums = scratch + worker * (sum_size + wide_size);
      const Index first_tile = job / jobs_per_block * block_tiles;
      const Index tiles = (std::min)(block_tiles, split.tiles - first_tile);
      const Index begin = job % jobs_per_block * share;
      const Index panels = (std::min)(panels_.count - begin, share);
      struct Step {
        Index panel, k;
      };
      const auto step_at = [&](Index s) {
        return panels_outer ? Step{s / depth_blocks, s % depth_blocks * block_depth}
                            : Step{s % panels, s / panels * block_depth};
      };
      const auto weights_of = [&](Step s) {
        return weight_.data(panels_(begin + s.panel)) + Format::group(s.k);
      };
      const Index steps = panels * depth_blocks;
      for (Index s = 0; s < steps; ++s) {
        const Step step = step_at(s);
        const Index count = (std::min)(block_depth, depth - step.k);
        const std::byte* w = weights_of(step);
        const std::byte* next = weights_of(step_at((std::min)(s + 1, steps - 1)));
        if constexpr (widens) {
          auto* wide = static_cast<std::byte*>(static_cast<void*>(sums + sum_size));
          Format::widen_rows(w, count, wide);
          w = wide;
        }
        const Index next_step = Format::bytes(count) / (count * tiles * parts) + 1;
        const std::byte* ahead = next;
        for (Index t = 0; t < tiles; ++t) {
          const Index row = split.begin(first_tile + t), rows = split.size(first_tile + t);
          T* tile = sums +
                    (step.panel % sum_panels * block_rows + row - split.begin(first_tile)) * kWidth;
          const auto multiply = tile_function<T, TileWeights, A>(rows);
          const Index part_width = tile_vectors<T>(rows) * simd::kLanes<T>;
          for (Index lane = 0; lane < kWidth; lane += part_width) {
            multiply(packed + row * a_depth + step.k / unit * rows, w, lane, count, tile,
                     step.k > 0, {ahead, next_step});
            ahead += count * next_step;
          }
          if (step.k + count == depth)
            store(panels_(begin + step.panel), first_row + row, rows, tile, worker);
        }
      }
    });
  }

  const PackedWeight<T>& weight_;
  PanelSequence panels_;
  const Context& context_;
};

}  // namespace detail

CASA_NAMESPACE_END
