// The steps of tokenizer.json: normalizer, pre-tokenizer and decoder.
#pragma once

#include <algorithm>
#include <array>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/core/error.hpp"
#include "casa/json/json.hpp"
#include "casa/text/tokenizer/parts.hpp"

CASA_NAMESPACE_BEGIN
namespace io {
namespace detail {

[[noreturn]] inline void fail_unsupported(const Json& json) {
  fail(json.where(), ": ", json.describe(), " is not supported");
}

/// Refuses fields that are not in `known`: they may ask for something that is not done here.
/// TokenizerOptions::unknown_fields ignores them.
inline void require_fields(const Json& json, std::initializer_list<std::string_view> known,
                           const TokenizerOptions& options) {
  if (options.unknown_fields) return;
  for (const auto& [key, value] : json.items())
    if (std::find(known.begin(), known.end(), key) == known.end())
      fail(value.where(), ": ", value.describe(),
           " is not supported: an unknown field (TokenizerOptions::unknown_fields, or "
           "--unknown-fields, passes over it)");
}

/// The value of a flag that may be missing or null.
inline bool flag(const Json& json, std::string_view key, bool absent) {
  const auto value = json.find_set(key);
  return value ? value->as_bool() : absent;
}

/// Reads the steps. Sequences are flattened.
class StepLoader {
 public:
  explicit StepLoader(const TokenizerOptions& options) : options_(options) {}

  void normalizer(const Json& json, std::vector<NormalizerStep>& steps) const {
    using Kind = NormalizerStep::Kind;
    const std::string type = type_of(json);
    limit_steps(json, steps.size());
    constexpr std::array<std::string_view, 4> forms = {"NFC", "NFD", "NFKC", "NFKD"};
    const auto form = std::find(forms.begin(), forms.end(), type);
    if (type == "Sequence") {
      require_fields(json, {"type", "normalizers"}, options_);
      for (const Json& part : json.at("normalizers").elements()) normalizer(part, steps);
    } else if (form != forms.end()) {
      require_fields(json, {"type"}, options_);
      steps.push_back({Kind::normal_form, static_cast<NormalForm>(form - forms.begin())});
    } else if (type == "Prepend") {
      require_fields(json, {"type", "prepend"}, options_);
      steps.push_back({Kind::prepend, {}, {}, content(json.at("prepend"))});
    } else if (type == "Replace") {
      require_fields(json, {"type", "pattern", "content"}, options_);
      steps.push_back(
          {Kind::replace, {}, pattern(json.at("pattern")), content(json.at("content"))});
    } else {
      fail_unsupported(json.at("type"));
    }
  }

  /// Sets byte_level if the words are to be encoded as bytes.
  void pretokenizer(const Json& json, std::vector<PretokenizerStep>& steps,
                    bool& byte_level) const {
    using Kind = PretokenizerStep::Kind;
    require(!byte_level, json.where(), ": only the last pre-tokenizer may be ByteLevel");
    const std::string type = type_of(json);
    limit_steps(json, steps.size());
    PretokenizerStep step = {};
    if (type == "Sequence") {
      require_fields(json, {"type", "pretokenizers"}, options_);
      for (const Json& part : json.at("pretokenizers").elements())
        pretokenizer(part, steps, byte_level);
      return;
    } else if (type == "Split") {
      require_fields(json, {"type", "pattern", "behavior", "invert"}, options_);
      step.kind = Kind::split;
      step.pattern = pattern(json.at("pattern"));
      step.behavior = behavior(json.at("behavior"));
      step.invert = flag(json, "invert", false);
    } else if (type == "Digits") {
      require_fields(json, {"type", "individual_digits"}, options_);
      step.kind = Kind::digits;
      step.behavior = flag(json, "individual_digits", false) ? SplitBehavior::isolated
                                                             : SplitBehavior::contiguous;
    } else if (type == "Metaspace") {
      metaspace(json, step.mark, step.prepend);
      step.kind = Kind::metaspace;
      step.cut = flag(json, "split", true);
    } else if (type == "ByteLevel") {
      require_fields(json, {"type", "add_prefix_space", "trim_offsets", "use_regex"}, options_);
      byte_level = true;
      if (json.at("add_prefix_space").as_bool()) steps.push_back({Kind::prefix_space});
      if (!flag(json, "use_regex", true)) return;
      step.kind = Kind::split;
      step.pattern.regex.emplace(kGpt2Pattern, json.where(), options_.regex);
    } else {
      fail_unsupported(json.at("type"));
    }
    steps.push_back(std::move(step));
  }

