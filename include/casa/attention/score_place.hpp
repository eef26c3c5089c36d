// How a score function is called: what it is given, and the form of it that the definition uses.
//
// A score function changes scores between scale and softmax. It is a small struct,
//
//   struct Decay {  // s - rate * distance
//     double rate;
//     template <class V, class At>
//     V operator()(V s, const At& at) const {
//       return s - at.number(rate) * at.number(at.row() - at.key());
//     }
//   };
//   const auto out = casa::attend(q, k, v, mask, {}, Decay{0.1});
//
// s is scale * q.k: in the fast kernel a vector of scores, in the definition (casa::naive) one
// double. `at` says where they stand and computes what depends on it, in either form:
//
//   at.row(), at.head(), at.key()  whole numbers: the row of q, the query head, the place of the
//                                  key. + - * and comparisons work on them, also with an Index,
//                                  within 32 bits: beside float the kernel counts in no more
//   at.number(x)                   a constant, or such whole numbers, as the type of scores; not
//                                  a comparison, which is a condition for at.select()
//   at.of_key(f)                   f(key), at.of_row(f): f(row, head), at.of_pair(f): f(row, head,
//                                  key): your own function of plain Index arguments, called for
//                                  each place there is; gives whole numbers if f does
//   at.lookup(table, i)            table[i] for whole numbers i
//   at.tanh(s), at.exp(s)          at.min(a, b), at.max(a, b), at.select(a < b, x, y),
//   at.clamp(i, low, high)         of whole numbers
//
// What depends on row and head alone may be computed once for many keys: a member
// `auto rows(const At& at) const` gives it, in any struct, and operator() takes it as its third
// argument. of_row() and of_pair() call f once a lane: of_row() belongs into rows(), and of_pair()
// costs about as much as a dot product. A member `void check(const AttentionShape&, Index rows,
// Index keys) const` throws casa::error where the parameters do not fit; it is called first.
//
// A score of -inf hides its key (the value must be finite all the same), NaN gives NaN in its row.
// Scores of keys that the mask hides are computed, too, and thrown away, whatever they are.
// So i of lookup(table, i) must lie in the table for every row and key, seen or not: clamp() it.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "casa/attention/input.hpp"

CASA_NAMESPACE_BEGIN

/// Leaves scores as they are: attention without a score function.
struct PlainScore {};

namespace detail {

/// What a comparison of whole numbers gives in ScalarPlace: no number, because lanes of a vector
/// that are true hold -1.
struct Condition {
  bool holds;

  explicit operator bool() const { return holds; }
  friend Condition operator!(Condition a) { return {!a.holds}; }
  friend Condition operator~(Condition a) { return {!a.holds}; }
  friend Condition operator&(Condition a, Condition b) { return {a.holds && b.holds}; }
  friend Condition operator|(Condition a, Condition b) { return {a.holds || b.holds}; }
  friend Condition operator^(Condition a, Condition b) { return {a.holds != b.holds}; }
  friend Condition operator&&(Condition a, Condition b) { return a & b; }
  friend Condition operator||(Condition a, Condition b) { return a | b; }
  friend Condition operator==(Condition a, Condition b) { return {a.holds == b.holds}; }
  friend Condition operator!=(Condition a, Condition b) { return a ^ b; }
};

/// A whole number of ScalarPlace: an Index whose comparisons are conditions.
struct WholeNumber {
  Index value;

  WholeNumber(Index x) : value(x) {}
  explicit operator Index() const { return value; }
  explicit operator bool() const { return value != 0; }
  friend WholeNumber operator-(WholeNumber a) { return -a.value; }
  friend WholeNumber operator~(WholeNumber a) { return ~a.value; }
  friend WholeNumber operator+(WholeNumber a, WholeNumber b) { return a.value + b.value; }
  friend WholeNumber operator-(WholeNumber a, WholeNumber b) { return a.value - b.value; }
  friend WholeNumber operator*(WholeNumber a, WholeNumber b) { return a.value * b.value; }
  friend WholeNumber operator/(WholeNumber a, WholeNumber b) { return a.value / b.value; }
  friend WholeNumber operator%(WholeNumber a, WholeNumber b) { return a.value % b.value; }
  friend WholeNumber operator&(WholeNumber a, WholeNumber b) { return a.value & b.value; }
  friend WholeNumber operator|(WholeNumber a, WholeNumber b) { return a.value | b.value; }
  friend WholeNumber operator^(WholeNumber a, WholeNumber b) { return a.value ^ b.value; }
  friend WholeNumber operator<<(WholeNumber a, WholeNumber b) { return a.value << b.value; }
  friend WholeNumber operator>>(WholeNumber a, WholeNumber b) { return a.value >> b.value; }
  friend Condition operator<(WholeNumber a, WholeNumber b) { return {a.value < b.value}; }
  friend Condition operator>(WholeNumber a, WholeNumber b) { return {a.value > b.value}; }
  friend Condition operator<=(WholeNumber a, WholeNumber b) { return {a.value <= b.value}; }
  friend Condition operator>=(WholeNumber a, WholeNumber b) { return {a.value >= b.value}; }
  friend Condition operator==(WholeNumber a, WholeNumber b) { return {a.value == b.value}; }
  friend Condition operator!=(WholeNumber a, WholeNumber b) { return {a.value != b.value}; }
};

}  // namespace detail

