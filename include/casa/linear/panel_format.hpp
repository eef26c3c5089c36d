// The layout of packed weights: panels of some outputs, k after k, in each stored type.
#pragma once

#include <cstddef>
#include <cstring>

#include "casa/linear/quantize.hpp"
#include "casa/simd/quads.hpp"
#include "casa/simd/simd.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// How packed weights are held. `native` is the scalar computed in; the others need float and are
/// widened in registers. int8 has one scale per 32 values along in_features (quantize.hpp).
enum class WeightType { native, bfloat16, half, int8 };

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

namespace detail {

/// Calls f.template operator()<S>() with the stored type S of `type` (int8_t for int8).
template <Scalar T, class F>
decltype(auto) with_stored_type(WeightType type, F&& f) {
  if constexpr (std::same_as<T, float>) {
    if (type == WeightType::bfloat16) return f.template operator()<bfloat16>();
    if (type == WeightType::half) return f.template operator()<half>();
    if (type == WeightType::int8) return f.template operator()<std::int8_t>();
  }
  return f.template operator()<T>();
}

/// A tag in the place of a stored type: int8 values that were converted to T, and are still to be
/// multiplied by their group's scales (also converted to T).
template <Scalar T>
struct UnscaledInt8 {};

/// The bytes of a panel: for each k, one row of kWidth outputs as `Stored`, in the order from which
/// simd::load_two() makes vectors of outputs in order. int8 and UnscaledInt8 come in groups of
/// kQuantGroup rows, each after its kWidth scales. Four rows of int8 lie together, as one row of
/// quads: products of rows in int8 take them as they are, and products of rows in float take them
/// apart at no more instructions than bytes in rows would need.
///
/// Four vectors are wide enough that one row of x, which reads a panel from end to end, has enough
/// sums under way to hide the latency of a multiply-add, and memory sees one contiguous segment:
/// on a Zen 4, 31 GB/s where four panels of two vectors, read in turn, came at 27.
template <Scalar T, class Stored>
struct PanelFormat {
  static constexpr Index kVectors = 4;
  static constexpr Index kWidth = kVectors * simd::kLanes<T>;
  static constexpr bool kUnscaled = std::same_as<Stored, UnscaledInt8<T>>;
  static constexpr bool kQuads = std::same_as<Stored, std::int8_t>;
  static constexpr bool kScaled = kQuads || kUnscaled;
  /// What a panel is an array of, and how many k each of them holds.
  using S = std::conditional_t<kUnscaled, T, std::conditional_t<kQuads, simd::WeightQuad, Stored>>;
  static constexpr Index kUnit = kQuads ? 4 : 1;
  using Scale = std::conditional_t<kUnscaled, T, bfloat16>;
  /// The format that widen_rows() writes.
  using WideStored = std::conditional_t<kScaled, UnscaledInt8<T>, T>;
  using Wide = PanelFormat<T, WideStored>;

  static constexpr Index kScaleBytes = kScaled ? kWidth * Index{sizeof(Scale)} : 0;
  static constexpr Index kRowBytes = kWidth * Index{sizeof(S)} / kUnit;
  static constexpr Index kGroupBytes = kScaleBytes + kQuantGroup * kRowBytes;

  /// Bytes from a panel's start to its row k, or to the quads that begin with it.
  static constexpr Index row(Index k) {
    return kScaled ? k / kQuantGroup * kGroupBytes + kScaleBytes + k % kQuantGroup * kRowBytes
                   : k * kRowBytes;
  }
  /// Bytes from a panel's start to the group that holds row k.
  static constexpr Index group(Index k) { return kScaled ? k / kQuantGroup * kGroupBytes : row(k); }
  static constexpr Index bytes(Index depth) {
    return kScaled ? (depth + kQuantGroup - 1) / kQuantGroup * kGroupBytes : row(depth);
  }

  static const S* stored(const std::byte* p) {
    return static_cast<const S*>(static_cast<const void*>(p));
  }
  static S* stored(std::byte* p) { return static_cast<S*>(static_cast<void*>(p)); }
  static const Scale* scales(const std::byte* group_begin) {
    return static_cast<const Scale*>(static_cast<const void*>(group_begin));
  }
  static Scale* scales(std::byte* group_begin) {
    return static_cast<Scale*>(static_cast<void*>(group_begin));
  }

  /// Packs values (count x kWidth) as rows [k, k + count) of a panel; k must begin a group.
  static void pack_rows(const T* values, Index k, Index count, std::byte* panel) {
    constexpr Index step = kScaled ? kQuantGroup : 1;
    for (Index g = 0; g < count; g += step) {
      const T* from = values + g * kWidth;
      if constexpr (kScaled) {
        pack_group(from, (std::min)(step, count - g), panel + group(k + g));
      } else {
        copy_row(from, stored(panel + row(k + g)));
      }
    }
  }

