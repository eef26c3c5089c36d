// Rows in an order in which neighbours see different keys: which masks are put in order, how many
// pairs their panels compute then, and that every row's result is still its own.
#include "casa/attention/kernel/plan_order.hpp"

#include <doctest/doctest.h>

#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "attention/variant.hpp"
#include "casa/attention/kernel/plan_lists.hpp"
#include "casa/attention/masks.hpp"
#include "support/random_matrix.hpp"

using namespace casa;
using namespace attention_test;

namespace {

std::vector<Index> shuffled_rows(Index rows, std::mt19937& random) {
  std::vector<Index> order(static_cast<std::size_t>(rows));
  std::iota(order.begin(), order.end(), Index{0});
  std::shuffle(order.begin(), order.end(), random);
  return order;
}

Mask reordered(const Mask& mask, const std::vector<Index>& order) {
  Mask result;
  for (const Index r : order) {
    const auto row = mask.row(r);
    result.add_row(ListView<Interval>(row.data(), row.size()));
  }
  result.compact();
  return result;
}

Mask shuffled(const Mask& mask, std::mt19937& random) {
  return reordered(mask, shuffled_rows(mask.num_rows(), random));
}

// Every `step`th row sees all keys up to itself.
Mask with_global_rows(const Mask& mask, Index step) {
  Mask result;
  for (Index r = 0; r < mask.num_rows(); ++r) {
    const auto row = mask.row(r);
    if (r % step == step - 1)
      result.add_row({{0, r + 1}});
    else
      result.add_row(ListView<Interval>(row.data(), row.size()));
  }
  result.compact();
  return result;
}

Mask alternating(Index rows, Index keys) {
  Mask mask;
  for (Index r = 0; r < rows; ++r)
    mask.add_row({r % 2 == 0 ? Interval{0, keys / 8} : Interval{keys - keys / 8, keys}});
  mask.compact();
  return mask;
}

Mask every_other_empty(const Mask& mask) {
  Mask result;
  for (Index r = 0; r < mask.num_rows(); ++r) {
    const auto row = mask.row(r);
    if (r % 2 == 1)
      result.add_row({});
    else
      result.add_row(ListView<Interval>(row.data(), row.size()));
  }
  result.compact();
  return result;
}

struct Named {
  std::string name;
  Mask mask;
  Index step = 1;  // from a row that sees something to the next, once they are in order
};

// Masks whose rows are in a bad order.
std::vector<Named> unordered_masks(Index rows, std::mt19937& random) {
  using namespace masks;
  return {{"global rows", with_global_rows(sliding_window(rows, 64), 64)},
          {"global rows, lists", with_global_rows(sinks_window(rows, 4, 64), 64)},
          {"shuffled window", shuffled(sliding_window(rows, 256), random)},
          {"shuffled sinks and window", shuffled(sinks_window(rows, 4, 64), random)},
          {"alternating", alternating(rows, rows)},
          {"every other row empty", every_other_empty(causal(rows))},
          {"every other list empty", every_other_empty(sinks_window(rows, 4, 64)), 2},
          {"shuffled causal", shuffled(causal(rows), random)}};
}

Index pairs_of(const Mask& mask) { return detail::size_of(mask.intervals); }

// Rows times keys of all panels of a plan, of one head.
Index computed_pairs(const detail::Plan& plan, Index panel) {
  Index pairs = 0;
  for (const detail::Job& job : plan.jobs) {
    if (job.key_begin == job.key_end || job.kv_head > 0) continue;
    for (Index begin = job.row_begin; begin < job.row_end; begin += panel) {
      std::vector<char> seen(static_cast<std::size_t>(job.key_end));
      const Index end = std::min(begin + panel, job.row_end);
      Index first = job.key_end, last = 0, count = 0;
      for (Index r = begin; r < end; ++r)
        for (const Interval i : plan.mask().row(r))
          for (Index j = i.begin; j < i.end; ++j) {
            first = std::min(first, j), last = std::max(last, j + 1);
            if (job.spans.empty()) continue;
            for (const auto& span : job.spans)
              if (span.keys.contains(j)) {
                char& key = seen[static_cast<std::size_t>(span.at + j - span.keys.begin)];
                count += 1 - key;
                key = 1;
              }
          }
      pairs += (end - begin) * (job.spans.empty() ? std::max<Index>(last - first, 0) : count);
    }
  }
  return pairs;
}

}  // namespace

