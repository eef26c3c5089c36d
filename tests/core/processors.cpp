// The processors that control groups allow, read from made-up folders.
#include "casa/core/processors.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <map>

#include <unistd.h>

using namespace casa;
using detail::cgroup_processors;
using detail::kNoProcessorLimit;

namespace {

using Files = std::map<std::string, std::string>;

/// What cgroup_processors reads from these files and no others.
Index allowed(const Files& files) {
  namespace fs = std::filesystem;
  static int number = 0;
  const fs::path root = fs::temp_directory_path() / ("casa-processors-" + std::to_string(getpid()) +
                                                     "-" + std::to_string(number++));
  fs::remove_all(root);
  fs::create_directories(root);
  for (const auto& [name, bytes] : files) {
    const fs::path path = root.string() + name;
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << bytes;
  }
  const Index result = cgroup_processors(root.string());
  fs::remove_all(root);
  return result;
}

const std::string kMounts2 =
    "22 1 8:1 / / rw - ext4 /dev/vda rw\n"
    "30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 master:1 - cgroup2 cgroup2 rw,nsdelegate\n";
const std::string kMounts1 =
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";

/// A version 2 hierarchy in which this process is in `group`.
Index allowed_2(const std::string& group, Files files) {
  files["/proc/self/mountinfo"] = kMounts2;
  files["/proc/self/cgroup"] = "0::" + group + "\n";
  return allowed(files);
}

}  // namespace

TEST_CASE("without files there is no limit") {
  CHECK(allowed({}) == kNoProcessorLimit);
  CHECK(allowed_2("/", {}) == kNoProcessorLimit);
  CHECK(allowed_2("/a/b", {}) == kNoProcessorLimit);
}

TEST_CASE("version 2: whole processors, at least one") {
  const auto of = [](const std::string& cpu_max) {
    return allowed_2("/a", {{"/sys/fs/cgroup/a/cpu.max", cpu_max}});
  };
  CHECK(of("200000 100000\n") == 2);
  CHECK(of("400000 50000\n") == 8);
  CHECK(of("399999 100000\n") == 3);
  CHECK(of("100000 100000\n") == 1);
  CHECK(of("5000 100000\n") == 1);
  CHECK(of("300000\n") == 3);  // the usual period
  CHECK(of("300000 100000") == 3);
  CHECK(of("max 100000\n") == kNoProcessorLimit);
}

TEST_CASE("version 2: what is no quota limits nothing") {
  for (const std::string bad :
       {"", "\n", " ", "max", "-1 100000", "0 100000", "100000 0", "100000 -5", "100000 x", "2e5 1",
        "99999999999999999999999 100000", "100000 99999999999999999999999", "0x10 16"}) {
    CAPTURE(bad);
    CHECK(allowed_2("/a", {{"/sys/fs/cgroup/a/cpu.max", bad}}) == kNoProcessorLimit);
  }
}

TEST_CASE("the smallest quota on the way to the root counts") {
  const std::string top = "/sys/fs/cgroup";
  CHECK(allowed_2("/a/b/c", {{top + "/a/b/c/cpu.max", "max 100000"},
                             {top + "/a/b/cpu.max", "600000 100000"},
                             {top + "/a/cpu.max", "300000 100000"},
                             {top + "/cpu.max", "900000 100000"},
                             {top + "/a/other/cpu.max", "100000 100000"}}) == 3);
  CHECK(allowed_2("/a/b/c", {{top + "/a/b/c/cpu.max", "200000 100000"},
                             {top + "/a/cpu.max", "300000 100000"}}) == 2);
  CHECK(allowed_2("/", {{top + "/cpu.max", "500000 100000"}}) == 5);
  CHECK(allowed_2("/a:b/c d", {{top + "/a:b/c d/cpu.max", "500000 100000"}}) == 5);
}

