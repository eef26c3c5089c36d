// Gradients of one fusion layer by itself (fusion_layer.hpp): of its weights, of text and of image
// tokens, for those who train a model of their own around it.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "casa/model/fusion_backward.hpp"
#include "casa/model/fusion_layer.hpp"
#include "casa/model/training_pass.hpp"

CASA_NAMESPACE_BEGIN

/// The tensors of a fusion layer.
struct FusionLayerSpec {
  TensorSpec norm;                 ///< (hidden_size)
  AttentionSpec attention;         ///< shapes as there
  std::optional<TensorSpec> gate;  ///< (1), with Gate::tanh
};

/// The tensors of a layer of this config: prefix + "norm.weight", "attn.q_proj.weight" (and .bias,
/// with `bias`) and so on, "attn.o_proj" (with `out_bias`), "attn.gate".
inline FusionLayerSpec fusion_layer_spec(const FusionLayerConfig& c, const std::string& prefix = "",
                                         bool bias = false, bool out_bias = false) {
  FusionLayerSpec s{{prefix + "norm.weight", c.hidden_size, 0},
                    attention_spec(prefix + "attn", c.hidden_size, c.shape, bias, out_bias),
                    {}};
  if (c.fusion.gate == Gate::tanh) s.gate = TensorSpec{prefix + "attn.gate", 1, 0};
  return s;
}

/// Calls f(spec) for every tensor, a TensorSpec, in the order of computation.
template <class F>
void for_each_tensor(const FusionLayerSpec& s, F&& f) {
  f(s.norm);
  for_each_tensor(s.attention, f);
  if (s.gate) f(*s.gate);
}

/// Computes gradients of a fusion layer and adds them to a TensorSet. A tensor that the set does
/// not have is frozen. Memory is kept in the object and in the context. One thread at a time may
/// use an object.
template <Scalar T>
class FusionLayerGradient {
 public:
  /// Gradients of the tensors of `spec` go to `gradients`, which must outlive this. Throws
  /// casa::error where the set has a tensor of another size.
  FusionLayerGradient(const FusionLayerSpec& spec, TensorSet<T>& gradients) {
    const detail::GradientViews<T> views(gradients);
    gradients_.fusion_norm = views.vector(spec.norm);
    gradients_.fusion_attention = views.attention(spec.attention);
    if (spec.gate) gradients_.fusion_gate = views.vector(*spec.gate);
  }
  FusionLayerGradient(const FusionLayerGradient&) = delete;  // its views are of itself
  FusionLayerGradient& operator=(const FusionLayerGradient&) = delete;

  /// layout, x, y and grids: as FusionLayer::forward of a whole stream, which is computed again.
  /// From d_out (as x), the gradient with respect to its output, writes d_x (as x) and d_y (as y),
  /// and adds the gradients of the weights. d_y without memory: not wanted. d_x may be d_out; no
  /// other overlap is allowed. The bits do not depend on the number of threads. Throws casa::error,
  /// before anything is written, as forward() does and for gradients of another size.
  void add(const FusionLayer<T>& layer, const StreamLayout& layout, MatrixView<const T> x,
           MatrixView<const T> y, MatrixView<const T> d_out, MatrixView<T> d_x, MatrixView<T> d_y,
           const Context& context = {}, std::span<const ImageGrid> grids = {}) {
    layer.check_stream(layout, x, y, !grids.empty());
    check_size("d_out", d_out, x);
    check_size("d_x", d_x, x);
    if (d_y.data() != nullptr) check_size("d_y", d_y, y);
    insertions_.clear();
    insertion_grids_.clear();
    FusionLayer<T>::list_images(layout, grids, insertions_, insertion_grids_);

    const FusionLayerConfig& c = layer.config();
    const bool same = config_.fusion && *config_.fusion == c.fusion;
    if (!same) pass_.forget();
    config_.num_attention_heads = c.shape.num_heads;
    config_.num_key_value_heads = c.shape.num_kv_heads;
    config_.head_dim = c.shape.head_dim;
    config_.rms_norm_eps = c.rms_norm_eps;
    config_.rope = c.rope;
    if (!same) config_.fusion = c.fusion;
    const Workspace::Frame frame(context.workspace);
    const detail::StreamShape shape{x.rows(), y.rows(), {insertions_, insertion_grids_}};
    pass_.prepare(config_, layer.rope_, {&shape, 1}, context);
    const detail::TrainingSteps<T> steps(pass_.of_block(config_, 0), context);
    const detail::FusionTraining<T> fusion(steps, layer.weights_, gradients_, *config_.fusion);
    const auto record = fusion.record(layer.sized(x), layer.sized(y));
    {
      const Workspace::Frame inner(context.workspace);
      fusion.project_text(record, fusion.normed(record.x));
      fusion.attend(record);
    }
    d_y.eigen().setZero();
    fusion.backward(record, layer.sized(d_out), layer.sized(d_x), Accumulate::no, d_y);
  }

 private:
  template <class U>
  static void check_size(const char* what, MatrixView<U> d, MatrixView<const T> of) {
    if (d.rows() != of.rows() || (of.rows() > 0 && d.cols() != of.cols()))
      fail("FusionLayerGradient: ", what, ": expected (", of.rows(), ", ", of.cols(), "), got (",
           d.rows(), ", ", d.cols(), ")");
    require_memory(what, d);
  }

  detail::BlockWeightGradients<T> gradients_;
  DecoderConfig config_;  // what a pass reads of one
  detail::TrainingPass<T> pass_;
  std::vector<Insertion> insertions_;
  std::vector<ImageGrid> insertion_grids_;
};

CASA_NAMESPACE_END
