// What happens to a text before it is cut: Unicode normal forms, prefixes, replacements.
#pragma once

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/core/error.hpp"
#include "casa/io/tokenizer/regex.hpp"
#include "casa/io/tokenizer/utf8.hpp"

CASA_NAMESPACE_BEGIN
namespace io {
namespace detail {

enum class NormalForm { nfc, nfd, nfkc, nfkd };

/// A Unicode normal form (UAX 15) of valid UTF-8, by utf8proc's tables. The combining marks of a
/// run are sorted by us: utf8proc's own ordering takes quadratic time.
inline std::string normal_form(std::string_view text, NormalForm form) {
  const bool compose = form == NormalForm::nfc || form == NormalForm::nfkc;
  const bool compatible = form == NormalForm::nfkc || form == NormalForm::nfkd;
  const auto options = static_cast<utf8proc_option_t>(
      UTF8PROC_STABLE | (compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
      (compatible ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size());
  std::array<utf8proc_int32_t, 32> parts = {};
  for (std::size_t i = 0; i < text.size(); i += utf8_size(text[i])) {
    int boundary = 0;
    const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code_point(text, i)),
                                               parts.data(), parts.size(), options, &boundary);
    require(count >= 0 && count <= static_cast<utf8proc_ssize_t>(parts.size()),
            "normalizer: utf8proc refuses U+", static_cast<int>(code_point(text, i)));
    points.insert(points.end(), parts.begin(), parts.begin() + count);
  }
  const auto mark_class = [](utf8proc_int32_t c) {
    return c < 0x300 ? 0 : utf8proc_get_property(c)->combining_class;
  };
  for (std::size_t i = 0; i < points.size();) {
    const std::size_t begin = i;
    while (i < points.size() && mark_class(points[i]) != 0) ++i;
    if (i - begin > 1)
      std::stable_sort(points.begin() + static_cast<std::ptrdiff_t>(begin),
                       points.begin() + static_cast<std::ptrdiff_t>(i),
                       [&](auto a, auto b) { return mark_class(a) < mark_class(b); });
    if (i == begin) ++i;
  }
  auto size = static_cast<utf8proc_ssize_t>(points.size());
  if (compose && size > 0) size = utf8proc_normalize_utf32(points.data(), size, options);
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < static_cast<std::size_t>(size); ++i)
    append_utf8(out, static_cast<char32_t>(points[i]));
  return out;
}

/// NFC. Characters below U+0300 are in normal form and join nothing before them, so only the
/// stretches around others are looked at.
inline std::string nfc(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  const auto plain = [&](std::size_t i) { return static_cast<unsigned char>(text[i]) < 0xcc; };
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t begin = i;
    while (i < text.size() && plain(i)) i += utf8_size(text[i]);
    if (i == text.size()) return out += text.substr(begin);
    std::size_t stretch = i > begin ? previous_character(text, i) : i;
    out += text.substr(begin, stretch - begin);
    while (i < text.size() && !plain(i)) i += utf8_size(text[i]);
    out += normal_form(text.substr(stretch, i - stretch), NormalForm::nfc);
  }
  return out;
}

/// One step of a normalizer.
struct NormalizerStep {
  enum class Kind { normal_form, prepend, replace };
  Kind kind;
  NormalForm form = NormalForm::nfc;
  Pattern pattern = {};      ///< of replace
  std::string content = {};  ///< what is prepended, or put in the place of a match
};

/// The steps, one after the other. An empty text stays empty.
class Normalizer {
 public:
  Normalizer() = default;
  explicit Normalizer(std::vector<NormalizerStep> steps) : steps_(std::move(steps)) {}

  bool empty() const { return steps_.empty(); }
  std::string operator()(std::string_view text) const {
    std::string s(text);
    for (const NormalizerStep& step : steps_) {
      switch (step.kind) {
        case NormalizerStep::Kind::normal_form:
          s = step.form == NormalForm::nfc ? nfc(s) : normal_form(s, step.form);
          break;
        case NormalizerStep::Kind::prepend:
          if (!s.empty()) s.insert(0, step.content);
          break;
        case NormalizerStep::Kind::replace: {
          PatternFinder finder(step.pattern);
          s = replace_all(s, finder, step.content);
        }
      }
    }
    return s;
  }

 private:
  std::vector<NormalizerStep> steps_;
};

}  // namespace detail
}  // namespace io
CASA_NAMESPACE_END
