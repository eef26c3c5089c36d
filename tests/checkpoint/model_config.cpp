#include "casa/checkpoint/model_config.hpp"

#include <doctest/doctest.h>

#include <map>

#include "casa/json/json.hpp"
#include "support/messages.hpp"

using namespace casa;
using namespace casa::io;

namespace {

using Fields = std::map<std::string, std::string>;  // key -> JSON text

std::string object(const Fields& fields) {
  std::string s = "{";
  for (const auto& [key, value] : fields)
    s += (s.size() > 1 ? ", \"" : "\"") + key + "\": " + value;
  return s + "}";
}

Fields llama() {
  return {
      {"model_type", "\"llama\""}, {"num_hidden_layers", "2"},   {"num_attention_heads", "1024"},
      {"hidden_size", "64"},       {"num_key_value_heads", "1"}, {"head_dim", "16"},
      {"vocab_size", "100"},       {"intermediate_size", "96"},  {"rms_norm_eps", "1e-05"}};
}

Fields vision() {
  return {{"depth", "2"},
          {"hidden_size", "64"},
          {"num_heads", "1"},
          {"intermediate_size", "96"},
          {"fullatt_block_indexes", "[1]"}};
}

Fields qwen2_5_vl(const Fields& vision_config = vision()) {
  Fields f = llama();
  f["model_type"] = "\"qwen2_5_vl\"";
  f["rope_scaling"] = R"({"type": "mrope", "mrope_section": [2, 3, 3]})";
  f["vision_config"] = object(vision_config);
  return f;
}

ModelConfig read(const Fields& fields) {
  return model_config(parse_json(object(fields), "config.json", python_json({})));
}

// The message of the casa::error, or empty where there is none.
std::string refusal(const Fields& fields) {
  try {
    read(fields);
  } catch (const casa::error& e) {
    return e.what();
  }
  return {};
}

enum class Kind { integer, token, real, boolean, string, list };

struct Field {
  std::string key;
  Kind kind;
  std::int64_t low, high;  // of numbers
  bool optional;           // null counts as absent
  bool coupled = false;    // a value in range may still not fit the other fields
};

// What the table below tries: text, and the number it is, if it is one.
struct Value {
  std::string text;
  bool is_integer = false;
  double number = 0;
};

std::vector<Value> values(const Field& f) {
  std::vector<Value> v;
  for (const std::int64_t i : {std::int64_t{-1}, std::int64_t{0}, std::int64_t{1}, f.high,
                               f.high + 1, std::int64_t{1} << 31})
    v.push_back({std::to_string(i), true, static_cast<double>(i)});
  v.push_back({"9223372036854775808", true, 0x1p63});
  v.push_back({"1.5", false, 1.5});
  for (const char* text : {"\"x\"", "null", "[]"}) v.push_back({text});
  return v;
}

bool in_range(const Field& f, const Value& v) {
  if (v.text == "null") return f.optional;
  if (v.text == "[]") return f.kind == Kind::list;
  if (v.text == "\"x\"" || f.kind == Kind::boolean || f.kind == Kind::string ||
      f.kind == Kind::list)
    return false;
  if (f.kind == Kind::token) return v.is_integer;  // any number: none out of range is met
  if (f.kind == Kind::integer && !v.is_integer) return false;
  return v.number >= static_cast<double>(f.low) && v.number <= static_cast<double>(f.high);
}

template <class Make>
void check_table(const std::vector<Field>& fields, Make&& make) {
  for (const Field& f : fields) {
    for (const Value& v : values(f)) {
      CAPTURE(f.key);
      CAPTURE(v.text);
      const std::string message = refusal(make(f.key, v.text));
      if (!in_range(f, v)) {
        CHECK(has(message, f.key));
        CHECK(has(message, "config.json"));
      } else if (!f.coupled) {
        CHECK(message == "");
      }
    }
  }
}

constexpr std::int64_t max_vocab = std::int64_t{1} << 21, max_mlp = std::int64_t{1} << 20;

}  // namespace

