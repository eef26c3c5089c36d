// One decoder block: norms, self-attention, fusion with images, MLP, in the order a reader expects.
//
// Several streams may pass together. Their rows lie one after the other, so that norms and
// projections are one product each; attention runs stream by stream against each stream's own
// caches.
#pragma once

#include <cmath>
#include <functional>
#include <optional>
#include <span>

#include "casa/attention/attend.hpp"
#include "casa/layers/rms_norm.hpp"
#include "casa/layers/rope.hpp"
#include "casa/layers/swiglu.hpp"
#include "casa/linear/linear.hpp"
#include "casa/model/config.hpp"
#include "casa/model/kv_cache.hpp"
#include "casa/model/sinks.hpp"

CASA_NAMESPACE_BEGIN

/// Projections of an attention layer: q, k and v as pieces 0, 1 and 2 of one product.
template <Scalar T>
struct AttentionWeights {
  Linear<T> qkv;
  Linear<T> o;
};

/// The weights of a block; what a block does not have is empty.
template <Scalar T>
struct BlockWeights {
  Buffer<T> input_norm;
  AttentionWeights<T> self_attention;
  Buffer<T> fusion_norm;
  AttentionWeights<T> fusion_attention;
  T fusion_gate = 0;  // before tanh
  Buffer<T> post_attention_norm;
  Mlp<T> mlp;
};

/// Keys and values that one block keeps of one stream.
template <Scalar T>
struct BlockCache {
  AnyKvCache<T> self;    // text, over the whole stream
  AnyKvCache<T> fusion;  // images (and text) of the windows that fusion still sees, in key order
  Matrix<T> sink_keys = {};  // where positions restart: the first keys of self, not rotated
};

/// A run of rows of one kind that stand next to each other in the order of fusion's keys.
struct KeyRun {
  bool image = false;
  Interval rows;  // rows of x (text) or of y (image)
};

/// What the rows of a stream see in the caches of a block.
struct SeenKeys {
  std::span<const Interval> self;   // text rows in the self-attention cache
  std::span<const Interval> text;   // text rows in the fusion cache
  std::span<const Interval> image;  // image rows in the fusion cache
};

/// What one stream brings to a pass through the blocks, the same for all blocks.
struct StreamPass {
  Interval text;                              // its rows of x
  Interval image;                             // its rows of y
  std::span<const Interval> self_intervals;   // of the text rows, in the self-attention cache
  std::span<const Interval> text_intervals;   // of the text rows, in the fusion cache
  std::span<const Interval> image_intervals;  // of the image rows, in the fusion cache
  std::span<const KeyRun> runs;               // how the rows are appended to the fusion cache
  Index asked = 0;                            // its last text rows, for which the pass is made
  SeenKeys sliding = {};                      // instead of the above, in blocks that slide
  const Rope* rope = nullptr;                 // its frequencies
};

/// Called with the hidden state (rows x hidden_size) of the text rows after every sublayer: "embed"
/// (layer -1), "self_attention", "fusion", "mlp", and "norm" (layer num_hidden_layers).
template <Scalar T>
using Trace = std::function<void(Index layer, const char* sublayer, MatrixView<const T> hidden)>;

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
  std::span<const StreamPass> streams;
  const Trace<T>* trace = nullptr;
  bool sliding = false;     // this block's attention slides: StreamPass::sliding holds
  bool text_ends = false;   // no block follows: rows that were not asked for give keys only
  bool images_end = false;  // no fusion follows: images give keys only
};

/// The rows of x that were asked for, in order, at its top now.
template <Scalar T>
MatrixView<T> keep_asked(std::span<const StreamPass> streams, MatrixView<T> x) {
  Index kept = 0;
  for (const StreamPass& s : streams)
    for (Index r = s.text.end - s.asked; r < s.text.end; ++r, ++kept)
      if (r != kept) std::copy_n(x.row(r), x.cols(), x.row(kept));
  return x.middle_rows(0, kept);
}

