// Gradients of attention: the reference's, the definition's, finite differences; what is hidden
// stays without influence.
#include <doctest/doctest.h>

#include <limits>
#include <string>
#include <variant>
#include <vector>

#include "attention/golden_variant.hpp"
#include "attention/gradients.hpp"
#include "casa/attention/masks.hpp"
#include "casa/core/executor.hpp"
#include "support/allocations.hpp"
#include "support/messages.hpp"
#include "support/random_matrix.hpp"

using namespace casa;
using namespace attention_test;

namespace {

template <class T, class S>
Variant<T, S> random_problem(AttentionShape shape, const Mask& mask, std::vector<Index> counts,
                             unsigned seed, bool sinks = false) {
  Variant<T, S> p;
  p.shape = shape;
  p.rows = mask.num_rows();
  p.mask = mask;
  p.counts = std::move(counts);
  p.randomize(seed);
  for (Index h = 0; sinks && h < shape.num_heads; ++h)
    p.sinks.push_back(T(0.5) * static_cast<T>(h) - T(1));
  return p;
}

// The definition in double of what T and S hold.
template <class T, class S>
Gradients<double> define_gradients(Variant<T, S>& p, const Steps& steps, const Matrix<T>& d_out) {
  Variant<double> exact = in_double(p);
  Matrix<double> exact_d_out(d_out.rows(), d_out.cols());
  std::copy_n(d_out.data(), d_out.size(), exact_d_out.data());
  Context naive_path;
  naive_path.path = Path::naive;
  return differentiate(exact, exact_d_out, steps, naive_path);
}

// Where the gradients of the parameters of Steps go, in double: a list for each step. What a user
// writes for a score function of his own.
struct StepsGradients {
  using Step = std::variant<NoScoreGradients, AlibiGradients<double>, RelativeBiasGradients<double>,
                            BiasGradients<double>, HeadScaleGradients<double>>;
  std::vector<Step> steps;

  // Calls f(gradients, score function) of a step that has any.
  template <class F>
  static void visit(const Step& gradients, const Steps::Step& function, F f) {
    std::visit(
        [&](const auto& g, const auto& score) {
          if constexpr (requires { g.check(score, AttentionShape{}, Index{}, Index{}); })
            f(g, score);
        },
        gradients, function);
  }
  static Index sums_of(const Step& step) {
    return std::visit(
        [](const auto& g) {
          if constexpr (requires { g.num_sums(); }) return g.num_sums();
          return Index{0};
        },
        step);
  }
  Index num_sums() const {
    Index n = 0;
    for (const Step& step : steps) n += sums_of(step);
    return n;
  }
  void start() const {
    for (const Step& step : steps)
      std::visit(
          [](const auto& g) {
            if constexpr (requires { g.start(); }) g.start();
          },
          step);
  }
  void finish(const double* sums) const {
    for (const Step& step : steps) {
      std::visit(
          [&](const auto& g) {
            if constexpr (requires { g.finish(sums); }) g.finish(sums);
          },
          step);
      sums += sums_of(step);
    }
  }
  void check(const Steps& score, const AttentionShape& shape, Index rows, Index keys) const {
    for (std::size_t i = 0; i < steps.size(); ++i)
      visit(steps[i], score.steps[i],
            [&](const auto& g, const auto& f) { g.check(f, shape, rows, keys); });
  }
  void add(const Steps& score, double ds, double s, const ScalarPlace& at, double* sums) const {
    std::vector<detail::Dual<double>> in;
    for (const auto& step : score.steps) {
      in.push_back({s, 1});
      in.back() = Steps::one(step, in.back(), detail::DualPlaces<ScalarPlace>(at));
      std::swap(in.back().value, s);  // what goes in, and the slope; s is what comes out
    }
    sums += num_sums();
    for (std::size_t i = in.size(); i-- > 0;) {
      sums -= sums_of(steps[i]);
      visit(steps[i], score.steps[i],
            [&](const auto& g, const auto& f) { g.add(f, ds, in[i].value, at, sums); });
      ds *= in[i].slope;
    }
  }
};

// Gradients of a case's parameters, what the reference has, and the names of the tensors.
template <class T>
struct GoldenParameters {
  StepsGradients to;
  std::vector<Matrix<double>> got, expected;
  std::vector<std::string> names;

