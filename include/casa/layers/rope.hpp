// Rotary position embedding (Su et al., arXiv 2104.09864): pairs of a head's values are rotated by
// the angle position * frequency.
//
// Positions are 64-bit and angles are computed in double, so that the last token of a stream that
// runs for days is rotated as exactly as its first. Only the inverse frequencies are rounded to the
// model's scalar: that rounding is part of the published models.
#pragma once

#include <cmath>
#include <numbers>
#include <span>
#include <vector>

#include "casa/core/context.hpp"
#include "casa/simd/elementwise.hpp"
#include "casa/stream/positions.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// Which values of a head form pair i: half (i, i + rotary_dim / 2), interleaved (2i, 2i + 1).
enum class RopeStyle { half, interleaved };

/// Which coordinate of a Position is multiplied by a pair's frequency.
enum class RopeAxis : std::uint8_t { t, h, w };

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

/// How a model rotates its heads: the first rotary_dim() values of a head, not the rest.
struct Rope {
  /// Which values of a head are rotated together.
  RopeStyle style = RopeStyle::half;
  /// Radians per unit of position, one per pair.
  std::vector<double> inv_freq;
  /// One per pair; empty: every pair reads t.
  std::vector<RopeAxis> axis = {};
  /// Factor of a head's rotated values: YaRN's attention factor.
  double magnitude = 1;

  /// Rotated pairs of a head.
  Index num_pairs() const { return static_cast<Index>(inv_freq.size()); }
  /// Rotated values of a head.
  Index rotary_dim() const { return 2 * num_pairs(); }
};

namespace detail {

/// theta^(2i / dim) in the arithmetic of T.
template <Scalar T>
T rope_power(Index pair, Index dim, double theta) {
  const T exponent = static_cast<T>(2 * pair) / static_cast<T>(dim);
  return static_cast<T>(
      std::pow(static_cast<double>(static_cast<T>(theta)), static_cast<double>(exponent)));
}

}  // namespace detail

/// theta^(-2i / dim) for i in [0, dim / 2), in the arithmetic of T, as PyTorch models form them.
/// Throws casa::error for a dim that is odd or below 2 and a theta that is not positive.
template <Scalar T>
std::vector<double> rope_inv_freq(Index dim, double theta) {
  require(dim >= 2 && dim % 2 == 0, "rope_inv_freq: dim must be even and positive, got ", dim);
  require(std::isfinite(theta) && theta > 0, "rope_inv_freq: theta must be positive, got ", theta);
  std::vector<double> f;
  for (Index i = 0; i < dim / 2; ++i)
    f.push_back(static_cast<double>(T{1} / detail::rope_power<T>(i, dim, theta)));
  return f;
}

/// Rotary embedding of a whole head of head_dim values with base theta.
template <Scalar T>
Rope make_rope(Index head_dim, double theta, RopeStyle style) {
  return {style, rope_inv_freq<T>(head_dim, theta)};
}

/// M-RoPE (Qwen2-VL, arXiv 2409.12191): the axis of each pair. The first sections[0] pairs read t,
/// the next sections[1] h, the last sections[2] w. Throws casa::error unless there are three
/// sections that add up to num_pairs.
inline std::vector<RopeAxis> mrope_axes(std::span<const Index> sections, Index num_pairs) {
  require_equal("mrope_axes: number of sections", sections.size(), 3);
  std::vector<RopeAxis> axis;
  for (std::size_t s = 0; s < 3; ++s) {
    require(sections[s] >= 0 && sections[s] <= num_pairs, "mrope_axes: section ", s, " is ",
            sections[s], " of ", num_pairs, " pairs");
    axis.insert(axis.end(), static_cast<std::size_t>(sections[s]), static_cast<RopeAxis>(s));
  }
  require_equal("mrope_axes: sum of sections", static_cast<Index>(axis.size()), num_pairs);
  return axis;
}

