// Products on AMX's tiles, by an emulation of the instructions: casa_test_amx is built with
// CASA_EMULATE_AMX, and runs the other files of this folder, too. The instructions themselves are
// compiled and linked by tests/house/amx.sh; nobody had a machine to run or time them on.
#include "casa/linear/linear.hpp"

#include <doctest/doctest.h>

#include <functional>

#include "casa/core/build_info.hpp"
#include "casa/layers/swiglu.hpp"
#include "support/random_matrix.hpp"

using namespace casa;
using namespace casa_test;
using simd::Amx;

namespace {

// The system refuses tiles while this lives.
struct Refused {
  Refused() { detail::emulated_amx_error = EOPNOTSUPP; }
  ~Refused() { detail::emulated_amx_error = 0; }
};

Index products_of(const std::function<void()>& f) {
  const Index before = Amx::products;
  f();
  return Amx::products - before;
}

Matrix<float> whole_numbers(std::mt19937_64& rng, Index rows, Index cols, int most) {
  std::uniform_int_distribution<int> value(-most, most);
  Matrix<float> m(rows, cols);
  for (Index i = 0; i < m.size(); ++i) m.data()[i] = static_cast<float>(value(rng));
  return m;
}

struct Shape {
  Index rows, in, out;
};
// Sizes about those of a tile: 16 rows, two tiles of them, 32 of k, 16 and 32 outputs, a panel.
// Seed 0: rows that stay in no cache, so that the sums of several panels are unfinished at a time.
Shape random_shape(std::uint64_t seed, std::mt19937_64& rng) {
  if (seed == 0) return {250, 3400, 70};
  const auto pick = [&](std::initializer_list<Index> from) {
    return from.begin()[rng() % from.size()];
  };
  return {detail::kWholePanelRows + pick({1, 5, 9, 10, 11, 26, 27, 41, 150, 300}),
          pick({2, 30, 32, 34, 62, 64, 66, 96, 98, 128, 514, 530, 1100}),
          pick({1, 15, 16, 17, 31, 33, 47, 64, 65, 70, 128})};
}

}  // namespace

TEST_CASE("AMX: an output of whole numbers is exact, whatever the shape") {
  for (std::uint64_t seed = 0; seed <= 40; ++seed) {
    CAPTURE(seed);
    std::mt19937_64 rng(seed);
    const Shape s = random_shape(seed, rng);
    CAPTURE(s.rows);
    CAPTURE(s.in);
    CAPTURE(s.out);
    // 3,400 products of up to 64 stay below 2^24, so that no sum is rounded.
    const Matrix<float> w = whole_numbers(rng, s.out, s.in, 8),
                        x = whole_numbers(rng, s.rows, s.in, 8),
                        before = whole_numbers(rng, s.rows, s.out, 8);
    const Linear<float> linear({w}, WeightType::bfloat16);
    Matrix<float> y = before;
    const Index products = products_of(
        [&] { linear.forward(x, y, Context{.precision = Precision::storage}, Accumulate::yes); });
    CHECK(products > 0);
    for (Index r = 0; r < s.rows; ++r)
      for (Index o = 0; o < s.out; ++o) {
        float sum = before(r, o);
        for (Index k = 0; k < s.in; ++k) sum += x(r, k) * w(o, k);
        REQUIRE(y(r, o) == sum);
      }
  }
}

