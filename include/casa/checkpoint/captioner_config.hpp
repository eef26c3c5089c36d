// captioner.json: how a model's streams are captioned, said by whoever trained it, so that a user
// need not know.
//
//   {"opening": "<start>", "stop": "<end>", "closing": "<end>", "max_new_tokens": 80,
//    "temperature": 0, "eos_bias": 1, "repetition_penalty": 1, "ngram_size": 0,
//    "text_window": 80, "sinks": 0, "horizon": 300}
#pragma once

#include <concepts>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/checkpoint/model_config.hpp"
#include "casa/files/file.hpp"
#include "casa/files/limits.hpp"
#include "casa/generate/captioner.hpp"
#include "casa/json/json.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// What a captioner.json may say, each under the key of the member's name; what it does not say is
/// left to the defaults of CaptionerOptions. In the file the members that hold ids are texts.
struct CaptionerConfig {
  std::optional<std::vector<int>> prompt;    ///< text before the first frame
  std::optional<std::vector<int>> opening;   ///< text between a frame's image and its caption
  std::optional<std::vector<int>> stop;      ///< each of these tokens ends a caption
  std::optional<std::vector<int>> closing;   ///< ends a caption that was cut; one token, or none
  std::optional<Index> max_new_tokens;       ///< CaptionerOptions::max_new_tokens
  std::optional<double> temperature;         ///< SamplingOptions::temperature, 0: greedy
  std::optional<Index> top_k;                ///< SamplingOptions::top_k, 0: off
  std::optional<double> eos_bias;            ///< SamplingOptions::eos_bias, 1: off
  std::optional<double> repetition_penalty;  ///< EmaRepetitionOptions::penalty, 1: off
  std::optional<Index> ngram_size;           ///< NgramBlockOptions::size, 0: off
  std::optional<Index> text_window;          ///< StateOptions::text_window, 0: all text is kept
  std::optional<Index> sinks;                ///< StateOptions::sinks
  std::optional<Index> horizon;              ///< StateOptions::horizon, 0: positions never restart
  /// A new stream begins after the model was shown this many frames, for models whose text can not
  /// be bounded (token insertion). 0: never.
  std::optional<Index> restart_every;
  std::optional<Index> image_size;  ///< side in pixels that videos are scaled to

  friend bool operator==(const CaptionerConfig&, const CaptionerConfig&) = default;
};

namespace detail {

/// Calls visit(key, member of each of the configs) for all members, in the order of the struct.
template <class Visit, class... Configs>
void visit_captioner_config(Visit&& visit, Configs&... c) {
  visit("prompt", c.prompt...);
  visit("opening", c.opening...);
  visit("stop", c.stop...);
  visit("closing", c.closing...);
  visit("max_new_tokens", c.max_new_tokens...);
  visit("temperature", c.temperature...);
  visit("top_k", c.top_k...);
  visit("eos_bias", c.eos_bias...);
  visit("repetition_penalty", c.repetition_penalty...);
  visit("ngram_size", c.ngram_size...);
  visit("text_window", c.text_window...);
  visit("sinks", c.sinks...);
  visit("horizon", c.horizon...);
  visit("restart_every", c.restart_every...);
  visit("image_size", c.image_size...);
}

/// Sets `to` to the ids of a text; what `ids` refuses is refused with the place in the file.
template <class Ids>
void read_setting(const Json& j, std::string_view key, std::optional<std::vector<int>>& to,
                  const LoadLimits&, Ids& ids) {
  const std::string& text = j.as_string();
  try {
    to = ids(std::string_view(text));
  } catch (const error& e) {
    casa::fail(j.where(), ": ", e.what());
  }
  if (key == "closing" && to->size() > 1)
    j.fail_expected(casa::text("one token (this text has ", to->size(), ")"));
}

template <class Ids>
void read_setting(const Json& j, std::string_view key, std::optional<double>& to, const LoadLimits&,
                  Ids&) {
  to = j.as_number(key == "temperature" ? 0 : 1e-6, 1e6);
}

template <class Ids>
void read_setting(const Json& j, std::string_view key, std::optional<Index>& to,
                  const LoadLimits& limits, Ids&) {
  if (key == "image_size")
    to = j.as_index(1, limits.image_side, "LoadLimits::image_side");
  else if (key == "top_k")
    to = j.as_index(0, limits.vocab_size, "LoadLimits::vocab_size");
  else if (key == "ngram_size")
    to = j.as_index(0, NgramBlockOptions{}.window);
  else  // counts of tokens and of frames
    to = j.as_index(key == "max_new_tokens" ? 1 : 0, limits.window, "LoadLimits::window");
}

}  // namespace detail

