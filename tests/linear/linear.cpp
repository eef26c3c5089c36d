#include "casa/linear/linear.hpp"

#include <doctest/doctest.h>

#include <array>

#include "support/allocations.hpp"
#include "support/random_matrix.hpp"

using namespace casa;
using namespace casa_test;

namespace {

constexpr WeightType kAllTypes[] = {WeightType::native, WeightType::bfloat16, WeightType::half,
                                    WeightType::int8};

// y = before + (x W^T + b) in double from the weights as they are computed with, and by how much a
// sum in order of k in T may differ: each term is rounded at most depth + 2 times by eps / 2 (depth
// more where multiply and add round apart).
template <class T>
void check_product(const Linear<T>& linear, MatrixView<const T> x, MatrixView<const T> y,
                   const Matrix<T>* before) {
  const Matrix<T> w = linear.unpacked();
  const double unit = static_cast<double>(std::numeric_limits<T>::epsilon()) / 2;
  for (Index r = 0; r < x.rows(); ++r) {
    for (Index o = 0; o < w.rows(); ++o) {
      const double b = static_cast<double>(linear.bias()[static_cast<std::size_t>(o)]);
      const double start = before ? static_cast<double>((*before)(r, o)) : 0;
      double sum = b + start, size = std::abs(b) + std::abs(start);
      for (Index k = 0; k < x.cols(); ++k) {
        const double term = static_cast<double>(x(r, k)) * static_cast<double>(w(o, k));
        sum += term;
        size += std::abs(term);
      }
      const double got = static_cast<double>(y(r, o));
      REQUIRE(std::isfinite(got));
      CAPTURE(r);
      CAPTURE(o);
      REQUIRE(std::abs(got - sum) <= unit * static_cast<double>(2 * x.cols() + 2) * size);
    }
  }
}

template <class T>
void check_linear_shapes(WeightType type) {
  struct LinearShape {
    Index rows, in, out;
  };
  const LinearShape shapes[] = {{1, 1, 1},     {1, 64, 32},   {2, 33, 65},  {3, 7, 5},
                                {4, 100, 48},  {5, 31, 128},  {7, 576, 19}, {11, 40, 40},
                                {12, 96, 64},  {13, 520, 33}, {20, 64, 96}, {29, 17, 70},
                                {1, 515, 1000}};
  std::uint64_t seed = 1;
  for (const LinearShape& s : shapes) {
    CAPTURE(seed);
    std::mt19937_64 rng(seed++);
    const Matrix<T> w = random_matrix<T>(rng, s.out, s.in), b = random_matrix<T>(rng, 1, s.out);
    const Matrix<T> x = random_matrix<T>(rng, s.rows, s.in);
    const Matrix<T> before = random_matrix<T>(rng, s.rows, s.out);
    for (const bool bias : {false, true}) {
      const Linear<T> linear({w, bias ? StoredView(b) : StoredView()}, type);
      for (const Path path : {Path::fast, Path::naive}) {
        Context context{.path = path};
        Matrix<T> y(s.rows, s.out);
        linear.forward(x, y, context);
        check_product<T>(linear, x, y, nullptr);
        y = before;
        linear.forward(x, y, context, Accumulate::yes);
        check_product<T>(linear, x, y, &before);
      }
    }
  }
}

}  // namespace

TEST_CASE("a linear layer is x W^T + b, plus what was there where it accumulates") {
  for (const WeightType type : kAllTypes) {
    CAPTURE(static_cast<int>(type));
    check_linear_shapes<float>(type);
  }
  check_linear_shapes<double>(WeightType::native);
}

