// Rows that see lists of intervals, values of their own width, and sinks, without score functions:
// fast against the definition.
#include <doctest/doctest.h>

#include "attention/variant.hpp"
#include "support/random_matrix.hpp"

using namespace casa;
using namespace attention_test;

namespace {

template <class P>
using ScalarOf = std::remove_cvref_t<decltype(P::q[0])>;

template <class T>
bool same_bits(const VariantResult<T>& a, const VariantResult<T>& b) {
  return casa_test::same_bits(a.out, b.out) && casa_test::same_bits(a.lse, b.lse);
}

template <class T, class S>
void check_fast(Variant<T, S>& p) {
  check_variant(p, Steps{}, run(p, PlainScore{}), define(p, Steps{}));
}

// Chosen blocks of keys for each block of rows, causal.
Mask block_sparse(Index rows, Index block, std::mt19937& random) {
  Mask mask;
  std::vector<bool> chosen;
  for (Index r = 0; r < rows; ++r) {
    if (r % block == 0) {
      chosen.clear();
      for (Index b = 0; b < r / block; ++b) chosen.push_back(random() % 3 == 0);
      chosen.push_back(true);
    }
    for (std::size_t b = 0; b < chosen.size(); ++b) {
      const Index begin = static_cast<Index>(b) * block;
      if (chosen[b]) mask.intervals.push_back({begin, std::min(begin + block, r + 1)});
    }
    mask.offsets.push_back(static_cast<Index>(mask.intervals.size()));
  }
  return mask;
}

}  // namespace

TEST_CASE_TEMPLATE("random lists, of every number of rows and type of keys", P, Variant<float>,
                   Variant<double>, Variant<float, bfloat16>, Variant<float, half>) {
  std::mt19937 random(1);
  for (unsigned seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    P p;
    const Index dims[] = {16, 32, 5, 24, 40};
    const Index groups[] = {1, 2, 3, 5, 8}, rows[] = {1, 2, 3, 7, 9, 20, 45, 80};
    p.shape = {2 * groups[random() % 5], 2, dims[random() % 5], 0};
    if (seed % 3 == 0) p.shape.value_dim = dims[random() % 5];
    p.rows = rows[seed % 8];
    p.counts = {static_cast<Index>(random() % 200), static_cast<Index>(1 + random() % 400)};
    p.mask = random_mask(p.rows, p.num_keys(), static_cast<Index>(1 + random() % 8), random);
    p.randomize(seed);
    if (seed % 4 == 1)
      for (Index h = 0; h < p.shape.num_heads; ++h)
        p.sinks.push_back(ScalarOf<P>(static_cast<int>(random() % 9) - 4));
    check_fast(p);
  }
}

TEST_CASE_TEMPLATE("chosen blocks, sinks and windows, over more keys than a block holds", P,
                   Variant<float>, Variant<float, bfloat16>) {
  std::mt19937 random(2);
  for (const Index block : {16, 64}) {
    CAPTURE(block);
    P p;
    p.shape = {4, 2, 32, 0};
    p.rows = 700;
    p.counts = {300, 400};
    p.mask = block_sparse(700, block, random);
    p.randomize(3);
    check_fast(p);
    p.mask = {};
    for (Index r = 0; r < 700; ++r) {
      if (r - block > 4)
        p.mask.add_row({{0, 4}, {r - block, r + 1}});
      else
        p.mask.add_row({{0, r + 1}});
    }
    check_fast(p);
  }
}

TEST_CASE_TEMPLATE("few rows and lists so long that they are split into parts", P, Variant<float>,
                   Variant<double>, Variant<float, half>) {
  std::mt19937 random(3);
  for (const Index rows : {1, 2, 3, 8}) {
    CAPTURE(rows);
    P p;
    p.shape = {2, 1, 16, 0};
    if (rows == 2) p.shape = {1, 1, 16, 0};  // two rows with lists of their own
    p.rows = rows;
    p.counts = {2500, 3000};
    p.mask = random_mask(rows, 5500, 40, random);
    for (Index h = 0; h < p.shape.num_heads; ++h) p.sinks.push_back(ScalarOf<P>(h + 1));
    p.randomize(static_cast<unsigned>(rows));
    check_fast(p);
  }
}

TEST_CASE_TEMPLATE("values wider or narrower than keys", P, Variant<float>, Variant<double>,
                   Variant<float, bfloat16>, Variant<float, half>) {
  for (const auto& dims :
       {std::pair<Index, Index>{192, 128}, {576, 512}, {16, 48}, {48, 16}, {5, 19}, {64, 1}})
    for (const Index rows : {1, 3, 12, 40}) {
      const Index d = dims.first, dv = dims.second;  // (Clang 14 captures no structured bindings.)
      CAPTURE(d);
      CAPTURE(dv);
      CAPTURE(rows);
      P p;
      p.shape = {2, 1, d, dv};
      p.rows = rows;
      p.counts = {33, 40 + rows};
      for (Index r = 0; r < rows; ++r) p.mask.add_row({{0, 73 + r}});
      p.randomize(static_cast<unsigned>(d + rows));
      check_fast(p);
    }
}

