#include "casa/generate/sampling.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "support/allocations.hpp"

using casa::Index;
using casa::Random;
using casa::Sampler;
using casa::SamplerState;
using casa::SamplingOptions;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Logits of about the spread of a language model's; on a coarse grid when ties are wanted.
template <class T>
std::vector<T> random_logits(Random& random, Index n, bool ties = false) {
  std::vector<T> logits(static_cast<std::size_t>(n));
  for (T& x : logits) {
    const double sum = random.uniform() + random.uniform() + random.uniform() - 1.5;
    x = static_cast<T>(ties ? std::round(8 * sum) / 2 : 8 * sum);
  }
  return logits;
}

// The filters as they are defined, one after the other, each on a list of (id, probability) sorted
// from the likeliest, equal ones by id. What is left, not normalised.
template <class T>
std::map<Index, double> naive_choices(const std::vector<T>& logits, const SamplingOptions& o,
                                      const std::set<Index>& seen) {
  struct Choice {
    Index id;
    double logit, probability;
  };
  std::vector<Choice> list;
  for (Index id = 0; id < std::ssize(logits); ++id) {
    double x = static_cast<double>(logits[static_cast<std::size_t>(id)]);
    if (seen.count(id) != 0) {
      x = x > 0 ? x / o.repetition_penalty : x * o.repetition_penalty;
      x = static_cast<double>(static_cast<T>(x));
    }
    if (std::ranges::count(o.stop_ids, id) != 0)
      x = static_cast<double>(static_cast<T>(x > 0 ? x * o.eos_bias : x / o.eos_bias));
    list.push_back({id, x, 0});
  }
  std::ranges::stable_sort(list, [](auto& a, auto& b) { return a.logit > b.logit; });
  const double largest = list.front().logit;
  for (Choice& c : list) c.probability = std::exp((c.logit - largest) / o.temperature);
  if (o.top_k > 0 && o.top_k < std::ssize(list)) list.resize(static_cast<std::size_t>(o.top_k));

  double all = 0, above = 0;
  for (const Choice& c : list) all += c.probability;
  std::map<Index, double> left;
  for (const Choice& c : list) {
    if (o.top_p < 1 && above >= o.top_p * all) break;
    above += c.probability;
    if (c.probability >= o.min_p * list.front().probability && c.logit > -HUGE_VAL)
      left[c.id] = c.probability;
  }
  return left;
}

template <class T>
std::map<Index, double> choices(const Sampler<T>& sampler) {
  std::map<Index, double> m;
  for (const auto& c : sampler.candidates()) m[c.id] = c.weight;
  return m;
}

template <class T>
void compare_with_naive(std::uint64_t seed) {
  Random random(seed);
  const auto pick = [&](std::initializer_list<double> of) {
    return of.begin()[static_cast<std::size_t>(random.uniform() * static_cast<double>(of.size()))];
  };
  for (int round = 0; round < 300; ++round) {
    const auto vocab = static_cast<Index>(1 + random.uniform() * pick({3, 40, 2000}));
    const auto any_id = [&] {
      return static_cast<Index>(random.uniform() * static_cast<double>(vocab));
    };
    SamplingOptions o;
    o.temperature = pick({0.1, 0.4, 1, 3});
    o.top_k = static_cast<Index>(pick({0, 1, 5, 256, 3000}));
    o.top_p = pick({1, 1, 0.95, 0.5, 1e-9});
    o.min_p = pick({0, 0, 0.05, 1});
    o.repetition_penalty = pick({1, 1.3, 0.7});
    o.eos_bias = pick({1, 0.95, 2});
    o.stop_ids = {any_id(), any_id()};
    o.seed = random.next();
    CAPTURE(seed);
    CAPTURE(round);
    Sampler<T> sampler(vocab, o);
    std::set<Index> seen;
    for (int i = 0; i < 5; ++i) {
      const Index id = any_id();
      seen.insert(id);
      sampler.observe(id);
    }
    auto logits = random_logits<T>(random, vocab, round % 2 == 0);
    const Index alive = any_id();
    for (int i = 0; i < vocab / 4; ++i)
      if (const Index id = any_id(); id != alive)
        logits[static_cast<std::size_t>(id)] = -std::numeric_limits<T>::infinity();

    const auto expected = naive_choices(logits, o, seen);
    const Index id = sampler.next(logits);
    CHECK(expected.count(id) == 1);
    CHECK(choices(sampler) == expected);  // the same exp of the same double: equal
  }
}

