// A list that a function reads during its call: what a span is made of, or values in braces.
#pragma once

#include <initializer_list>
#include <span>
#include <type_traits>

#include "casa/core/config.hpp"

CASA_NAMESPACE_BEGIN

/// The type of a parameter that is a list of T: made of std::vector, std::array, std::span, a
/// pointer and a count, or of values in braces, as `attend(q, k, v, {{0, 14}})`. Not for keeping:
/// values in braces end with the call.
template <class T>
class ListView {
 public:
  /// An empty list.
  ListView() = default;
  /// Values in braces, which live until the end of the full expression.
  ListView(std::initializer_list<T> values) : values_(values.begin(), values.size()) {}
  /// `count` values at `data`.
  template <class P>
  requires std::is_same_v<P, T*> || std::is_same_v<P, const T*> ListView(P data, std::size_t count)
      : values_(data, count) {}
  /// Whatever converts to std::span<const T>.
  // NOLINTBEGIN(bugprone-forwarding-reference-overload): the constraint leaves copies out
  template <class R>
  requires(!std::is_same_v<std::remove_cvref_t<R>, ListView> &&
           std::is_convertible_v<R&&, std::span<const T>>) ListView(R&& range)
      : values_(std::forward<R>(range)) {}
  // NOLINTEND(bugprone-forwarding-reference-overload)

  /// The values; not owned.
  std::span<const T> span() const { return values_; }

 private:
  std::span<const T> values_;
};

CASA_NAMESPACE_END
