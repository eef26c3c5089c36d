// The layout of a stream of text and images, and the windows into which insertion points cut it.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "casa/core/error.hpp"
#include "casa/core/interval.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// `num_tokens` image tokens stand right before text token `position` (0 <= position <= text_len).
struct Insertion {
  Index position = 0;    ///< text tokens before it
  Index num_tokens = 0;  ///< image tokens; 0 also begins a window
  CASA_COMMON_INLINE friend bool operator==(const Insertion&, const Insertion&) = default;
};

/// The images that stand at one point and the text up to the next insertion point: ranges of text
/// token numbers and of image token numbers. Either may be empty.
struct Window {
  Interval text;   ///< numbers of text tokens
  Interval image;  ///< numbers of image tokens
  CASA_COMMON_INLINE friend bool operator==(const Window&, const Window&) = default;
};

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

/// A stream of text tokens 0..text_len-1 and image tokens 0..image_len-1 (numbered in stream
/// order). Window 0 is the text before the first insertion, perhaps empty; each distinct insertion
/// point starts the next window, also an insertion of no tokens. The *place* of a token is its
/// index in the merged stream, in which each window's images stand before its text. Appending costs
/// as much as what is appended, whatever stands before it.
class StreamLayout {
 public:
  /// An empty stream.
  StreamLayout() : windows_(1) {}

  /// Throws casa::error unless insertions are sorted by position, inside [0, text_len], and no
  /// num_tokens is negative.
  explicit StreamLayout(Index text_len, std::span<const Insertion> insertions = {})
      : StreamLayout() {
    append(text_len, insertions);
  }

  /// Appends text of `text_len` tokens, with insertions at positions relative to it. Insertions at
  /// one position make one window, also where the stream already ended with images. Throws as the
  /// constructor does; the stream is then as it was.
  void append(Index text_len, std::span<const Insertion> insertions) {
    check(text_len, insertions);
    const std::size_t needed = windows_.size() + insertions.size();
    if (needed > windows_.capacity()) windows_.reserve((std::max)(needed, 2 * windows_.capacity()));
    Index done = 0;
    for (const Insertion& insertion : insertions) {
      append_text(insertion.position - done);
      append_image(insertion.num_tokens);
      done = insertion.position;
    }
    append_text(text_len - done);
  }

  /// Appends one image of num_tokens. It joins the window that starts at the end of the text, if
  /// there is one. Throws casa::error for a negative number, or one that does not fit beside what
  /// is there.
  void append_image(Index num_tokens) {
    require(num_tokens >= 0, "StreamLayout: num_tokens must not be negative, got ", num_tokens);
    checked_add(stream_len(), num_tokens, "StreamLayout: tokens");
    const bool at_insertion = windows_.size() > 1 && windows_.back().text.size() == 0;
    if (!at_insertion) windows_.push_back({{text_len(), text_len()}, {image_len(), image_len()}});
    windows_.back().image.end += num_tokens;
  }

  /// Appends `count` text tokens. Throws as append_image does.
  void append_text(Index count) {
    require(count >= 0, "StreamLayout: count must not be negative, got ", count);
    checked_add(stream_len(), count, "StreamLayout: tokens");
    windows_.back().text.end += count;
  }

  /// Back to an empty stream; the memory is kept.
  void clear() { windows_.assign(1, {}); }

  /// Text tokens.
  Index text_len() const { return windows_.back().text.end; }
  /// Image tokens.
  Index image_len() const { return windows_.back().image.end; }
  /// Text and image tokens together.
  Index stream_len() const { return text_len() + image_len(); }
  /// All windows in order; at least one.
  std::span<const Window> windows() const { return windows_; }

  /// The number of the window that text token i stands in. Throws casa::error unless
  /// 0 <= i < text_len().
  Index window_of_text(Index i) const {
    require(0 <= i && i < text_len(), "StreamLayout: text token ", i, " of ", text_len());
    return first_window([i](const Window& w) { return w.text.end > i; });
  }
  /// The number of the window that image token j stands in. Throws casa::error unless
  /// 0 <= j < image_len().
  Index window_of_image(Index j) const {
    require(0 <= j && j < image_len(), "StreamLayout: image token ", j, " of ", image_len());
    return first_window([j](const Window& w) { return w.image.end > j; });
  }
  /// Window w. Throws casa::error unless there is one.
  const Window& window(Index w) const {
    require(0 <= w && w < std::ssize(windows_), "StreamLayout: window ", w, " of ",
            windows_.size());
    return windows_[static_cast<std::size_t>(w)];
  }

  friend bool operator==(const StreamLayout&, const StreamLayout&) = default;

 private:
  void check(Index text_len, std::span<const Insertion> insertions) const {
    require(text_len >= 0, "StreamLayout: text_len must not be negative, got ", text_len);
    Index previous = 0, total = checked_add(stream_len(), text_len, "StreamLayout: tokens");
    for (const auto& [position, num_tokens] : insertions) {
      require(position >= previous && position <= text_len, "StreamLayout: insertion position ",
              position, " must be in [", previous, ", ", text_len, "] (sorted, inside the text)");
      require(num_tokens >= 0, "StreamLayout: num_tokens must not be negative, got ", num_tokens);
      total = checked_add(total, num_tokens, "StreamLayout: tokens");
      previous = position;
    }
  }
  template <class Pred>
  Index first_window(Pred ends_after) const {
    const auto it = std::partition_point(windows_.begin(), windows_.end(),
                                         [&](const Window& w) { return !ends_after(w); });
    return it - windows_.begin();
  }

  std::vector<Window> windows_;
};

/// Place of the window's first token in the merged stream.
inline Index stream_begin(const Window& w) { return w.text.begin + w.image.begin; }
/// Place of text token i of window w in the merged stream.
inline Index text_place(const Window& w, Index i) { return i + w.image.end; }
/// Place of image token j of window w in the merged stream.
inline Index image_place(const Window& w, Index j) { return j + w.text.begin; }

/// Calls visit(is_image, range) for the stretches of text tokens and of image tokens in stream
/// order, from text token `text_begin` and image token `image_begin` on. `range` is of text token
/// numbers or of image token numbers. Empty stretches are left out.
template <class F>
void for_each_piece(const StreamLayout& layout, Index text_begin, Index image_begin, F&& visit) {
  // Binary search skips the windows that end before both starting points.
  const auto all = layout.windows();
  const auto first = std::partition_point(all.begin(), all.end(), [&](const Window& w) {
    return w.text.end <= text_begin && w.image.end <= image_begin;
  });
  for (auto w = first; w != all.end(); ++w) {
    const Interval image{(std::max)(w->image.begin, image_begin), w->image.end};
    const Interval text{(std::max)(w->text.begin, text_begin), w->text.end};
    if (image.size() > 0) visit(true, image);
    if (text.size() > 0) visit(false, text);
  }
}

CASA_NAMESPACE_END
