// Scalings that extend a rotary embedding beyond the length a model was trained at: the kinds of
// `rope_type` in published configs, each in the arithmetic of its reference.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <optional>
#include <variant>
#include <vector>

#include "casa/layers/rope.hpp"

CASA_NAMESPACE_BEGIN

/// Position interpolation (`rope_type` "linear", arXiv 2306.15595): every frequency divided.
struct LinearScaling {
  double factor = 1;  ///< finite, > 0
  friend bool operator==(const LinearScaling&, const LinearScaling&) = default;
};

/// Divides every frequency by the factor. Throws casa::error for a factor out of range.
template <Scalar T>
void scale_linear(std::vector<double>& inv_freq, const LinearScaling& s) {
  require(std::isfinite(s.factor) && s.factor > 0, "scale_linear: factor must be positive, got ",
          s.factor);
  for (double& f : inv_freq) f = static_cast<double>(static_cast<T>(f) / static_cast<T>(s.factor));
}

/// NTK-aware scaling whose base grows with the length of the stream (`rope_type` "dynamic").
struct DynamicScaling {
  double factor = 1;                   ///< finite, >= 1
  double max_position_embeddings = 0;  ///< up to this length nothing is scaled
  friend bool operator==(const DynamicScaling&, const DynamicScaling&) = default;
};

/// The base of the frequencies of a stream of `length` positions: theta up to
/// max_position_embeddings, then theta (factor length / max_position_embeddings - (factor -
/// 1))^(dim / (dim - 2)). Throws casa::error for a scaling out of range.
template <Scalar T>
double dynamic_theta(double theta, Index dim, const DynamicScaling& s, std::int64_t length) {
  require(std::isfinite(s.factor) && s.factor >= 1 && s.max_position_embeddings >= 1 && dim > 2,
          "dynamic_theta: needs factor >= 1, max_position_embeddings >= 1 and dim > 2, got ",
          s.factor, ", ", s.max_position_embeddings, ", ", dim);
  const auto reached = static_cast<double>(length);
  if (reached <= s.max_position_embeddings) return theta;
  const T stretched = static_cast<T>(s.factor) * static_cast<T>(reached) /
                          static_cast<T>(s.max_position_embeddings) -
                      static_cast<T>(s.factor - 1);
  const double exponent = static_cast<double>(dim) / static_cast<double>(dim - 2);
  const T power = static_cast<T>(
      std::pow(static_cast<double>(stretched), static_cast<double>(static_cast<T>(exponent))));
  return static_cast<double>(static_cast<T>(theta) * power);
}

/// YaRN (`rope_type` "yarn", arXiv 2309.00071): frequencies that make many turns over the trained
/// length are kept, those that make few are divided by the factor, those between are blended, and
/// rotated heads are multiplied by an attention factor.
struct YarnScaling {
  double factor = 1;  ///< how many times the trained length is to be reached; above 0
  double original_max_position_embeddings = 0;  ///< the trained length
  double beta_fast = 32;                        ///< turns from which on a frequency is kept
  double beta_slow = 1;                         ///< turns up to which it is divided
  bool truncate = true;                         ///< round the pairs where blending begins and ends
  std::optional<double> attention_factor = {};  ///< by default the paper's, from factor and mscale
  double mscale = 0;          ///< with mscale_all_dim: see attention_factor(); 0: not set
  double mscale_all_dim = 0;  ///< as mscale; if only one is set, neither is read
  friend bool operator==(const YarnScaling&, const YarnScaling&) = default;
};

/// The attention factor: what rotated heads are multiplied by. As given, or else, with
/// m(w) = 0.1 w log(factor) + 1 for a factor above 1 and 1 for others, m(mscale) /
/// m(mscale_all_dim) if both are set, and m(1) if not (arXiv 2309.00071, section 3.4).
inline double attention_factor(const YarnScaling& s) {
  if (s.attention_factor) return *s.attention_factor;
  const auto mscale = [&](double weight) {
    return s.factor <= 1 ? 1.0 : 0.1 * weight * std::log(s.factor) + 1.0;
  };
  if (s.mscale != 0 && s.mscale_all_dim != 0) return mscale(s.mscale) / mscale(s.mscale_all_dim);
  return mscale(1);
}

