#include "casa/vision/vision_frames.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <random>

#include "support/allocations.hpp"
#include "support/difference.hpp"
#include "support/random_matrix.hpp"
#include "vision/random_tower.hpp"

using namespace casa;
using namespace casa_test;
using namespace tower_test;

namespace {

using Doubles = RowMatrix<double>;

// 2 heads of 32, so that pairs of bfloat16 fill vectors.
VisionTowerConfig config(std::vector<Index> full, Index window_tokens = 2) {
  VisionTowerConfig c;
  c.depth = 4;
  c.hidden_size = 64;
  c.num_heads = 2;
  c.intermediate_size = 72;
  c.out_hidden_size = 24;
  c.patch_size = 4;
  c.window_size = window_tokens * c.spatial_merge_size * c.patch_size;
  c.fullatt_block_indexes = std::move(full);
  return c;
}

template <class T>
Matrix<T> whole(const VisionTower<T>& tower, const Matrix<T>& patches,
                const std::vector<VisionGrid>& grids, const Context& context = {}) {
  typename VisionTower<T>::Scratch scratch;
  Matrix<T> tokens(patches.rows() / tower.config().merge_unit(), tower.config().out_hidden_size);
  tower.encode(patches, grids, tokens, scratch, context);
  return tokens;
}

template <class T>
Matrix<T> next(VisionFrames<T>& frames, const VisionTower<T>& tower, const Matrix<T>& patches,
               const std::vector<VisionGrid>& grids, const Context& context = {}) {
  Matrix<T> tokens(patches.rows() / tower.config().merge_unit(), tower.config().out_hidden_size);
  frames.encode(patches, grids, tokens, context);
  return tokens;
}

Index frame_rows(const std::vector<VisionGrid>& grids) {
  Index rows = 0;
  for (const auto& g : grids) rows += g.t * g.h * g.w;
  return rows;
}

// Changes one value of a patch.
template <class T>
void change(Matrix<T>& patches, Index patch, std::mt19937_64& rng) {
  const auto at = std::uniform_int_distribution<Index>(0, patches.cols() - 1)(rng);
  patches(patch, at) += T(0.5);
}

// Rows of the windows that these patches are in, by definition.
Index rows_of_windows(const VisionTowerConfig& c, const std::vector<VisionGrid>& grids,
                      const std::vector<Index>& patches) {
  VisionOrder order;
  order.assign(c, grids);
  Index count = 0;
  for (std::size_t r = 0; r < order.patch.size(); ++r) {
    bool any = false;
    for (std::size_t other = 0; other < order.patch.size(); ++other)
      any = any || (order.window[r].contains(static_cast<Index>(other)) &&
                    std::ranges::find(patches, order.patch[other]) != patches.end());
    count += any;
  }
  return count;
}

// What approximate reuse is, in double, row by row: each window's rows have keys and values of
// their own, from when they were computed last.
class FrameDefinition {
 public:
  explicit FrameDefinition(const RandomTower<double>& t) : t_(t), c_(t.tower.config()) {}

