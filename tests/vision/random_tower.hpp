// Vision towers of random weights, as tests of what they round need them.
#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <string>

#include "casa/vision/vision_tower.hpp"
#include "support/random_matrix.hpp"

namespace tower_test {

using namespace casa;

/// What weights are held as, and what is rounded besides.
struct TowerType {
  const char* name;
  WeightType weights;
  Precision precision;
};
inline constexpr TowerType kTowerTypes[] = {{"float", WeightType::native, Precision::full},
                                            {"bfloat16", WeightType::bfloat16, Precision::storage},
                                            {"int8", WeightType::int8, Precision::int8}};

/// A tower and the values its weights came from, by name.
template <class T>
struct RandomTower {
  std::map<std::string, Matrix<float>> values;
  VisionTower<T> tower;
  VisionTowerSpec spec;

  explicit RandomTower(const VisionTowerConfig& c, const TowerType& type = kTowerTypes[0],
                       std::uint64_t seed = 7)
      : RandomTower(c, type, seed, type.precision) {}
  RandomTower(const VisionTowerConfig& c, const TowerType& type, std::uint64_t seed,
              std::optional<Precision> precision)
      : spec(vision_tower_spec(c)) {
    std::mt19937_64 rng(seed);
    const WeightSource source{[&](const TensorSpec& s) -> StoredView {
      const bool vector = s.cols == 0;
      const double sigma = vector ? 1 : 1 / std::sqrt(static_cast<double>(s.cols));
      const auto at =
          values.emplace(s.name, casa_test::random_matrix<float>(rng, vector ? 1 : s.rows,
                                                                 vector ? s.rows : s.cols, sigma));
      return at.first->second;
    }};
    tower = VisionTower<T>(c, source, type.weights, precision);
  }
};

}  // namespace tower_test
