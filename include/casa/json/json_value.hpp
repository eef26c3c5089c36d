// An immutable JSON value whose accessors check kind and range and name the path in their errors.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <iterator>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "casa/core/config.hpp"
#include "casa/core/error.hpp"
#include "casa/json/floating_text.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

namespace detail {

struct JsonObject;

/// One value, 16 bytes, so that parsing stays below 20 times the text. Null pointers stand for "",
/// [] and {}.
struct JsonNode {
  std::variant<std::monostate, bool, std::int64_t, std::uint64_t, double,
               std::unique_ptr<std::string>, std::unique_ptr<std::vector<JsonNode>>,
               std::unique_ptr<JsonObject>>
      value;
};

struct JsonMember {
  std::string key;
  JsonNode value;
};

struct JsonObject {
  std::vector<JsonMember> members;    // in the order of the text
  std::vector<std::uint32_t> by_key;  // members sorted by key; empty when there are few
};

struct JsonDocument {
  std::string name;
  JsonNode root;
};

inline const JsonMember* find_member(const JsonObject& object, std::string_view key) {
  if (object.by_key.empty()) {
    for (const JsonMember& m : object.members)
      if (m.key == key) return &m;
    return nullptr;
  }
  const auto at = std::lower_bound(
      object.by_key.begin(), object.by_key.end(), key,
      [&](std::uint32_t i, std::string_view k) { return object.members[i].key < k; });
  if (at == object.by_key.end() || object.members[*at].key != key) return nullptr;
  return &object.members[*at];
}

/// A key as a step of a path: plain if it is a plain word.
inline std::string path_step(std::string_view key) {
  const bool plain =
      !key.empty() && key.size() <= 80 && std::all_of(key.begin(), key.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '_';
      });
  return plain ? std::string(key) : casa::quoted(key);
}

/// The shortest text that reads back as x; beyond the numbers of JSON, as Python's json writes it.
inline std::string number_text(double x) {
  if (std::isnan(x)) return "NaN";
  if (std::isinf(x)) return x > 0 ? "Infinity" : "-Infinity";
  return shortest_text(x);
}

/// Appends the path from `from` to `target`, if it lies there. Only errors ask, so it may search.
inline bool find_path(const JsonNode& from, const JsonNode* target, std::string& path) {
  if (&from == target) return true;
  const std::size_t before = path.size();
  if (const auto* a = std::get_if<6>(&from.value); a && *a) {
    for (std::size_t i = 0; i < (*a)->size(); ++i) {
      path += text("[", i, "]");
      if (find_path((**a)[i], target, path)) return true;
      path.resize(before);
    }
  } else if (const auto* o = std::get_if<7>(&from.value); o && *o) {
    for (const JsonMember& m : (*o)->members) {
      path += (before == 0 ? "" : ".") + path_step(m.key);
      if (find_path(m.value, target, path)) return true;
      path.resize(before);
    }
  }
  return false;
}

}  // namespace detail

/// A value of a JSON document: a small handle that keeps the whole document alive. References and
/// views it returns live as long as any handle of the document. Wrong kind, range or key:
/// casa::error that names the document, the path, what was expected and what is there.
class Json {
 public:
  /// What a value is. `big_unsigned`: an integer beyond 2^63 - 1 that fits 64 bits without a sign.
  enum class Kind { null, boolean, integer, big_unsigned, real, string, array, object };

  template <class Value>
  class Range;

  /// The kind of the value as it is written in the text.
  Kind kind() const { return static_cast<Kind>(node_->value.index()); }
  /// The value is null.
  bool is_null() const { return kind() == Kind::null; }
  /// The value is true or false.
  bool is_bool() const { return kind() == Kind::boolean; }
  /// Written as an integer (no '.', no exponent) and within 64 bits.
  bool is_integer() const { return kind() == Kind::integer || kind() == Kind::big_unsigned; }
  /// The value is a number of any spelling.
  bool is_number() const { return is_integer() || kind() == Kind::real; }
  /// A number other than NaN, Infinity and -Infinity (JsonRules::nonfinite).
  bool is_finite() const {
    const auto* d = std::get_if<double>(&node_->value);
    return is_number() && (!d || std::isfinite(*d));
  }
  /// The value is a string.
  bool is_string() const { return kind() == Kind::string; }
  /// The value is an array.
  bool is_array() const { return kind() == Kind::array; }
  /// The value is an object.
  bool is_object() const { return kind() == Kind::object; }

