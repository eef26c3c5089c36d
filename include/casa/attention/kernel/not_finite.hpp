// The keys of a block whose values are infinite or NaN: 0 times such a value is not 0.
#pragma once

#include <algorithm>
#include <span>

#include "casa/attention/kernel/dot_tiles.hpp"
#include "casa/core/interval.hpp"
#include "casa/simd/simd.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// A list of the places of such keys, and the search for them.
template <class T, class Values>
struct NotFinite {
  Values values;  ///< of the keys from `begin` on, of `padded_dim` values
  Index begin;
  Index padded_dim;
  Index* list;  ///< room for a place of each key
  std::size_t count = 0;

  std::span<const Index> places() const { return {list, count}; }

  /// Adds those of some places.
  void add(Interval keys) {
    if (zero(keys) == T(0)) return;
    for (Index place = keys.begin; place < keys.end; ++place)
      if (zero({place, place + 1}) != T(0)) list[count++] = place;
  }

  /// Adds those of a block, but for the places `others` within it.
  void add_all_but(Interval others, Interval block) {
    if (others.size() == 0) return add(block);
    add({block.begin, others.begin});
    add({others.end, block.end});
  }

 private:
  /// 0 times the values of some places, added.
  T zero(Interval keys) const {
    constexpr Index lanes = simd::kLanes<T>;
    constexpr int together = 4;  // sums that do not wait for each other
    Row<simd::Vec<T>, together> sum = {};
    for (Index j = keys.begin - begin; j < keys.end - begin; j += together) {
      Row<const Value<Values>*, together> value;
      for (int k = 0; k < together; ++k) value[k] = values[(std::min)(j + k, keys.end - begin - 1)];
      for (Index i = 0; i < padded_dim; i += lanes) {
        CASA_UNROLL
        for (int k = 0; k < together; ++k)
          sum[k] = simd::fma(simd::load(value[k] + i), simd::Vec<T>{}, sum[k]);
      }
    }
    return simd::reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3]));
  }
};

}  // namespace detail

CASA_NAMESPACE_END
