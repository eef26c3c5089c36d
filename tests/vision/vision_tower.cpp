#include "casa/vision/vision_tower.hpp"

#include <doctest/doctest.h>

#include <deque>
#include <numeric>
#include <random>

#include "support/allocations.hpp"
#include "support/difference.hpp"

using namespace casa;

namespace {

VisionTowerConfig small(Index window_tokens = 2, Index merge = 2, Index frames = 2) {
  VisionTowerConfig c;
  c.depth = 3;
  c.hidden_size = 24;
  c.num_heads = 3;
  c.intermediate_size = 20;
  c.out_hidden_size = 10;
  c.patch_size = 3;
  c.temporal_patch_size = frames;
  c.spatial_merge_size = merge;
  c.window_size = window_tokens * merge * c.patch_size;
  c.fullatt_block_indexes = {1};
  return c;
}

template <class T>
Matrix<T> random_matrix(Index rows, Index cols, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  Matrix<T> m(rows, cols);
  for (Index i = 0; i < m.size(); ++i) m.data()[i] = static_cast<T>(normal(random));
  return m;
}

template <class T>
VisionTower<T> random_tower(const VisionTowerConfig& c) {
  std::deque<Matrix<float>> kept;
  unsigned seed = 1;
  const WeightSource source{[&](const TensorSpec& s) -> StoredView {
    const bool vector = s.cols == 0;
    kept.push_back(random_matrix<float>(vector ? 1 : s.rows, vector ? s.rows : s.cols, seed++));
    for (Index i = 0; i < kept.back().size(); ++i)
      kept.back().data()[i] *= vector ? 1.0f : 1 / std::sqrt(static_cast<float>(s.cols));
    return kept.back();
  }};
  return VisionTower<T>(c, source);
}

template <class T>
Matrix<T> encode(const VisionTower<T>& tower, MatrixView<const T> patches,
                 std::vector<VisionGrid> grids, const Context& context = {}) {
  typename VisionTower<T>::Scratch scratch;
  Matrix<T> tokens(patches.rows() / tower.config().merge_unit(), tower.config().out_hidden_size);
  tower.encode(patches, grids, tokens, scratch, context);
  return tokens;
}

Index rows_of(const std::vector<VisionGrid>& grids) {
  Index rows = 0;
  for (const auto& g : grids) rows += g.t * g.h * g.w;
  return rows;
}

}  // namespace

TEST_CASE("a patch sees its window, or its frame, and stands at its row and column") {
  std::mt19937 random(11);
  const auto below = [&](Index n) { return std::uniform_int_distribution<Index>(1, n)(random); };
  for (int round = 0; round < 40; ++round) {
    CAPTURE(round);
    const Index merge = below(3);
    const VisionTowerConfig c = small(below(4), merge);
    std::vector<VisionGrid> grids;
    for (Index i = below(3); i > 0; --i)
      grids.push_back({below(2), merge * below(7), merge * below(7)});
    VisionOrder order;
    order.assign(c, grids);
    REQUIRE(order.num_rows() == rows_of(grids));

    // By definition: where each patch of the input stands, and its window.
    struct Place {
      Index frame, row, col, window_row, window_col;
      bool operator==(const Place&) const = default;
    };
    std::vector<Place> places;
    Index frame = 0;
    for (const auto& [t, h, w] : grids)
      for (Index f = 0; f < t; ++f, ++frame)
        for (Index y = 0; y < h / merge; ++y)
          for (Index x = 0; x < w / merge; ++x)
            for (Index i = 0; i < merge; ++i)
              for (Index j = 0; j < merge; ++j)
                places.push_back({frame, y * merge + i, x * merge + j, y / c.window_tokens(),
                                  x / c.window_tokens()});
    std::vector<bool> met(places.size());
    for (Index r = 0; r < order.num_rows(); ++r) {
      const auto row = static_cast<std::size_t>(r);
      const auto input = static_cast<std::size_t>(order.patch[row]);
      REQUIRE(!met[input]);
      met[input] = true;
      const Place& p = places[input];
      CHECK(order.position[row] == Position{0, p.row, p.col});
      CHECK(order.token[row / static_cast<std::size_t>(c.merge_unit())] ==
            order.patch[row] / c.merge_unit());
      bool right = true;
      for (Index other = 0; other < order.num_rows(); ++other) {
        const Place& q =
            places[static_cast<std::size_t>(order.patch[static_cast<std::size_t>(other)])];
        const bool same_frame = q.frame == p.frame;
        const bool same_window =
            same_frame && q.window_row == p.window_row && q.window_col == p.window_col;
        right = right && order.frame[row].contains(other) == same_frame &&
                order.window[row].contains(other) == same_window;
      }
      CHECK(right);
    }
  }
}

TEST_CASE_TEMPLATE("images in one batch are those alone, whatever stands beside them", T, float,
                   double) {
  const auto tower = random_tower<T>(small());
  const std::vector<VisionGrid> grids = {{1, 6, 10}, {2, 4, 2}, {1, 2, 2}};
  const Matrix<T> patches = random_matrix<T>(rows_of(grids), tower.config().patch_width(), 5);
  const Matrix<T> together = encode<T>(tower, patches, grids);
  Index row = 0, token = 0;
  for (const auto& g : grids) {
    const Index rows = rows_of({g}), count = num_tokens(tower.config(), g);
    const Matrix<T> alone = encode<T>(tower, patches.view().middle_rows(row, rows), {g});
    const auto part = together.view().middle_rows(token, count).eigen();
    CHECK(casa_test::largest_difference(part, alone.eigen()) <=
          (std::is_same_v<T, double> ? 1e-12 : 1e-5) * casa_test::largest(alone.eigen()));
    row += rows;
    token += count;
  }
}

