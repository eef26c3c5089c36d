// A number that tells one model, or one saved stream, from another.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "casa/files/file.hpp"
#include "casa/linear/linear.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// A 64-bit hash of what is added, in order and with its lengths. It finds mistakes (another file,
/// a changed byte), not forgeries.
class Fingerprint {
 public:
  /// Adds bytes and their number.
  void add(std::span<const std::byte> bytes) {
    mix(bytes.size());
    for (; bytes.size() >= 8; bytes = bytes.subspan(8)) mix(word(bytes.first(8)));
    mix(word(bytes));
  }
  /// Adds the characters of a string and their number.
  void add(std::string_view s) { add(std::as_bytes(std::span(s.data(), s.size()))); }

  /// 16 hexadecimal digits.
  std::string hex() const {
    constexpr char digits[] = "0123456789abcdef";
    std::uint64_t h = hash_ ^ (hash_ >> 29);
    h *= 0x94d049bb133111ebu;
    h ^= h >> 32;
    std::string s;
    for (int shift = 60; shift >= 0; shift -= 4) s += digits[(h >> shift) & 15];
    return s;
  }

 private:
  static std::uint64_t word(std::span<const std::byte> bytes) {
    std::uint64_t w = 0;
    if (!bytes.empty()) std::memcpy(&w, bytes.data(), bytes.size());
    return w;
  }
  // A bijection of the state for a given word, and of the word for a given state: inputs that
  // differ in a single word never have the same hash.
  void mix(std::uint64_t w) {
    hash_ = std::rotl((hash_ ^ w) * 0x9e3779b97f4a7c15u, 27) + 0xbf58476d1ce4e5b9u;
  }

  std::uint64_t hash_ = 0x243f6a8885a308d3u;
};

/// The fingerprint of a model folder as it is loaded: config.json, every *.safetensors with its
/// name, and the type that weights are held in. Reads all of them. casa::error as read_file throws.
inline std::string model_fingerprint(const std::string& folder,
                                     WeightType type = WeightType::native) {
  std::vector<std::string> names;
  require(std::filesystem::is_directory(folder), folder, ": not a folder");
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().extension() == ".safetensors")
      names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  names.insert(names.begin(), "config.json");
  Fingerprint f;
  f.add(text("weights ", static_cast<int>(type)));
  for (const std::string& name : names) {
    f.add(name);
    f.add(read_file(text(folder, "/", name)).span());
  }
  return f.hex();
}

}  // namespace io
CASA_NAMESPACE_END
