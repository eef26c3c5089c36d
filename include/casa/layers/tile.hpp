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

/// Rows up to this number meet a whole panel at once: enough accumulators to hide the latency of
/// the multiply-add. More rows take it two vectors at a time.
inline constexpr Index kWholePanelRows = simd::kRegisters >= 32 ? 6 : 2;

/// Vectors of a panel that a tile of so many rows takes at once.
template <Scalar T>
constexpr Index tile_vectors(Index rows) {
  return rows <= kWholePanelRows ? PanelFormat<T, T>::kVectors : 2;
}

/// Memory to ask for while a tile computes: as much as it reads for each k, `step` bytes on.
struct Prefetch {
  const std::byte* at = nullptr;
  Index step = 0;
};

/// c (+)= a^T w for tile_vectors(Rows) vectors of a panel, from output `lane`; a (depth x Rows), c
/// (Rows x kWidth). `go_on`: add to what c holds; else c is only written.
template <Scalar T, class S, Index Rows>
void multiply_tile(const T* a, const std::byte* weights, Index lane, Index depth, T* c, bool go_on,
                   Prefetch ahead) {
  using V = simd::Vec<T>;
  using Format = PanelFormat<T, S>;
  constexpr Index lanes = simd::kLanes<T>, width = Format::kWidth;
  constexpr Index rows = Rows, vectors = tile_vectors<T>(Rows);
  constexpr bool scaled = Format::kScaled;
  const auto at = [&](Index r, Index v) { return c + r * width + lane + v * lanes; };

  const Index step = scaled ? kQuantGroup : depth;
  for (Index begin = 0; begin < depth; begin += step) {
    V sum[std::size_t{Rows}][std::size_t{vectors}];
CASA_UNROLL
    for (Index r = 0; r < rows; ++r)
CASA_UNROLL
      for (Index v = 0; v < vectors; ++v)
        sum[r][v] = scaled || !go_on ? V{} : simd::load(at(r, v));
    const Index count = std::min(step, depth - begin);
    const auto* w = Format::stored(weights + Format::row(begin)) + lane;
CASA_NO_UNROLL
    for (Index k = 0; k < count; ++k) {
      V x[std::size_t{vectors}];
CASA_UNROLL
      for (Index v = 0; v < vectors; ++v) {
        x[v] = simd::load(w + v * lanes);
        if constexpr (Rows > 1) simd::keep(x[v]);
      }
CASA_UNROLL
      for (Index line = 0; line < vectors * lanes * Index{sizeof(*w)}; line += 64)
        simd::prefetch(ahead.at + line);
CASA_UNROLL
      for (Index r = 0; r < rows; ++r) {
        const V y = simd::broadcast<T>(a[r]);
CASA_UNROLL
        for (Index v = 0; v < vectors; ++v) sum[r][v] = simd::fma(y, x[v], sum[r][v]);
      }
      ahead.at += ahead.step;
      w += width;
      a += Rows;
    }
    [[maybe_unused]] const auto* scale = Format::scales(weights + Format::group(begin)) + lane;
CASA_UNROLL
    for (Index v = 0; v < vectors; ++v) {
      V factor;
      if constexpr (scaled) factor = simd::load(scale + v * lanes);
CASA_UNROLL
      for (Index r = 0; r < rows; ++r) {
        V result = sum[r][v];
        if constexpr (scaled)
          result = simd::fma(result, factor, go_on ? simd::load(at(r, v)) : V{});
        simd::store(at(r, v), result);
      }
    }
    go_on = true;
  }
}

template <Scalar T>
using TileFunction = void (*)(const T*, const std::byte*, Index, Index, T*, bool, Prefetch);

/// multiply_tile for `rows` <= kMax rows.
template <Scalar T, class S, Index kMax>
TileFunction<T> tile_function(Index rows) {
  constexpr auto table = []<std::size_t... I>(std::index_sequence<I...>) {
    return std::array<TileFunction<T>, sizeof...(I)>{&multiply_tile<T, S, Index{I} + 1>...};
  }
  (std::make_index_sequence<static_cast<std::size_t>(kMax)>{});
  return table[static_cast<std::size_t>(rows - 1)];
}

}  // namespace detail

CASA_NAMESPACE_END
