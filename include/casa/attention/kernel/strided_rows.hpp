// A segment of memory: keys or values that lie at equal distances.
#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>

#include "casa/simd/simd.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// `count` rows of memory, `stride` values apart. It is indexed like the list of pointers that
/// other jobs read; an index beyond the last row gives the last row. One or two query rows wait for
/// memory, and addresses should be known early: on a Zen 4, a loop that steps from row to row reads
/// 30 GB/s, one that loads each address from a list 22.
template <class E>
struct StridedRows {
  const E* first = nullptr;
  Index stride = 0;
  Index count = 0;

  const E* operator[](Index j) const { return first + (std::min)(j, count - 1) * stride; }
  /// Without the first n.
  StridedRows operator+(Index n) const { return {first + n * stride, stride, count - n}; }
};

/// The most query rows whose keys are read as segments: with 16 registers two rows' sums do not
/// fit.
inline constexpr Index kFewQueries = simd::kRegisters == 32 ? 2 : 1;

/// Whether rows are StridedRows, not a list of pointers.
template <class Rows>
inline constexpr bool kIsStrided = false;
template <class E>
inline constexpr bool kIsStrided<StridedRows<E>> = true;

/// The type of the values of a list of rows.
template <class Rows>
using Value = std::remove_cvref_t<decltype(*std::declval<Rows>()[0])>;

using simd::kUnit;

}  // namespace detail

CASA_NAMESPACE_END
