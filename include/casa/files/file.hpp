// Whole files in and out: read into our own aligned memory (or mapped, on request), written so that
// a reader sees the old file or the new one and never a part.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "casa/core/bits.hpp"
#include "casa/core/config.hpp"
#include "casa/core/error.hpp"
#include "casa/core/memory.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

namespace detail {

/// The calls to the system; tests pass others, which fail.
struct SystemCalls {
  static int open(const char* path, int flags, mode_t mode) { return ::open(path, flags, mode); }
  static int fstat(int fd, struct stat* s) { return ::fstat(fd, s); }
  static ssize_t pread(int fd, void* to, std::size_t n, off_t at) { return ::pread(fd, to, n, at); }
  static ssize_t write(int fd, const void* from, std::size_t n) { return ::write(fd, from, n); }
  static int fsync(int fd) { return ::fsync(fd); }
  static int rename(const char* from, const char* to) { return ::rename(from, to); }
};

/// Throws "<path>: cannot <what>: <reason of errno>".
[[noreturn]] inline void fail_system(std::string_view path, std::string_view what) {
  fail(path, ": cannot ", what, ": ", std::generic_category().message(errno));
}

/// Owns an open file descriptor and closes it.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_;
};

inline std::string identity_of(const struct stat& s) {
  return text(s.st_dev, ":", s.st_ino, ":", s.st_size, ":", s.st_mtim.tv_sec, ".",
              s.st_mtim.tv_nsec, ":", s.st_ctim.tv_sec, ".", s.st_ctim.tv_nsec);
}

inline std::string folder_of(const std::string& path) {
  const auto slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash + 1);
}

inline bool file_exists(const std::string& path) {
  struct stat s {};
  return ::lstat(path.c_str(), &s) == 0;
}

inline void require_path(const std::string& path) {
  require(!path.empty() && path.find('\0') == std::string::npos, "file name ", casa::quoted(path),
          " is empty or has a NUL");
}

}  // namespace detail

