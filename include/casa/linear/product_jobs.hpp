// The loop over the jobs of a product of many rows: packed rows times blocks of a second matrix,
// which comes from memory as it lies there or is written into scratch, block by block.
#pragma once

#include "casa/core/context.hpp"
#include "casa/linear/blocking.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// A block of a panel as the micro-kernel reads it, and what it prefetches meanwhile: `bytes` from
/// `next` on.
struct WeightBlock {
  const std::byte* data;
  const std::byte* next;
  Index bytes;
};

/// Multiplies all packed rows (each packed_size A) by all panels of `cut`, on all threads. Calls
/// block(step, next, scratch) for the block of each step, which may write it into the worker's
/// scratch of block_size T; next is the step after it (their panels count from the first of all,
/// not of the job). Calls store(panel, row, rows, tile, worker) once for each panel and each tile
/// of rows: tile (rows x kWidth). W: how the values of a block are held.
template <Scalar T, class W, class A, class Block, class Store>
void multiply_jobs(const ProductBlocking& cut, const A* packed, Index packed_size, Index block_size,
                   const Context& context, Block&& block, Store&& store) {
  constexpr Index unit = simd::kUnit<A>, width = PanelFormat<T, T>::kWidth;
  const Index calls_per_tile = PanelFormat<T, T>::kVectors / tile_vectors<T, A>(cut.rows.size(0));
  // Each worker has the sums of its open panels, and room for a block.
  const Index sum_size = cut.open_panels() * cut.job_rows() * width;
  T* scratch = context.workspace.take<T>(context.executor.num_workers() * (sum_size + block_size));
  context.executor.for_each(cut.num_jobs(), [&](Index j, Index worker) {
    T* sums = scratch + worker * (sum_size + block_size);
    const auto job = cut.job(j);
    const Index job_row = cut.rows.begin(job.first_tile), steps = cut.num_steps(job);
    for (Index s = 0; s < steps; ++s) {
      const auto step = cut.step(job, s), next = cut.step(job, (std::min)(s + 1, steps - 1));
      const auto of_all = [&](ProductBlocking::Step of_job) {
        of_job.panel += job.first_panel;
        return of_job;
      };
      const WeightBlock from = block(of_all(step), of_all(next), sums + sum_size);
      // While a block is multiplied, the next is prefetched, equally much in each call of the
      // micro-kernel.
      const Index calls = job.tiles * calls_per_tile;
      Prefetch ahead{from.next, from.bytes / (step.depth * calls) + 1};
      T* step_sums = sums + step.panel % cut.open_panels() * cut.job_rows() * width;
      for (Index t = 0; t < job.tiles; ++t) {
        const Index row = cut.rows.begin(job.first_tile + t);
        const Index rows = cut.rows.size(job.first_tile + t);
        T* tile = step_sums + (row - job_row) * width;
        const A* a = packed + row * packed_size + step.k / unit * rows;
        const auto multiply = tile_function<T, W, A>(rows);
        const Index lanes = tile_vectors<T, A>(rows) * simd::kLanes<T>;
        for (Index lane = 0; lane < width; lane += lanes) {
          multiply(a, from.data, lane, step.depth, tile, step.k > 0, ahead);
          ahead.at += step.depth * ahead.step;
        }
        if (step.k + step.depth == cut.depth)
          store(job.first_panel + step.panel, row, rows, tile, worker);
      }
    }
  });
}

}  // namespace detail

CASA_NAMESPACE_END
