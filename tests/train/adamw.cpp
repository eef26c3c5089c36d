#include "casa/train/adamw.hpp"

#include <doctest/doctest.h>

#include <cstring>
#include <random>

#include "casa/train/trainer.hpp"
#include "support/messages.hpp"

using namespace casa;

namespace {

// Tensors that end in the middle of vectors and are larger than what a worker takes at a time.
std::vector<TensorSpec> specs() {
  return {{"a.weight", 7, 13}, {"a.bias", 5, 0},       {"norm", 1, 0},
          {"none", 0, 4},      {"b.weight", 190, 211}, {"gate", 3, 0}};
}

template <class T>
void randomize(TensorSet<T>& set, std::mt19937_64& random, double sigma) {
  std::normal_distribution<double> normal(0, sigma);
  for (T& v : set.values()) v = static_cast<T>(normal(random));
}

template <class T>
bool same_bits(const TensorSet<T>& a, const TensorSet<T>& b) {
  return a.values().size() == b.values().size() &&
         std::memcmp(a.values().data(), b.values().data(), a.values().size_bytes()) == 0;
}

// The definition, value by value in double.
struct Twin {
  std::vector<double> w, m, v;

  void step(const AdamWOptions& o, const std::vector<double>& g, double t, double rate,
            const std::vector<double>& decay) {
    for (std::size_t i = 0; i < w.size(); ++i) {
      m[i] = o.beta1 * m[i] + (1 - o.beta1) * g[i];
      v[i] = o.beta2 * v[i] + (1 - o.beta2) * g[i] * g[i];
      const double first = m[i] / (1 - std::pow(o.beta1, t)),
                   second = v[i] / (1 - std::pow(o.beta2, t));
      w[i] -= rate * (first / (std::sqrt(second) + o.eps) + decay[i] * w[i]);
    }
  }
};

}  // namespace

TEST_CASE_TEMPLATE("AdamW follows its definition", T, float, double) {
  const double eps = static_cast<double>(std::numeric_limits<T>::epsilon());
  for (const std::uint64_t seed : {1u, 2u, 3u}) {
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    const AdamWOptions options{.beta1 = 0.8, .beta2 = 0.95, .eps = 1e-6, .weight_decay = 0.1};
    TensorSet<T> w(specs()), g(specs());
    randomize(w, random, 1);
    Twin twin;
    twin.w.assign(w.values().begin(), w.values().end());
    twin.m.assign(twin.w.size(), 0);
    twin.v.assign(twin.w.size(), 0);
    std::vector<double> decay(twin.w.size(), 0);
    for (Index i = 0; i < w.size(); ++i)
      if (specs()[static_cast<std::size_t>(i)].cols != 0)
        std::fill(decay.begin() + w.range(i).begin, decay.begin() + w.range(i).end, 0.1);
    AdamW<T> adamw(specs(), options);
    const int steps = 10;
    for (int t = 1; t <= steps; ++t) {
      randomize(g, random, 0.01);
      std::vector<double> scaled;
      for (const T x : g.values()) scaled.push_back(static_cast<double>(x) * 0.25);
      const double rate = 0.01 * t;
      twin.step(options, scaled, t, rate, decay);
      adamw.step(w, g, rate, 0.25);
    }
    // Each of the ten steps rounds the weight twice, by half an eps. The other term is at most the
    // rate times 1.6 (Cauchy and Schwarz over the two running means, whose weights fall by 0.8 and
    // 0.95 a step) and is rounded some ten times; rates sum up to 0.55: less than 5 eps in all.
    for (std::size_t i = 0; i < twin.w.size(); ++i) {
      CAPTURE(i);
      const double bound = eps * steps * (std::abs(twin.w[i]) + 1);
      REQUIRE(std::abs(static_cast<double>(w.values()[i]) - twin.w[i]) <= bound);
    }
    CHECK(adamw.updates() == steps);
  }
}

TEST_CASE_TEMPLATE("the first update is the sign of the gradient, but for eps", T, float, double) {
  // m / (1 - beta1) is g and v / (1 - beta2) is g^2: w (1 - rate decay) - rate g / (|g| + eps).
  const double u = static_cast<double>(std::numeric_limits<T>::epsilon());
  TensorSet<T> w({{"w", 1, 5}}), g({{"w", 1, 5}});
  const double weights[] = {1, -2, 0.5, 3, 0}, gradients[] = {1e-3, -5, 1e-9, 0, 100};
  for (std::size_t i = 0; i < 5; ++i) {
    w.values()[i] = static_cast<T>(weights[i]);
    g.values()[i] = static_cast<T>(gradients[i]);
  }
  AdamW<T> adamw({{"w", 1, 5}}, {.eps = 1e-9, .weight_decay = 0.5});
  adamw.step(w, g, 0.25);
  for (std::size_t i = 0; i < 5; ++i) {
    CAPTURE(i);
    const double x = gradients[i];
    const double expected = weights[i] * (1 - 0.25 * 0.5) - 0.25 * x / (std::abs(x) + 1e-9);
    CHECK(std::abs(static_cast<double>(w.values()[i]) - expected) <=
          8 * u * (1 + std::abs(expected)));
  }
  CHECK(w.values()[3] == static_cast<T>(3 * 0.875));  // no gradient: decay alone, exactly
}

