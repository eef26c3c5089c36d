#include "casa/files/file.hpp"

#include <doctest/doctest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "casa/core/error.hpp"
#include "support/messages.hpp"
#include "support/scratch.hpp"

using casa::error;
using casa::io::AtomicFile;
using casa::io::BasicAtomicFile;
using casa::io::Bytes;
using casa::io::read_file;
using casa::io::write_file;
namespace fs = std::filesystem;

namespace {

std::string letters(std::size_t n) {
  std::string s(n, ' ');
  for (std::size_t i = 0; i < n; ++i) s[i] = static_cast<char>('a' + i * i % 26);
  return s;
}

using System = casa::io::detail::SystemCalls;

/// Reads at most 3 bytes at a time, is interrupted before each, and at call `at` does `event`.
struct Reader : System {
  enum class Event { none, fails, truncate, append, touch };
  static inline Event event;
  static inline int at, calls;
  static inline std::string path;
  static inline bool interrupted;

  static ssize_t pread(int fd, void* to, std::size_t n, off_t offset) {
    interrupted = !interrupted;
    if (interrupted) {
      errno = EINTR;
      return -1;
    }
    if (calls++ == at) {
      if (event == Event::fails) {
        errno = EIO;
        return -1;
      }
      if (event == Event::truncate) fs::resize_file(path, 4);
      if (event == Event::append) fs::resize_file(path, 1000);
      if (event == Event::touch)
        fs::last_write_time(path, fs::last_write_time(path) + std::chrono::seconds(1));
    }
    return System::pread(fd, to, n < 3 ? n : 3, offset);
  }
};

/// Counts what would wait for somebody else: an open that may block, a read.
struct NoWait : System {
  static inline int waits;

  static int open(const char* path, int flags, mode_t mode) {
    waits += (flags & O_NONBLOCK) == 0;
    return System::open(path, flags | O_NONBLOCK, mode);
  }
  static ssize_t pread(int fd, void* to, std::size_t n, off_t offset) {
    ++waits;
    return System::pread(fd, to, n, offset);
  }
};

/// Writes at most 5 bytes at a time; call number `at` (of write, fsync, rename) fails or kills.
struct Writer : System {
  static inline int at, calls;
  static inline bool kills;

  static bool hit() {
    if (calls++ != at) return false;
    if (kills) ::raise(SIGKILL);
    errno = ENOSPC;
    return true;
  }
  static ssize_t write(int fd, const void* from, std::size_t n) {
    return hit() ? -1 : System::write(fd, from, n < 5 ? n : 5);
  }
  static int fsync(int fd) { return hit() ? -1 : System::fsync(fd); }
  static int rename(const char* from, const char* to) {
    return hit() ? -1 : System::rename(from, to);
  }
};

void save(const std::string& path, std::string_view content) {
  BasicAtomicFile<Writer> file(path);
  file.write(content);
  file.commit();
}

}  // namespace