TEST_CASE("AMX: int8 products have the bits that they have without tiles") {
  for (std::uint64_t seed = 0; seed <= 40; ++seed) {
    CAPTURE(seed);
    std::mt19937_64 rng(seed);
    Shape s = random_shape(seed, rng);
    s.in -= static_cast<Index>(rng() % 2);
    CAPTURE(s.rows);
    CAPTURE(s.in);
    CAPTURE(s.out);
    Matrix<float> x = random_matrix<float>(rng, s.rows, s.in);
    for (Index k = 0; k < s.in; ++k) x(1, k) = 0, x(2, k) = k % 2 ? 9.0f : -9.0f;
    const Linear<float> linear({random_matrix<float>(rng, s.out, s.in)}, WeightType::int8);
    ThreadPool pool(static_cast<Index>(1 + rng() % 3));
    const Context context{.executor = pool, .precision = Precision::int8};
    Matrix<float> y(s.rows, s.out), without(s.rows, s.out);
    CHECK(products_of([&] { linear.forward(x, y, context); }) > 0);
    const Refused refused;
    CHECK(products_of([&] { linear.forward(x, without, context); }) == 0);
    REQUIRE(same_bits(y, without));
  }
}

TEST_CASE("AMX: bits of bfloat16 products depend on neither threads nor the rows beside a row") {
  std::mt19937_64 rng(5);
  const Index rows = 300, in = 1098, out = 70;
  const Matrix<float> x = random_matrix<float>(rng, rows, in);
  const Linear<float> linear({random_matrix<float>(rng, out, in)}, WeightType::bfloat16);
  const Context serial{.precision = Precision::storage};
  Matrix<float> whole(rows, out), part(rows, out);
  linear.forward(x, whole, serial);
  for (const Index chunk : {7, 16, 17, 33, 100}) {
    CAPTURE(chunk);
    part.fill(0);
    for (Index r = 0; r < rows; r += chunk) {  // the last rows may be few: together with others
      const Index begin = (std::min)(r, rows - chunk);
      linear.forward(x.view().middle_rows(begin, chunk), part.view().middle_rows(begin, chunk),
                     serial);
    }
    REQUIRE(same_bits(part, whole));
  }
  for (const Index threads : {2, 3, 5}) {
    ThreadPool pool(threads);
    part.fill(0);
    linear.forward(x, part, Context{.executor = pool, .precision = Precision::storage});
    REQUIRE(same_bits(part, whole));
  }
}

TEST_CASE("AMX: gate and up of an MLP are computed on tiles, with the bits of vectors in int8") {
  std::mt19937_64 rng(6);
  const Index rows = 45, hidden = 100, inner = 150;
  const Matrix<float> gate = random_matrix<float>(rng, inner, hidden),
                      up = random_matrix<float>(rng, inner, hidden),
                      down = random_matrix<float>(rng, hidden, inner),
                      x = random_matrix<float>(rng, rows, hidden);
  const Mlp<float> mlp({gate}, {up}, {down}, WeightType::int8);
  ThreadPool pool(3);
  const Context context{.executor = pool, .precision = Precision::int8};
  Matrix<float> y(rows, hidden), without(rows, hidden);
  CHECK(products_of([&] { mlp.forward(x, y, context); }) > 0);
  const Refused refused;
  CHECK(products_of([&] { mlp.forward(x, without, context); }) == 0);
  CHECK(same_bits(y, without));
}

TEST_CASE("AMX: a row that holds NaN or infinity spoils no other row") {
  std::mt19937_64 rng(7);
  Matrix<float> w = random_matrix<float>(rng, 40, 200);
  w(3, 7) = std::numeric_limits<float>::infinity();  // not times the zeros that fill up a tile
  const Linear<float> linear({w}, WeightType::bfloat16);
  Matrix<float> x = random_matrix<float>(rng, 20, 200), y(20, 40);
  x(6, 130) = std::numeric_limits<float>::quiet_NaN();
  linear.forward(x, y, Context{.precision = Precision::storage});
  for (Index r = 0; r < 20; ++r)
    for (Index c = 0; c < 40; ++c) REQUIRE(std::isfinite(y(r, c)) == (r != 6 && c != 3));
}