  GoldenParameters(const golden::Case& c, const Steps& steps) {
    const auto description = c.description();
    got.reserve(steps.steps.size());
    for (const auto& e : description.at("score").elements()) {
      const auto make = [&](const std::string& name, Index rows, Index cols) -> Matrix<double>& {
        names.push_back("d_" + name);
        auto values = c.matrix<double>(names.back());
        expected.emplace_back(rows, cols);
        REQUIRE(values.size() == rows * cols);
        std::copy_n(values.data(), values.size(), expected.back().data());
        return got.emplace_back(rows, cols);
      };
      const auto list = [](Matrix<double>& m) {
        return std::span<double>(m.data(), static_cast<std::size_t>(m.size()));
      };
      const auto& step = steps.steps[to.steps.size()];
      if (const auto* f = std::get_if<Alibi<float>>(&step))
        to.steps.push_back(AlibiGradients<double>{
            list(make(e.at("alibi").as_string(), 1, std::ssize(f->slopes)))});
      else if (const auto* g = std::get_if<RelativeBias<float>>(&step))
        to.steps.push_back(RelativeBiasGradients<double>{
            make(e.at("relative_bias").at("table").as_string(), g->table.rows(), g->table.cols())});
      else if (const auto* b = std::get_if<Bias<float>>(&step))
        to.steps.push_back(BiasGradients<double>{
            make(e.at("bias").as_string(), b->matrix.rows(), b->matrix.cols())});
      else if (const auto* s = std::get_if<HeadScale<float>>(&step))
        to.steps.push_back(HeadScaleGradients<double>{
            list(make(e.at("head_scale").as_string(), 1, std::ssize(s->factors)))});
      else
        to.steps.push_back(NoScoreGradients{});
    }
  }
  // The rule for gradients: ten times that of the forward pass, of the largest value of the tensor.
  void check(double terms) const {
    const double eps = sizeof(T) == 4 ? 0x1p-23 : 2 * 0x1p-52;
    for (std::size_t i = 0; i < got.size(); ++i) {
      CAPTURE(names[i]);
      double largest = 0;
      for (Index k = 0; k < expected[i].size(); ++k)
        largest = std::max(largest, std::abs(expected[i].data()[k]));
      for (Index k = 0; k < expected[i].size(); ++k) {
        const double x = got[i].data()[k], reference = expected[i].data()[k];
        REQUIRE(std::isfinite(x));
        REQUIRE(std::abs(x - reference) <= 10 * eps * terms * largest);
      }
    }
  }
};

template <class P>
struct TypesOf;
template <class Compute, class Stored>
struct TypesOf<Variant<Compute, Stored>> {
  using T = Compute;
  using S = Stored;
};

template <class T>
Matrix<T> random_like_out(const AttentionShape& shape, Index rows, unsigned seed) {
  std::mt19937_64 random(seed);
  return casa_test::random_matrix<T>(random, rows, shape.num_heads * shape.output_dim());
}

}  // namespace

TEST_CASE_TEMPLATE("gradients are the reference's", T, float, double) {
  golden::Tally tally("variants", golden::case_files("variants").size());
  for (const golden::Case& c : golden::cases("variants")) {
    CAPTURE(c.name);
    const Index keys = c.description().at("keys").as_int();
    for (const Index cut : {Index{0}, keys / 3}) {
      GoldenVariant<T> v(c, cut);
      const auto d_out = c.matrix<T>("d_out");
      Gradients<double> expected{
          c.matrix<double>("d_q"), c.matrix<double>("d_k"), c.matrix<double>("d_v"), {}};
      if (!v.problem.sinks.empty()) {
        const auto d_sink = c.matrix<double>("d_sink");
        expected.sinks.assign(d_sink.data(), d_sink.data() + d_sink.size());
      }
      const auto bound = gradient_bounds(v.problem, v.steps, d_out);
      for (const Path path : {Path::naive, Path::fast}) {
        CAPTURE(static_cast<int>(path));
        Context context;
        context.path = path;
        check_gradients(differentiate(v.problem, d_out, v.steps, context), expected, bound);
        if (v.steps.steps.empty())
          check_gradients(differentiate(v.problem, d_out, PlainScore{}, context), expected, bound);
        GoldenParameters<T> parameters(c, v.steps);
        const auto all = differentiate(v.problem, d_out, v.steps, context, parameters.to);
        check_gradients(all, expected, bound);
        parameters.check(10);
      }
    }
    tally.ran();
  }
  tally.check_all();
}

