// Masks of streams of text and images, by name: the windows of CASA and of cross-attention, the
// last n images, every k-th image kept, all.
//
// The pictures are of the stream A A x x B B x C x, in which A, B and C are image tokens and x
// text: a line is a text row, a column a key in the order of the stream, # a key that is seen.
#pragma once

#include <algorithm>
#include <span>

#include "casa/attention/masks.hpp"
#include "casa/stream/visibility.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Tokens of one window, by their numbers in the stream's text and among its image tokens.
struct WindowPart {
  Interval images, text;
};

/// The row sees this part of window w, as places in the order of `keys`.
inline void see_part(MaskWriter& row, const Window& w, Keys keys, const WindowPart& part) {
  if (keys != Keys::text) {
    const Index shift = keys == Keys::image ? 0 : w.text.begin;
    row.see(part.images.begin + shift, part.images.end + shift);
  }
  if (keys != Keys::image) {
    const Index shift = keys == Keys::text ? 0 : w.image.end;
    row.see(part.text.begin + shift, part.text.end + shift);
  }
}

/// masks::stream, called by `maker` (a name for errors).
inline Mask stream_mask(std::string_view maker, const StreamLayout& layout, const RowPlaces& rows,
                        Keys keys, History images, History text) {
  rows.check(maker, layout.text_len());
  if (keys != Keys::text) check(casa::text(maker, ": images"), images);
  if (keys != Keys::image) check(casa::text(maker, ": text"), text);
  const std::span<const Window> windows = layout.windows();
  // Histories whose windows follow each other need no search of all windows before them.
  const auto first = [](const History& h, Index own) {
    return h.is_one_interval() ? first_seen(h, own) : Index{0};
  };
  const bool one_interval = keys == Keys::image  ? images.is_one_interval()
                            : keys == Keys::text ? text.is_one_interval()
                                                 : images == text && text.is_one_interval();
  return make_mask(maker, rows, [&](MaskWriter& row, Index i) {
    const Index own = layout.window_of_text(i);
    const Index begin = keys == Keys::image  ? first(images, own)
                        : keys == Keys::text ? first(text, own)
                                             : (std::min)(first(images, own), first(text, own));
    if (one_interval)
      return row.see(seen_by_text(layout.window(begin), layout.window(own), i, keys));
    for (Index u = begin; u <= own; ++u) {
      const Window& w = windows[static_cast<std::size_t>(u)];
      WindowPart seen;
      if (keys != Keys::text && images.sees(own, u)) seen.images = w.image;
      if (keys != Keys::image && text.sees(own, u))
        seen.text = {w.text.begin, u == own ? i + 1 : w.text.end};
      see_part(row, w, keys, seen);
    }
  });
}

}  // namespace detail

namespace masks {

/// What the stream's text rows see: the image tokens of the windows that `images` chooses, all of
/// them, and the text of those that `text` chooses, up to the row itself. `keys` says which tokens
/// are keys: without images among them `images` is not read, without text `text`. A place of
/// `rows` is the number of a text token, whatever the keys. Throws casa::error for a row that is no
/// text token, and for a history that does not count from 1.
///
///   keys image_text, images History::last(2)         images History::every(2)
///   text History::window                             text History::all
///     A A x x B B x C x                                A A x x B B x C x
///     # # # . . . . . .                                # # # . . . . . .
///     # # # # . . . . .                                # # # # . . . . .
///     # # . . # # # . .                                # # # # # # # . .
///     . . . . # # . # #                                # # # # . . # # #
inline Mask stream(const StreamLayout& layout, const RowPlaces& rows, Keys keys, History images,
                   History text) {
  return detail::stream_mask("masks::stream", layout, rows, keys, images, text);
}
/// Whole windows: of those that `history` chooses a row sees the image tokens and the text up to
/// itself. What a text row sees in a fusion layer whose FusionConfig has these keys and this
/// history.
///
///   keys image_text, History::last(2)                keys image_text, History::all
///     A A x x B B x C x                                A A x x B B x C x
///     # # # . . . . . .                                # # # . . . . . .
///     # # # # . . . . .                                # # # # . . . . .
///     # # # # # # # . .                                # # # # # # # . .
///     . . . . # # # # #                                # # # # # # # # #
inline Mask stream(const StreamLayout& layout, const RowPlaces& rows, Keys keys,
                   History history = History::window) {
  return stream(layout, rows, keys, history, history);
}

/// CASA: a row sees its window's images and its window's text up to itself (arXiv 2512.19535).
/// Keys are in the order of the stream.
///
///   A A x x B B x C x
///   # # # . . . . . .
///   # # # # . . . . .
///   . . . . # # # . .
///   . . . . . . . # #
inline Mask casa_windows(const StreamLayout& layout, const RowPlaces& rows) {
  return detail::stream_mask("masks::casa_windows", layout, rows, Keys::image_text, History::window,
                             History::window);
}
/// Cross-attention: a row sees its window's images. Keys are the image tokens alone.
///
///   A A B B C
///   # # . . .
///   # # . . .
///   . . # # .
///   . . . . #
inline Mask cross_attention(const StreamLayout& layout, const RowPlaces& rows) {
  return detail::stream_mask("masks::cross_attention", layout, rows, Keys::image, History::window,
                             History::window);
}
/// A row sees the images of its window and of the n - 1 before it. Keys are the image tokens alone.
///
///   A A B B C
///   # # . . .
///   # # . . .     n 2
///   # # # # .
///   . . # # #
inline Mask last_images(const StreamLayout& layout, const RowPlaces& rows, Index n) {
  return detail::stream_mask("masks::last_images", layout, rows, Keys::image, History::last(n),
                             History::last(n));
}
/// A row sees the images of its window and those of windows 1, 1 + k, 1 + 2k ... before it: one
/// image in k stays for ever. Keys are the image tokens alone.
///
///   A A B B C
///   # # . . .
///   # # . . .     k 2
///   # # # # .
///   # # . . #
inline Mask every_image(const StreamLayout& layout, const RowPlaces& rows, Index k) {
  return detail::stream_mask("masks::every_image", layout, rows, Keys::image, History::every(k),
                             History::every(k));
}
/// A row sees all images before it. Keys are the image tokens alone.
///
///   A A B B C
///   # # . . .
///   # # . . .
///   # # # # .
///   # # # # #
inline Mask all_images(const StreamLayout& layout, const RowPlaces& rows) {
  return detail::stream_mask("masks::all_images", layout, rows, Keys::image, History::all,
                             History::all);
}

}  // namespace masks

CASA_NAMESPACE_END
