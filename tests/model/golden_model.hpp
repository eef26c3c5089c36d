// Models of the golden sets, and the tolerance that layers and decoders are held to.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "casa/checkpoint/checkpoint_weights.hpp"
#include "casa/checkpoint/model_config.hpp"
#include "casa/model/decoder.hpp"
#include "golden.hpp"
#include "support/naive_token_insertion.hpp"

namespace golden {

inline std::vector<casa::Insertion> insertions(const casa::io::Json& list) {
  std::vector<casa::Insertion> v;
  for (const auto& [position, count] : Case::pairs(list)) v.push_back({position, count});
  return v;
}

inline std::vector<int> ids(const Case& c, std::string_view tensor) {
  return c.values<int>(tensor);
}

/// The decoder of a case of decoder/ or ladder/.
inline casa::DecoderConfig config(const Case& c) {
  return casa::io::decoder_config(c.description().at("config"));
}

template <class T>
casa::Decoder<T> decoder(const Case& c, const casa::DecoderConfig& config) {
  casa::io::CheckpointWeights weights(c.file);
  return casa::Decoder<T>(config,
                          casa::decoder_spec(config, "weight.model.", "weight.lm_head.weight"),
                          weights.weights());
}

inline casa::NaiveTokenInsertion naive_token_insertion(const Case& c) {
  return {config(c), [&](const casa::TensorSpec& spec) {
            const auto m = c.matrix<double>("weight." + spec.name);
            return casa::RowMatrix<double>(Eigen::Map<const casa::RowMatrix<double>>(
                m.data(), spec.rows, spec.cols == 0 ? 1 : spec.cols));
          }};
}

/// Largest |value|, and NaN if any is NaN.
template <class T>
double largest(const casa::Matrix<T>& m) {
  double sum = 0, most = 0;
  for (Index i = 0; i < m.size(); ++i) {
    sum += static_cast<double>(m.data()[i]);
    most = std::max(most, std::abs(static_cast<double>(m.data()[i])));
  }
  return std::isfinite(sum) ? most : std::nan("");
}

/// Largest |a - b|, and NaN if either is not finite anywhere.
template <class T>
double distance(const casa::Matrix<T>& a, const casa::Matrix<double>& b) {
  REQUIRE(a.rows() == b.rows());
  REQUIRE(a.cols() == b.cols());
  casa::Matrix<double> d(a.rows(), a.cols());
  for (Index i = 0; i < a.size(); ++i) d.data()[i] = static_cast<double>(a.data()[i]) - b.data()[i];
  return largest(d);
}

/// In double 1e-11 of the largest reference value. In float four times what the definitions,
/// computed in float, are off by, plus 64 eps of it.
template <class T>
void check_close(const casa::Matrix<T>& actual, const casa::Matrix<T>& naive,
                 const casa::Matrix<double>& reference) {
  if (reference.size() == 0) {
    CHECK(actual.size() == 0);
    return;
  }
  const double scale = largest(reference);
  const double bound = std::is_same_v<T, double>
                           ? 1e-11 * scale
                           : 4 * distance(naive, reference) + 64 * 0x1p-23 * scale;
  CHECK(distance(naive, reference) <= 1e-2 * scale);  // the bound must mean something
  CHECK(distance(actual, reference) <= bound);
}

}  // namespace golden
