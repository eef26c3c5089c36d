// Several sequences in one call: each gets the bits that it gets alone, whatever stands beside it.
#include "casa/attention/batch.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <vector>

#include "attention/variant.hpp"
#include "casa/model/kv_cache.hpp"
#include "support/allocations.hpp"
#include "support/messages.hpp"
#include "support/random_matrix.hpp"

using namespace casa;
using namespace attention_test;

namespace {

// How the rows of a sequence see its keys.
enum class RowsSee { last, intervals, lists, nothing };

// Sequences that own their memory, and their queries in one matrix.
template <class T, class S = T>
struct Sequences {
  AttentionShape shape;
  std::vector<Variant<T, S>> each;
  std::vector<bool> given;  // its mask, or none: the last rows, causal
  std::vector<SequenceInput<S>> inputs;
  Matrix<T> q;
  std::vector<T> sinks;

  // `each` does not move from here on.
  AttentionBatch<T, S> batch() {
    Index rows = 0;
    for (const auto& p : each) rows += p.rows;
    q = Matrix<T>(rows, shape.num_heads * shape.head_dim);
    T* to = q.data();
    inputs.clear();
    for (std::size_t s = 0; s < each.size(); ++s) {
      to = std::copy(each[s].q.begin(), each[s].q.end(), to);
      inputs.push_back({each[s].rows, each[s].pieces, given[s] ? each[s].mask : MaskView{}});
    }
    return {shape, each.empty() ? 1.0 : each[0].scale, q, inputs, sinks};
  }
};

template <class T, class S>
void add(Sequences<T, S>& to, Index rows, std::vector<Index> counts, RowsSee sees,
         std::mt19937& random) {
  Variant<T, S> p;
  p.shape = to.shape;
  p.counts = std::move(counts);
  p.rows = sees == RowsSee::last ? std::min(rows, p.num_keys()) : rows;
  const Index keys = p.num_keys();
  if (sees == RowsSee::lists) {
    p.mask = random_mask(p.rows, keys, 3, random);
  } else {
    p.mask.offsets.clear();
    for (Index r = 0; r < p.rows; ++r) {
      Interval seen{0, keys - (p.rows - 1 - r)};
      if (sees == RowsSee::nothing) seen = {};
      if (sees == RowsSee::intervals) {
        const auto a = static_cast<Index>(random() % static_cast<unsigned>(keys + 1));
        const auto b = static_cast<Index>(random() % static_cast<unsigned>(keys + 1));
        seen = {std::min(a, b), std::max(a, b)};
      }
      p.mask.intervals.push_back(seen);
    }
  }
  p.randomize(static_cast<unsigned>(random()));
  p.sinks = to.sinks;
  to.each.push_back(std::move(p));
  to.given.push_back(sees != RowsSee::last);
}

template <class T, class S>
Sequences<T, S> random_sequences(unsigned seed) {
  std::mt19937 random(seed);
  const auto pick = [&](std::initializer_list<Index> from) {
    return from.begin()[random() % from.size()];
  };
  Sequences<T, S> all;
  const Index kv_heads = pick({1, 2, 3}), group = pick({1, 2, 3, 5});
  all.shape = {kv_heads * group, kv_heads, pick({4, 6, 16, 33, 64}), pick({0, 0, 24})};
  if (random() % 3 == 0)
    for (Index h = 0; h < all.shape.num_heads; ++h)
      all.sinks.push_back(static_cast<T>(0.25) * static_cast<T>(h));
  const Index count = pick({0, 1, 2, 7, 12});
  for (Index s = 0; s < count; ++s) {
    std::vector<Index> counts;
    for (Index p = pick({0, 1, 1, 2, 3}); p > 0; --p)
      counts.push_back(pick({0, 1, 3, 17, 40, 300, 1700}));
    add(all, pick({0, 1, 1, 1, 2, 9, 70}), counts, static_cast<RowsSee>(pick({0, 0, 1, 2, 3})),
        random);
  }
  return all;
}

template <class T, class S>
void check_batch(unsigned seed, Precision precision) {
  CAPTURE(seed);
  Sequences<T, S> all = random_sequences<T, S>(seed);
  const AttentionBatch<T, S> batch = all.batch();
  const Index heads = all.shape.num_heads, width = heads * all.shape.output_dim();
  for (const Index threads : {1, 3}) {
    CAPTURE(threads);
    ThreadPool pool(threads);
    for (const Path path : {Path::fast, Path::naive}) {
      const Context context{.executor = pool, .path = path, .precision = precision};
      Matrix<T> out(batch.q.rows(), width), lse(batch.q.rows(), heads);
      attend(batch, out.view(), lse.data(), context);
      const Workspace::Frame frame(context.workspace);
      const auto in = batch_input(batch, context.workspace);
      const AttentionState<T> state = attend_state(in, context);
      Index row = 0;
      for (std::size_t s = 0; s < all.each.size(); ++s) {
        CAPTURE(s);
        const Index rows = all.each[s].rows;
        const auto alone = run(all.each[s], PlainScore{}, context);
        REQUIRE(casa_test::same_bits(out.data() + row * width, alone.out.data(), rows * width));
        REQUIRE(casa_test::same_bits(lse.data() + row * heads, alone.lse.data(), rows * heads));
        const AttentionState<T> part = attend_state(all.each[s].input(), context);
        REQUIRE(
            casa_test::same_bits(state.out.data() + row * width, part.out.data(), rows * width));
        REQUIRE(
            casa_test::same_bits(state.sum.data() + row * heads, part.sum.data(), rows * heads));
        REQUIRE(
            casa_test::same_bits(state.max.data() + row * heads, part.max.data(), rows * heads));
        row += rows;
      }
      REQUIRE(row == out.rows());
    }
  }
}

}  // namespace