  void decoder(const Json& json, std::vector<DecoderStep>& steps) const {
    using Kind = DecoderStep::Kind;
    const std::string type = type_of(json);
    limit_steps(json, steps.size());
    DecoderStep step = {};
    if (type == "Sequence") {
      require_fields(json, {"type", "decoders"}, options_);
      for (const Json& part : json.at("decoders").elements()) decoder(part, steps);
      return;
    } else if (type == "ByteLevel") {
      step.kind = Kind::byte_level;
    } else if (type == "ByteFallback") {
      step.kind = Kind::byte_fallback;
    } else if (type == "Fuse") {
      step.kind = Kind::fuse;
    } else if (type == "Replace") {
      require_fields(json, {"type", "pattern", "content"}, options_);
      step.kind = Kind::replace;
      if (const auto regex = json.at("pattern").find("Regex")) fail_unsupported(*regex);
      step.pattern = pattern(json.at("pattern")).literal;
      step.content = content(json.at("content"));
    } else if (type == "Strip") {
      require_fields(json, {"type", "content", "start", "stop"}, options_);
      step.kind = Kind::strip;
      step.content = character(json.at("content"));
      step.start =
          static_cast<std::size_t>(json.at("start").as_int(0, options_.limits.token_bytes));
      step.stop = static_cast<std::size_t>(json.at("stop").as_int(0, options_.limits.token_bytes));
    } else if (type == "Metaspace") {
      PrependScheme prepend = PrependScheme::always;
      metaspace(json, step.pattern, prepend);
      step.kind = Kind::metaspace;
      step.drop_first = prepend != PrependScheme::never;
    } else {
      fail_unsupported(json.at("type"));
    }
    // After these steps strings arrive in parts, so no step that needs whole tokens may follow.
    const bool in_parts = std::any_of(steps.begin(), steps.end(), [](const DecoderStep& s) {
      return s.kind == Kind::byte_level || s.kind == Kind::fuse || s.kind == Kind::strip;
    });
    const bool needs_whole =
        step.kind == Kind::byte_fallback || step.kind == Kind::byte_level ||
        (step.kind == Kind::replace && step.pattern.size() != utf8_size(step.pattern[0]));
    require(!(in_parts && needs_whole), json.where(), ": ", type,
            " after ByteLevel, Fuse or Strip is not supported");
    steps.push_back(std::move(step));
  }

 private:
  static std::string type_of(const Json& json) { return json.at("type").as_string(); }
  /// Each step walks over every text, so their number is limited, far above what published
  /// tokenizers have.
  static void limit_steps(const Json& json, std::size_t count) {
    require(count < 64, json.where(), ": more than 64 steps");
  }
  std::string content(const Json& json) const {
    const std::string& s = json.as_string();
    const auto limit = options_.limits.token_bytes;
    if (static_cast<std::int64_t>(s.size()) > limit)
      json.fail_expected(text("a string of at most ", limit, " bytes"));
    return s;
  }
  static std::string character(const Json& json) {
    const std::string& s = json.as_string();
    if (s.empty() || s.size() != utf8_size(s[0])) json.fail_expected("one character");
    return s;
  }
  Pattern pattern(const Json& json) const {
    require_fields(json, {"String", "Regex"}, options_);
    Pattern p;
    const auto limit = options_.limits.pattern_bytes;
    if (const auto literal = json.find("String")) {
      p.literal = literal->as_string();
      if (p.literal.empty()) literal->fail_expected("a string that is not empty");
      return p;
    }
    const Json regex = json.at("Regex");
    const std::string& source = regex.as_string();
    if (static_cast<std::int64_t>(source.size()) > limit)
      regex.fail_expected(text("a regular expression of at most ", limit, " bytes"));
    require(
        options_.any_pattern || is_known_pattern(source), regex.where(),
        ": the regular expression ", casa::quoted(source),
        " is not that of a known tokenizer (TokenizerOptions::any_pattern, or --any-pattern, takes "
        "it)");
    p.regex.emplace(source, regex.where(), options_.regex);
    return p;
  }

  static SplitBehavior behavior(const Json& json) {
    constexpr std::array<std::string_view, 5> names = {"Removed", "Isolated", "Contiguous",
                                                       "MergedWithPrevious", "MergedWithNext"};
    const auto name = std::find(names.begin(), names.end(), json.as_string());
    if (name == names.end()) fail_unsupported(json);
    return static_cast<SplitBehavior>(name - names.begin());
  }

  void metaspace(const Json& json, std::string& mark, PrependScheme& prepend) const {
    require_fields(
        json, {"type", "replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep"},
        options_);
    mark = character(json.at("replacement"));
    prepend = PrependScheme::always;
    if (const auto scheme = json.find_set("prepend_scheme")) {
      constexpr std::array<std::string_view, 3> names = {"never", "first", "always"};
      const auto name = std::find(names.begin(), names.end(), scheme->as_string());
      if (name == names.end()) fail_unsupported(*scheme);
      prepend = static_cast<PrependScheme>(name - names.begin());
    } else if (!flag(json, "add_prefix_space", true)) {
      prepend = PrependScheme::never;
    }
  }

  const TokenizerOptions& options_;
};

}  // namespace detail
}  // namespace io
CASA_NAMESPACE_END
