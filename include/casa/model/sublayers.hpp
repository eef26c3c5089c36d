// The attention sublayers of a block: self-attention over text, and fusion, in which text looks at
// images. Each projects, rotates, appends keys to a cache, attends, and projects back.
#pragma once

#include <cmath>
#include <memory>
#include <span>
#include <variant>

#include "casa/attention/batch.hpp"
#include "casa/layers/rms_norm.hpp"
#include "casa/model/block_pass.hpp"
#include "casa/model/block_weights.hpp"
#include "casa/model/sinks.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Queries, keys and values of the same rows, heads side by side. Without rows: not projected.
template <Scalar T>
struct Qkv {
  MatrixView<T> q = {};  // (rows, num_heads * head_dim)
  MatrixView<T> k = {};  // (rows, num_kv_heads * head_dim)
  MatrixView<T> v = {};  // (rows, num_kv_heads * head_dim)
};

/// Which text rows of a stream have queries: all, or only those with logits.
enum class QueryRows { all, with_logits };

/// What a stream records of one attention of a block.
template <Scalar T>
struct RecordedMaps {
  AttentionMaps<T>* maps = nullptr;  // null: nothing
  BlockAttention attention = BlockAttention::self;
};

/// The steps that both sublayers are made of. What they return lies in the context's workspace.
template <Scalar T>
class AttentionSteps {
 public:
  AttentionSteps(const BlockPass<T>& pass, const Context& context)
      : pass_(pass),
        context_(context),
        q_width_(pass.shape.num_heads * pass.shape.head_dim),
        kv_width_(pass.shape.num_kv_heads * pass.shape.head_dim) {}

  const BlockPass<T>& pass() const { return pass_; }
  const Context& context() const { return context_; }
  Index q_width() const { return q_width_; }

  MatrixView<T> matrix(Index rows, Index cols) const {
    return context_.workspace.template matrix<T>(rows, cols);
  }
  MatrixView<T> normed(MatrixView<const T> x, const Buffer<T>& weight) const {
    const MatrixView<T> out = matrix(x.rows(), x.cols());
    rms_norm<T>(x, weight.span(), pass_.rms_norm_eps, out, context_);
    return out;
  }
  /// The views of q, k and v in a projection's output, (rows, num_heads * head_dim + 2 *
  /// num_kv_heads * head_dim).
  Qkv<T> split(MatrixView<T> qkv) const {
    return {.q = qkv.middle_cols(0, q_width_),
            .k = qkv.middle_cols(q_width_, kv_width_),
            .v = qkv.middle_cols(q_width_ + kv_width_, kv_width_)};
  }
  MatrixView<T> project(const Linear<T>& qkv, MatrixView<const T> normed) const {
    const MatrixView<T> out = matrix(normed.rows(), qkv.out_features());
    qkv.forward(normed, out, context_);
    return out;
  }
  Qkv<T> project_q(const Linear<T>& qkv, MatrixView<const T> normed) const {
    const MatrixView<T> q = matrix(normed.rows(), q_width_);
    qkv.forward_pieces(normed, q, 0, 1, context_);
    return {.q = q};
  }
  Qkv<T> project_kv(const Linear<T>& qkv, MatrixView<const T> normed) const {
    const MatrixView<T> kv = matrix(normed.rows(), 2 * kv_width_);
    qkv.forward_pieces(normed, kv, 1, 3, context_);
    return {.k = kv.middle_cols(0, kv_width_), .v = kv.middle_cols(kv_width_, kv_width_)};
  }
  /// h's row r += weight(r) * row r of o(attended).
  template <class Weight>
  void add_weighted(const Linear<T>& o, MatrixView<const T> attended, MatrixView<T> h,
                    Weight weight) const {
    const MatrixView<T> update = matrix(h.rows(), h.cols());
    o.forward(attended, update, context_);
    for (Index r = 0; r < h.rows(); ++r) h.eigen().row(r) += weight(r) * update.eigen().row(r);
  }
  void rotate(MatrixView<T> x, const RopeTable<T>* table) const {
    if (table && x.rows() > 0) apply_rope(x, *table, pass_.shape.head_dim, context_);
  }
  void append(AnyKvCache<T>& cache, const Qkv<T>& from, Interval rows) const {
    if (rows.size() == 0) return;
    std::visit(
        [&](auto& c) {
          c.append(MatrixView<const T>(from.k.middle_rows(rows.begin, rows.size())),
                   MatrixView<const T>(from.v.middle_rows(rows.begin, rows.size())),
                   context_.executor);
        },
        cache);
  }

