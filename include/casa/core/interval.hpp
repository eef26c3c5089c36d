// An interval of places: the form in which every mask of the library is written.
#pragma once

#include "casa/core/config.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// The half-open range [begin, end) of places in some order. Empty when begin >= end.
struct Interval {
  Index begin = 0;  ///< the first place in it
  Index end = 0;    ///< one past its last place

  /// Places in it; 0 if empty.
  CASA_COMMON_INLINE Index size() const { return end > begin ? end - begin : 0; }
  /// Whether place i is in it.
  CASA_COMMON_INLINE bool contains(Index i) const { return begin <= i && i < end; }
  CASA_COMMON_INLINE friend bool operator==(const Interval&, const Interval&) = default;
};

CASA_COMMON_NAMESPACE_END
