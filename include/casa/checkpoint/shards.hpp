// The tensors of a model folder in the Hugging Face layout: one model.safetensors, or several files
// named by model.safetensors.index.json, seen as one set.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/checkpoint/safetensors.hpp"
#include "casa/core/config.hpp"
#include "casa/core/error.hpp"
#include "casa/files/limits.hpp"
#include "casa/json/json.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

namespace detail {

/// Whether two tensors are of one type and shape, with the same bytes.
inline bool is_copy(const TensorView& a, const TensorView& b) {
  return a.dtype == b.dtype &&
         std::equal(a.shape.begin(), a.shape.end(), b.shape.begin(), b.shape.end()) &&
         std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin(), b.bytes.end());
}

}  // namespace detail

/// The files of a checkpoint under one lookup. Copies are cheap and share the bytes; views live as
/// long as one copy does.
class Checkpoint {
 public:
  /// One file, or several. `name` is what errors call the set. A tensor that several hold counts
  /// once where the copies are equal; else casa::error, or with `last_counts` that of the last
  /// file. What `listed` denies, where it is set, is extra().
  explicit Checkpoint(std::vector<SafeTensors> files, std::string_view name,
                      bool last_counts = false,
                      const std::function<bool(std::string_view)>& listed = {}) {
    auto contents = std::make_shared<Contents>();
    contents->name = name;
    contents->files = std::move(files);
    for (std::size_t f = 0; f < contents->files.size(); ++f)
      for (const TensorView& t : contents->files[f].tensors())
        contents->tensors.push_back({&t, f, listed && !listed(t.name)});
    auto& all = contents->tensors;
    std::sort(all.begin(), all.end(), [](const Place& a, const Place& b) {
      return a.tensor->name != b.tensor->name ? a.tensor->name < b.tensor->name : a.file < b.file;
    });
    std::size_t kept = 0;
    for (const Place& p : all) {
      if (kept == 0 || all[kept - 1].tensor->name != p.tensor->name) {
        all[kept++] = p;
      } else if (last_counts) {
        all[kept - 1] = p;
      } else if (!detail::is_copy(*all[kept - 1].tensor, *p.tensor)) {
        fail(all[kept - 1].tensor->where(), " is also in ", p.tensor->file,
             ", with other values (LoadLimits::repeated_tensors takes the last)");
      }
    }
    all.resize(kept);
    contents_ = std::move(contents);
  }
  /// One file, called by its own name.
  explicit Checkpoint(const SafeTensors& file) : Checkpoint(std::vector{file}, file.name()) {}

  /// What errors call the set.
  const std::string& name() const { return contents_->name; }
  /// The files, in the order given.
  std::span<const SafeTensors> files() const { return contents_->files; }
  /// Number of tensors.
  Index size() const { return static_cast<Index>(contents_->tensors.size()); }
  /// Tensor i in the order of names.
  const TensorView& operator[](Index i) const {
    return *contents_->tensors[static_cast<std::size_t>(i)].tensor;
  }
  /// The names of all tensors, sorted.
  std::vector<std::string_view> names() const {
    std::vector<std::string_view> v;
    for (const Place& p : contents_->tensors) v.push_back(p.tensor->name);
    return v;
  }
  /// The tensor of that name, or null.
  const TensorView* find(std::string_view tensor) const {
    const Place* p = find_place(tensor);
    return p ? p->tensor : nullptr;
  }
  /// Whether any file has a tensor of that name.
  bool contains(std::string_view tensor) const { return find(tensor) != nullptr; }
  /// The tensor of that name, or casa::error.
  const TensorView& at(std::string_view tensor) const {
    const TensorView* t = find(tensor);
    if (!t) fail(name(), ": no tensor ", casa::quoted(tensor));
    return *t;
  }
  /// Whether the tensor stands in a file although the index does not list it: a model need not use
  /// it.
  bool extra(std::string_view tensor) const {
    const Place* p = find_place(tensor);
    return p != nullptr && p->extra;
  }
  /// The file that holds the tensor (casa::error if none does).
  const SafeTensors& file_of(std::string_view tensor) const {
    const Place* p = find_place(tensor);
    if (!p) fail(name(), ": no tensor ", casa::quoted(tensor));
    return contents_->files[p->file];
  }
  /// Bytes of all tensors.
  std::int64_t data_bytes() const {
    std::int64_t sum = 0;
    for (const SafeTensors& f : files()) sum += f.data_bytes();
    return sum;
  }
  /// SafeTensors::give_back of the file that holds the tensor; casa::error also where copies of
  /// this object share the files.
  void give_back(const TensorView& tensor) {
    const Place* p = find_place(tensor.name);
    if (!p) fail(name(), ": no tensor ", casa::quoted(tensor.name));
    require(contents_.use_count() == 1, tensor.where(),
            ": cannot be given back: ", contents_.use_count(),
            " copies of the checkpoint's object share it");
    contents_->files[p->file].give_back(tensor);
  }