TEST_CASE("a mount shows the hierarchy from its own root on") {
  const auto of = [](const std::string& root, const std::string& group, Files files) {
    files["/proc/self/mountinfo"] =
        "30 22 0:26 " + root + " /mnt/my\\040groups rw - cgroup2 cgroup2 rw\n";
    files["/proc/self/cgroup"] = "1:name=systemd:/x\n0::" + group + "\n";
    return allowed(files);
  };
  const std::string at = "/mnt/my groups";
  CHECK(of("/docker/12", "/docker/12", {{at + "/cpu.max", "400000 100000"}}) == 4);
  CHECK(of("/docker/12", "/docker/12/x", {{at + "/x/cpu.max", "400000 100000"}}) == 4);
  CHECK(of("/docker/1", "/docker/12",
           {{at + "/2/cpu.max", "200000 100000"}, {at + "/cpu.max", "400000 100000"}}) == 4);
  // A group namespace: the process is seen from inside, or stands above what is mounted.
  CHECK(of("/", "/", {{at + "/cpu.max", "400000 100000"}}) == 4);
  CHECK(of("/", "/../../x", {{at + "/cpu.max", "400000 100000"}}) == 4);
  CHECK(of("/..", "/", {{at + "/cpu.max", "400000 100000"}}) == 4);
  // The host's path, of which the container has nothing.
  CHECK(of("/", "/kubepods/pod1/c2", {{at + "/cpu.max", "400000 100000"}}) == 4);
}

TEST_CASE("version 1: its own files, in the hierarchy of cpu alone") {
  const auto of = [](const std::string& quota, const std::string& period) {
    return allowed({{"/proc/self/mountinfo", kMounts1},
                    {"/proc/self/cgroup", "5:memory:/m\n4:cpu,cpuacct:/a/b\n1:cpuset:/\n0::/\n"},
                    {"/sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us", quota},
                    {"/sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us", period},
                    {"/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "700000\n"},
                    {"/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n"},
                    {"/sys/fs/cgroup/cpu,cpuacct/m/cpu.cfs_quota_us", "100000\n"},
                    {"/sys/fs/cgroup/cpu,cpuacct/m/cpu.cfs_period_us", "100000\n"},
                    {"/sys/fs/cgroup/memory/a/cpu.cfs_quota_us", "100000\n"},
                    {"/sys/fs/cgroup/memory/a/cpu.cfs_period_us", "100000\n"},
                    {"/sys/fs/cgroup/memory/m/cpu.cfs_quota_us", "100000\n"},
                    {"/sys/fs/cgroup/memory/m/cpu.cfs_period_us", "100000\n"}});
  };
  CHECK(of("250000\n", "100000\n") == 2);
  CHECK(of("-1\n", "100000\n") == 7);
  CHECK(of("250000\n", "") == 7);
  CHECK(of("1000\n", "100000\n") == 1);
}

TEST_CASE("both versions at once: the smaller counts") {
  CHECK(allowed({{"/proc/self/mountinfo", kMounts1 + kMounts2},
                 {"/proc/self/cgroup", "4:cpuacct,cpu:/a\n0::/b\n"},
                 {"/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "600000"},
                 {"/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000"},
                 {"/sys/fs/cgroup/b/cpu.max", "400000 100000"}}) == 4);
}

TEST_CASE("lines that are none are passed over") {
  for (const std::string bad : {"", ":", "::", "0", "0:", "garbage\n0::/a", "\n\n0:cpu", "- - - -"})
    for (const std::string mounts :
         {"", "- - - -", "1 2 3 4 5 6 - cgroup2", "30 22 0:26 / /m rw -"}) {
      CAPTURE(bad);
      CAPTURE(mounts);
      CHECK(allowed({{"/proc/self/cgroup", bad}, {"/proc/self/mountinfo", mounts}}) ==
            kNoProcessorLimit);
    }
}

TEST_CASE("this process may use at least one processor, and not more than the machine has") {
  CHECK(usable_processors() >= 1);
  CHECK(usable_processors() <= detail::affinity_processors());
}