TEST_CASE_TEMPLATE("gradients are the definition's, whatever the shape and the threads", P,
                   Variant<float>, Variant<double>, Variant<float, bfloat16>, Variant<float, half>,
                   Variant<float, half>) {
  using T = typename TypesOf<P>::T;
  using S = typename TypesOf<P>::S;
  ThreadPool pool(3);
  for (unsigned seed = 0; seed < 24; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const auto below = [&](int n) {
      return static_cast<Index>(random() % static_cast<unsigned>(n));
    };
    const Index kv_heads = 1 + below(3), group = seed == 5 ? 70 : 1 + below(5);
    const AttentionShape shape{kv_heads * group, kv_heads, 1 + below(70), 1 + below(70)};
    const Index rows = 1 + below(60), keys = 1 + below(seed % 4 == 0 ? 700 : 90),
                cut = below(80) % keys;
    auto p = random_problem<T, S>(shape, random_mask(rows, keys, 1 + below(4), random),
                                  {cut, 0, keys - cut}, seed, seed % 3 == 0);
    Steps steps;
    if (seed % 2 == 1) steps.steps.push_back(SoftCap{2});
    const auto d_out = random_like_out<T>(shape, rows, seed);
    const auto got = differentiate(p, d_out, steps);
    check_gradients(got, define_gradients(p, steps, d_out), gradient_bounds(p, steps, d_out));
    Context threads;
    threads.executor = pool;
    const auto again = differentiate(p, d_out, steps, threads);
    CHECK(casa_test::same_bits(got.q, again.q));
    CHECK(casa_test::same_bits(got.k, again.k));
    CHECK(casa_test::same_bits(got.v, again.v));
    CHECK(got.sinks == again.sinks);
  }
}

TEST_CASE("gradients are what finite differences say") {
  const AttentionShape shape{4, 2, 7, 5};
  auto p =
      random_problem<double, double>(shape, masks::sinks_window({2, 14}, 2, 5), {6, 10}, 3, true);
  const Steps steps{{SoftCap{3}}};
  const auto d_out = random_like_out<double>(shape, p.rows, 4);
  const auto loss = [&] {
    const auto out = run(p, steps).out;
    double sum = 0;
    for (Index i = 0; i < out.size(); ++i) sum += out.data()[i] * d_out.data()[i];
    return sum;
  };
  const auto got = differentiate(p, d_out, steps);
  // Central differences with h = 1e-5: the third derivatives cost about h^2 = 1e-10, the rounding
  // of a loss of some 10 about 1e-15 / h.
  const auto check_at = [&](double& x, double gradient) {
    const double before = x, h = 1e-5;
    x = before + h;
    const double above = loss();
    x = before - h;
    const double below = loss();
    x = before;
    CHECK(std::abs((above - below) / (2 * h) - gradient) <= 1e-8);
  };
  for (std::size_t i = 0; i < p.q.size(); ++i) check_at(p.q[i], got.q.data()[i]);
  for (Index j = 0; j < p.num_keys(); ++j)
    for (Index h = 0; h < shape.num_kv_heads; ++h) {
      for (Index i = 0; i < shape.head_dim; ++i) check_at(p.key(h, j)[i], got.k(j, h * 7 + i));
      for (Index i = 0; i < shape.output_dim(); ++i)
        check_at(p.value(h, j)[i], got.v(j, h * 5 + i));
    }
  for (std::size_t h = 0; h < p.sinks.size(); ++h) check_at(p.sinks[h], got.sinks[h]);
}