  const SeenKeys& seen(const StreamPass& s) const { return pass_.sliding ? s.sliding : s.seen; }
  Interval query_rows(const StreamPass& s, QueryRows which) const {
    return which == QueryRows::with_logits ? Interval{s.text.end - s.logit_rows, s.text.end}
                                           : s.text;
  }
  /// The rows of q, of all text rows, that ask; q's other rows are lost.
  MatrixView<T> asking(MatrixView<T> q, QueryRows which) const {
    return which == QueryRows::with_logits ? compact_logit_rows(pass_.streams, q) : q;
  }
  /// What stream s records of this block's `attention`.
  RecordedMaps<T> recorded(std::size_t s, BlockAttention attention) const {
    AttentionMaps<T>* const maps = pass_.maps.empty() ? nullptr : pass_.maps[s];
    const bool any = maps && has_head_of(*maps, pass_.layer, attention);
    return {any ? maps : nullptr, attention};
  }
  /// What one stream asks of a cache in one attention.
  struct StreamQueries {
    Index rows = 0;                         // of q, after those of the streams before it
    MaskView seen = {};                     // what they see, as places in the cache
    const AnyKvCache<T>* cache = nullptr;   // its keys and values
    RecordedMaps<T> recorded = {};          // its maps of this attention
    std::span<const Index> sequences = {};  // StreamPass::sequences
  };
  /// Room for what each stream asks.
  std::span<StreamQueries> stream_queries() const {
    const auto count = static_cast<Index>(pass_.streams.size());
    StreamQueries* first = context_.workspace.template take<StreamQueries>(count);
    std::uninitialized_value_construct_n(first, count);
    return {first, pass_.streams.size()};
  }
  /// What the rows `queries` of a stream see, its last ones, by the mask of its rows `all`.
  MaskView mask_of(const MaskView& seen, Interval all, Interval queries) const {
    return queries.size() == 0
               ? MaskView{}
               : mask_of_rows(seen, {queries.begin - all.begin, all.size()}, context_.workspace);
  }
  /// The attention of all streams, rows of q (as many as of out) over their caches. Streams that
  /// store keys alike are one call, so that workers share what is little of each; each has the bits
  /// that it has alone.
  void attend(MatrixView<const T> q, std::span<const StreamQueries> streams,
              MatrixView<T> out) const {
    Index row = 0;
    for (std::size_t s = 0; s < streams.size();) {
      std::size_t end = s;
      Index rows = 0;
      do {
        rows += streams[end++].rows;
      } while (end < streams.size() && can_join(streams[s], streams[end]));
      if (rows > 0)
        std::visit(
            [&]<class S>(const KvCache<S>&) {
              attend_alike<S>(q.middle_rows(row, rows), streams.subspan(s, end - s),
                              out.middle_rows(row, rows));
            },
            *streams[s].cache);
      row += rows;
      s = end;
    }
  }

 private:
  // Whether two streams can be in one call.
  static bool can_join(const StreamQueries& a, const StreamQueries& b) {
    return a.cache->index() == b.cache->index() && !a.recorded.maps && !b.recorded.maps;
  }
  template <class S>
  void attend_alike(MatrixView<const T> q, std::span<const StreamQueries> streams,
                    MatrixView<T> out) const {
    using Pieces = typename KvCache<S>::Pieces;
    Workspace& workspace = context_.workspace;
    const Workspace::Frame frame(workspace);
    if (streams.size() == 1) {  // as a batch it would cost 1.1 % more instructions of a small step
      const auto& [rows, mask, cache, recorded, sequences] = streams[0];
      const Pieces pieces = std::get<KvCache<S>>(*cache).pieces();
      const AttentionInput<T, S> input{.shape = pass_.shape,
                                       .scale = pass_.scale,
                                       .q = q,
                                       .keys = pieces,
                                       .intervals = mask.intervals,
                                       .interval_offsets = mask.offsets,
                                       .sequence_offsets = sequences};
      T* lse = nullptr;
      if (recorded.maps) lse = workspace.template take<T>(rows * pass_.shape.num_heads);
      casa::attend(input, out, lse, context_);
      if (recorded.maps) write_maps(*recorded.maps, {pass_.layer, recorded.attention}, input, lse);
      return;
    }
    const auto count = static_cast<Index>(streams.size());
    auto* const pieces = workspace.template take<Pieces>(count);
    auto* const sequences = workspace.template take<SequenceInput<S>>(count);
    for (std::size_t s = 0; s < streams.size(); ++s) {
      std::construct_at(pieces + s, std::get<KvCache<S>>(*streams[s].cache).pieces());
      std::construct_at(sequences + s,
                        SequenceInput<S>{streams[s].rows, pieces[s], streams[s].seen});
    }
    const AttentionBatch<T, S> batch{.shape = pass_.shape,
                                     .scale = pass_.scale,
                                     .q = q,
                                     .sequences = {sequences, streams.size()}};
    casa::attend(batch_input(batch, workspace), out, nullptr, context_);
  }

