// How many processors this process may use: fewer than the machine has where its affinity (taskset,
// cpusets) or the processor quota of its control group (containers, systemd) says so.
#pragma once

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstdio>
#include <limits>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

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
  for (std::size_t words = 16; words <= std::size_t{1} << 14; words *= 2) {
    std::vector<unsigned long> mask(words, 0ul);
    void* const bits = mask.data();
    if (sched_getaffinity(0, words * sizeof(unsigned long), static_cast<cpu_set_t*>(bits)) != 0)
      continue;
    Index count = 0;
    for (const unsigned long word : mask) count += std::popcount(word);
    if (count > 0) return count;
  }
#endif
  return (std::max)(Index{1}, static_cast<Index>(std::thread::hardware_concurrency()));
}

/// The lines of a small file; none if it cannot be read. (Files of /proc have no size to ask for.)
inline std::vector<std::string> lines_of(const std::string& path) {
  std::vector<std::string> lines;
  std::FILE* const file = std::fopen(path.c_str(), "re");
  if (file == nullptr) return lines;
  constexpr int most = 1 << 20;
  bool in_line = false;
  for (int count = 0, c; count < most && (c = std::fgetc(file)) != EOF; ++count) {
    if (!in_line) lines.emplace_back();
    in_line = c != '\n';
    if (in_line) lines.back() += static_cast<char>(c);
  }
  std::fclose(file);
  return lines;
}

/// The parts of a text between separators.
inline std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = (std::min)(text.find(separator, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

inline bool lists(std::string_view list, std::string_view word) {
  const auto words = split(list, ',');
  return std::find(words.begin(), words.end(), word) != words.end();
}

/// A whole number that is positive, or 0 where the text is none.
inline Index positive_number(std::string_view text) {
  while (!text.empty() && (text.back() == ' ' || text.back() == '\r')) text.remove_suffix(1);
  Index value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, failure] = std::from_chars(text.data(), end, value);
  return failure == std::errc{} && stop == end && value > 0 ? value : 0;
}

inline constexpr Index kNoProcessorLimit = (std::numeric_limits<Index>::max)();

/// The processors that one folder of a control group allows: whole ones, at least 1. A thread on a
/// fraction of a processor would be stopped whenever its share is used up, and the others wait for
/// it.
inline Index quota_of_folder(const std::string& folder, bool version_2) {
  const auto first_line = [&](const char* name) {
    const auto lines = lines_of(folder + name);
    return lines.empty() ? std::string() : lines.front();
  };
  Index quota = 0, period = 0;
  if (version_2) {  // "max 100000", "150000 100000"
    const std::string line = first_line("/cpu.max");
    const auto words = split(line, ' ');
    quota = positive_number(words[0]);
    period = words.size() > 1 ? positive_number(words[1]) : 100'000;
  } else {  // "-1" without a quota
    quota = positive_number(first_line("/cpu.cfs_quota_us"));
    period = positive_number(first_line("/cpu.cfs_period_us"));
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
  const auto mounts = lines_of(root + "/proc/self/mountinfo");
  for (const std::string& group : lines_of(root + "/proc/self/cgroup")) {
    // "0::/path" (version 2), "4:cpu,cpuacct:/path" (version 1); a path may hold colons.
    const std::size_t first = group.find(':');
    const std::size_t second = first == std::string::npos ? first : group.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string_view controllers =
        std::string_view(group).substr(first + 1, second - first - 1);
    const bool version_2 = controllers.empty();
    if (!version_2 && !lists(controllers, "cpu")) continue;
    std::string path = group.substr(second + 1);
    if (path == "/") path.clear();

    // A mount shows the hierarchy from its own root on. Where no mount shows this process's path
    // (a container that sees the host's names), the mount points themselves are asked.
    Index inside = kNoProcessorLimit, elsewhere = kNoProcessorLimit;
    bool found = false;
    for (const std::string& line : mounts) {
      const auto words =
          split(line, ' ');  // id parent device root point options... - type source super
      const auto dash = std::find(words.begin(), words.end(), "-");
      if (words.size() < 6 || words.end() - dash < 4) continue;
      if (dash[1] != (version_2 ? "cgroup2" : "cgroup")) continue;
      if (!version_2 && !lists(dash[3], "cpu")) continue;
      std::string shown = unescaped_mount(words[3]);
      if (shown == "/") shown.clear();
      const std::string point = root + unescaped_mount(words[4]);
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
/// and no more than the quota of its control groups, in whole processors.
inline Index usable_processors() {
#if defined(__linux__)
  return (std::min)(detail::affinity_processors(), detail::cgroup_processors());
#else
  return detail::affinity_processors();
#endif
}

CASA_NAMESPACE_END
