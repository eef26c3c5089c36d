// The rotary embedding of a config.json, in its newer layout (`rope_parameters`) and its older one
// (`rope_theta` and `rope_scaling`), read as transformers reads them.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "casa/checkpoint/families.hpp"
#include "casa/files/limits.hpp"
#include "casa/model/config.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

namespace detail {

inline double rope_theta(const Json& j) {
  const double theta = j.as_number(1, 1e30);
  if (theta == 1) j.fail_expected("a number above 1");
  return theta;
}

/// Every key that is set must be one of those understood.
inline void require_known_keys(const Json& object, std::initializer_list<std::string_view> known,
                               const LoadLimits& limits) {
  if (limits.unknown_rope_keys) return;
  for (const auto& [key, value] : object.items())
    if (!value.is_null() && std::find(known.begin(), known.end(), key) == known.end())
      casa::fail(value.where(), ": not read here, got ", value.describe(),
                 " (LoadLimits::unknown_rope_keys passes over it)");
}

/// Reads the object of rotary parameters of one model (or of one type of its layers).
class RopeReader {
 public:
  /// `text` holds the other keys of the decoder.
  RopeReader(const Json& text, const Family& family, Index head_dim, const LoadLimits& limits)
      : text_(text), family_(family), head_dim_(head_dim), limits_(limits) {}

  RopeConfig read(const std::optional<Json>& j) const {
    RopeConfig rope;
    rope.style = family_.rope_style;
    rope.theta = family_.rope_theta;
    if (const auto theta = text_.find_set("rope_theta")) rope.theta = detail::rope_theta(*theta);
    if (j) {
      if (const auto theta = j->find_set("rope_theta")) rope.theta = detail::rope_theta(*theta);
      require_whole_heads(*j);
      rope.scaling = scaling(*j);
    }
    require_whole_heads(text_);
    if (family_.vision) rope.mrope_sections = sections(j);
    return rope;
  }

 private:
  static void require_whole_heads(const Json& j) {
    if (const auto partial = j.find_set("partial_rotary_factor"))
      if (partial->as_number() != 1) partial->fail_expected("1 (whole heads are rotated)");
  }