/// The frequencies of heads of `dim` values with base theta. Throws casa::error for a scaling out
/// of range.
template <Scalar T>
std::vector<double> yarn_inv_freq(Index dim, double theta, const YarnScaling& s) {
  require(std::isfinite(s.factor) && s.factor > 0 && s.original_max_position_embeddings > 0 &&
              s.beta_fast > 0 && s.beta_slow > 0,
          "yarn_inv_freq: needs factor, original_max_position_embeddings, beta_fast and beta_slow "
          "above 0, got ",
          s.factor, ", ", s.original_max_position_embeddings, ", ", s.beta_fast, ", ", s.beta_slow);
  require(std::isfinite(theta) && theta > 1, "yarn_inv_freq: theta must exceed 1, got ", theta);
  // The pair that makes `turns` turns over the trained length.
  const auto pair_of = [&](double turns) {
    return static_cast<double>(dim) *
           std::log(s.original_max_position_embeddings / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(theta));
  };
  double low = pair_of(s.beta_fast), high = pair_of(s.beta_slow);
  if (s.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = (std::max)(low, 0.0);
  high = (std::min)(high, static_cast<double>(dim - 1));
  if (low == high) high += 0.001;
  std::vector<double> inv_freq;
  for (Index i = 0; i < dim / 2; ++i) {
    const T power = detail::rope_power<T>(i, dim, theta);
    const T kept = T{1} / power, divided = T{1} / (static_cast<T>(s.factor) * power);
    const T ramp = std::clamp(
        (static_cast<T>(i) - static_cast<T>(low)) / static_cast<T>(high - low), T{0}, T{1});
    const T keep = T{1} - ramp;
    inv_freq.push_back(static_cast<double>(divided * (T{1} - keep) + kept * keep));
  }
  return inv_freq;
}

/// The frequency scaling of Llama 3.1 (`rope_type` "llama3").
/// Wavelengths are compared with original_max_position_embeddings / low_freq_factor (longer ones
/// are divided by the factor) and / high_freq_factor (shorter ones are kept).
struct Llama3Scaling {
  double factor = 8;            ///< above 0; see scale_llama3()
  double low_freq_factor = 1;   ///< above 0: turns over the trained length, see above
  double high_freq_factor = 4;  ///< above low_freq_factor: likewise
  double original_max_position_embeddings = 8192;  ///< the trained length
  friend bool operator==(const Llama3Scaling&, const Llama3Scaling&) = default;
};

/// Divides the frequencies of long wavelength by the factor, keeps the short ones, and blends those
/// between. Throws casa::error for a scaling out of range.
template <Scalar T>
void scale_llama3(std::vector<double>& inv_freq, const Llama3Scaling& s) {
  require(s.factor > 0 && s.low_freq_factor > 0 && s.high_freq_factor > s.low_freq_factor &&
              s.original_max_position_embeddings > 0,
          "scale_llama3: needs factor > 0, 0 < low_freq_factor < high_freq_factor and "
          "original_max_position_embeddings > 0, got ",
          s.factor, ", ", s.low_freq_factor, ", ", s.high_freq_factor, ", ",
          s.original_max_position_embeddings);
  const double context = s.original_max_position_embeddings;
  const T longest = static_cast<T>(context / s.low_freq_factor);
  const T shortest = static_cast<T>(context / s.high_freq_factor);
  for (double& f : inv_freq) {
    const T freq = static_cast<T>(f);
    // PyTorch divides a number by a tensor as reciprocal times number.
    const T wavelength = (T{1} / freq) * static_cast<T>(2 * std::numbers::pi);
    if (wavelength < shortest) continue;
    T scaled = freq / static_cast<T>(s.factor);
    if (wavelength <= longest) {
      const T turns = (T{1} / wavelength) * static_cast<T>(context);
      const T smooth = (turns - static_cast<T>(s.low_freq_factor)) /
                       static_cast<T>(s.high_freq_factor - s.low_freq_factor);
      scaled = (T{1} - smooth) * freq / static_cast<T>(s.factor) + smooth * freq;
    }
    f = static_cast<double>(scaled);
  }
}

/// The scaling of a model's rotary embedding; std::monostate: none.
using RopeScaling =
    std::variant<std::monostate, LinearScaling, DynamicScaling, YarnScaling, Llama3Scaling>;

CASA_NAMESPACE_END
