// How a product of many rows is cut: rows into tiles, tiles and panels into jobs, jobs into steps.
#pragma once

#include <algorithm>

#include "casa/linear/tile.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Rows [0, rows) cut into tiles of at most `most` whose sizes differ by one at most.
struct TileSplit {
  Index rows = 0;
  Index tiles = 0;

  explicit TileSplit(Index n, Index most = kTileRows) : rows(n), tiles(ceil_div(n, most)) {}
  Index begin(Index t) const { return t * (rows / tiles) + (std::min)(t, rows % tiles); }
  Index size(Index t) const { return begin(t + 1) - begin(t); }
  /// The tile that holds a row of [0, rows).
  Index tile_of(Index row) const {
    const Index size = rows / tiles, larger = rows % tiles * (size + 1);
    return row < larger ? row / (size + 1) : rows % tiles + (row - larger) / size;
  }
};

// Each number below says what it trades against what. None of them was measured apart.

/// Rows of x packed at a time: bounds the scratch memory.
inline constexpr Index kPackRows = 960;
/// Tiles that share a block of weights, at most: more reuse of each block against more packed rows
/// that must stay in the second-level cache.
inline constexpr Index kBlockTiles = 24;
/// Panels of a job, at most: more reuse of the packed rows against jobs that threads can share out.
inline constexpr Index kJobPanels = 16;
/// Packed rows of up to this many bytes count as staying in a core's second-level cache beside the
/// weights that pass through it. (Machines with 512-bit vectors have 1 MiB and more.)
inline constexpr Index kRowBlockBytes = simd::kBytes >= 64 ? Index{1} << 20 : Index{1} << 18;

/// The k of a block: 64 for each tile that shares it, between 128 and 512, rounded so that blocks
/// are even and hold whole groups of weights and of rounded rows. Deeper blocks store and load the
/// sums less often; shallower ones leave more of the cache to the packed rows.
inline Index block_depth_for(Index depth, Index tiles) {
  const Index aim = std::clamp<Index>(64 * tiles, 128, 512);
  const Index blocks = std::max<Index>(1, (depth + aim / 2) / aim);
  return ceil_div(ceil_div(depth, blocks), kRowGroup) * kRowGroup;
}

/// Panels of each of `shares` jobs, at most. An even number: where panels of gate and up alternate
/// (swiglu.hpp), a job must hold whole pairs of them.
constexpr Index even_share(Index panels, Index shares) {
  return ceil_div(ceil_div(panels, shares), 2) * 2;
}

/// The sizes of the micro-kernel: rows of a tile, and tiles that share a block of weights, at most.
struct TileLimits {
  Index rows = kTileRows;
  Index tiles = kBlockTiles;
};

/// How a product of many rows is cut into jobs, and a job into steps. A job is a block of rows
/// (some tiles) times some panels; a step of it multiplies one block of k of one panel by all its
/// tiles.
struct ProductBlocking {
  TileSplit rows;
  Index panels;
  Index depth;
  Index row_blocks;   ///< how many jobs share a panel
  Index job_tiles;    ///< tiles of a job, at most
  Index job_panels;   ///< panels of a job, at most
  Index block_depth;  ///< k of a step, at most
  Index depth_blocks;
  /// Where a job's rows stay in cache, each panel is read to its end before the next. Else all
  /// panels of the job use one block of k before the next block, so that the rows' part of it
  /// stays.
  bool panels_outer;

  /// `row_bytes`: of one packed row.
  ProductBlocking(Index num_rows, Index num_panels, Index weight_depth, Index row_bytes,
                  Index workers, TileLimits most = {})
      : rows(num_rows, most.rows), panels(num_panels), depth(weight_depth) {
    row_blocks = ceil_div(rows.tiles, most.tiles);
    job_tiles = ceil_div(rows.tiles, row_blocks);
    const Index shares = workers == 1 ? 1 : ceil_div(workers * 4, row_blocks);
    job_panels = (std::min)(kJobPanels, even_share(panels, shares));
    block_depth = block_depth_for(depth, job_tiles);
    depth_blocks = ceil_div(depth, block_depth);
    panels_outer = job_rows() * row_bytes <= kRowBlockBytes;
  }

  /// Rows of a job, at most.
  Index job_rows() const { return job_tiles * rows.size(0); }
  /// Panels of a job whose sums are unfinished at the same time.
  Index open_panels() const { return panels_outer || depth_blocks == 1 ? 1 : job_panels; }
  Index num_jobs() const { return jobs_per_row_block() * row_blocks; }

  struct Job {
    Index first_tile, tiles;
    Index first_panel, panels;
  };
  Job job(Index j) const {
    const Index tile = j / jobs_per_row_block() * job_tiles;
    const Index panel = j % jobs_per_row_block() * job_panels;
    return {tile, (std::min)(job_tiles, rows.tiles - tile), panel,
            (std::min)(job_panels, panels - panel)};
  }

  /// Block [k, k + depth) of a panel of the job.
  struct Step {
    Index panel, k, depth;
  };
  Index num_steps(const Job& job) const { return job.panels * depth_blocks; }
  Step step(const Job& job, Index s) const {
    const Index panel = panels_outer ? s / depth_blocks : s % job.panels;
    const Index k = (panels_outer ? s % depth_blocks : s / job.panels) * block_depth;
    return {panel, k, (std::min)(block_depth, depth - k)};
  }

 private:
  Index jobs_per_row_block() const { return ceil_div(panels, job_panels); }
};

}  // namespace detail

CASA_NAMESPACE_END