TEST_CASE_TEMPLATE("a row's bits do not depend on the rows beside it nor on threads", T, float,
                   double) {
  std::mt19937_64 rng(7);
  const Index rows = 45, in = 1100, out = 150;  // several tiles, blocks of k, a partial panel
  const Matrix<T> w = random_matrix<T>(rng, out, in), x = random_matrix<T>(rng, rows, in);
  for (const WeightType type : kAllTypes) {
    if (type != WeightType::native && std::is_same_v<T, double>) continue;
    CAPTURE(static_cast<int>(type));
    const Linear<T> linear({w}, type);
    Context serial;
    Matrix<T> whole(rows, out), part(rows, out);
    linear.forward(x, whole, serial);
    for (const Index chunk : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 20, 31}) {
      CAPTURE(chunk);
      part.fill(T{0});
      for (Index r = 0; r < rows; r += chunk) {
        const Index n = std::min(chunk, rows - r);
        linear.forward(x.view().middle_rows(r, n), part.view().middle_rows(r, n), serial);
      }
      REQUIRE(same_bits(part.data(), whole.data(), whole.size()));
    }
    for (const Index threads : {2, 3, 4, 7}) {
      CAPTURE(threads);
      ThreadPool pool(threads);
      Context context{.executor = pool};
      for (const Index n : {Index{1}, Index{3}, rows}) {
        part.fill(T{0});
        linear.forward(x.view().middle_rows(0, n), part.view().middle_rows(0, n), context);
        REQUIRE(same_bits(part.data(), whole.data(), n * out));
      }
    }
  }
}

// Rows times inputs are more than a core's cache holds (kRowBlockBytes) and inputs more than one
// block, so a job takes a block of all its panels before the next block, and each panel needs sums
// of its own meanwhile.
//
// Faults: the panels of a job share one sum; rows of a later block of k begin from zero.
TEST_CASE_TEMPLATE("many rows of many inputs: panels that are summed side by side", T, float,
                   double) {
  std::mt19937_64 rng(8);
  const Index rows = 288, in = 1100, out = 150;
  REQUIRE(rows * in * Index{sizeof(T)} > detail::kRowBlockBytes);
  const Matrix<T> w = random_matrix<T>(rng, out, in), x = random_matrix<T>(rng, rows, in);
  for (const WeightType type : {WeightType::native, WeightType::int8}) {
    if (type != WeightType::native && std::is_same_v<T, double>) continue;
    CAPTURE(static_cast<int>(type));
    const Linear<T> linear({w}, type);
    const Context context;
    Matrix<T> whole(rows, out), part(rows, out);
    linear.forward(x, whole, context);
    for (Index r = 0; r < rows; r += 41)
      check_product<T>(linear, x.view().middle_rows(r, 1), whole.view().middle_rows(r, 1), nullptr);
    for (Index r = 0; r < rows; r += 9)
      linear.forward(x.view().middle_rows(r, 9), part.view().middle_rows(r, 9), context);
    CHECK(same_bits(part.data(), whole.data(), whole.size()));
  }
}

// Where the machine multiplies pairs of bfloat16, many rows are rounded to them; elsewhere none.
TEST_CASE("rows of x may be rounded to the bfloat16 that weights are held in") {
  const Context rounds{.precision = Precision::storage}, full;
  std::uint64_t seed = 1;
  for (const Index rows : {1, 6, 7, 12, 13, 29, 961})
    for (const Index in : {2, 30, 33, 64, 576, 1100}) {
      CAPTURE(rows);
      CAPTURE(in);
      std::mt19937_64 rng(seed++);
      const Index out = rows > 500 ? 9 : 70;
      const Matrix<float> w = random_matrix<float>(rng, out, in);
      const Matrix<float> x = random_matrix<float>(rng, rows, in);
      const Linear<float> linear({w}, WeightType::bfloat16);
      Matrix<float> rounded = x, y(rows, out), expected(rows, out);
      for (Index i = 0; i < x.size(); ++i) rounded.data()[i] = widen(narrow<bfloat16>(x.data()[i]));
      linear.forward(x, y, rounds);
      linear.forward(x, expected, full);
      const bool pairs = (simd::kMultipliesPairs<bfloat16> || detail::uses_amx()) &&
                         rows > detail::kWholePanelRows && in % 2 == 0;
      check_product<float>(linear, pairs ? rounded : x, y, nullptr);
      CHECK(same_bits(y.data(), expected.data(), y.size()) == !pairs);
      if (!pairs) continue;
      ThreadPool pool(3);  // the same bits from any number of threads and rows, if they are many
      const Context threads{.executor = pool, .precision = Precision::storage};
      linear.forward(x, expected, threads);
      CHECK(same_bits(y.data(), expected.data(), y.size()));
      const Index least = detail::kWholePanelRows + 1;
      linear.forward(x.view().middle_rows(0, least), expected.view().middle_rows(0, least), rounds);
      CHECK(same_bits(y.data(), expected.data(), least * out));
    }
}

