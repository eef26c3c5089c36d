// How many processors this process may use: fewer than the machine has where its affinity (taskset,
// cpusets) or the processor quota of its control group (containers, systemd) says so.
#pragma once

#include <algorithm>
#include <cstdio>
#include <limits>
#include <string>
#include <string_view>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

#include "casa/core/config.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// The processors that the calling thread may run on, at least 1.
inline Index affinity_processors() {
#if defined(__linux__)
  // The kernel refuses a mask that is shorter than its own.
  for (std::size_t size = 1 << 10; size <= std::size_t{1} << 20; size *= 2) {
    cpu_set_t* const mask = CPU_ALLOC(size);
    if (mask == nullptr) break;
    const std::size_t bytes = CPU_ALLOC_SIZE(size);
    const bool filled = sched_getaffinity(0, bytes, mask) == 0;
    const Index count = filled ? CPU_COUNT_S(bytes, mask) : 0;
    CPU_FREE(mask);
    if (count > 0) return count;
  }
#endif
  return (std::max)(Index{1}, static_cast<Index>(std::thread::hardware_concurrency()));
}

/// What a small file holds; nothing if it cannot be read. (Files of /proc have no size to ask for.)
inline std::string contents_of(const std::string& path) {
  std::string contents;
  std::FILE* const file = std::fopen(path.c_str(), "re");
  if (file == nullptr) return contents;
  constexpr std::size_t most = 1 << 20;
  for (int c; contents.size() < most && (c = std::fgetc(file)) != EOF;)
    contents += static_cast<char>(c);
  std::fclose(file);
  return contents;
}

/// Takes the first part, which ends at `separator` or with the text, off the front of `rest`.
inline std::string_view take_part(std::string_view& rest, char separator) {
  const std::size_t length = (std::min)(rest.find(separator), rest.size());
  const std::string_view part = rest.substr(0, length);
  rest.remove_prefix((std::min)(length + 1, rest.size()));
  return part;
}

/// Whether a list with commas between its words holds `word`, which is not empty.
inline bool lists(std::string_view list, std::string_view word) {
  while (!list.empty())
    if (take_part(list, ',') == word) return true;
  return false;
}

/// The positive whole number that the text is; 0 if it is anything else or does not fit.
inline Index positive_number(std::string_view text) {
  while (!text.empty() && (text.back() == ' ' || text.back() == '\r')) text.remove_suffix(1);
  Index value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9' || __builtin_mul_overflow(value, 10, &value) ||
        __builtin_add_overflow(value, c - '0', &value))
      return 0;
  }
  return value;
}

inline constexpr Index kNoProcessorLimit = (std::numeric_limits<Index>::max)();

/// The processors that one folder of a control group allows: whole ones, at least 1. A thread on a
/// fraction of a processor would be stopped whenever its share is used up, and the others wait for
/// it.
inline Index quota_of_folder(const std::string& folder, bool version_2) {
  const auto read = [&](const char* name) { return contents_of(folder + name); };
  Index quota = 0, period = 0;
  if (version_2) {  // "max 100000", "150000 100000"
    const std::string file = read("/cpu.max");
    std::string_view rest = file, line = take_part(rest, '\n');
    quota = positive_number(take_part(line, ' '));
    period = line.empty() ? 100'000 : positive_number(take_part(line, ' '));
  } else {  // "-1" without a quota
    const auto number = [&](const char* name) {
      const std::string file = read(name);
      std::string_view rest = file;
      return positive_number(take_part(rest, '\n'));
    };
    quota = number("/cpu.cfs_quota_us");
    period = number("/cpu.cfs_period_us");
  }
  return quota > 0 && period > 0 ? (std::max)(Index{1}, quota / period) : kNoProcessorLimit;
}

