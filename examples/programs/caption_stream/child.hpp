// A program that runs beside us and writes to a pipe: started without a shell, its stderr drained,
// always stopped and reaped.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "casa/core/error.hpp"

extern char** environ;

/// What a read may end in.
enum class Read { all, end, timeout, interrupted };

/// Fills `bytes` from a pipe, waiting at most `timeout` for each piece. `done`: how many came.
/// `interrupted`: asked after each piece and each signal.
template <class Interrupted>
Read read_all(int fd, unsigned char* bytes, std::size_t size, std::chrono::milliseconds timeout,
              std::size_t& done, Interrupted interrupted) {
  const auto step = std::chrono::milliseconds(100);
  auto waited = std::chrono::milliseconds(0);
  for (done = 0; done < size;) {
    if (interrupted()) return Read::interrupted;
    pollfd p{fd, POLLIN, 0};
    const int ready = ::poll(&p, 1, static_cast<int>(step.count()));
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) casa::fail("cannot wait for frames: ", std::strerror(errno));
    if (ready == 0) {
      waited += step;
      if (waited >= timeout) return Read::timeout;
      continue;
    }
    const ssize_t n = ::read(fd, bytes + done, size - done);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n < 0) casa::fail("cannot read frames: ", std::strerror(errno));
    if (n == 0) return Read::end;
    done += static_cast<std::size_t>(n);
    waited = std::chrono::milliseconds(0);
  }
  return Read::all;
}

class Child {
 public:
  /// argv[0] is looked up in PATH.
  explicit Child(const std::vector<std::string>& arguments) : name_(arguments.at(0)) {
    int out[2], err[2];
    if (::pipe2(out, O_CLOEXEC) != 0) casa::fail("cannot make a pipe: ", std::strerror(errno));
    if (::pipe2(err, O_CLOEXEC) != 0) {
      const int reason = errno;
      ::close(out[0]);
      ::close(out[1]);
      casa::fail("cannot make a pipe: ", std::strerror(reason));
    }
    std::vector<char*> argv;
    for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    ::posix_spawn_file_actions_adddup2(&actions, err[1], 2);
    ::posix_spawnattr_init(&attributes);
    // A process group of its own: Ctrl-C is ours to handle, and what it starts is stopped with it.
    // A closed pipe ends it, as it does where nobody ignores such signals.
    ::sigset_t by_default;
    ::sigemptyset(&by_default);
    ::sigaddset(&by_default, SIGPIPE);
    ::sigaddset(&by_default, SIGXFSZ);
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF);
    ::posix_spawnattr_setpgroup(&attributes, 0);
    ::posix_spawnattr_setsigdefault(&attributes, &by_default);
    const int failure = ::posix_spawnp(&pid_, argv[0], &actions, &attributes, argv.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    ::posix_spawnattr_destroy(&attributes);
    ::close(out[1]);
    ::close(err[1]);
    out_ = out[0];
    if (failure != 0) {
      ::close(out[0]);
      ::close(err[0]);
      casa::fail("cannot start ", casa::quoted(name_), ": ", std::strerror(failure));
    }
    drain_ = std::thread([this, fd = err[0]] { drain(fd); });
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() { stop(); }

  int out() const { return out_; }

  /// Waits for the end of a program that has closed its pipe, at most `timeout`; throws with its
  /// last words unless it ended well.
  void expect_success(std::chrono::milliseconds timeout) {
    constexpr auto step = std::chrono::milliseconds(10);
    int status = 0;
    for (auto waited = step * 0; waited <= timeout && pid_ > 0; waited += step) {
      if (::waitpid(pid_, &status, WNOHANG) == pid_) {
        finish();
        casa::require(WIFEXITED(status) && WEXITSTATUS(status) == 0, name_,
                      WIFEXITED(status) ? " ended with status " : " was killed by signal ",
                      WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status), last_words());
        return;
      }
      std::this_thread::sleep_for(step);
    }
    stop();
    casa::fail(name_, " closed its output but did not end");
  }

  /// Kills it, if it still runs, and reaps it.
  void stop() {
    if (pid_ > 0) {
      ::kill(-pid_, SIGKILL);
      while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
      }
    }
    finish();
  }

 private:
  void finish() {
    if (pid_ > 0) ::kill(-pid_, SIGKILL);  // what it may have left behind
    pid_ = -1;
    if (drain_.joinable()) drain_.join();
    if (out_ >= 0) ::close(out_);
    out_ = -1;
  }

  // Whatever is written to stderr is read, so that the program never waits for us; the end is kept.
  void drain(int fd) {
    char piece[4096];
    for (;;) {
      const ssize_t n = ::read(fd, piece, sizeof piece);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) break;
      errors_.append(piece, static_cast<std::size_t>(n));
      if (errors_.size() > 8192) errors_.erase(0, errors_.size() - 4096);
    }
    ::close(fd);
  }
  std::string last_words() const {
    const std::size_t end = errors_.find_last_not_of("\r\n ");
    if (end == std::string::npos) return {};
    const std::size_t line = errors_.find_last_of('\n', end);
    const std::size_t begin = line == std::string::npos ? 0 : line + 1;
    return ": " + casa::quoted(errors_.substr(begin, end + 1 - begin));
  }

  std::string name_;
  pid_t pid_ = -1;
  int out_ = -1;
  std::thread drain_;
  std::string errors_;
};