/// Rows of queries of one stream against one of its caches.
template <Scalar T>
void attend_cache(const AttentionShape& shape, double scale, MatrixView<const T> q,
                  const AnyKvCache<T>& cache, std::span<const Interval> intervals,
                  MatrixView<T> out, const Context& context) {
  if (q.rows() == 0) return;
  std::visit(
      [&]<class S>(const KvCache<S>& c) {
        const auto pieces = c.pieces();
        attend(AttentionInput<T, S>{shape, scale, q, pieces, intervals}, out,
               static_cast<T*>(nullptr), context);
      },
      cache);
}

template <Scalar T>
void append(AnyKvCache<T>& cache, MatrixView<const T> k, MatrixView<const T> v) {
  if (k.rows() > 0) std::visit([&](auto& c) { c.append(k, v); }, cache);
}

namespace detail {

/// One block's forward pass over x (text rows) and y (image rows), both (rows x hidden_size).
template <Scalar T>
class BlockForward {
 public:
  BlockForward(const BlockWeights<T>& weights, bool has_fusion, Index layer,
               const BlockPass<T>& pass, std::span<BlockCache<T>* const> caches, MatrixView<T> x,
               MatrixView<T> y, const Context& context)
      : w_(weights),
        layer_(layer),
        pass_(pass),
        fusion_(has_fusion ? pass.fusion : nullptr),
        caches_(caches),
        x_(x),
        y_(y),
        context_(context),
        workspace_(context.workspace),
        q_width_(pass.shape.num_heads * pass.shape.head_dim),
        kv_width_(pass.shape.num_kv_heads * pass.shape.head_dim) {}

  void run() {
    if (!fusion_) {
      self_attention();
    } else {
      switch (fusion_->placement) {
        case Placement::before:
          fusion();
          self_attention();
          break;
        case Placement::parallel:
          parallel();
          break;
        case Placement::replace:
          fusion();
          break;
      }
      if (fusion_->update != ImageUpdate::none && !pass_.images_end) mlp(y_);
    }
    mlp(x_);
    observe("mlp");
  }

  // What fusion alone would add to x, into update; x and y stay as they are.
  void fusion_update(MatrixView<T> update) {
    Workspace::Frame frame(workspace_);
    fusion(fusion_projection(normed(x_, fusion_norm())), update, Accumulate::no);
  }

 private:
  struct Qkv {
    MatrixView<T> q, k, v;
  };

  Qkv split(MatrixView<T> qkv) const {
    return {qkv.middle_cols(0, q_width_), qkv.middle_cols(q_width_, kv_width_),
            qkv.middle_cols(q_width_ + kv_width_, kv_width_)};
  }
  MatrixView<T> normed(MatrixView<const T> x, const Buffer<T>& weight) const {
    MatrixView<T> out = workspace_.template matrix<T>(x.rows(), x.cols());
    rms_norm<T>(x, weight.span(), pass_.rms_norm_eps, out, context_);
    return out;
  }
  MatrixView<T> projected(const Linear<T>& qkv, MatrixView<const T> x) const {
    MatrixView<T> out = workspace_.template matrix<T>(x.rows(), qkv.out_features());
    qkv.forward(x, out, context_);
    return out;
  }
  void rotate(MatrixView<T> x, const RopeTable<T>* table) const {
    if (table && x.rows() > 0) apply_rope(x, *table, pass_.shape.head_dim, context_);
  }
  const Buffer<T>& fusion_norm() const {
    return fusion_->norm == Sharing::own ? w_.fusion_norm : w_.input_norm;
  }
  const AttentionWeights<T>& fusion_weights() const {
    return fusion_->parameters == Sharing::own ? w_.fusion_attention : w_.self_attention;
  }
  bool text_gives_keys() const { return fusion_->keys == Keys::image_text; }
  bool images_ask() const {
    return fusion_->update == ImageUpdate::attention_ffn && !pass_.images_end;
  }

  SeenKeys seen(const StreamPass& s) const {
    if (pass_.sliding) return s.sliding;
    return {s.self_intervals, s.text_intervals, s.image_intervals};
  }

