// Score functions by name: soft cap, ALiBi, relative position bias, dense bias, a factor for each
// head, and several of them in order. score_place.hpp says how to write another.
#pragma once

#include <span>
#include <tuple>
#include <utility>

#include "casa/attention/score_place.hpp"
#include "casa/core/memory.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Throws casa::error unless a list is empty or has `count` places within +-2^29, so that the
/// difference of two, and an offset of as much, fit the 32-bit numbers of the kernel.
inline void check_places(std::string_view what, std::span<const Index> places, Index count) {
  if (places.empty()) return;
  require_equal(what, static_cast<Index>(places.size()), count);
  constexpr Index bound = Index{1} << 29;
  for (std::size_t i = 0; i < places.size(); ++i)
    if (places[i] < -bound || places[i] > bound)
      fail(what, "[", i, "] must lie within +-2^29, got ", places[i]);
}

inline Index place_of(std::span<const Index> places, Index i) {
  return places.empty() ? i : places[static_cast<std::size_t>(i)];
}

/// The place of each key.
template <class At>
auto key_places(std::span<const Index> places, const At& at) {
  return places.empty() ? at.key() : at.of_key([&](Index j) { return place_of(places, j); });
}
/// The place of each row.
template <class At>
auto query_places(std::span<const Index> places, const At& at) {
  return at.of_row([&](Index r, Index) { return place_of(places, r); });
}

}  // namespace detail

/// s becomes cap * tanh(s / cap), which stays within +-cap (Gemma 2, arXiv 2408.00118).
struct SoftCap {
  double cap = 50;  ///< in [1e-30, 1e30], so that it and 1 / cap are floats

  /// The changed scores.
  template <class V, class At>
  V operator()(V s, const At& at) const {
    return at.number(cap) * at.tanh(s * at.number(1 / cap));
  }
  /// Throws casa::error unless the cap is in its range.
  void check(const AttentionShape&, Index, Index) const {
    require(cap >= 1e-30 && cap <= 1e30, "SoftCap: cap must lie in [1e-30, 1e30], got ", cap);
  }
};

/// ALiBi (arXiv 2108.12409): s of head h becomes s + slopes[h] * (place of the key - place of the
/// query).
template <Scalar P>
struct Alibi {
  std::span<const P> slopes;                 ///< (num_heads)
  std::span<const Index> query_places = {};  ///< (rows of q); none: row r stands at r
  std::span<const Index> key_places = {};    ///< (keys); none: key j stands at j

  /// What is the same for all keys.
  template <class At>
  struct Rows {
    typename At::Integer place;  ///< of the query
    typename At::Number slope;   ///< of its head
  };
  /// What operator() is given of each row and head.
  template <class At>
  Rows<At> rows(const At& at) const {
    return {detail::query_places(query_places, at),
            at.of_row([&](Index, Index h) { return slopes[static_cast<std::size_t>(h)]; })};
  }
  /// The changed scores.
  template <class V, class At>
  V operator()(V s, const At& at, const Rows<At>& rows) const {
    return s + rows.slope * at.number(detail::key_places(key_places, at) - rows.place);
  }
  /// Throws casa::error unless every list has its size.
  void check(const AttentionShape& shape, Index num_rows, Index num_keys) const {
    require_equal("Alibi: slopes (one per head)", static_cast<Index>(slopes.size()),
                  shape.num_heads);
    detail::check_places("Alibi: query_places", query_places, num_rows);
    detail::check_places("Alibi: key_places", key_places, num_keys);
  }
};

/// A learned bias of the distance: s of head h becomes s + table(h, i) with i = place of the key -
/// place of the query + offset, clamped into the table (T5, Swin; a table of buckets that grow is
/// one whose neighbours are equal).
template <Scalar P>
struct RelativeBias {
  MatrixView<const P> table;                 ///< (num_heads, buckets)
  Index offset = 0;                          ///< the bucket of distance 0
  std::span<const Index> query_places = {};  ///< (rows of q); none: row r stands at r
  std::span<const Index> key_places = {};    ///< (keys); none: key j stands at j

