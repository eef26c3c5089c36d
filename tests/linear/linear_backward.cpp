#include "casa/linear/linear_backward.hpp"

#include <doctest/doctest.h>

#include "support/allocations.hpp"
#include "support/messages.hpp"
#include "support/random_matrix.hpp"

using namespace casa;
using namespace casa_test;

namespace {

constexpr WeightType kTypes[] = {WeightType::native, WeightType::bfloat16, WeightType::half,
                                 WeightType::int8};

// got = before + a b in double, up to what a sum in order of k in T may differ: each term is
// rounded at most depth + 2 times by eps / 2 (depth more where multiply and add round apart).
template <class T, class A, class B>
void check_product(const A& a, const B& b, MatrixView<const T> got, const Matrix<T>* before) {
  const double unit = static_cast<double>(std::numeric_limits<T>::epsilon()) / 2;
  const RowMatrix<double> left = a.template cast<double>(), right = b.template cast<double>();
  RowMatrix<double> sum = left * right, size = left.cwiseAbs() * right.cwiseAbs();
  if (before) {
    sum += before->eigen().template cast<double>();
    size += before->eigen().template cast<double>().cwiseAbs();
  }
  REQUIRE(got.rows() == sum.rows());
  REQUIRE(got.cols() == sum.cols());
  for (Index r = 0; r < got.rows(); ++r)
    for (Index c = 0; c < got.cols(); ++c) {
      CAPTURE(r);
      CAPTURE(c);
      const double off = std::abs(static_cast<double>(got(r, c)) - sum(r, c));
      REQUIRE(off <= unit * static_cast<double>(2 * a.cols() + 2) * size(r, c));
    }
}

// Sizes around those of a vector, a tile, a panel and a block, and two that are cut everywhere.
struct ProductShape {
  Index rows, in, out;
};
std::vector<ProductShape> shapes() {
  std::vector<ProductShape> all = {{1, 1, 1},    {6, 64, 64},    {7, 65, 63},    {29, 130, 17},
                                   {150, 16, 9}, {13, 200, 530}, {1000, 33, 40}, {40, 70, 1000}};
  std::mt19937_64 rng(11);
  for (int i = 0; i < 12; ++i) {
    const auto size = [&](Index most) {
      return 1 + static_cast<Index>(rng() % static_cast<std::uint64_t>(most));
    };
    all.push_back({size(90), size(200), size(200)});
  }
  return all;
}

template <class T>
void check_shapes(WeightType type) {
  std::uint64_t seed = 1;
  for (const ProductShape& s : shapes()) {
    CAPTURE(seed);
    CAPTURE(s.rows);
    CAPTURE(s.in);
    CAPTURE(s.out);
    std::mt19937_64 rng(seed++);
    const Matrix<T> w = random_matrix<T>(rng, s.out, s.in), x = random_matrix<T>(rng, s.rows, s.in);
    const Matrix<T> d_y = random_matrix<T>(rng, s.rows, s.out);
    const Matrix<T> d_x0 = random_matrix<T>(rng, s.rows, s.in);
    const Matrix<T> d_w0 = random_matrix<T>(rng, s.out, s.in),
                    d_b0 = random_matrix<T>(rng, 1, s.out);
    const Linear<T> linear({w}, type);
    for (const Path path : {Path::fast, Path::naive}) {
      CAPTURE(path == Path::naive);
      const Context context{.path = path};
      Matrix<T> d_x(s.rows, s.in), d_w = d_w0, d_b = d_b0;
      linear_backward_input<T>(linear, d_y, d_x, context);
      const auto weight = linear.unpacked();
      check_product<T>(d_y.eigen(), weight.eigen(), d_x, nullptr);
      d_x = d_x0;
      linear_backward_input<T>(linear, d_y, d_x, context, Accumulate::yes);
      check_product<T>(d_y.eigen(), weight.eigen(), d_x, &d_x0);
      if (type != WeightType::native) continue;
      linear_backward_weight<T>(x, d_y, d_w, {d_b.data(), static_cast<std::size_t>(s.out)},
                                context);
      check_product<T>(d_y.eigen().transpose(), x.eigen(), d_w, &d_w0);
      const RowMatrix<T> ones = RowMatrix<T>::Ones(1, s.rows);
      check_product<T>(ones, d_y.eigen(), d_b, &d_b0);
    }
  }
}

// A forward and two backward products at sizes that are cut in every way.
template <class T>
struct Problem {
  Matrix<T> w, x, d_y, d_x, d_w, d_b;

