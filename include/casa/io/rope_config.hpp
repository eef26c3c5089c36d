// The rotary embedding of a config.json, in its newer layout (`rope_parameters`) and its older one
// (`rope_theta` and `rope_scaling`).
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "casa/io/families.hpp"
#include "casa/io/limits.hpp"
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
inline void require_known_keys(const Json& object, std::initializer_list<std::string_view> known) {
  for (const auto& [key, value] : object.items())
    if (!value.is_null() && std::ranges::find(known, key) == known.end())
      casa::fail(value.where(), ": not supported here, got ", value.describe());
}

inline Llama3Scaling llama3_scaling(const Json& j) {
  Llama3Scaling s;
  s.factor = j.at("factor").as_number(1, 1e6);
  s.low_freq_factor = j.at("low_freq_factor").as_number(1e-6, 1e6);
  s.high_freq_factor = j.at("high_freq_factor").as_number(1e-6, 1e6);
  s.original_max_position_embeddings = j.at("original_max_position_embeddings").as_number(1, 1e12);
  if (s.high_freq_factor <= s.low_freq_factor)
    j.at("high_freq_factor")
        .fail_expected(text("a number above low_freq_factor, ", number_text(s.low_freq_factor)));
  return s;
}

/// One object of either layout: kind of scaling, its numbers, sections.
inline void read_rope(const Json& j, const Family& family, Index head_dim, RopeConfig& rope) {
  std::string type = "default";
  for (const std::string_view key : {"rope_type", "type"}) {
    const auto named = j.find_set(key);
    if (!named) continue;
    type = named->as_string();
    const bool known = type == "default" || (family.vision ? type == "mrope" : type == "llama3");
    if (!known)
      named->fail_expected(family.vision ? "\"default\" or \"mrope\""
                                         : "\"default\" or \"llama3\"");
    break;
  }
  if (type == "llama3") {
    require_known_keys(j, {"rope_type", "type", "rope_theta", "factor", "low_freq_factor",
                           "high_freq_factor", "original_max_position_embeddings"});
    rope.llama3 = llama3_scaling(j);
  } else if (family.vision) {
    require_known_keys(j, {"rope_type", "type", "rope_theta", "mrope_section"});
    if (const auto sections = j.find_set("mrope_section")) {
      rope.mrope_sections.clear();
      Index sum = 0;
      for (const Json& s : sections->elements()) {
        rope.mrope_sections.push_back(s.as_int(0, head_dim / 2));
        sum += rope.mrope_sections.back();
      }
      if (rope.mrope_sections.size() != 3 || sum != head_dim / 2)
        sections->fail_expected(
            text("three sections of head_dim / 2 = ", head_dim / 2, " pairs together"));
    }
  } else {
    require_known_keys(j, {"rope_type", "type", "rope_theta"});
  }
}

}  // namespace detail

/// The rotary embedding of a decoder. `text` is the object that holds its keys, `outer` the whole
/// config.json. casa::error that names the key for a kind of scaling that is not known.
inline RopeConfig rope_config(const Json& text, const Json& outer, const Family& family,
                              Index head_dim) {
  RopeConfig rope;
  rope.style = family.rope_style;
  rope.theta = family.rope_theta;
  for (const Json& j : {outer, text})  // what stands nearer wins
    if (const auto theta = j.find_set("rope_theta")) rope.theta = detail::rope_theta(*theta);
  for (const std::string_view key : {"rope_scaling", "rope_parameters"}) {
    auto object = text.find_set(key);
    if (!object) object = outer.find_set(key);
    if (!object) continue;
    detail::read_rope(*object, family, head_dim, rope);
    if (const auto theta = object->find_set("rope_theta")) rope.theta = detail::rope_theta(*theta);
  }
  if (family.vision && rope.mrope_sections.empty())
    casa::fail(text.where(), ": mrope_section is missing (in rope_parameters or rope_scaling)");
  for (const Json& j : {outer, text})
    if (const auto partial = j.find_set("partial_rotary_factor"))
      if (partial->as_number() != 1) partial->fail_expected("1 (whole heads are rotated)");
  return rope;
}

}  // namespace io
CASA_NAMESPACE_END