TEST_CASE("each field of a decoder takes the values it may have and refuses the others by name") {
  check_table({{"num_hidden_layers", Kind::integer, 1, 1024, false},
               {"num_attention_heads", Kind::integer, 1, 1024, false},
               {"num_key_value_heads", Kind::integer, 1, 1024, true},
               {"hidden_size", Kind::integer, 1, 131072, false},
               {"head_dim", Kind::integer, 2, 1024, true, true},
               {"intermediate_size", Kind::integer, 1, max_mlp, false},
               {"vocab_size", Kind::integer, 1, max_vocab, false},
               {"max_position_embeddings", Kind::integer, 1, std::int64_t{1} << 40, true},
               {"rms_norm_eps", Kind::real, 1, 1, true},
               {"attention_bias", Kind::boolean, 0, 0, true},
               {"mlp_bias", Kind::boolean, 0, 0, true},
               {"tie_word_embeddings", Kind::boolean, 0, 0, true},
               {"use_sliding_window", Kind::boolean, 0, 0, true},
               {"hidden_act", Kind::string, 0, 0, true},
               {"model_type", Kind::string, 0, 0, false},
               {"layer_types", Kind::list, 0, 0, true},
               {"quantization_config", Kind::boolean, 0, 0, true},
               {"eos_token_id", Kind::token, 0, 0, true, true},
               {"bos_token_id", Kind::token, 0, 0, true}},
              [](const std::string& key, const std::string& value) {
                Fields f = llama();
                f[key] = value;
                if (key == "eos_token_id" && value == "[]") f[key] = "[\"x\"]";
                return f;
              });
  // Where theta begins: above 1.
  for (const char* theta : {"-1", "0", "1", "\"x\"", "[]", "true"}) {
    CAPTURE(theta);
    Fields f = llama();
    f["rope_theta"] = theta;
    CHECK(has(refusal(f), "rope_theta"));
    f.erase("rope_theta");
    f["rope_parameters"] = object({{"rope_theta", theta}, {"rope_type", "\"default\""}});
    CHECK(has(refusal(f), "rope_theta"));
  }
}

TEST_CASE("each field of a vision tower takes the values it may have and refuses the others") {
  check_table({{"depth", Kind::integer, 1, 1024, true, true},
               {"hidden_size", Kind::integer, 1, 131072, true, true},
               {"num_heads", Kind::integer, 1, 1024, true, true},
               {"intermediate_size", Kind::integer, 1, max_mlp, true},
               {"out_hidden_size", Kind::integer, 64, 64, true},
               {"in_channels", Kind::integer, 1, 64, true},
               {"patch_size", Kind::integer, 1, 1024, true, true},
               {"temporal_patch_size", Kind::integer, 1, 64, true},
               {"spatial_merge_size", Kind::integer, 1, 64, true, true},
               {"window_size", Kind::integer, 1, max_mlp, true, true},
               {"fullatt_block_indexes", Kind::list, 0, 0, true},
               {"hidden_act", Kind::string, 0, 0, true}},
              [](const std::string& key, const std::string& value) {
                Fields v = vision();
                if (key == "depth") v.erase("fullatt_block_indexes");
                v[key] = value;
                return qwen2_5_vl(v);
              });
  Fields v = vision();
  for (const char* blocks : {"[2]", "[-1]", "[0.5]", "[\"1\"]", "[null]"}) {
    v["fullatt_block_indexes"] = blocks;
    CHECK(has(refusal(qwen2_5_vl(v)), "fullatt_block_indexes"));
  }
}

TEST_CASE("what is not supported is refused by the value that asks for it") {
  const auto with = [](const std::string& key, const std::string& value) {
    Fields f = llama();
    f[key] = value;
    return refusal(f);
  };
  CHECK(has(with("model_type", "\"mistral\""), "\"mistral\""));
  CHECK(has(with("model_type", "\"mistral\""), "\"helium\""));  // says what is known
  CHECK(has(with("hidden_act", "\"gelu\""), "\"gelu\""));
  CHECK(has(with("use_sliding_window", "true"), "use_sliding_window"));
  CHECK(has(with("sliding_window", "4096"), "4096"));
  CHECK(
      has(with("layer_types", R"(["full_attention", "sliding_attention"])"), "sliding_attention"));
  for (const char* type : {"longrope", "su", "proportional", "mrope", "NTK"})
    CHECK(has(with("rope_scaling", casa::text(R"({"rope_type": ")", type, R"(", "factor": 4})")),
              casa::text("\"yarn\", \"llama3\", got \"", type, "\"")));
  CHECK(has(with("rope_parameters", R"({"rope_theta": 1e4, "factor": 4.0})"), "factor"));
  CHECK(has(with("partial_rotary_factor", "0.5"), "partial_rotary_factor"));
  CHECK(has(with("quantization_config", R"({"bits": 4})"), "quantization_config"));
  CHECK(has(with("vision_config", "{}"), "vision_config"));
  CHECK(with("sliding_window", "null") == "");
  CHECK(with("layer_types", R"(["full_attention", "full_attention"])") == "");
}