/// One row, head and key, for score functions that compute in double. The kernel's form of it has
/// the same members, of vectors.
class ScalarPlace {
 public:
  using Number = double;                ///< of scores
  using Integer = detail::WholeNumber;  ///< of rows, heads, keys

  /// The place of one score.
  ScalarPlace(Index row, Index head, Index key) : row_(row), head_(head), key_(key) {}

  Integer row() const { return row_; }    ///< row of q
  Integer head() const { return head_; }  ///< query head
  Integer key() const { return key_; }    ///< place among the keys

  /// x as a number of scores.
  template <class X>
  Number number(X x) const {
    constexpr bool is_number = !std::is_same_v<X, bool> && !std::is_same_v<X, detail::Condition>;
    static_assert(is_number,
                  "casa: a comparison is no number; at.select(a < b, x, y) chooses by it");
    if constexpr (std::is_same_v<X, Integer>)
      return static_cast<Number>(x.value);
    else if constexpr (is_number)
      return static_cast<Number>(x);
    else
      return 0;
  }
  /// f(key).
  template <class F>
  auto of_key(F f) const {
    return result(f(key_));
  }
  /// f(row, head).
  template <class F>
  auto of_row(F f) const {
    return result(f(row_, head_));
  }
  /// f(row, head, key).
  template <class F>
  auto of_pair(F f) const {
    return result(f(row_, head_, key_));
  }
  /// table[i].
  template <Scalar P>
  Number lookup(const P* table, Integer i) const {
    return static_cast<Number>(table[i.value]);
  }

  Number tanh(Number x) const { return std::tanh(x); }                ///< tanh x
  Number exp(Number x) const { return std::exp(x); }                  ///< e^x
  Number(min)(Number a, Number b) const { return (std::min)(a, b); }  ///< the smaller
  Number(max)(Number a, Number b) const { return (std::max)(a, b); }  ///< the larger
  /// c ? a : b, of numbers.
  template <class C>
  Number select(const C& c, Number a, Number b) const {
    return static_cast<bool>(c) ? a : b;
  }
  Integer clamp(Integer i, Index low, Index high) const {  ///< within [low, high]
    return std::clamp(i.value, low, high);
  }

 private:
  template <class X>
  static auto result(X x) {
    if constexpr (std::is_integral_v<X>)
      return Integer(static_cast<Index>(x));
    else
      return static_cast<Number>(x);
  }

  Index row_, head_, key_;
};

namespace detail {

/// What the rows() of a score function without one gives.
struct NoRows {};

template <class Score, class At>
inline constexpr bool kHasRows = requires(const Score& score, const At& at) {
  score.rows(at);
};

/// What a score function computes of rows and heads alone.
template <class Score, class At>
auto score_rows([[maybe_unused]] const Score& score, [[maybe_unused]] const At& at) {
  if constexpr (kHasRows<Score, At>)
    return score.rows(at);
  else
    return NoRows{};
}

/// The scores that a score function makes of s.
template <class Score, class V, class At, class Rows>
[[gnu::always_inline]] inline V apply_score(const Score& score, V s, const At& at,
                                            [[maybe_unused]] const Rows& rows) {
  if constexpr (std::is_same_v<Rows, NoRows>)
    return score(s, at);
  else
    return score(s, at, rows);
}

/// The score of one row, head and key in double, from scale * q . k.
template <class Score>
double score_in_double(const Score& score, double s, Index row, Index head, Index key) {
  if constexpr (std::is_same_v<Score, PlainScore>) {
    return s;
  } else {
    const ScalarPlace at(row, head, key);
    return apply_score(score, s, at, score_rows(score, at));
  }
}

/// Throws casa::error where the parameters of a score function do not fit.
template <class Score, Scalar T, class S>
void check_score(const Score& score, const AttentionInput<T, S>& in) {
  if constexpr (!std::is_same_v<Score, PlainScore>) {
    constexpr Index most = (std::numeric_limits<std::int32_t>::max)();
    const Index rows = in.num_rows(), keys = in.num_keys();
    require((std::max)({rows, keys, in.shape.num_heads}) < most,
            "attention: a score function takes fewer than 2^31 rows, heads and keys, got ", rows,
            ", ", in.shape.num_heads, " and ", keys);
    if constexpr (requires { score.check(in.shape, rows, keys); })
      score.check(in.shape, rows, keys);
  }
}

/// Whether Score can be called as a score function; if not, one sentence says what it must be.
template <class Score>
constexpr bool is_score() {
  if constexpr (std::is_same_v<Score, PlainScore>) {
    return true;
  } else {
    // (Not by apply_score, whose body is outside of what a requirement looks at.)
    using Rows =
        decltype(score_rows(std::declval<const Score&>(), std::declval<const ScalarPlace&>()));
    constexpr bool callable = [] {
      if constexpr (std::is_same_v<Rows, NoRows>)
        return std::is_invocable_r_v<double, const Score&, double, const ScalarPlace&>;
      else
        return std::is_invocable_r_v<double, const Score&, double, const ScalarPlace&, const Rows&>;
    }();
    static_assert(callable,
                  "casa: a score function is a struct with a member template <class V, class At> V "
                  "operator()(V score, const At& at) const, as attention/score_place.hpp shows");
    return callable;
  }
}

}  // namespace detail

CASA_NAMESPACE_END
