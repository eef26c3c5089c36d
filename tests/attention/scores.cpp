// Score functions, with lists of intervals, sinks and values of their own width, against the
// reference's outputs and log-sum-exp and against the definition.
#include <doctest/doctest.h>

#include <string>

#include "attention/golden_variant.hpp"

using namespace casa;
using namespace attention_test;

TEST_CASE_TEMPLATE("lists, score functions and sinks give the reference's outputs", T, float,
                   double) {
  golden::Tally tally("variants", golden::case_files("variants").size());
  for (const golden::Case& c : golden::cases("variants")) {
    CAPTURE(c.name);
    const Index keys = c.description().at("keys").as_int();
    for (const Index cut : {Index{0}, keys / 3}) {  // one piece, or two that lie end to end
      CAPTURE(cut);
      GoldenVariant<T> v(c, cut);
      for (const Path path : {Path::naive, Path::fast}) {
        CAPTURE(static_cast<int>(path));
        Context context;
        context.path = path;
        check_variant(v.problem, v.steps, run(v.problem, v.steps, context), v.reference);
        if (v.steps.steps.empty())
          check_variant(v.problem, v.steps, run(v.problem, PlainScore{}, context), v.reference);
        // The state, finished, is the same.
        const auto state = attend_state(v.problem.input(), context, v.steps);
        VariantResult<T> finished{
            {v.problem.rows, v.problem.shape.num_heads * v.problem.shape.output_dim()},
            {v.problem.rows, v.problem.shape.num_heads}};
        finish(state, finished.out.view(), finished.lse.data());
        check_variant(v.problem, v.steps, finished, v.reference);
      }
    }
    tally.ran();
  }
  tally.check_all();
}

namespace {

// A user's own: it asks for everything that a score function may ask for.
struct Asking {
  template <class At>
  auto rows(const At& at) const {
    return at.of_row(
        [](Index r, Index h) { return 0.25f * static_cast<float>(h) - static_cast<float>(r % 5); });
  }
  template <class V, class At>
  V operator()(V s, const At& at, const V& of_row) const {
    constexpr float table[] = {0.5f, -1, 2, 0.125f};
    const V far = at.number(at.select(at.key() < at.row(), at.number(1), at.number(-2)));
    const V near = at.of_pair(
        [](Index r, Index h, Index j) { return static_cast<float>((r + 3 * h + 5 * j) % 7); });
    const V looked_up = at.lookup(table, at.clamp(at.key() - at.row() + at.head(), 0, 3));
    const V of_key = at.of_key([](Index j) { return static_cast<float>(j % 3); });
    const auto middle = (at.key() >= 5 && at.key() != 7) & ~(at.key() > 20 + at.row() % 4);
    const V inside = at.select(middle, at.number(0.5), at.select(!middle, s, at.number(9)));
    const auto parity = at.of_key([](Index j) { return j % 2; });
    return at.min(at.max(s, at.number(-3)), at.number(3)) + inside + of_row + far + near +
           looked_up + of_key * at.number(parity) + at.exp(at.tanh(s));
  }
};

}  // namespace

// The definition runs the same struct in double.
TEST_CASE_TEMPLATE("a user's own score function: kernel and definition agree", P, Variant<float>,
                   Variant<float, bfloat16>) {
  std::mt19937 random(1);
  for (const Index rows : {1, 2, 4, 9, 33, 80})
    for (const Index group : {1, 3}) {
      CAPTURE(rows);
      CAPTURE(group);
      P p;
      p.shape = {2 * group, 2, 32, 0};
      p.rows = rows;
      p.counts = {50, 340};
      p.mask = rows % 2 == 0 ? random_mask(rows, 390, 5, random) : Mask{};
      if (rows % 2 == 1)
        for (Index r = 0; r < rows; ++r) p.mask.add_row({{0, 310 + r}});
      p.randomize(static_cast<unsigned>(rows));
      Context naive_path;
      naive_path.path = Path::naive;
      const auto fast = run(p, Asking{}), exact = run(p, Asking{}, naive_path);
      // Scores of up to 20 in all, of ten terms: their rounding, and as much of the definition's
      // result, which is float.
      const double bound = 0x1p-23 * (1 + 100);
      for (Index i = 0; i < fast.out.size(); ++i) {
        REQUIRE(std::isfinite(fast.out.data()[i]));
        REQUIRE(std::abs(static_cast<double>(fast.out.data()[i]) -
                         static_cast<double>(exact.out.data()[i])) <= 5 * bound);
      }
      for (Index i = 0; i < fast.lse.size(); ++i)
        REQUIRE((fast.lse.data()[i] == exact.lse.data()[i] ||
                 std::abs(static_cast<double>(fast.lse.data()[i]) -
                          static_cast<double>(exact.lse.data()[i])) <= 2 * bound));
    }
}

// Fault: a pair that the mask hides is masked before the score function, not after it.
TEST_CASE("a bias that is NaN where the mask hides a pair changes no bit") {
  Variant<float> p;
  p.shape = {2, 1, 16, 0};
  p.rows = 40;
  p.counts = {70};
  std::mt19937 random(3);
  p.mask = random_mask(40, 70, 4, random);
  p.randomize(4);
  std::vector<float> zeros(40 * 70, 0.0f), nan = zeros;
  for (Index r = 0; r < 40; ++r)
    for (Index j = 0; j < 70; ++j) {
      bool sees = false;
      for (const Interval i : p.mask.row(r)) sees = sees || i.contains(j);
      if (!sees)
        nan[static_cast<std::size_t>(r * 70 + j)] = std::numeric_limits<float>::quiet_NaN();
    }
  const auto a = run(p, Steps{{Bias<float>{{zeros.data(), 40, 70}}}});
  const auto b = run(p, Steps{{Bias<float>{{nan.data(), 40, 70}}}});
  CHECK(std::memcmp(a.out.data(), b.out.data(),
                    static_cast<std::size_t>(a.out.size()) * sizeof(float)) == 0);
  CHECK(std::memcmp(a.lse.data(), b.lse.data(),
                    static_cast<std::size_t>(a.lse.size()) * sizeof(float)) == 0);
}

// The structs by name in the order of a composition, as a user writes them.
TEST_CASE("several score functions in one are applied in order") {
  Variant<float> p;
  p.shape = {4, 2, 16, 0};
  p.rows = 37;
  p.counts = {60};
  for (Index r = 0; r < 37; ++r) p.mask.add_row({{0, 20 + r}});
  p.randomize(5);
  const std::vector<float> slopes = {0.5f, 0.25f, 0.125f, 0.0625f}, factors = {1, -2, 0.5f, 3};
  const auto composed = run(p, Scores{SoftCap{2}, Alibi<float>{slopes}, HeadScale<float>{factors}});
  const Steps steps{{SoftCap{2}, Alibi<float>{slopes}, HeadScale<float>{factors}}};
  check_variant(p, steps, composed, define(p, steps));
  const Steps other{{HeadScale<float>{factors}, Alibi<float>{slopes}, SoftCap{2}}};
  const auto expected = define(p, other);
  CHECK(std::abs(expected.lse(5, 3) - static_cast<double>(composed.lse(5, 3))) > 0.1);
}
