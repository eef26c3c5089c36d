// Standard output that is checked: what cannot be written is noticed where it happens, with the
// system's own reason.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstddef>
#include <cstdio>
#include <string>
#include <string_view>

namespace program {

/// Thrown by put(), print() and flush(). No std::exception, so that nothing that takes one mistake
/// of a user and goes on takes this for such: there is nobody left to talk to. run() ends with it.
struct OutputFailed {
  int reason = 0;  ///< errno; EPIPE: the reader has gone
};

namespace detail {
inline std::string& pending() {
  static std::string text;
  return text;
}
}  // namespace detail

/// Writes what put() and print() have kept. `stop` is asked while a slow reader is waited for and
/// after each signal; where it says true the rest is dropped and the answer is false.
inline bool flush(bool (*stop)() = nullptr) {
  // A pipe that poll() calls writable takes this much without blocking (PIPE_BUF).
  constexpr std::size_t at_once = 4096;
  std::string text;
  text.swap(detail::pending());
  for (std::string_view rest = text; !rest.empty();) {
    if (stop && stop()) return false;
    pollfd p{STDOUT_FILENO, POLLOUT, 0};
    const int ready = ::poll(&p, 1, stop ? 100 : -1);
    if (ready == 0 || (ready < 0 && errno == EINTR)) continue;
    const ssize_t n = ::write(STDOUT_FILENO, rest.data(), rest.substr(0, at_once).size());
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n < 0) throw OutputFailed{errno};
    rest.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

/// Text to stdout: kept until there is much of it, and on a terminal until its line ends.
inline void put(std::string_view text) {
  static const bool terminal = ::isatty(STDOUT_FILENO) != 0;
  detail::pending() += text;
  if (detail::pending().size() >= 65536 || (terminal && text.ends_with('\n'))) flush();
}

/// As std::printf.
[[gnu::format(printf, 1, 2)]] inline void print(const char* format, ...) {
  std::va_list values, again;
  va_start(values, format);
  va_copy(again, values);
  const int length = std::vsnprintf(nullptr, 0, format, values);
  va_end(values);
  std::string text(length < 0 ? 0 : static_cast<std::size_t>(length) + 1, '\0');
  std::vsnprintf(text.data(), text.size(), format, again);
  va_end(again);
  if (!text.empty()) text.pop_back();
  put(text);
}

/// Whether whoever read a pipe or socket on stdout has closed it. Says so before anything is
/// written.
inline bool reader_has_gone() {
  pollfd p{STDOUT_FILENO, 0, 0};
  return ::poll(&p, 1, 0) > 0 && (p.revents & POLLERR) != 0;
}

}  // namespace program
