// The query rows that a mask is made for, by the places at which they stand.
#pragma once

#include <limits>
#include <span>
#include <string_view>
#include <type_traits>

#include "casa/core/error.hpp"
#include "casa/core/interval.hpp"

CASA_NAMESPACE_BEGIN

/// The type of a parameter that says at which places among the keys the query rows stand:
///
///   masks::causal(512)                     // rows 0 .. 511: a whole prompt
///   masks::causal({448, 512})              // the last 64: the others are in a cache
///   masks::causal(places)                  // any places, in any order: a vector or a span
///
/// Not for keeping: it refers to the list.
class RowPlaces {
 public:
  /// Rows at 0, 1, ... count - 1.
  RowPlaces(Index count) : range_{0, count} {}
  /// Rows at begin, begin + 1, ... end - 1.
  RowPlaces(Index begin, Index end) : range_{begin, end} {}
  /// The same.
  RowPlaces(Interval range) : range_(range) {}
  /// A row at each of these places.
  template <class R>
  requires(!std::is_same_v<R, RowPlaces> && std::is_convertible_v<const R&, std::span<const Index>>)
      RowPlaces(const R& places)
      : list_(places), is_list_(true) {}

  /// How many rows.
  Index size() const { return is_list_ ? static_cast<Index>(list_.size()) : range_.size(); }
  /// The place of row r. Not checked.
  Index operator[](Index r) const {
    return is_list_ ? list_[static_cast<std::size_t>(r)] : range_.begin + r;
  }

  /// Throws casa::error unless every place is in [0, end). `what` begins the message.
  void check(std::string_view what, Index end = (std::numeric_limits<Index>::max)()) const {
    if (is_list_) {
      for (std::size_t r = 0; r < list_.size(); ++r)
        if (list_[r] < 0 || list_[r] >= end)
          fail(what, ": rows[", r, "] must be in [0, ", end, "), got ", list_[r]);
      return;
    }
    if (range_.begin < 0 || range_.end < range_.begin || range_.end > end)
      fail(what, ": rows must be a range within [0, ", end, "), got [", range_.begin, ", ",
           range_.end, ")");
  }

 private:
  Interval range_;
  std::span<const Index> list_;
  bool is_list_ = false;
};

CASA_NAMESPACE_END
