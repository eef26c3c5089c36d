// Which blocks of a config.json attend to a sliding window.
#pragma once

#include <string>
#include <string_view>

#include "casa/checkpoint/families.hpp"
#include "casa/files/limits.hpp"
#include "casa/model/config.hpp"

CASA_NAMESPACE_BEGIN
namespace io::detail {

/// A config of a family without windows must not name one.
inline void require_no_windows(const Json& text, const LoadLimits& limits) {
  const auto use = text.find_set("use_sliding_window");
  if (use && use->as_bool()) use->fail_expected("false (the family has no sliding windows)");
  if (const auto window = text.find_set("sliding_window"); window && !use) {
    window->as_index(1, limits.window, "LoadLimits::window");
    window->fail_expected("null (the family has no sliding windows)");
  }
  if (const auto types = text.find_set("layer_types"))
    for (const Json& type : types->elements())
      if (type.as_string() != "full_attention") type.fail_expected("\"full_attention\"");
}

/// Qwen2's keys: use_sliding_window switches sliding_window on, which holds in the blocks that
/// layer_types names, or from max_window_layers on. Into c, whose num_hidden_layers is known.
inline void read_sliding(const Json& text, const Family& family, const LoadLimits& limits,
                         DecoderConfig& c) {
  if (family.max_window_layers == 0) return require_no_windows(text, limits);
  const auto use = text.find_set("use_sliding_window");
  const auto window = text.find("sliding_window");
  Index size = 0;  // what sliding_window says counts only where use_sliding_window is true
  if (use && use->as_bool()) {
    size = 4096;  // where the key is absent
    if (window)
      size = window->is_null() ? 0 : window->as_index(1, limits.window, "LoadLimits::window");
  }
  const auto first = text.find_set("max_window_layers");
  const Index from = first ? first->as_index(0, std::int64_t{1} << 40) : family.max_window_layers;
  const auto types = text.find_set("layer_types");
  if (types && types->size() != c.num_hidden_layers)
    types->fail_expected(casa::text("an array of num_hidden_layers, ", c.num_hidden_layers));
  for (Index layer = 0; layer < c.num_hidden_layers; ++layer) {
    bool slides = size > 0 && layer >= from;
    if (types) {
      const Json type = types->at(layer);
      slides = type.as_string() == "sliding_attention";
      if (!slides && type.as_string() != "full_attention")
        type.fail_expected("\"full_attention\" or \"sliding_attention\"");
      if (slides && size == 0)
        type.fail_expected(
            "\"full_attention\" where use_sliding_window and sliding_window set none");
    }
    if (slides) c.sliding_layers.push_back(static_cast<int>(layer));
  }
  if (!c.sliding_layers.empty()) c.sliding_window = size;
}

}  // namespace io::detail
CASA_NAMESPACE_END