  /// The depth values of output `lane`, as products see them.
  static void unpack_row(const std::byte* panel, Index lane, Index depth, T* dst) {
    for (Index k = 0; k < depth; ++k) {
      if constexpr (kQuads) {
        const simd::WeightQuad& quad = stored(panel + row(k / kUnit * kUnit))[lane];
        dst[k] = static_cast<float>(quad.weight(k % kUnit)) * widen(scales(panel + group(k))[lane]);
      } else {
        dst[k] = widen(stored(panel + row(k))[place(lane)]);
      }
    }
  }

  /// Row k, kWidth values, as products see them.
  static void unpack_outputs(const std::byte* panel, Index k, T* to) {
    if constexpr (kQuads) {
      const S* from = stored(panel + row(k / kUnit * kUnit));
      const Scale* scale = scales(panel + group(k));
      for (Index i = 0; i < kWidth; i += simd::kLanes<T>)
        simd::store(to + i, simd::load_one_of_four(from + i, k % kUnit) * simd::load(scale + i));
    } else {
      copy_row(stored(panel + row(k)), to);
    }
  }

  /// Converts rows [0, depth), the first of which begins a group, to the format Wide.
  static void widen_rows(const std::byte* panel, Index depth, std::byte* wide) {
    constexpr Index step = kScaled ? kQuantGroup : 1;
    for (Index g = 0; g < depth; g += step) {
      if constexpr (kScaled) {
        const Scale* from = scales(panel + group(g));
        T* to = Wide::scales(wide + Wide::group(g));
        for (Index i = 0; i < kWidth; ++i) to[i] = widen(from[i]);
      }
      for (Index k = g; k < (std::min)(depth, g + step); ++k) {
        T* to = Wide::stored(wide + Wide::row(k));
        if constexpr (kQuads) {
          const S* from = stored(panel + row(k / kUnit * kUnit));
          for (Index i = 0; i < kWidth; i += simd::kLanes<T>)
            simd::store(to + i, simd::load_one_of_four(from + i, k % kUnit));
        } else {
          copy_row(stored(panel + row(k)), to);
        }
      }
    }
  }

 private:
  template <class From, class To>
  static void copy_row(const From* from, To* to) {
    constexpr Index lanes = simd::kLanes<T>;
    CASA_UNROLL
    for (Index v = 0; v < kVectors; v += 2) {
      simd::Vec<T> a, b;
      simd::load_two(from + v * lanes, a, b);
      if constexpr (simd::kLoadsPairs<To>) simd::merge_pair(a, b);
      simd::store(to + v * lanes, a);
      simd::store(to + (v + 1) * lanes, b);
    }
  }
  /// The position of output `lane` in a stored row: where load_two() takes even and odd values
  /// apart, outputs i and i + lanes lie beside each other.
  static constexpr Index place(Index lane) {
    constexpr Index lanes = simd::kLanes<T>, two = 2 * lanes;
    if constexpr (!simd::kLoadsPairs<S>) return lane;
    return lane / two * two + lane % lanes * 2 + lane % two / lanes;
  }

  // quant_scale() and quantize() for a whole group, in vectors. Rows after the last are zero.
  static void pack_group(const T* values, Index count, std::byte* to) {
    constexpr Index lanes = simd::kLanes<T>;
    std::int8_t rows[std::size_t{kQuantGroup * kWidth}] = {};
    for (Index lane = 0; lane < kWidth; lane += lanes) {
      simd::Vec<T> largest{};
      for (Index k = 0; k < count; ++k) {
        const simd::Vec<T> v = simd::load(values + k * kWidth + lane);
        largest = (simd::max)(largest, (simd::max)(v, -v));
      }
      for (Index i = 0; i < lanes; ++i) scales(to)[lane + i] = quant_scale(largest[i]);
      const simd::Vec<T> scale = simd::load(scales(to) + lane), zero{};
      const simd::Vec<T> most = simd::broadcast<T>(127);
      for (Index k = 0; k < count; ++k) {
        const simd::Vec<T> steps = simd::load(values + k * kWidth + lane) / scale;
        const simd::Vec<T> q = (simd::min)(most, (simd::max)(-most, simd::detail::round(steps)));
        const auto bytes =
            __builtin_convertvector(simd::select(scale > zero, q, zero), simd::detail::Quarter8);
        std::memcpy(rows + k * kWidth + lane, &bytes, sizeof bytes);
      }
    }
    static_assert(kWidth == simd::kBytes);
    for (Index k = 0; k < kQuantGroup; k += kUnit)
      simd::make_quads(rows + k * kWidth, kWidth, stored(to + row(k)));
  }
};

}  // namespace detail

CASA_NAMESPACE_END