  Problem(std::uint64_t seed, const ProductShape& s) {
    std::mt19937_64 rng(seed);
    w = random_matrix<T>(rng, s.out, s.in);
    x = random_matrix<T>(rng, s.rows, s.in);
    d_y = random_matrix<T>(rng, s.rows, s.out);
    d_x = Matrix<T>(s.rows, s.in);
    d_w = Matrix<T>(s.out, s.in);
    d_b = Matrix<T>(1, s.out);
  }
  std::span<T> bias() { return {d_b.data(), static_cast<std::size_t>(d_b.size())}; }
  void run(const Linear<T>& linear, const Context& context) {
    d_w.fill(T{0});
    d_b.fill(T{0});
    linear_backward_input<T>(linear, d_y, d_x, context);
    linear_backward_weight<T>(x, d_y, d_w, bias(), context);
  }
};

}  // namespace

TEST_CASE("gradients of a linear layer are d_y W, d_y^T x and the sums of d_y") {
  for (const WeightType type : kTypes) {
    CAPTURE(static_cast<int>(type));
    check_shapes<float>(type);
  }
  check_shapes<double>(WeightType::native);
}

TEST_CASE_TEMPLATE("gradients of stacked and of alternating pieces are those of the pieces", T,
                   float, double) {
  std::mt19937_64 rng(3);
  const Index rows = 19, in = 77;
  // Blocks of k begin inside panels.
  for (const bool alternating : {false, true}) {
    CAPTURE(alternating);
    const std::vector<Index> outs =
        alternating ? std::vector<Index>{283, 283, 283} : std::vector<Index>{5, 600, 0, 64, 37};
    std::vector<Matrix<T>> weights;
    std::vector<LinearPiece> pieces;
    for (const Index out : outs) weights.push_back(random_matrix<T>(rng, out, in));
    for (const Matrix<T>& w : weights) pieces.push_back({w});
    const Linear<T> linear(pieces, WeightType::native, nullptr,
                           alternating ? PieceOrder::alternating : PieceOrder::stacked);
    // Some columns of a wider matrix, as the gradients of q, k and v are.
    const Matrix<T> wide = random_matrix<T>(rng, rows, linear.out_features() + 9);
    const auto d_y = wide.view().middle_cols(4, linear.out_features());
    Matrix<T> d_x(rows, in);
    linear_backward_input<T>(linear, d_y, d_x, {});
    check_product<T>(d_y.eigen(), linear.unpacked().eigen(), d_x, nullptr);

    for (Index first = 0; first <= linear.num_pieces(); ++first)
      for (Index last = first; last <= linear.num_pieces(); ++last) {
        CAPTURE(first);
        CAPTURE(last);
        const Index begin = linear.piece_begin(first), count = linear.piece_begin(last) - begin;
        const Matrix<T> before = d_x;
        linear_backward_input_pieces<T>(linear, d_y.middle_cols(begin, count), d_x, first, last, {},
                                        Accumulate::yes);
        check_product<T>(d_y.eigen().middleCols(begin, count),
                         linear.unpacked().eigen().middleRows(begin, count), d_x, &before);
      }

    const Matrix<T> x = random_matrix<T>(rng, rows, in + 3);
    const auto view = x.view().middle_cols(2, in);
    for (Index p = 0; p < linear.num_pieces(); ++p) {
      CAPTURE(p);
      const Index out = outs[static_cast<std::size_t>(p)];
      const auto d_piece = d_y.middle_cols(linear.piece_begin(p), out);
      Matrix<T> d_wide(out, in + 5);
      d_wide.fill(T{0});
      linear_backward_weight<T>(view, d_piece, d_wide.view().middle_cols(1, in), {}, {});
      check_product<T>(d_piece.eigen().transpose(), view.eigen(), d_wide.view().middle_cols(1, in),
                       nullptr);
      for (Index r = 0; r < out; ++r)  // what stands beside is not touched
        for (const Index c : {Index{0}, in + 1, in + 4}) REQUIRE(d_wide(r, c) == 0);
    }
  }
}

TEST_CASE_TEMPLATE("bits of gradients do not depend on threads nor, of inputs, on the rows beside",
                   T, float, double) {
  for (const ProductShape& s :
       {ProductShape{45, 1100, 150}, ProductShape{1000, 70, 1300}, ProductShape{200, 192, 1050}}) {
    CAPTURE(s.rows);
    Problem<T> serial(5, s), other(5, s);
    for (const WeightType type : kTypes) {
      if (type != WeightType::native && std::is_same_v<T, double>) continue;
      CAPTURE(static_cast<int>(type));
      const Linear<T> linear({serial.w}, type);
      serial.run(linear, {});
      for (const Index threads : {2, 3, 4}) {
        CAPTURE(threads);
        ThreadPool pool(threads);
        other.run(linear, {.executor = pool});
        REQUIRE(same_bits(other.d_x.data(), serial.d_x.data(), serial.d_x.size()));
        REQUIRE(same_bits(other.d_w.data(), serial.d_w.data(), serial.d_w.size()));
        REQUIRE(same_bits(other.d_b.data(), serial.d_b.data(), serial.d_b.size()));
      }
      for (Index r = 0; r < s.rows; r += 7) {
        const Index n = std::min<Index>(7, s.rows - r);
        linear_backward_input<T>(linear, other.d_y.view().middle_rows(r, n),
                                 other.d_x.view().middle_rows(r, n), {});
      }
      REQUIRE(same_bits(other.d_x.data(), serial.d_x.data(), serial.d_x.size()));
    }
  }
}