// Latent attention: values are the first part of what keys are made of.
TEST_CASE("values may lie within keys") {
  Variant<float> p;
  p.shape = {4, 1, 72, 64};
  p.rows = 5;
  p.counts = {50};
  for (Index r = 0; r < 5; ++r) p.mask.add_row({{0, 20}, {25, 46 + r}});
  p.randomize(4);
  for (Index j = 0; j < 50; ++j) std::copy_n(p.key(0, j), 64, p.value(0, j));
  const auto apart = run(p, PlainScore{});
  KeyPiece<float>& piece = p.pieces[0];
  piece.v = piece.k;
  piece.value_token_stride = piece.value_head_stride = 0;
  CHECK(same_bits(run(p, PlainScore{}), apart));
  check_fast(p);
}

TEST_CASE("a mask of one interval a row is the same as intervals, bit for bit") {
  Variant<float> p;
  p.shape = {4, 2, 32, 0};
  p.rows = 70;
  p.counts = {200};
  for (Index r = 0; r < 70; ++r)
    if (r == 30)
      p.mask.add_row({});
    else
      p.mask.add_row({{r / 9, 100 + r}});
  p.randomize(5);
  const auto lists = run(p, PlainScore{});
  p.mask.intervals.insert(p.mask.intervals.begin() + 30, Interval{});
  AttentionInput<float> in = p.input();
  in.interval_offsets = {};
  VariantResult<float> intervals{{70, 128}, {70, 4}};
  attend(in, intervals.out.view(), intervals.lse.data());
  CHECK(same_bits(lists, intervals));
}

// Faults: what lies between the intervals of a list is computed with weight 0; rows share a tile
// although one of them sees a value that is NaN.
TEST_CASE_TEMPLATE("NaN between the intervals of a row never matters to it", P, Variant<float>,
                   Variant<double>, Variant<float, bfloat16>, Variant<float, half>) {
  using T = ScalarOf<P>;
  using S = std::remove_cvref_t<decltype(P::k[0][0])>;
  std::mt19937 random(6);
  for (const Precision precision : {Precision::full, Precision::storage})
    for (const Index rows : {1, 2, 5, 40}) {
      CAPTURE(rows);
      P p;
      p.shape = {2, 1, 32, 0};
      p.rows = rows;
      p.counts = {150};
      p.mask = random_mask(rows, 150, 6, random);
      p.randomize(7);
      Context context;
      context.precision = precision;
      const auto before = run(p, PlainScore{}, context);
      for (Index place = 0; place < 150; place += 7) {
        CAPTURE(place);
        P poisoned = p;
        poisoned.k.clear(), poisoned.v.clear(), poisoned.pieces.clear();
        poisoned.allocate();
        for (Index j = 0; j < 150; ++j) {
          std::copy_n(p.key(0, j), 32, poisoned.key(0, j));
          std::copy_n(p.value(0, j), 32, poisoned.value(0, j));
        }
        const S nan = narrow<S>(std::numeric_limits<T>::quiet_NaN());
        std::fill_n(poisoned.value(0, place), 32, nan);
        if (place % 2 == 0) std::fill_n(poisoned.key(0, place), 32, nan);
        const auto after = run(poisoned, PlainScore{}, context);
        for (Index r = 0; r < rows; ++r) {
          bool sees = false;
          for (const Interval i : p.mask.row(r)) sees = sees || i.contains(place);
          for (Index c = 0; c < 64; ++c) {
            const bool right =
                sees ? std::isnan(after.out(r, c)) : after.out(r, c) == before.out(r, c);
            if (!right) FAIL("row ", r, ", column ", c, ": ", after.out(r, c));
          }
        }
      }
    }
}

TEST_CASE_TEMPLATE("lists: threads and repetition change no bit", P, Variant<float>,
                   Variant<float, bfloat16>) {
  std::mt19937 random(8);
  P p;
  p.shape = {6, 2, 48, 32};
  p.rows = 300;
  p.counts = {100, 300};
  p.mask = block_sparse(300, 16, random);
  p.randomize(9);
  P decode;
  decode.shape = p.shape;
  decode.rows = 1;
  decode.counts = {9000};
  decode.mask = random_mask(1, 9000, 30, random);
  decode.randomize(10);
  const auto expected = run(p, PlainScore{}), expected_decode = run(decode, PlainScore{});
  for (const Index threads : {1, 2, 3, 4, 7}) {
    CAPTURE(threads);
    ThreadPool pool(threads);
    const Context context{.executor = pool};
    for (int repeat = 0; repeat < 3; ++repeat) {
      CHECK(same_bits(run(p, PlainScore{}, context), expected));
      CHECK(same_bits(run(decode, PlainScore{}, context), expected_decode));
    }
    const Index before = context.workspace.capacity();
    run(p, PlainScore{}, context);
    CHECK(context.workspace.capacity() == before);
  }
}
