// The attention sublayers of a block for training, beside sublayers.hpp: whole streams, whose keys
// lie in memory and in no cache, and the way back through them.
//
// In the names of what follows d_a is the gradient of the loss with respect to a.
#pragma once

#include "casa/attention/attend_backward.hpp"
#include "casa/layers/rms_norm_backward.hpp"
#include "casa/layers/rope_backward.hpp"
#include "casa/linear/linear_backward.hpp"
#include "casa/model/gradient_views.hpp"
#include "casa/model/sublayers.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// What an attention read and gave: all that its backward pass needs. Weights are computed anew.
template <Scalar T>
struct AttentionRecord {
  MatrixView<T> q = {};    // (rows, num_heads * head_dim), rotated
  MatrixView<T> kv = {};   // (keys, 2 * num_kv_heads * head_dim): k, rotated, and v, side by side
  MaskView seen = {};      // the keys of each row, as rows of kv
  MatrixView<T> out = {};  // as q
  T* lse = nullptr;        // (rows, num_heads)
};

/// Adds to the gradients of a projection of x whose result has the gradient d.
template <Scalar T>
void add_weight_gradient(MatrixView<const std::type_identity_t<T>> x,
                         MatrixView<const std::type_identity_t<T>> d, const LinearGradient<T>& to,
                         const Context& context) {
  if (to.any() && x.rows() > 0) linear_backward_weight<T>(x, d, to.weight, to.bias, context);
}

/// Some of q, k and v, side by side: pieces [first, last) of their projection.
struct QkvPieces {
  Index first, last;
};
inline constexpr QkvPieces kQuery{0, 1}, kKeyValue{1, 3}, kQueryKeyValue{0, 3};

/// The steps that both sublayers are made of. What they return lies in the context's workspace.
template <Scalar T>
class TrainingSteps {
 public:
  TrainingSteps(const BlockPass<T>& pass, const Context& context)
      : forward_(pass, context),
        q_width_(pass.shape.num_heads * pass.shape.head_dim),
        kv_width_(pass.shape.num_kv_heads * pass.shape.head_dim) {}

  const AttentionSteps<T>& forward() const { return forward_; }
  const BlockPass<T>& pass() const { return forward_.pass(); }
  const Context& context() const { return forward_.context(); }
  Index q_width() const { return q_width_; }
  Index kv_width() const { return kv_width_; }
  Index width(QkvPieces p) const {
    return (p.first == 0 ? q_width_ : 0) + (p.last == 3 ? 2 * kv_width_ : 0);
  }
  MatrixView<T> matrix(Index rows, Index cols) const { return forward_.matrix(rows, cols); }

  /// Room for what an attention of q over kv gives.
  AttentionRecord<T> record(MatrixView<T> q, MatrixView<T> kv, const MaskView& seen) const {
    return {q, kv, seen, matrix(q.rows(), q.cols()),
            context().workspace.template take<T>(q.rows() * pass().shape.num_heads)};
  }
  void attend(const AttentionRecord<T>& r) const {
    const KeyPiece<T> keys = memory(MatrixView<const T>(r.kv));
    casa::attend(input(r, keys), r.out, r.lse, context());
  }
  /// Writes d_q and d_kv, of the sizes of q and kv.
  void attend_backward(const AttentionRecord<T>& r, MatrixView<const T> d_out, MatrixView<T> d_q,
                       MatrixView<T> d_kv) const {
    const KeyPiece<T> keys = memory(MatrixView<const T>(r.kv));
    const KeyGradients<T> d_keys = memory(d_kv);
    casa::attend_backward(input(r, keys), {r.out, r.lse, d_out}, {.q = d_q, .keys = {&d_keys, 1}},
                          context());
  }
  void rotate_backward(MatrixView<T> d, const RopeTable<T>* table) const {
    if (table && d.rows() > 0) apply_rope_backward(d, *table, pass().shape.head_dim, context());
  }

