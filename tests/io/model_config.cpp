#include "casa/io/model_config.hpp"

#include <doctest/doctest.h>

#include <map>

#include "casa/io/json.hpp"

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
  return model_config(parse_json(object(fields), "config.json"));
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

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

enum class Kind { integer, real, boolean, string, list };

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
        CHECK(contains(message, f.key));
        CHECK(contains(message, "config.json"));
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
               {"eos_token_id", Kind::integer, 0, max_vocab - 1, true, true},
               {"bos_token_id", Kind::integer, 0, max_vocab - 1, true}},
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
    CHECK(contains(refusal(f), "rope_theta"));
    f.erase("rope_theta");
    f["rope_parameters"] = object({{"rope_theta", theta}, {"rope_type", "\"default\""}});
    CHECK(contains(refusal(f), "rope_theta"));
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
    CHECK(contains(refusal(qwen2_5_vl(v)), "fullatt_block_indexes"));
  }
}

TEST_CASE("what is not supported is refused by the value that asks for it") {
  const auto with = [](const std::string& key, const std::string& value) {
    Fields f = llama();
    f[key] = value;
    return refusal(f);
  };
  CHECK(contains(with("model_type", "\"mistral\""), "\"mistral\""));
  CHECK(contains(with("model_type", "\"mistral\""), "\"helium\""));  // says what is known
  CHECK(contains(with("hidden_act", "\"gelu\""), "\"gelu\""));
  CHECK(contains(with("use_sliding_window", "true"), "use_sliding_window"));
  CHECK(contains(with("sliding_window", "4096"), "4096"));
  CHECK(contains(with("layer_types", R"(["full_attention", "sliding_attention"])"),
                 "sliding_attention"));
  CHECK(contains(with("rope_scaling", R"({"rope_type": "yarn", "factor": 4.0})"), "\"yarn\""));
  CHECK(contains(with("rope_scaling", R"({"type": "linear", "factor": 4.0})"), "\"linear\""));
  CHECK(contains(with("rope_parameters", R"({"rope_theta": 1e4, "factor": 4.0})"), "factor"));
  CHECK(contains(with("partial_rotary_factor", "0.5"), "partial_rotary_factor"));
  CHECK(contains(with("quantization_config", R"({"bits": 4})"), "quantization_config"));
  CHECK(contains(with("vision_config", "{}"), "vision_config"));
  CHECK(with("sliding_window", "null") == "");
  CHECK(with("layer_types", R"(["full_attention", "full_attention"])") == "");
}

TEST_CASE("sizes that do not fit each other are refused") {
  Fields f = llama();
  f["num_key_value_heads"] = "3";
  CHECK(contains(refusal(f), "num_key_value_heads"));
  f = llama();
  f["head_dim"] = "15";
  CHECK(contains(refusal(f), "head_dim"));
  f.erase("head_dim");
  f["hidden_size"] = "1000";
  CHECK(contains(refusal(f), "num_attention_heads"));
  Fields v = qwen2_5_vl();
  v["rope_scaling"] = R"({"type": "mrope", "mrope_section": [2, 3, 4]})";
  CHECK(contains(refusal(v), "mrope_section"));
  v["rope_scaling"] = R"({"type": "mrope", "mrope_section": [4, 4]})";
  CHECK(contains(refusal(v), "mrope_section"));
  v.erase("rope_scaling");
  CHECK(contains(refusal(v), "mrope_section"));
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

TEST_CASE("both layouts of rotary embedding say the same, also Llama 3's scaling") {
  Fields flat = llama(), nested = llama();
  flat["rope_theta"] = "500000";
  flat["rope_scaling"] =
      R"({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192})";
  nested["rope_parameters"] =
      R"({"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 8192})";
  for (const Fields& f : {flat, nested}) {
    const RopeConfig rope = read(f).decoder.rope;
    CHECK(rope.theta == 500000);
    REQUIRE(rope.llama3.has_value());
    CHECK(rope.llama3->factor == 32);
    CHECK(rope.llama3->original_max_position_embeddings == 8192);
  }
  flat["rope_scaling"] = R"({"rope_type": "llama3", "factor": 32.0})";
  CHECK(contains(refusal(flat), "low_freq_factor"));
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
  CHECK(contains(refusal(outer), "text_config.model_type"));
}
