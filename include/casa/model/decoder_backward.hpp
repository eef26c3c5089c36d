// Gradients of a decoder: of every weight and of the image tokens, from the targets of its rows or
// from any function of its logits.
#pragma once

#include <cmath>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "casa/layers/cross_entropy.hpp"
#include "casa/model/block_stack_backward.hpp"
#include "casa/model/decoder.hpp"
#include "casa/model/training_pass.hpp"

CASA_NAMESPACE_BEGIN

/// A loss that is a function of logits (rows x vocab_size): gives it, and writes its gradient,
/// d_logits (rows x vocab_size). Rows are the text tokens of all samples, in order.
template <Scalar T>
using LossOfLogits = std::function<double(MatrixView<const T> logits, MatrixView<T> d_logits)>;

/// Computes gradients of a decoder of one config and adds them to a TensorSet.
///
///   TensorSet<float> parameters(tensor_specs(decoder_spec(config)));  // filled by the caller
///   TensorSet<float> gradients(parameters.specs());                   // zeros
///   DecoderGradient<float> gradient(config, gradients);
///   const Decoder<float> model(config, parameters.source());
///   const CrossEntropy loss = gradient.add(model, samples, context);
///
/// A tensor that the set does not have is frozen: no work is done for its gradient, nor for blocks
/// below the lowest one that learns. Weights may be held in any WeightType; gradients are T, of the
/// values that are held.
///
/// All samples pass together, each from its beginning, as if each were alone: their rows are
/// packed, and no row sees another sample's. What a gradient of exactly zero is promised for
/// (whatever stands behind a gate of 0, rows of an embedding that is not the head and whose ids do
/// not occur) is not touched by more than adding zero. Gradients do not depend on the number of
/// threads, bit for bit. Memory is kept in the object and in the context, so that a step of sizes
/// seen before allocates nothing.
///
/// One thread at a time may use an object.
template <Scalar T>
class DecoderGradient {
 public:
  /// Gradients of decoder_spec(config)'s tensors go to `gradients`, which must outlive this. Throws
  /// casa::error for a config out of range, and where the set has a tensor of another size.
  DecoderGradient(const DecoderConfig& config, TensorSet<T>& gradients,
                  Activations activations = Activations::recompute)
      : DecoderGradient(config, decoder_spec(config), gradients, activations) {}
  /// The same with tensors of other names: those of `spec`.
  DecoderGradient(const DecoderConfig& config, const DecoderSpec& spec, TensorSet<T>& gradients,
                  Activations activations = Activations::recompute)
      : config_(config), activations_(activations) {
    check(config_);
    require_equal("DecoderGradient: blocks of the spec", std::ssize(spec.blocks),
                  config_.num_hidden_layers);
    rope_ = make_rope<T>(config_.rope, config_.head_dim);
    gradients_ = detail::GradientViews<T>(gradients).decoder(spec);
  }
  DecoderGradient(const DecoderGradient&) = delete;  // its views are of itself
  DecoderGradient& operator=(const DecoderGradient&) = delete;

  /// Adds the gradients of factor * (sum of the cross-entropy of all rows that have a target), and
  /// of image tokens, to the set and to TrainingSample::d_image_tokens. With factor 1 calls add up
  /// the gradients of a sum, which Trainer::step divides; with 1 / (rows that have a target) they
  /// are those of the mean. Gives the sum (not times factor) and the number of rows with a target.
  ///
  /// Throws casa::error, before any gradient is touched, for a model of another config, samples
  /// that it cannot read, targets out of range, and a factor that is not finite or is 0.
  CrossEntropy add(const Decoder<T>& model, std::span<const TrainingSample<T>> samples,
                   const Context& context, double factor = 1) {
    check_samples(model, samples);
    require(std::isfinite(static_cast<T>(factor)) && static_cast<T>(factor) != 0,
            "DecoderGradient: factor must be finite and not 0, got ", factor);
    Index count = 0;
    for (std::size_t s = 0; s < samples.size(); ++s) {
      require_equal("DecoderGradient: targets (one per token of ids)", samples[s].targets.size(),
                    samples[s].ids.size());
      for (const int target : samples[s].targets) {
        require(target == kIgnoredTarget || (target >= 0 && target < config_.vocab_size),
                "DecoderGradient: a target must be in [0, ", config_.vocab_size, ") or ",
                kIgnoredTarget, " (ignored), got ", target, " in sample ", s);
        count += target != kIgnoredTarget;
      }
    }
    CrossEntropy loss;
    if (count == 0) return loss;
    run(model, samples, context, [&](MatrixView<const T> x, MatrixView<T> d_x) {
      loss = through_targets(model, samples, factor, x, d_x, context);
    });
    return loss;
  }

