// What passes through the blocks of a model together: rows of one or several streams, the keys that
// each row sees, and the rotary tables of all of them.
//
// The rows of several streams lie one after the other, so that norms and projections are one
// product each. Attention goes against each stream's own caches, in one call for all of them.
#pragma once

#include <algorithm>
#include <functional>
#include <span>

#include "casa/layers/rope.hpp"
#include "casa/model/attention_maps.hpp"
#include "casa/model/config.hpp"
#include "casa/model/kv_cache.hpp"

CASA_NAMESPACE_BEGIN

/// Called with the hidden state (text rows x hidden_size) after every sublayer: "embed" (layer -1),
/// "self_attention", "fusion", "mlp", and "norm" (layer num_hidden_layers). The view is valid
/// during the call.
template <Scalar T>
using Trace = std::function<void(Index layer, const char* sublayer, MatrixView<const T> hidden)>;

/// Keys and values that one block keeps of one stream, num_kv_heads * head_dim values a token each.
template <Scalar T>
struct BlockCache {
  AnyKvCache<T> self;    ///< text, over the whole stream
  AnyKvCache<T> fusion;  ///< images (and text) of the windows that fusion still sees, in key order
  /// Where positions restart (StateOptions::horizon): the first keys of self before rotation,
  /// (sinks x num_kv_heads * head_dim); else no rows.
  Matrix<T> sink_keys = {};
};

namespace detail {

/// A range of text rows, or of image rows, that is also contiguous in the fusion cache, so that one
/// append copies it.
struct KeySegment {
  bool image = false;
  Interval rows = {};  // of y if image, else of x
};

/// The keys that the rows of a stream see, as places in a cache.
struct SeenKeys {
  MaskView self = {};   // text rows in the self-attention cache
  MaskView text = {};   // text rows in the fusion cache
  MaskView image = {};  // image rows in the fusion cache
};

/// One stream's part of a pass; the same in all blocks.
struct StreamPass {
  Interval text = {};     // its rows of x
  Interval image = {};    // its rows of y
  SeenKeys seen = {};     // in blocks that see the whole stream
  SeenKeys sliding = {};  // in blocks whose attention slides
  // Of self-attention: AttentionInput::sequence_offsets, from the first row of `text`. A pass of
  // one stream has them, whose rows all ask (QueryRows::all).
  std::span<const Index> sequences = {};
  std::span<const KeySegment> segments = {};  // its rows in the order in which fusion caches them
  Index logit_rows = 0;                       // the last `logit_rows` text rows give logits
  const Rope* rope = nullptr;                 // its frequencies
};

/// What all blocks of one forward pass share.
template <Scalar T>
struct BlockPass {
  AttentionShape shape = {};
  double scale = 1;
  double rms_norm_eps = 0;
  const FusionConfig* fusion = nullptr;      // null: no fusion at all
  const RopeTable<T>* self_rope = nullptr;   // text rows in self-attention; null: not rotated
  const RopeTable<T>* text_rope = nullptr;   // text rows in fusion; null: not rotated
  const RopeTable<T>* image_rope = nullptr;  // image rows in fusion; null: not rotated
  std::span<const StreamPass> streams = {};
  const Trace<T>* trace = nullptr;
  std::span<AttentionMaps<T>* const> maps = {};  // of each stream, null: none; empty: of no stream

  // Of the block that is next.
  Index layer = 0;
  bool sliding = false;     // its attention slides: StreamPass::sliding holds
  bool text_ends = false;   // it is the last one: text rows that give no logits only give keys
  bool images_end = false;  // no later block has fusion: image rows only give keys
};

/// Moves the rows of x that give logits to its top, in order, and returns a view of them.
template <Scalar T>
MatrixView<T> compact_logit_rows(std::span<const StreamPass> streams, MatrixView<T> x) {
  Index count = 0;
  for (const StreamPass& s : streams)
    for (Index r = s.text.end - s.logit_rows; r < s.text.end; ++r, ++count)
      if (r != count) std::copy_n(x.row(r), x.cols(), x.row(count));
  return x.middle_rows(0, count);
}

}  // namespace detail

CASA_NAMESPACE_END
