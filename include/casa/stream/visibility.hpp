// Which keys a token sees: one interval, once keys are in the right order, for every variant of the
// design space.
//
//   keys         order     text token i of window w sees          image token j of window w sees
//   text         text      [0, i]                                 -
//   image        image     its window's images                    its window's images up to itself
//   image_text   stream    [start of w, place of i]               [start of w, place of j]
//
// With History::all the interval begins at 0 instead of the window's first key. CASA is image_text
// with History::window, cross-attention is image with History::window, token insertion is
// image_text with History::all for text and image rows alike (arXiv 2512.19535, section 3 and
// differences D2, D5).
#pragma once

#include "casa/stream/layout.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// Which tokens are keys. This also says their order: text order, image order, stream order.
enum class Keys { text, image, image_text };

/// Whether a token sees the keys of its window only, or those of earlier windows too.
enum class History { window, all };

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

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

/// The keys that text token i of window w sees.
inline Interval seen_by_text(const Window& w, Index i, Keys keys, History history) {
  const bool all = history == History::all;
  switch (keys) {
    case Keys::text:
      return {all ? 0 : w.text.begin, i + 1};
    case Keys::image:
      return {all ? 0 : w.image.begin, w.image.end};
    case Keys::image_text:
      return {all ? 0 : stream_begin(w), text_place(w, i) + 1};
  }
  return {};
}

/// The keys that image token j of window w sees, where images are keys; with Keys::text none.
inline Interval seen_by_image(const Window& w, Index j, Keys keys, History history) {
  const bool all = history == History::all;
  switch (keys) {
    case Keys::text:
      return {};
    case Keys::image:
      return {all ? 0 : w.image.begin, j + 1};
    case Keys::image_text:
      return {all ? 0 : stream_begin(w), image_place(w, j) + 1};
  }
  return {};
}

/// The intervals of text rows [rows.begin, rows.end), written to out[0..rows.size()). Throws
/// casa::error unless the layout has these rows and out has as many.
inline void text_intervals(const StreamLayout& layout, Interval rows, Keys keys, History history,
                           std::span<Interval> out) {
  require(0 <= rows.begin && rows.end <= layout.text_len(), "text_intervals: rows [", rows.begin,
          ", ", rows.end, ") outside the text of ", layout.text_len(), " tokens");
  require_equal("text_intervals: out.size()", static_cast<Index>(out.size()), rows.size());
  if (rows.size() == 0) return;
  const Window* w = &layout.window(layout.window_of_text(rows.begin));
  for (Index i = rows.begin; i < rows.end; ++i) {
    while (w->text.end <= i) ++w;
    out[static_cast<std::size_t>(i - rows.begin)] = seen_by_text(*w, i, keys, history);
  }
}

/// The intervals of image rows [rows.begin, rows.end), written to out[0..rows.size()). Throws as
/// text_intervals does.
inline void image_intervals(const StreamLayout& layout, Interval rows, Keys keys, History history,
                            std::span<Interval> out) {
  require(0 <= rows.begin && rows.end <= layout.image_len(), "image_intervals: rows [", rows.begin,
          ", ", rows.end, ") outside the ", layout.image_len(), " image tokens");
  require_equal("image_intervals: out.size()", static_cast<Index>(out.size()), rows.size());
  if (rows.size() == 0) return;
  const Window* w = &layout.window(layout.window_of_image(rows.begin));
  for (Index j = rows.begin; j < rows.end; ++j) {
    while (w->image.end <= j) ++w;
    out[static_cast<std::size_t>(j - rows.begin)] = seen_by_image(*w, j, keys, history);
  }
}

CASA_NAMESPACE_END
