// One decoder block for training, beside BlockForward (block.hpp): its forward pass over whole
// streams, which keeps what the way back needs, and that way back.
#pragma once

#include <optional>

#include "casa/layers/swiglu_backward.hpp"
#include "casa/model/fusion_backward.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// What a training step keeps of its forward pass for the way back. Gradients have the same bits.
enum class Activations {
  recompute,  ///< the hidden state before each block; a block's inner values are computed twice
  keep  ///< a block's queries, keys, values and outputs of attention and of the MLP's gate, too
};

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

namespace detail {

/// x += down(silu(gate(RMSNorm(x))) * up(RMSNorm(x))), in pieces of rows, which bounds the memory.
template <Scalar T>
class MlpTraining {
 public:
  MlpTraining(const TrainingSteps<T>& steps, const Buffer<T>& norm, std::span<T> d_norm,
              const Mlp<T>& weights, const MlpGradients<T>& gradients)
      : steps_(steps), norm_(norm), d_norm_(d_norm), weights_(weights), gradients_(gradients) {}

  /// gate_up (rows x 2 intermediate_size): what gate and up give is kept there; without memory: not
  /// kept. out, which holds x, gets the sum.
  void forward(MatrixView<const T> x, MatrixView<T> gate_up, MatrixView<T> out) const {
    for_each_piece(x.rows(), [&](Index row, Index rows) {
      const MatrixView<T> normed = steps_.forward().normed(x.middle_rows(row, rows), norm_);
      const MatrixView<T> to = out.middle_rows(row, rows);
      if (gate_up.data() == nullptr)
        return weights_.forward(normed, to, steps_.context(), Accumulate::yes);
      const MatrixView<T> kept = gate_up.middle_rows(row, rows);
      weights_.gate_up().forward(normed, kept, steps_.context());
      weights_.down().forward(hidden(kept), to, steps_.context(), Accumulate::yes);
    });
  }

  /// d, the gradient of the sum, becomes that of x.
  void backward(MatrixView<const T> x, MatrixView<const T> gate_up, MatrixView<T> d) const {
    for_each_piece(x.rows(), [&](Index row, Index rows) {
      const MatrixView<const T> from = x.middle_rows(row, rows);
      const MatrixView<T> to = d.middle_rows(row, rows);
      const MatrixView<T> normed = steps_.forward().normed(from, norm_);
      MatrixView<const T> both = gate_up;
      if (gate_up.data() == nullptr) {
        const MatrixView<T> anew = steps_.matrix(rows, 2 * width());
        weights_.gate_up().forward(normed, anew, steps_.context());
        both = anew;
      } else {
        both = gate_up.middle_rows(row, rows);
      }
      if (gradients_.down.any()) {
        const Workspace::Frame frame(steps_.context().workspace);
        steps_.add_weight_gradient(hidden(both), to, gradients_.down);
      }
      const MatrixView<T> d_both = steps_.matrix(rows, 2 * width());
      {
        const Workspace::Frame frame(steps_.context().workspace);
        const MatrixView<T> d_hidden = steps_.matrix(rows, width());
        linear_backward_input<T>(weights_.down(), to, d_hidden, steps_.context());
        swiglu_backward<T>(gate(both), up(both), d_hidden, gate(d_both), up(d_both),
                           steps_.context());
      }
      steps_.add_weight_gradient(normed, gate(d_both), gradients_.gate);
      steps_.add_weight_gradient(normed, up(d_both), gradients_.up);
      const MatrixView<T> d_normed = steps_.matrix(rows, x.cols());
      linear_backward_input<T>(weights_.gate_up(), d_both, d_normed, steps_.context());
      steps_.norm_backward(from, norm_, d_normed, to, d_norm_, Accumulate::yes);
    });
  }

 private:
  template <class F>
  void for_each_piece(Index rows, F f) const {
    for (Index row = 0; row < rows; row += kPackRows) {
      const Workspace::Frame frame(steps_.context().workspace);
      f(row, (std::min)(kPackRows, rows - row));
    }
  }
  Index width() const { return weights_.intermediate_size(); }
  template <class U>
  MatrixView<U> gate(MatrixView<U> both) const {
    return both.middle_cols(0, width());
  }
  template <class U>
  MatrixView<U> up(MatrixView<U> both) const {
    return both.middle_cols(width(), width());
  }
  MatrixView<T> hidden(MatrixView<const T> both) const {
    const MatrixView<T> h = steps_.matrix(both.rows(), width());
    swiglu<T>(gate(both), up(both), h, steps_.context());
    return h;
  }

