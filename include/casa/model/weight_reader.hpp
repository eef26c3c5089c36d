// From tensors of a checkpoint to packed weights.
#pragma once

#include <array>
#include <functional>

#include "casa/model/block_weights.hpp"
#include "casa/model/weights.hpp"

CASA_NAMESPACE_BEGIN

/// Gives a tensor by name and shape, as (rows x cols), a vector as (1 x rows), or throws; the view
/// must live until `done` is called with it (when its values have been copied or packed).
struct WeightSource {
  std::function<StoredView(const TensorSpec&)> get;
  std::function<void(const TensorSpec&)> done = [](const TensorSpec&) {};
};

/// Builds the parts of a model from their specs, projections side by side in the order of the
/// calls. Throws casa::error, with the tensor's name, where a source gives another shape.
template <Scalar T>
class WeightReader {
 public:
  WeightReader(const WeightSource& source, WeightType type) : source_(source), type_(type) {}

  Buffer<T> vector(const TensorSpec& spec) const {
    Buffer<T> v(spec.rows);
    view(spec).copy_row(0, v.data());
    source_.done(spec);
    return v;
  }
  Matrix<T> matrix(const TensorSpec& spec) const {
    Matrix<T> m(spec.rows, spec.cols);
    const StoredView values = view(spec);
    for (Index r = 0; r < m.rows(); ++r) values.copy_row(r, m.row(r));
    source_.done(spec);
    return m;
  }
  Linear<T> linear(const LinearSpec& spec) {
    Linear<T> l(piece(spec), type_, &arena_);
    for_each_tensor(spec, source_.done);
    return l;
  }
  AttentionWeights<T> attention(const AttentionSpec& spec) {
    const std::array qkv = {piece(spec.q), piece(spec.k), piece(spec.v)};
    AttentionWeights<T> a{Linear<T>(qkv, type_, &arena_), Linear<T>(piece(spec.o), type_, &arena_)};
    for_each_tensor(spec, source_.done);
    return a;
  }
  Mlp<T> mlp(const MlpSpec& spec) {
    Mlp<T> m(piece(spec.gate), piece(spec.up), piece(spec.down), type_, &arena_);
    for_each_tensor(spec, source_.done);
    return m;
  }
  BlockWeights<T> block(const BlockSpec& spec) {
    BlockWeights<T> b;
    if (spec.input_norm) b.input_norm = vector(*spec.input_norm);
    if (spec.self_attention) b.self_attention = attention(*spec.self_attention);
    if (spec.fusion_norm) b.fusion_norm = vector(*spec.fusion_norm);
    if (spec.fusion_attention) b.fusion_attention = attention(*spec.fusion_attention);
    if (spec.fusion_gate) b.fusion_gate = vector(*spec.fusion_gate)[0];
    b.post_attention_norm = vector(spec.post_attention_norm);
    b.mlp = mlp(spec.mlp);
    return b;
  }

 private:
  StoredView view(const TensorSpec& spec) const {
    const StoredView v = source_.get(spec);
    const Index rows = spec.cols == 0 ? 1 : spec.rows,
                cols = spec.cols == 0 ? spec.rows : spec.cols;
    if (v.rows() != rows || v.cols() != cols)
      fail("weights: ", spec.name, ": expected ", rows, " x ", cols, " values, got ", v.rows(),
           " x ", v.cols());
    return v;
  }
  LinearPiece piece(const LinearSpec& spec) const {
    return {view(spec.weight), spec.bias ? view(*spec.bias) : StoredView{}};
  }

  const WeightSource& source_;
  WeightType type_;
  Arena arena_;
};

CASA_NAMESPACE_END
