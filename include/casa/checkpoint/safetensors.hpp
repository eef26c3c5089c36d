// safetensors files from strangers: one checked way from bytes to an object. Whatever breaks a rule
// of the format (or one of ours: see SafeTensors) never becomes one.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/checkpoint/tensor_view.hpp"
#include "casa/core/config.hpp"
#include "casa/core/error.hpp"
#include "casa/files/file.hpp"
#include "casa/files/limits.hpp"
#include "casa/json/json.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// The strings of a safetensors header's `__metadata__`, by key.
using Metadata = std::map<std::string, std::string, std::less<>>;

namespace detail {

inline std::optional<DType> find_dtype(std::string_view name) {
  for (std::size_t i = 0; i < dtypes.size(); ++i)
    if (dtypes[i].name == name) return static_cast<DType>(i);
  return std::nullopt;
}

/// Bytes of a tensor, or casa::error beginning with `where`.
inline std::int64_t checked_bytes(std::span<const Index> shape, DType dtype,
                                  const std::string& where) {
  std::int64_t bits = bits_of(dtype);
  for (const Index axis : shape) bits = checked_mul(bits, axis, where);
  require(bits % 8 == 0, where, ": ", bits, " bits are no whole number of bytes");
  return bits / 8;
}

inline void check_tensor_name(std::string_view name, std::string_view file,
                              const LoadLimits& limits) {
  require(static_cast<std::int64_t>(name.size()) <= limits.name_bytes, file, ": tensor name ",
          casa::quoted(name), " of ", name.size(), " bytes is longer than the limit of ",
          limits.name_bytes, " (LoadLimits::name_bytes)");
  if (limits.control_characters) return;
  for (const char c : name)
    require(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f, file, ": tensor name ",
            casa::quoted(name), " has a control character (LoadLimits::control_characters)");
}

}  // namespace detail

/// The tensors of one safetensors file, all rules checked: header length, strict JSON, known types,
/// shapes whose size is the bytes named, data that the tensors tile without hole, overlap or rest.
/// What it takes, the format's own reader (the Rust crate, 0.8.0) takes too. It refuses more: a
/// tensor or a key of metadata named twice, a tensor written as an array, and what is beyond
/// LoadLimits (names with control characters among it). Copies are cheap and share the bytes; views
/// live as long as one copy does.
class SafeTensors {
 public:
  /// `name` is what errors call the file. casa::error names file, tensor, rule and value.
  explicit SafeTensors(Bytes bytes, std::string_view name, const LoadLimits& limits = {}) {
    auto contents = std::make_shared<Contents>();
    contents->name = name;
    contents->bytes = std::move(bytes);
    parse(*contents, limits);
    contents_ = std::move(contents);
  }

  /// What errors call the file.
  const std::string& name() const { return contents_->name; }
  /// All tensors, in the order of their data.
  std::span<const TensorView> tensors() const { return contents_->tensors; }
  /// The names of all tensors, sorted.
  std::vector<std::string_view> names() const {
    std::vector<std::string_view> v;
    v.reserve(contents_->by_name.size());
    for (const std::uint32_t i : contents_->by_name) v.push_back(contents_->tensors[i].name);
    return v;
  }
  /// Number of tensors.
  Index size() const { return static_cast<Index>(contents_->tensors.size()); }
  /// The tensor of that name, or null.
  const TensorView* find(std::string_view tensor) const {
    const auto& c = *contents_;
    const auto at = std::lower_bound(
        c.by_name.begin(), c.by_name.end(), tensor,
        [&](std::uint32_t i, std::string_view n) { return c.tensors[i].name < n; });
    if (at == c.by_name.end() || c.tensors[*at].name != tensor) return nullptr;
    return &c.tensors[*at];
  }
  /// Whether the file has a tensor of that name.
  bool contains(std::string_view tensor) const { return find(tensor) != nullptr; }
  /// The tensor of that name, or casa::error.
  const TensorView& at(std::string_view tensor) const {
    const TensorView* t = find(tensor);
    if (!t) fail(name(), ": no tensor ", casa::quoted(tensor));
    return *t;
  }
  /// The header's __metadata__.
  const Metadata& metadata() const { return contents_->metadata; }
  /// Bytes of all tensors.
  std::int64_t data_bytes() const { return contents_->data_bytes; }
  /// Bytes::identity of the file.
  const std::string& identity() const { return contents_->bytes.identity(); }
  /// Whether the bytes are a mapped file.
  bool mapped() const { return contents_->bytes.mapped(); }
  /// Gives the memory of a tensor of this file back to the system, for an owner that will not read
  /// it again: whoever does, through any view, gets a casa::error that names it. casa::error also
  /// where copies of this object share the bytes (reading must not change what they see), or for a
  /// tensor of another file.
  void give_back(const TensorView& tensor) {
    const TensorView* t = find(tensor.name);
    require(t != nullptr && t->bytes.data() == tensor.bytes.data(), tensor.where(),
            ": cannot be given back to ", name(), ", which does not hold it");
    require(contents_.use_count() == 1, tensor.where(),
            ": cannot be given back: ", contents_.use_count(),
            " copies of the file's object share it");
    contents_->gone[static_cast<std::size_t>(t->gone - contents_->gone.get())] = true;
    contents_->bytes.give_back(t->bytes);
  }