TEST_CASE("file: read and mapped bytes are those of the file, aligned") {
  const Scratch scratch;
  for (const std::size_t n : {0u, 1u, 63u, 4096u, 70'001u}) {
    CAPTURE(n);
    const std::string content = letters(n);
    const std::string path = scratch.write("f", content);
    const Bytes own = read_file(path);
    const Bytes mapped = read_file(path, {.map = true});
    CHECK(own.as_text() == content);
    CHECK(mapped.as_text() == content);
    CHECK_FALSE(own.mapped());
    CHECK(mapped.mapped() == (n > 0));
    CHECK(reinterpret_cast<std::uintptr_t>(own.span().data()) % 64 == 0);
  }
}

TEST_CASE("file: bytes move") {
  const Scratch scratch;
  const std::string path = scratch.write("f", "content");
  Bytes a = read_file(path, {.map = true});
  Bytes b = std::move(a);
  CHECK(b.as_text() == "content");
  b = read_file(path);
  CHECK(b.as_text() == "content");
  CHECK_FALSE(b.mapped());
}

TEST_CASE("file: giving a part back leaves what shares no whole page with it") {
  const Scratch scratch;
  const std::string content = letters(1 << 16);
  const std::string path = scratch.write("f", content);
  for (const bool map : {false, true}) {
    Bytes bytes = read_file(path, {.map = map});
    bytes.give_back(bytes.span().subspan(10'000, 20'000));
    bytes.give_back(bytes.span().subspan(50'000, 10));
    CHECK(bytes.as_text().substr(0, 10'000) == content.substr(0, 10'000));
    CHECK(bytes.as_text().substr(30'000) == content.substr(30'000));
  }
}

TEST_CASE("file: only a regular file is read, and nothing blocks") {
  const Scratch scratch;
  const std::string fifo = scratch.file("fifo");
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  const std::string link_to_fifo = scratch.file("link");
  fs::create_symlink("fifo", link_to_fifo);
  const int socket = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string socket_path = scratch.file("s");
  socket_path.copy(address.sun_path, sizeof address.sun_path - 1);
  REQUIRE(::bind(socket, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  ::close(socket);
  fs::create_symlink("loop", scratch.file("loop"));
  for (const bool map : {false, true}) {
    for (const std::string& path :
         {fifo, link_to_fifo, socket_path, scratch.path(), scratch.file("absent"),
          scratch.file("absent/f"), scratch.file("loop"), std::string("/dev/zero"),
          std::string("/dev/null"), std::string("/proc/self/fd")}) {
      CAPTURE(path);
      NoWait::waits = 0;
      const std::string message = message_of([&] { read_file<NoWait>(path, {.map = map}); });
      CHECK(has(message, path + ": "));
      CHECK(NoWait::waits == 0);
    }
    CHECK(has(message_of([&] { read_file(fifo, {.map = map}); }), "not a regular file"));
    CHECK(has(message_of([&] { read_file("/dev/zero", {.map = map}); }), "not a regular file"));
    CHECK(has(message_of([&] { read_file(scratch.path(), {.map = map}); }), "it is a folder"));
  }
  CHECK_THROWS_AS(read_file(""), error);
  CHECK_THROWS_AS(read_file(std::string("a\0b", 3)), error);
}

TEST_CASE("file: larger than the limit is refused before anything is allocated") {
  const Scratch scratch;
  const std::string path = scratch.write("f", "");
  fs::resize_file(path, std::uintmax_t{1} << 42);  // sparse: 4 TiB
  CHECK(message_of([&] { read_file(path, {.max_bytes = 1 << 20}); }) ==
        path + ": file of 4398046511104 bytes is larger than the limit of 1048576");
}

TEST_CASE("file: links are followed, or not on request") {
  const Scratch scratch;
  scratch.write("blob", "content");
  fs::create_symlink("blob", scratch.file("name"));
  CHECK(read_file(scratch.file("name")).as_text() == "content");
  CHECK_THROWS_AS(read_file(scratch.file("name"), {.follow_links = false}), error);
  CHECK(read_file(scratch.file("blob"), {.follow_links = false}).as_text() == "content");
}

TEST_CASE("file: short and interrupted reads are continued, failed ones are errors") {
  const Scratch scratch;
  const std::string content = letters(20);  // 7 reads of 3 bytes
  Reader::path = scratch.write("f", content);
  const auto run = [&](Reader::Event event, int at) {
    scratch.write("f", content);
    Reader::event = event;
    Reader::at = at;
    Reader::calls = 0;
    Reader::interrupted = false;
    return std::string(read_file<Reader>(Reader::path).as_text());
  };
  CHECK(run(Reader::Event::none, 0) == content);
  CHECK(Reader::calls == 7);
  for (int at = 0; at < 7; ++at) {
    CAPTURE(at);
    CHECK(has(message_of([&] { run(Reader::Event::fails, at); }), "cannot read"));
    CHECK(has(message_of([&] { run(Reader::Event::append, at); }), "changed while it was read"));
    CHECK(has(message_of([&] { run(Reader::Event::touch, at); }), "changed while it was read"));
    const std::string cut = message_of([&] { run(Reader::Event::truncate, at); });
    CAPTURE(cut);
    CHECK(has(cut, " while it was read"));
  }
}

TEST_CASE("file: a written file is whole, a failed write leaves the old one and no other") {
  const Scratch scratch;
  const std::string path = scratch.file("f");
  const std::string old_content = letters(30), new_content = letters(23) + "!";
  Writer::kills = false;
  Writer::at = -1;
  Writer::calls = 0;
  save(path, old_content);
  CHECK(scratch.read("f") == old_content);
  const int calls_of_old = Writer::calls;
  CHECK(calls_of_old == 6 + 3);  // writes of 5 bytes; sync, rename, sync of the folder
  Writer::calls = 0;
  save(path, new_content);
  const int calls = Writer::calls;
  for (int at = 0; at < calls; ++at) {
    CAPTURE(at);
    Writer::at = -1;
    save(path, old_content);
    Writer::calls = 0;
    Writer::at = at;
    const std::string message = message_of([&] { save(path, new_content); });
    CHECK(has(message, path + ": cannot "));
    CHECK(has(message, "No space left"));
    const bool renamed = at == calls - 1;  // only the sync of the folder came too late
    CHECK(scratch.read("f") == (renamed ? new_content : old_content));
    CHECK(scratch.list().size() == 1);
  }
}

TEST_CASE("file: killed at any call, the old or the new file is there, whole") {
  const Scratch scratch;
  const std::string path = scratch.file("f");
  const std::string old_content = letters(30), new_content = letters(23) + "!";
  bool saw_old = false, saw_new = false;
  for (int at = 0; at < 9; ++at) {
    CAPTURE(at);
    write_file(path, old_content);
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      Writer::kills = true;
      Writer::calls = 0;
      Writer::at = at;
      save(path, new_content);
      ::_exit(0);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    const std::string now = scratch.read("f");
    CHECK((now == old_content || now == new_content));
    saw_old = saw_old || now == old_content;
    saw_new = saw_new || now == new_content;
  }
  CHECK(saw_old);
  CHECK(saw_new);
}

TEST_CASE("file: without commit nothing happened") {
  const Scratch scratch;
  scratch.write("f", "old");
  {
    AtomicFile file(scratch.file("f"));
    file.write("new");
  }
  CHECK(scratch.read("f") == "old");
  CHECK(scratch.list().size() == 1);
  AtomicFile file(scratch.file("f"));
  file.commit();
  CHECK(scratch.read("f").empty());
  CHECK_THROWS_AS(file.commit(), error);
  CHECK_THROWS_AS(file.write("x"), error);
}

TEST_CASE("file: a new file keeps the mode of the old one and replaces a link") {
  const Scratch scratch;
  scratch.write("blob", "old");
  fs::permissions(scratch.file("blob"), fs::perms{0640});
  write_file(scratch.file("blob"), "new");
  CHECK(fs::status(scratch.file("blob")).permissions() == fs::perms{0640});
  fs::create_symlink("blob", scratch.file("link"));
  write_file(scratch.file("link"), "other");
  CHECK(scratch.read("blob") == "new");
  CHECK(scratch.read("link") == "other");
  CHECK_FALSE(fs::is_symlink(scratch.file("link")));
}

TEST_CASE("file: what cannot be written is refused with its name") {
  const Scratch scratch;
  REQUIRE(::mkfifo(scratch.file("fifo").c_str(), 0600) == 0);
  for (const std::string& path : {scratch.file("absent/f"), scratch.path(), scratch.file("fifo")}) {
    CAPTURE(path);
    CHECK(has(message_of([&] { write_file(path, "x"); }), path + ": cannot "));
  }
  CHECK_THROWS_AS(write_file("", "x"), error);
}

TEST_CASE("file: saving over a mapped file leaves the mapping as it was") {
  const Scratch scratch;
  const std::string path = scratch.write("f", letters(10'000));
  const Bytes mapped = read_file(path, {.map = true});
  write_file(path, "short");
  CHECK(mapped.as_text() == letters(10'000));
  CHECK(scratch.read("f") == "short");
}
