// Weights that come in 8 bits are packed as they are.
#include "casa/linear/pack_quantized.hpp"

#include <doctest/doctest.h>

#include "casa/linear/linear.hpp"
#include "support/messages.hpp"
#include "support/random_matrix.hpp"

using namespace casa;
using namespace casa_test;

namespace {

struct Quantized {
  Matrix<std::int8_t> steps;
  Matrix<bfloat16> scales;
  StoredView view() const { return {steps.view(), scales.view()}; }
};

Quantized quantized(const Matrix<float>& w) {
  Quantized q{{w.rows(), w.cols()}, {w.rows(), quant_groups(w.cols())}};
  for (Index r = 0; r < w.rows(); ++r)
    for (Index k = 0; k < w.cols(); k += kQuantGroup) {
      const Index end = std::min(k + kQuantGroup, w.cols());
      float largest = 0;
      for (Index c = k; c < end; ++c) largest = std::max(largest, std::abs(w(r, c)));
      const bfloat16 scale = quant_scale(largest);
      q.scales(r, k / kQuantGroup) = scale;
      for (Index c = k; c < end; ++c) q.steps(r, c) = quantize(w(r, c), widen(scale));
    }
  return q;
}

}  // namespace

TEST_CASE("steps and scales make the panels that the float values make, and come back from them") {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    std::mt19937_64 rng(seed);
    const auto size = [&](int most) { return std::uniform_int_distribution<Index>(1, most)(rng); };
    const Index depth = size(seed % 3 == 0 ? 200 : 70), first = size(150), second = size(150);
    const Matrix<float> a = random_matrix<float>(rng, first, depth),
                        b = random_matrix<float>(rng, seed % 2 ? first : second, depth);
    const Quantized qa = quantized(a), qb = quantized(b);
    // gate and up alternate
    const auto order = seed % 2 ? PieceOrder::alternating : PieceOrder::stacked;
    const LinearPiece values[] = {{a}, {b}}, steps[] = {{qa.view()}, {qb.view()}};
    const Linear<float> expected(values, WeightType::int8, nullptr, order);
    const Linear<float> packed(steps, WeightType::int8, nullptr, order);
    CHECK(same_bits(expected.unpacked(), packed.unpacked()));

    Matrix<std::int8_t> row(1, depth);
    Matrix<bfloat16> scales(1, quant_groups(depth));
    bool same = true;
    for (Index r = 0; r < packed.out_features(); ++r) {
      packed.unpack_row(r, row.data(), scales.data());
      const Quantized& q = r < first ? qa : qb;
      const Index at = r < first ? r : r - first;
      same &= same_bits(row.data(), q.steps.row(at), depth);
      same &= same_bits(scales.data(), q.scales.row(at), scales.cols());
    }
    CHECK(same);

    // Products read the whole of the last group and all outputs of the last panel.
    const Matrix<float> x = random_matrix<float>(rng, 1 + static_cast<Index>(seed % 9), depth);
    for (const Precision precision : {Precision::full, Precision::int8}) {
      const Context context{.precision = precision};
      Matrix<float> y(x.rows(), packed.out_features()), z(x.rows(), packed.out_features());
      expected.forward(x, y, context);
      packed.forward(x, z, context);
      CHECK(same_bits(y, z));
    }
  }
}

TEST_CASE("steps and scales count as their products in every other type") {
  std::mt19937_64 rng(7);
  const Quantized q = quantized(random_matrix<float>(rng, 21, 75));
  const Linear<float> wide(LinearPiece{q.view()});
  const Linear<double> wider(LinearPiece{q.view()});
  const Matrix<float> w = wide.unpacked();
  for (Index r = 0; r < w.rows(); ++r)
    for (Index c = 0; c < w.cols(); ++c) {
      const float value = static_cast<float>(q.steps(r, c)) * widen(q.scales(r, c / kQuantGroup));
      REQUIRE(w(r, c) == value);
      REQUIRE(wider.unpacked()(r, c) == static_cast<double>(value));
    }
  Matrix<std::int8_t> row(1, 75);
  Matrix<bfloat16> scales(1, 3);
  CHECK(
      has(message_of([&] { wide.unpack_row(0, row.data(), scales.data()); }), "not held as int8"));
}

TEST_CASE("another number of scales is refused") {
  const Matrix<std::int8_t> steps(4, 33);
  const Matrix<bfloat16> scales(4, 1), rows(3, 2);
  CHECK(has(message_of([&] { StoredView(steps.view(), scales.view()); }),
            "StoredView: scales of a row: expected 2, got 1"));
  CHECK(has(message_of([&] { StoredView(steps.view(), rows.view()); }),
            "StoredView: rows of scales: expected 4, got 3"));
}