TEST_CASE("sizes that do not fit each other are refused") {
  Fields f = llama();
  f["num_key_value_heads"] = "3";
  CHECK(has(refusal(f), "num_key_value_heads"));
  f = llama();
  f["head_dim"] = "15";
  CHECK(has(refusal(f), "head_dim"));
  f.erase("head_dim");
  f["hidden_size"] = "1000";
  CHECK(has(refusal(f), "num_attention_heads"));
  Fields v = qwen2_5_vl();
  v["rope_scaling"] = R"({"type": "mrope", "mrope_section": [2, 3, 4]})";
  CHECK(has(refusal(v), "mrope_section"));
  v["rope_scaling"] = R"({"type": "mrope", "mrope_section": [4, 4]})";
  CHECK(has(refusal(v), "mrope_section"));
  v.erase("rope_scaling");
  CHECK(has(refusal(v), "mrope_section"));
}

TEST_CASE("families differ in what their configs leave unsaid") {
  Fields f = llama();
  f.erase("rms_norm_eps");
  f.erase("head_dim");
  f["num_attention_heads"] = "4";
  f["attention_bias"] = "true";
  DecoderConfig c = read(f).decoder;
  CHECK(c.head_dim == 16);
  CHECK(c.rope.style == RopeStyle::half);
  CHECK(c.rope.theta == 1e4);
  CHECK(c.rms_norm_eps == 1e-6);
  CHECK((c.attention_bias && c.attention_out_bias && !c.mlp_bias && !c.tie_word_embeddings));
  f["model_type"] = "\"helium\"";
  c = read(f).decoder;
  CHECK(c.head_dim == 128);
  CHECK(c.rope.style == RopeStyle::interleaved);
  CHECK(c.rope.theta == 1e5);
  CHECK(c.rms_norm_eps == 1e-8);
  CHECK((c.attention_bias && !c.attention_out_bias));
  f["model_type"] = "\"qwen2\"";
  f["attention_bias"] = "false";  // not a key of this family: its q, k and v always have one
  c = read(f).decoder;
  CHECK((c.attention_bias && !c.attention_out_bias && !c.mlp_bias));
  const ModelConfig vl = read(qwen2_5_vl());
  CHECK(vl.decoder.rope.theta == 1e6);
  CHECK(vl.decoder.rope.mrope_sections == std::vector<Index>{2, 3, 3});
  CHECK(vl.decoder.fusion == presets::token_insertion({0, 1}));
  REQUIRE(vl.vision_tower.has_value());
  CHECK(vl.vision_tower->out_hidden_size == 64);
  CHECK(vl.vision_tower->window_tokens() == 4);
}

TEST_CASE("both layouts of rotary embedding say the same, of every kind of scaling") {
  struct Kind {
    std::string type, parameters;
    RopeScaling expected;
  };
  Llama3Scaling llama3{32, 1, 4, 8192};
  YarnScaling yarn;
  yarn.factor = 4;
  yarn.original_max_position_embeddings = 512;
  yarn.beta_fast = 16;
  yarn.truncate = false;
  yarn.mscale = 0.7;
  yarn.mscale_all_dim = 0.5;
  const Kind kinds[] = {
      {"default", "", {}},
      {"linear", R"(, "factor": 4)", LinearScaling{4}},
      {"dynamic", R"(, "factor": 2.5)", DynamicScaling{2.5, 2048}},
      {"yarn",
       R"(, "factor": 4, "original_max_position_embeddings": 512, "beta_fast": 16, "beta_slow": 0,
          "truncate": false, "mscale": 0.7, "mscale_all_dim": 0.5, "attention_factor": null)",
       yarn},
      {"llama3",
       R"(, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192)",
       llama3}};
  for (const Kind& k : kinds) {
    CAPTURE(k.type);
    Fields flat = llama(), old = llama(), nested = llama(), typed = llama();
    flat["rope_theta"] = old["rope_theta"] = "500000";
    flat["rope_scaling"] = R"({"rope_type": ")" + k.type + "\"" + k.parameters + "}";
    old["rope_scaling"] = R"({"type": ")" + k.type + "\"" + k.parameters + "}";
    const std::string whole =
        R"({"rope_type": ")" + k.type + R"(", "rope_theta": 500000.0)" + k.parameters + "}";
    nested["rope_parameters"] = whole;
    typed["rope_parameters"] = object({{"full_attention", whole}});
    for (const Fields& f : {flat, old, nested, typed}) {
      const RopeConfig rope = read(f).decoder.rope;
      CHECK(rope.theta == 500000);
      CHECK(rope.scaling == k.expected);
    }
  }
  Fields f = llama();
  f["rope_scaling"] = R"({"rope_type": "llama3", "factor": 32.0})";
  CHECK(has(refusal(f), "low_freq_factor"));
  f["rope_scaling"] = R"({"rope_type": "dynamic"})";
  CHECK(has(refusal(f), "factor is missing"));
  f["rope_scaling"] = R"({"rope_type": "linear", "factor": Infinity})";
  CHECK(has(refusal(f), "factor"));
}