TEST_CASE("more rows than are packed at a time give each row's own bits") {
  std::mt19937_64 rng(8);
  const Matrix<float> w = random_matrix<float>(rng, 9, 5), x = random_matrix<float>(rng, 2000, 5);
  const Linear<float> linear({w});
  Context context;
  Matrix<float> y(2000, 9), row(1, 9);
  linear.forward(x, y, context);
  for (Index r = 0; r < y.rows(); ++r) {
    linear.forward(x.view().middle_rows(r, 1), row, context);
    REQUIRE(same_bits(row.data(), y.row(r), 9));
  }
}

TEST_CASE("pieces stand side by side, and some of them can be computed alone") {
  std::mt19937_64 rng(9);
  const Matrix<float> q = random_matrix<float>(rng, 50, 40), k = random_matrix<float>(rng, 33, 40);
  const Matrix<float> v = random_matrix<float>(rng, 7, 40), b = random_matrix<float>(rng, 1, 33);
  const Linear<float> all(std::array<LinearPiece, 3>{LinearPiece{q}, {k, b}, {v}});
  CHECK(all.num_pieces() == 3);
  CHECK(all.piece_begin(1) == 50);
  CHECK(all.piece_begin(3) == 90);
  CHECK(all.out_features() == 90);
  for (const Index rows : {1, 2, 13}) {
    const Matrix<float> x = random_matrix<float>(rng, rows, 40);
    Context context;
    Matrix<float> y(rows, 90), kv(rows, 40), one(rows, 33);
    all.forward(x, y, context);
    check_product<float>(all, x, y, nullptr);
    all.forward_pieces(x, kv, 1, 3, context);
    Linear<float>({k, b}).forward(x, one, context);
    for (Index r = 0; r < rows; ++r) {
      CHECK(same_bits(kv.row(r), y.row(r) + 50, 40));
      CHECK(same_bits(one.row(r), y.row(r) + 50, 33));
    }
    context.path = Path::naive;
    all.forward_pieces(x, kv, 1, 3, context);
    for (Index r = 0; r < rows; ++r)
      for (Index c = 0; c < 40; ++c) CHECK(std::abs(kv(r, c) - y(r, 50 + c)) < 1e-4f);
  }
}

TEST_CASE("alternating pieces give the bits of stacked ones") {
  std::mt19937_64 rng(12);
  const Matrix<float> a = random_matrix<float>(rng, 75, 40), b = random_matrix<float>(rng, 75, 40);
  const Matrix<float> c = random_matrix<float>(rng, 75, 40),
                      bias = random_matrix<float>(rng, 1, 75);
  const std::array<LinearPiece, 3> pieces = {LinearPiece{a}, {b, bias}, {c}};
  const Context context;
  for (const WeightType type : kAllTypes) {
    Arena arena;
    const Linear<float> stacked(pieces, type);
    const Linear<float> alternating(pieces, type, &arena, PieceOrder::alternating);
    for (Index r = 0; r < 225; ++r) {
      Matrix<float> row(2, 40);
      stacked.unpack_row(r, row.row(0));
      alternating.unpack_row(r, row.row(1));
      REQUIRE(same_bits(row.row(0), row.row(1), 40));
    }
    for (const Index rows : {1, 2, 13}) {
      const Matrix<float> x = random_matrix<float>(rng, rows, 40);
      Matrix<float> y(rows, 225), z(rows, 225), one(rows, 75);
      stacked.forward(x, y, context);
      alternating.forward(x, z, context);
      REQUIRE(same_bits(y.data(), z.data(), y.size()));
      alternating.forward_pieces(x, one, 1, 2, context);
      for (Index r = 0; r < rows; ++r) REQUIRE(same_bits(one.row(r), y.row(r) + 75, 75));
    }
    Matrix<float> x(1, 40), two(1, 150);
    CHECK_THROWS_AS(alternating.forward_pieces(x, two, 0, 2, context), error);
  }
  const std::array<LinearPiece, 2> uneven = {LinearPiece{a}, {random_matrix<float>(rng, 74, 40)}};
  CHECK_THROWS_WITH_AS(Linear<float>(uneven, WeightType::native, nullptr, PieceOrder::alternating),
                       "Linear: outputs of a piece that alternates: expected 75, got 74", error);
}

