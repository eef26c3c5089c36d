// Builds packed weights from the tensors of a checkpoint.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "casa/model/block_weights.hpp"
#include "casa/model/weights.hpp"

CASA_NAMESPACE_BEGIN

/// The panels of one packed weight (PackedWeight::share).
struct PackedBytes {
  std::shared_ptr<const std::byte> data = {};  ///< 64-byte aligned
  Index size = 0;                              ///< bytes
};

/// Where tensors come from, whoever holds them.
struct WeightSource {
  /// The tensor of that name and shape: a matrix as (rows x cols), a vector as (1 x rows). Throws
  /// where there is none. The view stays valid until done() is called with the same spec.
  std::function<StoredView(const TensorSpec&)> get;
  /// Called once a tensor's values have been copied or packed, so that its memory can be freed.
  std::function<void(const TensorSpec&)> done = [](const TensorSpec&) {};
  /// Unless empty: the panels, made before, of the weight whose first tensor has that name. Of its
  /// tensors only the sizes are read then. Throws where there are none.
  std::function<PackedBytes(const std::string& name)> packed = {};
  /// Unless empty: called with the panels of each weight once they are made.
  std::function<void(const std::string& name, PackedBytes)> keep = {};
};

/// Builds the parts of a model from their specs. Projections are packed as `type`, side by side in
/// memory in the order of the calls, so that they are read in one sweep; norms and gates stay T.
/// Throws casa::error, with the tensor's name, where the source gives another shape. The source
/// must outlive it.
template <Scalar T>
class WeightReader {
 public:
  /// Reads from `source`; projections are held as `type`, in `memory` where it is given.
  WeightReader(const WeightSource& source, WeightType type, Arena* memory = nullptr)
      : source_(source), type_(type), memory_(memory) {}

  /// A vector of spec.rows values.
  Buffer<T> vector(const TensorSpec& spec) const {
    Buffer<T> v(spec.rows);
    view(spec).copy_row(0, v.data());
    source_.done(spec);
    return v;
  }
  /// A matrix (rows x cols), unpacked.
  Matrix<T> matrix(const TensorSpec& spec) const {
    Matrix<T> m(spec.rows, spec.cols);
    const StoredView values = view(spec);
    for (Index r = 0; r < m.rows(); ++r) values.copy_row(r, m.row(r));
    source_.done(spec);
    return m;
  }
  /// One projection with its bias.
  Linear<T> linear(const LinearSpec& spec) {
    lend({&spec});
    Linear<T> l(piece(spec), type_, &arena());
    keep(spec, l);
    for_each_tensor(spec, source_.done);
    return l;
  }
  /// q, k and v as one product, and o.
  AttentionWeights<T> attention(const AttentionSpec& spec) {
    lend({&spec.q, &spec.o});
    const std::array qkv = {piece(spec.q), piece(spec.k), piece(spec.v)};
    AttentionWeights<T> a{Linear<T>(qkv, type_, &arena()),
                          Linear<T>(piece(spec.o), type_, &arena())};
    keep(spec.q, a.qkv);
    keep(spec.o, a.o);
    for_each_tensor(spec, source_.done);
    return a;
  }
  /// gate, up and down.
  Mlp<T> mlp(const MlpSpec& spec) {
    lend({&spec.gate, &spec.down});
    Mlp<T> m(piece(spec.gate), piece(spec.up), piece(spec.down), type_, &arena());
    keep(spec.gate, m.gate_up());
    keep(spec.down, m.down());
    for_each_tensor(spec, source_.done);
    return m;
  }
  /// All parts of a block that the spec has.
  BlockWeights<T> block(const BlockSpec& spec) {
    BlockWeights<T> b;
    if (spec.input_norm) b.input_norm = vector(*spec.input_norm);
    if (spec.self_attention) b.self_attention = attention(*spec.self_attention);
    if (spec.fusion_norm) b.fusion_norm = vector(*spec.fusion_norm);
    if (spec.fusion_attention) b.fusion_attention = attention(*spec.fusion_attention);
    if (spec.fusion_gate) b.fusion_gate = vector(*spec.fusion_gate)[0];
    if (spec.token_gate) b.token_gate = vector(*spec.token_gate);
    b.post_attention_norm = vector(spec.post_attention_norm);
    b.mlp = mlp(spec.mlp);
    return b;
  }

 private:
  // (Panels that the source lends lie in memory of its own.)
  Arena& arena() { return memory_ && !source_.packed ? *memory_ : own_; }

  // The weights that are made next, in this order, by their first tensors.
  void lend(std::initializer_list<const LinearSpec*> weights) {
    if (!source_.packed) return;
    for (const LinearSpec* first : weights) {
      PackedBytes p = source_.packed(first->weight.name);
      arena().lend(std::move(p.data), p.size);
    }
  }
  void keep(const LinearSpec& first, const Linear<T>& made) const {
    if (source_.keep)
      source_.keep(first.weight.name, {made.packed().share(), made.packed().bytes()});
  }

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
  Arena own_;
  Arena* memory_;
};

CASA_NAMESPACE_END
