// Random numbers that are the same on every platform: xoshiro256++, whose state is four integers.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "casa/core/error.hpp"

CASA_NAMESPACE_BEGIN

/// xoshiro256++ (Blackman and Vigna, Scrambled Linear Pseudorandom Number Generators, ACM TOMS
/// 2021), its state filled from the seed by SplitMix64, as its authors advise. Period 2^256 - 1. A
/// copy continues as the original does. Not for secrets.
class Random {
 public:
  /// The whole state of a generator.
  using State = std::array<std::uint64_t, 4>;

  /// Filled from `seed`.
  explicit Random(std::uint64_t seed = 0) {
    for (std::uint64_t& word : state_) {  // SplitMix64
      seed += 0x9e3779b97f4a7c15u;
      std::uint64_t z = seed;
      z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
      z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
      word = z ^ (z >> 31);
    }
  }
  /// Continues from a saved state. Throws casa::error for four zeros, which the generator would
  /// never leave.
  explicit Random(const State& state) : state_(state) {
    require(state != State{}, "Random: state: expected a word that is not 0, got 0, 0, 0, 0");
  }

  /// 64 random bits.
  std::uint64_t next() {
    State& s = state_;
    const std::uint64_t result = std::rotl(s[0] + s[3], 23) + s[0];
    const std::uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = std::rotl(s[3], 45);
    return result;
  }

  /// Uniform in [0, 1): a multiple of 2^-53, each as likely.
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

  /// To save.
  const State& state() const { return state_; }
  friend bool operator==(const Random&, const Random&) = default;

 private:
  State state_{};
};

CASA_NAMESPACE_END