TEST_CASE("AMX: every thread configures its tiles and releases them") {
  std::mt19937_64 rng(8);
  const Matrix<float> x = random_matrix<float>(rng, 100, 64);
  const Linear<float> linear({random_matrix<float>(rng, 500, 64)}, WeightType::int8);
  ThreadPool pool(3);
  const Context context{.executor = pool, .precision = Precision::int8};
  Matrix<float> y(100, 500);
  linear.forward(x, y, context);
  Executor(pool).run(3, [](Index) { CHECK(!Amx::state().configured); });
  CHECK_THROWS_WITH_AS((Amx::zero<0>()),
                       "AMX: a tile instruction in a thread that has not configured its tiles",
                       casa::error);
  {
    const simd::AmxScope scope(simd::amx_config(64));
    Amx::zero<0>();
  }
  CHECK(!Amx::state().configured);
}

TEST_CASE("AMX: a system that refuses is named") {
  CHECK(build_info().amx_refusal.empty());
  CHECK(build_info().isa.find("_amx_emulated") != std::string::npos);
  const Refused refused;
  BuildInfo info = build_info();
  CHECK(info.amx_refusal.starts_with("arch_prctl: "));
  info.optimised = true;
  info.faster_isa = {};
  CHECK(info.hint() == "compiled for AMX, which the system refuses (" + info.amx_refusal +
                           "): products use vectors instead");
}

// What the emulation must do for the tests above to mean anything: the manual's rules.
TEST_CASE("AMX, emulated: even and odd k are summed apart, subnormal numbers are 0") {
  const simd::AmxScope scope(simd::amx_config(64));
  bfloat16 a[16][32] = {}, b[16][32] = {};
  float c[16][16] = {};
  const auto product = [&] {
    Amx::load<0>(c, 64);
    Amx::load<4>(a, 64);
    Amx::load<6>(b, 64);
    Amx::multiply_bfloat16<0, 4, 6>();
    Amx::store<0>(c, 64);
  };
  const auto put = [&](Index k, float x, float y) {
    a[2][k] = narrow<bfloat16>(x);
    b[k / 2][2 * 5 + k % 2] = narrow<bfloat16>(y);
  };
  // In order of k the first 1 would be lost in 2^24 and come back too small; even k alone are
  // exact.
  put(0, 0x1p12f, 0x1p12f), put(1, 1, 1), put(2, -0x1p12f, 0x1p12f), put(3, 1, 1);
  c[2][5] = 0.5f;
  c[3][5] = 0x1p-130f;
  product();
  CHECK(c[2][5] == 2.5f);
  CHECK(c[3][5] == 0);  // a subnormal sum
  CHECK(c[2][4] == 0);
  put(0, 0x1p-130f, 0x1p100f), put(1, 0x1p-100f, 0x1p-40f), put(2, 0, 0), put(3, 1, 1);
  c[2][5] = 0;
  product();
  CHECK(c[2][5] == 1);  // without 2^-30, which one factor makes 0, and 2^-140
}

TEST_CASE("AMX, emulated: signs of bytes, and what a processor would refuse") {
  const simd::AmxScope scope(simd::amx_config(32));
  std::int8_t a[16][32] = {};
  std::uint8_t b[8][64] = {};
  std::int32_t c[16][16] = {};
  a[1][5] = -3, b[1][4 * 7 + 1] = 200;
  const auto product = [&]<class Byte>() {
    Amx::zero<0>();
    Amx::load<4>(a, 32);
    Amx::load<6>(b, 64);
    Amx::multiply_bytes<0, 4, 6, Byte>();
    Amx::store<0>(c, 64);
    return c[1][7];
  };
  CHECK(product.operator()<std::uint8_t>() == -600);
  CHECK(product.operator()<std::int8_t>() == 168);
  CHECK_THROWS_AS((Amx::multiply_bytes<0, 4, 1, std::int8_t>()), casa::error);
  simd::AmxConfig config = simd::amx_config(64);
  config.rows[3] = 17;
  CHECK_THROWS_AS(Amx::configure(config), casa::error);
  config = {};
  config.rows[8] = 1, config.row_bytes[8] = 4;
  CHECK_THROWS_AS(Amx::configure(config), casa::error);
}
