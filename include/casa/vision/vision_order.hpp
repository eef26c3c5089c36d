// The order of rows in a vision tower: patches sorted by attention window, so that the keys that a
// row sees, its window or its frame, are one interval.
#pragma once

#include <span>
#include <vector>

#include "casa/core/interval.hpp"
#include "casa/stream/positions.hpp"
#include "casa/vision/vision_config.hpp"

CASA_NAMESPACE_BEGIN

/// Tokens of an image or video after the merger, in raster order. The config is one that check()
/// takes.
inline Index num_tokens(const VisionTowerConfig& c, const VisionGrid& grid) {
  require(c.spatial_merge_size > 0, "vision_config: spatial_merge_size must be positive, got ",
          c.spatial_merge_size);
  return grid.t * (grid.h / c.spatial_merge_size) * (grid.w / c.spatial_merge_size);
}

/// The tokens of a still image (t = 1) as rows and columns, as the decoder's positions need them.
inline ImageGrid merged_grid(const VisionTowerConfig& c, const VisionGrid& grid) {
  require(c.spatial_merge_size > 0, "vision_config: spatial_merge_size must be positive, got ",
          c.spatial_merge_size);
  return {grid.h / c.spatial_merge_size, grid.w / c.spatial_merge_size};
}

/// Patches of all images together. Throws casa::error for a grid that is not whole tokens.
inline Index num_patches(const VisionTowerConfig& c, std::span<const VisionGrid> grids) {
  const Index merge = c.spatial_merge_size;
  require(merge > 0, "vision_config: spatial_merge_size must be positive, got ", merge);
  Index sum = 0;
  for (std::size_t i = 0; i < grids.size(); ++i) {
    const auto [t, h, w] = grids[i];
    require(t >= 1 && h >= 1 && w >= 1 && h % merge == 0 && w % merge == 0, "vision grid ", i,
            ": rows and columns of patches must be multiples of ", merge, ", got ", t, " x ", h,
            " x ", w);
    sum = checked_add(sum, checked_mul(checked_mul(t, h, "vision grid"), w, "vision grid"),
                      "vision grids");
  }
  return sum;
}

/// Which patch each row computes, and which rows it sees. Memory is kept from image to image.
struct VisionOrder {
  /// Row r computes input patch patch[r]. The patches of a token are consecutive rows, in their
  /// order.
  std::vector<Index> patch;
  /// Rows [u * merge_unit, (u + 1) * merge_unit) become token token[u] (raster order).
  std::vector<Index> token;
  std::vector<Position> position;  ///< row and column of the patch in its image
  std::vector<Interval> window;    ///< what row r sees in a block of window attention
  std::vector<Interval> frame;     ///< ... of full attention: its frame
  /// The first row of each window, and the end of the last: AttentionInput::sequence_offsets.
  std::vector<Index> windows;

  /// Rows: as many as patches.
  Index num_rows() const { return static_cast<Index>(patch.size()); }

  /// For images or videos one after the other. Patches come in the order frame, row of tokens,
  /// column of tokens, row in token, column in token. Throws casa::error for a grid that is not
  /// whole tokens.
  void assign(const VisionTowerConfig& c, std::span<const VisionGrid> grids) {
    const Index merge = c.spatial_merge_size;
    num_patches(c, grids);
    require(c.patch_size > 0 && c.window_tokens() > 0,
            "vision_config: window_size must hold a token, got ", c.window_size);
    for (auto* v : {&patch, &token, &windows}) v->clear();
    windows.push_back(0);
    for (auto* v : {&window, &frame}) v->clear();
    position.clear();
    for (const auto& [t, h, w] : grids)
      for (Index f = 0; f < t; ++f) append_frame(c, h / merge, w / merge);
  }

 private:
  void append_frame(const VisionTowerConfig& c, Index rows, Index cols) {
    const Index side = c.window_tokens(), first_token = static_cast<Index>(token.size());
    const Interval whole{num_rows(), num_rows() + rows * cols * c.merge_unit()};
    for (Index y = 0; y < rows; y += side) {
      for (Index x = 0; x < cols; x += side) {
        const Interval begun{num_rows(), num_rows()};
        for (Index i = y; i < (std::min)(rows, y + side); ++i)
          for (Index j = x; j < (std::min)(cols, x + side); ++j)
            append_token(c, first_token + i * cols + j, i, j);
        const Interval seen{begun.begin, num_rows()};
        window.insert(window.end(), static_cast<std::size_t>(seen.size()), seen);
        windows.push_back(seen.end);
      }
    }
    frame.insert(frame.end(), static_cast<std::size_t>(whole.size()), whole);
  }

  void append_token(const VisionTowerConfig& c, Index number, Index row, Index col) {
    const Index merge = c.spatial_merge_size;
    token.push_back(number);
    for (Index i = 0; i < c.merge_unit(); ++i) {
      patch.push_back(number * c.merge_unit() + i);
      position.push_back({0, row * merge + i / merge, col * merge + i % merge});
    }
  }
};

CASA_NAMESPACE_END
