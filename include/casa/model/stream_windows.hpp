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

#include "casa/attention/stream_masks.hpp"
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

  /// The windows that fusion still sees, as if there had been no others. The first has no image: it
  /// is window 0, or in its place an empty one.
  const StreamLayout& layout() const { return live_; }
  /// The number of each of these windows in the stream.
  std::span<const Index> numbers() const { return numbers_; }
  const PositionCounter& counter() const { return counter_; }
  /// Text and image tokens since the stream began, those of forgotten windows too.
  std::int64_t text_len() const { return counter_.next_text(); }
  std::int64_t image_len() const { return image_len_; }
  /// Tokens whose keys a fusion layer's cache holds between two chunks.
  Index num_keys() const { return num_keys_; }

  void remember() { before_ = live_; }
  void append(Index text_len, std::span<const Insertion> insertions) {
    live_.append(text_len, insertions);
    while (numbers_.size() < live_.windows().size()) numbers_.push_back(numbers_.back() + 1);
  }

  /// Computes what the chunk's rows see and in which order their keys are cached, and writes their
  /// positions. `text` and `image` are the chunk's rows among all rows of the pass.
  void prepare(const FusionConfig* fusion, const ChunkImages& images, Interval text, Interval image,
               std::span<Position> text_at, std::span<Position> image_at) {
    counter_after_ = counter_;
    text_mask_.clear();
    image_mask_.clear();
    segments_.clear();
    if (!fusion) {
      counter_after_.text(text_at);
      return;
    }
    const Index text_before = before_.text_len(), image_before = before_.image_len();
    const Interval texts{text_before, live_.text_len()}, tokens{image_before, live_.image_len()};
    if (!fusion->rule && fusion->history.is_one_interval()) {
      // The windows that are kept follow each other, so that their numbers among those kept serve.
      text_mask_.offsets.clear();
      text_mask_.intervals.resize(static_cast<std::size_t>(text.size()));
      text_intervals(live_, texts, fusion->keys, fusion->history, text_mask_.intervals);
      image_mask_.offsets.clear();
      image_mask_.intervals.resize(static_cast<std::size_t>(image.size()));
      image_intervals(live_, tokens, fusion->keys, fusion->history, image_mask_.intervals);
    } else {
      write_mask(text_mask_, *fusion, texts, false);
      write_mask(image_mask_, *fusion, tokens, true);
    }
    plan_forgetting(*fusion);
    for_each_piece(live_, text_before, image_before, [&](bool is_image, Interval piece) {
      const Index shift = is_image ? image.begin - image_before : text.begin - text_before;
      segments_.push_back({is_image, {piece.begin + shift, piece.end + shift}});
    });
    count_positions(images, text_at, image_at);
  }

  /// What the chunk's text and image rows see in a fusion layer's cache.
  MaskView seen_by_text() const { return text_mask_; }
  MaskView seen_by_images() const { return image_mask_; }
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
    if (forgets_) {
      std::swap(live_, after_);
      std::swap(numbers_, numbers_after_);
    }
    num_keys_ = casa::num_keys(live_, fusion->keys);
  }

  void roll_back() {
    std::swap(live_, before_);
    numbers_.resize(live_.windows().size());
  }

  /// Brings the cache of a fusion layer to num_keys() tokens: after commit() without those of
  /// forgotten windows; after roll_back() without those of the failed chunk, at the end.
  template <class Cache>
  void forget_keys(Cache& cache) const {
    std::visit(
        [&](auto& c) {
          if (c.size() == 0) return;  // of a block without fusion
          for (auto range = forgotten_.rbegin(); range != forgotten_.rend(); ++range)
            c.erase(*range);
        },
        cache);
  }
  template <class Cache>
  void trim_back(Cache& cache) const {
    std::visit([&](auto& c) { c.truncate((std::min)(c.size(), num_keys_)); }, cache);
  }

  /// Becomes the windows (with the number of each), counters and number of cached keys of a saved
  /// stream. Throws casa::error for negative counters.
  void restore(StreamLayout layout, std::vector<Index> numbers,
               const PositionCounter::State& counter, std::int64_t image_len, Index num_keys) {
    counter_.restore(counter);
    live_ = std::move(layout);
    numbers_ = std::move(numbers);
    image_len_ = image_len;
    num_keys_ = num_keys;
  }

  /// Back to an empty stream whose first text token will count as number `first_text`.
  void reset(std::int64_t first_text = 0) {
    live_.clear();
    numbers_.assign(1, 0);
    counter_ = PositionCounter(counter_.rope());
    counter_.restore({first_text, first_text, 0, true});
    image_len_ = 0;
    num_keys_ = 0;
  }

 private:
  static bool keeps(const FusionConfig& f, Index window, Index newest) {
    return window == newest ||
           (f.rule ? f.rule->keeps(window, newest) : f.history.sees(newest, window));
  }

  // What rows see by a rule that does not give one interval: text tokens, or with `is_image` image
  // tokens, as numbers in live_.
  void write_mask(Mask& mask, const FusionConfig& fusion, Interval rows, bool is_image) const {
    const std::span<const Window> windows = live_.windows();
    MaskWriter row(mask);
    std::size_t own = 0;
    for (Index i = rows.begin; i < rows.end; ++i, row.end_row()) {
      while ((is_image ? windows[own].image.end : windows[own].text.end) <= i) ++own;
      for (std::size_t u = 0; u <= own; ++u) {
        if (!keeps(fusion, numbers_[u], numbers_[own])) continue;
        const Window& w = windows[u];
        WindowPart there{w.image, w.text};  // before the row
        if (u == own && is_image) there = {{w.image.begin, i + 1}, {w.text.begin, w.text.begin}};
        if (u == own && !is_image) there.text.end = i + 1;
        if (fusion.rule) {
          const RuleSeen seen =
              fusion.rule->sees({is_image, numbers_[own],
                                 i - (is_image ? windows[own].image : windows[own].text).begin},
                                {numbers_[u], there.images.size(), there.text.size()});
          there = {part(there.images, seen.images), part(there.text, seen.text)};
        }
        see_part(row, w, fusion.keys, there);
      }
    }
    mask.compact();
  }
  // The tokens `places`, counted from the first of `all`, as far as they are there.
  static Interval part(Interval all, Interval places) {
    const Index begin = std::clamp(places.begin, Index{0}, all.size());
    return {all.begin + begin, all.begin + std::clamp(places.end, begin, all.size())};
  }

  // Notes which windows no row after this chunk can see, which keys are theirs, and what is left
  // without them. Here, since a rule may throw, and commit() may not.
  void plan_forgetting(const FusionConfig& fusion) {
    forgotten_.clear();
    forgets_ = false;
    const std::span<const Window> windows = live_.windows();
    const auto is_over = [&](std::size_t w) {
      // (Window 0 leaves an empty one in its place.)
      return (w > 0 || windows[0].text.size() > 0) && !keeps(fusion, numbers_[w], numbers_.back());
    };
    for (std::size_t w = 0; w < windows.size() && !forgets_; ++w) forgets_ = is_over(w);
    if (!forgets_) return;
    after_.clear();
    numbers_after_.assign(1, 0);
    for (std::size_t w = 0; w < windows.size(); ++w) {
      const Window& window = windows[w];
      if (!is_over(w)) {
        if (w > 0) {
          after_.append_image(window.image.size());
          numbers_after_.push_back(numbers_[w]);
        }
        after_.append_text(window.text.size());
        continue;
      }
      const bool images = fusion.keys == Keys::image;
      const Index begin = images ? window.image.begin : stream_begin(window);
      const Index end = images ? window.image.end : window.text.end + window.image.end;
      if (begin == end) continue;
      if (!forgotten_.empty() && forgotten_.back().end == begin)
        forgotten_.back().end = end;
      else
        forgotten_.push_back({begin, end});
    }
  }

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
  std::vector<Index> numbers_ = {0};  // of each window of live_
  PositionCounter counter_;
  std::int64_t image_len_ = 0;
  Index num_keys_ = 0;

  StreamLayout before_;               // live_ as remember() found it
  StreamLayout after_;                // live_ as commit() will leave it, where forgets_
  std::vector<Index> numbers_after_;  // numbers_ likewise
  bool forgets_ = false;              // commit() forgets windows
  PositionCounter counter_after_;     // counter_ as commit() will leave it
  Mask text_mask_, image_mask_;
  std::vector<Interval> forgotten_;  // keys of the last chunk's cache, ascending
  std::vector<KeySegment> segments_;
};

}  // namespace detail

CASA_NAMESPACE_END
