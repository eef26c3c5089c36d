// Gradients of a patch encoder: of every weight, from those of its tokens.
#pragma once

#include <string>
#include <vector>

#include "casa/model/block_stack_backward.hpp"
#include "casa/vision/patch_encoder.hpp"

CASA_NAMESPACE_BEGIN

/// Computes gradients of a patch encoder of one config and adds them to a TensorSet, beside
/// DecoderGradient: the decoder gives the gradients of image tokens, which come from encode().
///
///   encoder.encode(images, tokens, scratch, context);
///   d_tokens.fill(0);
///   decoder_gradient.add(decoder, samples, context);     // of tokens; adds to d_tokens
///   encoder_gradient.add(encoder, images, d_tokens, context);
///
/// A tensor that the set does not have is frozen: no work is done for its gradient, nor for what
/// lies below the lowest tensor that learns. Bits do not depend on the number of threads. One
/// thread at a time may use an object.
template <Scalar T>
class PatchEncoderGradient {
 public:
  /// Gradients of patch_encoder_spec(config, prefix)'s tensors go to `gradients`, which must
  /// outlive this. Throws casa::error for a config out of range, and where the set has a tensor of
  /// another size. `activations` is what is kept of the blocks between their passes.
  PatchEncoderGradient(const PatchEncoderConfig& config, TensorSet<T>& gradients,
                       const std::string& prefix = "vision.",
                       Activations activations = Activations::recompute)
      : config_(config), block_config_(config.block_config()), activations_(activations) {
    check(config_);
    const PatchEncoderSpec spec = patch_encoder_spec(config_, prefix);
    const detail::GradientViews<T> of(gradients);
    patch_embed_ = of.linear(spec.patch_embed);
    pos_embed_ = of.matrix(spec.pos_embed);
    for (const BlockSpec& b : spec.blocks) blocks_.push_back(of.block(b));
    norm_ = of.vector(spec.norm);
    proj_ = of.linear(spec.proj);
  }
  PatchEncoderGradient(const PatchEncoderGradient&) = delete;  // used by one thread
  PatchEncoderGradient& operator=(const PatchEncoderGradient&) = delete;

  /// Adds the gradients of sum(d_tokens * encode(images)): images and d_tokens as encode() has
  /// images and tokens. The forward pass is computed anew. Throws casa::error, before any gradient
  /// is touched, for an encoder of another config and for other sizes.
  void add(const PatchEncoder<T>& encoder, MatrixView<const std::uint8_t> images,
           MatrixView<const T> d_tokens, const Context& context) {
    require(encoder.config() == config_ && !encoder.blocks_.empty(),
            "PatchEncoderGradient: the encoder is of another config, or has no weights");
    require_memory("PatchEncoderGradient: images", images);
    require_memory("PatchEncoderGradient: d_tokens", d_tokens);
    const Index patches = config_.num_patches();
    const Index rows = checked_mul(images.rows(), patches, "PatchEncoderGradient: patches");
    require_equal("PatchEncoderGradient: pixels of an image", images.cols(),
                  config_.image_size * config_.image_size);
    require_equal("PatchEncoderGradient: rows of d_tokens", d_tokens.rows(), rows);
    require_equal("PatchEncoderGradient: columns of d_tokens", d_tokens.cols(),
                  config_.out_hidden_size);
    if (rows == 0) return;
    detail::with_precision(context, encoder.precision_,
                           [&](const Context& c) { run(encoder, images, d_tokens, c); });
  }

 private:
  void run(const PatchEncoder<T>& encoder, MatrixView<const std::uint8_t> images,
           MatrixView<const T> d_tokens, const Context& context) {
    Workspace& workspace = context.workspace;
    const Workspace::Frame frame(workspace);
    const Index rows = d_tokens.rows(), hidden = config_.hidden_size;
    intervals_.resize(static_cast<std::size_t>(rows));
    PatchEncoder<T>::set_intervals(config_.num_patches(), intervals_);
    const detail::StreamPass stream{.text = {0, rows}, .seen = {.self = {intervals_, {}}}};
    const detail::BlockPass<T> pass{.shape = block_config_.attention_shape(),
                                    .scale = default_scale(block_config_.head_dim),
                                    .rms_norm_eps = config_.rms_norm_eps,
                                    .streams = {&stream, 1}};

    const bool embedding_learns = patch_embed_.any() || pos_embed_.data() != nullptr;
    const auto stack = detail::train_blocks<T>(
        detail::lowest_that_learns(blocks_, embedding_learns), std::ssize(blocks_), activations_,
        context, [&](Index layer) {
          const auto at = static_cast<std::size_t>(layer);
          return detail::BlockTraining<T>(encoder.blocks_[at], blocks_[at], nullptr, pass, context);
        });

    const MatrixView<T> pixels = encoder.pixels_of_patches(images, context);
    const MatrixView<T> x = workspace.matrix<T>(rows, hidden);
    encoder.embed(pixels, x, context);
    const MatrixView<T> last = stack.forward(x, {});
    const MatrixView<T> d_x = workspace.matrix<T>(rows, hidden);
    tokens_backward(encoder, last, d_tokens, d_x, context);
    stack.backward(d_x, {});
    embed_backward(pixels, d_x, context);
  }

  // Through the projection and the norm before it.
  void tokens_backward(const PatchEncoder<T>& encoder, MatrixView<const T> x,
                       MatrixView<const T> d_tokens, MatrixView<T> d_x,
                       const Context& context) const {
    const Workspace::Frame frame(context.workspace);
    const MatrixView<T> normed = context.workspace.matrix<T>(x.rows(), x.cols());
    rms_norm<T>(x, encoder.norm_.span(), config_.rms_norm_eps, normed, context);
    detail::add_weight_gradient(normed, d_tokens, proj_, context);
    linear_backward_input<T>(encoder.proj_, d_tokens, normed, context);
    rms_norm_backward<T>(x, encoder.norm_.span(), config_.rms_norm_eps, normed, d_x, norm_,
                         context);
  }

  void embed_backward(MatrixView<const T> pixels, MatrixView<const T> d_x,
                      const Context& context) const {
    detail::add_weight_gradient(pixels, d_x, patch_embed_, context);
    if (pos_embed_.data() == nullptr) return;
    const Index patches = config_.num_patches();
    context.executor.for_each(patches, [&](Index patch, Index) {
      for (Index r = patch; r < d_x.rows(); r += patches)
        pos_embed_.eigen().row(patch) += d_x.eigen().row(r);
    });
  }

  PatchEncoderConfig config_;
  DecoderConfig block_config_;
  Activations activations_;
  detail::LinearGradient<T> patch_embed_;
  MatrixView<T> pos_embed_;
  std::vector<detail::BlockWeightGradients<T>> blocks_;
  std::span<T> norm_;
  detail::LinearGradient<T> proj_;
  std::vector<Interval> intervals_;
};

CASA_NAMESPACE_END