  /// The same of any loss that is a function of logits, which are computed for all rows (a matrix
  /// of all text tokens x vocab_size, and one for their gradient). Gives what `loss` gave. Where
  /// `loss` throws, no gradient was touched.
  double add(const Decoder<T>& model, std::span<const TrainingSample<T>> samples,
             const LossOfLogits<T>& loss, const Context& context) {
    check_samples(model, samples);
    double result = 0;
    run(model, samples, context, [&](MatrixView<const T> x, MatrixView<T> d_x) {
      result = through_logits(model, loss, x, d_x, context);
    });
    return result;
  }

 private:
  void check_samples(const Decoder<T>& model, std::span<const TrainingSample<T>> samples) const {
    require(model.config() == config_, "DecoderGradient: the model is of another config");
    for (const TrainingSample<T>& s : samples) {
      detail::check_stream(s, config_);
      if (s.d_image_tokens.data() == nullptr) continue;
      require_equal("DecoderGradient: rows of d_image_tokens", s.d_image_tokens.rows(),
                    s.image_tokens.rows());
      require_equal("DecoderGradient: columns of d_image_tokens", s.d_image_tokens.cols(),
                    s.image_tokens.cols());
      require_memory("DecoderGradient: d_image_tokens", s.d_image_tokens);
    }
  }

  bool has_fusion(Index layer) const { return config_.fusion && config_.fusion->has_layer(layer); }

  // The lowest block that has to be gone back through.
  Index first_block(bool wants_images) const {
    Index layer = detail::lowest_that_learns(gradients_.blocks, gradients_.embed.data() != nullptr);
    if (wants_images && config_.fusion && !config_.fusion->layers.empty())
      layer = (std::min)(layer, Index{config_.fusion->layers.front()});
    return layer;
  }

  // The forward pass, head(x, d_x), which writes the gradient of the last hidden state of text, and
  // the way back.
  template <class Head>
  void run(const Decoder<T>& model, std::span<const TrainingSample<T>> samples,
           const Context& context, Head head) {
    Workspace& workspace = context.workspace;
    const Workspace::Frame frame(workspace);
    auto* const shapes = workspace.take<detail::StreamShape>(std::ssize(samples));
    bool wants_images = false;
    for (std::size_t i = 0; i < samples.size(); ++i) {
      const TrainingSample<T>& s = samples[i];
      std::construct_at(
          shapes + i,
          detail::StreamShape{std::ssize(s.ids), s.image_tokens.rows(), {s.insertions, s.grids}});
      wants_images =
          wants_images || (s.d_image_tokens.data() != nullptr && s.image_tokens.rows() > 0);
    }
    pass_.prepare(config_, rope_, {shapes, samples.size()}, context);
    const Index text_rows = pass_.text_rows(), image_rows = pass_.image_rows();
    const auto hidden = [&](Index rows) { return workspace.matrix<T>(rows, config_.hidden_size); };
    const auto stack = detail::train_blocks<T>(
        first_block(wants_images), config_.num_hidden_layers, activations_, context,
        [&](Index layer) {
          const auto at = static_cast<std::size_t>(layer);
          return detail::BlockTraining<T>(model.weights().blocks[at], gradients_.blocks[at],
                                          has_fusion(layer) ? &*config_.fusion : nullptr,
                                          pass_.of_block(config_, layer), context);
        });

    const MatrixView<T> x = hidden(text_rows), y = hidden(image_rows);
    embed(model, samples, x, y);
    const MatrixView<T> last = stack.forward(x, y), d_x = hidden(text_rows);
    head(last, d_x);
    MatrixView<T> d_y;
    if (wants_images || (config_.fusion && config_.fusion->update != ImageUpdate::none)) {
      d_y = hidden(image_rows);
      d_y.eigen().setZero();
    }
    stack.backward(d_x, d_y);
    embed_backward(samples, d_x, d_y, context);
  }

