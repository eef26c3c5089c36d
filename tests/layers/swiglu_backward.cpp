#include "casa/layers/swiglu_backward.hpp"

#include <doctest/doctest.h>

#include "support/allocations.hpp"
#include "support/finite_differences.hpp"
#include "support/random_matrix.hpp"

using namespace casa;
using namespace casa_test;

TEST_CASE("gradients of SwiGLU are the slopes of its output") {
  std::mt19937_64 rng(1);
  Matrix<double> gate = random_matrix<double>(rng, 5, 19, 3),
                 up = random_matrix<double>(rng, 5, 19);
  const Matrix<double> d_h = random_matrix<double>(rng, 5, 19);
  Matrix<double> d_gate(5, 19), d_up(5, 19);
  swiglu_backward<double>(gate, up, d_h, d_gate, d_up, {});
  const auto loss = [&] {
    Matrix<double> h(5, 19);
    swiglu<double>(gate, up, h, {});
    return dot(h, d_h);
  };
  check_gradient(gate, d_gate, 5 * 19 * 10, loss);
  check_gradient(up, d_up, 5 * 19 * 10, loss);
}

// The derivative of silu passes zero near -1.28, where 1 and g (1 - s) cancel: they, not their sum,
// are the size of the rounding. Exponentials are good to 2 ulp, the rest is 8 roundings.
TEST_CASE_TEMPLATE("fast and naive gradients of SwiGLU agree to rounding", T, float, double) {
  const double unit = static_cast<double>(std::numeric_limits<T>::epsilon());
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    CAPTURE(seed);
    std::mt19937_64 rng(seed);
    const Index rows = 1 + static_cast<Index>(rng() % 9), d = 1 + static_cast<Index>(rng() % 90);
    // Some gates are beyond the range of the exponential.
    const Matrix<T> gate = random_matrix<T>(rng, rows, d, seed % 2 ? 2 : 60);
    const Matrix<T> up = random_matrix<T>(rng, rows, d), d_h = random_matrix<T>(rng, rows, d);
    Matrix<T> d_gate(rows, d), d_up(rows, d), n_gate(rows, d), n_up(rows, d);
    swiglu_backward<T>(gate, up, d_h, d_gate, d_up, {});
    swiglu_backward<T>(gate, up, d_h, n_gate, n_up, {.path = Path::naive});
    for (Index r = 0; r < rows; ++r)
      for (Index c = 0; c < d; ++c) {
        CAPTURE(gate(r, c));
        const double g = static_cast<double>(gate(r, c)), s = 1 / (1 + std::exp(-g));
        const double size = std::abs(static_cast<double>(d_h(r, c))) * s;
        const double u = std::abs(static_cast<double>(up(r, c)));
        REQUIRE(std::isfinite(d_gate(r, c)));
        const double tiny = static_cast<double>((std::numeric_limits<T>::min)()) * 100;
        REQUIRE(std::abs(static_cast<double>(d_gate(r, c) - n_gate(r, c))) <=
                16 * unit * size * u * (1 + std::abs(g)) + tiny);
        REQUIRE(std::abs(static_cast<double>(d_up(r, c) - n_up(r, c))) <=
                16 * unit * size * std::abs(g) + tiny);
      }

    Matrix<T> g2 = gate, u2 = up, g3(rows, d), d3 = d_h;
    ThreadPool pool(3);
    swiglu_backward<T>(g2, u2, d_h, g2, u2, {.executor = pool});  // in the places of gate and up
    REQUIRE(same_bits(g2.data(), d_gate.data(), d_gate.size()));
    REQUIRE(same_bits(u2.data(), d_up.data(), d_up.size()));
    swiglu_backward<T>(gate, up, d3, g3, d3, {});  // in the place of d_h
    REQUIRE(same_bits(g3.data(), d_gate.data(), d_gate.size()));
    REQUIRE(same_bits(d3.data(), d_up.data(), d_up.size()));
  }
}

TEST_CASE("gradients of SwiGLU allocate nothing, and refuse wrong sizes by name") {
  Matrix<float> m(4, 6), wide(4, 7), more(5, 6);
  m.fill(1);
  const bool counts = counts_allocations();
  const auto before = allocation_count();
  swiglu_backward<float>(m, m, m, m, m, {});
  if (counts) CHECK(allocation_count() == before);
  const auto call = [&](MatrixView<float> up, MatrixView<float> d_h, MatrixView<float> d_gate,
                        MatrixView<float> d_up) {
    swiglu_backward<float>(m, up, d_h, d_gate, d_up, {});
  };
  CHECK_THROWS_WITH(call(wide, m, m, m), "swiglu_backward: columns of up: expected 6, got 7");
  CHECK_THROWS_WITH(call(m, more, m, m), "swiglu_backward: rows of d_h: expected 4, got 5");
  CHECK_THROWS_WITH(call(m, m, wide, m), "swiglu_backward: columns of d_gate: expected 6, got 7");
  CHECK_THROWS_WITH(call(m, m, m, more), "swiglu_backward: rows of d_up: expected 4, got 5");
}
