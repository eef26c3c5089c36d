// Where the gradients of a model's weights go: the tensors of a TensorSet, as views that stand as
// the weights stand in a block.
#pragma once

#include <span>
#include <vector>

#include "casa/model/tensor_set.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Gradients of a projection. What is empty is frozen: no work is done for it.
template <Scalar T>
struct LinearGradient {
  MatrixView<T> weight = {};  // (out_features, in_features)
  std::span<T> bias = {};     // (out_features)

  bool any() const { return weight.data() != nullptr || !bias.empty(); }
};

template <Scalar T>
struct ProjectionGradients {
  LinearGradient<T> q, k, v, o;

  bool any() const { return q.any() || k.any() || v.any() || o.any(); }
};

template <Scalar T>
struct MlpGradients {
  LinearGradient<T> gate, up, down;

  bool any() const { return gate.any() || up.any() || down.any(); }
};

/// Gradients of BlockWeights.
template <Scalar T>
struct BlockWeightGradients {
  std::span<T> input_norm = {};
  ProjectionGradients<T> self_attention = {};
  std::span<T> fusion_norm = {};
  ProjectionGradients<T> fusion_attention = {};
  std::span<T> fusion_gate = {};  // one value
  std::span<T> token_gate = {};
  std::span<T> post_attention_norm = {};
  MlpGradients<T> mlp = {};

  bool any() const {
    return !input_norm.empty() || self_attention.any() || !fusion_norm.empty() ||
           fusion_attention.any() || !fusion_gate.empty() || !token_gate.empty() ||
           !post_attention_norm.empty() || mlp.any();
  }
};

/// Gradients of DecoderWeights.
template <Scalar T>
struct DecoderWeightGradients {
  MatrixView<T> embed = {};
  std::vector<BlockWeightGradients<T>> blocks = {};
  std::span<T> norm = {};
  MatrixView<T> lm_head = {};  // of a tied head: embed
};

/// Finds the tensors of specs in a set. Each call throws casa::error where the set has a tensor of
/// that name and another size.
template <Scalar T>
class GradientViews {
 public:
  explicit GradientViews(TensorSet<T>& set) : set_(set) {}

  MatrixView<T> matrix(const TensorSpec& spec) const {
    if (!set_.contains(spec.name)) return {};
    const Index i = set_.find(spec.name);
    const TensorSpec& has = set_.specs()[static_cast<std::size_t>(i)];
    if (has.rows != spec.rows || has.cols != spec.cols)
      fail("gradients: ", spec.name, ": expected ", spec.rows, " x ", spec.cols, " values, got ",
           has.rows, " x ", has.cols);
    return set_[i];
  }
  std::span<T> vector(const TensorSpec& spec) const {
    const MatrixView<T> values = matrix(spec);
    return {values.data(), static_cast<std::size_t>(values.cols())};
  }
  LinearGradient<T> linear(const LinearSpec& spec) const {
    return {matrix(spec.weight), spec.bias ? vector(*spec.bias) : std::span<T>{}};
  }
  ProjectionGradients<T> attention(const AttentionSpec& spec) const {
    return {linear(spec.q), linear(spec.k), linear(spec.v), linear(spec.o)};
  }
  BlockWeightGradients<T> block(const BlockSpec& spec) const {
    BlockWeightGradients<T> b;
    if (spec.input_norm) b.input_norm = vector(*spec.input_norm);
    if (spec.self_attention) b.self_attention = attention(*spec.self_attention);
    if (spec.fusion_norm) b.fusion_norm = vector(*spec.fusion_norm);
    if (spec.fusion_attention) b.fusion_attention = attention(*spec.fusion_attention);
    if (spec.fusion_gate) b.fusion_gate = vector(*spec.fusion_gate);
    if (spec.token_gate) b.token_gate = vector(*spec.token_gate);
    b.post_attention_norm = vector(spec.post_attention_norm);
    b.mlp = {linear(spec.mlp.gate), linear(spec.mlp.up), linear(spec.mlp.down)};
    return b;
  }
  DecoderWeightGradients<T> decoder(const DecoderSpec& spec) const {
    DecoderWeightGradients<T> d;
    d.embed = matrix(spec.embed_tokens);
    for (const BlockSpec& b : spec.blocks) d.blocks.push_back(block(b));
    d.norm = vector(spec.norm);
    d.lm_head = spec.lm_head ? matrix(*spec.lm_head) : d.embed;
    return d;
  }

 private:
  TensorSet<T>& set_;
};

}  // namespace detail

CASA_NAMESPACE_END
