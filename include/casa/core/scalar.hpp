// Scalar types: float and double to compute in, and also bfloat16 and half to store in.
#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>

#include "casa/core/bits.hpp"
#include "casa/core/config.hpp"

CASA_NAMESPACE_BEGIN

/// bfloat16: the upper half of a float. narrow<bfloat16>(x) rounds a float, widen(b) gives it back.
struct bfloat16 {
  std::uint16_t bits;  ///< sign, 8 bits of exponent, 7 of mantissa

  bfloat16() = default;                             ///< not initialised
  constexpr bfloat16(std::uint16_t b) : bits(b) {}  ///< these bits
  /// Not a value: narrow<bfloat16>(x) rounds.
  template <class X>
  requires std::is_floating_point_v<X> bfloat16(X)
  = delete;
  friend bool operator==(bfloat16, bfloat16) = default;
};

/// IEEE binary16. narrow<half>(x) rounds a float, widen(h) gives it back.
struct half {
  std::uint16_t bits;  ///< sign, 5 bits of exponent, 10 of mantissa

  half() = default;                             ///< not initialised
  constexpr half(std::uint16_t b) : bits(b) {}  ///< these bits
  /// Not a value: narrow<half>(x) rounds.
  template <class X>
  requires std::is_floating_point_v<X> half(X)
  = delete;
  friend bool operator==(half, half) = default;
};

/// The types that are computed in.
template <class T>
concept Scalar = std::same_as<T, float> || std::same_as<T, double>;

/// The types that weights and caches may be stored in.
template <class S>
concept Storage = Scalar<S> || std::same_as<S, bfloat16> || std::same_as<S, half>;

/// S can be the storage type where T is computed in: T itself, or with float a 16-bit type.
template <class S, class T>
concept StorageFor = Scalar<T> && Storage<S> &&
    (std::same_as<S, T> || (std::same_as<T, float> && sizeof(S) == 2));

/// The value of x in the type it is computed in, exactly.
inline float widen(bfloat16 x) { return detail::bit_cast<float>(std::uint32_t{x.bits} << 16); }

/// The same; infinities and NaN stay what they are.
inline float widen(half x) {
  const std::uint32_t sign = std::uint32_t{x.bits & 0x8000u} << 16;
  const std::uint32_t magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u)  // infinity, NaN
    return detail::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  if (magnitude >= 0x400u)  // normal: rebias the exponent from 15 to 127
    return detail::bit_cast<float>(sign | ((magnitude << 13) + (112u << 23)));
  const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;
  return detail::bit_cast<float>(sign | detail::bit_cast<std::uint32_t>(subnormal));
}

/// The same for what is not narrow.
inline float widen(float x) { return x; }
/// The same.
inline double widen(double x) { return x; }

namespace detail {

inline bfloat16 to_bfloat16(float x) {
  const auto u = detail::bit_cast<std::uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u)  // NaN stays NaN: rounding could carry it to infinity
    return {static_cast<std::uint16_t>((u >> 16) | 0x40u)};
  return {static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

inline half to_half(float x) {
  const auto u = detail::bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = (u >> 16) & 0x8000u;
  const std::uint32_t magnitude = u & 0x7fffffffu;
  std::uint32_t bits = 0;
  if (magnitude > 0x7f800000u) {
    bits = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  } else if (magnitude >= 0x477ff000u) {  // 65520 and more round to infinity
    bits = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {  // normal half
    bits = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  } else {  // adding 0.5 leaves the value, rounded to nearest even, in the low mantissa bits
    const float shifted = detail::bit_cast<float>(magnitude) + 0.5f;
    bits = detail::bit_cast<std::uint32_t>(shifted) - 0x3f000000u;
  }
  return {static_cast<std::uint16_t>(sign | bits)};
}

}  // namespace detail

/// x as S, rounded to nearest, ties to even; NaN stays NaN, too large becomes infinity.
template <Storage S, Scalar T>
S narrow(T x) {
  if constexpr (std::same_as<S, bfloat16>) {
    return detail::to_bfloat16(static_cast<float>(x));
  } else if constexpr (std::same_as<S, half>) {
    return detail::to_half(static_cast<float>(x));
  } else {
    return static_cast<S>(x);
  }
}

CASA_NAMESPACE_END