/// The octal escapes of /proc/self/mountinfo ("\040" is a space) undone.
inline std::string unescaped_mount(std::string_view s) {
  const auto digit = [](char c) { return c >= '0' && c <= '7'; };
  std::string out;
  for (std::size_t i = 0; i < s.size(); ++i) {
    if (s[i] == '\\' && i + 3 < s.size() && digit(s[i + 1]) && digit(s[i + 2]) && digit(s[i + 3])) {
      out += static_cast<char>((s[i + 1] - '0') * 64 + (s[i + 2] - '0') * 8 + (s[i + 3] - '0'));
      i += 3;
    } else {
      out += s[i];
    }
  }
  return out;
}

/// The smallest quota from `path` in the hierarchy that is mounted at `mount` up to its root.
inline Index quota_of_path(const std::string& mount, std::string path, bool version_2) {
  Index least = kNoProcessorLimit;
  for (;;) {
    least = (std::min)(least, quota_of_folder(mount + path, version_2));
    if (path.empty()) return least;
    const std::size_t slash = path.rfind('/');
    path.resize(slash == std::string::npos ? 0 : slash);
  }
}

/// The processors that the control groups of this process allow (versions 1 and 2, each level of
/// the hierarchy), or kNoProcessorLimit. `root` stands before every path that is read.
inline Index cgroup_processors(const std::string& root = {}) {
  Index least = kNoProcessorLimit;
  const std::string mounts = contents_of(root + "/proc/self/mountinfo");
  const std::string groups = contents_of(root + "/proc/self/cgroup");
  for (std::string_view rest_of_groups = groups; !rest_of_groups.empty();) {
    // "0::/path" (version 2), "4:cpu,cpuacct:/path" (version 1); a path may hold colons.
    std::string_view group = take_part(rest_of_groups, '\n');
    take_part(group, ':');
    const std::string_view controllers = take_part(group, ':');
    if (group.empty()) continue;
    const bool version_2 = controllers.empty();
    if (!version_2 && !lists(controllers, "cpu")) continue;
    const std::string path(group == "/" ? std::string_view() : group);

    // A mount shows the hierarchy from its own root on. Where no mount shows this process's path
    // (a container that sees the host's names), the mount points themselves are asked.
    Index inside = kNoProcessorLimit, elsewhere = kNoProcessorLimit;
    bool found = false;
    for (std::string_view rest_of_mounts = mounts; !rest_of_mounts.empty();) {
      // id parent device root point options... - type source super-options
      std::string_view line = take_part(rest_of_mounts, '\n');
      for (int field = 0; field < 3; ++field) take_part(line, ' ');
      const std::string_view mounted = take_part(line, ' '), mount_point = take_part(line, ' ');
      while (!line.empty() && take_part(line, ' ') != "-") continue;
      const std::string_view type = take_part(line, ' ');
      take_part(line, ' ');
      if (line.empty() || type != (version_2 ? "cgroup2" : "cgroup")) continue;
      if (!version_2 && !lists(line, "cpu")) continue;
      std::string shown = unescaped_mount(mounted);
      if (shown == "/") shown.clear();
      const std::string point = root + unescaped_mount(mount_point);
      const bool holds = path.starts_with(shown) &&
                         (path.size() == shown.size() || path[shown.size()] == '/') &&
                         path.find("/..") == std::string::npos;
      if (holds) {
        found = true;
        inside = (std::min)(inside, quota_of_path(point, path.substr(shown.size()), version_2));
      } else {
        elsewhere = (std::min)(elsewhere, quota_of_path(point, {}, version_2));
      }
    }
    least = (std::min)(least, found ? inside : elsewhere);
  }
  return least;
}

}  // namespace detail

/// The processors that this process may use, at least 1: those of the calling thread's affinity,
/// and no more than the quota of its control groups, in whole processors. WebAssembly built without
/// threads has one, whatever the machine has.
inline Index usable_processors() {
#if defined(__EMSCRIPTEN__) && !defined(__EMSCRIPTEN_PTHREADS__)
  return 1;
#elif defined(__linux__)
  return (std::min)(detail::affinity_processors(), detail::cgroup_processors());
#else
  return detail::affinity_processors();
#endif
}

CASA_NAMESPACE_END