TEST_CASE_TEMPLATE("neighbouring groups keep their own rate and decay", T, float, double) {
  const std::vector<TensorSpec> two{{"new.weight", 3, 7}, {"old.weight", 3, 7}, {"frozen", 2, 2}};
  TensorSet<T> w(two), g(two);
  w.fill(T(1));
  g.fill(T(2));
  AdamW<T> adamw(
      two, {.weight_decay = 0},
      parameter_groups(
          {{{"new*"}, {}}, {{"old*"}, {.learning_rate = 0.5}}, {{"*"}, {.learning_rate = 0}}}));
  adamw.step(w, g, 0.5);
  const double u = static_cast<double>(std::numeric_limits<T>::epsilon());
  for (const T v : w.values().subspan(0, 21))
    CHECK(static_cast<double>(v) == doctest::Approx(0.5).epsilon(8 * u + 1e-8));
  for (const T v : w.values().subspan(21, 21))
    CHECK(static_cast<double>(v) == doctest::Approx(0.75).epsilon(8 * u + 1e-8));
  for (const T v : w.values().subspan(42)) CHECK(v == T(1));
}

TEST_CASE_TEMPLATE("norms and updates have the same bits for any number of threads", T, float,
                   double) {
  std::mt19937_64 random(9);
  TensorSet<T> start(specs()), gradients(specs());
  randomize(start, random, 1);
  randomize(gradients, random, 1);
  // Enough parts that another order of their sums would show.
  TensorSet<T> many_parts({{"w", 700, 1000}});
  randomize(many_parts, random, 1);
  Trainer<T> alone(start, {.clip_norm = 0.5});
  for (int i = 0; i < 3; ++i) {
    alone.gradients() = gradients;
    alone.step(1);
  }
  for (const Index threads : {2, 3, 7}) {
    CAPTURE(threads);
    ThreadPool pool(threads);
    const Context context{.executor = pool};
    CHECK(global_norm(gradients, context) == global_norm(gradients));
    CHECK(global_norm(many_parts, context) == global_norm(many_parts));
    Trainer<T> many(start, {.clip_norm = 0.5});
    for (int i = 0; i < 3; ++i) {
      many.gradients() = gradients;
      many.step(1, context);
    }
    CHECK(same_bits(many.parameters(), alone.parameters()));
    CHECK(same_bits(many.optimizer().second_moments(), alone.optimizer().second_moments()));
  }
}

TEST_CASE_TEMPLATE("the norm is that of all values, far beyond the range of float squares", T,
                   float, double) {
  std::mt19937_64 random(4);
  for (const double sigma : {1e-30, 1.0, 1e30}) {
    CAPTURE(sigma);
    TensorSet<T> set(specs());
    randomize(set, random, sigma);
    long double sum = 0;
    for (const T v : set.values()) sum += static_cast<long double>(v) * static_cast<long double>(v);
    // Sums in order of 16 numbers at a time: each addition rounds once; at worst all the same way.
    const double expected = static_cast<double>(std::sqrt(sum));
    CHECK(std::abs(global_norm(set) - expected) <= 1e-12 * expected);
  }
  CHECK(global_norm(TensorSet<T>()) == 0);
  CHECK(global_norm(TensorSet<T>({{"a", 2, 2}})) == 0);
}

TEST_CASE("clipping scales to the largest norm, and leaves shorter gradients alone") {
  CHECK(clip_factor(2, 1) == 0.5);
  CHECK(clip_factor(1, 1) == 1);
  CHECK(clip_factor(0, 1) == 1);
  CHECK(clip_factor(1e300, std::numeric_limits<double>::infinity()) == 1);
  CHECK(has(message_of([] { clip_factor(std::nan(""), 1); }), "must be finite"));
  CHECK(has(message_of([] { clip_factor(1, 0); }), "must be positive, got 0"));
}

TEST_CASE_TEMPLATE("a clipped step is the step of the gradients scaled by hand", T, float, double) {
  std::mt19937_64 random(8);
  TensorSet<T> start(specs()), g(specs());
  randomize(start, random, 1);
  randomize(g, random, 3);
  const double norm = global_norm(g) * 0.5;
  Trainer<T> trainer(start, {.schedule = {.peak = 0.1, .warmup = 2}, .clip_norm = 0.25});
  trainer.gradients() = g;
  const StepReport report = trainer.step(0.5);
  CHECK(report.gradient_norm == norm);
  CHECK(report.learning_rate == 0.05);
  CHECK(report.applied);
  TensorSet<T> by_hand = start;
  AdamW<T> adamw(specs());
  adamw.step(by_hand, g, 0.05, 0.5 * (0.25 / norm));
  CHECK(same_bits(by_hand, trainer.parameters()));
  CHECK(global_norm(trainer.gradients()) == 0);
  CHECK(trainer.step(1).learning_rate == 0.1);
}