  // A vision tower holds q, k and v as one piece, of which all are asked for at once.
  void project(const Linear<T>& qkv, MatrixView<const T> normed, MatrixView<T> out,
               QkvPieces p) const {
    if (is_all(p)) return qkv.forward(normed, out, context());
    qkv.forward_pieces(normed, out, p.first, p.last, context());
  }
  /// d: of these pieces. Adds to the gradients of their weights; d_normed (+)= d W, unless it has
  /// no memory.
  void project_backward(const Linear<T>& qkv, const ProjectionGradients<T>& to,
                        MatrixView<const T> normed, MatrixView<const T> d, QkvPieces p,
                        MatrixView<T> d_normed, Accumulate accumulate) const {
    const LinearGradient<T>* const of[] = {&to.q, &to.k, &to.v};
    for (Index i = p.first; i < p.last; ++i)
      add_weight_gradient(
          normed, d.middle_cols(begin_of(i) - begin_of(p.first), begin_of(i + 1) - begin_of(i)),
          *of[i]);
    if (d_normed.data() == nullptr) return;
    if (is_all(p))
      linear_backward_input<T>(qkv, d, d_normed, context(), accumulate);
    else
      linear_backward_input_pieces<T>(qkv, d, d_normed, p.first, p.last, context(), accumulate);
  }

  void add_weight_gradient(MatrixView<const T> x, MatrixView<const T> d,
                           const LinearGradient<T>& to) const {
    detail::add_weight_gradient(x, d, to, context());
  }
  /// d_x (+)= d_normed through RMSNorm(x); d_x without memory: only the weight's gradient is
  /// wanted.
  void norm_backward(MatrixView<const T> x, const Buffer<T>& weight, MatrixView<const T> d_normed,
                     MatrixView<T> d_x, std::span<T> d_weight, Accumulate accumulate) const {
    if (x.rows() == 0 || (d_x.data() == nullptr && d_weight.empty())) return;
    const Workspace::Frame frame(context().workspace);
    if (d_x.data() == nullptr) d_x = matrix(x.rows(), x.cols());
    rms_norm_backward<T>(x, weight.span(), pass().rms_norm_eps, d_normed, d_x, d_weight, context(),
                         accumulate);
  }

  /// d of what attention gave, where Wo of it was added to a hidden state whose gradient is d.
  MatrixView<T> output_backward(const Linear<T>& o, const LinearGradient<T>& to,
                                MatrixView<const T> out, MatrixView<const T> d) const {
    const MatrixView<T> d_out = matrix(out.rows(), out.cols());
    if (out.rows() == 0) return d_out;
    linear_backward_input<T>(o, d, d_out, context());
    add_weight_gradient(out, d, to);
    return d_out;
  }
  /// The same where row r of Wo(out) was added weight(r) times; calls add(r, the gradient of
  /// weight(r)) for every row, in order. That gradient is d . (Wo out + b) = (d Wo) . out + d . b,
  /// so that Wo(out) need not be known. Where weight(r) is 0 everything behind it gets 0.
  template <class Weight, class Add>
  MatrixView<T> output_backward(const Linear<T>& o, const LinearGradient<T>& to,
                                MatrixView<const T> out, MatrixView<const T> d, Weight weight,
                                Add add) const {
    const MatrixView<T> d_out = matrix(out.rows(), out.cols());
    if (out.rows() == 0) return d_out;
    linear_backward_input<T>(o, d, d_out, context());
    const Workspace::Frame frame(context().workspace);
    const MatrixView<T> weighted = matrix(d.rows(), d.cols());
    const MatrixView<const T> bias(o.bias().data(), 1, d.cols());
    for (Index r = 0; r < out.rows(); ++r) {
      add(r,
          d_out.eigen().row(r).dot(out.eigen().row(r)) + d.eigen().row(r).dot(bias.eigen().row(0)));
      d_out.eigen().row(r) *= weight(r);
      weighted.eigen().row(r) = weight(r) * d.eigen().row(r);
    }
    add_weight_gradient(out, weighted, to);
    return d_out;
  }

 private:
  static bool is_all(QkvPieces p) { return p.first == 0 && p.last == 3; }
  // The first column of piece i of q, k and v, side by side.
  Index begin_of(Index i) const { return i == 0 ? 0 : q_width_ + (i - 1) * kv_width_; }

  template <class E>
  KeyMemory<E> memory(MatrixView<E> kv) const {
    return {.k = kv.data(),
            .v = kv.data() + kv_width_,
            .count = kv.rows(),
            .token_stride = kv.stride(),
            .head_stride = pass().shape.head_dim};
  }
  AttentionInput<T, T> input(const AttentionRecord<T>& r, const KeyPiece<T>& keys) const {
    return {.shape = pass().shape,
            .scale = pass().scale,
            .q = r.q,
            .keys = {&keys, 1},
            .intervals = r.seen.intervals,
            .interval_offsets = r.seen.offsets};
  }