  void embed(const Decoder<T>& model, std::span<const TrainingSample<T>> samples, MatrixView<T> x,
             MatrixView<T> y) const {
    Index text = 0, image = 0;
    for (const TrainingSample<T>& s : samples) {
      for (const int id : s.ids) model.weights().embed.unpack_row(id, x.row(text++));
      for (Index j = 0; j < s.image_tokens.rows(); ++j)
        std::copy_n(s.image_tokens.row(j), config_.hidden_size, y.row(image++));
    }
  }
  // Workers have columns of their own, so that rows are added in order.
  void embed_backward(std::span<const TrainingSample<T>> samples, MatrixView<const T> d_x,
                      MatrixView<const T> d_y, const Context& context) const {
    constexpr Index block = 64;
    context.executor.for_each((config_.hidden_size + block - 1) / block, [&](Index b, Index) {
      const Index begin = b * block, count = (std::min)(block, config_.hidden_size - begin);
      const auto add = [&](const T* from, T* to) {
        for (Index c = begin; c < begin + count; ++c) to[c] += from[c];
      };
      Index text = 0, image = 0;
      for (const TrainingSample<T>& s : samples) {
        if (gradients_.embed.data() != nullptr)
          for (const int id : s.ids) add(d_x.row(text++), gradients_.embed.row(id));
        if (s.d_image_tokens.data() != nullptr)
          for (Index j = 0; j < s.image_tokens.rows(); ++j)
            add(d_y.row(image + j), s.d_image_tokens.row(j));
        image += s.image_tokens.rows();
      }
    });
  }

  const Linear<T>& head_of(const Decoder<T>& model) const {
    return config_.tie_word_embeddings ? model.weights().embed : model.weights().lm_head;
  }

  CrossEntropy through_targets(const Decoder<T>& model, std::span<const TrainingSample<T>> samples,
                               double factor, MatrixView<const T> x, MatrixView<T> d_x,
                               const Context& context) const {
    Workspace& workspace = context.workspace;
    const Workspace::Frame frame(workspace);
    auto* const targets = workspace.take<int>(x.rows());
    int* next = targets;
    for (const TrainingSample<T>& s : samples)
      next = std::copy(s.targets.begin(), s.targets.end(), next);
    const MatrixView<T> normed = workspace.matrix<T>(x.rows(), x.cols());
    rms_norm<T>(x, model.weights().norm.span(), config_.rms_norm_eps, normed, context);
    const CrossEntropy loss = cross_entropy_backward<T>(
        head_of(model), normed, {targets, static_cast<std::size_t>(x.rows())}, factor, normed,
        gradients_.lm_head, context);
    rms_norm_backward<T>(x, model.weights().norm.span(), config_.rms_norm_eps, normed, d_x,
                         gradients_.norm, context);
    return loss;
  }
  double through_logits(const Decoder<T>& model, const LossOfLogits<T>& loss, MatrixView<const T> x,
                        MatrixView<T> d_x, const Context& context) const {
    Workspace& workspace = context.workspace;
    const Workspace::Frame frame(workspace);
    const MatrixView<T> normed = workspace.matrix<T>(x.rows(), x.cols());
    rms_norm<T>(x, model.weights().norm.span(), config_.rms_norm_eps, normed, context);
    const MatrixView<T> logits = workspace.matrix<T>(x.rows(), config_.vocab_size);
    const MatrixView<T> d_logits = workspace.matrix<T>(x.rows(), config_.vocab_size);
    head_of(model).forward(normed, logits, context);
    const double result = loss(logits, d_logits);
    if (x.rows() == 0) return result;
    if (gradients_.lm_head.data() != nullptr)
      linear_backward_weight<T>(normed, d_logits, gradients_.lm_head, {}, context);
    const MatrixView<T> d_normed = workspace.matrix<T>(x.rows(), x.cols());
    linear_backward_input<T>(head_of(model), d_logits, d_normed, context);
    rms_norm_backward<T>(x, model.weights().norm.span(), config_.rms_norm_eps, d_normed, d_x,
                         gradients_.norm, context);
    return result;
  }

  DecoderConfig config_;
  Activations activations_;
  Rope rope_;
  detail::DecoderWeightGradients<T> gradients_;
  detail::TrainingPass<T> pass_;
};

CASA_NAMESPACE_END