TEST_CASE("rows with a stride: nothing between them is touched, and NaN beside x is not read") {
  std::mt19937_64 rng(10);
  const Index in = 37, out = 45, stride = 64;
  const Linear<float> linear({random_matrix<float>(rng, out, in)});
  for (const Index rows : {1, 3, 15}) {
    const Matrix<float> x = random_matrix<float>(rng, rows, in);
    Matrix<float> wide(rows, stride), plain(rows, out), y(rows, stride);
    wide.fill(std::numeric_limits<float>::quiet_NaN());
    y.fill(-7);
    for (Index r = 0; r < rows; ++r) std::copy_n(x.row(r), in, wide.row(r));
    Context context;
    linear.forward(x, plain, context);
    linear.forward(wide.view().middle_cols(0, in), y.view().middle_cols(0, out), context);
    for (Index r = 0; r < rows; ++r) {
      CHECK(same_bits(y.row(r), plain.row(r), out));
      for (Index c = out; c < stride; ++c) CHECK(y(r, c) == -7);
    }
  }
}

TEST_CASE("a row of NaN stays alone") {
  std::mt19937_64 rng(11);
  const Linear<float> linear({random_matrix<float>(rng, 40, 24)});
  Matrix<float> x = random_matrix<float>(rng, 20, 24), y(20, 40);
  std::fill_n(x.row(6), 24, std::numeric_limits<float>::quiet_NaN());
  Context context;
  linear.forward(x, y, context);
  for (Index r = 0; r < 20; ++r)
    for (Index c = 0; c < 40; ++c) CHECK(std::isnan(y(r, c)) == (r == 6));
}

TEST_CASE("weights come back as they are computed with, whatever they were stored in") {
  std::mt19937_64 rng(12);
  const Matrix<float> w = random_matrix<float>(rng, 67, 45);
  const Matrix<bfloat16> wb = stored_as<bfloat16>(w);
  const Matrix<half> wh = stored_as<half>(w);
  const Matrix<double> wd = stored_as<double>(w);
  for (const StoredView& view : {StoredView(w), StoredView(wb), StoredView(wh), StoredView(wd)}) {
    Matrix<float> expected(67, 45), row(1, 45);
    for (Index r = 0; r < 67; ++r) view.copy_row(r, expected.row(r));
    for (const WeightType type : {WeightType::native, WeightType::bfloat16, WeightType::half}) {
      const Matrix<float> got = Linear<float>({view}, type).unpacked();
      for (Index i = 0; i < w.size(); ++i) {
        float e = expected.data()[i];
        if (type == WeightType::bfloat16) e = widen(narrow<bfloat16>(e));
        if (type == WeightType::half) e = widen(narrow<half>(e));
        REQUIRE(got.data()[i] == e);
      }
    }
    const Linear<double> wide({view});
    Matrix<double> exact(1, 45);
    for (Index r = 0; r < 67; ++r) {
      wide.unpack_row(r, exact.data());
      for (Index c = 0; c < 45; ++c) REQUIRE(exact(0, c) == static_cast<double>(expected(r, c)));
    }
  }
  const Linear<float> two(std::array{LinearPiece{w}, LinearPiece{wb}});
  Matrix<float> row(1, 45);
  two.unpack_row(67 + 66, row.data());
  for (Index c = 0; c < 45; ++c) CHECK(row(0, c) == widen(wb(66, c)));
}

