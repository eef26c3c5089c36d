// Attention maps: which tokens the text rows of a pass looked at, in chosen layers and heads.
//
// A map is the softmax weights of one row and head. The pass runs as it always does, except that
// attention also writes its log-sum-exp where a map is asked for; from that, the queries and the
// cached keys the weights are made again (attention/attention_weights.hpp). Logits have the same
// bits with maps and without.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "casa/attention/attention_weights.hpp"
#include "casa/model/config.hpp"
#include "casa/stream/layout.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// The two attentions of a block: over the text of the stream, or the fusion with images.
enum class BlockAttention { self, fusion };

/// One query head of one attention of one block.
struct AttentionHead {
  Index layer = 0;                                    ///< of the block, from 0
  Index head = 0;                                     ///< among the query heads, from 0
  BlockAttention attention = BlockAttention::fusion;  ///< which of the block's two
  CASA_COMMON_INLINE friend bool operator==(const AttentionHead&, const AttentionHead&) = default;
};

/// The token that a column of a map stands for.
struct MapKey {
  bool image = false;  ///< an image token; else a text token
  /// Its number among the text tokens, or among the image tokens, since the stream began (evicted
  /// and forgotten ones count; DecoderState::start_at moves the first text token's number).
  std::int64_t number = 0;
  /// Image tokens: the window whose images it belongs to, counted back from the end of the stream
  /// (0: the newest). -1 for text tokens. Where each frame is followed by text, windows are frames.
  Index window = -1;
  Index index = 0;  ///< image tokens: its index among the image tokens of that window
  CASA_COMMON_INLINE friend bool operator==(const MapKey&, const MapKey&) = default;
};

/// The text token that a row of a map stands for.
struct MapRow {
  std::int64_t number = 0;  ///< among the text tokens since the stream began, as MapKey::number
  Index window = 0;         ///< the window it stands in, counted back from the end of the stream
  CASA_COMMON_INLINE friend bool operator==(const MapRow&, const MapRow&) = default;
};

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

/// Which attention maps of one stream a pass records, and those that its last pass recorded:
///
///   AttentionMaps<float> maps{.heads = {{.layer = 2, .head = 5}}};
///   model.forward({.state = &state, .ids = ids, .maps = &maps}, logits, context);
///   maps.image_weights(0, maps.num_rows() - 1);  // of the newest row, over its window's images
///
/// Each pass that is given it replaces the results. After a pass that threw it holds no results,
/// unless the request itself was refused: then it still holds those of the pass before. Nothing of
/// a stream is kept here: maps may be requested of any pass, and left out of others.
template <Scalar T>
struct AttentionMaps {
  /// The request: the heads to show, in any order. A pass throws casa::error for a layer or head
  /// that the model does not have, for fusion in a layer that has none or with a history that keeps
  /// windows apart (History::every, a rule), and for self-attention where fusion replaces it.
  std::vector<AttentionHead> heads = {};
  /// The request: which rows to show, as indices among the text rows of the pass, ascending. They
  /// must be among those that give logits (StreamInput::logits), since the last block computes no
  /// others; empty: all of those.
  std::vector<Index> chunk_rows = {};

  /// The result: text tokens of the stream, those of the pass included; the number of the next.
  std::int64_t text_len = 0;
  /// The result: the rows shown.
  std::vector<MapRow> rows = {};
  /// The result: the columns of self-attention maps, in the order of its cache. Empty unless one is
  /// asked for.
  std::vector<MapKey> self_keys = {};
  /// The result: the columns of fusion maps, in the order of its cache: the windows that fusion
  /// still sees. Empty unless one is asked for.
  std::vector<MapKey> fusion_keys = {};
  /// The result: one map for each of `heads`, (num_rows() x keys(i).size()), rows sum to 1 over the
  /// keys that they see and are zero elsewhere.
  std::vector<Matrix<T>> weights = {};

