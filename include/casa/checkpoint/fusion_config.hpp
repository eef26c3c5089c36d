// The `fusion` object of a config.json, and back.
#pragma once

#include <array>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "casa/json/json_value.hpp"
#include "casa/json/json_writer.hpp"
#include "casa/model/config.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

namespace detail {

template <class E, std::size_t N>
using NameTable = std::array<std::pair<E, std::string_view>, N>;

inline constexpr NameTable<Keys, 2> key_names{
    {{Keys::image, "image"}, {Keys::image_text, "image+text"}}};
inline constexpr NameTable<Placement, 3> placement_names{{{Placement::before, "before"},
                                                          {Placement::parallel, "parallel"},
                                                          {Placement::replace, "replace"}}};
inline constexpr NameTable<Sharing, 2> sharing_names{
    {{Sharing::own, "own"}, {Sharing::shared, "shared"}}};
inline constexpr NameTable<ImageUpdate, 3> update_names{
    {{ImageUpdate::none, "none"},
     {ImageUpdate::ffn, "ffn"},
     {ImageUpdate::attention_ffn, "attention+ffn"}}};
inline constexpr NameTable<ImageRope, 5> image_rope_names{
    {{ImageRope::off, "off"},
     {ImageRope::none, "none"},
     {ImageRope::window_start, "window_start"},
     {ImageRope::consecutive, "consecutive"},
     {ImageRope::stream, "stream"}}};
inline constexpr NameTable<Gate, 3> gate_names{
    {{Gate::none, "none"}, {Gate::tanh, "tanh"}, {Gate::token, "token"}}};

inline constexpr NameTable<RopeStyle, 2> rope_style_names{
    {{RopeStyle::half, "half"}, {RopeStyle::interleaved, "interleaved"}}};

/// The value that the string j names, or casa::error that lists the names.
template <class E, std::size_t N>
E from_name(const Json& j, const NameTable<E, N>& table) {
  std::string expected;
  for (const auto& [value, name] : table) {
    if (j.is_string() && j.as_string() == name) return value;
    expected += (expected.empty() ? "one of \"" : ", \"") + std::string(name) + '"';
  }
  j.fail_expected(expected);
}

template <class E, std::size_t N>
std::string to_name(E value, const NameTable<E, N>& table) {
  for (const auto& [v, name] : table)
    if (v == value) return std::string(name);
  fail("fusion: value ", static_cast<int>(value), " has no name");
}

/// "window", "all", {"last": n} or {"every": k}, n and k from 1 on.
inline History history_of(const Json& j) {
  if (j.is_string() && j.as_string() == "window") return History::window;
  if (j.is_string() && j.as_string() == "all") return History::all;
  if (!j.is_object() || j.size() != 1 || !(j.contains("last") || j.contains("every")))
    j.fail_expected("\"window\", \"all\", {\"last\": n} or {\"every\": k}");
  const bool last = j.contains("last");
  const Index count =
      j.at(last ? "last" : "every").as_index(1, (std::numeric_limits<std::int64_t>::max)());
  return last ? History::last(count) : History::every(count);
}
inline void write_history(JsonWriter& w, const History& h) {
  if (h == History::window || h.rule == History::Rule::all) {
    w.value(h == History::window ? "window" : "all");
    return;
  }
  w.begin_object();
  w.key(h.rule == History::Rule::last ? "last" : "every").value(h.count);
  w.end_object();
}

}  // namespace detail

/// The fusion of a model of num_hidden_layers blocks: nothing for null, "token_insertion" (every
/// block), or an object in which every key of FusionConfig stands. casa::error that names the key
/// for a missing one, an unknown one, an unknown value.
inline std::optional<FusionConfig> fusion_config(const Json& j, Index num_hidden_layers) {
  if (j.is_null()) return std::nullopt;
  if (j.is_string()) {
    if (j.as_string() != "token_insertion")
      j.fail_expected("null, \"token_insertion\" or an object");
    std::vector<int> layers(static_cast<std::size_t>(num_hidden_layers));
    std::iota(layers.begin(), layers.end(), 0);
    return presets::token_insertion(std::move(layers));
  }
  using namespace detail;
  FusionConfig f;
  f.keys = from_name(j.at("keys"), key_names);
  f.placement = from_name(j.at("placement"), placement_names);
  f.parameters = from_name(j.at("parameters"), sharing_names);
  f.norm = from_name(j.at("norm"), sharing_names);
  f.update = from_name(j.at("update"), update_names);
  f.history = history_of(j.at("history"));
  f.image_rope = from_name(j.at("image_rope"), image_rope_names);
  f.gate = from_name(j.at("gate"), gate_names);
  for (const Json& layer : j.at("layers").elements())
    f.layers.push_back(static_cast<int>(layer.as_int(0, num_hidden_layers - 1)));
  constexpr std::string_view known[] = {"keys",    "placement",  "parameters", "norm",  "update",
                                        "history", "image_rope", "gate",       "layers"};
  for (const auto& [key, value] : j.items())
    if (std::find(std::begin(known), std::end(known), key) == std::end(known))
      casa::fail(value.where(), ": unknown key of fusion");
  return f;
}

/// Writes what fusion_config reads, as the value that comes next. Throws casa::error for a config
/// with a rule, which only its program knows.
inline void write_fusion(JsonWriter& w, const FusionConfig& f) {
  using namespace detail;
  require(!f.rule, "fusion: a config with a rule of your own cannot be written");
  w.begin_object();
  w.key("keys").value(to_name(f.keys, key_names));
  w.key("placement").value(to_name(f.placement, placement_names));
  w.key("parameters").value(to_name(f.parameters, sharing_names));
  w.key("norm").value(to_name(f.norm, sharing_names));
  w.key("update").value(to_name(f.update, update_names));
  w.key("history");
  write_history(w, f.history);
  w.key("image_rope").value(to_name(f.image_rope, image_rope_names));
  w.key("gate").value(to_name(f.gate, gate_names));
  w.key("layers").begin_array();
  for (const int layer : f.layers) w.value(layer);
  w.end_array().end_object();
}

}  // namespace io
CASA_NAMESPACE_END
