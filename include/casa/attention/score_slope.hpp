// The derivative of a score function, by calling it with numbers that carry their derivative: dual
// numbers, (value, slope). So any score function that attend() takes has a backward pass.
#pragma once

#include <type_traits>
#include <utility>

#include "casa/attention/score_place.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// A number and its derivative by the score before the score function. V: a vector, or double.
template <class V>
struct Dual {
  V value{};
  V slope{};

  friend Dual operator+(Dual a, Dual b) { return {a.value + b.value, a.slope + b.slope}; }
  friend Dual operator-(Dual a, Dual b) { return {a.value - b.value, a.slope - b.slope}; }
  friend Dual operator-(Dual a) { return {-a.value, -a.slope}; }
  friend Dual operator*(Dual a, Dual b) {
    return {a.value * b.value, a.slope * b.value + a.value * b.slope};
  }
  friend Dual operator/(Dual a, Dual b) {
    const V ratio = a.value / b.value;
    return {ratio, (a.slope - ratio * b.slope) / b.value};
  }
  // With what has no derivative: a vector, or a plain number.
  template <class X>
  friend Dual operator+(Dual a, const X& b) {
    return {a.value + b, a.slope};
  }
  template <class X>
  friend Dual operator+(const X& a, Dual b) {
    return {a + b.value, b.slope};
  }
  template <class X>
  friend Dual operator-(Dual a, const X& b) {
    return {a.value - b, a.slope};
  }
  template <class X>
  friend Dual operator-(const X& a, Dual b) {
    return {a - b.value, -b.slope};
  }
  template <class X>
  friend Dual operator*(Dual a, const X& b) {
    return {a.value * b, a.slope * b};
  }
  template <class X>
  friend Dual operator*(const X& a, Dual b) {
    return {a * b.value, a * b.slope};
  }
  template <class X>
  friend Dual operator/(Dual a, const X& b) {
    return {a.value / b, a.slope / b};
  }
  template <class X>
  Dual& operator+=(const X& b) {
    return *this = *this + b;
  }
  template <class X>
  Dual& operator-=(const X& b) {
    return *this = *this - b;
  }
  template <class X>
  Dual& operator*=(const X& b) {
    return *this = *this * b;
  }
  friend auto operator<(Dual a, Dual b) { return a.value < b.value; }
  friend auto operator>(Dual a, Dual b) { return a.value > b.value; }
  friend auto operator<=(Dual a, Dual b) { return a.value <= b.value; }
  friend auto operator>=(Dual a, Dual b) { return a.value >= b.value; }
};

/// The places of At (ScalarPlace, or LanePlaces of vectors) whose numbers are dual.
template <class At>
class DualPlaces : public At {
  using V = typename At::Number;

 public:
  using Number = Dual<V>;
  using typename At::Integer;

  explicit DualPlaces(const At& at) : At(at) {}

  Number number(Number x) const { return x; }
  template <class X>
  Number number(X x) const {
    return constant(At::number(x));
  }
  template <class F>
  auto of_key(F f) const {
    return lifted(At::of_key(f));
  }
  template <class F>
  auto of_row(F f) const {
    return lifted(At::of_row(f));
  }
  template <class F>
  auto of_pair(F f) const {
    return lifted(At::of_pair(f));
  }
  template <Scalar P>
  Number lookup(const P* table, Integer i) const {
    return constant(At::lookup(table, i));
  }
  Number tanh(Number x) const {
    const V y = At::tanh(x.value);
    return {y, (At::number(1) - y * y) * x.slope};
  }
  Number exp(Number x) const {
    const V y = At::exp(x.value);
    return {y, y * x.slope};
  }
  Number(min)(Number a, Number b) const { return choose(a.value < b.value, a, b); }
  Number(max)(Number a, Number b) const { return choose(a.value > b.value, a, b); }
  template <class C>
  Number select(C c, Number a, Number b) const {
    return choose(c, a, b);
  }

 private:
  static Number constant(V value) { return {value, V{}}; }
  template <class C>
  Number choose(C c, Number a, Number b) const {
    return {At::select(c, a.value, b.value), At::select(c, a.slope, b.slope)};
  }
  template <class X>
  static auto lifted(X x) {
    if constexpr (std::is_same_v<X, V>)
      return constant(x);
    else
      return x;
  }
};

}  // namespace detail

CASA_NAMESPACE_END
