// Reference data for tests: finds the case files of a kind and reads tensors and description of a
// case.
//
//   golden::Tally tally("core", golden::case_files("core").size());
//   for (const golden::Case& c : golden::cases("core")) {
//     CAPTURE(c.name);
//     const auto q = c.matrix<double>("q");  // [T, H, D] as T x (H * D)
//     const double scale = c.description().at("scale").as_number();
//     tally.ran();
//   }
//   tally.check_all();
//
// The data is the repository's own copy, tests/golden, or the folder named by CASA_GOLDEN_DIR: then
// every case of the known kinds there is run, whatever its name; kinds it has no folder for are
// skipped, which is said.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/checkpoint/safetensors.hpp"
#include "casa/core/error.hpp"
#include "casa/core/memory.hpp"
#include "casa/json/json.hpp"

namespace golden {

using casa::Index;

/// The repository's copy. Defined in main.cpp, so that no other object holds where the tree lies.
std::filesystem::path repository_root();

/// CASA_GOLDEN_DIR names another folder.
inline bool is_foreign() {
  const char* dir = std::getenv("CASA_GOLDEN_DIR");
  return dir && *dir;
}

inline std::filesystem::path root() {
  return is_foreign() ? std::filesystem::path(std::getenv("CASA_GOLDEN_DIR")) : repository_root();
}

/// Folders that hold one *.safetensors per case.
inline constexpr std::array<std::string_view, 5> kinds_of_files = {"core", "variants", "layer",
                                                                   "decoder", "ladder"};
/// Beginnings of the names of folders that are one case each.
inline constexpr std::array<std::string_view, 6> kinds_of_folders = {
    "digits", "reader", "hf_", "casa_", "tokenizer_", "preprocess"};

namespace detail {

inline std::vector<std::filesystem::path> list_files(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> found;
  if (std::filesystem::is_directory(folder))
    for (const auto& entry : std::filesystem::directory_iterator(folder))
      if (entry.path().extension() == ".safetensors") found.push_back(entry.path());
  std::sort(found.begin(), found.end());
  return found;
}

inline std::vector<std::filesystem::path> list_folders(std::string_view prefix) {
  std::vector<std::filesystem::path> found;
  if (std::filesystem::is_directory(root()))
    for (const auto& entry : std::filesystem::directory_iterator(root()))
      if (entry.is_directory() && entry.path().filename().string().starts_with(prefix))
        found.push_back(entry.path());
  std::sort(found.begin(), found.end());
  return found;
}

/// A kind without cases is an error in the repository, and elsewhere if its folder is there or no
/// other kind has cases.
inline void require_cases(bool none, std::string_view kind) {
  if (!none) return;
  bool any = false;
  for (const auto k : kinds_of_files) any = any || !list_files(root() / k).empty();
  for (const auto k : kinds_of_folders) any = any || !list_folders(k).empty();
  casa::require(is_foreign() && any && !std::filesystem::exists(root() / kind), root().string(),
                ": no golden case of kind ", kind, any ? "" : " nor of any other kind");
  MESSAGE("skipped: no golden case of kind ", kind, " in ", root().string());
}

}  // namespace detail

/// One *.safetensors file of reference data.
class Case {
 public:
  explicit Case(const std::filesystem::path& path)
      : name(path.parent_path().filename().string() + "/" + path.stem().string()),
        file(casa::io::read_safetensors(path.string())) {}

  std::string name;  // "core/mqa"
  casa::io::SafeTensors file;

  bool has(std::string_view tensor) const { return file.contains(tensor); }
  /// The JSON that the file carries as "description" (casa::error if it has none).
  casa::io::Json description() const {
    const auto found = file.metadata().find("description");
    casa::require(found != file.metadata().end(), file.name(), ": no description");
    return casa::io::parse_json(found->second, name + ": description");
  }
  /// First axis x all others: [T, H, D] as T x (H * D), [out, in] as it is; a vector is 1 x n.
  /// From F64, F32, F16, BF16, rounded where T is float.
  template <class T>
  casa::Matrix<T> matrix(std::string_view tensor) const {
    const casa::io::TensorView& t = file.at(tensor);
    const Index rows = t.shape.size() < 2 ? 1 : t.shape[0];
    Index cols = 1;
    for (std::size_t i = t.shape.size() < 2 ? 0 : 1; i < t.shape.size(); ++i) cols *= t.shape[i];
    casa::Matrix<T> m(rows, cols);
    t.read_into(std::span<T>(m.data(), static_cast<std::size_t>(m.size())));
    return m;
  }
  /// All values in order; T floating or integer, as the tensor is.
  template <class T>
  std::vector<T> values(std::string_view tensor) const {
    return file.at(tensor).to_vector<T>();
  }
  /// Token ids, positions, counts.
  std::vector<std::int64_t> ints(std::string_view tensor) const {
    return values<std::int64_t>(tensor);
  }
  std::vector<Index> shape(std::string_view tensor) const {
    const auto s = file.at(tensor).shape;
    return {s.begin(), s.end()};
  }
  /// description().insertions (or another list of pairs): position K, number of image tokens n.
  std::vector<std::pair<Index, Index>> insertions() const {
    return pairs(description().at("insertions"));
  }
  static std::vector<std::pair<Index, Index>> pairs(const casa::io::Json& list) {
    std::vector<std::pair<Index, Index>> v;
    for (const auto& p : list.elements()) v.emplace_back(p.at(0).as_int(), p.at(1).as_int());
    return v;
  }
};

/// Paths of the case files of a kind (core, variants, layer, decoder, ladder), sorted. casa::error
/// if there are none in the repository's copy; a CASA_GOLDEN_DIR may lack a kind, but not all of
/// them.
inline std::vector<std::filesystem::path> case_files(std::string_view kind) {
  auto files = detail::list_files(root() / kind);
  detail::require_cases(files.empty(), kind);
  return files;
}

/// The cases of a kind, loaded one after the other.
inline std::vector<Case> cases(std::string_view kind) {
  std::vector<Case> v;
  for (const auto& path : case_files(kind)) v.emplace_back(path);
  return v;
}

/// Folders that are a case each and whose names begin so ("hf_", "casa_", "tokenizer_",
/// "preprocess", "digits", "reader"), sorted; as case_files.
inline std::vector<std::filesystem::path> folders(std::string_view prefix) {
  auto found = detail::list_folders(prefix);
  detail::require_cases(found.empty(), prefix);
  return found;
}

/// Counts what a loop over golden cases ran, so that none leaves out everything in silence.
class Tally {
 public:
  /// A loop over `cases` cases of what `what` says.
  Tally(std::string_view what, std::size_t cases) : what_(what), cases_(cases) {}

  void ran() { ++ran_; }
  /// For loops that leave out nothing.
  void check_all() const {
    CAPTURE(what_);
    CHECK(ran_ == cases_);
    if (!is_foreign()) CHECK(ran_ > 0);
  }
  /// For loops that leave out cases which are not what they are about: some remain in the
  /// repository's data; of another folder's it is said if none did.
  void check_some() const {
    CAPTURE(what_);
    CHECK(ran_ <= cases_);
    if (!is_foreign())
      CHECK(ran_ > 0);
    else if (ran_ == 0 && cases_ > 0)
      MESSAGE("skipped: all ", cases_, " of ", what_);
  }

 private:
  std::string what_;
  std::size_t cases_, ran_ = 0;
};

}  // namespace golden