/// The 2-D rotary embedding of Qwen2.5-VL's vision tower: the first half of the pairs reads
/// the patch's row, the second its column, both with the frequencies of a head half as wide.
template <Scalar T>
Rope make_vision_rope(Index head_dim, double theta = 10000) {
  require(head_dim > 0 && head_dim % 4 == 0,
          "make_vision_rope: head_dim must be a multiple of 4, got ", head_dim);
  Rope rope = make_rope<T>(head_dim / 2, theta, RopeStyle::half);
  const std::vector<double> once = rope.inv_freq;
  rope.axis.assign(once.size(), RopeAxis::h);
  rope.inv_freq.insert(rope.inv_freq.end(), once.begin(), once.end());
  rope.axis.insert(rope.axis.end(), once.size(), RopeAxis::w);
  return rope;
}

/// Cosines and sines of the angles of some tokens, a row each: computed once per forward pass, used
/// by all heads and layers. Memory is kept, so that a step allocates nothing once the longest list
/// has been seen.
template <Scalar T>
class RopeTable {
 public:
  /// The table of `positions` under `rope`. Angles are within 1e-6 rad of exact up to 2^30. Throws
  /// casa::error where rope's axes do not fit its pairs.
  void assign(const Rope& rope, std::span<const Position> positions, const Context& context) {
    resize(rope, static_cast<Index>(positions.size()));
    fill(rope, 0, positions, context);
  }

  /// Makes room for `rows` rows of rope's style and number of pairs, to be filled; earlier rows are
  /// lost.
  void resize(const Rope& rope, Index rows) {
    require(rows >= 0, "RopeTable: rows must not be negative, got ", rows);
    style_ = rope.style;
    pairs_ = rope.num_pairs();
    rows_ = rows;
    const Index needed = checked_mul(rows_, 2 * width(), "RopeTable");
    if (values_.size() < needed) values_ = Buffer<T>(needed);
  }

  /// Computes the rows from `first` on: those of `positions` under `rope`, whose frequencies may
  /// differ from those of other rows. Throws casa::error where rope or rows do not fit the table.
  void fill(const Rope& rope, Index first, std::span<const Position> positions,
            const Context& context) {
    const auto count = static_cast<Index>(positions.size());
    require(rope.axis.empty() || rope.axis.size() == rope.inv_freq.size(),
            "Rope: ", rope.axis.size(), " axes for ", rope.inv_freq.size(), " pairs");
    require(rope.style == style_ && rope.num_pairs() == pairs_, "RopeTable: a rope of ",
            rope.num_pairs(), " pairs for a table of ", pairs_, " pairs, or of another style");
    require(first >= 0 && count <= rows_ - first, "RopeTable: rows [", first, ", ", first + count,
            ") of a table of ", rows_);
    context.executor.for_each(
        count,
        [&](Index r, Index) {
          assign_row(rope, positions[static_cast<std::size_t>(r)], row(first + r));
        },
        8);
  }

  /// Rows, one per token.
  Index rows() const { return rows_; }
  /// Rotated pairs of a head.
  Index num_pairs() const { return pairs_; }
  /// Rotated values of a head.
  Index rotary_dim() const { return 2 * pairs_; }
  /// Which values form a pair.
  RopeStyle style() const { return style_; }
  /// Cosine of a pair's angle, times Rope::magnitude. Not checked.
  T cos(Index row, Index pair) const { return (this->row(row))[pair * step()]; }
  /// Sine of a pair's angle, times Rope::magnitude. Not checked.
  T sin(Index row, Index pair) const {
    return (this->row(row) + width())[pair * step() + step() - 1];
  }

  /// Rotates one head in place: rotary_dim() values at x, by row `row` of the table. Not checked;
  /// apply_rope is.
  void rotate(Index row, T* x) const { turn<false>(row, x); }
  /// The transpose of rotate(): by the angles' negatives, and times Rope::magnitude too. Not
  /// checked; apply_rope_backward is.
  void rotate_backward(Index row, T* x) const { turn<true>(row, x); }

