#include "casa/checkpoint/captioner_config.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "golden.hpp"
#include "support/messages.hpp"

using namespace casa;
using namespace casa::io;

namespace {

// A vocabulary of the letters a .. z: ids 0 .. 25.
std::vector<int> letters(std::string_view text) {
  std::vector<int> ids;
  for (const char c : text) {
    require(c >= 'a' && c <= 'z', "the model has no token for ", quoted(std::string_view(&c, 1)));
    ids.push_back(c - 'a');
  }
  return ids;
}

CaptionerConfig read(std::string_view json) {
  return captioner_config(parse_json(json, "captioner.json"), letters);
}
std::string refusal(std::string_view json) {
  return message_of([&] { read(json); });
}

constexpr std::string_view kWhole = R"({
  "prompt": "ab", "opening": "c", "stop": "de", "closing": "d", "max_new_tokens": 7,
  "temperature": 0.5, "top_k": 3, "eos_bias": 0.25, "repetition_penalty": 1.5, "ngram_size": 2,
  "text_window": 40, "sinks": 1, "horizon": 90, "restart_every": 6, "image_size": 64})";

}  // namespace

TEST_CASE("every key of captioner.json is read into the member of its name") {
  const CaptionerConfig expected{.prompt = std::vector{0, 1},
                                 .opening = std::vector{2},
                                 .stop = std::vector{3, 4},
                                 .closing = std::vector{3},
                                 .max_new_tokens = 7,
                                 .temperature = 0.5,
                                 .top_k = 3,
                                 .eos_bias = 0.25,
                                 .repetition_penalty = 1.5,
                                 .ngram_size = 2,
                                 .text_window = 40,
                                 .sinks = 1,
                                 .horizon = 90,
                                 .restart_every = 6,
                                 .image_size = 64};
  CHECK(read(kWhole) == expected);
  CHECK(read("{}") == CaptionerConfig{});
}

TEST_CASE("a captioner.json's words become the options of a captioner") {
  ModelConfig model;
  model.tokens.eos = {25};
  const CaptionerOptions o = captioner_options(read(kWhole), model);
  const CaptionerOptions expected{.max_new_tokens = 7,
                                  .sampling = {.temperature = 0.5, .top_k = 3, .eos_bias = 0.25},
                                  .repetition = {.penalty = 1.5},
                                  .ngrams = {.size = 2},
                                  .stop_ids = {3, 4},
                                  .after_image = {2},
                                  .cut_id = 3,
                                  .state = {.text_window = 40, .sinks = 1, .horizon = 90}};
  CHECK(o == expected);

  SUBCASE("what is not said is the captioner's default, the end the model's own") {
    CaptionerOptions defaults;
    defaults.stop_ids = {25};
    CHECK(captioner_options({}, model) == defaults);
    CHECK(captioner_options(read(R"({"stop": "", "closing": ""})"), model) == defaults);
  }
  SUBCASE("an image stands between the model's delimiters, the opening behind them") {
    model.tokens.vision_start = 20;
    model.tokens.vision_end = 21;
    const CaptionerOptions between = captioner_options(read(R"({"opening": "c"})"), model);
    CHECK(between.before_image == std::vector{20});
    CHECK(between.after_image == std::vector{21, 2});
  }
  SUBCASE("the text of a model that keeps all images is not bounded") {
    model.decoder.fusion = presets::token_insertion({0});
    CHECK(captioner_options(read(R"({"text_window": 40})"), model).state.text_window == 0);
  }
  SUBCASE("two closing tokens") {
    CaptionerConfig c;
    c.closing = {1, 2};
    CHECK(has(message_of([&] { captioner_options(c, model); }),
              "closing: expected one token, got 2"));
  }
}

TEST_CASE("what a user asks for goes before what the folder says, key by key") {
  const CaptionerConfig whole = read(kWhole);
  CHECK(overlay({}, whole) == whole);
  CHECK(overlay(whole, read(R"({"top_k": 9, "opening": "z"})")) == whole);
  CaptionerConfig expected = whole;
  expected.top_k = 0;
  expected.closing = std::vector<int>{};
  CHECK(overlay(read(R"({"top_k": 0, "closing": ""})"), whole) == expected);
}