  /// True or false; anything else is a casa::error.
  bool as_bool() const {
    if (!is_bool()) fail_expected("true or false");
    return std::get<bool>(node_->value);
  }
  /// The integer, which must be written as one: 1.0, 1e3 and "1" are refused. `option` is what the
  /// error names as raising hi.
  std::int64_t as_int(std::int64_t lo = (std::numeric_limits<std::int64_t>::min)(),
                      std::int64_t hi = (std::numeric_limits<std::int64_t>::max)(),
                      std::string_view option = {}) const {
    const auto* v = std::get_if<std::int64_t>(&node_->value);
    if (!v || *v < lo || *v > hi)
      fail_expected(text("an integer in [", lo, ", ", hi, "]", option.empty() ? "" : " (",
                         option.empty() ? "" : option, option.empty() ? "" : ")"));
    return *v;
  }
  /// The same for a size: hi is at most what an Index holds.
  Index as_index(std::int64_t lo, std::int64_t hi, std::string_view option = {}) const {
    constexpr std::int64_t most = (std::numeric_limits<Index>::max)();
    return static_cast<Index>(as_int(lo, (std::min)(hi, most), option));
  }
  /// The integer in [0, hi], written as one.
  std::uint64_t as_uint(std::uint64_t hi = (std::numeric_limits<std::uint64_t>::max)()) const {
    std::uint64_t v = 0;
    bool ok = false;
    if (const auto* i = std::get_if<std::int64_t>(&node_->value)) {
      v = static_cast<std::uint64_t>(*i);
      ok = *i >= 0;
    } else if (const auto* u = std::get_if<std::uint64_t>(&node_->value)) {
      v = *u;
      ok = true;
    }
    if (!ok || v > hi) fail_expected(text("an integer in [0, ", hi, "]"));
    return v;
  }
  /// Any finite number. Integers beyond 2^53 are rounded.
  double as_number() const {
    if (const auto* d = std::get_if<double>(&node_->value)) {
      if (!std::isfinite(*d)) fail_expected("a finite number");
      return *d;
    }
    if (const auto* i = std::get_if<std::int64_t>(&node_->value)) return static_cast<double>(*i);
    if (const auto* u = std::get_if<std::uint64_t>(&node_->value)) return static_cast<double>(*u);
    fail_expected("a number");
  }
  /// A finite number in [lo, hi].
  double as_number(double lo, double hi) const {
    if (!is_number() || !is_finite() || !(as_number() >= lo && as_number() <= hi))
      fail_expected(
          text("a number in [", detail::number_text(lo), ", ", detail::number_text(hi), "]"));
    return as_number();
  }
  /// The string, its escapes decoded, in UTF-8.
  const std::string& as_string() const {
    static const std::string empty;
    if (!is_string()) fail_expected("a string");
    const auto& p = std::get<5>(node_->value);
    return p ? *p : empty;
  }

  /// Elements of an array, members of an object.
  Index size() const {
    if (is_array()) return static_cast<Index>(array().size());
    if (is_object()) return static_cast<Index>(object().members.size());
    fail_expected("an array or object");
  }
  /// Element i of an array.
  template <std::integral I>  // a template, so that at(0) is no null pointer
  Json at(I place) const {
    const auto i = static_cast<Index>(place);
    if (!is_array()) fail_expected("an array");
    if (i < 0 || i >= size()) fail_expected(text("an element [", i, "]"));
    return {document_, &array()[static_cast<std::size_t>(i)]};
  }
  /// The same as at(place).
  template <std::integral I>
  Json operator[](I place) const {
    return at(place);
  }
  /// The member, or nothing if the object has none of that name.
  std::optional<Json> find(std::string_view key) const {
    if (!is_object()) fail_expected("an object");
    const auto* m = detail::find_member(object(), key);
    if (!m) return std::nullopt;
    return Json(document_, &m->value);
  }
  /// As find; a member that is null counts as absent (published configs write unset fields so).
  std::optional<Json> find_set(std::string_view key) const {
    auto member = find(key);
    if (member && member->is_null()) member.reset();
    return member;
  }
  /// Whether the object has a member of that name.
  bool contains(std::string_view key) const { return find(key).has_value(); }
  /// The member of that name, which must exist.
  Json at(std::string_view key) const {
    auto member = find(key);
    if (!member) fail(where(), ": ", detail::path_step(key), " is missing");
    return *member;
  }