  // Computes the rows in `rows`.
  Doubles operator()(const Matrix<double>& patches, const VisionOrder& order,
                     const std::vector<Index>& rows, const Doubles& last) {
    const VisionTowerSpec spec = vision_tower_spec(c_);
    const auto count = static_cast<Index>(rows.size());
    Doubles x(count, c_.patch_width());
    for (Index i = 0; i < count; ++i) x.row(i) = patches.eigen().row(order.patch[at(rows, i)]);
    x = linear(x, spec.patch_embed);
    for (Index b = 0; b < c_.depth; ++b) {
      const VisionBlockSpec& s = spec.blocks[static_cast<std::size_t>(b)];
      Doubles& kept = kept_[b];
      if (kept.rows() != order.num_rows()) kept = Doubles::Zero(order.num_rows(), 3 * x.cols());
      Doubles qkv = linear(norm(x, s.norm1), s.qkv);
      for (Index i = 0; i < count; ++i) {
        const Index row = rows[static_cast<std::size_t>(i)];
        for (Index head = 0; head < 2 * c_.num_heads; ++head)
          rotate(qkv, i, head, order.position[static_cast<std::size_t>(row)]);
        kept.row(row) = qkv.row(i);
      }
      Doubles out(count, x.cols());
      for (Index i = 0; i < count; ++i) {
        const std::size_t row = at(rows, i);
        attend(qkv.row(i), kept, c_.is_full_attention(b) ? order.frame[row] : order.window[row],
               out.row(i));
      }
      x += linear(out, s.proj);
      const Doubles normed = norm(x, s.norm2);
      const Eigen::ArrayXXd gate = linear(normed, s.mlp.gate).array();
      const Doubles hidden =
          (gate / (1 + (-gate).exp()) * linear(normed, s.mlp.up).array()).matrix();
      x += linear(hidden, s.mlp.down);
    }
    const Doubles normed = norm(x, spec.merger_norm);
    const Index unit = c_.merge_unit();
    Doubles inner = linear(Eigen::Map<const Doubles>(normed.data(), count / unit, unit * x.cols()),
                           spec.merger_in);
    inner = inner.unaryExpr([](double v) { return v * 0.5 * (1 + std::erf(v / std::sqrt(2.0))); });
    const Doubles merged = linear(inner, spec.merger_out);
    Doubles tokens = last;
    for (Index i = 0; i < count / unit; ++i)
      tokens.row(order.token[at(rows, i * unit) / static_cast<std::size_t>(unit)]) = merged.row(i);
    return tokens;
  }

 private:
  static std::size_t at(const std::vector<Index>& rows, Index i) {
    return static_cast<std::size_t>(rows[static_cast<std::size_t>(i)]);
  }
  Doubles linear(const Doubles& x, const LinearSpec& spec) const {
    Doubles y = x * t_.values.at(spec.weight.name).eigen().cast<double>().transpose();
    if (spec.bias) y.rowwise() += t_.values.at(spec.bias->name).eigen().cast<double>().row(0);
    return y;
  }
  Doubles norm(const Doubles& x, const TensorSpec& spec) const {
    const Doubles w = t_.values.at(spec.name).eigen().cast<double>();
    Doubles y = x;
    for (Index r = 0; r < x.rows(); ++r)
      y.row(r) =
          x.row(r).cwiseProduct(w.row(0)) /
          std::sqrt(x.row(r).squaredNorm() / static_cast<double>(x.cols()) + c_.rms_norm_eps);
    return y;
  }
  void rotate(Doubles& qkv, Index row, Index head, const Position& p) const {
    const Rope rope = make_vision_rope<double>(c_.head_dim(), c_.rope_theta);
    const Index pairs = rope.num_pairs(), first = head * c_.head_dim();
    for (Index i = 0; i < pairs; ++i) {
      const auto pair = static_cast<std::size_t>(i);
      const double angle =
          static_cast<double>(rope.axis[pair] == RopeAxis::h ? p.h : p.w) * rope.inv_freq[pair];
      double &a = qkv(row, first + i), &b = qkv(row, first + pairs + i);
      const double rotated = a * std::cos(angle) - b * std::sin(angle);
      b = b * std::cos(angle) + a * std::sin(angle);
      a = rotated;
    }
  }
  void attend(const Eigen::RowVectorXd& q, const Doubles& kept, Interval seen,
              Eigen::Ref<Eigen::RowVectorXd> out) const {
    const Index d = c_.head_dim(), width = c_.hidden_size;
    for (Index head = 0; head < c_.num_heads; ++head) {
      const auto part = [&](Index which) {
        return kept.block(seen.begin, which * width + head * d, seen.size(), d);
      };
      const Eigen::VectorXd score =
          default_scale(d) * (part(1) * q.segment(head * d, d).transpose());
      const Eigen::VectorXd weight = (score.array() - score.maxCoeff()).exp();
      out.segment(head * d, d) = weight.transpose() / weight.sum() * part(2);
    }
  }

  const RandomTower<double>& t_;
  const VisionTowerConfig& c_;
  std::map<Index, Doubles> kept_;
};

}  // namespace

