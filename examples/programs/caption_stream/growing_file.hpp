// A file that grows by whole pieces: opened without harm, each piece complete on disk or not there.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "casa/core/error.hpp"

/// Writes behind the first keep() bytes of a file (none of them, until that is said). What an older
/// file holds behind those stays until the first append(), so that a program that fails before has
/// changed nothing; a file that was made for nothing is removed again. Errors (casa::error) name
/// the path and the system's reason.
class GrowingFile {
 public:
  GrowingFile() = default;
  explicit GrowingFile(std::string path) : path_(std::move(path)) {
    struct stat s {};
    made_ = ::stat(path_.c_str(), &s) != 0;
    regular_ = made_ || S_ISREG(s.st_mode);
    if (!made_ && regular_) old_size_ = s.st_size;
    // Regular files are read back for the transcript.
    const int flags = (regular_ ? O_RDWR : O_WRONLY) | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY;
    fd_ = ::open(path_.c_str(), flags, 0666);
    if (fd_ < 0)
      casa::fail(path_, ": cannot ", made_ ? "create: " : "open: ", std::strerror(errno));
  }
  GrowingFile(GrowingFile&& other) noexcept { swap(other); }
  GrowingFile& operator=(GrowingFile&& other) noexcept {
    swap(other);
    return *this;
  }
  ~GrowingFile() {
    if (fd_ < 0) return;
    ::close(fd_);
    if (made_ && !begun_) ::unlink(path_.c_str());
  }

  bool is_open() const { return fd_ >= 0; }
  bool is_regular() const { return regular_; }
  const std::string& path() const { return path_; }
  /// Bytes of the regular file that was there; 0: none.
  std::int64_t old_size() const { return old_size_; }
  std::int64_t size() const { return size_; }
  void keep(std::int64_t bytes) { size_ = bytes; }

  /// All of `s`, or a regular file ends where it ended (casa::error). Without a file nothing.
  void append(std::string_view s) {
    if (fd_ < 0) return;
    begin();
    const std::int64_t before = size_;
    while (!s.empty()) {
      const ssize_t n = ::write(fd_, s.data(), s.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) {
        const int reason = errno;
        cut(before);
        casa::fail(path_, ": cannot write: ", std::strerror(reason));
      }
      size_ += n;
      s.remove_prefix(static_cast<std::size_t>(n));
    }
  }

  /// Appends a piece that replace_last() may change until the next piece, or settle(). A regular
  /// file has it at once; what can not be changed behind us (a pipe) gets it when it is settled.
  void append_changeable(std::string piece) {
    if (fd_ < 0) return;
    settle();
    last_at_ = size_;
    if (regular_) append(piece);
    last_ = std::move(piece);
  }
  /// The piece that replace_last() may change; empty: there is none.
  const std::string& last() const { return last_; }
  /// Puts `piece` in the place of the last one (casa::error: that one stays).
  void replace_last(std::string piece) {
    if (last_.empty()) return;
    if (regular_) {
      begin();
      cut(last_at_);
      casa::require(size_ == last_at_, path_, ": cannot cut: ", std::strerror(errno));
      try {
        append(piece);
      } catch (...) {
        append(last_);  // what was there had its place
        throw;
      }
    }
    last_ = std::move(piece);
  }
  /// The last piece stays as it is from now on.
  void settle() {
    const std::string piece = std::exchange(last_, {});
    if (!regular_) append(piece);
  }
  /// What is kept from byte `at` on is the last piece.
  void keep_changeable(std::int64_t at) {
    last_at_ = at;
    last_.clear();
    lines(
        size_ - at, [this](std::string_view line) { (last_ += line) += '\n'; }, at);
  }

  /// Makes it a file of what is kept, if nothing has been appended.
  void begin() {
    if (fd_ < 0 || begun_) return;
    if (regular_ && ::ftruncate(fd_, size_) != 0)
      casa::fail(path_, ": cannot cut: ", std::strerror(errno));
    begun_ = true;
  }

  /// Takes back what was appended behind `size`; of what is no regular file nothing.
  void cut(std::int64_t size) noexcept {
    if (fd_ >= 0 && regular_ && ::ftruncate(fd_, size) == 0) size_ = size;
  }

  /// Waits until a regular file is on the disk: some systems say only then that it is full.
  void sync() const {
    if (fd_ >= 0 && regular_ && ::fsync(fd_) != 0 && errno != EINVAL)
      casa::fail(path_, ": cannot sync: ", std::strerror(errno));
  }

  /// Calls each(line) for the lines of `bytes` of a regular file from `first` on, without line
  /// ends.
  template <class Each>
  void lines(std::int64_t bytes, Each each, std::int64_t first = 0) const {
    std::string line;
    char piece[16384];
    for (std::int64_t at = first, end = first + bytes; at < end;) {
      const auto wanted = static_cast<std::size_t>(std::min<std::int64_t>(end - at, sizeof piece));
      const ssize_t n = ::pread(fd_, piece, wanted, at);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) casa::fail(path_, ": cannot read: ", std::strerror(errno));
      casa::require(n > 0, path_, ": became shorter than ", end, " bytes while it was in use");
      at += n;
      for (const char c : std::string_view(piece, static_cast<std::size_t>(n))) {
        if (c != '\n') {
          line += c;
          continue;
        }
        each(std::string_view(line));
        line.clear();
      }
    }
    if (!line.empty()) each(std::string_view(line));
  }

 private:
  void swap(GrowingFile& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(fd_, other.fd_);
    std::swap(size_, other.size_);
    std::swap(old_size_, other.old_size_);
    std::swap(last_, other.last_);
    std::swap(last_at_, other.last_at_);
    std::swap(regular_, other.regular_);
    std::swap(made_, other.made_);
    std::swap(begun_, other.begun_);
  }

  std::string path_;
  int fd_ = -1;
  std::int64_t size_ = 0, old_size_ = 0;
  std::string last_;  // the piece that may still change, from byte last_at_ on
  std::int64_t last_at_ = 0;
  bool regular_ = false;
  bool made_ = false;   // by us
  bool begun_ = false;  // what was not to be kept has gone
};
