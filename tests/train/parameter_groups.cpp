#include "casa/train/parameter_groups.hpp"

#include <doctest/doctest.h>

#include <random>
#include <regex>

#include "support/messages.hpp"

using namespace casa;

TEST_CASE("a pattern matches as the regular expression with .* for each *") {
  CHECK(matches("", ""));
  CHECK(matches("*", ""));
  CHECK(matches("model.layers.*.fusion_*", "model.layers.11.fusion_attn.q_proj.weight"));
  CHECK(!matches("model.layers.*.fusion_*", "model.layers.11.self_attn.q_proj.weight"));
  const unsigned seed = 7;
  CAPTURE(seed);
  std::mt19937 random(seed);
  const auto word = [&](const char* letters, unsigned count) {
    std::string s;
    for (unsigned i = random() % 8; i > 0; --i) s += letters[random() % count];
    return s;
  };
  int yes = 0;
  for (int i = 0; i < 20000; ++i) {
    const std::string pattern = word("ab*", 3), name = word("ab", 2);
    CAPTURE(pattern);
    CAPTURE(name);
    const bool expected =
        std::regex_match(name, std::regex(std::regex_replace(pattern, std::regex("\\*"), ".*")));
    REQUIRE(matches(pattern, name) == expected);
    yes += expected;
  }
  CHECK(yes > 1000);
}

TEST_CASE("the first group that has a tensor gives its factors; vectors never decay") {
  const ParameterRule rule = parameter_groups(
      {{{"*.fusion_*"}, {.learning_rate = 1}}, {{"*"}, {.learning_rate = 0.1, .weight_decay = 2}}});
  CHECK(rule({"l.fusion_attn.q", 3, 4}) == ParameterFactors{1, 1});
  CHECK(rule({"l.fusion_gate", 1, 0}) == ParameterFactors{1, 0});
  CHECK(rule({"l.self_attn.q", 3, 4}) == ParameterFactors{0.1, 2});
  CHECK(rule({"norm", 3, 0}) == ParameterFactors{0.1, 0});
  const ParameterRule all_decay =
      parameter_groups({{{"*"}, {}}}, [](const TensorSpec&) { return ParameterFactors{}; });
  CHECK(all_decay({"norm", 3, 0}) == ParameterFactors{1, 1});
}

TEST_CASE("what no group has, and a pattern that has nothing, are refused by name") {
  const ParameterRule rule = parameter_groups({{{"a*"}, {}}});
  CHECK(has(message_of([&] { rule({"b.weight", 1, 1}); }), "no group has the tensor b.weight"));
  const std::vector<TensorSpec> specs{{"a.w", 1, 1}, {"b.w", 2, 2}, {"a.b", 3, 0}};
  const auto chosen = select_tensors(specs, {"*.b", "a.*"});
  REQUIRE(chosen.size() == 2);
  CHECK(chosen[0].name == "a.w");
  CHECK(chosen[1].name == "a.b");
  CHECK(has(message_of([&] { select_tensors(specs, {"a.*", "c*"}); }), "no tensor matches \"c*\""));
}