// Faults: windows that are not sequences of their own in the whole frame; no windows added where
// bfloat16 would not be rounded; only the first patch of a window compared; the state of windows
// not put back; another size, or precision, taken for the same frame.
TEST_CASE("exact: tokens have the bits of a frame that is computed as a whole") {
  for (std::uint64_t seed = 1; seed <= 6; ++seed)
    for (const TowerType& type : kTowerTypes)
      for (const std::vector<Index>& full : {std::vector<Index>{2}, {0, 3}, {}}) {
        CAPTURE(seed);
        CAPTURE(type.name);
        CAPTURE(full.size());
        std::mt19937_64 rng(seed);
        const auto below = [&](Index n) { return std::uniform_int_distribution<Index>(1, n)(rng); };
        const VisionTowerConfig c = config(full, below(3));
        const RandomTower<float> t(c, type);
        VisionFrames<float> frames(t.tower);
        CHECK(frames.exact_blocks() == (full.empty() ? c.depth : full[0]));
        for (int size = 0; size < 2; ++size) {
          const std::vector<VisionGrid> grids = {{1, 2 * below(7), 2 * below(7)},
                                                 {below(2), 2 * below(3), 2}};
          const Index rows = frame_rows(grids);
          Matrix<float> patches = random_matrix<float>(rng, rows, c.patch_width());
          for (int frame = 0; frame < 6; ++frame) {
            CAPTURE(frame);
            std::vector<Index> changes;
            if (frame == 1 || frame == 2) changes = {below(rows) - 1};  // one value of a patch
            if (frame == 4)
              for (Index n = below(4); n > 0; --n) changes.push_back(below(rows) - 1);
            for (const Index patch : changes) change(patches, patch, rng);
            if (frame == 5) patches = random_matrix<float>(rng, rows, c.patch_width());
            const std::int64_t before = frames.counts().computed;
            CHECK(same_bits(next(frames, t.tower, patches, grids), whole(t.tower, patches, grids)));
            CHECK(frames.last_is_exact());
            const std::int64_t computed = frames.counts().computed - before;
            const Index expected = frame % 5 == 0 ? rows : rows_of_windows(c, grids, changes);
            // Beside the windows that changed, those that bring more than six tokens.
            CHECK(computed >= expected);
            CHECK(computed <=
                  (std::max)(expected,
                             changes.empty()
                                 ? 0
                                 : 6 * c.merge_unit() + rows_of_windows(c, grids, {rows - 1}) +
                                       c.merge_unit() * c.window_tokens() * c.window_tokens()));
          }
        }
        CHECK(frames.counts().frames == 12);
        CHECK(frames.counts().unchanged == 2);
      }
}

TEST_CASE("exact: a value that is NaN, or a zero of another sign, is what it is") {
  const VisionTowerConfig c = config({2});
  const RandomTower<float> t(c);
  VisionFrames<float> frames(t.tower);
  std::mt19937_64 rng(3);
  const std::vector<VisionGrid> grids = {{1, 8, 8}};
  Matrix<float> patches = random_matrix<float>(rng, 64, c.patch_width());
  patches(5, 5) = 0.0f;
  next(frames, t.tower, patches, grids);
  patches(5, 5) = -0.0f;
  next(frames, t.tower, patches, grids);
  CHECK(frames.counts().unchanged == 0);
  patches(40, 1) = std::numeric_limits<float>::quiet_NaN();
  const Matrix<float> tokens = next(frames, t.tower, patches, grids);
  CHECK(!tokens.eigen().allFinite());
  patches(40, 1) = 1;
  CHECK(same_bits(next(frames, t.tower, patches, grids), whole(t.tower, patches, grids)));
}

