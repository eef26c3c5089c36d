#include "casa/vision/vision_tower_backward.hpp"

#include <doctest/doctest.h>

#include <cstring>
#include <random>

#include "support/allocations.hpp"
#include "support/messages.hpp"

using namespace casa;

namespace {

VisionTowerConfig small_tower() {
  VisionTowerConfig c;
  c.depth = 3;
  c.hidden_size = 8;
  c.num_heads = 2;
  c.intermediate_size = 12;
  c.out_hidden_size = 5;
  c.in_channels = 2;
  c.patch_size = 2;
  c.temporal_patch_size = 2;
  c.spatial_merge_size = 2;
  c.window_size = 8;  // two tokens a side
  c.fullatt_block_indexes = {1};
  return c;
}

// Two images of several windows; patches of both frames, or of one, which stands for both.
template <class T>
struct TowerProblem {
  explicit TowerProblem(std::uint64_t seed, bool still = false, Index scale = 1)
      : parameters(tensor_specs(vision_tower_spec(config))) {
    grids = {{1, 6 * scale, 4 * scale}, {1, 2, 6 * scale}};
    std::mt19937_64 random(seed);
    std::normal_distribution<double> normal;
    const auto fill = [&](Matrix<T>& m) {
      for (Index i = 0; i < m.size(); ++i) m.data()[i] = static_cast<T>(normal(random));
    };
    for (T& v : parameters.values()) v = static_cast<T>(0.5 * normal(random));
    const Index rows = num_patches(config, grids);
    patches = Matrix<T>(rows, still ? config.frame_width() : config.patch_width());
    d_tokens = Matrix<T>(rows / config.merge_unit(), config.out_hidden_size);
    fill(patches);
    fill(d_tokens);
  }
  VisionTower<T> tower() const { return VisionTower<T>(config, parameters.source()); }
  T loss() const {
    Matrix<T> tokens(d_tokens.rows(), d_tokens.cols());
    typename VisionTower<T>::Scratch scratch;
    tower().encode(patches, grids, tokens, scratch, {});
    return tokens.view().eigen().cwiseProduct(d_tokens.view().eigen()).sum();
  }
  void add(TensorSet<T>& gradients, const Context& context = {}) const {
    VisionTowerGradient<T>(config, gradients).add(tower(), patches, grids, d_tokens, context);
  }

  VisionTowerConfig config = small_tower();
  TensorSet<T> parameters;
  std::vector<VisionGrid> grids;
  Matrix<T> patches, d_tokens;
};

template <class T>
bool same_bits(std::span<const T> a, std::span<const T> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

}  // namespace

// By differences of fourth order, which are off by about 1e-12 of the loss's fifth derivative and
// by 1.5 / step times the rounding of the loss, 1e-14 of its size: the rule leaves a factor of a
// hundred to both.
TEST_CASE("gradients of a vision tower are the slopes of its outputs") {
  for (const bool still : {false, true}) {
    CAPTURE(still);
    TowerProblem<double> p(still ? 2 : 1, still);
    TensorSet<double> gradients(p.parameters.specs());
    p.add(gradients);
    double largest = 0;
    for (const double g : gradients.values()) largest = (std::max)(largest, std::abs(g));
    constexpr double step = 1e-3;
    for (std::size_t i = 0; i < p.parameters.values().size(); ++i) {
      CAPTURE(i);
      double& value = p.parameters.values()[i];
      const double before = value;
      const auto at = [&](double t) {
        value = before + t;
        return p.loss();
      };
      const double slope =
          (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step);
      value = before;
      REQUIRE(std::abs(slope - gradients.values()[i]) <= 1e-8 * largest);
    }
  }
}

TEST_CASE_TEMPLATE("gradients of a vision tower are added, with the same bits for any threads", T,
                   float, double) {
  const TowerProblem<T> p(5, false, 4);
  TensorSet<T> once(p.parameters.specs()), other(p.parameters.specs());
  p.add(once);
  for (const Index threads : {2, 3}) {
    ThreadPool pool(threads);
    other.fill(T(0));
    p.add(other, {.executor = pool});
    CHECK(same_bits<T>(once.values(), other.values()));
  }
  // Weights' gradients are summed apart from what they are added to.
  other.fill(T(2));
  p.add(other);
  for (std::size_t i = 0; i < once.values().size(); ++i)
    REQUIRE(other.values()[i] == T(2) + once.values()[i]);
}

TEST_CASE("frozen tensors of a vision tower are left out, and the others' gradients stay") {
  const TowerProblem<double> p(7);
  const std::vector<TensorSpec> all = p.parameters.specs();
  TensorSet<double> every(all);
  p.add(every);
  const auto check_some = [&](const char* part) {
    CAPTURE(part);
    std::vector<TensorSpec> some;
    for (const TensorSpec& s : all)
      if (has(s.name, part)) some.push_back(s);
    REQUIRE(!some.empty());
    REQUIRE(some.size() < all.size());
    TensorSet<double> gradients(some);
    p.add(gradients);
    for (Index i = 0; i < gradients.size(); ++i) {
      const MatrixView<double> found = gradients[i];
      const MatrixView<double> expected = every[every.find(some[static_cast<std::size_t>(i)].name)];
      const auto n = static_cast<std::size_t>(found.rows() * found.cols());
      REQUIRE(same_bits<double>({found.data(), n}, {expected.data(), n}));
    }
  };
  for (const char* part : {"patch_embed", "merger", "blocks.2", "blocks.1.attn.qkv.weight",
                           "qkv.bias", "norm", "merger.mlp.2.bias"})
    check_some(part);
}

TEST_CASE("gradients of a vision tower: warm they allocate nothing; wrong sizes have a name") {
  TowerProblem<float> p(3);
  TensorSet<float> gradients(p.parameters.specs());
  const VisionTower<float> tower = p.tower();
  VisionTowerGradient<float> gradient(p.config, gradients);
  const Context context;
  for (int i = 0; i < 3; ++i) gradient.add(tower, p.patches, p.grids, p.d_tokens, context);
  const bool counts = casa_test::counts_allocations();
  const auto before = casa_test::allocation_count();
  gradient.add(tower, p.patches, p.grids, p.d_tokens, context);
  if (counts) CHECK(casa_test::allocation_count() == before);

  gradients.fill(0);
  const auto call = [&](MatrixView<const float> patches, MatrixView<const float> d_tokens) {
    gradient.add(tower, patches, p.grids, d_tokens, context);
  };
  const Index rows = p.patches.rows(), width = p.patches.cols();
  CHECK_THROWS_WITH(call(Matrix<float>(rows + 4, width), p.d_tokens),
                    doctest::Contains("VisionTowerGradient: rows of patches"));
  CHECK_THROWS_WITH(call(Matrix<float>(rows, width + 1), p.d_tokens),
                    doctest::Contains("VisionTowerGradient: columns of patches"));
  CHECK_THROWS_WITH(call(p.patches, Matrix<float>(rows / 4 + 1, 5)),
                    doctest::Contains("VisionTowerGradient: rows of d_tokens"));
  CHECK_THROWS_WITH(call(p.patches, Matrix<float>(rows / 4, 6)),
                    doctest::Contains("VisionTowerGradient: columns of d_tokens"));
  VisionTowerConfig other = p.config;
  other.out_hidden_size = 6;
  CHECK_THROWS_WITH((VisionTowerGradient<float>(other, gradients)),
                    doctest::Contains("visual.merger.mlp.2.weight"));
  for (const float g : gradients.values()) REQUIRE(g == 0);
}