 private:
  struct Contents {
    std::string name;
    Bytes bytes;
    Metadata metadata;
    std::vector<std::string> names;  // what the views point to: names and axes never move
    std::vector<Index> axes;
    std::unique_ptr<bool[]> gone;
    std::vector<TensorView> tensors;
    std::vector<std::uint32_t> by_name;
    std::int64_t data_bytes = 0;
  };

  struct Offsets {
    std::int64_t begin, end;
  };

  static void parse(Contents& c, const LoadLimits& limits) {
    const std::span<const std::byte> file = c.bytes.span();
    const auto size = static_cast<std::int64_t>(file.size());
    require(!c.bytes.as_text().starts_with("version https://git-lfs"), c.name,
            ": this is a Git LFS pointer, not the file itself (fetch it with `git lfs pull`)");
    require(size >= 8, c.name, ": file of ", size, " bytes is too short for a safetensors header");
    std::uint64_t length = 0;
    for (std::size_t i = 0; i < 8; ++i)
      length |= std::to_integer<std::uint64_t>(file[i]) << (8 * i);
    require(length <= static_cast<std::uint64_t>(limits.header_bytes), c.name, ": header length ",
            length, " is larger than the limit of ", limits.header_bytes,
            " (LoadLimits::header_bytes)");
    const auto header_bytes = static_cast<std::int64_t>(length);
    require(header_bytes <= size - 8, c.name, ": header of ", header_bytes,
            " bytes ends beyond the file of ", size, " bytes");
    c.data_bytes = size - 8 - header_bytes;

    const Json header =
        parse_json(c.bytes.as_text().substr(8, static_cast<std::size_t>(length)), c.name,
                   {.max_bytes = limits.header_bytes,
                    .max_depth = limits.header_depth,
                    .spare_bytes = std::int64_t{16} << 20,
                    .bytes_option = "LoadLimits::header_bytes",
                    .depth_option = "LoadLimits::header_depth"});
    const std::vector<Offsets> offsets = read_entries(c, header, limits);
    check_tiling(c, offsets);
  }

  /// Tensors in the order of the header, and where they lie in the data.
  static std::vector<Offsets> read_entries(Contents& c, const Json& header,
                                           const LoadLimits& limits) {
    const Index members = header.size();
    require(members <= limits.tensors, c.name, ": ", members,
            " tensors are more than the limit of ", limits.tensors, " (LoadLimits::tensors)");
    Index axes = 0;
    for (const auto& [name, value] : header.items())
      if (name != "__metadata__") axes += read_rank(value, limits);
    const auto count = static_cast<std::size_t>(members);
    std::vector<Offsets> offsets;
    offsets.reserve(count);
    c.names.reserve(count);
    c.tensors.reserve(count);
    c.gone = std::make_unique<bool[]>(count);
    c.axes.reserve(static_cast<std::size_t>(axes));
    for (const auto& [name, value] : header.items()) {
      if (name == "__metadata__") {
        if (value.is_null()) continue;
        for (const auto& [key, v] : value.items()) c.metadata.emplace(key, v.as_string());
        continue;
      }
      detail::check_tensor_name(name, c.name, limits);
      offsets.push_back(read_entry(c, name, value, limits));
    }
    return offsets;
  }