// Faults: own keys only, not all of the frame; keys not put back; angles of the first rows; tokens
// of windows that were not computed taken from nowhere.
TEST_CASE("approximate: windows that changed see the others as they were when they were computed") {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    CAPTURE(seed);
    std::mt19937_64 rng(seed);
    const auto below = [&](Index n) { return std::uniform_int_distribution<Index>(1, n)(rng); };
    const VisionTowerConfig c =
        config(seed % 2 == 0 ? std::vector<Index>{1, 3} : std::vector<Index>{2}, below(3));
    const RandomTower<double> t(c);
    VisionFrames<double> frames(t.tower, {.reuse = PatchReuse::approximate});
    FrameDefinition definition(t);
    const std::vector<VisionGrid> grids = {{1, 2 * below(6), 2 * below(6)}, {2, 4, 2}};
    const Index rows = frame_rows(grids);
    VisionOrder order;
    order.assign(c, grids);
    Matrix<double> patches = random_matrix<double>(rng, rows, c.patch_width());
    Doubles expected = Doubles::Zero(rows / c.merge_unit(), c.out_hidden_size);
    for (int frame = 0; frame < 5; ++frame) {
      CAPTURE(frame);
      std::vector<Index> changes;
      for (Index n = frame == 3 ? 0 : below(3); n > 0; --n) changes.push_back(below(rows) - 1);
      if (frame > 0)
        for (const Index patch : changes) change(patches, patch, rng);
      std::vector<Index> computed;
      for (Index r = 0; r < rows; ++r) {
        const Interval window = order.window[static_cast<std::size_t>(r)];
        bool any = frame == 0;
        for (const Index patch : changes)
          for (Index other = window.begin; other < window.end; ++other)
            any = any || order.patch[static_cast<std::size_t>(other)] == patch;
        if (any) computed.push_back(r);
      }
      const std::int64_t before = frames.counts().computed;
      const Matrix<double> tokens = next(frames, t.tower, patches, grids);
      if (!computed.empty()) expected = definition(patches, order, computed, expected);
      CHECK(largest_difference(tokens.eigen(), expected) <= 1e-11 * largest(expected));
      CHECK(frames.counts().computed - before == static_cast<Index>(computed.size()));
    }
  }
}

TEST_CASE(
    "approximate: bits of the whole frame where all windows are computed, or none sees another") {
  std::mt19937_64 rng(5);
  const std::vector<VisionGrid> grids = {{1, 10, 14}};
  for (const TowerType& type : kTowerTypes) {
    CAPTURE(type.name);
    const VisionTowerConfig c = config({1, 2});
    const RandomTower<float> t(c, type), windows(config({}));
    VisionFrames<float> frames(t.tower, {.reuse = PatchReuse::approximate});
    VisionFrames<float> apart(windows.tower, {.reuse = PatchReuse::approximate});
    Matrix<float> patches = random_matrix<float>(rng, 140, c.patch_width());
    for (int frame = 0; frame < 3; ++frame) {
      CHECK(same_bits(next(frames, t.tower, patches, grids), whole(t.tower, patches, grids)));
      CHECK(frames.last_is_exact());
      patches = random_matrix<float>(rng, 140, c.patch_width());
    }
    const Matrix<float> before = next(frames, t.tower, patches, grids);
    CHECK(same_bits(next(frames, t.tower, patches, grids), before));
    for (int frame = 0; frame < 3; ++frame) {
      CHECK(same_bits(next(apart, windows.tower, patches, grids),
                      whole(windows.tower, patches, grids)));
      change(patches, 20 * frame, rng);
    }
  }
}