/// The members of `first`, and those of `second` that `first` does not say: what a user asks for
/// goes before what the folder says.
inline CaptionerConfig overlay(CaptionerConfig first, const CaptionerConfig& second) {
  detail::visit_captioner_config(
      [](std::string_view, auto& to, const auto& from) {
        if (!to) to = from;
      },
      first, second);
  return first;
}

/// A captioner.json. `ids` makes a std::vector<int> of a std::string_view: the tokenizer's encode,
/// or the folder's own list of words. casa::error that names the file and the key for a key that is
/// not known, a value of another kind or out of range, and a text that `ids` refuses; and for a
/// horizon that leaves no room after the bounded text (StateOptions::horizon).
template <std::invocable<std::string_view> Ids>
CaptionerConfig captioner_config(const Json& j, Ids&& ids, const LoadLimits& limits = {}) {
  CaptionerConfig c;
  for (const auto& [name, value] : j.items()) {
    const std::string_view key = name;
    const Json setting = value;
    bool known = false;
    detail::visit_captioner_config(
        [&](std::string_view member, auto& to) {
          if (member != key) return;
          known = true;
          detail::read_setting(setting, key, to, limits, ids);
        },
        c);
    require(known, setting.where(), ": not a key of captioner.json, got ", setting.describe());
  }
  const StateOptions state = CaptionerOptions{}.state;
  const Index window = c.text_window.value_or(state.text_window);
  const Index kept = checked_add(window, c.sinks.value_or(state.sinks), "text_window + sinks");
  if (c.horizon && *c.horizon != 0 && (window == 0 || *c.horizon <= kept))
    j.at("horizon").fail_expected(window == 0
                                      ? std::string("0 where text_window is 0 (all text is kept)")
                                      : casa::text("0 or more than text_window + sinks, ", kept));
  return c;
}

/// The captioner.json of a model's folder; nothing is set where the folder has none. Throws
/// casa::error as captioner_config, and for a file that cannot be read.
template <std::invocable<std::string_view> Ids>
CaptionerConfig read_captioner_config(const std::string& folder, Ids&& ids,
                                      const LoadLimits& limits = {}) {
  const std::string file = folder + "/captioner.json";
  if (!detail::file_exists(file)) return {};
  return captioner_config(read_json(file, json_rules(limits)), ids, limits);
}

/// The options of a Captioner of `model` under `c`. Captions end with the model's own end tokens
/// unless `c` has others, and an image stands between the model's delimiters where it has such. The
/// text window is left out for models that keep all images' keys (History::all), whose text can not
/// be bounded. Throws casa::error where closing is more than one token.
inline CaptionerOptions captioner_options(const CaptionerConfig& c, const ModelConfig& model) {
  CaptionerOptions o;
  o.max_new_tokens = c.max_new_tokens.value_or(o.max_new_tokens);
  o.sampling.temperature = c.temperature.value_or(o.sampling.temperature);
  o.sampling.top_k = c.top_k.value_or(o.sampling.top_k);
  o.sampling.eos_bias = c.eos_bias.value_or(o.sampling.eos_bias);
  o.repetition.penalty = c.repetition_penalty.value_or(o.repetition.penalty);
  o.ngrams.size = c.ngram_size.value_or(o.ngrams.size);
  o.stop_ids.assign(model.tokens.eos.begin(), model.tokens.eos.end());
  if (c.stop && !c.stop->empty()) o.stop_ids.assign(c.stop->begin(), c.stop->end());
  o.after_image = c.opening.value_or(std::vector<int>{});
  if (model.tokens.vision_start && model.tokens.vision_end) {
    o.before_image = {*model.tokens.vision_start};
    o.after_image.insert(o.after_image.begin(), *model.tokens.vision_end);
  }
  if (c.closing && !c.closing->empty()) {
    require(c.closing->size() == 1, "CaptionerConfig: closing: expected one token, got ",
            c.closing->size());
    o.cut_id = c.closing->front();
  }
  o.state.text_window = c.text_window.value_or(o.state.text_window);
  o.state.sinks = c.sinks.value_or(o.state.sinks);
  o.state.horizon = c.horizon.value_or(o.state.horizon);
  const bool grows = model.decoder.fusion && !model.decoder.fusion->is_bounded();
  if (grows) o.state.text_window = 0;
  return o;
}

}  // namespace io
CASA_NAMESPACE_END
