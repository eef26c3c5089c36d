// One decoder block: self-attention, fusion with images, and the MLP, in the order that the config
// says.
#pragma once

#include "casa/model/sublayers.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// One block's forward pass over x (text rows) and y (image rows), both (rows x hidden_size), in
/// place. In the last block (BlockPass::text_ends) rows without logits only contribute keys; once
/// these are projected, x_ shrinks to the rows with logits, moved to the top of x.
template <Scalar T>
class BlockForward {
 public:
  BlockForward(const BlockWeights<T>& weights, const FusionConfig* fusion, Index layer,
               const BlockPass<T>& pass, std::span<BlockCache<T>* const> caches, MatrixView<T> x,
               MatrixView<T> y, const Context& context)
      : weights_(weights),
        fusion_(fusion),
        layer_(layer),
        pass_(pass),
        caches_(caches),
        x_(x),
        y_(y),
        context_(context),
        steps_(pass, context) {}

  void run() {
    if (!fusion_) {
      run_self_attention();
    } else {
      switch (fusion_->placement) {
        case Placement::before:
          run_fusion(QueryRows::all);
          run_self_attention();
          break;
        case Placement::parallel:
          run_parallel();
          break;
        case Placement::replace:
          run_fusion(last_queries());
          break;
      }
      if (fusion_->update != ImageUpdate::none && !pass_.images_end) run_mlp(y_);
    }
    run_mlp(x_);
    observe("mlp");
  }

 private:
  // The rows that ask in the block's last attention.
  QueryRows last_queries() const {
    return pass_.text_ends ? QueryRows::with_logits : QueryRows::all;
  }
  void drop_rows_that_end(QueryRows which) {
    if (which == QueryRows::with_logits) x_ = compact_logit_rows(pass_.streams, x_);
  }

  void run_self_attention() {
    if (x_.rows() == 0) return;
    const Workspace::Frame frame(context_.workspace);
    const SelfAttention<T> attention(steps_, weights_.self_attention, caches_);
    const Qkv<T> text = steps_.split(attention.project(steps_.normed(x_, weights_.input_norm)));
    drop_rows_that_end(last_queries());
    attention.add(text, last_queries(), x_);
    observe("self_attention");
  }

  void run_fusion(QueryRows which) {
    const Workspace::Frame frame(context_.workspace);
    const FusionAttention<T> fusion(steps_, weights_, *fusion_, caches_);
    const Qkv<T> text = fusion.project_text(fusion.normed(x_));
    drop_rows_that_end(which);
    add_fusion_update(fusion, text, which);
  }

  // Both sublayers read the same hidden state, so both are projected before either adds to it.
  // Where norm and parameters are shared, one projection serves both; fusion gets a copy, since
  // the two rotate differently.
  void run_parallel() {
    const Workspace::Frame frame(context_.workspace);
    const SelfAttention<T> attention(steps_, weights_.self_attention, caches_);
    const FusionAttention<T> fusion(steps_, weights_, *fusion_, caches_);
    MatrixView<T> normed = steps_.normed(x_, weights_.input_norm);
    const MatrixView<T> self = attention.project(normed);
    Qkv<T> fused;
    if (fusion_->parameters == Sharing::shared && fusion_->norm == Sharing::shared) {
      const MatrixView<T> copy = steps_.matrix(self.rows(), self.cols());
      std::copy_n(self.data(), self.rows() * self.cols(), copy.data());
      fused = steps_.split(copy);
    } else {
      if (fusion_->norm == Sharing::own) normed = fusion.normed(x_);
      fused = fusion.project_text(normed);
    }
    MatrixView<T> gates = fusion.token_gates(normed);
    if (last_queries() == QueryRows::with_logits && gates.rows() > 0)
      gates = compact_logit_rows(pass_.streams, gates);
    drop_rows_that_end(last_queries());
    if (self.rows() > 0) {
      attention.add(steps_.split(self), last_queries(), x_, gates);
      observe("self_attention");
    }
    add_fusion_update(fusion, fused, last_queries(), gates);
  }

  void add_fusion_update(const FusionAttention<T>& fusion, const Qkv<T>& text, QueryRows which,
                         MatrixView<const T> gates = {}) {
    const Qkv<T> images = fusion.project_images(y_);
    const auto attended = fusion.attend(text, images, which, x_.rows());
    fusion.project_out(attended.text, x_, Accumulate::yes, gates);
    if (fusion.images_have_queries()) fusion.project_out(attended.image, y_, Accumulate::yes);
    observe("fusion");
  }

  void run_mlp(MatrixView<T> h) {
    if (h.rows() == 0) return;
    const Workspace::Frame frame(context_.workspace);
    weights_.mlp.forward(steps_.normed(h, weights_.post_attention_norm), h, context_,
                         Accumulate::yes);
  }

  void observe(const char* sublayer) const {
    if (pass_.trace) (*pass_.trace)(layer_, sublayer, x_);
  }

  const BlockWeights<T>& weights_;
  const FusionConfig* fusion_;  // null: this block has none
  Index layer_;
  const BlockPass<T>& pass_;
  std::span<BlockCache<T>* const> caches_;
  MatrixView<T> x_, y_;
  const Context& context_;
  AttentionSteps<T> steps_;
};

/// The text rows x and image rows y (rows x hidden_size) through one block, in place. caches[s] are
/// those of stream s. `has_fusion`: this block is one of pass.fusion->layers. Where pass.text_ends,
/// the rows that give logits are at the top of x then (compact_logit_rows).
template <Scalar T>
void block_forward(const BlockWeights<T>& weights, bool has_fusion, Index layer,
                   const BlockPass<T>& pass, std::span<BlockCache<T>* const> caches,
                   MatrixView<T> x, MatrixView<T> y, const Context& context) {
  BlockForward<T>(weights, has_fusion ? pass.fusion : nullptr, layer, pass, caches, x, y, context)
      .run();
}

}  // namespace detail

CASA_NAMESPACE_END