TEST_CASE("a still image may be given as one frame") {
  for (const Index frames : {1, 2, 3}) {
    const auto tower = random_tower<double>(small(2, 2, frames));
    const VisionTowerConfig& c = tower.config();
    const VisionGrid grid{1, 4, 6};
    const auto one = random_matrix<double>(24, c.frame_width(), 9);
    Matrix<double> all(24, c.patch_width());  // (channel, frame, row, column)
    const Index channel = c.patch_size * c.patch_size;
    for (Index r = 0; r < all.rows(); ++r)
      for (Index i = 0; i < all.cols(); ++i)
        all(r, i) = one(r, i / (frames * channel) * channel + i % channel);
    CHECK(encode<double>(tower, one, {grid}).eigen() == encode<double>(tower, all, {grid}).eigen());
  }
}

TEST_CASE("tokens are the same bits for any number of threads") {
  const auto tower = random_tower<float>(small(3));
  const std::vector<VisionGrid> grids = {{1, 14, 10}};
  const auto patches = random_matrix<float>(rows_of(grids), tower.config().patch_width(), 3);
  const auto serial = encode<float>(tower, patches, grids);
  for (const Index threads : {2, 3, 5}) {
    ThreadPool pool(threads);
    CHECK(encode<float>(tower, patches, grids, Context{.executor = pool}).eigen() ==
          serial.eigen());
  }
}

// Faults: the order of the last image is kept for another one of as many patches; that of another
// tower.
TEST_CASE("memory that other images, or another tower, left behind changes nothing") {
  const auto tower = random_tower<float>(small(2)), other = random_tower<float>(small(1));
  const Index width = tower.config().patch_width();
  const auto patches = random_matrix<float>(48, width, 7);
  VisionTower<float>::Scratch scratch;
  const Context context;
  Matrix<float> tokens(12, tower.config().out_hidden_size);
  const std::vector<VisionGrid> refused = {{1, 5, 2}};
  const auto check = [&](const VisionTower<float>& t, const std::vector<VisionGrid>& grids) {
    t.encode(patches, grids, tokens, scratch, context);
    CHECK(tokens.eigen() == encode<float>(t, patches, grids).eigen());
  };
  for (int round = 0; round < 2; ++round) {
    check(tower, {{1, 6, 8}});
    check(tower, {{1, 6, 8}});
    check(tower, {{1, 8, 6}});
    check(other, {{1, 8, 6}});
    check(other, {{1, 4, 6}, {1, 6, 4}});
    CHECK_THROWS_AS(tower.encode(patches, refused, tokens, scratch, context), casa::error);
    check(other, {{2, 4, 6}});
  }
}

TEST_CASE("what does not fit is refused with both sizes, and the next image is none the worse") {
  const auto tower = random_tower<double>(small());
  const Index width = tower.config().patch_width();
  VisionTower<double>::Scratch scratch;
  Matrix<double> tokens(6, 10);
  const Context context;
  const auto patches = random_matrix<double>(24, width, 1);
  const auto encode_grid = [&](VisionGrid g, MatrixView<const double> p, MatrixView<double> out) {
    tower.encode(p, {&g, 1}, out, scratch, context);
  };
  encode_grid({1, 4, 6}, patches, tokens);
  const Matrix<double> before = tokens;
  CHECK_THROWS_WITH_AS(encode_grid({1, 4, 5}, patches, tokens),
                       "vision grid 0: rows and columns of patches must be multiples of 2, got "
                       "1 x 4 x 5",
                       casa::error);
  CHECK_THROWS_AS(encode_grid({0, 4, 6}, patches, tokens), casa::error);
  CHECK_THROWS_AS(encode_grid({1, 4, 8}, patches, tokens), casa::error);
  CHECK_THROWS_AS(encode_grid({1, 4, 6}, patches.view().middle_cols(0, width - 1), tokens),
                  casa::error);
  CHECK_THROWS_AS(encode_grid({1, 4, 6}, patches, tokens.view().middle_rows(0, 5)), casa::error);
  CHECK_THROWS_AS(encode_grid({1, 4, 6}, patches, tokens.view().middle_cols(0, 9)), casa::error);
  // Grids beyond any memory fail by their size, not by trying.
  CHECK_THROWS_AS(encode_grid({Index{1} << 40, Index{1} << 40, 2}, patches, tokens), casa::error);
  CHECK_THROWS_AS(encode_grid({1, 2000000000, 2000000000}, patches, tokens), casa::error);
  encode_grid({1, 4, 6}, patches, tokens);
  CHECK(tokens.eigen() == before.eigen());
}

TEST_CASE("a warm tower allocates nothing, whatever it rounds") {
  if (!casa_test::must_count()) return;
  const auto tower = random_tower<float>(small());
  const std::vector<VisionGrid> grids = {{1, 6, 10}, {1, 2, 4}};
  const auto patches = random_matrix<float>(rows_of(grids), tower.config().patch_width(), 3);
  Matrix<float> tokens(patches.rows() / 4, tower.config().out_hidden_size);
  VisionTower<float>::Scratch scratch;
  ThreadPool pool(2);
  for (const Precision precision : {Precision::full, Precision::int8}) {
    const Context context{.executor = pool, .precision = precision};
    for (int i = 0; i < 2; ++i) tower.encode(patches, grids, tokens, scratch, context);
    const auto before = casa_test::allocation_count();
    tower.encode(patches, grids, tokens, scratch, context);
    CHECK(casa_test::allocation_count() == before);
  }
}
