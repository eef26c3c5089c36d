// Fusion for training, beside FusionAttention (sublayers.hpp): the attention of text, and of images
// where they have queries, over keys of both, and the way back through it.
#pragma once

#include "casa/model/sublayers_backward.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// F = Wo Attention(q, keys and values that the row sees) [times a gate]. The pass has one stream
/// (TrainingPass), whose segments name the keys.
template <Scalar T>
class FusionTraining {
 public:
  FusionTraining(const TrainingSteps<T>& steps, const BlockWeights<T>& weights,
                 const BlockWeightGradients<T>& gradients, const FusionConfig& config)
      : steps_(steps),
        forward_(steps.forward(), weights, config, {}),
        norm_(config.norm == Sharing::own ? weights.fusion_norm : weights.input_norm),
        d_norm_(config.norm == Sharing::own ? gradients.fusion_norm : gradients.input_norm),
        weights_(config.parameters == Sharing::own ? weights.fusion_attention
                                                   : weights.self_attention),
        d_weights_(config.parameters == Sharing::own ? gradients.fusion_attention
                                                     : gradients.self_attention),
        tanh_gate_(std::tanh(weights.fusion_gate)),
        d_gate_(gradients.fusion_gate),
        token_gate_(weights.token_gate),
        d_token_gate_(gradients.token_gate),
        config_(config),
        text_pieces_(config.keys == Keys::image_text ? kQueryKeyValue : kQuery),
        image_pieces_(forward_.images_have_queries() ? kQueryKeyValue : kKeyValue) {}

  /// Keys are copied into the order in which rows see them.
  struct Record {
    MatrixView<const T> x = {}, y = {};  // the hidden states of text and images
    MatrixView<T> text = {};             // q [k v] of text rows, rotated
    MatrixView<T> image = {};            // [q] k v of image rows, rotated
    AttentionRecord<T> of_text = {}, of_images = {};
    MatrixView<T> gates = {};  // FusionAttention::token_gates
  };
  /// Room for the record of a pass over x and y.
  Record record(MatrixView<const T> x, MatrixView<const T> y) const {
    const StreamPass& stream = steps_.pass().streams[0];
    const SeenKeys& seen = steps_.forward().seen(stream);
    Record r{.x = x, .y = y};
    r.text = steps_.matrix(x.rows(), steps_.width(text_pieces_));
    r.image = steps_.matrix(y.rows(), steps_.width(image_pieces_));
    Index keys = 0;
    for (const KeySegment& s : stream.segments) keys += s.rows.size();
    const MatrixView<T> kv = steps_.matrix(keys, 2 * steps_.kv_width());
    r.of_text = steps_.record(q_of(r.text), kv, seen.text);
    if (forward_.images_have_queries()) r.of_images = steps_.record(q_of(r.image), kv, seen.image);
    if (config_.gate == Gate::token) r.gates = steps_.matrix(x.rows(), 1);
    return r;
  }

  MatrixView<T> normed(MatrixView<const T> x) const { return forward_.normed(x); }
  void project_text(const Record& r, MatrixView<const T> normed_text) const {
    steps_.project(weights_.qkv, normed_text, r.text, text_pieces_);
  }
  void set_gates(const Record& r, MatrixView<const T> normed_text) const {
    const Workspace::Frame frame(steps_.context().workspace);
    if (r.gates.rows() > 0) r.gates.eigen() = forward_.token_gates(normed_text).eigen();
  }
  /// Once text is projected.
  void attend(const Record& r) const {
    {
      const Workspace::Frame frame(steps_.context().workspace);
      steps_.project(weights_.qkv, normed(r.y), r.image, image_pieces_);
    }
    rotate(r.text, r.image,
           [&](MatrixView<T> x, auto* table) { steps_.forward().rotate(x, table); });
    const MatrixView<T> kv = r.of_text.kv;
    for_each_key(r.text, r.image,
                 [&](Index key, const T* from) { std::copy_n(from, kv.cols(), kv.row(key)); });
    steps_.attend(r.of_text);
    if (forward_.images_have_queries()) steps_.attend(r.of_images);
  }
  /// h (+)= F of text, and, where images have queries, y += F of images.
  void add(const Record& r, MatrixView<T> h, Accumulate accumulate, MatrixView<T> y) const {
    const Workspace::Frame frame(steps_.context().workspace);
    forward_.project_out(r.of_text.out, h, accumulate, r.gates);
    if (forward_.images_have_queries()) forward_.project_out(r.of_images.out, y, Accumulate::yes);
  }

