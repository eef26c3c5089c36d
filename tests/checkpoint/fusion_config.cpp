#include "casa/checkpoint/fusion_config.hpp"

#include <doctest/doctest.h>

#include "casa/json/json.hpp"
#include "support/messages.hpp"

using namespace casa;

namespace {

std::string config(const std::string& history) {
  return R"({"keys": "image+text", "placement": "parallel", "parameters": "own", "norm": "shared",
    "update": "none", "history": )" +
         history + R"(, "image_rope": "window_start", "gate": "none", "layers": [0, 2]})";
}

FusionConfig read(const std::string& text) {
  return *io::fusion_config(io::parse_json(text, "config.json"), 3);
}

}  // namespace

TEST_CASE("every history has a form in config.json, and comes back") {
  const std::vector<std::pair<std::string, History>> forms = {
      {"\"window\"", History::window},       {"\"all\"", History::all},
      {"{\"last\": 1}", History::window},    {"{\"last\": 4}", History::last(4)},
      {"{\"every\": 1}", History::every(1)}, {"{\"every\": 10}", History::every(10)}};
  for (const auto& form : forms) {
    CAPTURE(form.first);
    FusionConfig f = presets::casa({0, 2});
    f.history = form.second;
    CHECK(read(config(form.first)) == f);
    io::JsonWriter w;
    io::write_fusion(w, f);
    CHECK(read(w.str()) == f);
  }
}

TEST_CASE("a history that is none is refused by name") {
  for (const char* bad :
       {"\"last\"", "\"\"", "3", "null", "[]", "{}", "{\"last\": 0}", "{\"last\": -1}",
        "{\"last\": 1.5}", "{\"last\": \"2\"}", "{\"every\": 0}", "{\"first\": 2}",
        "{\"last\": 2, \"every\": 2}", "{\"last\": 99999999999999999999}"}) {
    CAPTURE(bad);
    const std::string said = message_of([&] { read(config(bad)); });
    CAPTURE(said);
    CHECK(has(said, "history"));
    CHECK(has(said, "config.json"));
  }
  CHECK(has(message_of([] { read(config("2")); }),
            R"(expected "window", "all", {"last": n} or {"every": k})"));
}

TEST_CASE("a rule of one's own has no form in config.json, and is not left out in silence") {
  struct Everything final : VisibilityRule {
    RuleSeen sees(const RuleRow&, const RuleWindow& w) const override { return RuleSeen::all(w); }
    bool keeps(Index, Index) const override { return true; }
  };
  FusionConfig f = presets::casa({0});
  f.rule = std::make_shared<Everything>();
  io::JsonWriter w;
  CHECK(message_of([&] { io::write_fusion(w, f); }) ==
        "fusion: a config with a rule of your own cannot be written");
}