TEST_CASE("approximate: tokens of windows that did not change stay, and the error is what it is") {
  std::mt19937_64 rng(6);
  const std::vector<VisionGrid> grids = {{1, 8, 12}};
  const VisionTowerConfig c = config({2});
  const RandomTower<float> t(c);
  VisionFrames<float> frames(
      t.tower, {.reuse = PatchReuse::approximate, .refresh_every = 2, .measure_error = true});
  Matrix<float> patches = random_matrix<float>(rng, 96, c.patch_width());
  Matrix<float> last = next(frames, t.tower, patches, grids);
  VisionOrder order;
  order.assign(c, grids);
  double sum = 0, most = 0;
  for (int frame = 1; frame <= 4; ++frame) {
    CAPTURE(frame);
    const Index patch = 13 * frame;
    change(patches, patch, rng);
    const Matrix<float> tokens = next(frames, t.tower, patches, grids);
    const Matrix<float> right = whole(t.tower, patches, grids);
    const Doubles off = tokens.eigen().cast<double>() - right.eigen().cast<double>();
    const double error = off.norm() / right.eigen().cast<double>().norm();
    CHECK(frames.last_is_exact() == (frame == 3));
    CHECK((error > 0) == (frame != 3));
    sum += error;
    most = (std::max)(most, error);
    if (frame != 3)
      for (std::size_t r = 0; r < order.patch.size(); ++r) {
        const Interval w = order.window[r];
        bool stays = true;
        for (Index i = w.begin; i < w.end; ++i)
          stays = stays && order.patch[static_cast<std::size_t>(i)] != patch;
        const Index token = order.token[r / static_cast<std::size_t>(c.merge_unit())];
        CHECK(same_bits(tokens.row(token), last.row(token), tokens.cols()) == stays);
      }
    last = tokens;
  }
  const FrameReuseCounts& counts = frames.counts();
  CHECK(counts.measured == 3);
  CHECK(counts.in_part == 3);
  CHECK(counts.error_sum == doctest::Approx(sum).epsilon(1e-9));
  CHECK(counts.largest_error == doctest::Approx(most).epsilon(1e-9));
}

TEST_CASE("approximate: small changes are none until they are no longer small") {
  std::mt19937_64 rng(8);
  const std::vector<VisionGrid> grids = {{1, 4, 8}};
  const VisionTowerConfig c = config({2});
  const RandomTower<float> t(c);
  VisionFrames<float> frames(t.tower,
                             {.reuse = PatchReuse::approximate, .largest_difference = 0.01});
  Matrix<float> patches = random_matrix<float>(rng, 32, c.patch_width());
  const Matrix<float> first = next(frames, t.tower, patches, grids);
  for (int frame = 1; frame <= 3; ++frame) {  // all values by 0.004 a frame: 0.012 in the third
    CAPTURE(frame);
    patches.eigen().array() += 0.004f;
    const Matrix<float> tokens = next(frames, t.tower, patches, grids);
    CHECK(same_bits(tokens, first) == (frame < 3));
    if (frame == 3) CHECK(same_bits(tokens, whole(t.tower, patches, grids)));
  }
}

TEST_CASE("reuse: threads change no bit, and a warm frame allocates nothing") {
  std::mt19937_64 rng(9);
  const std::vector<VisionGrid> grids = {{1, 12, 10}};
  const VisionTowerConfig c = config({2});
  for (const PatchReuse reuse : {PatchReuse::exact, PatchReuse::approximate})
    for (const TowerType& type : kTowerTypes) {
      CAPTURE(type.name);
      const RandomTower<float> t(c, type);
      ThreadPool pool(3);
      const Context one, three{.executor = pool};
      VisionFrames<float> a(t.tower, {.reuse = reuse}), b(t.tower, {.reuse = reuse});
      Matrix<float> patches = random_matrix<float>(rng, 120, c.patch_width());
      for (int frame = 0; frame < 4; ++frame) {
        CHECK(same_bits(next(a, t.tower, patches, grids, one),
                        next(b, t.tower, patches, grids, three)));
        change(patches, 17 * frame, rng);
      }
      if (!must_count()) continue;
      Matrix<float> tokens(30, c.out_hidden_size);
      for (int frame = 0; frame < 3; ++frame) {
        const auto before = allocation_count();
        change(patches, 50, rng);
        b.encode(patches, grids, tokens, three);
        if (frame == 2) CHECK(allocation_count() == before);
      }
    }
}

