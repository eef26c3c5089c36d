// A stream as plain data, and back: what saving and restoring one needs.
#pragma once

#include <span>
#include <utility>
#include <vector>

#include "casa/model/state.hpp"

CASA_NAMESPACE_BEGIN

/// All of a stream but its keys and values, as DecoderState says it.
struct StreamNumbers {
  PositionCounter::State counter = {};  ///< of rotary positions
  std::int64_t started_at = 0;          ///< number of the first text token
  std::int64_t image_len = 0;           ///< image tokens since the stream began
  std::int64_t origin = 0;              ///< number of the text token at position 0
  Index self_tokens = 0;                ///< in every self-attention cache
  Index fusion_tokens = 0;              ///< in every fusion cache
  /// The tokens of one window.
  struct WindowSize {
    Index image = 0;   ///< image tokens
    Index text = 0;    ///< text tokens
    Index number = 0;  ///< of the window in the stream
    friend bool operator==(const WindowSize&, const WindowSize&) = default;
  };
  /// The windows that fusion still sees, in order. The first has no image: it is window 0, or an
  /// empty one in its place.
  std::vector<WindowSize> windows = {};

  friend bool operator==(const StreamNumbers&, const StreamNumbers&) = default;
};

/// Access to the parts of a DecoderState, for saving and restoring a stream. The parts must fit
/// each other, so that they are only set together, here, and are private otherwise.
template <Scalar T>
class StateArchive {
 public:
  /// What to save of `s` beside its caches.
  static StreamNumbers numbers(const DecoderState<T>& s) {
    StreamNumbers n{.counter = s.windows_.counter().state(),
                    .started_at = s.started_at_,
                    .image_len = s.image_len(),
                    .origin = s.origin_,
                    .self_tokens = s.self_tokens_,
                    .fusion_tokens = s.fusion_tokens()};
    const auto windows = s.windows_.layout().windows();
    for (std::size_t w = 0; w < windows.size(); ++w)
      n.windows.push_back(
          {windows[w].image.size(), windows[w].text.size(), s.windows_.numbers()[w]});
    return n;
  }
  /// The caches of all blocks, in order.
  static std::span<const BlockCache<T>> caches(const DecoderState<T>& s) { return s.blocks_; }
  /// The same, to fill before restore().
  static std::span<BlockCache<T>> caches(DecoderState<T>& s) { return s.blocks_; }

  /// Gives `s` (made by new_state, its caches already filled) its numbers. Throws casa::error where
  /// numbers and caches of a model of that config do not fit; s is then of no use.
  static void restore(DecoderState<T>& s, const StreamNumbers& n, const DecoderConfig& config) {
    const auto& c = n.counter;
    require(n.started_at >= 0 && c.text >= n.started_at && c.stream >= 0 && c.window_images >= 0 &&
                n.image_len >= 0 && n.origin >= 0 && n.origin <= c.text,
            "stream: counters are out of range");
    const Index kept = s.options_.text_window > 0 ? s.options_.sinks + s.options_.text_window : 0;
    const std::int64_t text = c.text - n.started_at;
    require_equal("stream: text tokens kept", n.self_tokens,
                  kept > 0 && text > kept ? std::int64_t{kept} : text);
    require(!n.windows.empty() && n.windows[0].image == 0, "stream: the first window has images");
    require_equal("stream: number of the first window", n.windows[0].number, 0);
    StreamLayout layout;
    std::vector<Index> numbers;
    std::int64_t images = 0, texts = 0;
    for (std::size_t w = 0; w < n.windows.size(); ++w) {
      const auto& size = n.windows[w];
      require(size.image >= 0 && size.text >= 0, "stream: a window of negative size");
      images = checked_add(images, size.image, "stream: image tokens");
      texts = checked_add(texts, size.text, "stream: text tokens");
      require(w < 2 || n.windows[w - 1].text > 0, "stream: two windows at one point");
      require(w == 0 || (size.number > numbers.back() && size.number <= text + 1),
              "stream: numbers of windows must ascend up to ", text + 1, ", got ", size.number);
      numbers.push_back(size.number);
      if (w > 0) layout.append_image(size.image);
      layout.append_text(size.text);
    }
    require(images <= n.image_len && texts <= text, "stream: windows hold more than the stream");
    require_equal("stream: fusion tokens", n.fusion_tokens,
                  config.fusion ? num_keys(layout, config.fusion->keys) : Index{0});

    for (Index layer = 0; layer < s.num_layers(); ++layer) {
      const bool fused = config.fusion && config.fusion->has_layer(layer);
      const bool replaced = fused && config.fusion->placement == Placement::replace;
      const BlockCache<T>& block = s.blocks_[static_cast<std::size_t>(layer)];
      const auto size = [](const AnyKvCache<T>& cache) {
        return std::visit([](const auto& kv) { return kv.size(); }, cache);
      };
      require_equal(casa::text("stream: self-attention keys of layer ", layer), size(block.self),
                    replaced ? Index{0} : n.self_tokens);
      require_equal(casa::text("stream: fusion keys of layer ", layer), size(block.fusion),
                    fused ? n.fusion_tokens : Index{0});
    }
    s.windows_.restore(std::move(layout), std::move(numbers), c, n.image_len, n.fusion_tokens);
    s.started_at_ = n.started_at;
    s.origin_ = n.origin;
    s.self_tokens_ = n.self_tokens;
  }
};

CASA_NAMESPACE_END