  /// Gradients of text rows and of image rows.
  struct Pair {
    MatrixView<T> text = {}, image = {};
  };
  /// From the gradients of hidden states, d_h and (read where images have queries) d_y, to those of
  /// what attention gave. Adds each gate's gradient to d_gates(r).
  Pair add_backward(const Record& r, MatrixView<const T> d_h, MatrixView<const T> d_y,
                    MatrixView<T> d_gates = {}) const {
    const Linear<T>& o = weights_.o;
    const bool images = forward_.images_have_queries();
    switch (config_.gate) {
      case Gate::none:
        return {steps_.output_backward(o, d_weights_.o, r.of_text.out, d_h),
                images ? steps_.output_backward(o, d_weights_.o, r.of_images.out, d_y)
                       : MatrixView<T>{}};
      case Gate::token:  // (of text alone, says check(DecoderConfig))
        return {steps_.output_backward(
                    o, d_weights_.o, r.of_text.out, d_h, [&](Index i) { return r.gates(i, 0); },
                    [&](Index i, T d) { d_gates(i, 0) += d; }),
                {}};
      case Gate::tanh:
        break;
    }
    double sum = 0;
    const auto through_gate = [&](MatrixView<const T> out, MatrixView<const T> d) {
      return steps_.output_backward(
          o, d_weights_.o, out, d, [&](Index) { return tanh_gate_; },
          [&](Index, T d_factor) { sum += static_cast<double>(d_factor); });
    };
    const Pair d_out{through_gate(r.of_text.out, d_h),
                     images ? through_gate(r.of_images.out, d_y) : MatrixView<T>{}};
    const double t = static_cast<double>(tanh_gate_);
    if (!d_gate_.empty()) d_gate_[0] += static_cast<T>((1 - t * t) * sum);
    return d_out;
  }
  /// From there to the gradients of what was projected: as Record::text and image.
  Pair attend_backward(const Record& r, const Pair& d_out) const {
    const Pair d{steps_.matrix(r.text.rows(), r.text.cols()),
                 steps_.matrix(r.image.rows(), r.image.cols())};
    const Workspace::Frame frame(steps_.context().workspace);
    const MatrixView<T> kv = r.of_text.kv;
    const MatrixView<T> d_kv = steps_.matrix(kv.rows(), kv.cols());
    steps_.attend_backward(r.of_text, d_out.text, q_of(d.text), d_kv);
    if (forward_.images_have_queries()) {
      const MatrixView<T> of_images = steps_.matrix(kv.rows(), kv.cols());
      steps_.attend_backward(r.of_images, d_out.image, q_of(d.image), of_images);
      d_kv.eigen() += of_images.eigen();
    }
    for_each_key(d.text, d.image,
                 [&](Index key, T* to) { std::copy_n(d_kv.row(key), d_kv.cols(), to); });
    rotate(d.text, d.image,
           [&](MatrixView<T> x, auto* table) { steps_.rotate_backward(x, table); });
    return d;
  }
  /// From d_text, that of Record::text, to the gradient of the normed text.
  void project_text_backward(MatrixView<const T> normed_text, MatrixView<const T> d_text,
                             MatrixView<T> d_normed, Accumulate accumulate) const {
    steps_.project_backward(weights_.qkv, d_weights_, normed_text, d_text, text_pieces_, d_normed,
                            accumulate);
  }
  /// Gate::token: d_normed += what the gates g = sigmoid(w . normed) give; a gate of a row that
  /// sees no key is 0 whatever w is.
  void gates_backward(const Record& r, MatrixView<const T> normed_text, MatrixView<const T> d_gates,
                      MatrixView<T> d_normed) const {
    const MatrixView<const T> w(token_gate_.data(), 1, token_gate_.size());
    const MatrixView<T> d_w(d_token_gate_.data(), 1, std::ssize(d_token_gate_));
    for (Index i = 0; i < r.gates.rows(); ++i) {
      const T g = r.gates(i, 0), d = d_gates(i, 0) * g * (1 - g);
      d_normed.eigen().row(i) += d * w.eigen().row(0);
      if (d_w.cols() > 0) d_w.eigen().row(0) += d * normed_text.eigen().row(i);
    }
  }
  /// From the gradient of the normed text to that of the hidden state.
  void text_norm_backward(const Record& r, MatrixView<const T> d_normed, MatrixView<T> d_x,
                          Accumulate accumulate) const {
    steps_.norm_backward(r.x, norm_, d_normed, d_x, d_norm_, accumulate);
  }
  /// From d_image, that of Record::image, to that of the images' hidden state: d_y += it. d_y
  /// without memory: not wanted.
  void images_backward(const Record& r, MatrixView<const T> d_image, MatrixView<T> d_y) const {
    const Workspace::Frame frame(steps_.context().workspace);
    if (r.y.rows() == 0) return;
    const MatrixView<T> normed_images = normed(r.y);
    const bool wanted = d_y.data() != nullptr || !d_norm_.empty();
    const MatrixView<T> d_normed = wanted ? steps_.matrix(r.y.rows(), r.y.cols()) : MatrixView<T>{};
    steps_.project_backward(weights_.qkv, d_weights_, normed_images, d_image, image_pieces_,
                            d_normed, Accumulate::no);
    steps_.norm_backward(r.y, norm_, d_normed, d_y, d_norm_, Accumulate::yes);
  }
  /// All of it where nothing else reads the normed text: from d_h, the gradient of what F was added
  /// to, d_x (+)=, d_y +=. d_x may be d_h.
  void backward(const Record& r, MatrixView<const T> d_h, MatrixView<T> d_x, Accumulate accumulate,
                MatrixView<T> d_y) const {
    const Workspace::Frame frame(steps_.context().workspace);
    const Pair d = attend_backward(r, add_backward(r, d_h, d_y));
    const MatrixView<T> normed_text = normed(r.x);
    const MatrixView<T> d_normed = steps_.matrix(r.x.rows(), r.x.cols());
    project_text_backward(normed_text, d.text, d_normed, Accumulate::no);
    text_norm_backward(r, d_normed, d_x, accumulate);
    images_backward(r, d.image, d_y);
  }