TEST_CASE("reuse: what was kept does not outlive its frame's size, precision, width or an error") {
  std::mt19937_64 rng(10);
  const VisionTowerConfig c = config({2});
  const RandomTower<float> t(c);
  for (const PatchReuse reuse : {PatchReuse::exact, PatchReuse::approximate}) {
    VisionFrames<float> frames(t.tower, {.reuse = reuse});
    Matrix<float> patches = random_matrix<float>(rng, 48, c.patch_width());
    const auto check = [&](const std::vector<VisionGrid>& grids, const Context& context,
                           bool anew) {
      const std::int64_t before = frames.counts().computed;
      CHECK(same_bits(next(frames, t.tower, patches, grids, context),
                      whole(t.tower, patches, grids, context)));
      CHECK(frames.counts().computed - before == (anew ? 48 : 0));
    };
    const std::vector<VisionGrid> wide = {{1, 6, 8}}, high = {{1, 8, 6}}, refused = {{1, 5, 2}};
    check(wide, {}, true);
    check(wide, {}, false);
    check(high, {}, true);
    check(wide, {}, true);
    check(wide, {.path = Path::naive}, true);
    check(wide, {}, true);
    Matrix<float> tokens(12, c.out_hidden_size);
    CHECK_THROWS_AS(frames.encode(patches, refused, tokens, Context{}), casa::error);
    check(wide, {}, false);
    frames.forget();
    check(wide, {}, true);
    patches = random_matrix<float>(rng, 48, c.frame_width());  // of one frame each
    check(wide, {}, true);
    check(wide, {}, false);
    const Index states = reuse == PatchReuse::exact ? 1 : 2;
    const Index bytes =
        4 * (48 * (c.frame_width() + states * c.hidden_size) + 12 * c.out_hidden_size);
    CHECK(frames.bytes() == bytes);
    VisionFrames<float> bounded(t.tower, {.reuse = reuse, .most_bytes = bytes - 1});
    for (int i = 0; i < 2; ++i)
      CHECK(same_bits(next(bounded, t.tower, patches, wide), whole(t.tower, patches, wide)));
    CHECK(bounded.counts().computed == 96);
    CHECK(bounded.bytes() == 0);
    VisionFrames<float> fits(t.tower, {.reuse = reuse, .most_bytes = bytes});
    for (int i = 0; i < 2; ++i) next(fits, t.tower, patches, wide);
    CHECK(fits.counts().computed == 48);
  }
  const RandomTower<float> by_context(c, kTowerTypes[2], 7, std::nullopt);
  VisionFrames<float> rounds(by_context.tower);
  const Matrix<float> same = random_matrix<float>(rng, 16, c.patch_width());
  for (const Precision precision : {Precision::full, Precision::int8, Precision::full}) {
    const Context context{.precision = precision};
    CHECK(same_bits(next(rounds, by_context.tower, same, {{1, 4, 4}}, context),
                    whole(by_context.tower, same, {{1, 4, 4}}, context)));
  }
  const RandomTower<float> bf16(c, kTowerTypes[1]);
  VisionFrames<float> none(bf16.tower, {.reuse = PatchReuse::none});
  const Matrix<float> patches = random_matrix<float>(rng, 16, c.patch_width());
  for (int i = 0; i < 2; ++i)
    CHECK(same_bits(next(none, bf16.tower, patches, {{1, 4, 4}}),
                    whole(bf16.tower, patches, {{1, 4, 4}})));
  CHECK(none.counts().computed == 32);
}

TEST_CASE("reuse: options out of range are refused by name and value") {
  const RandomTower<float> t(config({2}));
  const auto make = [&](const FrameReuse& o) { VisionFrames<float> frames(t.tower, o); };
  CHECK_THROWS_WITH_AS(make({.largest_difference = 0.1}),
                       "FrameReuse: largest_difference is of approximate reuse, and must be 0 "
                       "without, got 0.1",
                       casa::error);
  CHECK_THROWS_AS(make({.reuse = PatchReuse::approximate, .largest_difference = -1}), casa::error);
  CHECK_THROWS_AS(make({.reuse = PatchReuse::approximate,
                        .largest_difference = std::numeric_limits<double>::quiet_NaN()}),
                  casa::error);
  CHECK_THROWS_AS(make({.refresh_every = -1}), casa::error);
  CHECK_THROWS_AS(make({.most_bytes = -1}), casa::error);
}
