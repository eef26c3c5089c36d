// What the functions of layers/ demand, and that they say so and change nothing.
#include <doctest/doctest.h>

#include <vector>

#include "casa/layers/rms_norm.hpp"
#include "casa/layers/rope.hpp"
#include "casa/layers/softmax.hpp"
#include "casa/layers/swiglu.hpp"
#include "casa/model/kv_cache.hpp"
#include "support/messages.hpp"

using namespace casa;

namespace {

Matrix<float> filled(Index rows, Index cols, float first = 0) {
  Matrix<float> m(rows, cols);
  for (Index i = 0; i < m.size(); ++i) m.data()[i] = first + static_cast<float>(i);
  return m;
}

template <class S>
using Values = std::vector<S>;

/// All that a cache holds.
template <class S>
struct Held {
  Index size, pinned;
  Values<S> k, v;
  explicit Held(const KvCache<S>& c) : size(c.size()), pinned(c.pinned()) {
    const auto count = static_cast<std::size_t>(size * c.num_kv_heads() * c.head_dim());
    k.resize(count);
    v.resize(count);
    c.save(k.data(), v.data());
  }
  bool operator==(const Held&) const = default;
};

using View = MatrixView<const float>;

}  // namespace

TEST_CASE_TEMPLATE("KvCache refuses what does not fit, and stays as it was", S, float, half,
                   bfloat16) {
  const Matrix<float> six = filled(4, 6), other = filled(4, 6, 100), five = filled(4, 5),
                      seven = filled(4, 7), three_rows = filled(3, 6);
  KvCache<S> cache(2, 3);
  cache.append(View(six), View(other));
  cache.append(View(other), View(six));  // 8 tokens
  const auto refused = [&cache](auto call) {
    const Held<S> before(cache);
    std::string said = message_of(call);
    CHECK(!said.empty());
    CHECK(Held<S>(cache) == before);
    return said;
  };
  const auto append = [&](View k, View v) { return refused([&] { cache.append(k, v); }); };
  CHECK(append(five, six) ==
        "KvCache::append: k: expected num_kv_heads * head_dim = 2 * 3 columns, got 5");
  CHECK(append(seven, seven) ==
        "KvCache::append: k: expected num_kv_heads * head_dim = 2 * 3 columns, got 7");
  CHECK(append(six, five) ==
        "KvCache::append: v: expected num_kv_heads * head_dim = 2 * 3 columns, got 5");
  CHECK(append(six, three_rows) == "KvCache::append: rows of v: expected 4, got 3");
  CHECK(append(three_rows, six) == "KvCache::append: rows of v: expected 3, got 4");
  CHECK(append({six.data(), -1, 6}, {six.data(), -1, 6}) ==
        "KvCache::append: k: a view of -1 x 6 values must have memory and a stride of 6 or more, "
        "got a stride of 6");
  CHECK(has(append({nullptr, 2, 6}, six), "KvCache::append: k: a view of 2 x 6"));
  CHECK(has(append(six, {nullptr, 4, 6}), "KvCache::append: v: a view of 4 x 6"));
  CHECK(has(append({six.data(), 4, 6, 5}, six), "a stride of 5"));

  const auto replace = [&](View k) { return refused([&] { cache.replace_keys(k); }); };
  CHECK(replace(five) ==
        "KvCache::replace_keys: k: expected num_kv_heads * head_dim = 2 * 3 columns, got 5");
  CHECK(replace(filled(9, 6)) == "KvCache::replace_keys: 9 tokens of 8 that are held");
  CHECK(has(replace({nullptr, 2, 6}), "and no memory"));

  for (const Index count : {-1, 9, 1000})
    CHECK(refused([&] { cache.pin(count); }) ==
          text("KvCache::pin: count must be in [0, 8] (pinned, held), got ", count));
  for (const Index count : {-1, 9, 1000})
    CHECK(refused([&] { cache.drop(count); }) ==
          text("KvCache::drop: count must be in [0, 8] (held and not pinned), got ", count));
  for (const Index count : {-1, 9, 1000})
    CHECK(refused([&] { cache.truncate(count); }) ==
          text("KvCache::truncate: count must be in [0, 8] (held), got ", count));
  CHECK(refused([&] { cache.keep(-1, 3); }) ==
        "KvCache::keep: first and last must not be negative, got -1 and 3");
  CHECK(refused([&] { cache.keep(3, -1); }) ==
        "KvCache::keep: first and last must not be negative, got 3 and -1");
  CHECK(refused([&] { cache.reserve(-1); }) ==
        "KvCache::reserve: count must not be negative, got -1");
  CHECK(
      has(refused([&] { cache.reserve((std::numeric_limits<Index>::max)()); }), "size overflows"));
  CHECK_NOTHROW(cache.keep(4, (std::numeric_limits<Index>::max)()));  // everything is kept

  cache.pin(2);
  CHECK(refused([&] { cache.pin(1); }) ==
        "KvCache::pin: count must be in [2, 8] (pinned, held), got 1");
  CHECK(refused([&] { cache.keep(1, 2); }) ==
        "KvCache::keep: first must be at least the 2 tokens that are pinned, got 1");
  CHECK(refused([&] { cache.drop(7); }) ==
        "KvCache::drop: count must be in [0, 6] (held and not pinned), got 7");
  cache.drop(3);
  CHECK(refused([&] { cache.pin(3); }) ==
        "KvCache::pin: tokens behind the first 2 were dropped already");
  CHECK(refused([&] { cache.keep(3, 1); }) ==
        "KvCache::pin: tokens behind the first 2 were dropped already");
  CHECK(refused([&] { cache.drop(4); }) ==
        "KvCache::drop: count must be in [0, 3] (held and not pinned), got 4");

  const Values<S> room(100);
  CHECK(refused([&] { cache.restore(room.data(), room.data(), -1, 0); }) ==
        "KvCache::restore: pinned must be in [0, count = -1], got 0");
  CHECK(refused([&] { cache.restore(room.data(), room.data(), 3, 4); }) ==
        "KvCache::restore: pinned must be in [0, count = 3], got 4");
  CHECK(refused([&] { cache.restore(room.data(), room.data(), 3, -1); }) ==
        "KvCache::restore: pinned must be in [0, count = 3], got -1");
  CHECK(refused([&] { cache.restore(nullptr, room.data(), 3, 0); }) ==
        "KvCache::restore: k or v is null, count is 3");
  CHECK(refused([&] { cache.restore(room.data(), nullptr, 3, 0); }) ==
        "KvCache::restore: k or v is null, count is 3");
  CHECK(has(refused([&] {
              cache.restore(room.data(), room.data(), (std::numeric_limits<Index>::max)(), 0);
            }),
            "size overflows"));
  KvCache<S> unsized;
  CHECK(refused([&] { unsized.restore(room.data(), room.data(), 3, 0); }) ==
        "KvCache::restore: 3 tokens for a cache that was made without sizes");
  CHECK(unsized.size() == 0);
  CHECK(refused([&] { cache.save(nullptr, nullptr); }) == "KvCache::save: k or v is null");
  cache.restore(nullptr, nullptr, 0, 0);
  CHECK(cache.size() == 0);
  CHECK_NOTHROW(cache.save(nullptr, nullptr));
  CHECK(refused([&] { cache.truncate(1); }) ==
        "KvCache::truncate: count must be in [0, 0] (held), got 1");
}

