// Keys or values that lie at equal distances.
#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>

#include "casa/simd/simd.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// `count` rows of memory, `stride` values apart; as a list of pointers, rows behind the last
/// repeat it.
///
/// Few query rows wait for memory, and a row's address should not: on a Zen 4, a loop that takes
/// its rows from a list of pointers reads them at three quarters of the rate of one that steps.
template <class E>
struct StridedRows {
  const E* first = nullptr;
  Index stride = 0;
  Index count = 0;

  const E* operator[](Index j) const { return first + (std::min)(j, count - 1) * stride; }
  /// Without the first n.
  StridedRows operator+(Index n) const { return {first + n * stride, stride, count - n}; }
};

/// The most query rows whose keys are read so: two need more registers than AVX2 has.
inline constexpr Index kFewQueries = simd::kRegisters == 32 ? 2 : 1;

/// Whether rows are StridedRows, not a list of pointers.
template <class Rows>
inline constexpr bool kIsStrided = false;
template <class E>
inline constexpr bool kIsStrided<StridedRows<E>> = true;

/// What rows consist of.
template <class Rows>
using Value = std::remove_cvref_t<decltype(*std::declval<Rows>()[0])>;

using simd::kUnit;

}  // namespace detail

CASA_NAMESPACE_END