 private:
  struct Place {
    const TensorView* tensor;
    std::size_t file;
    bool extra;
  };
  struct Contents {
    std::string name;
    std::vector<SafeTensors> files;
    std::vector<Place> tensors;  // sorted by name
  };

  const Place* find_place(std::string_view tensor) const {
    const auto& all = contents_->tensors;
    const auto at =
        std::lower_bound(all.begin(), all.end(), tensor,
                         [](const Place& p, std::string_view n) { return p.tensor->name < n; });
    return at == all.end() || at->tensor->name != tensor ? nullptr : &*at;
  }

  std::shared_ptr<Contents> contents_;  // changed by give_back alone, where nobody shares it
};

namespace detail {

/// A shard is named by one plain file name, so that an index cannot point outside its folder.
inline bool is_shard_name(std::string_view name) {
  if (name.size() > 255 || !name.ends_with(".safetensors")) return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  });
}

/// The names an index lists: shard -> its tensors.
using ShardMap = std::map<std::string, std::vector<std::string_view>, std::less<>>;

inline ShardMap read_shard_map(const Json& index, const LoadLimits& limits) {
  const Json weights = index.at("weight_map");
  ShardMap shards;
  for (const auto& [tensor, file] : weights.items()) {
    if (!is_shard_name(file.as_string()))
      file.fail_expected("one file name of letters, digits, '.', '_', '-' in *.safetensors");
    shards[file.as_string()].push_back(tensor);
    require(static_cast<std::int64_t>(shards.size()) <= limits.shards, index.where(),
            ": more than ", limits.shards, " files (LoadLimits::shards)");
  }
  return shards;
}

}  // namespace detail

/// The tensors of the files that an index names, from its own folder, as transformers sees them:
/// the files themselves say which tensors are in them; metadata.total_size is not read. Throws
/// casa::error if a tensor of the index is in no file (unless limits.stale_index), or in two files
/// with different values.
inline Checkpoint read_sharded(const std::string& index_path, const LoadOptions& options = {}) {
  const LoadLimits& limits = options.limits;
  const Bytes text = read_file(index_path, {.max_bytes = limits.json_bytes,
                                            .max_bytes_option = "LoadLimits::json_bytes",
                                            .follow_links = limits.follow_links});
  const Json index = parse_json(text.as_text(), index_path, python_json(limits));
  if (const auto metadata = index.find_set("metadata"))
    if (!metadata->is_object()) metadata->fail_expected("an object");
  const detail::ShardMap shards = detail::read_shard_map(index, limits);
  std::vector<SafeTensors> files;
  for (const auto& [file, tensors] : shards)
    files.push_back(read_safetensors(detail::folder_of(index_path) + file, options));
  const Json weights = index.at("weight_map");
  Checkpoint checkpoint(std::move(files), index_path, limits.repeated_tensors,
                        [&](std::string_view tensor) { return weights.contains(tensor); });
  for (const auto& [tensor, file] : weights.items())
    require(limits.stale_index || checkpoint.contains(tensor), index.where(), ": tensor ",
            casa::quoted(tensor), " is not in ", file.as_string(),
            ", where the index puts it, nor in another file (LoadLimits::stale_index)");
  return checkpoint;
}

/// The tensors of a model folder: of model.safetensors if it is there, else of the files that
/// model.safetensors.index.json names. Links are followed (the Hugging Face cache is made of them)
/// unless options.limits.follow_links is false. casa::error names folder, file, tensor and rule.
inline Checkpoint read_checkpoint(const std::string& folder, const LoadOptions& options = {}) {
  const std::string single = folder + "/model.safetensors";
  const std::string index = folder + "/model.safetensors.index.json";
  if (detail::file_exists(single)) return Checkpoint(read_safetensors(single, options));
  require(detail::file_exists(index), folder,
          ": no model.safetensors and no model.safetensors.index.json");
  return read_sharded(index, options);
}

}  // namespace io
CASA_NAMESPACE_END