  /// for (const auto& [key, value] : j.items()): the members, in the order of the text.
  Range<std::pair<std::string_view, Json>> items() const;
  /// for (const Json& value : j.elements()): the elements of an array.
  Range<Json> elements() const;

  /// Name of the document and path, as errors begin: "config.json: rope_scaling.factor".
  std::string where() const {
    std::string path;
    detail::find_path(document_->root, node_, path);
    constexpr std::size_t shown = 240;
    if (path.size() > shown) path.replace(0, path.size() - shown, "...");
    return path.empty() ? document_->name : text(document_->name, ": ", path);
  }
  /// The value in a few words, safe to print.
  std::string describe() const {
    switch (kind()) {
      case Kind::null:
        return "null";
      case Kind::boolean:
        return as_bool() ? "true" : "false";
      case Kind::integer:
        return std::to_string(as_int());
      case Kind::big_unsigned:
        return std::to_string(as_uint());
      case Kind::real:
        return detail::number_text(std::get<double>(node_->value));
      case Kind::string:
        return casa::quoted(as_string());
      case Kind::array:
        return text("an array of ", size());
      default:
        return text("an object of ", size());
    }
  }
  /// Throws casa::error: "<where>: expected <what>, got <describe>".
  [[noreturn]] void fail_expected(std::string_view what) const {
    fail(where(), ": expected ", what, ", got ", describe());
  }

  /// Made by parse_json.
  Json(std::shared_ptr<const detail::JsonDocument> document, const detail::JsonNode* node)
      : document_(std::move(document)), node_(node) {}

 private:
  const std::vector<detail::JsonNode>& array() const {
    static const std::vector<detail::JsonNode> empty;
    const auto& p = std::get<6>(node_->value);
    return p ? *p : empty;
  }
  const detail::JsonObject& object() const {
    static const detail::JsonObject empty;
    const auto& p = std::get<7>(node_->value);
    return p ? *p : empty;
  }

  std::shared_ptr<const detail::JsonDocument> document_;
  const detail::JsonNode* node_;
};

/// The members (Value is a pair of key and Json) or elements (Value is Json) of one value, for a
/// loop; keeps the document alive.
template <class Value>
class Json::Range {
  static constexpr bool is_members = !std::is_same_v<Value, Json>;
  using Place = std::conditional_t<is_members, detail::JsonMember, detail::JsonNode>;

 public:
  /// An input iterator; what it points to is made when it is read.
  class Iterator {
   public:
    /// @cond as every iterator
    using iterator_category = std::input_iterator_tag;
    using value_type = Value;
    using difference_type = std::ptrdiff_t;
    using pointer = void;
    using reference = Value;

    Iterator(const Range* range, const Place* place) : range_(range), place_(place) {}
    Value operator*() const {
      if constexpr (is_members) {
        return {place_->key, Json(range_->document_, &place_->value)};
      } else {
        return Json(range_->document_, place_);
      }
    }
    Iterator& operator++() { return ++place_, *this; }
    void operator++(int) { ++place_; }
    bool operator==(const Iterator& other) const { return place_ == other.place_; }
    /// @endcond

   private:
    const Range* range_;
    const Place* place_;
  };

  /// Made by Json::items and Json::elements.
  Range(std::shared_ptr<const detail::JsonDocument> document, const std::vector<Place>& places)
      : document_(std::move(document)), places_(&places) {}
  /// The first one.
  Iterator begin() const { return {this, places_->data()}; }
  /// One past the last.
  Iterator end() const { return {this, places_->data() + places_->size()}; }

 private:
  std::shared_ptr<const detail::JsonDocument> document_;
  const std::vector<Place>* places_;
};

inline Json::Range<std::pair<std::string_view, Json>> Json::items() const {
  if (!is_object()) fail_expected("an object");
  return {document_, object().members};
}

inline Json::Range<Json> Json::elements() const {
  if (!is_array()) fail_expected("an array");
  return {document_, array()};
}

}  // namespace io
CASA_NAMESPACE_END
