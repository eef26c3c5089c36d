// The files of a command line: none of those that are written may be one that is read, or be
// written twice.
#pragma once

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "casa/core/error.hpp"

namespace program {

/// Names of files with the option that gave each. Compared are devices and inodes, so that links
/// and other spellings of a name are seen; of files that are not there yet, the resolved names.
class Files {
 public:
  void input(const std::string& option, const std::string& path) { add(option, path, false); }
  void output(const std::string& option, const std::string& path) { add(option, path, true); }
  /// The files of a model folder that are read, or are hashed for a session.
  void input_model(const std::string& option, const std::string& folder) {
    std::error_code ignored;  // a folder that does not open is for its reader to refuse
    for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
      const auto kind = entry.path().extension();
      if (kind == ".json" || kind == ".safetensors" || kind == ".jinja")
        input(option, entry.path().string());
    }
  }
  /// What is open on stdin or stdout (a pipe, or a file as `> name` opens it).
  void standard_input() { named_.push_back({"stdin", "", STDIN_FILENO, false}); }
  void standard_output() { named_.push_back({"stdout", "", STDOUT_FILENO, true}); }

  /// Throws casa::error that names two options if what one writes is what the other reads or
  /// writes. Terminals, /dev/null and the like may be named many times.
  void require_distinct() const {
    std::vector<Key> keys;
    for (const Named& n : named_) keys.push_back(key_of(n));
    for (std::size_t i = 0; i < named_.size(); ++i)
      for (std::size_t j = 0; j < named_.size(); ++j)
        if (named_[i].written && i != j && keys[i].comparable && keys[i] == keys[j] &&
            (!named_[j].written || i > j))
          refuse(named_[i], named_[j]);
  }

 private:
  struct Named {
    std::string option, path;
    int descriptor = -1;
    bool written = false;
  };
  struct Key {
    bool comparable = false, exists = false;
    dev_t device = 0;
    ino_t inode = 0;
    std::string name;
    friend bool operator==(const Key&, const Key&) = default;
  };

  void add(const std::string& option, const std::string& path, bool written) {
    if (!path.empty()) named_.push_back({option, path, -1, written});
  }
  static Key key_of(const Named& n) {
    struct stat s {};
    const bool exists =
        n.descriptor >= 0 ? ::fstat(n.descriptor, &s) == 0 : ::stat(n.path.c_str(), &s) == 0;
    if (exists) return {!S_ISCHR(s.st_mode), true, s.st_dev, s.st_ino, {}};
    if (n.descriptor >= 0) return {};
    return {true, false, 0, 0, resolved(n.path)};
  }
  // Follows links that point to nothing yet, which std::filesystem::weakly_canonical does not.
  static std::string resolved(std::filesystem::path path) {
    std::error_code problem;
    for (int links = 0; links < 40; ++links) {
      const auto target = std::filesystem::read_symlink(path, problem);
      if (problem) break;
      path = target.is_absolute() ? target : path.parent_path() / target;
    }
    const auto whole = std::filesystem::weakly_canonical(std::filesystem::absolute(path), problem);
    return problem ? path.string() : whole.string();
  }
  [[noreturn]] static void refuse(const Named& written, const Named& other) {
    const auto word = [](const Named& n) {
      return n.path.empty() ? n.option : casa::text(n.option, " ", n.path);
    };
    casa::fail(word(written), " is the same file as ", word(other), ", which ",
               other.written ? "is written as well" : "is read",
               ": nothing was written; give it a file of its own");
  }

  std::vector<Named> named_;
};

/// Throws casa::error unless a file of that name can be made or replaced (by rename): its folder is
/// there and may be written, and the name is no folder and no device.
inline void require_replaceable(const std::string& option, const std::string& path) {
  struct stat s {};
  if (::stat(path.c_str(), &s) == 0)
    casa::require(S_ISREG(s.st_mode), option, " ", path, ": not a regular file");
  const auto slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  if (::access(folder.c_str(), W_OK | X_OK) != 0)
    casa::fail(option, " ", path, ": cannot write in ", folder, ": ", std::strerror(errno));
}

/// Throws casa::error unless the file is there and may be read.
inline void require_readable(const std::string& option, const std::string& path) {
  if (::access(path.c_str(), R_OK) != 0)
    casa::fail(option, " ", path, ": cannot open: ", std::strerror(errno));
}

}  // namespace program
