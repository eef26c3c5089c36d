// The windows of one stream that its fusion layers still see. For each chunk: which keys every row
// sees, in which order keys enter the cache, and at which positions rows stand. Decoder and
// FusionLayer share this.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include "casa/model/block_pass.hpp"
#include "casa/stream/layout.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// The images of a chunk of text: their insertion points, relative to the chunk's first text token,
/// and their grids, one per insertion ({0, 0}: a plain sequence), or none at all.
struct ChunkImages {
  std::span<const Insertion> insertions = {};
  std::span<const ImageGrid> grids = {};
};

/// One chunk at a time goes through remember(), append(), prepare() and then commit(), or, if
/// something failed, roll_back(), which leaves the stream as remember() found it. Vectors are kept
/// from chunk to chunk, so that a warm step allocates nothing.
class StreamWindows {
 public:
  StreamWindows() = default;
  explicit StreamWindows(ImageRope rope) : counter_(rope) {}

  /// The windows that fusion still sees, counted from the first token of the first of them.
  const StreamLayout& layout() const { return live_; }
  const PositionCounter& counter() const { return counter_; }
  /// Text and image tokens since the stream began, those of forgotten windows too.
  std::int64_t text_len() const { return counter_.next_text(); }
  std::int64_t image_len() const { return image_len_; }
  /// Tokens whose keys a fusion layer's cache holds between two chunks.
  Index num_keys() const { return num_keys_; }

  void remember() { before_ = live_; }
  void append(Index text_len, std::span<const Insertion> insertions) {
    live_.append(text_len, insertions);
  }

  /// Computes what the chunk's rows see and in which order their keys are cached, and writes their
  /// positions. `text` and `image` are the chunk's rows among all rows of the pass.
  void prepare(const FusionConfig* fusion, const ChunkImages& images, Interval text, Interval image,
               std::span<Position> text_at, std::span<Position> image_at) {
    counter_after_ = counter_;
    text_intervals_.clear();
    image_intervals_.clear();
    segments_.clear();
    if (!fusion) {
      counter_after_.text(text_at);
      return;
    }
    const Index text_before = before_.text_len(), image_before = before_.image_len();
    text_intervals_.resize(static_cast<std::size_t>(text.size()));
    text_intervals(live_, {text_before, live_.text_len()}, fusion->keys, fusion->history,
                   text_intervals_);
    image_intervals_.resize(static_cast<std::size_t>(image.size()));
    image_intervals(live_, {image_before, live_.image_len()}, fusion->keys, fusion->history,
                    image_intervals_);
    for_each_piece(live_, text_before, image_before, [&](bool is_image, Interval piece) {
      const Index shift = is_image ? image.begin - image_before : text.begin - text_before;
      segments_.push_back({is_image, {piece.begin + shift, piece.end + shift}});
    });
    count_positions(images, text_at, image_at);
  }

  /// What the chunk's text and image rows see in a fusion layer's cache, one interval each.
  std::span<const Interval> seen_by_text() const { return text_intervals_; }
  std::span<const Interval> seen_by_images() const { return image_intervals_; }
  /// The chunk's rows in the order in which fusion caches their keys.
  std::span<const KeySegment> segments() const { return segments_; }

  /// Called once a pass has succeeded: counts the chunk's tokens and forgets windows that later
  /// rows can not see (trim_front removes their keys).
  void commit(const FusionConfig* fusion) {
    image_len_ += live_.image_len() - before_.image_len();
    counter_ = counter_after_;
    if (!fusion) {
      live_.clear();
      return;
    }
    if (fusion->history == History::window) {
      const Window last = live_.windows().back();
      const bool has_insertion = live_.windows().size() > 1;
      live_.clear();
      if (has_insertion) live_.append_image(last.image.size());
      live_.append_text(last.text.size());
    }
    num_keys_ = casa::num_keys(live_, fusion->keys);
  }

  void roll_back() { std::swap(live_, before_); }

  /// Brings the cache of a fusion layer to num_keys() tokens: after commit() from the front, where
  /// forgotten windows stand; after roll_back() from the end, where the failed chunk does.
  template <class Cache>
  void trim_front(Cache& cache) const {
    std::visit(
        [&](auto& c) {
          if (c.size() > num_keys_) c.drop(c.size() - num_keys_);
        },
        cache);
  }
  template <class Cache>
  void trim_back(Cache& cache) const {
    std::visit([&](auto& c) { c.truncate((std::min)(c.size(), num_keys_)); }, cache);
  }

  /// Becomes the windows, counters and number of cached keys of a saved stream. Throws casa::error
  /// for negative counters.
  void restore(StreamLayout layout, const PositionCounter::State& counter, std::int64_t image_len,
               Index num_keys) {
    counter_.restore(counter);
    live_ = std::move(layout);
    image_len_ = image_len;
    num_keys_ = num_keys;
  }

  /// Back to an empty stream whose first text token will count as number `first_text`.
  void reset(std::int64_t first_text = 0) {
    live_.clear();
    counter_ = PositionCounter(counter_.rope());
    counter_.restore({first_text, first_text, 0, true});
    image_len_ = 0;
    num_keys_ = 0;
  }

 private:
  // Positions in stream order: the text up to each insertion, then its image.
  void count_positions(const ChunkImages& images, std::span<Position> text,
                       std::span<Position> image) {
    std::size_t texts_done = 0, images_done = 0;
    for (std::size_t i = 0; i < images.insertions.size(); ++i) {
      const auto position = static_cast<std::size_t>(images.insertions[i].position);
      const auto count = static_cast<std::size_t>(images.insertions[i].num_tokens);
      counter_after_.text(text.subspan(texts_done, position - texts_done));
      counter_after_.image(images.grids.empty() ? ImageGrid{} : images.grids[i],
                           image.subspan(images_done, count));
      texts_done = position;
      images_done += count;
    }
    counter_after_.text(text.subspan(texts_done));
  }

  StreamLayout live_;
  PositionCounter counter_;
  std::int64_t image_len_ = 0;
  Index num_keys_ = 0;

  StreamLayout before_;            // live_ as remember() found it
  PositionCounter counter_after_;  // counter_ as commit() will leave it
  std::vector<Interval> text_intervals_, image_intervals_;
  std::vector<KeySegment> segments_;
};

}  // namespace detail

CASA_NAMESPACE_END
