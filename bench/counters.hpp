// Instructions, cycles and cache misses that the processor counts, where the machine lets a program
// read them: on Linux, outside of most virtual machines and containers.
#pragma once

#include <array>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

#if defined(__linux__)
#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace bench {

/// What has been counted; NaN where this machine does not count it.
struct Counts {
  double instructions = std::numeric_limits<double>::quiet_NaN();
  double cycles = std::numeric_limits<double>::quiet_NaN();
  double misses = std::numeric_limits<double>::quiet_NaN();  ///< of the last cache before memory

  Counts operator-(const Counts& before) const {
    return {instructions - before.instructions, cycles - before.cycles, misses - before.misses};
  }
  Counts operator/(double n) const { return {instructions / n, cycles / n, misses / n}; }
};

/// Counts what the thread that makes it executes, outside of the kernel, and all threads that this
/// thread starts afterwards. (Made of one descriptor each, since groups cannot follow new threads.)
class Counters {
 public:
  Counters() {
#if defined(__linux__)
    constexpr std::array<std::uint64_t, 3> events = {
        PERF_COUNT_HW_INSTRUCTIONS, PERF_COUNT_HW_CPU_CYCLES, PERF_COUNT_HW_CACHE_MISSES};
    for (std::size_t i = 0; i < events.size(); ++i) {
      perf_event_attr attributes{};
      attributes.size = sizeof(attributes);
      attributes.type = PERF_TYPE_HARDWARE;
      attributes.config = events[i];
      attributes.exclude_kernel = 1;
      attributes.exclude_hv = 1;
      attributes.inherit = 1;
      attributes.read_format = PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING;
      files_[i] = static_cast<int>(syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0));
      if (files_[i] < 0) reason_ = explanation(errno);
    }
#else
    reason_ = "this system has no perf_event_open";
#endif
  }
  Counters(const Counters&) = delete;
  Counters& operator=(const Counters&) = delete;
  ~Counters() {
#if defined(__linux__)
    for (const int file : files_)
      if (file >= 0) close(file);
#endif
  }

  /// Why one of them or all are not counted; empty if all are.
  const std::string& reason() const { return reason_; }

  /// All counts since the counters were made.
  Counts now() const { return {read(0), read(1), read(2)}; }

 private:
  /// One count. More events than the processor counts at once take turns; what was counted in part
  /// of the time is scaled to all of it.
  double read([[maybe_unused]] std::size_t i) const {
#if defined(__linux__)
    struct {
      std::uint64_t value, enabled, running;
    } r{};
    if (files_[i] >= 0 && ::read(files_[i], &r, sizeof(r)) == static_cast<ssize_t>(sizeof(r)) &&
        r.running > 0)
      return static_cast<double>(r.value) * static_cast<double>(r.enabled) /
             static_cast<double>(r.running);
#endif
    return std::numeric_limits<double>::quiet_NaN();
  }
  static std::string explanation(int error) {
    if (error == ENOENT || error == EOPNOTSUPP || error == ENODEV)
      return "this machine, perhaps a virtual one, has no such counters";
    if (error == EACCES || error == EPERM)
      return "not allowed: /proc/sys/kernel/perf_event_paranoid, or a container, forbids it";
    return std::strerror(error);
  }

  std::array<int, 3> files_ = {-1, -1, -1};
  std::string reason_;
};

}  // namespace bench
