#include "casa/model/kv_cache.hpp"

#include <doctest/doctest.h>

#include <random>
#include <vector>

using namespace casa;

namespace {

constexpr Index kHeads = 2, kDim = 3;

// Token number n as (heads * dim) values that say token, head and element.
float value(Index token, Index i) { return static_cast<float>(token * 100 + i); }

Matrix<float> tokens(Index first, Index count, float sign) {
  Matrix<float> m(count, kHeads * kDim);
  for (Index t = 0; t < count; ++t)
    for (Index i = 0; i < m.cols(); ++i) m(t, i) = sign * value(first + t, i);
  return m;
}

template <class S>
void append(KvCache<S>& cache, Index first, Index count) {
  cache.append(MatrixView<const float>(tokens(first, count, 1)),
               MatrixView<const float>(tokens(first, count, -1)));
}

template <class S>
void check_holds(const KvCache<S>& cache, const std::vector<Index>& expected) {
  REQUIRE(cache.size() == static_cast<Index>(expected.size()));
  Index t = 0;
  const auto pieces = cache.pieces();
  for (const KeyPiece<S>& p : std::span<const KeyPiece<S>>(pieces)) {
    for (Index j = 0; j < p.count; ++j, ++t) {
      for (Index h = 0; h < kHeads; ++h) {
        for (Index i = 0; i < kDim; ++i) {
          const float v = value(expected[static_cast<std::size_t>(t)], h * kDim + i);
          const Index at = h * p.head_stride + j * p.token_stride + i;
          CHECK(widen(p.k[at]) == v);
          CHECK(widen(p.v[at]) == -v);
          CHECK(widen(cache.key(h, t)[i]) == v);
          CHECK(widen(cache.value(h, t)[i]) == -v);
        }
      }
    }
  }
  CHECK(t == cache.size());
}

}  // namespace

TEST_CASE_TEMPLATE("a cache holds what a list of tokens holds", S, float, half) {
  for (unsigned seed = 0; seed < 40; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const auto up_to = [&](Index n) { return std::uniform_int_distribution<Index>(0, n)(random); };
    KvCache<S> cache(kHeads, kDim);
    std::vector<Index> model;
    const Index sinks = up_to(3), last = 1 + up_to(6);
    Index next = 0;
    for (int step = 0; step < 60; ++step) {
      switch (up_to(6)) {
        case 0:
        case 1:
        case 2: {
          const Index count = up_to(4);
          next %= 500;  // exact in half
          append(cache, next % 15, count);
          for (Index i = 0; i < count; ++i) model.push_back(next % 15 + i);
          next += count;
          break;
        }
        case 3: {
          cache.keep(sinks, last);
          const Index over = static_cast<Index>(model.size()) - sinks - last;
          if (over > 0) model.erase(model.begin() + sinks, model.begin() + sinks + over);
          break;
        }
        case 4: {
          const Index keep = static_cast<Index>(model.size()) -
                             up_to(std::min<Index>(2, static_cast<Index>(model.size())));
          cache.truncate(keep);
          model.resize(static_cast<std::size_t>(keep));
          break;
        }
        case 5: {  // behind the tokens that keep() pins
          const Index begin = sinks + up_to(6), end = begin + up_to(4);
          if (end > cache.size()) break;
          cache.erase({begin, end});
          model.erase(model.begin() + begin, model.begin() + end);
          break;
        }
        default:
          if (up_to(9) == 0) {
            cache.clear();
            model.clear();
          }
      }
      check_holds(cache, model);
    }
    KvCache<S> copy = cache;
    cache.clear();
    check_holds(copy, model);
  }
}

// Fault: the tokens of a part are written where the first part's are.
TEST_CASE_TEMPLATE("many tokens may be appended by many workers", S, float, bfloat16) {
  for (const Index count : {1, 63, 64, 65, 200, 640}) {
    const auto k = tokens(0, count, 1), v = tokens(0, count, -1);
    KvCache<S> serial(kHeads, kDim), parallel(kHeads, kDim);
    ThreadPool pool(3);
    for (int i = 0; i < 2; ++i) {
      serial.append(MatrixView<const float>(k), MatrixView<const float>(v));
      parallel.append(MatrixView<const float>(k), MatrixView<const float>(v), pool);
    }
    REQUIRE(parallel.size() == 2 * count);
    for (Index h = 0; h < kHeads; ++h)
      for (Index t = 0; t < 2 * count; ++t)
        for (Index i = 0; i < kDim; ++i) {
          REQUIRE(widen(parallel.key(h, t)[i]) == widen(serial.key(h, t)[i]));
          REQUIRE(widen(parallel.value(h, t)[i]) == widen(serial.value(h, t)[i]));
        }
  }
}

TEST_CASE("a cache that drops as much as it takes keeps its memory") {
  KvCache<float> cache(kHeads, kDim);
  for (Index t = 0; t < 100; ++t) {
    append(cache, t, 1);
    cache.keep(4, 16);
  }
  const Index bytes = cache.capacity_bytes();
  for (Index t = 0; t < 10000; ++t) {
    append(cache, t % 50, 1);
    cache.keep(4, 16);
  }
  CHECK(cache.capacity_bytes() == bytes);
  CHECK(cache.size() == 20);
  CHECK(cache.bytes() == 20 * 2 * kHeads * kDim * 4);
}

TEST_CASE("what was reserved is not allocated again") {
  KvCache<float> cache(kHeads, kDim);
  cache.reserve(50);
  const Index bytes = cache.capacity_bytes();
  append(cache, 0, 50);
  CHECK(cache.capacity_bytes() == bytes);
}

TEST_CASE("a cache refuses to erase what it does not hold or has pinned") {
  KvCache<float> cache(kHeads, kDim);
  append(cache, 0, 6);
  cache.pin(2);
  for (const Interval range : {Interval{1, 3}, Interval{3, 7}, Interval{4, 3}, Interval{-1, 0}})
    CHECK_THROWS_AS(cache.erase(range), error);
  CHECK_THROWS_WITH_AS(cache.erase({3, 7}),
                       "KvCache::erase: range must lie within [2, 6) (held and not pinned), got "
                       "[3, 7)",
                       error);
  check_holds(cache, {0, 1, 2, 3, 4, 5});
  cache.erase({3, 5});
  check_holds(cache, {0, 1, 2, 5});
  cache.erase({2, 3});
  check_holds(cache, {0, 1, 5});
  append(cache, 7, 2);
  check_holds(cache, {0, 1, 5, 7, 8});
}
