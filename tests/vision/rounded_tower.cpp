// Towers whose products round (Precision::storage and Precision::int8): each sublayer against its
// definition in double, which rounds nothing.
//
// The bound is that of probabilistic rounding error analysis (Higham and Mary, 2019). A rounding is
// off by at most half a step h, up or down: a sum of independent ones times factors w exceeds 6
// times the root of the sum of (w h)^2 with a probability below 2 exp(-6^2 / 2), 3e-8 (Hoeffding).
// Bounds that add up |w h| would say nothing here: through scores of attention they become larger
// than the values.
#include <doctest/doctest.h>

#include <cmath>
#include <deque>

#include "support/difference.hpp"
#include "support/random_matrix.hpp"
#include "vision/random_tower.hpp"

using namespace casa;
using namespace casa_test;
using namespace tower_test;

namespace {

using Doubles = RowMatrix<double>;

constexpr double kFloat = 0x1p-24;    // unit roundoff
constexpr double kBfloat16 = 0x1p-8;  // ... of bfloat16

// 3 heads of 32, so that pairs of bfloat16 fill vectors; blocks 0 and 2 have windows.
VisionTowerConfig config() {
  VisionTowerConfig c;
  c.depth = 3;
  c.hidden_size = 96;
  c.num_heads = 3;
  c.intermediate_size = 72;
  c.out_hidden_size = 40;
  c.patch_size = 4;
  c.window_size = 2 * c.spatial_merge_size * c.patch_size;
  c.fullatt_block_indexes = {1};
  return c;
}

// How many deviations a value may be off.
constexpr double kDeviations = 6;

// Values, and the deviations of the computed ones.
struct Bounded {
  Doubles value, error;
};

Bounded exact(MatrixView<const float> x) {
  return {x.eigen().cast<double>(), Doubles::Zero(x.rows(), x.cols())};
}

// The definition of each step, and its error from that of its inputs, of what is rounded (`type`)
// and of float arithmetic.
class Definition {
 public:
  Definition(const RandomTower<float>& t, const TowerType& type)
      : t_(t), c_(t.tower.config()), type_(type) {}

  Bounded embed(MatrixView<const float> patches) const {
    return linear(exact(patches), t_.spec.patch_embed);
  }

  Bounded self_attention(const Bounded& x, Index block, const VisionOrder& order) const {
    const VisionBlockSpec& s = t_.spec.blocks[static_cast<std::size_t>(block)];
    Bounded qkv = linear(norm(x, s.norm1), s.qkv);
    for (Index head = 0; head < 2 * c_.num_heads; ++head) rotate(qkv, head, order);
    const auto& seen = c_.is_full_attention(block) ? order.frame : order.window;
    return sum(x, linear(attention(qkv, seen), s.proj));
  }

  Bounded mlp(const Bounded& x, Index block) const {
    const VisionBlockSpec& s = t_.spec.blocks[static_cast<std::size_t>(block)];
    const Bounded normed = norm(x, s.norm2);
    const Bounded gate = linear(normed, s.mlp.gate), up = linear(normed, s.mlp.up);
    const Eigen::ArrayXXd g = gate.value.array();
    const Eigen::ArrayXXd silu = g / (1 + (-g).exp());
    // The slope of silu is at most 1.1.
    const Eigen::ArrayXXd silu_error = 1.1 * gate.error.array() + 8 * kFloat * silu.abs();
    const Eigen::ArrayXXd u = up.value.array(), u_error = up.error.array();
    const Bounded hidden{(silu * u).matrix(), (silu_error * (u.abs() + u_error) +
                                               silu.abs() * u_error + 2 * kFloat * (silu * u).abs())
                                                  .matrix()};
    return sum(x, linear(hidden, s.mlp.down));
  }

  Bounded merge(const Bounded& x, const VisionOrder& order) const {
    const Bounded normed = norm(x, t_.spec.merger_norm);
    const Index unit = c_.merge_unit(), count = x.value.rows() / unit;
    const auto wide = [&](const Doubles& m) -> Doubles {
      return Eigen::Map<const Doubles>(m.data(), count, unit * m.cols());
    };
    Bounded inner = linear({wide(normed.value), wide(normed.error)}, t_.spec.merger_in);
    for (Index i = 0; i < inner.value.size(); ++i) {
      double& v = inner.value.data()[i];
      double& error = inner.error.data()[i];
      v *= 0.5 * (1 + std::erf(v / std::sqrt(2.0)));
      error = 1.13 * error + 8 * kFloat * std::abs(v) + kFloat;  // the slope is at most 1.13
    }
    const Bounded out = linear(inner, t_.spec.merger_out);
    Bounded sorted = out;
    for (Index u = 0; u < count; ++u) {
      sorted.value.row(order.token[static_cast<std::size_t>(u)]) = out.value.row(u);
      sorted.error.row(order.token[static_cast<std::size_t>(u)]) = out.error.row(u);
    }
    return sorted;
  }