TEST_CASE("rotary parameters: what transformers reads where configs say several things") {
  // rope_scaling, where it says anything, is read alone.
  Fields f = llama();
  f["rope_scaling"] = R"({"type": "linear", "factor": 4})";
  f["rope_parameters"] = R"({"rope_type": "linear", "factor": 8, "rope_theta": 77})";
  CHECK(read(f).decoder.rope.scaling == RopeScaling(LinearScaling{4}));
  CHECK(read(f).decoder.rope.theta == 1e4);
  f["rope_scaling"] = "{}";
  CHECK(read(f).decoder.rope.scaling == RopeScaling(LinearScaling{8}));
  CHECK(read(f).decoder.rope.theta == 77);
  // The trained length: beside the parameters, in them, or the model's own.
  f = llama();
  f["rope_scaling"] = R"({"type": "yarn", "factor": 4})";
  const auto original = [&] {
    return std::get<YarnScaling>(read(f).decoder.rope.scaling).original_max_position_embeddings;
  };
  CHECK(original() == 2048);
  f["max_position_embeddings"] = "999";
  CHECK(original() == 999);
  f["rope_scaling"] =
      R"({"type": "yarn", "factor": null, "original_max_position_embeddings": 333})";
  CHECK(original() == 333);
  CHECK(std::get<YarnScaling>(read(f).decoder.rope.scaling).factor == 3);
  f["original_max_position_embeddings"] = "111";
  CHECK(original() == 111);
  // Keys that no one reads are refused by the option that passes over them.
  f = llama();
  f["rope_scaling"] = R"({"type": "linear", "factor": 4, "finetuned": true})";
  CHECK(has(refusal(f), "finetuned"));
  CHECK(has(refusal(f), "LoadLimits::unknown_rope_keys"));
  LoadLimits lenient;
  lenient.unknown_rope_keys = true;
  CHECK(model_config(parse_json(object(f), "f"), lenient).decoder.rope.scaling ==
        RopeScaling(LinearScaling{4}));
  // Of layer types, those in use must agree.
  f = llama();
  f["model_type"] = "\"qwen2\"";
  f["use_sliding_window"] = "true";
  f["max_window_layers"] = "1";
  const std::string one = R"({"rope_type": "linear", "factor": 2})";
  f["rope_parameters"] = object({{"full_attention", one}});
  CHECK(has(refusal(f), "sliding_attention is missing"));
  f["rope_parameters"] = object({{"full_attention", one}, {"sliding_attention", one}});
  CHECK(read(f).decoder.rope.scaling == RopeScaling(LinearScaling{2}));
  f["rope_parameters"] =
      object({{"full_attention", one}, {"sliding_attention", R"({"rope_type": "default"})"}});
  CHECK(has(refusal(f), "sliding_attention"));
  f["use_sliding_window"] = "false";
  CHECK(read(f).decoder.rope.scaling == RopeScaling(LinearScaling{2}));
}

TEST_CASE("sliding windows hold in the blocks that Qwen2's keys say") {
  Fields f = llama();
  f["model_type"] = "\"qwen2\"";
  f["num_hidden_layers"] = "4";
  const auto slides = [&] {
    const DecoderConfig c = read(f).decoder;
    return std::pair(c.sliding_window, c.sliding_layers);
  };
  using Layers = std::vector<int>;
  CHECK(slides() == std::pair(Index{0}, Layers{}));
  f["sliding_window"] = "7";
  f["max_window_layers"] = "0";
  CHECK(slides() == std::pair(Index{0}, Layers{}));  // not switched on
  f["use_sliding_window"] = "true";
  CHECK(slides() == std::pair(Index{7}, Layers{0, 1, 2, 3}));
  f["max_window_layers"] = "3";
  CHECK(slides() == std::pair(Index{7}, Layers{3}));
  f.erase("max_window_layers");  // 28
  CHECK(slides() == std::pair(Index{0}, Layers{}));
  f["layer_types"] =
      R"(["sliding_attention", "full_attention", "sliding_attention", "full_attention"])";
  CHECK(slides() == std::pair(Index{7}, Layers{0, 2}));
  f.erase("sliding_window");
  CHECK(slides() == std::pair(Index{4096}, Layers{0, 2}));
  for (const char* value : {"null", "0", "-1", "1.5", "\"x\""}) {
    f["sliding_window"] = value;
    CHECK(has(refusal(f), value == std::string("null") ? "layer_types[0]" : "sliding_window"));
  }
  f["sliding_window"] = "7";
  f["use_sliding_window"] = "false";
  CHECK(has(refusal(f), "layer_types[0]"));
  Fields unused = f;  // what is switched off may say anything
  unused.erase("layer_types");
  unused["sliding_window"] = "-1";
  unused["hidden_act"] = "\"swish\"";  // silu's other name
  CHECK(read(unused).decoder.sliding_layers.empty());
  f["use_sliding_window"] = "true";
  f["layer_types"] = R"(["sliding_attention"])";
  CHECK(has(refusal(f), "num_hidden_layers, 4"));
  f["layer_types"] = R"(["chunked_attention", "full_attention", "full_attention", "x"])";
  CHECK(has(refusal(f), "chunked_attention"));
  // The vision family has the same keys; llama and helium have none.
  Fields v = qwen2_5_vl();
  v["use_sliding_window"] = "true";
  v["sliding_window"] = "5";
  v["max_window_layers"] = "1";
  CHECK(read(v).decoder.sliding_layers == Layers{1});
}