TEST_CASE("weights and biases come from Eigen's objects as from casa's own") {
  std::mt19937_64 rng(12);
  const Matrix<float> w = random_matrix<float>(rng, 5, 7), b = random_matrix<float>(rng, 1, 5);
  const Matrix<float> x = random_matrix<float>(rng, 3, 7);
  const RowMatrix<float> eigen_w = w.eigen();
  const Eigen::VectorXf column = b.eigen().row(0).transpose();
  const Eigen::RowVectorXf row = b.eigen().row(0);
  RowMatrix<float> wide(5, 11);
  wide.middleCols(2, 7) = eigen_w;
  Context context;
  Matrix<float> expected(3, 5), y(3, 5);
  Linear<float>({w, b}).forward(x, expected, context);
  for (const LinearPiece& piece : {LinearPiece{eigen_w, column}, LinearPiece{eigen_w, row},
                                   LinearPiece{wide.middleCols(2, 7), b}}) {
    y.fill(0);
    Linear<float>(piece).forward(x, y, context);
    CHECK(same_bits(y.data(), expected.data(), y.size()));
  }
  Linear<float>(LinearPiece{w}).forward(x, expected, context);
  Linear<float>(LinearPiece{eigen_w}).forward(x, y, context);
  CHECK(same_bits(y.data(), expected.data(), y.size()));
  // A column of a row-major matrix has its values apart.
  CHECK_THROWS_AS(StoredView(wide.col(0)), error);
}

TEST_CASE("int8: every weight is within half a step, and a step is the group's largest / 127") {
  std::mt19937_64 rng(13);
  for (const double sigma : {1e-30, 1e-6, 1.0, 1e6, 1e30}) {
    CAPTURE(sigma);
    Matrix<float> w = random_matrix<float>(rng, 40, 100, sigma);
    std::fill_n(w.row(3) + 32, 32, 0.0f);
    w(4, 0) = static_cast<float>(sigma) * 50;  // one large value coarsens its own group only
    const Matrix<float> got = Linear<float>({w}, WeightType::int8).unpacked();
    for (Index r = 0; r < w.rows(); ++r) {
      for (Index g = 0; g < w.cols(); g += kQuantGroup) {
        double largest = 0;
        for (Index c = g; c < std::min(w.cols(), g + kQuantGroup); ++c)
          largest = std::max(largest, std::abs(static_cast<double>(w(r, c))));
        const double step = largest / 127 * (1 + 1.0 / 128);
        const float scale = widen(quant_scale(static_cast<float>(largest)));
        for (Index c = g; c < std::min(w.cols(), g + kQuantGroup); ++c) {
          CAPTURE(r);
          CAPTURE(c);
          REQUIRE(got(r, c) == static_cast<float>(quantize(w(r, c), scale)) * scale);
          // w / scale is rounded to float before it is rounded to an integer: 2^-18 of a step.
          REQUIRE(std::abs(static_cast<double>(got(r, c)) - static_cast<double>(w(r, c))) <=
                  step * (0.5 + 0x1p-17));
        }
      }
    }
  }
}

// Fault: the scale is the nearest bfloat16, or the one below: the group's largest value is cut off
// at 127 steps, by less than half a step.
TEST_CASE("quantisation: the scale is the least bfloat16 that holds the largest in 127 steps") {
  std::mt19937_64 rng(17);
  std::uniform_real_distribution<double> mantissa(1, 2);
  for (int exponent = -110; exponent <= 127; ++exponent)
    for (int i = 0; i < 50; ++i) {
      const auto largest = static_cast<float>(std::ldexp(mantissa(rng), exponent));
      CAPTURE(largest);
      const bfloat16 scale = quant_scale(largest);
      bfloat16 below = scale;
      --below.bits;
      // Products of 8 and 7 bits: exact.
      REQUIRE(widen(scale) * 127.0f >= largest);
      REQUIRE(widen(below) * 127.0f < largest);
      REQUIRE(std::abs(largest / widen(scale)) <= 127.0f);
    }
  CHECK(widen(quant_scale(0)) == 0);
}

