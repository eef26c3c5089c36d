// preprocessor_config.json of a Qwen2-VL or Qwen2.5-VL folder. A step or value that is not
// implemented is refused by name, never ignored.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "casa/core/error.hpp"
#include "casa/image/qwen2_vl_preprocess.hpp"
#include "casa/json/json.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

namespace detail {

inline std::array<float, 3> three_channels(const Json& list) {
  require(list.is_array() && list.size() == 3, list.where(), ": expected 3 numbers, got ",
          list.describe());
  std::array<float, 3> v;
  for (std::size_t c = 0; c < 3; ++c) v[c] = static_cast<float>(list.at(c).as_number());
  return v;
}

}  // namespace detail

/// The settings of a parsed preprocessor_config.json; those it lacks (or gives as null) keep
/// Qwen2-VL's values. Bounds come as min_pixels, max_pixels or, in newer files, as
/// size.shortest_edge, size.longest_edge (also in pixels); the former win. Throws casa::error,
/// naming the key, on a wrong kind or value, on another resampling than bicubic, and on a step
/// turned off.
inline Qwen2VlPreprocessConfig parse_qwen2_vl_preprocess_config(const Json& json) {
  Qwen2VlPreprocessConfig config;
  for (const std::string_view step : {"do_resize", "do_rescale", "do_normalize", "do_convert_rgb"})
    if (const auto on = json.find_set(step))
      require(on->as_bool(), on->where(), ": only true is supported");
  if (const auto resample = json.find_set("resample"))
    require(resample->as_int() == 3, resample->where(), ": only 3 (bicubic) is supported, got ",
            resample->describe());

  constexpr std::int64_t kMaxPixels = LoadLimits{}.image_pixels;
  const auto read = [](const Json& from, std::string_view key, Index& to, std::int64_t last) {
    if (const auto value = from.find_set(key)) to = value->as_index(1, last);
  };
  read(json, "patch_size", config.patch_size, 1024);
  read(json, "temporal_patch_size", config.temporal_patch_size, 64);
  read(json, "merge_size", config.merge_size, 64);
  if (const auto size = json.find_set("size")) {
    read(*size, "shortest_edge", config.min_pixels, kMaxPixels);
    read(*size, "longest_edge", config.max_pixels, kMaxPixels);
    read(*size, "min_pixels", config.min_pixels, kMaxPixels);
    read(*size, "max_pixels", config.max_pixels, kMaxPixels);
  }
  read(json, "min_pixels", config.min_pixels, kMaxPixels);
  read(json, "max_pixels", config.max_pixels, kMaxPixels);
  if (const auto mean = json.find_set("image_mean"))
    config.image_mean = detail::three_channels(*mean);
  if (const auto std = json.find_set("image_std")) config.image_std = detail::three_channels(*std);
  if (const auto factor = json.find_set("rescale_factor"))
    config.rescale_factor = factor->as_number();
  detail::check_config(config);
  return config;
}

/// The file at `path`. Throws casa::error as read_json and parse_qwen2_vl_preprocess_config.
inline Qwen2VlPreprocessConfig read_qwen2_vl_preprocess_config(const std::string& path) {
  return parse_qwen2_vl_preprocess_config(read_json(path, python_json({})));
}

}  // namespace io
CASA_NAMESPACE_END