// Draws often and compares the counts with probabilities.
void check_distribution(Sampler<float>& sampler, const std::vector<float>& logits,
                        const std::map<Index, double>& weights) {
  constexpr int draws = 200'000;
  double all = 0;
  for (const auto& [id, weight] : weights) all += weight;
  std::map<Index, int> count;
  for (int i = 0; i < draws; ++i) ++count[sampler.next(logits)];
  double chi2 = 0;
  for (const auto& [id, weight] : weights) {
    const double expected = draws * weight / all;
    REQUIRE(expected >= 5);  // else chi-square says nothing
    chi2 += (count[id] - expected) * (count[id] - expected) / expected;
  }
  CHECK(count.size() == weights.size());  // nothing else was drawn
  // Laurent and Massart: a chi-square of f degrees exceeds f + 2 sqrt(f x) + 2 x with probability
  // below exp(-x); x = 20.
  const double f = static_cast<double>(weights.size()) - 1;
  CHECK(chi2 < f + 2 * std::sqrt(f * 20) + 40);
}

}  // namespace

TEST_CASE("greedy takes the largest logit, of equal ones the lowest id") {
  Sampler<float> sampler(40, {});
  std::vector<float> logits(40, -2.f);
  CHECK(sampler.next(logits) == 0);
  for (const std::size_t largest : {39u, 33u, 15u, 3u}) {  // each ties with those before
    logits[largest] = -1.5f;
    CHECK(sampler.next(logits) == static_cast<Index>(largest));
  }
  logits.assign(40, -kInf);
  logits[17] = std::numeric_limits<float>::lowest();
  CHECK(sampler.next(logits) == 17);
  CHECK(sampler.state().random == Random(0).state());  // greedy takes no random number
  CHECK(sampler.candidates().empty());
}

TEST_CASE("greedy is the first largest of random rows of every length") {
  Random random(5);
  for (Index n = 1; n < 100; ++n) {
    const auto logits = random_logits<double>(random, n, true);
    CAPTURE(n);
    Sampler<double> sampler(n, {});
    CHECK(sampler.next(logits) == std::ranges::max_element(logits) - logits.begin());
  }
}

TEST_CASE_TEMPLATE("filters leave what their definitions leave", T, float, double) {
  for (const std::uint64_t seed : {1u, 2u, 3u}) compare_with_naive<T>(seed);
}

TEST_CASE("tokens come as often as their probabilities say") {
  Random random(11);
  SamplingOptions o;
  for (int round = 0; round < 4; ++round) {
    CAPTURE(round);
    const auto logits = random_logits<float>(random, 30);
    o.temperature = round % 2 == 0 ? 3 : 5;
    o.top_k = round < 2 ? 0 : 20;
    o.top_p = round == 3 ? 0.8 : 1;
    o.seed = static_cast<std::uint64_t>(round);
    Sampler<float> sampler(30, o);
    check_distribution(sampler, logits, naive_choices(logits, o, {}));
  }
}

TEST_CASE("a seen token is penalised, in greedy too, and so is what was drawn") {
  Sampler<float> sampler(4, {.repetition_penalty = 2});
  const std::vector<float> logits{4, 3, 2.5f, -1};
  CHECK(sampler.next(logits) == 0);  // 4 / 2 from now on
  CHECK(sampler.next(logits) == 1);
  CHECK(sampler.next(logits) == 2);
  CHECK(sampler.next(logits) == 0);

  Sampler<float> prompted(4, {.repetition_penalty = 2});
  const std::vector<Index> prompt{0, 2, 0};
  prompted.observe(prompt);
  CHECK(prompted.next(logits) == 1);
  const std::vector<float> negative{-1.5f, -4, -1, -4};  // 0 and 2: -3, -2
  CHECK(prompted.next(negative) == 2);
  prompted.reset();
  CHECK(prompted.next(logits) == 0);
}

