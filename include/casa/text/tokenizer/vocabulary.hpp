// Which string has which id: a hash table over one block of text, and a byte trie for longest
// matches.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/core/error.hpp"

CASA_NAMESPACE_BEGIN
namespace io {
namespace detail {

/// A random number, different in each process, so that nobody can write a file whose strings
/// collide in the tables below.
inline std::uint64_t hash_seed() {
  static const std::uint64_t seed = [] {
    std::random_device device;
    return (std::uint64_t{device()} << 32 | device()) | 1;
  }();
  return seed;
}

inline std::uint64_t mix(std::uint64_t h) {
  h = (h ^ h >> 32) * hash_seed();
  return h ^ h >> 29;
}

inline std::uint64_t hash_text(std::string_view s) {
  std::uint64_t h = s.size(), eight = 0;
  std::size_t i = 0;
  for (; i + 8 <= s.size(); i += 8) {
    std::memcpy(&eight, s.data() + i, 8);
    h = mix(h ^ eight) + 0x9e3779b97f4a7c15u;
  }
  eight = 0;
  if (i < s.size()) std::memcpy(&eight, s.data() + i, s.size() - i);
  return mix(mix(h ^ eight));
}

/// Strings numbered 0, 1, 2, ... in the order of add(), found by content.
class StringTable {
 public:
  /// The number of the string: the next one, or that which an equal string already has.
  std::size_t add(std::string_view s) {
    if (2 * (size() + 1) > slots_.size()) grow();
    std::size_t slot = find_slot(s);
    if (slots_[slot] != 0) return slots_[slot] - 1;
    require(text_.size() + s.size() < (std::numeric_limits<std::uint32_t>::max)(),
            "StringTable: more than 4 GiB of strings");
    text_ += s;
    ends_.push_back(static_cast<std::uint32_t>(text_.size()));
    slots_[slot] = static_cast<std::uint32_t>(size());
    return size() - 1;
  }
  /// npos where it is not there.
  std::size_t find(std::string_view s) const {
    if (slots_.empty()) return npos;
    const std::uint32_t number = slots_[find_slot(s)];
    return number == 0 ? npos : number - 1;
  }
  std::string_view operator[](std::size_t i) const {
    const std::uint32_t begin = i == 0 ? 0 : ends_[i - 1];
    return std::string_view(text_).substr(begin, ends_[i] - begin);
  }
  std::size_t size() const { return ends_.size(); }

  static constexpr std::size_t npos = static_cast<std::size_t>(-1);

 private:
  std::size_t find_slot(std::string_view s) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t slot = hash_text(s) & mask;
    while (slots_[slot] != 0 && (*this)[slots_[slot] - 1] != s) slot = (slot + 1) & mask;
    return slot;
  }
  void grow() {
    slots_.assign((std::max)(std::size_t{16}, 2 * slots_.size()), 0);
    for (std::size_t i = 0; i < size(); ++i)
      slots_[find_slot((*this)[i])] = static_cast<std::uint32_t>(i + 1);
  }

  std::string text_;
  std::vector<std::uint32_t> ends_;
  std::vector<std::uint32_t> slots_;  // number + 1, 0: free; a power of two
};

/// Tokens of a model: string to id and back. Ids need not come in order.
class Vocabulary {
 public:
  void add(std::string_view token, int id) {
    const std::size_t number = strings_.size();
    require(strings_.add(token) == number, "token ", casa::quoted(token), " stands twice");
    ids_.push_back(id);
  }
  /// The same where a token may stand twice: the last id counts.
  void set(std::string_view token, int id) {
    const std::size_t number = strings_.add(token);
    if (number == ids_.size()) ids_.push_back(id);
    ids_[number] = id;
  }
  /// The id of a token; -1 if there is no such token.
  int find(std::string_view token) const {
    const std::size_t number = strings_.find(token);
    return number == StringTable::npos ? -1 : ids_[number];
  }
  std::size_t size() const { return ids_.size(); }
  /// f(token, id) for each token.
  template <class F>
  void for_each(F f) const {
    for (std::size_t i = 0; i < size(); ++i) f(strings_[i], ids_[i]);
  }

 private:
  StringTable strings_;
  std::vector<int> ids_;
};

/// A trie over bytes: one walk over a text finds all strings of the set that begin at a place. The
/// children of a node have consecutive numbers, so a node stores its first child and their count,
/// and their bytes lie side by side for memchr.
class ByteTrie {
 public:
  using Node = std::uint32_t;
  static constexpr Node root = 0;

  ByteTrie() : ByteTrie(std::vector<std::pair<std::string_view, int>>{}) {}
  /// Strings and their values (>= 0); strings are not empty and differ.
  explicit ByteTrie(std::vector<std::pair<std::string_view, int>> strings) {
    std::sort(strings.begin(), strings.end());
    struct Range {
      std::size_t begin, end, depth;
    };
    std::vector<Range> level = {{0, strings.size(), 0}}, next;
    push_node('\0', -1);
    for (Node node = 0; !level.empty(); level = std::move(next), next = {}) {
      for (const Range& range : level) {
        first_[node] = static_cast<Node>(value_.size());
        std::size_t i = range.begin;
        while (i < range.end && strings[i].first.size() == range.depth) ++i;  // ends in this node
        while (i < range.end) {
          const char byte = strings[i].first[range.depth];
          const std::size_t begin = i;
          while (i < range.end && strings[i].first[range.depth] == byte) ++i;
          const auto& [string, value] = strings[begin];
          push_node(byte, string.size() == range.depth + 1 ? value : -1);
          next.push_back({begin, i, range.depth + 1});
        }
        count_[node] = static_cast<std::uint16_t>(value_.size() - first_[node]);
        ++node;
      }
    }
    for (Node child = first_[root]; child < first_[root] + count_[root]; ++child)
      begins_[static_cast<unsigned char>(byte_[child])] = child;
  }

  /// The child of the root by this byte, 0 where there is none.
  Node begin(char byte) const { return begins_[static_cast<unsigned char>(byte)]; }
  /// The child by this byte, 0 where there is none.
  Node next(Node node, char byte) const {
    const char* bytes = byte_.data() + first_[node];
    const std::size_t count = count_[node];
    if (count > 8) {
      const void* hit = std::memchr(bytes, static_cast<unsigned char>(byte), count);
      if (hit == nullptr) return 0;
      return first_[node] + static_cast<Node>(static_cast<const char*>(hit) - bytes);
    }
    for (std::size_t i = 0; i < count; ++i)
      if (bytes[i] == byte) return first_[node] + static_cast<Node>(i);
    return 0;
  }
  /// The value of the string that ends here, -1 where none does.
  int value(Node node) const { return value_[node]; }

 private:
  void push_node(char byte, int value) {
    byte_ += byte;
    value_.push_back(value);
    first_.push_back(0);
    count_.push_back(0);
  }

  std::string byte_;
  std::vector<int> value_;
  std::vector<Node> first_;
  std::vector<std::uint16_t> count_;
  std::array<Node, 256> begins_ = {};
};

}  // namespace detail
}  // namespace io
CASA_NAMESPACE_END