TEST_CASE_TEMPLATE("gradients with NaN or infinity change nothing", T, float, double) {
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    CAPTURE(bad);
    TensorSet<T> start(specs());
    start.fill(T(1));
    Trainer<T> refuses(start), skips(start, {.not_finite = NotFinite::skip});
    for (Trainer<T>* t : {&refuses, &skips}) {
      t->gradients().fill(T(1));
      t->step(1);
      t->gradients().fill(T(1));
      t->gradients()[4](17, 200) = static_cast<T>(bad);
    }
    const TensorSet<T> before = refuses.parameters(), moments = refuses.optimizer().first_moments();
    const std::string message = message_of([&] { refuses.step(1); });
    CHECK(has(message, "step 1: the norm of the gradients is"));
    CHECK(has(message, "b.weight"));
    CHECK(refuses.counts() == TrainerCounts{1, 0});
    CHECK(same_bits(refuses.parameters(), before));
    CHECK(same_bits(refuses.optimizer().first_moments(), moments));
    CHECK(!std::isfinite(refuses.gradients()[4](17, 200)));

    const StepReport report = skips.step(1);
    CHECK(!report.applied);
    CHECK(!std::isfinite(report.gradient_norm));
    CHECK(skips.counts() == TrainerCounts{2, 1});
    CHECK(skips.optimizer().updates() == 1);
    CHECK(same_bits(skips.parameters(), before));
    CHECK(global_norm(skips.gradients()) == 0);
    skips.gradients().fill(T(1));
    CHECK(skips.step(1).applied);
    // The update that was left out leaves no trace but in the count: the next is the second one.
    refuses.gradients().fill(T(1));
    refuses.step(1);
    CHECK(same_bits(skips.parameters(), refuses.parameters()));
  }
}

TEST_CASE("optimisers refuse what does not fit, by name, and stay as they were") {
  CHECK(has(message_of([] { AdamW<float>({}, {.beta1 = 1}); }), "beta1 must be in [0, 1), got 1"));
  CHECK(has(message_of([] { AdamW<float>({}, {.beta2 = -0.1}); }), "beta2"));
  CHECK(has(message_of([] { AdamW<float>({}, {.eps = 0}); }), "eps must be finite and positive"));
  CHECK(has(message_of([] { AdamW<float>({}, {.weight_decay = -1}); }), "weight_decay"));
  CHECK(has(
      message_of([] {
        AdamW<float>({{"w", 1, 1}}, {}, [](const TensorSpec&) { return ParameterFactors{-1, 0}; });
      }),
      "w: factors must be finite and not negative, got -1 and 0"));
  AdamW<float> adamw({{"w", 2, 3}});
  TensorSet<float> w({{"w", 2, 3}}), turned({{"w", 3, 2}}), other({{"x", 2, 3}}),
      two({{"w", 2, 3}, {"x", 1, 1}});
  CHECK(has(message_of([&] { adamw.step(w, turned, 1); }),
            "gradients: tensor 0: expected w, 2 x 3, got w, 3 x 2"));
  CHECK(has(message_of([&] { adamw.step(other, w, 1); }), "parameters: tensor 0: expected w"));
  CHECK(has(message_of([&] { adamw.step(w, two, 1); }), "gradients: tensors: expected 1, got 2"));
  CHECK(has(message_of([&] { adamw.step(w, w, -1); }), "learning_rate"));
  CHECK(has(message_of([&] { adamw.step(w, w, 1, std::nan("")); }), "gradient_scale"));
  CHECK(has(message_of([&] { adamw.restore(w, turned, 1); }), "second moments"));
  CHECK(has(message_of([&] { adamw.restore(w, w, -1); }), "updates must not be negative"));
  CHECK(adamw.updates() == 0);
  Trainer<float> trainer(w);
  CHECK(
      has(message_of([&] { Trainer<float>(w, {.clip_norm = 0}); }), "clip_norm must be positive"));
  CHECK(has(message_of([&] { trainer.step(std::nan("")); }), "scale must be finite"));
  CHECK(has(message_of([&] {
              trainer.restore(w, w, w, {1, 2});
            }),
            "skipped must be in [0, steps]"));
  CHECK(has(message_of([&] { trainer.restore(turned, w, w, {1, 0}); }), "parameters"));
  CHECK(trainer.counts() == TrainerCounts{0, 0});
}