TEST_CASE("eos bias weighs the logit of stop tokens down, whatever its sign") {
  const SamplingOptions o{.eos_bias = 0.5, .stop_ids = {1, 1}};  // given twice, weighed once
  Sampler<float> sampler(2, o);
  CHECK(sampler.next(std::vector<float>{2.1f, 4}) == 0);
  CHECK(sampler.next(std::vector<float>{1.9f, 4}) == 1);
  CHECK(sampler.next(std::vector<float>{-1.9f, -1}) == 0);
  CHECK(sampler.next(std::vector<float>{-2.1f, -1}) == 1);
}

TEST_CASE("logits that are no distribution are errors and change nothing") {
  for (const double temperature : {0., 0.7}) {
    Sampler<float> sampler(50, {.temperature = temperature, .top_k = 3});
    std::vector<float> logits(50, 1.f);
    sampler.next(logits);
    const SamplerState before = sampler.state();
    for (const std::size_t at : {0u, 20u, 48u, 49u})
      for (const float bad : {kNan, -kNan, kInf}) {
        std::vector<float> broken = logits;
        broken[at] = bad;
        CHECK_THROWS_AS(sampler.next(broken), casa::error);
      }
    logits[49] = kNan;
    CHECK_THROWS_WITH(
        sampler.next(logits),
        "Sampler::next: logits: expected numbers below infinity, got nan at id 49 of 50");
    CHECK_THROWS_WITH(sampler.next(std::vector<float>(50, -kInf)),
                      "Sampler::next: logits: expected one above -inf, got none of 50");
    CHECK_THROWS_WITH(sampler.next(std::vector<float>(49)),
                      "Sampler::next: logits.size(): expected 50, got 49");
    CHECK(sampler.state() == before);
  }
  // A penalty can carry a float beyond its range; that is said, not sampled.
  Sampler<float> sampler(2, {.repetition_penalty = 1e-30});
  sampler.observe(1);
  CHECK_THROWS_AS(sampler.next(std::vector<float>{0, 1e20f}), casa::error);
}

TEST_CASE("options out of range are named with their range") {
  const auto refused = [](const SamplingOptions& o, const std::string& message) {
    CHECK_THROWS_WITH(Sampler<float>(10, o), message.c_str());
  };
  const double nan = std::nan("");
  refused({.temperature = -1}, "SamplingOptions: temperature: expected finite and >= 0, got -1");
  refused({.temperature = nan}, "SamplingOptions: temperature: expected finite and >= 0, got nan");
  refused({.temperature = HUGE_VAL},
          "SamplingOptions: temperature: expected finite and >= 0, got inf");
  refused({.top_k = -1}, "SamplingOptions: top_k: expected >= 0, got -1");
  refused({.top_p = 0}, "SamplingOptions: top_p: expected in (0, 1], got 0");
  refused({.top_p = 1.5}, "SamplingOptions: top_p: expected in (0, 1], got 1.5");
  refused({.top_p = nan}, "SamplingOptions: top_p: expected in (0, 1], got nan");
  refused({.min_p = -0.5}, "SamplingOptions: min_p: expected in [0, 1], got -0.5");
  refused({.min_p = nan}, "SamplingOptions: min_p: expected in [0, 1], got nan");
  refused({.repetition_penalty = 0},
          "SamplingOptions: repetition_penalty: expected finite and > 0, got 0");
  refused({.eos_bias = -1}, "SamplingOptions: eos_bias: expected finite and > 0, got -1");
  refused({.stop_ids = {3, 10}}, "SamplingOptions: stop_ids: expected ids in [0, 10), got 10");
  refused({.stop_ids = {-1}}, "SamplingOptions: stop_ids: expected ids in [0, 10), got -1");
  CHECK_THROWS_AS(Sampler<float>(0, {}), casa::error);
  CHECK_THROWS_AS(Sampler<float>(Index{1} << 31, {}), casa::error);
  Sampler<float> sampler(10, {});
  CHECK_THROWS_AS(sampler.observe(10), casa::error);
  CHECK_THROWS_AS(sampler.observe(-1), casa::error);
}