/// Bytes of a file: in our own memory (64-byte aligned), mapped, or borrowed. Moves, does not copy.
class Bytes {
 public:
  Bytes() = default;
  /// Own memory.
  explicit Bytes(Buffer<std::byte> buffer) : owned_(std::move(buffer)) {
    data_ = {owned_.data(), static_cast<std::size_t>(owned_.size())};
  }
  /// Somebody else's memory, which must outlive this.
  explicit Bytes(std::span<const std::byte> borrowed) : data_(borrowed) {}
  /// The characters of somebody else's string, which must outlive this.
  explicit Bytes(std::string_view borrowed)
      : Bytes(std::as_bytes(std::span(borrowed.data(), borrowed.size()))) {}
  /// A mapping made by mmap, unmapped in the end.
  static Bytes of_mapping(void* mapping, std::size_t size) {
    Bytes b(std::span(static_cast<const std::byte*>(mapping), size));
    b.mapping_ = mapping;
    return b;
  }
  /// Takes the bytes over; `other` holds what this one held.
  Bytes(Bytes&& other) noexcept { swap(other); }
  /// Exchanges the bytes of both.
  Bytes& operator=(Bytes&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Bytes() {
    if (mapping_) ::munmap(mapping_, data_.size());
  }

  /// The bytes; valid as long as this object is not moved from.
  std::span<const std::byte> span() const { return data_; }
  /// Number of bytes.
  std::size_t size() const { return data_.size(); }
  /// Which file read_file had them from, and in what state: device, inode, size, times of its last
  /// changes. Whoever writes into the file changes it. Empty for other bytes.
  const std::string& identity() const { return identity_; }
  void set_identity(std::string identity) { identity_ = std::move(identity); }  ///< by read_file
  /// Whether the bytes are a mapped file (ReadOptions::map).
  bool mapped() const { return mapping_ != nullptr; }
  /// The bytes as characters, of whatever encoding the file has.
  std::string_view as_text() const {
    return {reinterpret_cast<const char*>(data_.data()), data_.size()};
  }

  /// Gives the memory of `part` back to the system, as far as it fills whole pages: for a weight
  /// that has been copied elsewhere. Its bytes must not be read afterwards: in memory of our own
  /// they become zeros. Borrowed memory stays as it is.
  void give_back(std::span<const std::byte> part) {
    if (!mapping_ && owned_.size() == 0) return;
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const auto begin = (reinterpret_cast<std::uintptr_t>(part.data()) + page - 1) / page * page;
    const auto end = reinterpret_cast<std::uintptr_t>(part.data() + part.size()) / page * page;
    if (begin < end) ::madvise(casa::detail::bit_cast<void*>(begin), end - begin, MADV_DONTNEED);
  }

 private:
  void swap(Bytes& other) noexcept {
    std::swap(owned_, other.owned_);
    std::swap(mapping_, other.mapping_);
    std::swap(data_, other.data_);
    std::swap(identity_, other.identity_);
  }

  std::string identity_;
  Buffer<std::byte> owned_;
  void* mapping_ = nullptr;
  std::span<const std::byte> data_;
};

/// How read_file reads.
struct ReadOptions {
  /// Map the file instead of reading it: nothing is copied, pages come when touched. Contract:
  /// nobody changes or shortens the file while the mapping lives. If the file shrinks, touching
  /// what is gone kills the process (SIGBUS); if it is overwritten, the values change under the
  /// reader. Files replaced by rename, as AtomicFile does, are safe. Not for files of people you do
  /// not trust.
  bool map = false;
  std::int64_t max_bytes = (std::numeric_limits<std::int64_t>::max)();  ///< larger files: refused
  std::string_view max_bytes_option = {};  ///< the option that raises max_bytes, for the error
  bool follow_links = true;                ///< false: a symbolic link is refused (O_NOFOLLOW)
};

/// The whole file. Only regular files (a FIFO or a device is refused without blocking). casa::error
/// names the path and what is wrong: it does not open, is larger than options.max_bytes, or changed
/// meanwhile.
template <class Calls = detail::SystemCalls>
Bytes read_file(const std::string& path, const ReadOptions& options = {}) {
  detail::require_path(path);
  const int flags =
      O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (options.follow_links ? 0 : O_NOFOLLOW);
  const detail::Descriptor file(Calls::open(path.c_str(), flags, 0));
  if (!file) detail::fail_system(path, "open");
  struct stat before {};
  if (Calls::fstat(file.get(), &before) != 0) detail::fail_system(path, "stat");
  require(S_ISREG(before.st_mode), path, ": not a regular file",
          S_ISDIR(before.st_mode) ? " (it is a folder)" : "");
  require(before.st_size <= options.max_bytes, path, ": file of ", before.st_size,
          " bytes is larger than the limit of ", options.max_bytes,
          options.max_bytes_option.empty() ? "" : " (", options.max_bytes_option,
          options.max_bytes_option.empty() ? "" : ")");
  require(before.st_size <= (std::numeric_limits<Index>::max)(), path, ": file of ", before.st_size,
          " bytes is larger than this platform's memory");
  const auto size = static_cast<std::size_t>(before.st_size);
  if (options.map) {
    if (size == 0) return {};
    void* mapping = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
    if (mapping == MAP_FAILED) detail::fail_system(path, "map");
    Bytes mapped = Bytes::of_mapping(mapping, size);
    mapped.set_identity(detail::identity_of(before));
    return mapped;
  }
  Buffer<std::byte> buffer;
  try {
    buffer = Buffer<std::byte>(static_cast<Index>(size));
  } catch (const std::bad_alloc&) {
    fail(path, ": no memory for ", size, " bytes");
  }
  for (std::size_t done = 0; done < size;) {
    constexpr std::size_t at_once = std::size_t{1} << 30;
    const ssize_t n = Calls::pread(file.get(), buffer.data() + done,
                                   (std::min)(size - done, at_once), static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) detail::fail_system(path, "read");
    require(n > 0, path, ": file ended at byte ", done, " of ", size, " while it was read");
    done += static_cast<std::size_t>(n);
  }
  struct stat after {};
  if (Calls::fstat(file.get(), &after) != 0) detail::fail_system(path, "stat");
  require(after.st_size == before.st_size && after.st_mtim.tv_sec == before.st_mtim.tv_sec &&
              after.st_mtim.tv_nsec == before.st_mtim.tv_nsec,
          path, ": file changed while it was read");
  Bytes bytes(std::move(buffer));
  bytes.set_identity(detail::identity_of(before));
  return bytes;
}

/// Writes a file that appears whole, at commit(), or not at all: into a temporary file of the same
/// folder, synced, renamed over the old one (a link is replaced, not followed), folder synced.
/// Without commit() the old file stays and the temporary one goes. casa::error names the path and
/// the reason.
template <class Calls = detail::SystemCalls>
class BasicAtomicFile {
 public:
  /// Creates the temporary file beside `path`. Throws casa::error where that is not possible, or
  /// where `path` is there and no regular file.
  explicit BasicAtomicFile(std::string path) : path_(std::move(path)) {
    detail::require_path(path_);
    struct stat old {};
    const bool exists = ::stat(path_.c_str(), &old) == 0;
    require(!exists || S_ISREG(old.st_mode), path_, ": cannot write: not a regular file");
    for (int attempt = 0; !file_ && attempt < 100; ++attempt) {
      static std::atomic<unsigned> counter{0};
      temporary_ = text(path_, ".tmp-", ::getpid(), "-", ++counter);
      file_ = detail::Descriptor(
          Calls::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
      if (!file_ && errno != EEXIST) detail::fail_system(path_, "create");
    }
    if (!file_) detail::fail_system(path_, "create");
    if (exists) (void)::fchmod(file_.get(), old.st_mode & 07777);
  }
  BasicAtomicFile(const BasicAtomicFile&) = delete;
  BasicAtomicFile& operator=(const BasicAtomicFile&) = delete;
  ~BasicAtomicFile() {
    if (!committed_) ::unlink(temporary_.c_str());
  }

  /// Appends bytes. Throws casa::error when the system refuses (a full disk), and after commit().
  void write(std::span<const std::byte> bytes) {
    require(!committed_, path_, ": written after commit");
    while (!bytes.empty()) {
      constexpr std::size_t at_once = std::size_t{1} << 30;
      const ssize_t n = Calls::write(file_.get(), bytes.data(), (std::min)(bytes.size(), at_once));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) detail::fail_system(path_, "write");
      bytes = bytes.subspan(static_cast<std::size_t>(n));
    }
  }
  /// Appends the characters of a string.
  void write(std::string_view s) { write(std::as_bytes(std::span(s.data(), s.size()))); }

  /// Makes what was written the file at the path. Throws casa::error when called twice or when the
  /// system refuses; the old file is then still in place, unless the message says otherwise.
  void commit() {
    require(!committed_, path_, ": committed twice");
    if (Calls::fsync(file_.get()) != 0) detail::fail_system(path_, "sync");
    if (Calls::rename(temporary_.c_str(), path_.c_str()) != 0) detail::fail_system(path_, "rename");
    committed_ = true;
    const detail::Descriptor folder(
        Calls::open(detail::folder_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0));
    if (!folder || (Calls::fsync(folder.get()) != 0 && errno != EINVAL))
      detail::fail_system(path_, "sync the folder (the new file is in place)");
  }

 private:
  std::string path_;
  std::string temporary_;
  detail::Descriptor file_{-1};
  bool committed_ = false;
};

/// The AtomicFile of programs; tests give BasicAtomicFile system calls that fail.
using AtomicFile = BasicAtomicFile<>;

/// The file becomes `content`, or stays as it was (casa::error).
inline void write_file(const std::string& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

}  // namespace io
CASA_NAMESPACE_END