 private:
  Bounded sum(const Bounded& a, const Bounded& b) const {
    const Doubles value = a.value + b.value;
    return {value, a.error + b.error + 2 * kFloat * (a.value.cwiseAbs() + b.value.cwiseAbs())};
  }

  Bounded norm(const Bounded& x, const TensorSpec& spec) const {
    const Doubles w = t_.values.at(spec.name).eigen().cast<double>();
    Bounded out = x;
    for (Index r = 0; r < out.value.rows(); ++r) {
      const auto row = x.value.row(r);
      const double mean = row.squaredNorm() / static_cast<double>(row.size());
      out.value.row(r) = row.cwiseProduct(w.row(0)) / std::sqrt(mean + c_.rms_norm_eps);
    }
    out.error = (static_cast<double>(x.value.cols()) + 8) * kFloat * out.value.cwiseAbs();
    return out;
  }

  // Half a step of rounding rows of x. int8 has a scale for each 64 values of a row, which is at
  // most that of the row's largest one.
  Doubles rounding(const Doubles& x) const {
    if (type_.precision == Precision::full) return Doubles::Zero(x.rows(), x.cols());
    if (type_.precision == Precision::storage) return kBfloat16 * x.cwiseAbs();
    return x.cwiseAbs().rowwise().maxCoeff().replicate(1, x.cols()) / 254 * (1 + 0x1p-14);
  }

  Bounded linear(const Bounded& x, const LinearSpec& spec) const {
    const Matrix<float>& stored = t_.values.at(spec.weight.name);
    const Linear<float> held(LinearPiece{stored}, type_.weights);
    const Doubles w = held.unpacked().eigen().cast<double>();
    Doubles b = Doubles::Zero(1, w.rows());
    if (spec.bias) b = t_.values.at(spec.bias->name).eigen().cast<double>();
    const Doubles squares = x.error.cwiseAbs2() + rounding(x.value).cwiseAbs2();
    Bounded y{x.value * w.transpose(), (squares * w.cwiseAbs2().transpose()).cwiseSqrt()};
    y.value.rowwise() += b.row(0);
    // A sum of so many terms, rounded at most twice each.
    const double gamma = (2 * static_cast<double>(w.cols()) + 4) * kFloat;
    y.error += gamma * (x.value.cwiseAbs() * w.cwiseAbs().transpose());
    y.error.rowwise() += gamma * b.row(0).cwiseAbs();
    return y;
  }

  // Of q, k and v side by side, head after head.
  void rotate(Bounded& qkv, Index head, const VisionOrder& order) const {
    const Rope rope = make_vision_rope<float>(c_.head_dim(), c_.rope_theta);
    const Index pairs = rope.num_pairs(), first = head * c_.head_dim();
    for (Index r = 0; r < qkv.value.rows(); ++r)
      for (Index i = 0; i < pairs; ++i) {
        const Position& p = order.position[static_cast<std::size_t>(r)];
        const auto pair = static_cast<std::size_t>(i);
        const auto place = static_cast<double>(rope.axis[pair] == RopeAxis::h ? p.h : p.w);
        const double c = std::cos(place * rope.inv_freq[pair]),
                     s = std::sin(place * rope.inv_freq[pair]);
        double &a = qkv.value(r, first + i), &b = qkv.value(r, first + pairs + i);
        double &ea = qkv.error(r, first + i), &eb = qkv.error(r, first + pairs + i);
        const double own = 4 * kFloat * (std::abs(a) + std::abs(b));
        const double error_a = std::abs(c) * ea + std::abs(s) * eb + own;
        eb = std::abs(c) * eb + std::abs(s) * ea + own;
        ea = error_a;
        const double rotated = a * c - b * s;
        b = b * c + a * s;
        a = rotated;
      }
  }