  // Before the block's last attention, when its keys have been projected: from here on x_ holds
  // only the rows that go on.
  void end_text() {
    if (!pass_.text_ends) return;
    x_ = keep_asked(pass_.streams, x_);
    text_ended_ = true;
  }
  // The text rows of a stream that ask.
  Interval asking(const StreamPass& s) const {
    return text_ended_ ? Interval{s.text.end - s.asked, s.text.end} : s.text;
  }

  void self_attention() {
    Workspace::Frame frame(workspace_);
    if (x_.rows() == 0) return;
    const Qkv text = split(projected(w_.self_attention.qkv, normed(x_, w_.input_norm)));
    end_text();
    self_attention(text);
  }

  void self_attention(const Qkv& text) {
    for (std::size_t s = 0; s < pass_.streams.size(); ++s) {
      const Interval rows = pass_.streams[s].text;
      note_sinks<T>(caches_[s]->self, text.k.middle_rows(rows.begin, rows.size()),
                    caches_[s]->sink_keys);
    }
    rotate(text.q, pass_.self_rope);
    rotate(text.k, pass_.self_rope);
    MatrixView<T> out = workspace_.template matrix<T>(x_.rows(), q_width_);
    Index row = 0;
    for (std::size_t s = 0; s < pass_.streams.size(); ++s) {
      const StreamPass& stream = pass_.streams[s];
      AnyKvCache<T>& cache = caches_[s]->self;
      append<T>(cache, text.k.middle_rows(stream.text.begin, stream.text.size()),
                text.v.middle_rows(stream.text.begin, stream.text.size()));
      row += attend_text(text.q, stream, seen(stream).self, cache, out, row);
    }
    w_.self_attention.o.forward(out, x_, context_, Accumulate::yes);
    observe("self_attention");
  }

  void fusion() {
    Workspace::Frame frame(workspace_);
    const Qkv text = fusion_projection(normed(x_, fusion_norm()));
    if (fusion_->placement == Placement::replace) end_text();
    fusion(text, x_, Accumulate::yes);
  }

  // Both sublayers start from the same hidden state, so both are projected before either adds to
  // it; where norm and parameters are shared, one projection serves both.
  void parallel() {
    Workspace::Frame frame(workspace_);
    MatrixView<T> normed_text = normed(x_, w_.input_norm);
    MatrixView<T> self = projected(w_.self_attention.qkv, normed_text);
    Qkv fused;
    if (fusion_->parameters == Sharing::shared && fusion_->norm == Sharing::shared) {
      MatrixView<T> copy = workspace_.template matrix<T>(self.rows(), self.cols());
      std::copy_n(self.data(), self.rows() * self.cols(), copy.data());
      fused = split(copy);
    } else {
      if (fusion_->norm == Sharing::own) normed_text = normed(x_, w_.fusion_norm);
      fused = fusion_projection(normed_text);
    }
    end_text();
    if (self.rows() > 0) self_attention(split(self));
    fusion(fused, x_, Accumulate::yes);
  }

  // q of text rows, and where text gives keys, k and v.
  Qkv fusion_projection(MatrixView<const T> normed_text) {
    const Linear<T>& qkv = fusion_weights().qkv;
    if (text_gives_keys()) return split(projected(qkv, normed_text));
    MatrixView<T> q = workspace_.template matrix<T>(normed_text.rows(), q_width_);
    qkv.forward_pieces(normed_text, q, 0, 1, context_);
    return {q, {}, {}};
  }