TEST_CASE("what an option would take is refused with the option's name, and taken with it") {
  const auto refused = [](const std::string& key, const std::string& value, const char* option) {
    Fields f = llama();
    f[key] = value;
    CHECK(has(refusal(f), option));
  };
  refused("num_hidden_layers", "1025", "LoadLimits::layers");
  refused("num_attention_heads", "2048", "LoadLimits::heads");
  refused("head_dim", "2048", "LoadLimits::head_dim");
  refused("hidden_size", "131073", "LoadLimits::hidden_size");
  refused("intermediate_size", "1048577", "LoadLimits::intermediate_size");
  refused("vocab_size", "2097153", "LoadLimits::vocab_size");
  Fields f = llama();
  f["num_hidden_layers"] = "1025";
  f["hidden_size"] = "131074";
  f["vocab_size"] = "3000000";
  f["head_dim"] = "2048";
  LoadLimits wide;
  wide.layers = 2000;
  wide.hidden_size = wide.vocab_size = 4'000'000;
  wide.head_dim = 4096;
  CHECK(model_config(parse_json(object(f), "f"), wide).decoder.num_hidden_layers == 1025);
}

TEST_CASE("ids that no vocabulary has name no token") {
  Fields f = llama();
  f["eos_token_id"] = "-1";
  f["bos_token_id"] = "-1";
  CHECK(read(f).tokens.eos.empty());
  CHECK_FALSE(read(f).tokens.bos.has_value());
  f["eos_token_id"] = "[-1, 5, 9223372036854775808, 6]";
  CHECK(read(f).tokens.eos == std::vector<int>{5, 6});
  f["eos_token_id"] = "[]";
  CHECK(read(f).tokens.eos.empty());
  for (const char* bad : {"[null]", "[[1]]", "1.0", "true", "\"2\""}) {
    f["eos_token_id"] = bad;
    CHECK(has(refusal(f), "eos_token_id"));
  }
}

TEST_CASE("a head is tied where the whole model or its text says so, as transformers reads it") {
  for (const char* outer : {"", "true", "false", "null"})
    for (const char* inner : {"", "true", "false", "null"}) {
      CAPTURE(outer);
      CAPTURE(inner);
      Fields text = qwen2_5_vl(), whole = text;
      text["model_type"] = "\"qwen2_5_vl_text\"";
      text.erase("vision_config");
      if (*inner) text["tie_word_embeddings"] = inner;
      if (*outer) whole["tie_word_embeddings"] = outer;
      whole["text_config"] = object(text);
      CHECK(read(whole).decoder.tie_word_embeddings ==
            (outer == std::string("true") || inner == std::string("true")));
    }
}

TEST_CASE("text settings may be nested in text_config") {
  Fields text = llama(), outer;
  text["model_type"] = "\"llama_text\"";
  text["eos_token_id"] = "[3, 4]";
  outer["model_type"] = "\"llama\"";
  outer["text_config"] = object(text);
  outer["tie_word_embeddings"] = "true";
  const ModelConfig m = read(outer);
  CHECK(m.decoder.num_attention_heads == 1024);
  CHECK(m.decoder.tie_word_embeddings);
  CHECK(m.tokens.eos == std::vector<int>{3, 4});
  outer["eos_token_id"] = "7";
  CHECK(read(outer).tokens.eos == std::vector<int>{7});
  text["model_type"] = "\"qwen2\"";
  outer["text_config"] = object(text);
  CHECK(has(refusal(outer), "text_config.model_type"));
}