  const TrainingSteps<T>& steps_;
  const Buffer<T>& norm_;
  std::span<T> d_norm_;
  const Mlp<T>& weights_;
  const MlpGradients<T>& gradients_;
};

/// One block's pass over x (text rows) and y (image rows), both (rows x hidden_size).
///
///   record()    room for what the way back needs
///   forward()   the whole block; or attend(), the part of it that the record is of
///   backward()  d_x and d_y, the gradients of its output, become those of its input
template <Scalar T>
class BlockTraining {
 public:
  /// fusion: null where this block has none.
  BlockTraining(const BlockWeights<T>& weights, const BlockWeightGradients<T>& gradients,
                const FusionConfig* fusion, const BlockPass<T>& pass, const Context& context)
      : weights_(weights),
        gradients_(gradients),
        fusion_config_(fusion),
        updates_images_(fusion && fusion->update != ImageUpdate::none && !pass.images_end),
        context_(context),
        steps_(pass, context),
        self_(steps_, weights.self_attention, gradients.self_attention),
        mlp_(steps_, weights.post_attention_norm, gradients.post_attention_norm, weights.mlp,
             gradients.mlp) {
    if (fusion) fusion_.emplace(steps_, weights, gradients, *fusion);
  }
  BlockTraining(const BlockTraining&) = delete;  // its sublayers refer to steps_
  BlockTraining& operator=(const BlockTraining&) = delete;

  struct Record {
    MatrixView<const T> x = {}, y = {};  // the block's input
    MatrixView<T> between = {};          // text between the attention sublayers, if two
    MatrixView<const T> self_x = {};     // what self-attention reads
    typename SelfAttentionTraining<T>::Record self = {};
    typename FusionTraining<T>::Record fusion = {};
    MatrixView<T> mlp_x = {}, mlp_y = {};          // what the MLP reads
    MatrixView<T> gate_up_x = {}, gate_up_y = {};  // MlpTraining's; without memory: not kept
  };
  /// Lies in the context's workspace.
  Record record(MatrixView<const T> x, MatrixView<const T> y, Activations activations) const {
    Record r{.x = x, .y = y, .self_x = x};
    if (fusion_config_ && fusion_config_->placement == Placement::before)
      r.self_x = r.between = steps_.matrix(x.rows(), x.cols());
    if (has_self_attention()) r.self = self_.record(x.rows());
    if (fusion_config_) r.fusion = fusion_->record(x, y);
    r.mlp_x = steps_.matrix(x.rows(), x.cols());
    if (updates_images_) r.mlp_y = steps_.matrix(y.rows(), y.cols());
    if (activations == Activations::keep) {
      const Index width = 2 * weights_.mlp.intermediate_size();
      r.gate_up_x = steps_.matrix(x.rows(), width);
      if (updates_images_) r.gate_up_y = steps_.matrix(y.rows(), width);
    }
    return r;
  }

  /// Whether the block changes image rows.
  bool updates_images() const { return updates_images_; }

  /// x_out, and y_out where the block updates images.
  void forward(const Record& r, MatrixView<T> x_out, MatrixView<T> y_out) const {
    attend(r);
    copy(r.mlp_x, x_out);
    mlp_.forward(r.mlp_x, r.gate_up_x, x_out);
    if (!updates_images_) return;
    copy(r.mlp_y, y_out);
    mlp_.forward(r.mlp_y, r.gate_up_y, y_out);
  }

  /// All that the record holds but gate_up_x and gate_up_y.
  void attend(const Record& r) const {
    if (updates_images_) copy(r.y, r.mlp_y);
    if (!fusion_config_) return attend_to_self(r);
    switch (fusion_config_->placement) {
      case Placement::before:
        attend_to_images(r, r.between);
        attend_to_self(r);
        break;
      case Placement::parallel:
        attend_to_both(r);
        break;
      case Placement::replace:
        attend_to_images(r, r.mlp_x);
        break;
    }
  }

  void backward(const Record& r, MatrixView<T> d_x, MatrixView<T> d_y) const {
    mlp_.backward(r.mlp_x, r.gate_up_x, d_x);
    if (updates_images_) mlp_.backward(r.mlp_y, r.gate_up_y, d_y);
    if (!fusion_config_) return self_backward(r, d_x);
    switch (fusion_config_->placement) {
      case Placement::before:
        self_backward(r, d_x);
        fusion_->backward(r.fusion, d_x, d_x, Accumulate::yes, d_y);
        break;
      case Placement::parallel:
        parallel_backward(r, d_x, d_y);
        break;
      case Placement::replace:
        fusion_->backward(r.fusion, d_x, d_x, Accumulate::yes, d_y);
        break;
    }
  }

 private:
  bool has_self_attention() const {
    return !fusion_config_ || fusion_config_->placement != Placement::replace;
  }
  // Where norm and parameters are shared, one projection serves both sublayers that stand parallel.
  bool shares_projection() const {
    return fusion_config_->parameters == Sharing::shared && shares_norm();
  }
  bool shares_norm() const { return fusion_config_->norm == Sharing::shared; }

