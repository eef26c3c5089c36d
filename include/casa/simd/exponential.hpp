// Exponentials of vectors, to 2 ulp, and tanh.
#pragma once

#include "casa/simd/vector.hpp"

CASA_NAMESPACE_BEGIN

namespace simd {

namespace detail {

// (2^r - 1) / r on [-1/2, 1/2], times Scale: c1 + r c2 + ..., interpolated at Chebyshev nodes of
// 2^r. Error of 2^r before rounding: float 5e-9, double 1e-17.
template <class V>
CASA_INLINE V exp2_quotient(V r, Element<V> scale) {
  using T = Element<V>;
  if constexpr (sizeof(T) == 4) {
    V p = broadcast<T>(1.545316295e-4f * scale);
    p = fma(p, r, broadcast<T>(1.339086336e-3f * scale));
    p = fma(p, r, broadcast<T>(9.618082558e-3f * scale));
    p = fma(p, r, broadcast<T>(5.550357114e-2f * scale));
    p = fma(p, r, broadcast<T>(2.402265076e-1f * scale));
    return fma(p, r, broadcast<T>(6.931471880e-1f * scale));
  } else {
    V p = broadcast<T>(4.454960598186518394e-10 * scale);
    p = fma(p, r, broadcast<T>(7.0725859492692237e-9 * scale));
    p = fma(p, r, broadcast<T>(1.017806244584577352e-7 * scale));
    p = fma(p, r, broadcast<T>(1.321544258792168965e-6 * scale));
    p = fma(p, r, broadcast<T>(0.00001525273382983611839 * scale));
    p = fma(p, r, broadcast<T>(0.0001540353044173605015 * scale));
    p = fma(p, r, broadcast<T>(0.001333355814641693531 * scale));
    p = fma(p, r, broadcast<T>(0.009618129107606888527 * scale));
    p = fma(p, r, broadcast<T>(0.05550410866482159434 * scale));
    p = fma(p, r, broadcast<T>(0.2402265069591009822 * scale));
    return fma(p, r, broadcast<T>(0.6931471805599453094 * scale));
  }
}
// 2^r on [-1/2, 1/2], times Scale.
template <class V>
CASA_INLINE V exp2_polynomial(V r, Element<V> scale) {
  return fma(exp2_quotient(r, scale), r, broadcast<Element<V>>(scale));
}
// 2^r - 1, whose relative error is small for small r, too.
template <class V>
CASA_INLINE V exp2_minus_one(V r) {
  return exp2_quotient(r, Element<V>(1)) * r;
}

// Added, it leaves x rounded to an integer in the low mantissa bits (1.5 * 2^mantissa).
template <class T>
inline constexpr T kRounder = sizeof(T) == 4 ? T(12582912) : T(6755399441055744);
template <class T>
inline constexpr int kMantissa = sizeof(T) == 4 ? 23 : 52;
template <class T>
inline constexpr int kBias = sizeof(T) == 4 ? 127 : 1023;

// The maskz forms (all lanes on) give the same instructions; g++ 12's plain ones warn of an
// uninitialised operand wherever they are inlined. (Unoptimised they are macros, which warn of the
// mask's sign.)
#if CASA_SIMD_AVX512
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"
CASA_INLINE VecF round(VecF x) { return _mm512_maskz_roundscale_ps(0xffff, x, 8); }
CASA_INLINE VecD round(VecD x) { return _mm512_maskz_roundscale_pd(0xff, x, 8); }
// p * 2^n; with n = -inf it is 0 whatever p is (p is NaN then), with +inf it is +inf.
CASA_INLINE VecF scale_by_power(VecF p, VecF n) { return _mm512_maskz_scalef_ps(0xffff, p, n); }
CASA_INLINE VecD scale_by_power(VecD p, VecD n) { return _mm512_maskz_scalef_pd(0xff, p, n); }
#pragma GCC diagnostic pop
#else
template <class V>
CASA_INLINE V round(V x) {
  const V rounder = broadcast<Element<V>>(kRounder<Element<V>>);
  return (x + rounder) - rounder;
}
// p * 2^n for |n| small enough that both halves are normal numbers, also where the result is not.
template <class V>
CASA_INLINE V scale_by_power(V p, V n) {
  using T = Element<V>;
  using I = IntOf<T>;
  const V rounder = broadcast<T>(kRounder<T>);
  const V t = n * T(0.5) + rounder;
  const V half1 = t - rounder, half2 = n - half1;
  const IntVec<T> one = broadcast<I>(I{kBias<T>} << kMantissa<T>);
  const V s1 = bits_as<V>((bits_as<IntVec<T>>(t) << kMantissa<T>)+one);
  const V s2 = bits_as<V>((bits_as<IntVec<T>>(half2 + rounder) << kMantissa<T>)+one);
  return p * s1 * s2;
}
#endif

}  // namespace detail

/// 2^x, to 2 ulp; exactly 1 at 0, 0 at -inf, +inf at +inf, NaN at NaN, gradual underflow.
template <class V>
CASA_INLINE V exp2(V x) {
  using T = Element<V>;
#if !CASA_SIMD_AVX512
  constexpr T bound = sizeof(T) == 4 ? T(200) : T(1200);
  x = (max)(broadcast<T>(-bound), (min)(broadcast<T>(bound), x));
#endif
  const V n = detail::round(x);
  return detail::scale_by_power(detail::exp2_polynomial(x - n, T(1)), n);
}

/// exp2 for x <= 0, as a softmax needs it: one step cheaper where the machine has no scaling by
/// powers.
template <class V>
CASA_INLINE V exp2_nonpositive(V x) {
#if CASA_SIMD_AVX512
  return exp2(x);
#else
  using T = Element<V>;
  // The polynomial carries a factor 2^offset, so that adding n to its exponent stays normal; the
  // last multiplication takes it away again and underflows where the result does.
  constexpr T offset = sizeof(T) == 4 ? T(0x1p+64) : T(0x1p+128);
  x = (max)(broadcast<T>(sizeof(T) == 4 ? T(-180) : T(-1140)), x);
  const V rounder = broadcast<T>(detail::kRounder<T>);
  const V t = x + rounder;
  const V p = detail::exp2_polynomial(x - (t - rounder), offset);
  const IntVec<T> scaled = bits_as<IntVec<T>>(p) + (bits_as<IntVec<T>>(t) << detail::kMantissa<T>);
  return bits_as<V>(scaled) * (T(1) / offset);
#endif
}

/// e^x, to 2 ulp (ln 2 is taken off in two parts); the same special values as exp2.
template <class V>
CASA_INLINE V exp(V x) {
  using T = Element<V>;
  constexpr T bound = sizeof(T) == 4 ? T(120) : T(800);
  x = (max)(broadcast<T>(-bound), (min)(broadcast<T>(bound), x));
  constexpr T log2e = T(1.4426950408889634074);
  constexpr T ln2_high = sizeof(T) == 4 ? T(0.693145751953125) : T(0.693147180369123816490);
  constexpr T ln2_low = sizeof(T) == 4 ? T(1.42860682030941723e-6) : T(1.90821492927058770002e-10);
  const V n = detail::round(x * log2e);
  V r = fma(n, broadcast<T>(-ln2_high), x);
  r = fma(n, broadcast<T>(-ln2_low), r) * log2e;
  return detail::scale_by_power(detail::exp2_polynomial(r, T(1)), n);
}

/// tanh x, to 4 ulp, also of small x; +-1 at +-inf, NaN at NaN.
template <class V>
CASA_INLINE V tanh(V x) {
  // Of y = -2 |x|, tanh |x| = -m / (2 + m) with m = e^y - 1. With 2^(n + r) = e^y and p = 2^r - 1,
  // which the polynomial without its constant gives, m = 2^n p + (2^n - 1) cancels nowhere.
  using T = Element<V>;
  constexpr T bound = sizeof(T) == 4 ? T(-30) : T(-70);  // there tanh rounds to 1
  const V magnitude = select(x < V{}, -x, x);
  const V y = (max)(broadcast<T>(bound), magnitude * T(-2.8853900817779268147));  // -2 log2(e) |x|
  const V n = detail::round(y);
  const V p = detail::exp2_minus_one(y - n);
  const V power = detail::scale_by_power(broadcast<T>(1), n);
  const V m = fma(power, p, power - T(1));
  const V t = (V{} - m) / (m + T(2));
  return select(x < V{}, -t, t);
}

}  // namespace simd

CASA_NAMESPACE_END
