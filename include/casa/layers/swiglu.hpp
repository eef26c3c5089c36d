// The gated MLP of today's decoders: down(silu(gate(x)) * up(x)) (Shazeer, arXiv 2002.05202,
// SwiGLU).
#pragma once

#include <array>
#include <cmath>

#include "casa/layers/linear.hpp"

CASA_NAMESPACE_BEGIN

/// silu(v) = v / (1 + e^-v).
template <Scalar T>
T silu(T v) {
  return v / (T{1} + std::exp(-v));
}

/// out = silu(gate) * up, all (rows x d). out may be gate or up.
template <Scalar T>
void swiglu(MatrixView<const T> gate, MatrixView<const std::type_identity_t<T>> up,
            MatrixView<std::type_identity_t<T>> out, const Context& context) {
  require_equal("swiglu: columns of up", up.cols(), gate.cols());
  require_equal("swiglu: rows of up", up.rows(), gate.rows());
  require_equal("swiglu: columns of out", out.cols(), gate.cols());
  require_equal("swiglu: rows of out", out.rows(), gate.rows());
  context.executor.for_each(gate.rows(), [&](Index r, Index) {
    const T *g = gate.row(r), *u = up.row(r);
    T* o = out.row(r);
    for (Index c = 0; c < gate.cols(); ++c) o[c] = silu(g[c]) * u[c];
  });
}

/// The gated MLP. Weights as checkpoints hold them: gate and up (intermediate x hidden), down
/// (hidden x intermediate), each with a bias or without.
template <Scalar T>
class Mlp {
 public:
  Mlp() = default;
  Mlp(const LinearPiece& gate, const LinearPiece& up, const LinearPiece& down,
      WeightType type = WeightType::native)
      : gate_up_(std::array{gate, up}, type), down_(down, type) {
    require_equal("Mlp: outputs of up", up.weight.rows(), gate.weight.rows());
    require_equal("Mlp: inputs of down", down.weight.cols(), gate.weight.rows());
  }

  Index hidden_size() const { return gate_up_.in_features(); }
  Index intermediate_size() const { return gate_up_.out_features() / 2; }
  Index bytes() const { return gate_up_.bytes() + down_.bytes(); }
  /// Pieces: gate, up.
  const Linear<T>& gate_up() const { return gate_up_; }
  const Linear<T>& down() const { return down_; }

  /// y (+)= down(silu(gate(x)) * up(x)); x (rows x hidden), y (rows x down's outputs).
  void forward(MatrixView<const T> x, MatrixView<T> y, const Context& context,
               Accumulate accumulate = Accumulate::no) const {
    const Workspace::Frame frame(context.workspace);
    const Index width = intermediate_size();
    const MatrixView<T> both = context.workspace.matrix<T>(x.rows(), 2 * width);
    gate_up_.forward(x, both, context);
    const MatrixView<T> h = both.middle_cols(0, width);
    swiglu<T>(h, both.middle_cols(width, width), h, context);
    down_.forward(h, y, context, accumulate);
  }

 private:
  Linear<T> gate_up_;
  Linear<T> down_;
};

CASA_NAMESPACE_END