TEST_CASE("quantisation: integers up to 127 in steps of one are kept exactly, ties go to even") {
  CHECK(widen(quant_scale(127)) == 1);
  for (int q = -127; q <= 127; ++q)
    CHECK(quantize(static_cast<float>(q), 1) == static_cast<std::int8_t>(q));
  CHECK(quantize(2.5f, 1) == 2);
  CHECK(quantize(-3.5f, 1) == -4);
  CHECK(quantize(500, 1) == 127);
  CHECK(quantize(0, 0) == 0);
}

TEST_CASE("a smaller type holds fewer bytes") {
  std::mt19937_64 rng(14);
  const Matrix<float> w = random_matrix<float>(rng, 256, 512);
  const Index floats = 256 * 512;
  const Index bias = 256 * 4;
  CHECK(Linear<float>({w}).bytes() == 4 * floats + bias);
  CHECK(Linear<float>({w}, WeightType::bfloat16).bytes() == 2 * floats + bias);
  CHECK(Linear<float>({w}, WeightType::half).bytes() == 2 * floats + bias);
  CHECK(Linear<float>({w}, WeightType::int8).bytes() == floats + floats / 16 + bias);
}

TEST_CASE("a warm product allocates nothing") {
  if (!must_count()) return;
  ThreadPool pool(2);
  for (const auto& [type, precision] :
       {std::pair{WeightType::bfloat16, Precision::full}, {WeightType::int8, Precision::int8}}) {
    std::mt19937_64 rng(15);
    const Linear<float> linear({random_matrix<float>(rng, 100, 600)}, type);
    for (const bool threads : {false, true}) {
      const Context context{.executor = threads ? Executor(pool) : Executor(),
                            .precision = precision};
      for (const Index rows : {1, 2, 8, 30}) {
        const Matrix<float> x = random_matrix<float>(rng, rows, 600);
        Matrix<float> y(rows, 100);
        CHECK(warm_allocations([&] { linear.forward(x, y, context); }) == 0);
      }
    }
  }
}

TEST_CASE("what does not fit is refused by name") {
  std::mt19937_64 rng(16);
  Matrix<float> w = random_matrix<float>(rng, 4, 6), narrow_w = random_matrix<float>(rng, 4, 5);
  const Matrix<float> b = random_matrix<float>(rng, 1, 3);
  CHECK_THROWS_WITH_AS(Linear<float>(std::array{LinearPiece{w}, LinearPiece{narrow_w}}),
                       "Linear: in_features of a piece: expected 6, got 5", error);
  CHECK_THROWS_WITH_AS(Linear<float>({w, b}), "Linear: values of a bias: expected 4, got 3", error);
  CHECK_THROWS_AS(Linear<double>({w}, WeightType::int8), error);
  CHECK_THROWS_AS(Linear<float>(std::span<const LinearPiece>()), error);
  w(1, 2) = 70000;
  CHECK_THROWS_AS(Linear<float>({w}, WeightType::half), error);
  CHECK_NOTHROW(Linear<float>({w}, WeightType::bfloat16));
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    w(1, 2) = bad;
    CHECK_THROWS_AS(Linear<float>({w}, WeightType::int8), error);
  }
  w(1, 2) = 0;
  const Linear<float> linear({w});
  Context context;
  Matrix<float> x(2, 6), y(2, 4), z(2, 3), more(3, 4);
  CHECK_THROWS_WITH_AS(linear.forward(y, y, context), "Linear: columns of x: expected 6, got 4",
                       error);
  CHECK_THROWS_WITH_AS(linear.forward(x, z, context), "Linear: columns of y: expected 4, got 3",
                       error);
  CHECK_THROWS_WITH_AS(linear.forward(x, more, context), "Linear: rows of y: expected 2, got 3",
                       error);
  CHECK_THROWS_AS(linear.forward_pieces(x, y, 0, 2, context), error);
  CHECK_THROWS_AS(linear.unpack_row(4, x.data()), error);
  CHECK_NOTHROW(linear.forward(x.view().middle_rows(0, 0), y.view().middle_rows(0, 0), context));
}
