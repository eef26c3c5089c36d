// What the main() of every program here does around its work: the command line, stdout checked to
// its end, errors as "name: message", and an exit status that tells.
//
//   0    done
//   1    it could not be done (a full disk is such a reason), or the answer is no
//   2    wrong command line
//   141  whoever read stdout has closed it, as `| head` does: nothing more is computed or said (the
//        status that shells show for programs that SIGPIPE ends)
//   128 + N after signal N, where a program takes signals: 130 after Ctrl-C
#pragma once

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstring>
#include <exception>
#include <sstream>

#include "support/standard_output.hpp"

namespace program {

inline constexpr int kReaderGone = 128 + SIGPIPE;

/// Descriptors 0, 1 and 2 that are closed are opened, so that no file that is opened later becomes
/// stdout by its number. Reading such a stdin and writing such a stdout fail (EBADF).
inline void open_standard_descriptors() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (::fcntl(fd, F_GETFD) < 0 && errno == EBADF)
      (void)!::open("/dev/null", fd == STDIN_FILENO    ? O_WRONLY
                                 : fd == STDOUT_FILENO ? O_RDONLY
                                                       : O_RDWR);
}

/// Says on stderr why stdout failed, unless its reader has gone, and gives the status to end with.
inline int status_of(const char* name, OutputFailed failure) {
  if (failure.reason == EPIPE) return kReaderGone;
  std::fprintf(stderr, "%s: stdout: cannot write: %s\n", name, std::strerror(failure.reason));
  return 1;
}

/// Parses the command line, runs `body` (which returns a status) and ends as the head of this file
/// says. `name` begins every message.
template <class Body>
int run(const char* name, CLI::App& app, int argc, char** argv, Body&& body) {
  open_standard_descriptors();
  for (const int signal : {SIGPIPE, SIGXFSZ}) std::signal(signal, SIG_IGN);  // EPIPE, EFBIG tell
  try {
    int status = 0;
    try {
      app.parse(argc, argv);
    } catch (const CLI::ParseError& e) {
      std::ostringstream out, err;
      status = app.exit(e, out, err) == 0 ? 0 : 2;
      std::fputs(err.str().c_str(), stderr);
      put(out.str());
      flush();
      return status;
    }
    status = body();
    flush();
    // What went through stdio counts as well.
    if (std::fflush(stdout) != 0) throw OutputFailed{errno};
    if (std::ferror(stdout)) throw OutputFailed{EIO};
    return status;
  } catch (OutputFailed failure) {
    return status_of(name, failure);
  } catch (const std::exception& e) {
    const std::string message = e.what();
    try {
      flush();  // what was found before the error
    } catch (OutputFailed) {
    }
    std::fprintf(stderr, "%s: %s\n", name, message.c_str());
    return 1;
  }
}

}  // namespace program