  /// How many rows are shown.
  Index num_rows() const { return std::ssize(rows); }
  /// The tokens that the columns of map i stand for. Throws casa::error unless there is one.
  std::span<const MapKey> keys(std::size_t i) const {
    require(i < heads.size(), "AttentionMaps: map ", i, " of ", heads.size());
    return heads[i].attention == BlockAttention::self ? self_keys : fusion_keys;
  }
  /// Map i of row `row` over the images of one window, in their order, `back` windows before the
  /// row's own; empty where the window has no image or the map none of its keys (always in
  /// self-attention). An image with a grid has its tokens row by row. Throws casa::error unless
  /// there are such a map and row.
  std::span<const T> image_weights(std::size_t i, Index row, Index back = 0) const {
    const std::span<const MapKey> all = keys(i);
    require(i < weights.size() && 0 <= row && row < num_rows(), "AttentionMaps: row ", row, " of ",
            num_rows(), " in map ", i, " of ", weights.size());
    const Index window = rows[static_cast<std::size_t>(row)].window + back;
    const auto is_there = [&](const MapKey& key) { return key.image && key.window == window; };
    const auto begin = std::find_if(all.begin(), all.end(), is_there);
    const auto end = std::find_if_not(begin, all.end(), is_there);
    return {weights[i].row(row) + (begin - all.begin()), static_cast<std::size_t>(end - begin)};
  }
  /// Forgets the results, not the request.
  void clear() {
    text_len = 0;
    rows.clear();
    self_keys.clear();
    fusion_keys.clear();
    weights.clear();
  }
};