  const BlockPass<T>& pass_;
  const Context& context_;
  Index q_width_, kv_width_;
};

/// h += Wo Attention(q, k, v) of text over the text of its stream.
template <Scalar T>
class SelfAttention {
 public:
  SelfAttention(const AttentionSteps<T>& steps, const AttentionWeights<T>& weights,
                std::span<BlockCache<T>* const> caches)
      : steps_(steps), weights_(weights), caches_(caches) {}

  /// Of the text rows of all streams, q, k and v side by side.
  MatrixView<T> project(MatrixView<const T> normed) const {
    return steps_.project(weights_.qkv, normed);
  }

  /// Appends the keys of all text rows; h, the hidden state of the rows that ask, gets the update.
  /// `fusion_weights`, if there are any, are FusionAttention::token_gates of these rows.
  void add(const Qkv<T>& text, QueryRows which, MatrixView<T> h,
           MatrixView<const T> fusion_weights = {}) const {
    const BlockPass<T>& pass = steps_.pass();
    for (std::size_t s = 0; s < pass.streams.size(); ++s) {
      const Interval rows = pass.streams[s].text;
      store_sink_keys<T>(caches_[s]->self, text.k.middle_rows(rows.begin, rows.size()),
                         caches_[s]->sink_keys);
    }
    steps_.rotate(text.q, pass.self_rope);
    steps_.rotate(text.k, pass.self_rope);
    const MatrixView<T> out = steps_.matrix(h.rows(), steps_.q_width());
    const auto queries = steps_.stream_queries();
    for (std::size_t s = 0; s < pass.streams.size(); ++s) {
      const StreamPass& stream = pass.streams[s];
      const Interval rows = steps_.query_rows(stream, which);
      steps_.append(caches_[s]->self, text, stream.text);
      queries[s] = {rows.size(), steps_.mask_of(steps_.seen(stream).self, stream.text, rows),
                    &caches_[s]->self, steps_.recorded(s, BlockAttention::self), stream.sequences};
    }
    steps_.attend(steps_.asking(text.q, which), queries, out);
    if (fusion_weights.rows() == 0)
      weights_.o.forward(out, h, steps_.context(), Accumulate::yes);
    else
      steps_.add_weighted(weights_.o, out, h, [&](Index r) { return 1 - fusion_weights(r, 0); });
  }

 private:
  const AttentionSteps<T>& steps_;
  const AttentionWeights<T>& weights_;
  std::span<BlockCache<T>* const> caches_;
};

/// F = Wo Attention(q, keys and values that the row sees) [times a gate] of text, and with
/// ImageUpdate::attention_ffn of images, over images and, with Keys::image_text, text (arXiv
/// 2512.19535, section 3.1).
template <Scalar T>
class FusionAttention {
 public:
  FusionAttention(const AttentionSteps<T>& steps, const BlockWeights<T>& weights,
                  const FusionConfig& config, std::span<BlockCache<T>* const> caches)
      : steps_(steps),
        norm_(config.norm == Sharing::own ? weights.fusion_norm : weights.input_norm),
        weights_(config.parameters == Sharing::own ? weights.fusion_attention
                                                   : weights.self_attention),
        gate_(weights.fusion_gate),
        token_gate_(weights.token_gate),
        config_(config),
        caches_(caches) {}

  /// RMSNorm(x) with fusion's norm, for text and images alike.
  MatrixView<T> normed(MatrixView<const T> x) const { return steps_.normed(x, norm_); }