  static Index read_rank(const Json& entry, const LoadLimits& limits) {
    const Json shape = entry.at("shape");
    if (!shape.is_array() || shape.size() > limits.axes)
      shape.fail_expected(text("an array of at most ", limits.axes, " axes (LoadLimits::axes)"));
    return shape.size();
  }

  static Offsets read_entry(Contents& c, std::string_view name, const Json& entry,
                            const LoadLimits& limits) {
    TensorView t;
    t.file = c.name;
    t.name = c.names.emplace_back(name);
    t.gone = &c.gone[c.tensors.size()];
    const Json type = entry.at("dtype");
    const auto dtype = detail::find_dtype(type.as_string());
    if (!dtype) type.fail_expected("a type of the format (F32, BF16, I64, ...)");
    t.dtype = *dtype;
    const std::size_t first_axis = c.axes.size();
    for (const Json& axis : entry.at("shape").elements())
      c.axes.push_back(axis.as_index(0, limits.axis, "LoadLimits::axis"));
    t.shape = std::span(c.axes).subspan(first_axis);
    const std::int64_t bytes = detail::checked_bytes(t.shape, t.dtype, t.where());

    const Json pair = entry.at("data_offsets");
    if (!pair.is_array() || pair.size() != 2) pair.fail_expected("an array of begin and end");
    const Offsets o{pair.at(0).as_int(0, c.data_bytes), pair.at(1).as_int(0, c.data_bytes)};
    require(o.begin <= o.end, t.where(), ": data_offsets [", o.begin, ", ", o.end,
            "] end before they begin");
    require(o.end - o.begin == bytes, t.where(), ": ", to_string(t.dtype), " of shape ",
            shape_text(t.shape), " takes ", bytes, " bytes, data_offsets [", o.begin, ", ", o.end,
            "] hold ", o.end - o.begin);
    t.bytes = c.bytes.span()
                  .last(static_cast<std::size_t>(c.data_bytes))
                  .subspan(static_cast<std::size_t>(o.begin), static_cast<std::size_t>(bytes));
    c.tensors.push_back(t);
    return o;
  }

  /// Sorts the tensors by place and checks that each begins where the one before it ends.
  static void check_tiling(Contents& c, const std::vector<Offsets>& offsets) {
    std::vector<std::uint32_t> order(c.tensors.size());
    std::iota(order.begin(), order.end(), 0u);
    std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
      const Offsets &x = offsets[a], &y = offsets[b];
      return x.begin != y.begin ? x.begin < y.begin : x.end != y.end ? x.end < y.end : a < b;
    });
    std::int64_t end = 0;
    std::string before = "the begin of the data";
    std::vector<TensorView> sorted;
    sorted.reserve(c.tensors.size());
    for (const std::uint32_t i : order) {
      const TensorView& t = c.tensors[i];
      if (offsets[i].begin != end) {
        if (!sorted.empty()) before = text("tensor ", casa::quoted(sorted.back().name));
        fail(t.where(), ": begins at ", offsets[i].begin,
             offsets[i].begin < end ? ", inside of or before " : ", which leaves a hole after ",
             before, ", which ends at ", end);
      }
      end = offsets[i].end;
      sorted.push_back(t);
    }
    require(end == c.data_bytes, c.name, ": tensors end at byte ", end, " of ", c.data_bytes,
            " bytes of data");
    c.tensors = std::move(sorted);
    c.by_name.resize(c.tensors.size());
    std::iota(c.by_name.begin(), c.by_name.end(), 0u);
    std::sort(c.by_name.begin(), c.by_name.end(), [&](std::uint32_t a, std::uint32_t b) {
      return c.tensors[a].name < c.tensors[b].name;
    });
  }

  std::shared_ptr<Contents> contents_;  // changed by give_back alone, where nobody shares it
};

/// How checkpoint files are read.
struct LoadOptions {
  bool map = false;        ///< map the files: see the contract of ReadOptions::map
  LoadLimits limits = {};  ///< what a file may ask for
};

/// The file of that path. casa::error as SafeTensors and read_file throw.
inline SafeTensors read_safetensors(const std::string& path, const LoadOptions& options = {}) {
  Bytes bytes = read_file(path, {.map = options.map, .follow_links = options.limits.follow_links});
  return SafeTensors(std::move(bytes), path, options.limits);
}

}  // namespace io
CASA_NAMESPACE_END