TEST_CASE("masks whose neighbours see much the same are taken as they come") {
  using namespace masks;
  Mask blocks;  // chosen blocks of keys for blocks of rows
  std::mt19937 random(1);
  for (Index r = 0; r < 640; ++r) {
    if (r % 64 == 0) random.seed(static_cast<unsigned>(r));
    auto row = random;
    for (Index b = 0; b <= r / 64; ++b)
      if (row() % 3 == 0 || b == r / 64) blocks.intervals.push_back({b * 64, b * 64 + 64});
    blocks.offsets.push_back(static_cast<Index>(blocks.intervals.size()));
  }
  Mask frames;  // windows of a stream; rows before the first image see nothing
  for (Index r = 0; r < 40; ++r) frames.add_row({});
  for (Index r = 40; r < 640; ++r) frames.add_row({{r / 20 * 276, r / 20 * 276 + 257 + r % 20}});
  const std::vector<Named> ordered = {{"causal", causal(640)},
                                      {"last rows", causal({448, 512})},
                                      {"window", sliding_window(640, 16)},
                                      {"prefix", prefix_lm(640, 100)},
                                      {"documents", packed_documents(90, {3, 40, 7, 40})},
                                      {"sinks", sinks_window(640, 4, 64)},
                                      {"blocks", blocks},
                                      {"frames", frames}};
  for (const Named& n : ordered)
    for (const Index group : {1, 2, 8}) {
      CAPTURE(n.name);
      CAPTURE(group);
      Workspace workspace;
      const Workspace::Frame frame(workspace);
      const auto plan = detail::make_plan<float>(n.mask, {group, 1, 8}, workspace);
      CHECK(plan.order.tokens.empty());
      CHECK(plan.order.num_empty == 0);
    }
}

// Faults: tokens are sorted by where intervals begin alone; rows that see nothing stay where they
// are; a list is taken for its hull.
TEST_CASE("masks in a bad order are sorted, and panels compute few pairs that nobody sees") {
  std::mt19937 random(2);
  for (const Named& n : unordered_masks(2048, random))
    for (const Index group : {1, 2, 8}) {
      CAPTURE(n.name);
      CAPTURE(group);
      const Index panel = 32 / group;
      Workspace workspace;
      const Workspace::Frame frame(workspace);
      const auto plan = detail::make_plan<float>(n.mask, {group, 1, 8}, workspace);
      REQUIRE(static_cast<Index>(plan.order.tokens.size()) == 2048);
      std::vector<Index> tokens(plan.order.tokens.begin(), plan.order.tokens.end());
      for (Index r = 0; r < 2048; ++r) {
        const auto expected = n.mask.row(plan.order[r]);
        if (r >= 2048 - plan.order.num_empty)
          REQUIRE(detail::size_of(expected) == 0);
        else
          REQUIRE(std::equal(expected.begin(), expected.end(), plan.mask().row(r).begin(),
                             plan.mask().row(r).end()));
      }
      std::sort(tokens.begin(), tokens.end());
      for (Index r = 0; r < 2048; ++r) REQUIRE(tokens[static_cast<std::size_t>(r)] == r);
      // A panel of a window of 64 sees 64 keys and one more for each further row; the few panels
      // where sizes change may see more.
      const Index pairs = pairs_of(n.mask), computed = computed_pairs(plan, panel);
      CHECK(computed >= pairs);
      CHECK(static_cast<double>(computed) <=
            1.1 * static_cast<double>(pairs) * static_cast<double>(64 + (panel - 1) * n.step) / 64);
    }
}

TEST_CASE_TEMPLATE("rows in a bad order: results, states and log-sum-exp are those of each row", P,
                   Variant<float>, Variant<double>, Variant<float, bfloat16>,
                   Variant<float, half>) {
  using T = std::remove_cvref_t<decltype(P::q[0])>;
  std::mt19937 random(3);
  for (unsigned seed = 0; seed < 3; ++seed) {
    auto masks = unordered_masks(100 + 50 * static_cast<Index>(seed), random);
    Mask some = random_mask(150, 200, 4, random);
    masks.push_back({"random lists", shuffled(some, random)});
    for (const Named& n : masks) {
      CAPTURE(seed);
      CAPTURE(n.name);
      P p;
      const Index groups[] = {1, 2, 3};
      p.shape = {2 * groups[seed], 2, 16, 0};
      p.rows = n.mask.num_rows();
      p.mask = n.mask;
      p.counts = {70, 230};
      p.randomize(seed);
      if (seed == 1)
        for (Index h = 0; h < p.shape.num_heads; ++h) p.sinks.push_back(T(static_cast<int>(h) - 2));
      const auto got = run(p, PlainScore{});
      check_variant(p, Steps{}, got, define(p, Steps{}));

      const AttentionState<T> state = attend_state(p.input());
      VariantResult<T> finished{{p.rows, got.out.cols()}, {p.rows, got.lse.cols()}};
      finish(state, finished.out.view(), finished.lse.data());
      check_variant(p, Steps{}, finished, define(p, Steps{}));

      for (const Index threads : {2, 5}) {
        ThreadPool pool(threads);
        const auto threaded = run(p, PlainScore{}, {.executor = pool});
        CHECK(casa_test::same_bits(threaded.out, got.out));
        CHECK(casa_test::same_bits(threaded.lse, got.lse));
      }
      P in_place = p;
      const MatrixView<T> both(in_place.q.data(), p.rows, got.out.cols());
      attend(
          AttentionInput<T, std::remove_cvref_t<decltype(P::k[0][0])>>{
              .shape = p.shape,
              .scale = p.scale,
              .q = both,
              .keys = p.pieces,
              .intervals = p.mask.intervals,
              .interval_offsets = p.mask.offsets,
              .sinks = p.sinks},
          both);
      CHECK(std::memcmp(both.data(), got.out.data(), in_place.q.size() * sizeof(T)) == 0);
    }
  }
}