  // With weights p and scores s, d(sum p v) = sum p (ds - sum p ds) v + sum dp v + sum p dv. Errors
  // of a query enter the scores of all keys together; those of keys, values and weights are each
  // for itself.
  Bounded attention(const Bounded& qkv, const std::vector<Interval>& seen) const {
    const Index d = c_.head_dim(), width = c_.hidden_size, rows = qkv.value.rows();
    const double round = type_.precision == Precision::full ? 0 : kBfloat16;
    const double scale = default_scale(d);
    const Doubles squares =
        qkv.error.cwiseAbs2() + (round * round + kFloat * kFloat) * qkv.value.cwiseAbs2();
    Bounded out{Doubles::Zero(rows, width), Doubles::Zero(rows, width)};
    for (Index head = 0; head < c_.num_heads; ++head)
      for (Index r = 0; r < rows; ++r) {
        const Index begin = seen[static_cast<std::size_t>(r)].begin;
        const Index n = seen[static_cast<std::size_t>(r)].size(), at = head * d;
        const auto part = [&](const Doubles& m, Index which) -> Doubles {
          return m.block(begin, which * width + at, n, d);
        };
        const Doubles k = part(qkv.value, 1), v = part(qkv.value, 2);
        const Eigen::RowVectorXd q = qkv.value.row(r).segment(at, d);
        const Eigen::VectorXd score = scale * (k * q.transpose());
        const Eigen::VectorXd weight = (score.array() - score.maxCoeff()).exp();
        const Eigen::RowVectorXd p = weight.transpose() / weight.sum();
        const Eigen::RowVectorXd result = p * v;
        const double terms = (static_cast<double>(2 * d + 2 * n) + 40) * kFloat;
        // Of each score: by its key, and by float arithmetic (2 * d products, an exponential).
        const Eigen::VectorXd by_key =
            scale * scale * (part(squares, 1) * q.cwiseAbs2().transpose()) +
            (terms * scale * (k.cwiseAbs() * q.cwiseAbs().transpose())).cwiseAbs2();
        const Doubles from_mean = v.rowwise() - result;
        // d result / d q, (d of v, d of k)
        const Doubles slope =
            scale * (from_mean.transpose() * p.transpose().asDiagonal() * (k.rowwise() - p * k));
        const Eigen::VectorXd of_weight =
            by_key.array() + (round * round + terms * terms);  // relative
        const Eigen::RowVectorXd variance =
            (slope.cwiseAbs2() * squares.row(r).segment(at, d).transpose()).transpose() +
            p.cwiseAbs2() * (of_weight.asDiagonal() * from_mean.cwiseAbs2() + part(squares, 2));
        out.value.row(r).segment(at, d) = result;
        out.error.row(r).segment(at, d) = variance.cwiseSqrt() + terms * (p * v.cwiseAbs());
      }
    return out;
  }

  const RandomTower<float>& t_;
  const VisionTowerConfig& c_;
  TowerType type_;
};

struct Step {
  Index layer;
  std::string sublayer;
  Matrix<float> hidden;
};

// A forward pass and what stood after each sublayer.
struct Pass {
  std::vector<Step> steps;
  Matrix<float> tokens;
  VisionTower<float>::Scratch scratch;

  Pass(const VisionTower<float>& tower, MatrixView<const float> patches,
       const std::vector<VisionGrid>& grids, const Context& context)
      : tokens(patches.rows() / tower.config().merge_unit(), tower.config().out_hidden_size) {
    const Trace<float> trace = [&](Index layer, const char* sublayer, MatrixView<const float> x) {
      Matrix<float> copy(x.rows(), x.cols());
      copy.eigen() = x.eigen();
      steps.push_back({layer, sublayer, std::move(copy)});
    };
    tower.encode(patches, grids, tokens, scratch, context, {}, &trace);
  }
};

// The largest difference in deviations; NaN is more than any.
double largest_deviation(const Matrix<float>& got, const Bounded& expected) {
  REQUIRE(got.rows() == expected.value.rows());
  REQUIRE(got.cols() == expected.value.cols());
  double most = 0;
  for (Index i = 0; i < got.size(); ++i) {
    const double off = std::abs(static_cast<double>(got.data()[i]) - expected.value.data()[i]);
    const double part = off / expected.error.data()[i];
    if (!(part <= most)) most = part;
    if (std::isnan(part)) return part;
  }
  return most;
}

// Patches of one frame in all frames, in the order in which the tower computes them.
Matrix<float> sorted(const Matrix<float>& patches, const VisionOrder& order) {
  Matrix<float> m(patches.rows(), patches.cols());
  for (Index r = 0; r < m.rows(); ++r)
    m.eigen().row(r) = patches.eigen().row(order.patch[static_cast<std::size_t>(r)]);
  return m;
}

}  // namespace