TEST_CASE("each sequence of a batch gets the bits that it gets alone") {
  for (unsigned seed = 1; seed <= 60; ++seed) {
    check_batch<float, float>(seed, Precision::full);
    check_batch<float, bfloat16>(seed, seed % 2 == 0 ? Precision::full : Precision::storage);
  }
  for (unsigned seed = 100; seed < 120; ++seed) {
    check_batch<float, half>(seed, Precision::full);
    check_batch<double, double>(seed, Precision::full);
  }
}

TEST_CASE("a row that sees nothing does not join the sequence beside it") {
  // (Without borders between sequences it would: rows of no keys belong to any window.)
  std::mt19937 random(3);
  Sequences<float> all;
  all.shape = {6, 2, 64};
  add(all, 1, {50}, RowsSee::nothing, random);
  add(all, 1, {50}, RowsSee::last, random);
  add(all, 1, {}, RowsSee::nothing, random);
  const AttentionBatch<float> batch = all.batch();
  Workspace workspace;
  const Workspace::Frame frame(workspace);
  AttentionInput<float> in = batch_input(batch, workspace);
  CHECK(detail::make_plan(in, false, workspace).max_job_rows == 3);
  in.sequence_offsets = {};
  CHECK(detail::make_plan(in, false, workspace).max_job_rows == 3 * 3);
}

TEST_CASE("a decode step of streams with caches of their own is one call") {
  const AttentionShape shape{6, 2, 16};
  const Index streams = 9;
  std::vector<KvCache<float>> caches(static_cast<std::size_t>(streams), {2, 16});
  std::mt19937_64 random(2);
  const auto k = casa_test::random_matrix<float>(random, 40, 32);
  const auto v = casa_test::random_matrix<float>(random, 40, 32);
  const auto q = casa_test::random_matrix<float>(random, streams, 96);
  Matrix<float> out(streams, 96), alone(1, 96);
  for (Index s = 0; s < streams; ++s) {
    auto& cache = caches[static_cast<std::size_t>(s)];
    const Index rows = 4 * (s + 1);
    cache.append<float>(k.view().middle_rows(0, rows), v.view().middle_rows(0, rows));
    if (s % 2 == 1) cache.keep(2, rows - 4);  // two pieces
  }
  std::vector<KvCache<float>::Pieces> pieces;
  std::vector<SequenceInput<float>> sequences;
  for (auto& cache : caches) pieces.push_back(cache.pieces());
  for (auto& p : pieces) sequences.push_back({1, p});
  attend(AttentionBatch<float>{shape, default_scale(16), q, sequences}, out.view());
  for (Index s = 0; s < streams; ++s) {
    const Interval all{0, caches[static_cast<std::size_t>(s)].size()};
    const std::span<const KeyPiece<float>> keys = pieces[static_cast<std::size_t>(s)];
    attend(
        AttentionInput<float>{
            shape, default_scale(16), q.view().middle_rows(s, 1), keys, {&all, 1}},
        alone.view());
    CHECK(casa_test::same_bits(out.row(s), alone.data(), 96));
  }
}

TEST_CASE("score functions see places among the keys of all sequences") {
  std::mt19937 random(5);
  Sequences<float> all;
  all.shape = {2, 1, 8};
  for (const Index keys : {5, 30, 11}) add(all, 2, {keys}, RowsSee::last, random);
  const AttentionBatch<float> batch = all.batch();
  const std::vector<float> slopes{-0.5f, -0.25f};
  const std::vector<Index> stands{3, 4, 33, 34, 44, 45};  // row r stands there among all keys
  Matrix<float> out(6, 16);
  attend(batch, out.view(), nullptr, {}, Alibi<float>{slopes, stands});
  for (std::size_t s = 0; s < 3; ++s) {
    const Index keys = all.each[s].num_keys();
    const std::vector<Index> own{keys - 2, keys - 1};
    const auto alone = run(all.each[s], Alibi<float>{slopes, own});
    CHECK(casa_test::same_bits(out.row(static_cast<Index>(2 * s)), alone.out.data(), 32));
  }
}

