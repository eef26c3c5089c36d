// What happens to a text before it is cut: Unicode normal forms, prefixes, replacements.
#pragma once

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/core/error.hpp"
#include "casa/text/tokenizer/regex.hpp"
#include "casa/text/tokenizer/utf8.hpp"

CASA_NAMESPACE_BEGIN
namespace io {
namespace detail {

enum class NormalForm { nfc, nfd, nfkc, nfkd };

/// Characters of Unicode 10 to 15 that a normal form decomposes or reorders. The Python package
/// `tokenizers` has the tables of Unicode 9 and leaves them alone, so the same is done here.
inline constexpr std::array<std::pair<char32_t, char32_t>, 47> kYoungerThanUnicode9 = {
    {{0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},
     {0xc3c, 0xc3c},     {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},
     {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},   {0x32ff, 0x32ff},   {0xa7f2, 0xa7f4},
     {0xa82c, 0xa82c},   {0xab69, 0xab69},   {0x10781, 0x10785}, {0x10787, 0x107b0},
     {0x107b2, 0x107ba}, {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff},
     {0x10f46, 0x10f50}, {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x1133b, 0x1133b},
     {0x1145e, 0x1145e}, {0x11839, 0x1183a}, {0x11930, 0x11930}, {0x11938, 0x11938},
     {0x1193d, 0x1193e}, {0x11943, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34},
     {0x11a47, 0x11a47}, {0x11a99, 0x11a99}, {0x11d42, 0x11d42}, {0x11d44, 0x11d45},
     {0x11d97, 0x11d97}, {0x11f41, 0x11f42}, {0x16ff0, 0x16ff1}, {0x1e030, 0x1e06d},
     {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef},
     {0x1e4ec, 0x1e4ef}, {0x1f16c, 0x1f16c}, {0x1fbf0, 0x1fbf9}}};

inline bool is_younger_than_unicode9(char32_t c) {
  if (c < kYoungerThanUnicode9.front().first) return false;
  const auto next = std::upper_bound(kYoungerThanUnicode9.begin(), kYoungerThanUnicode9.end(), c,
                                     [](char32_t x, const auto& range) { return x < range.first; });
  return next != kYoungerThanUnicode9.begin() && c <= std::prev(next)->second;
}

/// Sorts each stretch of consecutive combining marks by class. utf8proc's own ordering takes
/// quadratic time.
inline void order_marks(std::vector<utf8proc_int32_t>& points) {
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
}

/// A Unicode normal form (UAX 15) of valid UTF-8, by utf8proc's tables cut back to Unicode 9.
inline std::string normal_form(std::string_view text, NormalForm form) {
  const bool compose = form == NormalForm::nfc || form == NormalForm::nfkc;
  const bool compatible = form == NormalForm::nfkc || form == NormalForm::nfkd;
  const auto options = static_cast<utf8proc_option_t>(
      UTF8PROC_STABLE | (compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
      (compatible ? UTF8PROC_COMPAT : 0));
  std::string out;
  out.reserve(text.size());
  std::vector<utf8proc_int32_t> points;
  const auto flush = [&] {
    order_marks(points);
    auto size = static_cast<utf8proc_ssize_t>(points.size());
    if (compose && size > 0) size = utf8proc_normalize_utf32(points.data(), size, options);
    for (std::size_t i = 0; i < static_cast<std::size_t>(size); ++i)
      append_utf8(out, static_cast<char32_t>(points[i]));
    points.clear();
  };
  std::array<utf8proc_int32_t, 32> parts = {};
  for (std::size_t i = 0; i < text.size(); i += utf8_size(text[i])) {
    const char32_t c = code_point(text, i);
    if (is_younger_than_unicode9(c)) {
      flush();
      append_utf8(out, c);
      continue;
    }
    int boundary = 0;
    const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts.data(),
                                               parts.size(), options, &boundary);
    require(count >= 0 && count <= static_cast<utf8proc_ssize_t>(parts.size()),
            "normalizer: utf8proc can not decompose code point ", static_cast<int>(c));
    points.insert(points.end(), parts.begin(), parts.begin() + count);
  }
  flush();
  return out;
}

/// NFC. Characters below U+0300 are in normal form and do not combine with what stands before them,
/// so only stretches around other characters are normalised.
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