TEST_CASE("a gradient that should be zero is zero, and NaN stays with what sees it") {
  Problem<float> p(9, {40, 70, 90});
  const Linear<float> linear({p.w});
  std::fill_n(p.d_y.row(3), p.d_y.cols(), 0.0f);    // a row without a gradient
  for (Index r = 0; r < 40; ++r) p.d_y(r, 12) = 0;  // an output without one
  p.run(linear, {});
  for (Index c = 0; c < 70; ++c) {
    REQUIRE(p.d_x(3, c) == 0);
    REQUIRE(!std::signbit(p.d_x(3, c)));
    REQUIRE(p.d_w(12, c) == 0);
  }
  REQUIRE(p.d_b(0, 12) == 0);

  p.d_y(5, 20) = std::numeric_limits<float>::quiet_NaN();
  p.x(7, 30) = std::numeric_limits<float>::quiet_NaN();
  p.run(linear, {});
  for (Index r = 0; r < 40; ++r)
    for (Index c = 0; c < 70; ++c) REQUIRE(std::isnan(p.d_x(r, c)) == (r == 5));
  for (Index o = 0; o < 90; ++o)
    for (Index c = 0; c < 70; ++c) REQUIRE(std::isnan(p.d_w(o, c)) == (o == 20 || c == 30));
}

TEST_CASE("gradients without rows, outputs or inputs") {
  Matrix<float> nothing(0, 8), some(3, 8);
  const Linear<float> linear({some}), empty({nothing});
  Matrix<float> d_x(4, 8), d_w = some;
  d_x.fill(7);
  linear_backward_input<float>(empty, Matrix<float>(4, 0), d_x, {}, Accumulate::yes);
  REQUIRE(d_x(3, 7) == 7);
  linear_backward_input<float>(empty, Matrix<float>(4, 0), d_x, {});
  REQUIRE(d_x(3, 7) == 0);
  linear_backward_input<float>(linear, Matrix<float>(0, 3), nothing, {});
  d_w.fill(3);
  linear_backward_weight<float>(nothing, Matrix<float>(0, 3), d_w, {}, {});
  REQUIRE(d_w(2, 7) == 3);
  linear_backward_input<float>(Linear<float>(), Matrix<float>(2, 0), Matrix<float>(2, 0).view(),
                               {});
}

TEST_CASE("warm gradients of a linear layer allocate nothing") {
  if (!counts_allocations()) return;
  for (const Index threads : {1, 2}) {
    Problem<float> p(1, {70, 100, 200});
    const Linear<float> linear({p.w}, WeightType::bfloat16);
    ThreadPool pool(threads);
    const Context context{.executor = pool};
    for (int i = 0; i < 3; ++i) p.run(linear, context);
    const auto before = allocation_count();
    p.run(linear, context);
    CHECK(allocation_count() == before);
  }
}

TEST_CASE("wrong shapes of gradients are refused by name") {
  Problem<float> p(1, {4, 8, 5});
  const Linear<float> linear({p.w});
  Matrix<float> wrong(4, 9), fewer(3, 8);
  const auto input = [&](MatrixView<const float> d_y, MatrixView<float> d_x) {
    linear_backward_input<float>(linear, d_y, d_x, {});
  };
  CHECK_THROWS_WITH(input(wrong, p.d_x),
                    "linear_backward_input: columns of d_y: expected 5, got 9");
  CHECK_THROWS_WITH(input(p.d_y, wrong),
                    "linear_backward_input: columns of d_x: expected 8, got 9");
  CHECK_THROWS_WITH(input(p.d_y, fewer), "linear_backward_input: rows of d_x: expected 4, got 3");
  CHECK_THROWS_WITH(linear_backward_input_pieces<float>(linear, p.d_y, p.d_x, 1, 2, {}),
                    "linear_backward_input: pieces [1, 2) of 1");
  const auto weight = [&](MatrixView<const float> x, MatrixView<float> d_w, std::span<float> d_b) {
    linear_backward_weight<float>(x, p.d_y, d_w, d_b, {});
  };
  CHECK_THROWS_WITH(weight(fewer, p.d_w, {}),
                    "linear_backward_weight: rows of d_y: expected 3, got 4");
  CHECK_THROWS_WITH(weight(p.x, wrong, {}),
                    "linear_backward_weight: rows of d_weight: expected 5, got 4");
  CHECK_THROWS_WITH(weight(wrong, p.d_w, {}),
                    "linear_backward_weight: columns of d_weight: expected 9, got 8");
  CHECK_THROWS_WITH(weight(p.x, p.d_w, p.bias().first(4)),
                    "linear_backward_weight: values of d_bias: expected 5, got 4");
}