 private:
  MatrixView<T> q_of(MatrixView<T> pieces) const { return pieces.middle_cols(0, steps_.q_width()); }
  // Of a matrix with the columns of `pieces`, those of k and v.
  MatrixView<T> kv_of(MatrixView<T> m, QkvPieces pieces) const {
    return m.middle_cols(pieces.first == 0 ? steps_.q_width() : 0, 2 * steps_.kv_width());
  }
  // f(key, its k and v) of all keys in order, in the columns of Record::text and image.
  template <class F>
  void for_each_key(MatrixView<T> text, MatrixView<T> image, F f) const {
    Index key = 0;
    for (const KeySegment& s : steps_.pass().streams[0].segments) {
      const MatrixView<T> kv = s.image ? kv_of(image, image_pieces_) : kv_of(text, text_pieces_);
      for (Index row = s.rows.begin; row < s.rows.end; ++row) f(key++, kv.row(row));
    }
  }
  // f(the queries or the keys of some rows, their table) of all of them.
  template <class F>
  void rotate(MatrixView<T> text, MatrixView<T> image, F f) const {
    const BlockPass<T>& pass = steps_.pass();
    f(q_of(text), pass.text_rope);
    if (text_pieces_.last == 3)
      f(kv_of(text, text_pieces_).middle_cols(0, steps_.kv_width()), pass.text_rope);
    if (image_pieces_.first == 0) f(q_of(image), pass.image_rope);
    f(kv_of(image, image_pieces_).middle_cols(0, steps_.kv_width()), pass.image_rope);
  }

  const TrainingSteps<T>& steps_;
  FusionAttention<T> forward_;
  const Buffer<T>& norm_;
  std::span<T> d_norm_;
  const AttentionWeights<T>& weights_;
  const ProjectionGradients<T>& d_weights_;
  T tanh_gate_;
  std::span<T> d_gate_;
  const Buffer<T>& token_gate_;
  std::span<T> d_token_gate_;
  const FusionConfig& config_;
  QkvPieces text_pieces_, image_pieces_;
};

}  // namespace detail

CASA_NAMESPACE_END