  /// With Gate::token what F of each text row is multiplied by, (rows x 1), of the rows' normed
  /// state; else no rows.
  MatrixView<T> token_gates(MatrixView<const T> normed_text) const {
    if (config_.gate != Gate::token) return {};
    const MatrixView<T> gates = steps_.matrix(normed_text.rows(), 1);
    const MatrixView<const T> w(token_gate_.data(), 1, token_gate_.size());
    for (const StreamPass& stream : steps_.pass().streams) {
      const MaskView& seen = steps_.seen(stream).text;
      for (Index r = stream.text.begin; r < stream.text.end; ++r) {
        bool any = false;
        for (const Interval keys : seen.row(r - stream.text.begin)) any = any || keys.size() > 0;
        const T dot = normed_text.eigen().row(r).dot(w.eigen().row(0));
        gates(r, 0) = any ? 1 / (1 + std::exp(-dot)) : T(0);
      }
    }
    return gates;
  }

  /// q of text rows and, where text gives keys, k and v.
  Qkv<T> project_text(MatrixView<const T> normed_text) const {
    return text_gives_keys() ? steps_.split(steps_.project(weights_.qkv, normed_text))
                             : steps_.project_q(weights_.qkv, normed_text);
  }
  /// k and v of the image rows y and, where images ask, q.
  Qkv<T> project_images(MatrixView<const T> y) const {
    const MatrixView<T> normed_images = normed(y);
    return images_have_queries() ? steps_.split(steps_.project(weights_.qkv, normed_images))
                                 : steps_.project_kv(weights_.qkv, normed_images);
  }

  /// Attention before Wo, (rows that ask, num_heads * head_dim).
  struct Attended {
    MatrixView<T> text, image;
  };
  /// Appends the keys of all rows and attends. `text_queries`: how many text rows of all streams
  /// ask; of images none or all do.
  Attended attend(const Qkv<T>& text, const Qkv<T>& image, QueryRows which,
                  Index text_queries) const {
    const BlockPass<T>& pass = steps_.pass();
    steps_.rotate(text.q, pass.text_rope);
    steps_.rotate(text.k, pass.text_rope);
    steps_.rotate(image.q, pass.image_rope);
    steps_.rotate(image.k, pass.image_rope);
    const Attended out{.text = steps_.matrix(text_queries, steps_.q_width()),
                       .image = steps_.matrix(image.q.rows(), steps_.q_width())};
    const auto of_text = steps_.stream_queries();
    const auto of_images = steps_.stream_queries();
    for (std::size_t s = 0; s < pass.streams.size(); ++s) {
      const StreamPass& stream = pass.streams[s];
      AnyKvCache<T>& cache = caches_[s]->fusion;
      for (const KeySegment& segment : stream.segments)
        if (segment.image || text_gives_keys())
          steps_.append(cache, segment.image ? image : text, segment.rows);
      const Interval rows = steps_.query_rows(stream, which);
      of_text[s] = {rows.size(), steps_.mask_of(steps_.seen(stream).text, stream.text, rows),
                    &cache, steps_.recorded(s, BlockAttention::fusion)};
      of_images[s] = {stream.image.size(), steps_.seen(stream).image, &cache};
    }
    steps_.attend(steps_.asking(text.q, which), of_text, out.text);
    if (images_have_queries()) steps_.attend(image.q, of_images, out.image);
    return out;
  }

  /// h (+)= F, of what attend() gave. `gates` are token_gates() of the rows of h.
  void project_out(MatrixView<const T> attended, MatrixView<T> h, Accumulate accumulate,
                   MatrixView<const T> gates = {}) const {
    if (h.rows() == 0) return;
    const Linear<T>& o = weights_.o;
    if (config_.gate == Gate::none) return o.forward(attended, h, steps_.context(), accumulate);
    if (accumulate == Accumulate::no) h.eigen().setZero();
    if (config_.gate == Gate::token)
      return steps_.add_weighted(o, attended, h, [&](Index r) { return gates(r, 0); });
    steps_.add_weighted(o, attended, h, [gate = std::tanh(gate_)](Index) { return gate; });
  }

  /// Whether image rows have queries in this block.
  bool images_have_queries() const {
    return config_.update == ImageUpdate::attention_ffn && !steps_.pass().images_end;
  }

 private:
  bool text_gives_keys() const { return config_.keys == Keys::image_text; }

  const AttentionSteps<T>& steps_;
  const Buffer<T>& norm_;
  const AttentionWeights<T>& weights_;
  T gate_;
  const Buffer<T>& token_gate_;
  const FusionConfig& config_;
  std::span<BlockCache<T>* const> caches_;
};

}  // namespace detail

CASA_NAMESPACE_END
