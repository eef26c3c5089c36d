// Seeded mutations of bytes: the same seed gives the same inputs on every machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// xorshift64*: small, and equal everywhere (std distributions are not).
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u | 1u) {}
  std::uint64_t next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545f4914f6cdd1du;
  }
  /// 0 .. n - 1
  std::size_t below(std::size_t n) { return static_cast<std::size_t>((next() >> 33) % n); }

 private:
  std::uint64_t state_;
};

/// `s` changed in one to four places: bytes flipped, set, cut, copied, or words of the dictionary
/// put in.
inline std::string mutate(std::string s, Random& random, std::span<const std::string_view> words) {
  const std::size_t changes = 1 + random.below(4);
  for (std::size_t i = 0; i < changes; ++i) {
    const std::size_t at = s.empty() ? 0 : random.below(s.size());
    switch (random.below(7)) {
      case 0:
        if (!s.empty()) s[at] = static_cast<char>(s[at] ^ (1 << random.below(8)));
        break;
      case 1:
        if (!s.empty()) s[at] = static_cast<char>(random.below(256));
        break;
      case 2:
        s.erase(at, 1 + random.below(4));
        break;
      case 3:
        s.insert(at, s.substr(random.below(s.size() + 1), random.below(16)));
        break;
      case 4:
        if (s.size() > at) s.resize(at);
        break;
      default: {
        const std::string_view word = words[random.below(words.size())];
        s.replace(at, random.below(word.size() + 1), word);
      }
    }
  }
  return s;
}
