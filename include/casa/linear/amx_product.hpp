// The loops around the AMX micro-kernels: x W^T for many rows, as Product::run_many() has them for
// vectors.
#pragma once

#include "casa/core/context.hpp"
#include "casa/linear/amx_tile.hpp"
#include "casa/linear/blocking.hpp"

#if CASA_AMX

CASA_NAMESPACE_BEGIN

namespace detail {

/// Tiles of rows that share a block of weights, at most (see kBlockTiles). Not measured: nobody had
/// a machine with AMX.
inline constexpr Index kAmxBlockTiles = 16;

/// At most kPackRows rows of x, which stand from first_row on in what `store` is told (Product).
template <class S, class Store>
void amx_product(const PackedWeight<float>& weight, PanelSequence panels, const Context& context,
                 MatrixView<const float> x, Index first_row, Store& store) {
  using A = AmxRows<S>;
  using Format = PanelFormat<float, S>;
  constexpr bool pairs = std::same_as<S, bfloat16>;
  constexpr Index width = Format::kWidth, outputs = kAmxStrips * kAmxOutputs;
  constexpr Index together = pairs ? 2 : 1;  // tiles of rows that a micro-kernel takes
  const Workspace::Frame frame(context.workspace);
  const Index workers = context.executor.num_workers();
  const Index packed_size = ceil_div(weight.depth(), kAmxDepth);
  const ProductBlocking cut(x.rows(), panels.count, weight.depth(),
                            packed_size * Index{sizeof(A)} / simd::kAmxRows, workers,
                            {simd::kAmxRows, kAmxBlockTiles});
  A* packed = context.workspace.take<A>(cut.rows.tiles * packed_size);
  context.executor.for_each(cut.rows.tiles, [&](Index t, Index) {
    pack_amx(x.middle_rows(cut.rows.begin(t), cut.rows.size(t)), packed + t * packed_size);
  });

  // Sums of whole tiles: rows that x does not have are computed, and not stored further.
  const Index tile_size = simd::kAmxRows * width;
  const Index sum_size = cut.open_panels() * cut.job_tiles * tile_size;
  const Index block_size = pairs ? ceil_div(cut.block_depth, kAmxDepth) * kAmxDepth / 2 * width : 0;
  float* scratch = context.workspace.take<float>(workers * sum_size);
  auto* blocks = context.workspace.take<simd::bfloat16_pair>(workers * block_size);

  context.executor.for_each(cut.num_jobs(), [&](Index j, Index worker) {
    const simd::AmxScope tiles(kAmxConfig<A>);
    [[maybe_unused]] simd::bfloat16_pair* block = blocks + worker * block_size;
    const auto job = cut.job(j);
    const Index steps = cut.num_steps(job);
    const auto weights_of = [&](const ProductBlocking::Step& step) {
      return weight.data(panels(job.first_panel + step.panel)) + Format::group(step.k);
    };
    for (Index s = 0; s < steps; ++s) {
      const auto step = cut.step(job, s);
      const std::byte* w = weights_of(step);
      const std::byte* next = weights_of(cut.step(job, (std::min)(s + 1, steps - 1)));
      if constexpr (pairs) interleave_rows(Format::stored(w), step.depth, block);
      const Index depth = ceil_div(step.depth, kAmxDepth);
      const Index calls = ceil_div(job.tiles, together) * (width / outputs);
      Prefetch ahead{next, Format::bytes(step.depth) / (depth * calls) + 1};
      float* sums =
          scratch + worker * sum_size + step.panel % cut.open_panels() * cut.job_tiles * tile_size;
      for (Index t = 0; t < job.tiles; t += together) {
        const A* a = packed + (job.first_tile + t) * packed_size + step.k / kAmxDepth;
        float* c = sums + t * tile_size;
        for (Index lane = 0; lane < width; lane += outputs) {
          if constexpr (pairs) {
            const auto multiply = t + 1 < job.tiles ? &multiply_amx<2> : &multiply_amx<1>;
            multiply(a, packed_size, block, lane, depth, c, step.k > 0, ahead);
          } else {
            multiply_amx(a, w, lane, depth, c, step.k > 0, ahead);
          }
        }
        if (step.k + step.depth < cut.depth) continue;
        for (Index i = t; i < (std::min)(t + together, job.tiles); ++i)
          store(panels(job.first_panel + step.panel),
                first_row + cut.rows.begin(job.first_tile + i), cut.rows.size(job.first_tile + i),
                sums + i * tile_size, worker);
      }
    }
  });
}

}  // namespace detail

CASA_NAMESPACE_END

#endif
