#include "casa/layers/swiglu.hpp"

#include <doctest/doctest.h>

#include "support/allocations.hpp"
#include "support/random_matrix.hpp"

using namespace casa;
using namespace casa_test;

namespace {

double silu_exact(double v) { return v / (1 + std::exp(-v)); }

template <class T>
struct MlpWeights {
  Matrix<T> gate, up, down, gate_bias, up_bias, down_bias;
  MlpWeights(std::mt19937_64& rng, Index hidden, Index width)
      : gate(random_matrix<T>(rng, width, hidden, 0.3)),
        up(random_matrix<T>(rng, width, hidden, 0.3)),
        down(random_matrix<T>(rng, hidden, width, 0.3)),
        gate_bias(random_matrix<T>(rng, 1, width)),
        up_bias(random_matrix<T>(rng, 1, width)),
        down_bias(random_matrix<T>(rng, 1, hidden)) {}
  Mlp<T> mlp(WeightType type = WeightType::native) const {
    return Mlp<T>({gate, gate_bias}, {up, up_bias}, {down, down_bias}, type);
  }
};

// The definition in double, from the weights as they are computed with; `size` holds sums of
// magnitudes, by which rounding errors are bounded.
template <class T>
void check_mlp(const Mlp<T>& mlp, MatrixView<const T> x, MatrixView<const T> y,
               const Matrix<T>* before) {
  const Matrix<T> w = mlp.gate_up().unpacked(), down = mlp.down().unpacked();
  const Index width = mlp.intermediate_size();
  const double eps = static_cast<double>(std::numeric_limits<T>::epsilon());
  for (Index r = 0; r < x.rows(); ++r) {
    std::vector<double> h(static_cast<std::size_t>(width)), size(h.size());
    for (Index i = 0; i < width; ++i) {
      double value[2], magnitude[2];
      for (const Index part : {0, 1}) {
        const Index o = part * width + i;
        value[part] = static_cast<double>(mlp.gate_up().bias()[static_cast<std::size_t>(o)]);
        magnitude[part] = std::abs(value[part]);
        for (Index k = 0; k < x.cols(); ++k) {
          const double term = static_cast<double>(x(r, k)) * static_cast<double>(w(o, k));
          value[part] += term;
          magnitude[part] += std::abs(term);
        }
      }
      const auto u = static_cast<std::size_t>(i);
      h[u] = silu_exact(value[0]) * value[1];
      // silu' is at most 1.1; each product's error is (k + 2) eps of its magnitude.
      size[u] = 1.1 * magnitude[0] * std::abs(value[1]) +
                std::abs(silu_exact(value[0])) * magnitude[1] + 4 * std::abs(h[u]);
    }
    for (Index o = 0; o < down.rows(); ++o) {
      double sum = static_cast<double>(mlp.down().bias()[static_cast<std::size_t>(o)]);
      double terms = std::abs(sum), inner = 0;
      if (before) sum += static_cast<double>((*before)(r, o));
      if (before) terms += std::abs(static_cast<double>((*before)(r, o)));
      for (Index i = 0; i < width; ++i) {
        const auto u = static_cast<std::size_t>(i);
        const double d = static_cast<double>(down(o, i));
        sum += d * h[u];
        terms += std::abs(d * h[u]);
        inner += std::abs(d) * size[u];
      }
      REQUIRE(std::isfinite(y(r, o)));
      REQUIRE(std::abs(static_cast<double>(y(r, o)) - sum) <=
              eps * (static_cast<double>(width + 3) * terms +
                     static_cast<double>(x.cols() + 3) * inner));
    }
  }
}

}  // namespace

TEST_CASE_TEMPLATE("silu(gate) * up, for small and for large values", T, float, double) {
  const double eps = static_cast<double>(std::numeric_limits<T>::epsilon());
  std::vector<T> values = {T(0), T(-0.0), T(1e-30), T(-1e-30)};
  for (int i = -2000; i <= 2000; ++i) values.push_back(static_cast<T>(i) / T(16));
  for (const double v : {1e4, 1e10, 1e30}) {
    values.push_back(static_cast<T>(v));
    values.push_back(static_cast<T>(-v));
  }
  const auto n = static_cast<Index>(values.size());
  Matrix<T> up(1, n), out(1, n);
  up.fill(T(3));
  for (const Path path : {Path::fast, Path::naive}) {
    Context context{.path = path};
    swiglu<T>(MatrixView<const T>(values.data(), 1, n), up, out, context);
    for (Index i = 0; i < n; ++i) {
      const double v = static_cast<double>(values[static_cast<std::size_t>(i)]);
      const double expected = 3 * silu_exact(v);
      CAPTURE(v);
      REQUIRE(std::isfinite(out(0, i)));
      // e^-v beyond the largest number leaves 0 for what is below 1 / that number times v.
      REQUIRE(std::abs(static_cast<double>(out(0, i)) - expected) <=
              4 * eps * std::abs(expected) +
                  1e3 * static_cast<double>(std::numeric_limits<T>::min()));
    }
  }
}