 private:
  template <bool Back>
  void turn(Index row, T* x) const {
    const T *c = this->row(row), *s = c + width();
    if (style_ == RopeStyle::half) {
      detail::for_each_vector<T>(pairs_, [&](Index i, Index n) {
        const auto a = detail::load_n(x + i, n), b = detail::load_n(x + pairs_ + i, n);
        const auto cosine = detail::load_n(c + i, n), sine = signed_sine<Back>(s + i, n);
        detail::store_n(x + i, simd::fma(a, cosine, -(b * sine)), n);
        detail::store_n(x + pairs_ + i, simd::fma(b, cosine, a * sine), n);
      });
    } else {
      detail::for_each_vector<T>(2 * pairs_, [&](Index i, Index n) {
        const auto v = detail::load_n(x + i, n);
        const auto swapped = simd::detail::swapped<1>(v, simd::detail::LaneSequence<T>{});
        const auto cosine = detail::load_n(c + i, n), sine = signed_sine<Back>(s + i, n);
        detail::store_n(x + i, simd::fma(v, cosine, swapped * sine), n);
      });
    }
  }
  template <bool Back>
  static simd::Vec<T> signed_sine(const T* s, Index n) {
    return Back ? -detail::load_n(s, n) : detail::load_n(s, n);
  }

  // A row holds cosines, then sines. With interleaved pairs each stands twice, the sines as -sin,
  // sin: then a vector v of pairs becomes v * cosines + (v with neighbours swapped) * sines.
  Index step() const { return style_ == RopeStyle::half ? 1 : 2; }
  Index width() const { return pairs_ * step(); }
  T* row(Index r) { return values_.data() + r * 2 * width(); }
  const T* row(Index r) const { return values_.data() + r * 2 * width(); }

  void assign_row(const Rope& rope, const Position& p, T* to) const {
    const std::int64_t place[] = {p.t, p.h, p.w};
    T *c = to, *s = to + width();
    for (std::size_t i = 0; i < rope.inv_freq.size(); ++i) {
      const auto axis = rope.axis.empty() ? std::size_t{0} : static_cast<std::size_t>(rope.axis[i]);
      // 24 bits of frequency (float) times 29 of position: the product is exact.
      const double angle = static_cast<double>(place[axis]) * rope.inv_freq[i];
      const T cosine = static_cast<T>(rope.magnitude * std::cos(angle));
      const T sine = static_cast<T>(rope.magnitude * std::sin(angle));
      if (style_ == RopeStyle::interleaved) {
        *c++ = cosine;
        *s++ = -sine;
      }
      *c++ = cosine;
      *s++ = sine;
    }
  }

  RopeStyle style_ = RopeStyle::half;
  Index rows_ = 0;
  Index pairs_ = 0;
  Buffer<T> values_;
};

/// Rotates every head of x (rows x num_heads * head_dim) in place: row r by row first_row + r of
/// the table. Pair (a, b) becomes (a cos - b sin, b cos + a sin). Throws casa::error for columns
/// that are not heads, or are too narrow for the table, and for rows that the table does not have.
template <Scalar T>
void apply_rope(MatrixView<T> x, const RopeTable<T>& table, Index head_dim, const Context& context,
                Index first_row = 0) {
  require(head_dim > 0 && x.cols() % head_dim == 0, "apply_rope: ", x.cols(),
          " columns are not heads of ", head_dim);
  require(table.rotary_dim() <= head_dim, "apply_rope: rotary_dim ", table.rotary_dim(),
          " exceeds head_dim ", head_dim);
  require(first_row >= 0 && x.rows() <= table.rows() - first_row, "apply_rope: rows [", first_row,
          ", ", first_row + x.rows(), ") of a table of ", table.rows());
  require_memory("apply_rope: x", x);
  if (context.path == Path::naive) {
    const bool half = table.style() == RopeStyle::half;
    for (Index r = 0; r < x.rows(); ++r)
      for (Index head = 0; head < x.cols(); head += head_dim)
        for (Index i = 0; i < table.num_pairs(); ++i) {
          T& a = x(r, head + (half ? i : 2 * i));
          T& b = x(r, head + (half ? i + table.num_pairs() : 2 * i + 1));
          const T c = table.cos(first_row + r, i), s = table.sin(first_row + r, i);
          const T rotated = a * c - b * s;
          b = b * c + a * s;
          a = rotated;
        }
    return;
  }
  context.executor.for_each(
      x.rows(),
      [&](Index r, Index) {
        for (Index head = 0; head < x.cols(); head += head_dim)
          table.rotate(first_row + r, x.row(r) + head);
      },
      8);
}

CASA_NAMESPACE_END
