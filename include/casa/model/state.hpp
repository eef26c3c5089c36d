// The memory of one stream in a decoder: caches, windows and positions.
#pragma once

#include <cstdint>
#include <vector>

#include "casa/model/sinks.hpp"
#include "casa/model/stream_rope.hpp"
#include "casa/model/stream_windows.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// What a stream keeps of the past, and how.
struct StateOptions {
  /// How keys and values are stored.
  CacheType cache = CacheType::native;
  /// Bounds self-attention to the first `sinks` and the last `text_window` text tokens
  /// (arXiv 2309.17453); 0: all text is kept. The bound is applied when a chunk has passed: a token
  /// sees its own chunk up to itself, and what was kept before the chunk.
  Index text_window = 0;
  /// Attention sinks: how many text tokens at the stream's start stay in the cache (arXiv
  /// 2309.17453); read where text_window > 0. Not AttentionInput::sinks, which are learned logits.
  Index sinks = 4;
  /// For models that know no position beyond some length. 0: kept text stays at its position, so
  /// that its distance from the sinks grows for ever. Else positions stay below this number: before
  /// a chunk that would pass it, the sinks move to positions 0, 1, ..., the window to those right
  /// after them, and the stream continues from there.
  Index horizon = 0;

  CASA_COMMON_INLINE friend bool operator==(const StateOptions&, const StateOptions&) = default;
};

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

namespace detail {
template <Scalar T>
class StreamTransaction;
}

/// The memory of one stream. Made by Decoder::new_state, changed by Decoder::forward. Two streams
/// never share anything; a copy is independent. One thread at a time may use a state.
///
/// Self-attention keeps keys and values of text alone. Fusion layers keep those of the windows that
/// FusionConfig::history (or a rule) lets later rows see: the current one, the last n, every k-th,
/// all. With History::window an image therefore costs nothing once its window is over: no cache
/// holds it.
template <Scalar T>
class DecoderState {
 public:
  /// Text tokens since the stream began, evicted ones too.
  std::int64_t text_len() const { return windows_.text_len(); }
  /// Image tokens since the stream began.
  std::int64_t image_len() const { return windows_.image_len(); }
  /// Tokens whose keys a self-attention layer holds.
  Index self_tokens() const { return self_tokens_; }
  /// Tokens, of images and text, whose keys a fusion layer holds.
  Index fusion_tokens() const { return windows_.num_keys(); }
  /// Blocks of the decoder that made it.
  Index num_layers() const { return static_cast<Index>(blocks_.size()); }
  /// Of the keys in every layer; 0 without layers.
  Index num_kv_heads() const {
    return of_keys([](const auto& c) { return c.num_kv_heads(); });
  }
  /// Values of a head in every layer; 0 without layers.
  Index head_dim() const {
    return of_keys([](const auto& c) { return c.head_dim(); });
  }
  /// Bytes of the keys and values that all self-attention layers hold.
  Index self_bytes() const { return bytes(&BlockCache<T>::self); }
  /// Bytes of the keys and values that all fusion layers hold.
  Index fusion_bytes() const { return bytes(&BlockCache<T>::fusion); }
  /// self_bytes() + fusion_bytes().
  Index cache_bytes() const { return self_bytes() + fusion_bytes(); }
  /// As given to new_state.
  const StateOptions& options() const { return options_; }
  /// The number of the text token that stands at position 0: 0 until positions restart.
  std::int64_t origin() const { return origin_; }

  /// The first text token of the stream will count as number `position` (a stream may start
  /// anywhere). Throws casa::error once the stream has begun.
  void start_at(std::int64_t position) {
    require(text_len() == started_at_ && image_len() == 0,
            "start_at: the stream has begun, it holds ", text_len() - started_at_, " text tokens");
    require(position >= 0, "start_at: position must not be negative, got ", position);
    started_at_ = position;
    windows_.reset(position);
  }

  /// Back to an empty stream; memory is kept.
  void reset() {
    for (auto& block : blocks_) {
      std::visit([](auto& c) { c.clear(); }, block.self);
      std::visit([](auto& c) { c.clear(); }, block.fusion);
    }
    windows_.reset();
    started_at_ = origin_ = 0;
    self_tokens_ = 0;
  }

 private:
  template <Scalar U>
  friend class Decoder;
  template <Scalar U>
  friend class detail::StreamTransaction;  // model/stream_transaction.hpp
  template <Scalar U>
  friend class StateArchive;  // model/state_archive.hpp

  template <class F>
  Index of_keys(F f) const {
    return blocks_.empty() ? 0 : std::visit(f, blocks_[0].self);
  }
  Index bytes(AnyKvCache<T> BlockCache<T>::*cache) const {
    Index sum = 0;
    for (const auto& block : blocks_)
      sum += std::visit([](const auto& c) { return c.bytes(); }, block.*cache);
    return sum;
  }

  StateOptions options_;
  std::vector<BlockCache<T>> blocks_;
  detail::StreamWindows windows_;
  std::int64_t started_at_ = 0;
  std::int64_t origin_ = 0;
  Index self_tokens_ = 0;  // in every self-attention cache

  // Scratch of the pass that is running, kept so that a warm step allocates nothing.
  std::int64_t origin_before_ = 0;  // origin_ as it was before the pass
  std::vector<Interval> self_intervals_;
  Mask sliding_self_, sliding_text_, sliding_image_;
  detail::RopeTables<T> tables_;
  Rope rope_;  // the stream's frequencies, where they depend on its length
};

CASA_NAMESPACE_END