TEST_CASE_TEMPLATE("NaN and infinity stay with those who see them", T, float, double) {
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const AttentionShape shape{4, 2, 20, 12};
  const auto fresh = [&] {
    return random_problem<T, T>(shape, masks::sliding_window(40, 9), {40}, 7);
  };
  const auto d_out = random_like_out<T>(shape, 40, 8);
  auto p = fresh();
  const auto clean = differentiate(p, d_out, PlainScore{});
  const auto compare = [&](const Gradients<T>& got, auto row_is_clean, auto key_is_clean) {
    for (Index t = 0; t < 40; ++t) {
      CAPTURE(t);
      if (row_is_clean(t)) CHECK(casa_test::same_bits(got.q.row(t), clean.q.row(t), got.q.cols()));
      if (!key_is_clean(t)) continue;
      CHECK(casa_test::same_bits(got.k.row(t), clean.k.row(t), got.k.cols()));
      CHECK(casa_test::same_bits(got.v.row(t), clean.v.row(t), got.v.cols()));
    }
  };
  // (Of the largest numbers products overflow.)
  for (const T bad : {nan, std::numeric_limits<T>::infinity(), (std::numeric_limits<T>::max)()}) {
    CAPTURE(bad);
    // Key 20 is seen by rows 20 .. 28, which see keys 12 .. 28.
    const auto others = [](Index t) { return t < 20 || t > 28; };
    const auto other_keys = [](Index t) { return t < 12 || t > 28; };
    p = fresh();
    p.key(1, 20)[3] = bad;
    for (Index i = 0; i < shape.output_dim(); ++i) p.value(0, 20)[i] = bad;
    const auto got = differentiate(p, d_out, PlainScore{});
    compare(got, others, other_keys);
    if (!std::isfinite(bad)) CHECK(std::isnan(got.q(24, 3 * 20 + 3)));
    // Row 20 sees keys 12 .. 20.
    p = fresh();
    auto bad_d_out = d_out;
    for (Index i = 0; i < shape.output_dim(); ++i) bad_d_out(20, i) = bad;
    const auto of_row = differentiate(p, bad_d_out, PlainScore{});
    compare(
        of_row, [](Index t) { return t != 20; }, [](Index t) { return t < 12 || t > 20; });
    CHECK_FALSE(std::isfinite(of_row.k(15, 0)));
  }
}

TEST_CASE("gradients that are not wanted are not written, and wrong sizes are refused by name") {
  const AttentionShape shape{2, 1, 4};
  const auto p = random_problem<float, float>(shape, masks::causal(3), {3}, 1);
  const auto forward = run(p, PlainScore{});
  const auto d_out = random_like_out<float>(shape, 3, 2);
  const AttentionResult<float> result{forward.out, forward.lse.data(), d_out};
  Matrix<float> d_q(3, 8), d_k(3, 4), d_v(3, 4);
  d_v.fill(7);
  const KeyGradients<float> keys[] = {{.k = d_k.data(), .count = 3, .token_stride = 4}};
  attend_backward(p.input(), result, {.keys = keys});
  CHECK(d_v(2, 3) == 7);
  CHECK(std::isfinite(d_k(2, 3)));

  std::vector<float> sinks(2);
  const auto said = [&](const AttentionResult<float>& r, const AttentionGradients<float>& g) {
    return message_of([&] { attend_backward(p.input(), r, g); });
  };
  CHECK(said({forward.out, nullptr, d_out}, {}) ==
        "attend_backward: lse is null, expected 3 rows of 2");
  CHECK(said({forward.out, forward.lse.data(), d_k}, {}) ==
        "attend_backward: d_out: expected (3, 8), got (3, 4)");
  CHECK(said(result, {.q = d_k.view()}) ==
        "attend_backward: gradient of q: expected (3, 8), got (3, 4)");
  const KeyGradients<float> short_piece[] = {{.k = d_k.data(), .count = 2, .token_stride = 4}};
  CHECK(said(result, {.keys = short_piece}) ==
        "attend_backward: gradients.keys[0].count: expected 3, got 2");
  CHECK(said(result, {.sinks = sinks}) ==
        "attend_backward: gradients of sinks, but the input has no sinks");
}

TEST_CASE("a warm backward pass allocates nothing") {
  if (!casa_test::counts_allocations()) return;
  const AttentionShape shape{2, 1, 4};
  const auto p = random_problem<float, float>(shape, masks::causal(40), {40}, 1);
  const auto forward = run(p, PlainScore{});
  const auto d_out = random_like_out<float>(shape, 40, 2);
  Matrix<float> d_q(40, 8), d_k(40, 4), d_v(40, 4);
  const KeyGradients<float> keys[] = {
      {.k = d_k.data(), .v = d_v.data(), .count = 40, .token_stride = 4}};
  const auto input = p.input();
  const Context context;
  const auto pass = [&] {
    attend_backward(input, {forward.out, forward.lse.data(), d_out}, {.q = d_q, .keys = keys},
                    context);
  };
  for (int i = 0; i < 3; ++i) pass();
  const auto before = casa_test::allocation_count();
  pass();
  CHECK(casa_test::allocation_count() == before);
}
