// Which keys a token sees: one interval, once keys are in the right order, for every variant of the
// design space.
//
//   keys         order     text token i of window w sees          image token j of window w sees
//   text         text      [0, i]                                 -
//   image        image     its window's images                    its window's images up to itself
//   image_text   stream    [start of w, place of i]               [start of w, place of j]
//
// With another history than History::window a row sees earlier windows too, from their first key
// on: the last n (the interval begins at the first of them), or all (it begins at 0). CASA is
// image_text with History::window, cross-attention is image with History::window, token insertion
// is image_text with History::all for text and image rows alike (arXiv 2512.19535, section 3 and
// differences D2, D5). With History::every rows see several intervals: masks::stream makes them.
#pragma once

#include <string_view>

#include "casa/stream/layout.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// Which tokens are keys. This also says their order: text order, image order, stream order.
enum class Keys { text, image, image_text };

/// Which windows' keys a token sees: always those of its own, and of the earlier ones the last n -
/// 1, every k-th, or all. Windows are numbered as they come: 0 is the text before the first image.
struct History {
  /// The rule.
  enum class Rule {
    last,   ///< the last `count` windows, its own among them
    every,  ///< its own, and of the others 1, 1 + count, 1 + 2 count ...
    all     ///< all windows up to its own
  };
  Rule rule = Rule::last;  ///< which windows
  Index count = 1;         ///< read by the rules last and every: positive

  static const History window;  ///< its own window: last(1)
  static const History all;     ///< all windows so far

  /// Its own window and the n - 1 before it.
  CASA_COMMON_INLINE static constexpr History last(Index n) { return {Rule::last, n}; }
  /// Its own window, and windows 1, 1 + k, 1 + 2k ...: one image in k is kept for ever.
  CASA_COMMON_INLINE static constexpr History every(Index k) { return {Rule::every, k}; }

  /// Whether a token of window `own` sees window `other`. What it does not see, no later token
  /// does.
  CASA_COMMON_INLINE constexpr bool sees(Index own, Index other) const {
    if (other >= own) return other == own;
    if (rule == Rule::last) return own - other < count;
    return rule == Rule::all || (other >= 1 && (other - 1) % count == 0);
  }
  /// Whether the windows that a token sees follow each other, so that its keys are one interval.
  CASA_COMMON_INLINE constexpr bool is_one_interval() const { return rule != Rule::every; }

  CASA_COMMON_INLINE friend bool operator==(const History&, const History&) = default;
};
inline constexpr History History::window = {Rule::last, 1};
inline constexpr History History::all = {Rule::all, 1};

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

/// Throws casa::error unless the history's count is positive. `what` begins the message.
inline void check(std::string_view what, const History& history) {
  if (history.count < 1)
    fail(what, ": count of History::", history.rule == History::Rule::last ? "last" : "every",
         " must be positive, got ", history.count);
}

/// How many keys a stream has.
inline Index num_keys(const StreamLayout& layout, Keys keys) {
  switch (keys) {
    case Keys::text:
      return layout.text_len();
    case Keys::image:
      return layout.image_len();
    case Keys::image_text:
      return layout.stream_len();
  }
  return 0;
}

/// The keys that text token i of window w sees, if `first` is the first window it sees.
inline Interval seen_by_text(const Window& first, const Window& w, Index i, Keys keys) {
  switch (keys) {
    case Keys::text:
      return {first.text.begin, i + 1};
    case Keys::image:
      return {first.image.begin, w.image.end};
    case Keys::image_text:
      return {stream_begin(first), text_place(w, i) + 1};
  }
  return {};
}

/// The keys that image token j of window w sees, where images are keys and `first` is the first
/// window it sees; with Keys::text none.
inline Interval seen_by_image(const Window& first, const Window& w, Index j, Keys keys) {
  switch (keys) {
    case Keys::text:
      return {};
    case Keys::image:
      return {first.image.begin, j + 1};
    case Keys::image_text:
      return {stream_begin(first), image_place(w, j) + 1};
  }
  return {};
}

namespace detail {

/// The first of the windows that tokens of window `own` see, if these follow each other.
inline Index first_seen(const History& history, Index own) {
  return history.rule == History::Rule::all || history.count > own ? 0 : own - history.count + 1;
}

inline void check_intervals(std::string_view what, Interval rows, const History& history,
                            std::size_t size) {
  check(what, history);
  if (!history.is_one_interval())
    fail(what, ": with History::every a row sees several intervals: use masks::stream");
  if (static_cast<Index>(size) != rows.size())
    fail(what, ": out.size(): expected ", rows.size(), ", got ", size);
}

}  // namespace detail

/// The intervals of text rows [rows.begin, rows.end), written to out[0..rows.size()). Throws
/// casa::error unless the layout has these rows and out has as many, and with History::every.
inline void text_intervals(const StreamLayout& layout, Interval rows, Keys keys, History history,
                           std::span<Interval> out) {
  require(0 <= rows.begin && rows.end <= layout.text_len(), "text_intervals: rows [", rows.begin,
          ", ", rows.end, ") outside the text of ", layout.text_len(), " tokens");
  detail::check_intervals("text_intervals", rows, history, out.size());
  if (rows.size() == 0) return;
  Index w = layout.window_of_text(rows.begin);
  for (Index i = rows.begin; i < rows.end; ++i) {
    while (layout.window(w).text.end <= i) ++w;
    out[static_cast<std::size_t>(i - rows.begin)] =
        seen_by_text(layout.window(detail::first_seen(history, w)), layout.window(w), i, keys);
  }
}

/// The intervals of image rows [rows.begin, rows.end), written to out[0..rows.size()). Throws as
/// text_intervals does.
inline void image_intervals(const StreamLayout& layout, Interval rows, Keys keys, History history,
                            std::span<Interval> out) {
  require(0 <= rows.begin && rows.end <= layout.image_len(), "image_intervals: rows [", rows.begin,
          ", ", rows.end, ") outside the ", layout.image_len(), " image tokens");
  detail::check_intervals("image_intervals", rows, history, out.size());
  if (rows.size() == 0) return;
  Index w = layout.window_of_image(rows.begin);
  for (Index j = rows.begin; j < rows.end; ++j) {
    while (layout.window(w).image.end <= j) ++w;
    out[static_cast<std::size_t>(j - rows.begin)] =
        seen_by_image(layout.window(detail::first_seen(history, w)), layout.window(w), j, keys);
  }
}

CASA_NAMESPACE_END