  AttentionSteps<T> forward_;
  Index q_width_, kv_width_;
};

/// h += Wo Attention(q, k, v) of text over the text of its stream.
template <Scalar T>
class SelfAttentionTraining {
 public:
  SelfAttentionTraining(const TrainingSteps<T>& steps, const AttentionWeights<T>& weights,
                        const ProjectionGradients<T>& gradients)
      : steps_(steps), weights_(weights), gradients_(gradients) {}

  struct Record {
    MatrixView<T> qkv = {};  // q and k rotated, side by side with v
    AttentionRecord<T> attention = {};
  };
  /// Room for the record of a pass.
  Record record(Index rows) const {
    const MatrixView<T> qkv = steps_.matrix(rows, steps_.width(kQueryKeyValue));
    return {qkv, steps_.record(q_of(qkv), kv_of(qkv),
                               steps_.forward().seen(steps_.pass().streams[0]).self)};
  }

  void project(const Record& r, MatrixView<const T> normed) const {
    steps_.project(weights_.qkv, normed, r.qkv, kQueryKeyValue);
  }
  void attend(const Record& r) const {
    rotate(r.qkv, [&](MatrixView<T> x, auto* table) { steps_.forward().rotate(x, table); });
    steps_.attend(r.attention);
  }
  /// `fusion_weights`, if there are any, are FusionAttention::token_gates.
  void add(const Record& r, MatrixView<T> h, MatrixView<const T> fusion_weights = {}) const {
    const MatrixView<T> out = r.attention.out;
    if (fusion_weights.rows() == 0)
      weights_.o.forward(out, h, steps_.context(), Accumulate::yes);
    else
      steps_.forward().add_weighted(weights_.o, out, h,
                                    [&](Index row) { return 1 - fusion_weights(row, 0); });
  }

  /// From d_h to the gradient of what attention gave. Takes the gradient of each weight
  /// 1 - fusion_weights(r) from d_weights(r).
  MatrixView<T> add_backward(const Record& r, MatrixView<const T> d_h,
                             MatrixView<const T> fusion_weights = {},
                             MatrixView<T> d_weights = {}) const {
    if (fusion_weights.rows() == 0)
      return steps_.output_backward(weights_.o, gradients_.o, r.attention.out, d_h);
    return steps_.output_backward(
        weights_.o, gradients_.o, r.attention.out, d_h,
        [&](Index row) { return 1 - fusion_weights(row, 0); },
        [&](Index row, T d) { d_weights(row, 0) -= d; });
  }
  /// From there to the gradient of q, k and v, side by side.
  MatrixView<T> attend_backward(const Record& r, MatrixView<const T> d_out) const {
    const MatrixView<T> d_qkv = steps_.matrix(r.qkv.rows(), r.qkv.cols());
    steps_.attend_backward(r.attention, d_out, q_of(d_qkv), kv_of(d_qkv));
    rotate(d_qkv, [&](MatrixView<T> d, auto* table) { steps_.rotate_backward(d, table); });
    return d_qkv;
  }
  /// From there to the gradient of the normed state.
  void project_backward(MatrixView<const T> normed, MatrixView<const T> d_qkv,
                        MatrixView<T> d_normed) const {
    steps_.project_backward(weights_.qkv, gradients_, normed, d_qkv, kQueryKeyValue, d_normed,
                            Accumulate::no);
  }

 private:
  MatrixView<T> q_of(MatrixView<T> qkv) const { return qkv.middle_cols(0, steps_.q_width()); }
  MatrixView<T> kv_of(MatrixView<T> qkv) const {
    return qkv.middle_cols(steps_.q_width(), 2 * steps_.kv_width());
  }
  template <class F>
  void rotate(MatrixView<T> qkv, F f) const {
    f(q_of(qkv), steps_.pass().self_rope);
    f(kv_of(qkv).middle_cols(0, steps_.kv_width()), steps_.pass().self_rope);
  }

  const TrainingSteps<T>& steps_;
  const AttentionWeights<T>& weights_;
  const ProjectionGradients<T>& gradients_;
};

}  // namespace detail

CASA_NAMESPACE_END