  static void copy(MatrixView<const T> from, MatrixView<T> to) {
    for (Index r = 0; r < from.rows(); ++r) std::copy_n(from.row(r), from.cols(), to.row(r));
  }

  void attend_to_self(const Record& r) const {
    const Workspace::Frame frame(context_.workspace);
    self_.project(r.self, steps_.forward().normed(r.self_x, weights_.input_norm));
    self_.attend(r.self);
    copy(r.self_x, r.mlp_x);
    self_.add(r.self, r.mlp_x);
  }
  void attend_to_images(const Record& r, MatrixView<T> out) const {
    const Workspace::Frame frame(context_.workspace);
    fusion_->project_text(r.fusion, fusion_->normed(r.x));
    fusion_->attend(r.fusion);
    copy(r.x, out);
    fusion_->add(r.fusion, out, Accumulate::yes, r.mlp_y);
  }
  void attend_to_both(const Record& r) const {
    const Workspace::Frame frame(context_.workspace);
    const MatrixView<T> normed = steps_.forward().normed(r.x, weights_.input_norm);
    self_.project(r.self, normed);
    const MatrixView<T> fusion_normed = shares_norm() ? normed : fusion_->normed(r.x);
    if (shares_projection())
      copy(r.self.qkv.middle_cols(0, r.fusion.text.cols()), r.fusion.text);
    else
      fusion_->project_text(r.fusion, fusion_normed);
    fusion_->set_gates(r.fusion, fusion_normed);
    self_.attend(r.self);
    fusion_->attend(r.fusion);
    copy(r.x, r.mlp_x);
    self_.add(r.self, r.mlp_x, r.fusion.gates);
    fusion_->add(r.fusion, r.mlp_x, Accumulate::yes, r.mlp_y);
  }

  void self_backward(const Record& r, MatrixView<T> d_x) const {
    const Workspace::Frame frame(context_.workspace);
    const MatrixView<T> d_qkv = self_.attend_backward(r.self, self_.add_backward(r.self, d_x));
    const MatrixView<T> normed = steps_.forward().normed(r.self_x, weights_.input_norm);
    const MatrixView<T> d_normed = steps_.matrix(normed.rows(), normed.cols());
    self_.project_backward(normed, d_qkv, d_normed);
    steps_.norm_backward(r.self_x, weights_.input_norm, d_normed, d_x, gradients_.input_norm,
                         Accumulate::yes);
  }
  // Both sublayers read x and added to it, so d_x is read for both before it changes.
  void parallel_backward(const Record& r, MatrixView<T> d_x, MatrixView<T> d_y) const {
    const Workspace::Frame frame(context_.workspace);
    const MatrixView<T> gates = r.fusion.gates, d_gates = steps_.matrix(gates.rows(), gates.cols());
    d_gates.eigen().setZero();
    const MatrixView<T> d_qkv =
        self_.attend_backward(r.self, self_.add_backward(r.self, d_x, gates, d_gates));
    const auto d_fusion =
        fusion_->attend_backward(r.fusion, fusion_->add_backward(r.fusion, d_x, d_y, d_gates));
    const MatrixView<T> normed = steps_.forward().normed(r.x, weights_.input_norm);
    const MatrixView<T> d_normed = steps_.matrix(normed.rows(), normed.cols());
    if (shares_projection())
      d_qkv.middle_cols(0, d_fusion.text.cols()).eigen() += d_fusion.text.eigen();
    self_.project_backward(normed, d_qkv, d_normed);

    const MatrixView<T> fusion_normed = shares_norm() ? normed : fusion_->normed(r.x);
    const MatrixView<T> d_fusion_normed =
        shares_norm() ? d_normed : steps_.matrix(normed.rows(), normed.cols());
    if (!shares_projection())
      fusion_->project_text_backward(fusion_normed, d_fusion.text, d_fusion_normed,
                                     shares_norm() ? Accumulate::yes : Accumulate::no);
    fusion_->gates_backward(r.fusion, fusion_normed, d_gates, d_fusion_normed);
    steps_.norm_backward(r.x, weights_.input_norm, d_normed, d_x, gradients_.input_norm,
                         Accumulate::yes);
    if (!shares_norm())
      fusion_->text_norm_backward(r.fusion, d_fusion_normed, d_x, Accumulate::yes);
    fusion_->images_backward(r.fusion, d_fusion.image, d_y);
  }

  const BlockWeights<T>& weights_;
  const BlockWeightGradients<T>& gradients_;
  const FusionConfig* fusion_config_;
  bool updates_images_;
  const Context& context_;
  TrainingSteps<T> steps_;
  SelfAttentionTraining<T> self_;
  std::optional<FusionTraining<T>> fusion_;
  MlpTraining<T> mlp_;
};

}  // namespace detail

CASA_NAMESPACE_END
