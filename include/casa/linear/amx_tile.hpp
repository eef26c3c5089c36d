// Products on AMX's tiles (simd/amx.hpp): how rows and weights come to lie as tiles read them, and
// the micro-kernels.
//
// Rows of x are packed 16 at a time, 32 of k after 32 of k. The weights' side of a tile is rows of
// 16 outputs, four bytes of k each:
//
//   int8      A row of quads in a panel (panel_format.hpp) holds four k of kWidth outputs, output
//             after output: any 16 of them are a row of a tile, the next row lies 4 kWidth bytes
//             on, and the kQuantGroup = 32 values that share a scale are 8 such rows. So panels are
//             read in place. With VNNI they hold 128 more than the weight, which tdpbsud multiplies
//             as it is, without a sign; sums then lack QuantizedValues::start.
//   bfloat16  A panel has single rows of k. Two of them are interleaved once for each block of k,
//             into scratch, and all tiles of rows use the result: 4 instructions for 128 bytes.
#pragma once

#include "casa/linear/tile.hpp"
#include "casa/simd/amx.hpp"

#if CASA_AMX

CASA_NAMESPACE_BEGIN

namespace detail {

/// The k of one tile, of both types: int8 fills half of a tile's row, because the sum of each group
/// of weights is multiplied by a scale of its own.
inline constexpr Index kAmxDepth = 32;
static_assert(kAmxDepth == kQuantGroup);
/// The outputs of a tile's row, and how many tiles stand beside each other in one call.
inline constexpr Index kAmxOutputs = simd::kAmxBytes / 4;
inline constexpr Index kAmxStrips =
    (std::min)(Index{2}, PanelFormat<float, float>::kWidth / kAmxOutputs);

/// kAmxRows rows of x times kAmxDepth of k, rounded to bfloat16. What x does not have is 0.
struct alignas(64) AmxPairs {
  simd::bfloat16_pair rows[std::size_t{simd::kAmxRows}][std::size_t{kAmxDepth / 2}];
};
/// The same rounded to whole numbers of steps.
struct alignas(64) AmxBytes {
  std::int8_t rows[std::size_t{simd::kAmxRows}][std::size_t{kAmxDepth}];
  float scale[std::size_t{simd::kAmxRows}];         ///< as in QuantizedValues
  std::int32_t start[std::size_t{simd::kAmxRows}];  ///< likewise
};
/// What rows that meet weights of type S are packed as.
template <class S>
using AmxRows = std::conditional_t<std::same_as<S, std::int8_t>, AmxBytes, AmxPairs>;

/// The configuration for such rows.
template <class A>
inline constexpr simd::AmxConfig kAmxConfig = simd::amx_config(Index{sizeof(A::rows[0])});

/// Packs at most kAmxRows rows into `to`, one for each kAmxDepth of k.
inline void pack_amx(MatrixView<const float> x, AmxPairs* to) {
  constexpr Index lanes = simd::kLanes<float>;
  for (Index k = 0; k < x.cols(); k += kAmxDepth, ++to)
    for (Index r = 0; r < simd::kAmxRows; ++r)
      for (Index i = 0; i < kAmxDepth; i += 2 * lanes) {
        const auto at = [&](Index c) {
          const Index count = r < x.rows() ? std::clamp<Index>(x.cols() - c, 0, lanes) : 0;
          return count > 0 ? load_n(x.row(r) + c, count) : simd::VecF{};
        };
        simd::store(to->rows[r] + i / 2, simd::to_pairs<1>(at(k + i), at(k + i + lanes)));
      }
}
inline void pack_amx(MatrixView<const float> x, AmxBytes* to) {
  for (Index k = 0; k < x.cols(); k += kRowGroup, to += kRowGroup / kAmxDepth) {
    const Index count = (std::min)(kRowGroup, x.cols() - k);
    const Index parts = ceil_div(count, kAmxDepth);
    for (Index r = 0; r < simd::kAmxRows; ++r) {
      QuantizedValues values[std::size_t{kRowGroup / kAmxDepth}] = {};
      if (r < x.rows())
        quantize_row_group(x.row(r) + k, count, values[0], parts > 1 ? values + 1 : nullptr);
      for (Index p = 0; p < parts; ++p) {
        for (Index q = 0; q < kGroupQuads; ++q)
          simd::store_bytes(to[p].rows[r] + 4 * q, values[p].quads[q]);
        to[p].scale[r] = values[p].scale;
        to[p].start[r] = values[p].start;
      }
    }
  }
}

/// Rows [0, depth) of a panel of bfloat16 as pairs of k for output after output; up to the next
/// multiple of kAmxDepth the pairs are 0. (In a panel's row, outputs i and i + lanes lie beside
/// each other: see PanelFormat.)
inline void interleave_rows(const bfloat16* panel, Index depth, simd::bfloat16_pair* to) {
  constexpr Index lanes = simd::kLanes<float>, width = PanelFormat<float, bfloat16>::kWidth;
  constexpr std::uint32_t low = 0xffffu;
  for (Index k = 0; k < ceil_div(depth, kAmxDepth) * kAmxDepth; k += 2, to += width)
    for (Index i = 0; i < width; i += 2 * lanes) {
      const auto row = [&](Index at) {
        return at < depth ? simd::detail::load_as<simd::VecPairs>(panel + at * width + i)
                          : simd::VecPairs{};
      };
      const simd::VecPairs even = row(k), odd = row(k + 1);
      simd::store(to + i, (even & low) | (odd << 16));
      simd::store(to + i + lanes, (even >> 16) | (odd & ~low));
    }
}

/// Prefetches the next step bytes.
inline void prefetch_step(Prefetch& ahead) {
  for (Index i = 0; i < ahead.step; i += 64) simd::prefetch(ahead.at + i);
  ahead.at += ahead.step;
}

/// Calls f.template operator()<I>() for I in [0, N).
template <Index N, class F>
CASA_INLINE void for_each_tile(F f) {
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    (f.template operator()<static_cast<int>(I)>(), ...);
  }
  (std::make_index_sequence<std::size_t{N}>{});
}