  RopeScaling scaling(const Json& j) const {
    std::string type = "default";
    std::optional<Json> named = j.find_set("rope_type");
    if (!named) named = j.find_set("type");
    if (named) type = named->as_string();
    if (family_.vision && type == "mrope") type = "default";
    if (type == "default") {
      require_keys(j, {});
      return {};
    }
    if (type == "linear") {
      require_keys(j, {"factor"});
      return LinearScaling{factor(j)};
    }
    if (type == "dynamic") {
      require_keys(j, {"factor"});
      if (head_dim_ <= 2) named->fail_expected("another rope_type for heads of 2 values");
      return DynamicScaling{factor(j), trained_length()};
    }
    if (type == "yarn") {
      require_keys(j, {"factor", "original_max_position_embeddings", "attention_factor",
                       "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"});
      return yarn(j);
    }
    if (type != "llama3")
      named->fail_expected(text("one of \"default\", \"linear\", \"dynamic\", \"yarn\", \"llama3\"",
                                family_.vision ? ", \"mrope\"" : ""));
    require_keys(
        j, {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"});
    return llama3(j);
  }

  void require_keys(const Json& j, std::initializer_list<std::string_view> own) const {
    if (limits_.unknown_rope_keys) return;
    const auto is = [](std::initializer_list<std::string_view> names, std::string_view key) {
      return std::find(names.begin(), names.end(), key) != names.end();
    };
    for (const auto& [key, value] : j.items()) {
      if (value.is_null() || is(own, key) || (family_.vision && key == "mrope_section")) continue;
      if (!is({"rope_type", "type", "rope_theta", "partial_rotary_factor"}, key))
        casa::fail(value.where(), ": not read by this rope_type, got ", value.describe(),
                   " (LoadLimits::unknown_rope_keys passes over it)");
    }
  }

  static double factor(const Json& j) { return j.at("factor").as_number(1e-6, 1e6); }

  double trained_length() const {
    const auto set = text_.find_set("max_position_embeddings");
    return set ? set->as_number(1, 1e12) : static_cast<double>(family_.max_position_embeddings);
  }

  // The key beside the rotary parameters wins over the same key within them.
  double original_length(const Json& j) const {
    for (const Json& from : {text_, j})
      if (const auto set = from.find_set("original_max_position_embeddings"))
        return set->as_number(1, 1e12);
    return trained_length();
  }

  YarnScaling yarn(const Json& j) const {
    YarnScaling s;
    s.original_max_position_embeddings = original_length(j);
    s.factor = j.at("factor").is_null() ? trained_length() / s.original_max_position_embeddings
                                        : factor(j);
    const auto read = [&](std::string_view key, double& to) {
      const auto set = j.find_set(key);
      const double value = set ? set->as_number(0, 1e6) : 0;
      if (value != 0) to = value;  // 0 counts as not set
    };
    read("beta_fast", s.beta_fast);
    read("beta_slow", s.beta_slow);
    read("mscale", s.mscale);
    read("mscale_all_dim", s.mscale_all_dim);
    if (const auto set = j.find_set("attention_factor"))
      s.attention_factor = set->as_number(1e-6, 1e6);
    if (const auto truncate = j.find("truncate"))  // an explicit null means false, not the default
      s.truncate = !truncate->is_null() && truncate->as_bool();
    return s;
  }

  Llama3Scaling llama3(const Json& j) const {
    Llama3Scaling s;
    s.factor = j.at("factor").as_number(1, 1e6);
    s.low_freq_factor = j.at("low_freq_factor").as_number(1e-6, 1e6);
    s.high_freq_factor = j.at("high_freq_factor").as_number(1e-6, 1e6);
    s.original_max_position_embeddings = original_length(j);
    if (s.high_freq_factor <= s.low_freq_factor)
      j.at("high_freq_factor")
          .fail_expected(
              casa::text("a number above low_freq_factor, ", number_text(s.low_freq_factor)));
    return s;
  }

  std::vector<Index> sections(const std::optional<Json>& j) const {
    const auto set = j ? j->find_set("mrope_section") : std::nullopt;
    if (!set) {
      if (head_dim_ == 128) return {16, 24, 24};  // as published
      casa::fail(text_.where(), ": mrope_section is missing (in rope_parameters or rope_scaling)");
    }
    std::vector<Index> v;
    Index sum = 0;
    for (const Json& s : set->elements()) {
      v.push_back(s.as_index(0, head_dim_ / 2));
      sum += v.back();
    }
    if (v.size() != 3 || sum != head_dim_ / 2)
      set->fail_expected(
          casa::text("three sections of head_dim / 2 = ", head_dim_ / 2, " pairs together"));
    return v;
  }

  Json text_;
  const Family& family_;
  Index head_dim_;
  const LoadLimits& limits_;
};

/// rope_scaling unless it is empty, else rope_parameters. Where both are set, transformers reads
/// rope_scaling alone.
inline std::optional<Json> rope_object(const Json& text) {
  for (const std::string_view key : {"rope_scaling", "rope_parameters"})
    if (auto object = text.find_set(key))
      if (!object->is_object() || object->size() > 0) return object;
  return std::nullopt;
}

}  // namespace detail

/// The rotary embedding of a decoder whose keys stand in `text` and whose blocks slide or not as
/// `slides` and `stays` say. Parameters may be nested by layer type ("full_attention",
/// "sliding_attention") where all types in use have the same. casa::error that names the key for a
/// kind of scaling that is not known.
inline RopeConfig rope_config(const Json& text, const Family& family, Index head_dim, bool stays,
                              bool slides, const LoadLimits& limits = {}) {
  const detail::RopeReader reader(text, family, head_dim, limits);
  const auto object = detail::rope_object(text);
  if (!object || !object->is_object()) return reader.read(object);
  if (!object->contains("full_attention") && !object->contains("sliding_attention"))
    return reader.read(object);
  std::optional<RopeConfig> rope;
  for (const std::string_view type : {"full_attention", "sliding_attention"}) {
    if (!(type == "full_attention" ? stays : slides)) continue;
    const Json nested = object->at(type);
    if (!nested.is_object()) nested.fail_expected("an object");
    const RopeConfig own = reader.read(nested);
    if (rope && !(*rope == own))
      nested.fail_expected("the parameters of full_attention (one rotary embedding a model)");
    rope = own;
  }
  return *rope;
}

}  // namespace io
CASA_NAMESPACE_END