namespace detail {

/// Throws casa::error, naming what does not fit, unless a pass of `text_rows` rows, the last
/// `logit_rows` of which give logits, can show these maps.
template <Scalar T>
void check_maps(const AttentionMaps<T>& maps, const DecoderConfig& config, Index text_rows,
                Index logit_rows) {
  for (std::size_t i = 0; i < maps.heads.size(); ++i) {
    const auto& [layer, head, attention] = maps.heads[i];
    require(0 <= layer && layer < config.num_hidden_layers, "AttentionMaps: heads[", i,
            "].layer must be in [0, ", config.num_hidden_layers, "), got ", layer);
    require(0 <= head && head < config.num_attention_heads, "AttentionMaps: heads[", i,
            "].head must be in [0, ", config.num_attention_heads, "), got ", head);
    const bool fused = config.fusion && config.fusion->has_layer(layer);
    require(fused || attention == BlockAttention::self, "AttentionMaps: heads[", i,
            "] asks for the fusion of layer ", layer, ", which has none");
    require(!fused || attention == BlockAttention::fusion ||
                config.fusion->placement != Placement::replace,
            "AttentionMaps: heads[", i, "] asks for the self-attention of layer ", layer,
            ", in whose place stands fusion");
    // Between the windows that such a history keeps others are gone, and with them the count of
    // their tokens: the keys could not be named.
    require(attention == BlockAttention::self ||
                (!config.fusion->rule && config.fusion->history.is_one_interval()),
            "AttentionMaps: heads[", i,
            "] asks for fusion whose history keeps windows apart; maps ",
            "of fusion are there for History::window, last(n) and all");
  }
  Index previous = text_rows - logit_rows - 1;
  for (std::size_t i = 0; i < maps.chunk_rows.size(); ++i) {
    const Index row = maps.chunk_rows[i];
    require(row > previous && row < text_rows, "AttentionMaps: chunk_rows[", i,
            "] must ascend among the rows that give logits, [", text_rows - logit_rows, ", ",
            text_rows, "), got ", row);
    previous = row;
  }
}

/// The same for passes in which the last row alone gives logits, of whatever length.
template <Scalar T>
void check_maps_of_last_row(const AttentionMaps<T>& maps, const DecoderConfig& config) {
  require(maps.chunk_rows.empty(), "AttentionMaps: chunk_rows must be empty where the last row of ",
          "each pass alone gives logits, got ", maps.chunk_rows.size(), " rows");
  check_maps(maps, config, 1, 1);
}

/// Where a stream is as a pass begins: what names the rows and keys of its maps.
struct MapStream {
  const FusionConfig* fusion = nullptr;
  const StreamLayout& live;             // the windows that fusion sees, this pass's tokens included
  std::int64_t text_len = 0;            // text tokens since the stream began, this pass's included
  std::int64_t image_len = 0;           // image tokens likewise
  std::int64_t started_at = 0;          // the number of the first text token
  Index self_tokens = 0;                // keys of a self-attention cache, this pass's included
  Index sinks = 0;                      // of them the stream's first tokens (StateOptions::sinks)
  Index text_rows = 0, logit_rows = 0;  // rows of this pass; the last ones give logits
};

/// Names the rows and keys of a pass that begins, and makes room for its maps.
template <Scalar T>
void begin_maps(AttentionMaps<T>& maps, const MapStream& s) {
  maps.clear();
  maps.text_len = s.text_len;
  const Index newest = std::ssize(s.live.windows()) - 1;
  const std::int64_t first_text = s.text_len - s.live.text_len();
  const std::int64_t first_image = s.image_len - s.live.image_len();

  const auto show = [&](Index row) {
    const std::int64_t number = s.text_len - s.text_rows + row;
    const Index window =
        s.fusion ? newest - s.live.window_of_text(static_cast<Index>(number - first_text)) : 0;
    maps.rows.push_back({number, window});
  };
  if (maps.chunk_rows.empty())
    for (Index row = s.text_rows - s.logit_rows; row < s.text_rows; ++row) show(row);
  for (const Index row : maps.chunk_rows) show(row);

  const auto is_recorded = [&](BlockAttention attention) {
    return std::any_of(maps.heads.begin(), maps.heads.end(),
                       [&](const AttentionHead& h) { return h.attention == attention; });
  };
  // After the sinks the cache holds the newest text.
  const Index self_tokens = is_recorded(BlockAttention::self) ? s.self_tokens : 0;
  for (Index j = 0; j < self_tokens; ++j)
    maps.self_keys.push_back(
        {.number = j < s.sinks ? s.started_at + j : s.text_len - s.self_tokens + j});

  for (Index w = 0; is_recorded(BlockAttention::fusion) && w <= newest; ++w) {
    const Window& window = s.live.window(w);
    for (Index j = window.image.begin; j < window.image.end; ++j)
      maps.fusion_keys.push_back({true, first_image + j, newest - w, j - window.image.begin});
    if (s.fusion->keys == Keys::image_text)
      for (Index i = window.text.begin; i < window.text.end; ++i)
        maps.fusion_keys.push_back({.number = first_text + i});
  }
  for (std::size_t i = 0; i < maps.heads.size(); ++i)
    maps.weights.emplace_back(maps.num_rows(), std::ssize(maps.keys(i)));
}

/// Whether the maps show any head of this attention.
template <Scalar T>
bool has_head_of(const AttentionMaps<T>& maps, Index layer, BlockAttention attention) {
  return std::any_of(maps.heads.begin(), maps.heads.end(), [&](const AttentionHead& h) {
    return h.layer == layer && h.attention == attention;
  });
}

/// Writes the maps of one attention of a block. `in` has the queries of the pass's last text rows;
/// `lse` (rows of in, num_heads) is what attend() gave for them.
template <Scalar T, class S>
void write_maps(AttentionMaps<T>& maps, std::pair<Index, BlockAttention> of,
                const AttentionInput<T, S>& in, const T* lse) {
  const Index heads = in.shape.num_heads;
  for (std::size_t i = 0; i < maps.heads.size(); ++i) {
    const AttentionHead& recorded = maps.heads[i];
    if (std::pair(recorded.layer, recorded.attention) != of) continue;
    for (Index m = 0; m < maps.num_rows(); ++m) {
      const Index row =
          in.num_rows() -
          static_cast<Index>(maps.text_len - maps.rows[static_cast<std::size_t>(m)].number);
      AttentionInput<T, S> one = in;
      one.q = in.q.middle_rows(row, 1);
      one.intervals = in.mask().row(row);
      const Index list[] = {0, static_cast<Index>(one.intervals.size())};
      if (!in.interval_offsets.empty()) one.interval_offsets = list;
      attention_weights(one, {recorded.head},
                        std::span<const T>(lse + row * heads, static_cast<std::size_t>(heads)),
                        maps.weights[i].view().middle_rows(m, 1));
    }
  }
}

}  // namespace detail

CASA_NAMESPACE_END