/// c (+)= a w for `tiles` (1 or 2) tiles of rows, `next_rows` apart, and kAmxStrips strips of
/// outputs from `lane` on: a (tiles x blocks), w the block's pairs (interleave_rows), c (rows x
/// kWidth). Two tiles of rows by two of outputs load four tiles for four products. Each 32 of k
/// become two sums, of even and of odd k, which are added to c: so an output has the same bits
/// whatever rows stand beside it.
template <Index Tiles>
void multiply_amx(const AmxPairs* a, [[maybe_unused]] Index next_rows, const simd::bfloat16_pair* w,
                  Index lane, Index blocks, float* c, bool accumulate, Prefetch& ahead) {
  using simd::Amx;
  constexpr Index width = PanelFormat<float, bfloat16>::kWidth, stride = width * Index{sizeof(*w)};
  const auto sums = [&]<int T>() {
    return c + T / kAmxStrips * simd::kAmxRows * width + lane + T % kAmxStrips * kAmxOutputs;
  };
  for_each_tile<Tiles * kAmxStrips>([&]<int T>() {
    if (accumulate)
      Amx::load<T>(sums.template operator()<T>(), stride);
    else
      Amx::zero<T>();
  });
  w += lane;
  for (Index b = 0; b < blocks; ++b, w += kAmxDepth / 2 * width) {
    for_each_tile<Tiles>(
        [&]<int T>() { Amx::load<4 + T>(a + T * next_rows + b, simd::kAmxBytes); });
    for_each_tile<kAmxStrips>([&]<int T>() { Amx::load<6 + T>(w + T * kAmxOutputs, stride); });
    for_each_tile<Tiles * kAmxStrips>([&]<int T>() {
      Amx::multiply_bfloat16<T, 4 + T / int{kAmxStrips}, 6 + T % int{kAmxStrips}>();
    });
    prefetch_step(ahead);
  }
  for_each_tile<Tiles * kAmxStrips>(
      [&]<int T>() { Amx::store<T>(sums.template operator()<T>(), stride); });
}

/// The same for one tile of rows in int8 and the panel's own quads. What is computed of the integer
/// sums is what multiply_quantized() computes, in its order, so that the bits are the same.
inline void multiply_amx(const AmxBytes* a, const std::byte* weights, Index lane, Index blocks,
                         float* c, bool accumulate, Prefetch& ahead) {
  using simd::Amx;
  using Format = PanelFormat<float, std::int8_t>;
  using Byte = std::conditional_t<simd::kQuadOffset == 0, std::int8_t, std::uint8_t>;
  constexpr Index width = Format::kWidth, lanes = simd::kLanes<float>;
  constexpr Index outputs = kAmxStrips * kAmxOutputs, stride = width * Index{sizeof(float)};
  constexpr Index parts = kRowGroup / kQuantGroup;
  static_assert(parts == 2 && Format::kRowBytes * Format::kUnit == stride);
  alignas(64) std::int32_t sums[parts][std::size_t{simd::kAmxRows}][std::size_t{outputs}];
  const auto multiply = [&]<int Part>() {
    Amx::load<4 + Part>(a[Part].rows, kAmxDepth);
    const auto* w = Format::stored(weights + Part * Format::kGroupBytes + Format::row(0)) + lane;
    for_each_tile<kAmxStrips>([&]<int S>() {
      constexpr int T = 2 * Part + S;
      Amx::zero<T>();
      Amx::load<6 + S>(w + S * kAmxOutputs, stride);
      Amx::multiply_bytes<T, 4 + Part, 6 + S, Byte>();
      Amx::store<T>(sums[Part][0] + S * kAmxOutputs, Index{sizeof sums[0][0]});
    });
  };
  for (Index left = blocks; left > 0; left -= parts) {
    multiply.template operator()<0>();
    if (left > 1) multiply.template operator()<1>();
    for (Index v = 0; v < outputs; v += lanes) {
      const auto scale = [&](Index part) {
        return simd::load(Format::scales(weights + part * Format::kGroupBytes) + lane + v);
      };
      const simd::VecF scales[] = {scale(0), left > 1 ? scale(1) : simd::VecF{}};
      for (Index r = 0; r < simd::kAmxRows; ++r) {
        const auto add = [&](Index p, simd::VecF sum) {
          const auto whole =
              simd::detail::load_as<simd::VecI>(sums[p][r] + v) + simd::broadcast(a[p].start[r]);
          return simd::fused(__builtin_convertvector(whole, simd::VecF), scales[p], sum);
        };
        simd::VecF sum = add(0, simd::VecF{});
        if (left > 1) sum = add(1, sum);
        float* to = c + r * width + lane + v;
        simd::store(to, simd::fused(sum, simd::broadcast(a[0].scale[r]),
                                    accumulate ? simd::load(to) : simd::VecF{}));
      }
    }
    for (Index p = 0; p < (std::min)(left, parts); ++p) prefetch_step(ahead);
    a += parts;
    weights += parts * Format::kGroupBytes;
    accumulate = true;
  }
}

}  // namespace detail

CASA_NAMESPACE_END

#endif
