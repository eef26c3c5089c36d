// The micro-kernel of every product: a few rows times a few panels, accumulated in registers.
//
// Each output has one accumulator and takes its terms in order of k, by one fused multiply-add
// each; for int8 those of a group are summed by themselves, and the sum times the group's scale is
// added likewise. So its bits depend on nothing but its row and its weights: not on the rows beside
// it, on threads, or on how k was cut into blocks (a block goes on from what the one before stored).
#pragma once

#include <array>

#include "casa/layers/packed_weight.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Rows of the largest tile: its 2 * kTileRows accumulators, two vectors of weights and one of x
/// fill the registers.
inline constexpr Index kTileRows = simd::kRegisters >= 32 ? 12 : 6;

/// Panels that a tile of so many rows takes at once: few rows need more accumulators to hide the
/// latency of the multiply-add.
constexpr Index tile_panels(Index rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }

/// Memory to ask for while a tile computes: for each k a row of each panel, `step` bytes on.
struct Prefetch {
  const std::byte* at = nullptr;
  Index step = 0;
};

/// c[p] (+)= a^T w[p] for Panels panels that lie `apart` bytes apart; a (depth x Rows), c (Panels x
/// Rows x width). `go_on`: add to what c holds; else c is only written.
template <Scalar T, class S, Index Rows, Index Panels>
void multiply_tile(const T* a, const std::byte* weights, Index apart, Index depth, T* c, bool go_on,
                   Prefetch ahead) {
  using V = simd::Vec<T>;
  using Format = PanelFormat<T, S>;
  constexpr Index lanes = simd::kLanes<T>, width = Format::kWidth;
  constexpr Index rows = Rows, panels = Panels;
  constexpr bool scaled = Format::kScaled;
  const auto at = [&](Index p, Index r) { return c + (p * rows + r) * width; };

  const Index step = scaled ? kQuantGroup : depth;
  for (Index begin = 0; begin < depth; begin += step) {
    V sum[std::size_t{Panels}][std::size_t{Rows}][2];
CASA_UNROLL
    for (Index p = 0; p < panels; ++p)
CASA_UNROLL
      for (Index r = 0; r < rows; ++r) {
        const bool zero = scaled || !go_on;
        sum[p][r][0] = zero ? V{} : simd::load(at(p, r));
        sum[p][r][1] = zero ? V{} : simd::load(at(p, r) + lanes);
      }
    const Index count = std::min(step, depth - begin);
    const auto* w = Format::stored(weights + Format::row(begin));
    const Index w_apart = apart / Index{sizeof(*w)};
CASA_NO_UNROLL
    for (Index k = 0; k < count; ++k) {
      V x[std::size_t{Panels}][2];
CASA_UNROLL
      for (Index p = 0; p < panels; ++p) {
        x[p][0] = simd::load(w + p * w_apart);
        x[p][1] = simd::load(w + p * w_apart + lanes);
        if constexpr (Rows > 1) {
          simd::keep(x[p][0]);
          simd::keep(x[p][1]);
        }
        simd::prefetch(ahead.at + p * apart);
        if constexpr (Format::kRowBytes > 64) simd::prefetch(ahead.at + p * apart + 64);
      }
CASA_UNROLL
      for (Index r = 0; r < rows; ++r) {
        const V y = simd::broadcast<T>(a[r]);
CASA_UNROLL
        for (Index p = 0; p < panels; ++p) {
          sum[p][r][0] = simd::fma(y, x[p][0], sum[p][r][0]);
          sum[p][r][1] = simd::fma(y, x[p][1], sum[p][r][1]);
        }
      }
      ahead.at += ahead.step;
      w += width;
      a += Rows;
    }
CASA_UNROLL
    for (Index p = 0; p < panels; ++p) {
      [[maybe_unused]] const auto* scale = Format::scales(weights + p * apart + Format::group(begin));
CASA_UNROLL
      for (Index half = 0; half < 2; ++half) {
        V factor;
        if constexpr (scaled) factor = simd::load(scale + half * lanes);
CASA_UNROLL
        for (Index r = 0; r < rows; ++r) {
          T* to = at(p, r) + half * lanes;
          V result = sum[p][r][half];
          if constexpr (scaled)
            result = simd::fma(result, factor, go_on ? simd::load(to) : V{});
          simd::store(to, result);
        }
      }
    }
    go_on = true;
  }
}

template <Scalar T>
using TileFunction = void (*)(const T*, const std::byte*, Index, Index, T*, bool, Prefetch);

/// multiply_tile for `rows` <= kMax rows and `panels` panels: a power of two up to
/// tile_panels(rows).
template <Scalar T, class S, Index kMax>
TileFunction<T> tile_function(Index rows, Index panels) {
  constexpr auto table = []<std::size_t... I>(std::index_sequence<I...>) {
    return std::array<std::array<TileFunction<T>, 3>, sizeof...(I)>{
        {{{&multiply_tile<T, S, Index{I} + 1, 1>,
           &multiply_tile<T, S, Index{I} + 1, std::min(Index{2}, tile_panels(Index{I} + 1))>,
           &multiply_tile<T, S, Index{I} + 1, tile_panels(Index{I} + 1)>}}...}};
  }
  (std::make_index_sequence<static_cast<std::size_t>(kMax)>{});
  return table[static_cast<std::size_t>(rows - 1)][static_cast<std::size_t>(panels / 2)];
}

}  // namespace detail

CASA_NAMESPACE_END