TEST_CASE("extreme temperatures stay within arithmetic") {
  const std::vector<float> logits{1, 3, 3, std::numeric_limits<float>::lowest(), -kInf};
  Sampler<float> cold(5, {.temperature = std::numeric_limits<double>::denorm_min()});
  Sampler<float> hot(5, {.temperature = std::numeric_limits<double>::max()});
  std::set<Index> from_cold, from_hot;
  for (int i = 0; i < 200; ++i) {
    from_cold.insert(cold.next(logits));
    from_hot.insert(hot.next(logits));
  }
  CHECK(from_cold == std::set<Index>{1, 2});
  CHECK(from_hot == std::set<Index>{0, 1, 2, 3});
}

TEST_CASE("a stream resumed, copied or forked goes on as one never stopped") {
  const SamplingOptions o{
      .temperature = 0.8, .top_k = 50, .top_p = 0.9, .repetition_penalty = 1.2, .seed = 9};
  Random random(1);
  std::vector<std::vector<float>> rows;
  for (int i = 0; i < 60; ++i) rows.push_back(random_logits<float>(random, 130));
  Sampler<float> sampler(130, o);
  for (int i = 0; i < 30; ++i) sampler.next(rows[static_cast<std::size_t>(i)]);
  const SamplerState saved = sampler.state();
  Sampler<float> resumed(130, o), copy = sampler;
  resumed.restore(saved);
  std::vector<Index> ids;
  for (std::size_t i = 30; i < 60; ++i) {
    ids.push_back(sampler.next(rows[i]));
    CHECK(resumed.next(rows[i]) == ids.back());
    CHECK(copy.next(rows[i]) == ids.back());
  }
  CHECK(resumed.state() == sampler.state());
  sampler.restore(saved);  // rewind
  for (std::size_t i = 30; i < 60; ++i) CHECK(sampler.next(rows[i]) == ids[i - 30]);
}

TEST_CASE("a state that does not fit is refused and changes nothing") {
  Sampler<float> sampler(70, {.seed = 4});
  sampler.observe(69);
  const SamplerState good = sampler.state();
  SamplerState bad = good;
  bad.seen.push_back(0);
  CHECK_THROWS_AS(sampler.restore(bad), casa::error);
  bad = good;
  bad.seen[1] |= std::uint64_t{1} << 6;  // id 70
  CHECK_THROWS_AS(sampler.restore(bad), casa::error);
  bad = good;
  bad.random = {};
  CHECK_THROWS_AS(sampler.restore(bad), casa::error);
  CHECK(sampler.state() == good);
  Sampler<float> exact(64, {});
  exact.observe(63);
  CHECK_NOTHROW(exact.restore(SamplerState(exact.state())));
}

TEST_CASE("once built a sampler allocates nothing, not even when all logits tie") {
  if (!casa_test::must_count()) return;
  Random random(2);
  const Index vocab = 3000;
  const auto spread = random_logits<float>(random, vocab);
  const std::vector<float> equal(3000, 0.5f);
  std::vector<float> rising(3000);
  for (std::size_t i = 0; i < 3000; ++i) rising[i] = static_cast<float>(i) * 0.01f;
  for (const double temperature : {0., 1.})
    for (const Index top_k : {0, 1, 256, 2999})
      for (const double top_p : {1., 0.99}) {
        Sampler<float> sampler(vocab, {.temperature = temperature,
                                       .top_k = top_k,
                                       .top_p = top_p,
                                       .min_p = 0.01,
                                       .repetition_penalty = 1.1,
                                       .eos_bias = 0.95,
                                       .stop_ids = {2}});
        SamplerState saved = sampler.state();
        const long long before = casa_test::allocation_count();
        for (const auto& logits : {std::cref(equal), std::cref(spread), std::cref(rising)}) {
          sampler.next(logits.get());
          sampler.observe(7);
          saved = sampler.state();
          sampler.restore(saved);
        }
        sampler.reset();
        CHECK(casa_test::allocation_count() == before);
      }
}