TEST_CASE("a warm batch allocates nothing") {
  if (!casa_test::must_count()) return;
  Sequences<float> all = random_sequences<float, float>(12);
  std::mt19937 random(1);
  add(all, 3, {40, 20}, RowsSee::lists, random);
  add(all, 1, {3000}, RowsSee::last, random);
  const AttentionBatch<float> batch = all.batch();
  Matrix<float> out(batch.q.rows(), all.shape.num_heads * all.shape.output_dim());
  const Context context;
  for (int i = 0; i < 3; ++i) attend(batch, out.view(), nullptr, context);
  const auto before = casa_test::allocation_count();
  for (int i = 0; i < 10; ++i) attend(batch, out.view(), nullptr, context);
  CHECK(casa_test::allocation_count() == before);
}

TEST_CASE("what does not fit is refused, with the number of the sequence") {
  std::mt19937 random(7);
  Sequences<float> all;
  all.shape = {2, 1, 8};
  for (int s = 0; s < 3; ++s) add(all, 2, {10}, RowsSee::intervals, random);
  const AttentionBatch<float> batch = all.batch();
  Matrix<float> out(6, 16);
  const auto said = [&](auto change) {
    std::vector<SequenceInput<float>> sequences = all.inputs;
    change(sequences);
    AttentionBatch<float> wrong = batch;
    wrong.sequences = sequences;
    return message_of([&] { attend(wrong, out.view()); });
  };
  using Inputs = std::vector<SequenceInput<float>>;
  CHECK(said([](Inputs&) {}).empty());
  CHECK(said([](Inputs& s) { s[1].num_rows = -1; }) ==
        "batch: sequence 1: num_rows must not be negative, got -1");
  CHECK(said([](Inputs& s) { s.pop_back(); }) ==
        "batch: rows of q (num_rows of all sequences): expected 4, got 6");
  CHECK(said([](Inputs& s) { s[2].num_rows = 3; }) ==
        "batch: sequence 2: attention: intervals (one per row of q): expected 3, got 2");
  CHECK(said([](Inputs& s) {
          s[2].mask = {};
          s[2].num_rows = 11;
        }) ==
        "batch: sequence 2: without a mask its 11 rows stand at its last keys, but it has only 10");
  // A row must not see the keys of the next sequence.
  const std::vector<Interval> beyond{{0, 3}, {5, 11}};
  CHECK(said([&](Inputs& s) {
          s[0].mask = {beyond, {}};
        }) == "batch: sequence 0: attention: intervals[1] must lie within [0, 10), got [5, 11)");
  const std::vector<Index> offsets{0, 2, 2};
  CHECK(said([&](Inputs& s) {
          s[1].mask = {beyond, offsets};
        }) ==
        "batch: sequence 1: attention: intervals of row 0 must lie within [0, 10), got [5, 11)");
  std::vector<KeyPiece<float>> pieces{{nullptr, nullptr, 10, 8, 80}};
  CHECK(said([&](Inputs& s) { s[1].keys = pieces; }) ==
        "batch: sequence 1: attention: keys[0] has 10 keys but a null k or v");
  const std::vector<float> all_alike(80);
  pieces[0] = {all_alike.data(), all_alike.data(), 10, 0, 8};
  CHECK(
      said([&](Inputs& s) { s[1].keys = pieces; }) ==
      "batch: sequence 1: attention: keys[0].token_stride is 0, so that each of its 10 keys would "
      "be the first: expected the values from one token to the next");
  pieces[0].count = -1;
  CHECK(said([&](Inputs& s) { s[1].keys = pieces; }) ==
        "batch: sequence 1: attention: keys[0].count is negative: -1");

  // Borders that a user sets by hand.
  Workspace workspace;
  const Workspace::Frame frame(workspace);
  AttentionInput<float> in = batch_input(batch, workspace);
  const auto borders = [&](std::vector<Index> rows) {
    in.sequence_offsets = rows;
    return message_of([&] { attend(in, out.view()); });
  };
  CHECK(borders({0, 3, 3, 6}).empty());
  CHECK(borders({1, 6}) == "attention: sequence_offsets[0]: expected 0, got 1");
  CHECK(borders({0, 4, 3, 6}) ==
        "attention: sequence_offsets must not decrease, got 4 and 3 for sequence 1");
  CHECK(borders({0, 4}) ==
        "attention: the last of sequence_offsets (rows of q): expected 6, got 4");
}