// Faults: a scale of scores 5 % too large; no rotation; windows in the place of frames.
TEST_CASE("a tower that rounds: each sublayer is its definition, within what rounding can bring") {
  const VisionTowerConfig c = config();
  for (std::uint64_t seed = 1; seed <= 4; ++seed)
    for (const TowerType& type : kTowerTypes)
      for (const Path path : {Path::fast, Path::naive}) {
        CAPTURE(seed);
        CAPTURE(type.name);
        CAPTURE(static_cast<int>(path));
        std::mt19937_64 rng(100 + seed);
        const Index rows = 2 * std::uniform_int_distribution<Index>(2, 7)(rng),
                    cols = 2 * std::uniform_int_distribution<Index>(1, 7)(rng);
        const std::vector<VisionGrid> grids = {{1, rows, cols}, {1, 4, 2}};
        const Matrix<float> patches = random_matrix<float>(rng, rows * cols + 8, c.patch_width());
        const RandomTower<float> t(c, type, seed, type.precision);
        const Pass pass(t.tower, patches, grids, {.path = path});
        const Definition definition(t, type);
        const VisionOrder& order = pass.scratch.order;
        REQUIRE(pass.steps.size() == 7);
        CHECK(largest_deviation(pass.steps[0].hidden, definition.embed(sorted(patches, order))) <=
              kDeviations);
        for (std::size_t s = 1; s < pass.steps.size(); ++s) {
          const Step& step = pass.steps[s];
          CAPTURE(step.layer);
          CAPTURE(step.sublayer);
          const Bounded x = exact(pass.steps[s - 1].hidden);
          const Bounded y = step.sublayer == "mlp"
                                ? definition.mlp(x, step.layer)
                                : definition.self_attention(x, step.layer, order);
          const double off = largest_deviation(step.hidden, y);
          CHECK(off <= kDeviations);
          // A bound as large as what the sublayer adds would pass anything.
          CHECK(kDeviations * y.error.mean() < 0.5 * (y.value - x.value).cwiseAbs().mean());
        }
        const Bounded tokens = definition.merge(exact(pass.steps.back().hidden), order);
        CHECK(largest_deviation(pass.tokens, tokens) <= kDeviations);
      }
}

TEST_CASE("a tower that rounds: tokens have the same bits for any number of threads") {
  const VisionTowerConfig c = config();
  std::mt19937_64 rng(5);
  const std::vector<VisionGrid> grids = {{1, 14, 10}, {1, 2, 4}};
  const Matrix<float> patches = random_matrix<float>(rng, 148, c.patch_width());
  for (const TowerType& type : kTowerTypes) {
    CAPTURE(type.name);
    const RandomTower<float> t(c, type, 3, type.precision);
    const Pass serial(t.tower, patches, grids, {});
    for (const Index threads : {2, 3, 5}) {
      ThreadPool pool(threads);
      const Pass parallel(t.tower, patches, grids, {.executor = pool});
      CHECK(same_bits(parallel.tokens, serial.tokens));
    }
  }
}

TEST_CASE("a tower's own precision is that of a context, and the context stays as it is") {
  const VisionTowerConfig c = config();
  std::mt19937_64 rng(9);
  const std::vector<VisionGrid> grids = {{1, 8, 6}};
  const Matrix<float> patches = random_matrix<float>(rng, 48, c.patch_width());
  for (const TowerType& type : {kTowerTypes[1], kTowerTypes[2]}) {
    CAPTURE(type.name);
    const RandomTower<float> by_context(c, type, 3, {}), own(c, type, 3, type.precision),
        full(c, type, 3, Precision::full);
    CHECK(own.tower.precision() == type.precision);
    CHECK(!by_context.tower.precision());
    const Pass rounded(by_context.tower, patches, grids, {.precision = type.precision});
    const Pass exact(by_context.tower, patches, grids, {});
    const Context context;
    CHECK(same_bits(Pass(own.tower, patches, grids, context).tokens, rounded.tokens));
    CHECK(same_bits(Pass(full.tower, patches, grids, {.precision = type.precision}).tokens,
                    exact.tokens));
    CHECK(!same_bits(rounded.tokens, exact.tokens));
    // What the tower took is in the context's workspace, for whoever is next.
    const Index held = context.workspace.capacity();
    CHECK(held > 0);
    CHECK(same_bits(Pass(own.tower, patches, grids, context).tokens, rounded.tokens));
    CHECK(context.workspace.capacity() == held);
    CHECK(context.precision == Precision::full);
  }
}