TEST_CASE("the gated MLP is down(silu(gate x) * up x), in every weight type") {
  struct Shape {
    Index rows, hidden, width;
  };
  std::uint64_t seed = 20;
  for (const Shape& s : {Shape{1, 5, 3}, Shape{1, 64, 96}, Shape{2, 33, 70}, Shape{3, 16, 17},
                         Shape{9, 20, 100}, Shape{13, 40, 31}, Shape{27, 48, 130}}) {
    CAPTURE(seed);
    std::mt19937_64 rng(seed++);
    const MlpWeights<float> weights(rng, s.hidden, s.width);
    const Matrix<float> x = random_matrix<float>(rng, s.rows, s.hidden);
    const Matrix<float> before = random_matrix<float>(rng, s.rows, s.hidden);
    for (const WeightType type :
         {WeightType::native, WeightType::bfloat16, WeightType::half, WeightType::int8}) {
      CAPTURE(static_cast<int>(type));
      const Mlp<float> mlp = weights.mlp(type);
      for (const Path path : {Path::fast, Path::naive}) {
        Context context{.path = path};
        Matrix<float> y(s.rows, s.hidden);
        mlp.forward(x, y, context);
        check_mlp<float>(mlp, x, y, nullptr);
        y = before;
        mlp.forward(x, y, context, Accumulate::yes);
        check_mlp<float>(mlp, x, y, &before);
      }
    }
    std::mt19937_64 rng_d(seed);
    const Mlp<double> mlp = MlpWeights<double>(rng_d, s.hidden, s.width).mlp();
    const Matrix<double> xd = random_matrix<double>(rng_d, s.rows, s.hidden);
    Context context;
    Matrix<double> y(s.rows, s.hidden);
    mlp.forward(xd, y, context);
    check_mlp<double>(mlp, xd, y, nullptr);
  }
}

TEST_CASE("the gated MLP gives a row the same bits alone, in company and on any threads") {
  std::mt19937_64 rng(40);
  const MlpWeights<float> weights(rng, 70, 1100);
  const Index rows = 1000;  // more than are packed at a time
  const Matrix<float> x = random_matrix<float>(rng, rows, 70);
  for (const WeightType type : {WeightType::native, WeightType::int8}) {
    const Mlp<float> mlp = weights.mlp(type);
    Context serial;
    Matrix<float> whole(rows, 70), part(rows, 70);
    mlp.forward(x, whole, serial);
    for (Index r = 0; r < rows; r += 37)
      for (const Index n : {1, 2, 5, 12, 14}) {
        const Index count = std::min(n, rows - r);
        mlp.forward(x.view().middle_rows(r, count), part.view().middle_rows(0, count), serial);
        REQUIRE(same_bits(part.data(), whole.row(r), count * 70));
      }
    for (const Index threads : {2, 3, 7}) {
      ThreadPool pool(threads);
      Context context{.executor = pool};
      for (const Index n : {Index{1}, Index{30}}) {
        mlp.forward(x.view().middle_rows(0, n), part.view().middle_rows(0, n), context);
        REQUIRE(same_bits(part.data(), whole.data(), n * 70));
      }
    }
  }
}

TEST_CASE("a warm gated MLP allocates nothing") {
  if (!must_count()) return;
  std::mt19937_64 rng(41);
  const Mlp<float> mlp = MlpWeights<float>(rng, 40, 90).mlp();
  Context context;
  for (const Index rows : {1, 7, 30}) {
    const Matrix<float> x = random_matrix<float>(rng, rows, 40);
    Matrix<float> y(rows, 40);
    CHECK(warm_allocations([&] { mlp.forward(x, y, context); }) == 0);
  }
}

TEST_CASE("a gated MLP refuses weights and rows that do not belong together") {
  std::mt19937_64 rng(42);
  const Matrix<float> a = random_matrix<float>(rng, 8, 4), b = random_matrix<float>(rng, 7, 4);
  const Matrix<float> down = random_matrix<float>(rng, 4, 8),
                      other = random_matrix<float>(rng, 4, 7);
  CHECK_THROWS_WITH_AS(Mlp<float>({a}, {b}, {down}), "Mlp: outputs of up: expected 8, got 7",
                       error);
  CHECK_THROWS_WITH_AS(Mlp<float>({a}, {a}, {other}), "Mlp: inputs of down: expected 8, got 7",
                       error);
  const Mlp<float> mlp({a}, {a}, {down});
  CHECK(mlp.hidden_size() == 4);
  CHECK(mlp.intermediate_size() == 8);
  Context context;
  Matrix<float> x(2, 4), y(2, 5), z(3, 4);
  CHECK_THROWS_AS(mlp.forward(y, x, context), error);
  CHECK_THROWS_AS(mlp.forward(x, y, context), error);
  CHECK_THROWS_AS(mlp.forward(x, z, context), error);
}