  void fusion(const Qkv& text, MatrixView<T> target, Accumulate accumulate) {
    const Linear<T>& qkv = fusion_weights().qkv;
    MatrixView<T> normed_images = normed(y_, fusion_norm());
    Qkv image;
    if (images_ask()) {
      image = split(projected(qkv, normed_images));
    } else {
      MatrixView<T> kv = workspace_.template matrix<T>(y_.rows(), 2 * kv_width_);
      qkv.forward_pieces(normed_images, kv, 1, 3, context_);
      image = {{}, kv.middle_cols(0, kv_width_), kv.middle_cols(kv_width_, kv_width_)};
    }
    rotate(text.q, pass_.text_rope);
    rotate(text.k, pass_.text_rope);
    rotate(image.q, pass_.image_rope);
    rotate(image.k, pass_.image_rope);

    MatrixView<T> text_out = workspace_.template matrix<T>(x_.rows(), q_width_);
    MatrixView<T> image_out = workspace_.template matrix<T>(images_ask() ? y_.rows() : 0, q_width_);
    Index row = 0;
    for (std::size_t s = 0; s < pass_.streams.size(); ++s) {
      const StreamPass& stream = pass_.streams[s];
      AnyKvCache<T>& cache = caches_[s]->fusion;
      for (const KeyRun& run : stream.runs) {
        if (!run.image && !text_gives_keys()) continue;
        const Qkv& from = run.image ? image : text;
        append<T>(cache, from.k.middle_rows(run.rows.begin, run.rows.size()),
                  from.v.middle_rows(run.rows.begin, run.rows.size()));
      }
      row += attend_text(text.q, stream, seen(stream).text, cache, text_out, row);
      if (images_ask())
        attend_rows(image.q, stream.image, seen(stream).image, cache,
                    image_out.middle_rows(stream.image.begin, stream.image.size()));
    }
    update(text_out, target, accumulate);
    if (images_ask()) update(image_out, y_, Accumulate::yes);
    observe("fusion");
  }

  // The text rows of a stream that ask, into as many rows of out from `row`; how many there are.
  Index attend_text(MatrixView<T> q, const StreamPass& stream, std::span<const Interval> intervals,
                    const AnyKvCache<T>& cache, MatrixView<T> out, Index row) {
    const Interval rows = asking(stream);
    attend_rows(q, rows,
                intervals.subspan(static_cast<std::size_t>(rows.begin - stream.text.begin)), cache,
                out.middle_rows(row, rows.size()));
    return rows.size();
  }
  void attend_rows(MatrixView<T> q, Interval rows, std::span<const Interval> intervals,
                   const AnyKvCache<T>& cache, MatrixView<T> out) {
    attend_cache<T>(pass_.shape, pass_.scale, q.middle_rows(rows.begin, rows.size()), cache,
                    intervals, out, context_);
  }

  // h (+)= F, or h (+)= tanh(gate) F
  void update(MatrixView<const T> attended, MatrixView<T> h, Accumulate accumulate) {
    if (h.rows() == 0) return;
    const Linear<T>& o = fusion_weights().o;
    if (fusion_->gate == Gate::none) return o.forward(attended, h, context_, accumulate);
    MatrixView<T> f = workspace_.template matrix<T>(h.rows(), h.cols());
    o.forward(attended, f, context_);
    const T gate = std::tanh(w_.fusion_gate);
    if (accumulate == Accumulate::no) {
      h.eigen() = gate * f.eigen();
    } else {
      h.eigen() += gate * f.eigen();
    }
  }

  void mlp(MatrixView<T> h) {
    if (h.rows() == 0) return;
    Workspace::Frame frame(workspace_);
    w_.mlp.forward(normed(h, w_.post_attention_norm), h, context_, Accumulate::yes);
  }

  void observe(const char* sublayer) const {
    if (pass_.trace) (*pass_.trace)(layer_, sublayer, x_);
  }

  const BlockWeights<T>& w_;
  Index layer_;
  const BlockPass<T>& pass_;
  const FusionConfig* fusion_;
  std::span<BlockCache<T>* const> caches_;
  MatrixView<T> x_, y_;
  const Context& context_;
  Workspace& workspace_;
  Index q_width_, kv_width_;
  bool text_ended_ = false;
};

}  // namespace detail

/// The text rows x and image rows y (rows x hidden_size) through one block, in place. caches[s] are
/// those of stream s. `has_fusion`: this block is one of pass.fusion->layers. Where pass.text_ends,
/// the rows asked for are at the top of x then, where keep_asked() puts them.
template <Scalar T>
void block_forward(const BlockWeights<T>& weights, bool has_fusion, Index layer,
                   const BlockPass<T>& pass, std::span<BlockCache<T>* const> caches,
                   MatrixView<T> x, MatrixView<T> y, const Context& context) {
  detail::BlockForward<T>(weights, has_fusion, layer, pass, caches, x, y, context).run();
}

CASA_NAMESPACE_END
