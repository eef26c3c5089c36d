// Rotary positions of text and image tokens, counted as a stream grows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "casa/core/error.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// The position of a token for the rotary embedding, on three axes: time, row and column. Ordinary
/// embeddings read `t` alone; text has the same number on all three.
struct Position {
  std::int64_t t = 0;  ///< time, or the position on the only axis
  std::int64_t h = 0;  ///< row
  std::int64_t w = 0;  ///< column

  /// 0 on every axis.
  CASA_COMMON_INLINE constexpr Position() = default;
  /// The same number on every axis, as text has.
  CASA_COMMON_INLINE constexpr Position(std::int64_t p) : t(p), h(p), w(p) {}
  /// A token of an image or a video.
  CASA_COMMON_INLINE constexpr Position(std::int64_t time, std::int64_t row, std::int64_t col)
      : t(time), h(row), w(col) {}
  CASA_COMMON_INLINE friend bool operator==(const Position&, const Position&) = default;
};

/// The positions of image tokens in a fusion layer. K is the number of text tokens before the
/// image.
enum class ImageRope {
  off,           ///< none: nothing is rotated in fusion layers
  none,          ///< 0: image keys are not rotated, text is
  window_start,  ///< K
  consecutive,   ///< K, K+1, ... through the window's images; its text follows the last
  stream         ///< the place in the merged stream, for text and images
};

/// Whether positions depend on the rows and columns of an image's tokens.
constexpr bool reads_grids(ImageRope rope) {
  return rope == ImageRope::window_start || rope == ImageRope::stream;
}

/// Rows x columns of an image's tokens, for embeddings with row and column axes (M-RoPE). {0, 0}: a
/// plain sequence.
struct ImageGrid {
  Index rows = 0;  ///< tokens from top to bottom
  Index cols = 0;  ///< tokens from left to right: neighbours in raster order
  CASA_COMMON_INLINE friend bool operator==(const ImageGrid&, const ImageGrid&) = default;
};

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

/// Gives tokens their positions, in stream order. Text positions count text alone, except with
/// consecutive and stream. With window_start and stream, the token in (row, column) of an image
/// that begins at p has the position (p, p + row, p + column). With stream, what follows such an
/// image goes on at p + max(rows, columns), as in M-RoPE (arXiv 2409.12191, section 2.1).
class PositionCounter {
 public:
  PositionCounter() = default;
  /// A counter at the beginning of a stream.
  explicit PositionCounter(ImageRope rope) : rope_(rope) {}

  /// Writes the positions of the next out.size() text tokens in a fusion layer. (In self-attention
  /// layers they are next_text(), next_text() + 1, ...)
  void text(std::span<Position> out) {
    for (Position& p : out) {
      p = rope_ == ImageRope::stream        ? stream_
          : rope_ == ImageRope::consecutive ? text_ + window_images_
                                            : text_;
      ++text_;
      ++stream_;
    }
    if (!out.empty()) window_has_text_ = true;
  }

  /// Writes the positions of the tokens of one image that comes next. Throws casa::error unless the
  /// grid is {0, 0} or has as many places as the image has tokens.
  void image(ImageGrid grid, std::span<Position> out) {
    if (grid != ImageGrid{})
      require_equal("PositionCounter: rows * cols of a grid",
                    checked_mul(grid.rows, grid.cols, "PositionCounter: grid"), out.size());
    if (window_has_text_) {
      window_images_ = 0;
      window_has_text_ = false;
    }
    const bool spatial = grid.rows > 0 && grid.cols > 0;
    const auto count = static_cast<std::int64_t>(out.size());
    for (std::int64_t j = 0; j < count; ++j) {
      const std::int64_t row = spatial ? j / grid.cols : 0, col = spatial ? j % grid.cols : 0;
      Position& p = out[static_cast<std::size_t>(j)];
      switch (rope_) {
        case ImageRope::off:
        case ImageRope::none:
          p = 0;
          break;
        case ImageRope::window_start:
          p = {text_, text_ + row, text_ + col};
          break;
        case ImageRope::consecutive:
          p = text_ + window_images_ + j;
          break;
        case ImageRope::stream:
          p = spatial ? Position{stream_, stream_ + row, stream_ + col} : Position(stream_ + j);
          break;
      }
    }
    window_images_ += count;
    stream_ += spatial ? std::int64_t{(std::max)(grid.rows, grid.cols)} : count;
  }

  /// How many text tokens came so far: the next one's position in self-attention layers.
  std::int64_t next_text() const { return text_; }
  /// The next position in stream order.
  std::int64_t next_stream() const { return stream_; }
  /// As given to the constructor.
  ImageRope rope() const { return rope_; }

  /// The counters as numbers, to save and restore a stream (and to start one anywhere).
  struct State {
    std::int64_t text = 0;           ///< text tokens so far
    std::int64_t stream = 0;         ///< next position in stream order
    std::int64_t window_images = 0;  ///< image tokens of the current window
    bool window_has_text = true;     ///< the next image begins a window
    friend bool operator==(const State&, const State&) = default;
  };
  /// The counters, to save.
  State state() const { return {text_, stream_, window_images_, window_has_text_}; }
  /// Continues from saved counters. Throws casa::error for a negative one.
  void restore(const State& s) {
    require(s.text >= 0 && s.stream >= 0 && s.window_images >= 0,
            "PositionCounter: counters must not be negative, got ", s.text, ", ", s.stream, ", ",
            s.window_images);
    text_ = s.text;
    stream_ = s.stream;
    window_images_ = s.window_images;
    window_has_text_ = s.window_has_text;
  }

 private:
  ImageRope rope_ = ImageRope::window_start;
  std::int64_t text_ = 0;           // text tokens so far
  std::int64_t stream_ = 0;         // next place in stream order
  std::int64_t window_images_ = 0;  // image tokens of the window we are in
  bool window_has_text_ = true;
};

CASA_NAMESPACE_END
