// JSON from strangers, parsed by SAX under limits: size, depth, memory, duplicate keys, UTF-8,
// integers kept exact. The one header that includes nlohmann/json.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/core/config.hpp"
#include "casa/core/error.hpp"
#include "casa/files/file.hpp"
#include "casa/files/limits.hpp"
#include "casa/json/json_nonfinite.hpp"
#include "casa/json/json_value.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// What a JSON text may look like.
struct JsonRules {
  std::int64_t max_bytes = LoadLimits{}.json_bytes;   ///< length of the text
  std::int64_t max_depth = LoadLimits{}.json_depth;   ///< arrays and objects inside one another
  std::int64_t spare_bytes = std::int64_t{64} << 20;  ///< memory: at most this + 20 x text
  bool object_root = true;                            ///< the outermost value must be an object
  /// NaN, Infinity, -Infinity and numbers beyond the range of double are numbers, as Python's json
  /// reads and writes them.
  bool nonfinite = false;
  std::string_view bytes_option = "JsonRules::max_bytes";  ///< what an error names as raising it
  std::string_view depth_option = "JsonRules::max_depth";  ///< what an error names as raising it
};

/// The rules of JSON under the limits of loading, which errors then name.
inline JsonRules json_rules(const LoadLimits& limits) {
  JsonRules rules;
  rules.max_bytes = limits.json_bytes;
  rules.max_depth = limits.json_depth;
  rules.bytes_option = "LoadLimits::json_bytes";
  rules.depth_option = "LoadLimits::json_depth";
  return rules;
}

/// The rules of a model's Python-made JSON files: config.json and the like.
inline JsonRules python_json(const LoadLimits& limits) {
  JsonRules rules = json_rules(limits);
  rules.nonfinite = true;
  return rules;
}

namespace detail {

/// How keys are compared; tests pass one that counts.
struct KeyOrder {
  static bool less(const std::string& a, const std::string& b) { return a < b; }
  static bool equal(const std::string& a, const std::string& b) { return a == b; }
};

/// nlohmann's SAX interface; builds the nodes and throws casa::error for what the rules forbid.
template <class Keys>
class JsonBuilder {
 public:
  JsonBuilder(JsonDocument& document, const JsonRules& rules, std::size_t text_bytes,
              const JsonStandIns* stand_ins)
      : document_(document),
        rules_(rules),
        stand_ins_(stand_ins),
        bytes_left_(rules.spare_bytes + 20 * static_cast<std::int64_t>(text_bytes)) {}

  bool null() { return add({}); }
  bool boolean(bool v) { return add({v}); }
  bool number_integer(std::int64_t v) { return add({v}); }
  bool number_unsigned(std::uint64_t v) {
    if (v > static_cast<std::uint64_t>((std::numeric_limits<std::int64_t>::max)())) return add({v});
    return add({static_cast<std::int64_t>(v)});
  }
  bool number_float(double v, const std::string& token) {
    return add({stand_ins_ ? stand_ins_->value(v, token) : v});
  }
  bool string(std::string& v) {
    if (v.empty()) return add({std::unique_ptr<std::string>()});
    take(sizeof(std::string) + v.size());
    return add({std::make_unique<std::string>(v)});
  }
  bool binary(std::vector<std::uint8_t>&) { fail(document_.name, ": unexpected binary value"); }
  bool key(std::string& k) {
    auto& members = open_object().members;
    grow(members);
    take(k.size());
    members.push_back({std::string(k), {}});
    return true;
  }
  bool start_object(std::size_t) { return open({std::unique_ptr<JsonObject>()}); }
  bool start_array(std::size_t) { return open({std::unique_ptr<std::vector<JsonNode>>()}); }
  bool end_object() {
    if (const auto& object = std::get<7>(open_.back()->value)) index(*object);
    open_.pop_back();
    return true;
  }
  bool end_array() { return open_.pop_back(), true; }

  template <class Exception>
  bool parse_error(std::size_t position, const std::string&, const Exception& e) {
    std::string_view why = e.what();  // "[json.exception...] parse error at ...: syntax error ..."
    if (const auto at = why.find(": "); at != std::string_view::npos) why.remove_prefix(at + 2);
    std::string shown = casa::quoted(why.substr(0, 60));
    fail(document_.name, ": not valid JSON at byte ", position, ": ", shown);
  }

 private:
  // Accounts for an allocation of `bytes` (and the allocator's own).
  void take(std::size_t bytes) {
    bytes_left_ -= static_cast<std::int64_t>(bytes) + 16;
    require(bytes_left_ >= 0, document_.name, ": JSON asks for more memory than ",
            rules_.spare_bytes, " bytes and 20 times its length");
  }

