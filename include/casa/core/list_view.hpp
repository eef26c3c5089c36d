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
  ListView() = default;
  ListView(std::initializer_list<T> values) : values_(values.begin(), values.size()) {}
  template <class P>
  requires std::is_same_v<P, T*> || std::is_same_v<P, const T*> ListView(P data, std::size_t count)
      : values_(data, count) {}
  template <class R>
  requires(!std::is_same_v<std::remove_cvref_t<R>, ListView> &&
           std::is_convertible_v<R&&, std::span<const T>>) ListView(R&& range)
      : values_(std::forward<R>(range)) {}

  std::span<const T> span() const { return values_; }

 private:
  std::span<const T> values_;
};

CASA_NAMESPACE_END
