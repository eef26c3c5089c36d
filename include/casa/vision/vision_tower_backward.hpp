// Gradients of a vision tower: of every weight, from those of its tokens.
#pragma once

#include <cmath>
#include <numbers>
#include <vector>

#include "casa/model/block_stack_backward.hpp"
#include "casa/vision/vision_tower.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// d times the derivative of gelu(v) = v Phi(v), in place: Phi(v) + v e^(-v^2 / 2) / sqrt(2 pi). x:
/// what gelu was given.
template <Scalar T>
void gelu_backward(MatrixView<const T> x, MatrixView<T> d, const Context& context) {
  context.executor.for_each(d.rows(), [&](Index r, Index) {
    for (Index c = 0; c < d.cols(); ++c) {
      const T v = x(r, c), phi = T{0.5} * (T{1} + std::erf(v * (T{1} / std::numbers::sqrt2_v<T>)));
      const T density =
          std::exp(T{-0.5} * v * v) * (std::numbers::inv_sqrtpi_v<T> / std::numbers::sqrt2_v<T>);
      d(r, c) *= phi + v * density;
    }
  });
}

}  // namespace detail

/// Computes gradients of a vision tower of one config and adds them to a TensorSet, beside
/// DecoderGradient, as PatchEncoderGradient does:
///
///   tower.encode(patches, grids, tokens, scratch, context);
///   d_tokens.fill(0);
///   decoder_gradient.add(decoder, samples, context);     // of tokens; adds to d_tokens
///   tower_gradient.add(tower, patches, grids, d_tokens, context);
///
/// A tensor that the set does not have is frozen: no work is done for its gradient, nor for blocks
/// below the lowest one that learns. Of a pass, the input of every block is kept, and everything
/// else but the last block's values is computed anew on the way back. Bits do not depend on the
/// number of threads. One thread at a time may use an object.
template <Scalar T>
class VisionTowerGradient {
 public:
  /// Gradients of vision_tower_spec(config)'s tensors go to `gradients`, which must outlive this.
  /// Throws casa::error for a config out of range, and where the set has a tensor of another size.
  VisionTowerGradient(const VisionTowerConfig& config, TensorSet<T>& gradients)
      : VisionTowerGradient(config, vision_tower_spec(config), gradients) {}
  /// The same for tensors of other names: those of `spec`.
  VisionTowerGradient(const VisionTowerConfig& config, const VisionTowerSpec& spec,
                      TensorSet<T>& gradients)
      : config_(config) {
    check(config_);
    require_equal("VisionTowerGradient: blocks of the spec", std::ssize(spec.blocks),
                  config_.depth);
    const detail::GradientViews<T> of(gradients);
    patch_embed_ = of.linear(spec.patch_embed);
    for (const VisionBlockSpec& s : spec.blocks) {
      detail::BlockWeightGradients<T>& b = blocks_.emplace_back();
      const detail::LinearGradient<T> qkv = of.linear(s.qkv);
      b.input_norm = of.vector(s.norm1);
      b.self_attention = {part(qkv, 0), part(qkv, 1), part(qkv, 2), of.linear(s.proj)};
      b.post_attention_norm = of.vector(s.norm2);
      b.mlp = {of.linear(s.mlp.gate), of.linear(s.mlp.up), of.linear(s.mlp.down)};
    }
    merger_norm_ = of.vector(spec.merger_norm);
    merger_in_ = of.linear(spec.merger_in);
    merger_out_ = of.linear(spec.merger_out);
  }
  VisionTowerGradient(const VisionTowerGradient&) = delete;  // its views are of the set
  VisionTowerGradient& operator=(const VisionTowerGradient&) = delete;

  /// Adds the gradients of sum(d_tokens * encode(patches)): patches, grids and d_tokens as encode()
  /// has patches, grids and tokens. The forward pass is computed anew. Throws casa::error, before
  /// any gradient is touched, for a tower of another config and for other sizes.
  void add(const VisionTower<T>& tower, MatrixView<const T> patches,
           std::span<const VisionGrid> grids, MatrixView<const T> d_tokens,
           const Context& context) {
    require(tower.config() == config_ && !tower.blocks_.empty(),
            "VisionTowerGradient: the tower is of another config, or has no weights");
    const Index rows = num_patches(config_, grids);
    require_equal("VisionTowerGradient: rows of patches", patches.rows(), rows);
    require(patches.cols() == config_.patch_width() || patches.cols() == config_.frame_width(),
            "VisionTowerGradient: columns of patches must be ", config_.patch_width(), ", or ",
            config_.frame_width(), " for one frame, got ", patches.cols());
    require_equal("VisionTowerGradient: rows of d_tokens", d_tokens.rows(),
                  rows / config_.merge_unit());
    require_equal("VisionTowerGradient: columns of d_tokens", d_tokens.cols(),
                  config_.out_hidden_size);
    require_memory("VisionTowerGradient: patches", patches);
    require_memory("VisionTowerGradient: d_tokens", d_tokens);
    if (rows == 0) return;
    detail::with_precision(context, tower.precision(), [&](const Context& c) {
      tower.arrange(scratch_, grids, c);
      run(tower, patches, d_tokens, c);
    });
  }