TEST_CASE("rows in a bad order: score functions are given each row's own place") {
  std::mt19937 random(4);
  std::normal_distribution<float> normal;
  std::vector<float> bias(150 * 150);
  for (float& b : bias) b = normal(random);
  for (const Named& n : unordered_masks(150, random)) {
    CAPTURE(n.name);
    Variant<float> p;
    p.shape = {4, 2, 16, 0};
    p.rows = 150;
    p.mask = n.mask;
    p.counts = {150};
    p.randomize(5);
    const Steps steps{{Bias<float>{{bias.data(), 150, 150}}, SoftCap{5}}};
    check_variant(p, steps, run(p, steps), define(p, steps));
  }
}

// Fault: places of a sequence's order are taken for tokens of the whole batch.
TEST_CASE_TEMPLATE("sequences in a bad order: each has the bits that it has alone", P,
                   Variant<float>, Variant<double>, Variant<float, bfloat16>) {
  using T = std::remove_cvref_t<decltype(P::q[0])>;
  std::mt19937 random(6);
  for (const bool lists : {false, true}) {
    auto all = unordered_masks(100, random);
    all.push_back({"causal", masks::causal(7)});
    all.insert(all.begin() + 3, {"causal", masks::causal(40)});
    if (!lists) std::erase_if(all, [](const Named& n) { return !n.mask.offsets.empty(); });
    std::vector<P> alone;
    std::vector<Index> row_begin = {0};
    std::vector<T> q;
    std::vector<KeyPiece<std::remove_cvref_t<decltype(P::k[0][0])>>> pieces;
    Mask mask;
    Index keys = 0;
    for (const Named& n : all) {
      P& p = alone.emplace_back();
      p.shape = {4, 2, 16, 0};
      p.rows = n.mask.num_rows();
      p.mask = n.mask;
      p.counts = {40, 60};
      p.randomize(static_cast<unsigned>(alone.size()));
      q.insert(q.end(), p.q.begin(), p.q.end());
      pieces.insert(pieces.end(), p.pieces.begin(), p.pieces.end());
      row_begin.push_back(row_begin.back() + p.rows);
      for (Index r = 0; r < p.rows; ++r) {
        std::vector<Interval> row;
        for (const Interval i : n.mask.row(r))
          if (i.size() > 0) row.push_back({keys + i.begin, keys + i.end});
        mask.add_row(row);
      }
      keys += 100;
    }
    mask.compact();
    const Index rows = row_begin.back();
    VariantResult<T> got{{rows, 64}, {rows, 4}};
    AttentionInput<T, std::remove_cvref_t<decltype(P::k[0][0])>> in{
        .shape = {4, 2, 16, 0},
        .scale = alone[0].scale,
        .q = {q.data(), rows, 64},
        .keys = pieces,
        .intervals = mask.intervals,
        .interval_offsets = mask.offsets};
    in.sequence_offsets = row_begin;
    attend(in, got.out.view(), got.lse.data());
    for (std::size_t s = 0; s < alone.size(); ++s) {
      CAPTURE(all[s].name);
      const auto expected = run(alone[s], PlainScore{});
      CHECK(std::memcmp(got.out.row(row_begin[s]), expected.out.data(),
                        static_cast<std::size_t>(expected.out.size()) * sizeof(T)) == 0);
      CHECK(std::memcmp(got.lse.row(row_begin[s]), expected.lse.data(),
                        static_cast<std::size_t>(expected.lse.size()) * sizeof(T)) == 0);
    }
  }
}