TEST_CASE("a captioner.json that is wrong is refused by file and key") {
  struct Wrong {
    std::string_view json, message;
  };
  for (const Wrong& w : std::vector<Wrong>{
           {R"({"openings": "a"})",
            "captioner.json: openings: not a key of captioner.json, got \"a\""},
           {R"({"opening": 5})", "captioner.json: opening: expected a string, got 5"},
           {R"({"opening": null})", "captioner.json: opening: expected a string, got null"},
           {R"({"opening": "a?"})", "captioner.json: opening: the model has no token for \"?\""},
           {R"({"closing": "ab"})",
            "captioner.json: closing: expected one token (this text has 2)"},
           {R"({"max_new_tokens": 0})",
            "captioner.json: max_new_tokens: expected an integer in [1, "},
           {R"({"max_new_tokens": 2.0})",
            "captioner.json: max_new_tokens: expected an integer in [1, "},
           {R"({"max_new_tokens": 1e99})",
            "captioner.json: max_new_tokens: expected an integer in [1, "},
           {R"({"temperature": -0.1})", "captioner.json: temperature: expected a number in [0, "},
           {R"({"temperature": "0"})", "captioner.json: temperature: expected a number in [0, "},
           {R"({"eos_bias": 0})", "captioner.json: eos_bias: expected a number in ["},
           {R"({"repetition_penalty": 0})",
            "captioner.json: repetition_penalty: expected a number in ["},
           {R"({"top_k": -1})", "captioner.json: top_k: expected an integer in [0, "},
           {R"({"ngram_size": 61})", "captioner.json: ngram_size: expected an integer in [0, 60]"},
           {R"({"text_window": -1})", "captioner.json: text_window: expected an integer in [0, "},
           {R"({"sinks": true})", "captioner.json: sinks: expected an integer in [0, "},
           {R"({"restart_every": -3})",
            "captioner.json: restart_every: expected an integer in [0, "},
           {R"({"image_size": 0})",
            "captioner.json: image_size: expected an integer in [1, 16384]"},
           {R"({"image_size": 16385})", "LoadLimits::image_side"},
           {R"({"text_window": 40, "sinks": 4, "horizon": 44})",
            "captioner.json: horizon: expected 0 or more than text_window + sinks, 44, got 44"},
           {R"({"horizon": 4100})", "horizon: expected 0 or more than text_window + sinks, 4100"},
           {R"({"text_window": 0, "horizon": 90})",
            "captioner.json: horizon: expected 0 where text_window is 0"},
           {R"({"top_k": 1, "top_k": 1})", "captioner.json: duplicate key \"top_k\""},
           {R"(["a"])", "captioner.json"},
           {R"({"top_k": 1)", "captioner.json: not valid JSON"}}) {
    const std::string said = refusal(w.json);
    CAPTURE(w.json);
    CAPTURE(said);
    CHECK(has(said, w.message));
  }
  CHECK(read(R"({"text_window": 40, "sinks": 4, "horizon": 45})").horizon == 45);
  CHECK(read(R"({"horizon": 0, "text_window": 0})").horizon == 0);
}

TEST_CASE("the readers' own captioner.json") {
  // Ids by the folder's list of words, of which only those of the delimiters are asked for.
  Index found = 0;
  for (const char* name :
       {"digits/casa", "reader/casa", "reader/cross_attention", "reader/token_insertion"}) {
    const std::string folder = (golden::repository_root() / name).string();
    if (!std::filesystem::exists(folder + "/config.json")) continue;
    CAPTURE(folder);
    const Json config = read_json(folder + "/config.json");
    const auto id_of = [&](std::string_view word) {
      for (Index i = 0; i < config.at("vocab").size(); ++i)
        if (config.at("vocab").at(i).as_string() == word) return std::vector{static_cast<int>(i)};
      fail("no token ", word);
    };
    const CaptionerConfig c = read_captioner_config(folder, id_of);
    const ModelConfig model = model_config(config);
    const CaptionerOptions o = captioner_options(c, model);
    CHECK(o.after_image.size() == 1);
    CHECK(o.stop_ids.size() == 1);
    CHECK(o.cut_id == static_cast<int>(o.stop_ids.at(0)));
    CHECK(o.sampling.temperature == 0);
    const bool grows = model.decoder.fusion->history == History::all;
    CHECK(grows == (o.state.text_window == 0));
    CHECK(grows == (c.restart_every.value_or(0) > 0));
    ++found;
  }
  CHECK(found > 0);
  // A folder without the file says nothing.
  CHECK(read_captioner_config((golden::repository_root() / "hf_llama").string(), letters) ==
        CaptionerConfig{});
}