  // Grows by half, not by doubling: while the old and the new array are both there, they take 2.5
  // times the content, and doubling would take 3.
  template <class T>
  void grow(std::vector<T>& v) {
    if (v.size() < v.capacity()) return;
    const std::size_t before = v.capacity();
    const std::size_t after = before + before / 2 + 1;
    take(after * sizeof(T));
    v.reserve(after);
    if (before > 0) bytes_left_ += static_cast<std::int64_t>(before * sizeof(T)) + 16;
  }

  JsonObject& open_object() {
    auto& object = std::get<7>(open_.back()->value);
    if (!object) {
      take(sizeof(JsonObject));
      object = std::make_unique<JsonObject>();
    }
    return *object;
  }

  JsonNode& place(JsonNode node) {
    if (open_.empty()) return document_.root = std::move(node);
    if (open_.back()->value.index() == 7)
      return open_object().members.back().value = std::move(node);
    auto& array = std::get<6>(open_.back()->value);
    if (!array) {
      take(sizeof(std::vector<JsonNode>));
      array = std::make_unique<std::vector<JsonNode>>();
    }
    grow(*array);
    array->push_back(std::move(node));
    return array->back();
  }

  bool add(JsonNode node) {
    require(!open_.empty() || !rules_.object_root, document_.name,
            ": expected a JSON object, got another value");
    place(std::move(node));
    return true;
  }

  bool open(JsonNode node) {
    require(!open_.empty() || !rules_.object_root || node.value.index() == 7, document_.name,
            ": expected a JSON object, got an array");
    require(static_cast<std::int64_t>(open_.size()) < rules_.max_depth, document_.name,
            ": JSON is nested deeper than ", rules_.max_depth, " (", rules_.depth_option, ")");
    open_.push_back(&place(std::move(node)));
    return true;
  }

  // Keys are sorted, not hashed: a file cannot be written so that they collide.
  void index(JsonObject& object) {
    const auto& members = object.members;
    constexpr std::size_t few = 8;
    if (members.size() <= few) {
      for (std::size_t i = 0; i < members.size(); ++i)
        for (std::size_t j = 0; j < i; ++j)
          if (Keys::equal(members[i].key, members[j].key)) fail_duplicate(members[i].key);
      return;
    }
    take(members.size() * sizeof(std::uint32_t));
    object.by_key.resize(members.size());
    for (std::size_t i = 0; i < members.size(); ++i)
      object.by_key[i] = static_cast<std::uint32_t>(i);
    std::sort(object.by_key.begin(), object.by_key.end(), [&](std::uint32_t a, std::uint32_t b) {
      return Keys::less(members[a].key, members[b].key);
    });
    for (std::size_t i = 1; i < members.size(); ++i)
      if (Keys::equal(members[object.by_key[i - 1]].key, members[object.by_key[i]].key))
        fail_duplicate(members[object.by_key[i]].key);
  }

  [[noreturn]] void fail_duplicate(std::string_view key) const {
    fail(document_.name, ": duplicate key ", casa::quoted(key));
  }

  JsonDocument& document_;
  const JsonRules& rules_;
  const JsonStandIns* stand_ins_;  // null: every number is itself
  std::int64_t bytes_left_;
  std::vector<JsonNode*> open_;  // a parent does not grow while a child is open
};

}  // namespace detail

/// The document in `text`, called `name` in errors. casa::error for anything that is not strict
/// JSON in UTF-8 or breaks the rules: duplicate keys at any level, depth, size, BOM, NUL, bytes
/// other than white space before or after the value. Memory stays below 64 MiB + 20 x text.
template <class Keys = detail::KeyOrder>
Json parse_json(std::string_view json, std::string_view name, const JsonRules& rules = {}) {
  auto document = std::make_shared<detail::JsonDocument>();
  document->name = name;
  require(static_cast<std::int64_t>(json.size()) <= rules.max_bytes, name, ": JSON of ",
          json.size(), " bytes is larger than the limit of ", rules.max_bytes, " (",
          rules.bytes_option, ")");
  require(!json.starts_with("\xef\xbb\xbf"), name, ": JSON begins with a byte order mark");
  const auto nul = json.find('\0');  // to the parser a NUL is the end
  require(nul == std::string_view::npos, name, ": JSON has a NUL byte at ", nul);
  detail::JsonStandIns stand_ins;
  const bool replaced = rules.nonfinite && stand_ins.replace(json, name);
  const std::string_view parsed = replaced ? stand_ins.text() : json;
  detail::JsonBuilder<Keys> builder(*document, rules, json.size(), replaced ? &stand_ins : nullptr);
  nlohmann::json::sax_parse(parsed.begin(), parsed.end(), &builder);
  const detail::JsonNode* root = &document->root;
  return {std::move(document), root};
}

/// The document in a file; as parse_json and read_file.
inline Json read_json(const std::string& path, const JsonRules& rules = {}) {
  const Bytes bytes =
      read_file(path, {.max_bytes = rules.max_bytes, .max_bytes_option = rules.bytes_option});
  return parse_json(bytes.as_text(), path, rules);
}

}  // namespace io
CASA_NAMESPACE_END
