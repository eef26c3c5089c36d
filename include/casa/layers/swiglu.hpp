// The gated MLP of current decoders: down(silu(gate(x)) * up(x)) (Shazeer, arXiv 2002.05202,
// SwiGLU).
#pragma once

#include <array>
#include <cmath>

#include "casa/linear/linear.hpp"
#include "casa/simd/elementwise.hpp"

CASA_NAMESPACE_BEGIN

/// silu(v) = v / (1 + e^-v).
template <Scalar T>
T silu(T v) {
  return v / (T{1} + std::exp(-v));
}

namespace detail {

template <class V>
CASA_INLINE V swiglu_vector(V gate, V up) {
  return gate / (simd::exp(-gate) + simd::Element<V>(1)) * up;
}

}  // namespace detail

/// out = silu(gate) * up, all (rows x d). out may be gate or up. Throws casa::error for other
/// sizes.
template <Scalar T>
void swiglu(MatrixView<const T> gate, MatrixView<const std::type_identity_t<T>> up,
            MatrixView<std::type_identity_t<T>> out, const Context& context) {
  require_equal("swiglu: columns of up", up.cols(), gate.cols());
  require_equal("swiglu: rows of up", up.rows(), gate.rows());
  require_equal("swiglu: columns of out", out.cols(), gate.cols());
  require_equal("swiglu: rows of out", out.rows(), gate.rows());
  require_memory("swiglu: gate", gate);
  require_memory("swiglu: up", up);
  require_memory("swiglu: out", out);
  if (context.path == Path::naive) {
    for (Index r = 0; r < gate.rows(); ++r)
      for (Index c = 0; c < gate.cols(); ++c) out(r, c) = silu(gate(r, c)) * up(r, c);
    return;
  }
  context.executor.for_each(gate.rows(), [&](Index r, Index) {
    const T *g = gate.row(r), *u = up.row(r);
    T* o = out.row(r);
    detail::for_each_vector<T>(gate.cols(), [&](Index c, Index n) {
      detail::store_n(o + c,
                      detail::swiglu_vector(detail::load_n(g + c, n), detail::load_n(u + c, n)), n);
    });
  });
}

/// The gated MLP. Weights as checkpoints hold them: gate and up (intermediate x hidden), down
/// (hidden x intermediate), each with a bias or without. Immutable once made.
template <Scalar T>
class Mlp {
 public:
  /// An MLP without weights, to be assigned to.
  Mlp() = default;
  /// Packs the weights as `type`, into `arena` where one is given. Throws casa::error where their
  /// sizes do not fit each other.
  Mlp(const LinearPiece& gate, const LinearPiece& up, const LinearPiece& down,
      WeightType type = WeightType::native, Arena* arena = nullptr)
      : gate_up_(of_one_size(gate, up), type, arena, PieceOrder::alternating),
        down_(down, type, arena) {
    require_equal("Mlp: inputs of down", down.weight.cols(), gate.weight.rows());
  }

  /// Columns of x.
  Index hidden_size() const { return gate_up_.in_features(); }
  /// Outputs of gate and of up.
  Index intermediate_size() const { return gate_up_.out_features() / 2; }
  /// Bytes held by weights, scales and biases.
  Index bytes() const { return gate_up_.bytes() + down_.bytes(); }
  /// Gate and up as one product; pieces 0 and 1, whose panels alternate.
  const Linear<T>& gate_up() const { return gate_up_; }
  /// intermediate -> hidden.
  const Linear<T>& down() const { return down_; }

  /// y (+)= down(silu(gate(x)) * up(x)); x (rows x hidden), y (rows x down's outputs). Throws
  /// casa::error for other sizes.
  void forward(MatrixView<const T> x, MatrixView<T> y, const Context& context,
               Accumulate accumulate = Accumulate::no) const {
    require_equal("Mlp: columns of x", x.cols(), hidden_size());
    require_equal("Mlp: rows of y", y.rows(), x.rows());
    require_equal("Mlp: columns of y", y.cols(), down_.out_features());
    require_memory("Mlp: x", x);
    require_memory("Mlp: y", y);
    for (Index row = 0; row < x.rows(); row += detail::kPackRows) {  // bounds the scratch memory
      const Workspace::Frame frame(context.workspace);
      const Index rows = (std::min)(detail::kPackRows, x.rows() - row);
      const MatrixView<T> h = context.workspace.template matrix<T>(rows, intermediate_size());
      if (context.path == Path::naive) {
        hidden_naive(x.middle_rows(row, rows), h, context);
      } else {
        hidden(x.middle_rows(row, rows), h, context);
      }
      down_.forward(h, y.middle_rows(row, rows), context, accumulate);
    }
  }

 private:
  static constexpr Index kWidth = PackedWeight<T>::kWidth;

  static std::array<LinearPiece, 2> of_one_size(const LinearPiece& gate, const LinearPiece& up) {
    require_equal("Mlp: outputs of up", up.weight.rows(), gate.weight.rows());
    return {gate, up};
  }

  void hidden_naive(MatrixView<const T> x, MatrixView<T> h, const Context& context) const {
    Matrix<T> both(x.rows(), 2 * h.cols());
    gate_up_.forward(x, both, context);
    swiglu<T>(both.view().middle_cols(0, h.cols()), both.view().middle_cols(h.cols(), h.cols()), h,
              context);
  }

  // Each panel of gate is followed by the panel of up for the same outputs. The gate's tile is
  // still in cache when the up's is ready, so that the two products are never written out whole.
  void hidden(MatrixView<const T> x, MatrixView<T> h, const Context& context) const {
    const PackedWeight<T>& weight = gate_up_.packed();
    const Index gate_size = (std::min)(x.rows(), detail::kPackRows) * kWidth;
    T* gates = context.workspace.template take<T>(context.executor.num_workers() * gate_size);
    const detail::Product<T> product(weight, {0, weight.num_panels(), 1}, context);
    product.run(x, [&](Index p, Index row, Index rows, const T* tile, Index worker) {
      T* gate = gates + worker * gate_size + row * kWidth;
      if (p % 2 == 0) {
        std::copy_n(tile, rows * kWidth, gate);
        return;
      }
      const auto& panel = weight.panel(p - 1);
      const T* gate_bias = gate_up_.bias().data() + panel.begin;
      const T* up_bias = gate_bias + h.cols();
      for (Index r = 0; r < rows; ++r) {
        const T *g = gate + r * kWidth, *u = tile + r * kWidth;
        T* o = h.row(row + r) + panel.begin;
        detail::for_each_vector<T>(panel.width, [&](Index c, Index n) {
          const auto with_bias = [&](const T* sum, const T* bias) {
            return simd::load(sum + c) + detail::load_n(bias + c, n);
          };
          detail::store_n(o + c,
                          detail::swiglu_vector(with_bias(g, gate_bias), with_bias(u, up_bias)), n);
        });
      }
    });
  }

  Linear<T> gate_up_;
  Linear<T> down_;
};

CASA_NAMESPACE_END
