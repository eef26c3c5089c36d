#include "casa/layers/rope_scaling.hpp"

#include <doctest/doctest.h>

#include "casa/model/config.hpp"

using namespace casa;

TEST_CASE("Llama 3 scaling: short waves stay, long ones are stretched, those between are blended") {
  std::vector<double> f = rope_inv_freq<double>(128, 500000);
  const std::vector<double> before = f;
  const Llama3Scaling s{8, 1, 4, 8192};
  scale_llama3<double>(f, s);
  int kept = 0, stretched = 0, blended = 0;
  for (std::size_t i = 0; i < f.size(); ++i) {
    const double wavelength = 2 * std::numbers::pi / before[i];
    if (wavelength < 8192.0 / 4) {
      CHECK(f[i] == before[i]);
      ++kept;
    } else if (wavelength > 8192.0) {
      CHECK(f[i] == doctest::Approx(before[i] / 8).epsilon(1e-14));
      ++stretched;
    } else {
      const double smooth = (8192 / wavelength - 1) / 3;
      CHECK(f[i] ==
            doctest::Approx((1 - smooth) * before[i] / 8 + smooth * before[i]).epsilon(1e-13));
      ++blended;
    }
  }
  CHECK(kept > 0);
  CHECK(stretched > 0);
  CHECK(blended > 0);
  std::vector<double> g = rope_inv_freq<float>(128, 500000);
  scale_llama3<float>(g, s);
  for (std::size_t i = 0; i < g.size(); ++i) {
    CHECK(static_cast<double>(static_cast<float>(g[i])) == g[i]);
    CHECK(g[i] == doctest::Approx(f[i]).epsilon(1e-5));
  }
  CHECK_THROWS_AS(scale_llama3<float>(g, {8, 4, 1, 8192}), error);
  CHECK_THROWS_AS(scale_llama3<float>(g, {0, 1, 4, 8192}), error);
}

TEST_CASE("linear scaling divides every frequency") {
  for (const double factor : {0.5, 1.0, 4.0}) {
    std::vector<double> f = rope_inv_freq<double>(16, 10000);
    const std::vector<double> before = f;
    scale_linear<double>(f, {factor});
    for (std::size_t i = 0; i < f.size(); ++i) CHECK(f[i] == before[i] / factor);
  }
  std::vector<double> f = rope_inv_freq<double>(16, 10000);
  for (const double factor : {0.0, -1.0, std::numeric_limits<double>::infinity()})
    CHECK_THROWS_AS(scale_linear<double>(f, {factor}), error);
}

TEST_CASE("dynamic scaling: the base stays up to the trained length and grows with the stream") {
  const DynamicScaling s{4, 100};
  for (const std::int64_t length : {0, 1, 99, 100})
    CHECK(dynamic_theta<double>(10000, 16, s, length) == 10000);
  double before = 10000;
  for (const std::int64_t length : {101, 150, 200, 1000, 100000}) {
    const double theta = dynamic_theta<double>(10000, 16, s, length);
    const double stretched = 4 * static_cast<double>(length) / 100 - 3;
    CHECK(theta == doctest::Approx(10000 * std::pow(stretched, 16.0 / 14)).epsilon(1e-14));
    CHECK(theta > before);
    before = theta;
  }
  CHECK_THROWS_AS(dynamic_theta<double>(10000, 2, s, 200), error);
  CHECK_THROWS_AS(dynamic_theta<double>(10000, 16, {0, 100}, 200), error);
  CHECK_THROWS_AS(dynamic_theta<double>(10000, 16, {4, 0}, 200), error);
  // A rope is set to a length and back.
  RopeConfig config;
  config.scaling = s;
  Rope rope = make_rope<float>(config, 16);
  CHECK(rope.inv_freq == rope_inv_freq<float>(16, 10000));
  set_length<float>(rope, config, 16, 250);
  CHECK(rope.inv_freq == rope_inv_freq<float>(16, dynamic_theta<float>(10000, 16, s, 250)));
  set_length<float>(rope, config, 16, 7);
  CHECK(rope.inv_freq == rope_inv_freq<float>(16, 10000));
}

TEST_CASE("YaRN keeps fast frequencies, divides slow ones, and takes its attention factor") {
  YarnScaling s;
  s.factor = 4;
  s.original_max_position_embeddings = 4096;
  const auto plain = rope_inv_freq<double>(128, 10000), f = yarn_inv_freq<double>(128, 10000, s);
  int kept = 0, divided = 0, between = 0;
  for (std::size_t i = 0; i < f.size(); ++i) {
    const double turns = 4096 * plain[i] / (2 * std::numbers::pi);
    if (f[i] == plain[i]) {
      ++kept;
      CHECK(turns > 30);
    } else if (std::abs(f[i] * 4 / plain[i] - 1) < 1e-14) {
      ++divided;
      CHECK(turns < 1.1);
    } else {
      ++between;
      CHECK((f[i] < plain[i] && f[i] > plain[i] / 4));
    }
  }
  CHECK((kept > 10 && divided > 10 && between > 10));
  CHECK(attention_factor(s) == doctest::Approx(0.1 * std::log(4.0) + 1).epsilon(1e-15));
  s.mscale = 0.7;
  CHECK(attention_factor(s) == doctest::Approx(0.1 * std::log(4.0) + 1).epsilon(1e-15));
  s.mscale_all_dim = 0.4;
  CHECK(attention_factor(s) ==
        doctest::Approx((0.07 * std::log(4.0) + 1) / (0.04 * std::log(4.0) + 1)).epsilon(1e-15));
  s.attention_factor = 0.5;
  CHECK(attention_factor(s) == 0.5);
  RopeConfig config;
  config.scaling = s;
  CHECK(make_rope<double>(config, 128).magnitude == 0.5);
  s.attention_factor.reset();
  s.mscale = 0;
  s.factor = 0.5;
  CHECK(attention_factor(s) == 1);
  s.beta_slow = 0;
  CHECK_THROWS_AS(yarn_inv_freq<double>(128, 10000, s), error);
  s.beta_slow = 1;
  s.original_max_position_embeddings = 0;
  CHECK_THROWS_AS(yarn_inv_freq<double>(128, 10000, s), error);
  s.original_max_position_embeddings = 4096;
  CHECK_THROWS_AS(yarn_inv_freq<double>(128, 1, s), error);
}