TEST_CASE("caches of no size are none") {
  for (const Index bad : {Index{0}, Index{-1}}) {
    CHECK(has(message_of([&] { KvCache<float> c(bad, 3); }),
              "KvCache: num_kv_heads and head_dim must be positive"));
    CHECK(has(message_of([&] { KvCache<float> c(3, bad); }),
              "KvCache: num_kv_heads and head_dim must be positive"));
    CHECK(!message_of([&] { (void)make_cache<float>(CacheType::half, bad, 3); }).empty());
  }
  KvCache<float> empty;
  CHECK(has(message_of([&] { empty.append(View(filled(1, 0)), View(filled(1, 0))); }),
            "the cache was made without sizes"));
  CHECK(has(message_of([&] { (void)make_cache<double>(CacheType::half, 2, 3); }), "16-bit"));
}

TEST_CASE("layers refuse views of another size or without memory, and write nothing") {
  const Context context;
  const Matrix<float> x = filled(2, 4);
  Matrix<float> out = filled(2, 4, 50);
  const Matrix<float> before = out;
  const auto refused = [&](auto call) {
    std::string said = message_of(call);
    CHECK(!said.empty());
    CHECK(std::equal(out.data(), out.data() + out.size(), before.data()));
    return said;
  };
  const View null(nullptr, 2, 4), torn(x.data(), 2, 4, 3), negative(x.data(), -1, 4);
  const MatrixView<float> null_out(nullptr, 2, 4), short_out(out.data(), 1, 4),
      narrow_out(out.data(), 2, 3), torn_out(out.data(), 2, 4, 3), negative_out(out.data(), -1, 4);

  SUBCASE("rms_norm") {
    const std::vector<float> weight(4, 1), short_weight(3, 1);
    const auto norm = [&](View a, std::span<const float> w, MatrixView<float> o) {
      return refused([&] { rms_norm<float>(a, w, 1e-6, o, context); });
    };
    CHECK(norm(x, short_weight, out) == "rms_norm: values of weight: expected 4, got 3");
    CHECK(norm(x, weight, short_out) == "rms_norm: rows of out: expected 2, got 1");
    CHECK(norm(x, weight, narrow_out) == "rms_norm: columns of out: expected 4, got 3");
    CHECK(has(norm(null, weight, out), "rms_norm: x: a view"));
    CHECK(has(norm(torn, weight, out), "rms_norm: x: a view"));
    CHECK(has(norm(negative, weight, negative_out), "rms_norm: x: a view"));
    CHECK(has(norm(x, weight, null_out), "rms_norm: out: a view"));
    CHECK(has(norm(x, weight, torn_out), "rms_norm: out: a view"));
  }
  SUBCASE("swiglu") {
    const auto glu = [&](View a, View b, MatrixView<float> o) {
      return refused([&] { swiglu<float>(a, b, o, context); });
    };
    CHECK(has(glu(x, filled(2, 3), out), "swiglu: columns of up: expected 4, got 3"));
    CHECK(has(glu(x, filled(3, 4), out), "swiglu: rows of up: expected 2, got 3"));
    CHECK(has(glu(x, x, narrow_out), "swiglu: columns of out"));
    CHECK(has(glu(x, x, short_out), "swiglu: rows of out"));
    CHECK(has(glu(null, x, out), "swiglu: gate: a view"));
    CHECK(has(glu(x, null, out), "swiglu: up: a view"));
    CHECK(has(glu(x, x, null_out), "swiglu: out: a view"));
    CHECK(has(glu(x, x, torn_out), "swiglu: out: a view"));
  }
  SUBCASE("Linear") {
    const Matrix<float> w = filled(4, 4), wide = filled(4, 5);
    const std::vector<LinearPiece> two = {{w.view(), {}}, {filled(3, 4).view(), {}}};
    const Linear<float> linear({w.view(), {}});
    const auto run = [&](View a, MatrixView<float> o) {
      return refused([&] { linear.forward(a, o, context); });
    };
    CHECK(run(filled(2, 3), out) == "Linear: columns of x: expected 4, got 3");
    CHECK(run(x, narrow_out) == "Linear: columns of y: expected 4, got 3");
    CHECK(run(x, short_out) == "Linear: rows of y: expected 2, got 1");
    CHECK(has(run(null, out), "Linear: x: a view"));
    CHECK(has(run(torn, out), "Linear: x: a view"));
    CHECK(has(run(negative, negative_out), "Linear: x: a view"));
    CHECK(has(run(x, null_out), "Linear: y: a view"));
    CHECK(has(run(x, torn_out), "Linear: y: a view"));
    CHECK(refused([&] { linear.forward_pieces(x, out, 0, 2, context); }) ==
          "Linear: pieces [0, 2) of 1");
    CHECK(refused([&] { linear.forward_pieces(x, out, -1, 1, context); }) ==
          "Linear: pieces [-1, 1) of 1");
    for (const Index p : {-1, 2})
      CHECK(refused([&] { (void)linear.piece_begin(p); }) == text("Linear: piece ", p, " of 1"));
    float row[4];
    for (const Index r : {-1, 4})
      CHECK(refused([&] { linear.unpack_row(r, row); }) == text("Linear: row ", r, " of 4"));
    const Linear<float> none;
    CHECK(has(refused([&] { none.forward(x, out, context); }), "Linear: columns of x"));
    CHECK(has(refused([&] { (void)none.piece_begin(0); }), "Linear: piece 0 of 0"));

    CHECK(has(refused([&] { Linear<float> l(std::span<const LinearPiece>{}); }), "no weight"));
    CHECK(has(refused([&] {
                const LinearPiece pieces[] = {{w.view(), {}}, {wide.view(), {}}};
                Linear<float> l(pieces);
              }),
              "in_features of a piece: expected 4, got 5"));
    CHECK(has(refused([&] {
                Linear<float> l({w.view(), filled(1, 3).view()});
              }),
              "values of a bias: expected 4, got 3"));
    CHECK(has(refused([&] {
                Linear<float> l({w.view(), filled(2, 4).view()});
              }),
              "rows of a bias: expected 1, got 2"));
    CHECK(has(refused([&] {
                Linear<float> l(two, WeightType::native, nullptr, PieceOrder::alternating);
              }),
              "outputs of a piece that alternates"));
    const Matrix<double> d(4, 4);
    CHECK(has(refused([&] { Linear<double> l({d.view(), {}}, WeightType::int8); }), "in float"));
  }
  SUBCASE("PackedWeight") {
    const StoredView w(x.view()), other(filled(3, 4).view());
    CHECK(has(refused([&] {
                PackedWeight<float> p({&w, 1}, 5, WeightType::native);
              }),
              "PackedWeight: columns of a piece: expected 5, got 4"));
    CHECK(has(refused([&] { PackedWeight<double> p({&w, 1}, 4, WeightType::half); }), "in float"));
    CHECK(has(refused([&] { PackedWeight<float> p({}, -1, WeightType::native); }),
              "depth must not be negative"));
    const StoredView both[] = {w, other};
    CHECK(has(refused([&] {
                PackedWeight<float> p(both, 4, WeightType::native, nullptr,
                                      PieceOrder::alternating);
              }),
              "rows of a piece that alternates: expected 2, got 3"));
  }
  SUBCASE("Mlp") {
    const Matrix<float> w = filled(4, 4), five = filled(5, 4);
    const Mlp<float> mlp({w.view(), {}}, {w.view(), {}}, {w.view(), {}});
    const auto run = [&](View a, MatrixView<float> o) {
      return refused([&] { mlp.forward(a, o, context); });
    };
    CHECK(has(run(filled(2, 3), out), "Mlp: columns of x: expected 4, got 3"));
    CHECK(has(run(x, short_out), "Mlp: rows of y: expected 2, got 1"));
    CHECK(has(run(x, narrow_out), "Mlp: columns of y: expected 4, got 3"));
    CHECK(has(run(null, out), "Mlp: x: a view"));
    CHECK(has(run(x, torn_out), "Mlp: y: a view"));
    CHECK(has(refused([&] {
                Mlp<float> m({w.view(), {}}, {five.view(), {}}, {w.view(), {}});
              }),
              "outputs of up"));
    CHECK(has(refused([&] {
                Mlp<float> m({five.view(), {}}, {five.view(), {}}, {w.view(), {}});
              }),
              "inputs of down"));
  }
  SUBCASE("rotary embedding") {
    RopeTable<float> table;
    Rope rope = make_rope<float>(4, 10000, RopeStyle::half);
    const std::vector<Position> places = {1, 2};
    table.assign(rope, places, context);
    const auto turn = [&](MatrixView<float> m, Index dim, Index first) {
      return refused([&] { apply_rope(m, table, dim, context, first); });
    };
    CHECK(turn(out, 3, 0) == "apply_rope: 4 columns are not heads of 3");
    CHECK(turn(out, 0, 0) == "apply_rope: 4 columns are not heads of 0");
    CHECK(turn(out, 2, 0) == "apply_rope: rotary_dim 4 exceeds head_dim 2");
    CHECK(turn(out, 4, 1) == "apply_rope: rows [1, 3) of a table of 2");
    CHECK(turn(out, 4, -1) == "apply_rope: rows [-1, 1) of a table of 2");
    CHECK(has(turn(null_out, 4, 0), "apply_rope: x: a view"));
    CHECK(has(turn(torn_out, 4, 0), "apply_rope: x: a view"));
    rope.axis = {RopeAxis::t};
    CHECK(refused([&] { table.assign(rope, places, context); }) == "Rope: 1 axes for 2 pairs");
    CHECK(table.rows() == 2);
    for (const Index dim : {-2, 0, 3})
      CHECK(
          has(refused([&] { (void)rope_inv_freq<float>(dim, 1e4); }), "must be even and positive"));
    for (const double theta : {0.0, -1.0, std::numeric_limits<double>::infinity()})
      CHECK(has(refused([&] { (void)rope_inv_freq<float>(4, theta); }), "theta must be positive"));
    for (const Index dim : {-4, 0, 6})
      CHECK(has(refused([&] { (void)make_vision_rope<float>(dim); }), "multiple of 4"));
    const std::vector<Index> short_sections = {1, 1}, bad_sections = {-1, 2, 1}, sum = {1, 1, 1};
    CHECK(has(refused([&] { (void)mrope_axes(short_sections, 2); }), "number of sections"));
    CHECK(has(refused([&] { (void)mrope_axes(bad_sections, 2); }), "section 0 is -1"));
    CHECK(has(refused([&] { (void)mrope_axes(sum, 2); }), "sum of sections"));
  }
  SUBCASE("softmax and StoredView") {
    const std::vector<float> logits(4);
    std::vector<float> probabilities(3);
    CHECK(refused([&] { softmax<float>(logits, probabilities); }) ==
          "softmax: values of out: expected 4, got 3");
    const StoredView stored(x.view());
    float row[4];
    CHECK(refused([&] { stored.copy(2, 0, 4, row); }) ==
          "StoredView: values [0, 4) of row 2 of a matrix of 2 x 4");
    CHECK(has(refused([&] { stored.copy(-1, 0, 4, row); }), "of row -1"));
    CHECK(has(refused([&] { stored.copy(0, 1, 4, row); }), "values [1, 5)"));
    CHECK(has(refused([&] { stored.copy(0, -1, 2, row); }), "values [-1, 1)"));
    CHECK(has(refused([&] { stored.copy(0, 2, -1, row); }), "values [2, 1)"));
    CHECK(has(refused([&] { (void)StoredView(null); }), "StoredView: a view of 2 x 4"));
  }
}