  /// What is the same for all keys.
  template <class At>
  struct Rows {
    typename At::Integer place;  ///< of the query
    typename At::Integer begin;  ///< of its head's part of the table
  };
  /// What operator() is given of each row and head.
  template <class At>
  Rows<At> rows(const At& at) const {
    return {detail::query_places(query_places, at) - offset_of(at),
            at.of_row([&](Index, Index h) { return h * table.stride(); })};
  }
  /// The changed scores.
  template <class V, class At>
  V operator()(V s, const At& at, const Rows<At>& rows) const {
    const auto distance = detail::key_places(key_places, at) - rows.place;
    return s + at.lookup(table.data(), at.clamp(distance, 0, table.cols() - 1) + rows.begin);
  }
  /// Throws casa::error unless table and lists have their sizes.
  void check(const AttentionShape& shape, Index num_rows, Index num_keys) const {
    require_equal("RelativeBias: rows of table (one per head)", table.rows(), shape.num_heads);
    require(table.cols() >= 1, "RelativeBias: the table has no column");
    require_memory("RelativeBias: table", table);
    require(checked_mul(table.rows(), (std::max)(table.stride(), table.cols()), "RelativeBias") <
                Index{1} << 31,
            "RelativeBias: the table must have fewer than 2^31 values, got ", table.rows(),
            " rows of ", table.stride());
    require(offset >= -(Index{1} << 29) && offset <= Index{1} << 29,
            "RelativeBias: offset must lie within +-2^29, got ", offset);
    detail::check_places("RelativeBias: query_places", query_places, num_rows);
    detail::check_places("RelativeBias: key_places", key_places, num_keys);
  }

 private:
  template <class At>
  auto offset_of(const At& at) const {
    return at.of_row([&](Index, Index) { return offset; });
  }
};

/// A dense bias: s of row t and key j becomes s + matrix(t, j), or with a part for each head
/// matrix(h * rows + t, j). -inf hides the key; any dense mask is a bias.
template <Scalar P>
struct Bias {
  MatrixView<const P> matrix;  ///< (heads * rows of q, keys)
  Index heads = 1;             ///< num_heads; or 1: the same for all heads

  /// The changed scores.
  template <class V, class At>
  V operator()(V s, const At& at) const {
    const Index step = heads == 1 ? 0 : matrix.rows() / heads;
    return s + at.of_pair([&](Index r, Index h, Index j) { return matrix(h * step + r, j); });
  }
  /// Throws casa::error unless the matrix has its size.
  void check(const AttentionShape& shape, Index num_rows, Index num_keys) const {
    require(heads == 1 || heads == shape.num_heads, "Bias: heads must be 1 or ", shape.num_heads,
            ", got ", heads);
    require_equal("Bias: rows of matrix (heads * rows of q)", matrix.rows(),
                  checked_mul(heads, num_rows, "Bias"));
    require_equal("Bias: columns of matrix (keys)", matrix.cols(), num_keys);
    require_memory("Bias: matrix", matrix);
  }
};

/// s of head h becomes s * factors[h].
template <Scalar P>
struct HeadScale {
  std::span<const P> factors;  ///< (num_heads)

  /// The factor of each row's head.
  template <class At>
  typename At::Number rows(const At& at) const {
    return at.of_row([&](Index, Index h) { return factors[static_cast<std::size_t>(h)]; });
  }
  /// The changed scores.
  template <class V, class At>
  V operator()(V s, const At&, const typename At::Number& factor) const {
    return s * factor;
  }
  /// Throws casa::error unless there is a factor for each head.
  void check(const AttentionShape& shape, Index, Index) const {
    require_equal("HeadScale: factors (one per head)", static_cast<Index>(factors.size()),
                  shape.num_heads);
  }
};

/// Several score functions, one after the other: `Scores{SoftCap{50}, Alibi<float>{slopes}}`. A
/// bias that hides keys by -inf comes last: SoftCap makes -inf a finite score again, -cap.
template <class... Steps>
class Scores {
  using Indices = std::index_sequence_for<Steps...>;

 public:
  /// In the order in which they are applied.
  explicit Scores(Steps... steps) : steps_(std::move(steps)...) {}

  /// The i-th of them.
  template <std::size_t I>
  const auto& step() const {
    return std::get<I>(steps_);
  }
  /// What each of them computes of rows and heads.
  template <class At>
  auto rows(const At& at) const {
    return std::apply(
        [&](const Steps&... step) { return std::make_tuple(detail::score_rows(step, at)...); },
        steps_);
  }
  /// The changed scores.
  template <class V, class At, class Rows>
  V operator()(V s, const At& at, const Rows& rows) const {
    return apply(s, at, rows, Indices{});
  }
  /// Throws casa::error where the parameters of one do not fit.
  void check(const AttentionShape& shape, Index num_rows, Index num_keys) const {
    std::apply([&](const Steps&... step) { (check_one(step, shape, num_rows, num_keys), ...); },
               steps_);
  }

 private:
  template <class Step>
  static void check_one(const Step& step, const AttentionShape& shape, Index rows, Index keys) {
    if constexpr (requires { step.check(shape, rows, keys); }) step.check(shape, rows, keys);
  }
  template <class V, class At, class Rows, std::size_t... I>
  V apply(V s, const At& at, const Rows& rows, std::index_sequence<I...>) const {
    ((s = detail::apply_score(std::get<I>(steps_), s, at, std::get<I>(rows))), ...);
    return s;
  }

  std::tuple<Steps...> steps_;
};

CASA_NAMESPACE_END
