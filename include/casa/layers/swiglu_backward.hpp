// The gradients of SwiGLU: of gate and of up.
#pragma once

#include "casa/layers/swiglu.hpp"

CASA_NAMESPACE_BEGIN

/// The gradients of h = silu(gate) * up, element by element: with g = gate and s = 1 / (1 + e^-g),
///
///   d_gate = d_h up s (1 + g (1 - s))      d_up = d_h g s
///
/// all (rows x d). d_gate may be gate, up or d_h, and so may d_up: each value is written when all
/// of its place have been read. Throws casa::error for other sizes.
template <Scalar T>
void swiglu_backward(MatrixView<const T> gate, MatrixView<const std::type_identity_t<T>> up,
                     MatrixView<const std::type_identity_t<T>> d_h,
                     MatrixView<std::type_identity_t<T>> d_gate,
                     MatrixView<std::type_identity_t<T>> d_up, const Context& context) {
  const auto check = [&](std::string_view columns, std::string_view rows, std::string_view name,
                         auto m) {
    require_equal(columns, m.cols(), gate.cols());
    require_equal(rows, m.rows(), gate.rows());
    require_memory(name, m);
  };
  require_memory("swiglu_backward: gate", gate);
  check("swiglu_backward: columns of up", "swiglu_backward: rows of up", "swiglu_backward: up", up);
  check("swiglu_backward: columns of d_h", "swiglu_backward: rows of d_h", "swiglu_backward: d_h",
        d_h);
  check("swiglu_backward: columns of d_gate", "swiglu_backward: rows of d_gate",
        "swiglu_backward: d_gate", d_gate);
  check("swiglu_backward: columns of d_up", "swiglu_backward: rows of d_up",
        "swiglu_backward: d_up", d_up);
  if (context.path == Path::naive) {
    for (Index r = 0; r < gate.rows(); ++r)
      for (Index c = 0; c < gate.cols(); ++c) {
        const T g = gate(r, c), d = d_h(r, c), s = T{1} / (T{1} + std::exp(-g)), u = up(r, c);
        d_gate(r, c) = d * u * s * (T{1} + g * (T{1} - s));
        d_up(r, c) = d * g * s;
      }
    return;
  }
  context.executor.for_each(gate.rows(), [&](Index r, Index) {
    detail::for_each_vector<T>(gate.cols(), [&](Index c, Index n) {
      const auto g = detail::load_n(gate.row(r) + c, n), u = detail::load_n(up.row(r) + c, n);
      const auto d = detail::load_n(d_h.row(r) + c, n);
      const auto s = T{1} / (simd::exp(-g) + T{1});
      const auto d_s = d * s;
      detail::store_n(d_gate.row(r) + c, d_s * u * simd::fma(g, T{1} - s, simd::broadcast<T>(1)),
                      n);
      detail::store_n(d_up.row(r) + c, d_s * g, n);
    });
  });
}

CASA_NAMESPACE_END
