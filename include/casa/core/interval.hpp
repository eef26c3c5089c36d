// The form in which every mask of the library is written.
#pragma once

#include "casa/core/config.hpp"

CASA_NAMESPACE_BEGIN

/// The half-open range [begin, end) of places in some order. Empty when begin >= end.
struct Interval {
  Index begin = 0;
  Index end = 0;

  Index size() const { return end > begin ? end - begin : 0; }
  bool contains(Index i) const { return begin <= i && i < end; }
  friend bool operator==(const Interval&, const Interval&) = default;
};

CASA_NAMESPACE_END
