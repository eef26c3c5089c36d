// Packed weights in a file: panels as PackedWeight holds them, mapped or read instead of made.
//
// Such a file belongs to one model folder, one kind of processor and one version of the packing
// code: its key names the state of the model's files and what this program packs a fixed matrix
// into. A file with another key is made anew. It is a safetensors file, one tensor U8 for each
// packed weight, under the name of the weight's first tensor; a hash of all bytes is checked each
// time. It guards against damage, not against people: who can write it can change the weights.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/checkpoint/safetensors.hpp"
#include "casa/checkpoint/safetensors_writer.hpp"
#include "casa/model/weight_reader.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

namespace detail {

/// A 64-bit hash of bytes at the rate of memory: four chains side by side, each a bijection of its
/// state for a given word, so that one changed word always changes the hash.
class QuickHash {
 public:
  void add(std::span<const std::byte> bytes) {
    mix(0, bytes.size());
    std::size_t at = 0;
    for (; at + 32 <= bytes.size(); at += 32)
      for (std::size_t i = 0; i < 4; ++i) {
        std::uint64_t word;
        std::memcpy(&word, bytes.data() + at + 8 * i, 8);
        mix(i, word);
      }
    for (; at < bytes.size(); ++at) mix(1, std::to_integer<std::uint64_t>(bytes[at]));
  }
  void add(std::string_view s) { add(std::as_bytes(std::span(s.data(), s.size()))); }
  /// 16 hexadecimal digits.
  std::string hex() const {
    std::uint64_t all = 0;
    for (const std::uint64_t c : chains_)
      all = std::rotl((all ^ c) * 0x9e3779b97f4a7c15u, 31) ^ (all >> 17);
    std::string s;
    for (int shift = 60; shift >= 0; shift -= 4) s += "0123456789abcdef"[(all >> shift) & 15];
    return s;
  }

 private:
  void mix(std::size_t chain, std::uint64_t word) {
    std::uint64_t& c = chains_[chain];
    c = std::rotl((c ^ word) * 0x9e3779b97f4a7c15u, 27) + 0xbf58476d1ce4e5b9u;
  }
  std::uint64_t chains_[4] = {1, 2, 3, 4};
};

inline constexpr std::string_view kPackedKey = "casa.packed", kPackedHash = "casa.hash";

}  // namespace detail

/// Packed weights by the names of their first tensors.
using PackedParts = std::map<std::string, PackedBytes, std::less<>>;

/// A text that differs between programs that pack weights differently: by instruction set, by
/// version or by scalar type.
template <Scalar T>
std::string packing_layout() {
  // Two pieces that fill neither their last panel nor the last group of a row.
  constexpr Index depth = 2 * kQuantGroup + 7;
  Matrix<T> w(2 * PackedWeight<T>::kWidth + 3, depth);
  std::uint32_t state = 1;
  for (Index i = 0; i < w.size(); ++i)
    w.data()[i] =
        static_cast<T>(static_cast<int>((state = state * 1664525 + 1013904223) >> 20)) / 1024;
  const StoredView pieces[] = {w, w};
  detail::QuickHash hash;
  for (const WeightType type :
       {WeightType::native, WeightType::bfloat16, WeightType::half, WeightType::int8}) {
    if (type != WeightType::native && !std::same_as<T, float>) continue;
    for (const PieceOrder order : {PieceOrder::stacked, PieceOrder::alternating}) {
      const PackedWeight<T> packed(pieces, depth, type, nullptr, order);
      hash.add(std::span(packed.data(0), static_cast<std::size_t>(packed.bytes())));
    }
  }
  return text("1 ", sizeof(T), " ", hash.hex());
}

/// An open file of packed weights. Views of it share the file's bytes.
class PackedFile {
 public:
  /// A file whose key fits and whose bytes have their hash.
  explicit PackedFile(SafeTensors file) : file_(std::make_shared<SafeTensors>(std::move(file))) {}

  /// The panels of the weight whose first tensor has that name. casa::error if there are none.
  PackedBytes get(std::string_view name) const {
    const TensorView& t = file_->at(name);
    require(reinterpret_cast<std::uintptr_t>(t.bytes.data()) % kAlignment == 0, t.where(),
            ": panels are not aligned to ", kAlignment, " bytes");
    return {{file_, t.bytes.data()}, static_cast<Index>(t.bytes.size())};
  }

 private:
  std::shared_ptr<SafeTensors> file_;
};

/// The file at `path`, if it is there and has that key. casa::error for a file that is no file of
/// packed weights (it is left alone), or is damaged.
inline std::optional<PackedFile> open_packed_file(const std::string& path, std::string_view key,
                                                  const LoadOptions& options) {
  if (!detail::file_exists(path)) return std::nullopt;
  SafeTensors file = read_safetensors(path, options);
  const Metadata& notes = file.metadata();
  const auto own = notes.find(detail::kPackedKey), hash = notes.find(detail::kPackedHash);
  require(own != notes.end() && hash != notes.end(), path,
          ": is no file of packed weights, and is not replaced by one: give another name");
  if (own->second != key) return std::nullopt;
  detail::QuickHash found;
  for (const TensorView& t : file.tensors()) found.add(t.bytes);
  require(found.hex() == hash->second, path, ": packed weights are damaged: their hash is ",
          found.hex(), ", expected ", hash->second, " (remove the file: it is made anew)");
  return PackedFile(std::move(file));
}

/// Writes packed weights: whole, or the old file stays (casa::error).
inline void write_packed_file(const std::string& path, std::string_view key,
                              const PackedParts& parts) {
  std::vector<NamedTensor> tensors;
  detail::QuickHash hash;
  for (const auto& [name, part] : parts) {  // sorted by name, as the writer sorts them
    const std::span bytes(part.data.get(), static_cast<std::size_t>(part.size));
    tensors.push_back({name, DType::U8, {part.size}, bytes});
    hash.add(bytes);
  }
  write_safetensors(path, std::move(tensors),
                    {{std::string(detail::kPackedKey), std::string(key)},
                     {std::string(detail::kPackedHash), hash.hex()}},
                    kAlignment);
}

}  // namespace io
CASA_NAMESPACE_END