 private:
  using Linears = detail::LinearGradient<T>;

  // The rows of q, k or v in the gradient of the tensor that holds all three.
  Linears part(const Linears& qkv, Index i) const {
    Linears of;
    if (qkv.weight.data() != nullptr)
      of.weight = qkv.weight.middle_rows(i * config_.hidden_size, config_.hidden_size);
    if (!qkv.bias.empty())
      of.bias = qkv.bias.subspan(static_cast<std::size_t>(i * config_.hidden_size),
                                 static_cast<std::size_t>(config_.hidden_size));
    return of;
  }

  void run(const VisionTower<T>& tower, MatrixView<const T> patches, MatrixView<const T> d_tokens,
           const Context& context) {
    Workspace& workspace = context.workspace;
    const Workspace::Frame frame(workspace);
    const detail::TowerRows<T> all = tower.rows_of(scratch_);
    const Index rows = all.count();
    const detail::StreamPass windows{.text = {0, rows}, .seen = {.self = {all.window, {}}}};
    const detail::StreamPass frames{.text = {0, rows}, .seen = {.self = {all.frame, {}}}};
    detail::BlockPass<T> pass = tower.pass_of(all);
    const auto stack = detail::train_blocks<T>(
        detail::lowest_that_learns(blocks_, patch_embed_.any()), config_.depth,
        Activations::recompute, context, [&](Index layer) {
          const auto at = static_cast<std::size_t>(layer);
          pass.streams = {config_.is_full_attention(layer) ? &frames : &windows, 1};
          pass.layer = layer;
          return detail::BlockTraining<T>(tower.blocks_[at], blocks_[at], nullptr, pass, context);
        });

    const MatrixView<T> x = workspace.matrix<T>(rows, config_.hidden_size);
    tower.embed(patches, all, x, context);
    const MatrixView<T> last = stack.forward(x, {});
    const MatrixView<T> d_x = workspace.matrix<T>(rows, config_.hidden_size);
    merge_backward(tower, last, d_tokens, d_x, context);
    stack.backward(d_x, {});
    if (patch_embed_.any())
      detail::add_weight_gradient(tower.patches_of(all, patches, context), d_x, patch_embed_,
                                  context);
  }

  // Through the merger, whose rows are merge_unit consecutive rows of x, to d_x.
  void merge_backward(const VisionTower<T>& tower, MatrixView<T> x, MatrixView<const T> d_tokens,
                      MatrixView<T> d_x, const Context& context) const {
    Workspace& workspace = context.workspace;
    const Workspace::Frame frame(workspace);
    const Index unit = config_.merge_unit(), count = x.rows() / unit, width = unit * x.cols();
    const MatrixView<T> normed = workspace.matrix<T>(x.rows(), x.cols());
    rms_norm<T>(x, tower.merger_norm_.span(), config_.rms_norm_eps, normed, context);
    const MatrixView<T> merged(normed.data(), count, width);
    const MatrixView<T> inner = workspace.matrix<T>(count, width);
    tower.merger_in_.forward(merged, inner, context);

    const MatrixView<T> sorted = workspace.matrix<T>(count, d_tokens.cols());
    for (Index u = 0; u < count; ++u)
      std::copy_n(d_tokens.row(scratch_.order.token[static_cast<std::size_t>(u)]), sorted.cols(),
                  sorted.row(u));
    const MatrixView<T> d_inner = workspace.matrix<T>(count, width);
    if (merger_out_.any()) {
      std::copy_n(inner.data(), count * width, d_inner.data());
      detail::gelu(d_inner, context);
      detail::add_weight_gradient(d_inner, sorted, merger_out_, context);
    }
    linear_backward_input<T>(tower.merger_out_, sorted, d_inner, context);
    detail::gelu_backward<T>(inner, d_inner, context);
    detail::add_weight_gradient(merged, d_inner, merger_in_, context);
    linear_backward_input<T>(tower.merger_in_, d_inner, merged, context);
    rms_norm_backward<T>(x, tower.merger_norm_.span(), config_.rms_norm_eps, normed, d_x,
                         merger_norm_, context);
  }

  VisionTowerConfig config_;
  Linears patch_embed_;
  std::vector<detail::BlockWeightGradients<T>> blocks_;
  std::span<T> merger_norm_;
  Linears merger_in_, merger_out_;
  typename VisionTower<T>::Scratch scratch_;  // of which the order and the angles are used
};

CASA_NAMESPACE_END
