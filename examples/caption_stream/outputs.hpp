// What a captioned stream leaves behind: subtitles, one JSON line a frame, a status line, figures.
#pragma once

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "casa/io/json_writer.hpp"
#include "casa/io/srt.hpp"

/// What is said of a frame.
struct FrameRecord {
  std::int64_t frame = 0;
  std::int64_t begin_ms = 0, end_ms = 0;  // when it is shown
  bool skipped = false;                   // nearly equal to the last one shown to the model
  bool cut = false;                       // its text ended before a stop token came
  std::vector<int> ids;
  std::string subtitle, truth;  // truth: what should have been said, if known
  double ttft = 0;              // seconds from its pixels (encoding included) to its first token
  double lag = 0;               // seconds behind real time at its last token; below 0: ahead
  casa::Index cache_bytes = 0;
};

inline double peak_gib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / (1024.0 * 1024.0);
}

/// A text file that is complete on disk after each append.
class GrowingFile {
 public:
  GrowingFile() = default;
  bool is_open() const { return file_ != nullptr; }
  const std::string& path() const { return path_; }
  explicit GrowingFile(const std::string& path) : path_(path), file_(open(path), std::fclose) {}

  void append(const std::string& s) {
    if (!file_) return;
    casa::require(std::fwrite(s.data(), 1, s.size(), file_.get()) == s.size() &&
                      std::fflush(file_.get()) == 0,
                  path_, ": cannot write: ", std::strerror(errno));
  }

 private:
  static std::FILE* open(const std::string& path) {
    std::FILE* file = std::fopen(path.c_str(), "we");
    if (!file) casa::fail(path, ": cannot create: ", std::strerror(errno));
    return file;
  }
  std::string path_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_{nullptr, std::fclose};
};

/// One line, under the keys of the authors' captioner and some of our own.
inline std::string json_line(const FrameRecord& r) {
  casa::io::JsonWriter w;
  w.begin_object();
  w.member("start_timestamp", static_cast<double>(r.begin_ms) / 1000);
  w.member("end_timestamp", static_cast<double>(r.end_ms) / 1000);
  w.member("ttft", r.ttft);
  w.member("num_tokens_generated", r.ids.size());
  w.member("memory_so_far", peak_gib());
  w.member("subtitle", r.subtitle);
  w.key("ids").begin_array();
  for (const int id : r.ids) w.value(id);
  w.end_array();
  w.member("lag", r.lag).member("frame", r.frame).member("cache_bytes", r.cache_bytes);
  w.member("cut", r.cut).member("skipped", r.skipped);
  return w.end_object().str() + "\n";
}

class Outputs {
 public:
  Outputs(const std::string& srt, const std::string& jsonl, bool quiet)
      : status_(!quiet && isatty(STDERR_FILENO)), to_terminal_(isatty(STDOUT_FILENO) != 0) {
    if (!srt.empty()) srt_ = GrowingFile(srt);
    if (!jsonl.empty()) jsonl_ = GrowingFile(jsonl);
  }

  /// A piece of the running caption.
  void say(const std::string& piece) {
    if (piece.empty()) return;
    if (to_terminal_) clear_status();
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  }

  void frame_done(const FrameRecord& r) {
    if (!r.skipped) {
      const std::string cue =
          r.truth.empty() ? r.subtitle : "read  " + r.subtitle + "\ntruth " + r.truth;
      if (!cue.empty()) srt_.append(casa::io::srt_cue(++cues_, r.begin_ms, r.end_ms, cue));
      say("\n");
    }
    jsonl_.append(json_line(r));
  }

  void status(const FrameRecord& r, double tokens_per_second) {
    if (!status_) return;
    std::fprintf(stderr, "\r\033[Kframe %lld  %.1f tokens/s  lag %+.2f s  cache %.1f MiB",
                 static_cast<long long>(r.frame), tokens_per_second, r.lag,
                 static_cast<double>(r.cache_bytes) / 1048576);
    std::fflush(stderr);
    shown_ = true;
  }

  /// The last line of the JSON file: all subtitles once more. They are copied from the file, so
  /// that a stream of days takes no memory for them.
  void finish() {
    clear_status();
    if (!jsonl_.is_open() || !std::filesystem::is_regular_file(jsonl_.path())) return;
    constexpr std::string_view last = "{\"full_transcript\":", before = "\"subtitle\":\"",
                               behind = "\",\"ids\":[", skipped = "\"skipped\":true}";
    std::ifstream lines(jsonl_.path());
    jsonl_.append(std::string(last) + "\"");
    for (std::string line; std::getline(lines, line) && !line.starts_with(last);) {
      const std::size_t begin = line.find(before) + before.size(), end = line.rfind(behind);
      if (!line.ends_with(skipped)) jsonl_.append(line.substr(begin, end - begin) + "\\n");
    }
    jsonl_.append("\"}\n");
  }
  void clear_status() {
    if (shown_) std::fputs("\r\033[K", stderr);
    shown_ = false;
  }

 private:
  GrowingFile srt_, jsonl_;
  bool status_, to_terminal_;
  bool shown_ = false;
  std::int64_t cues_ = 0;
};

/// Times of one kind, the newest few thousand; the median and the slowest of a hundred.
class Times {
 public:
  void add(double seconds) {
    if (seconds_.size() < kMost)
      seconds_.push_back(seconds);
    else
      seconds_[count_ % kMost] = seconds;
    ++count_;
  }
  void print(const char* what) const {
    if (count_ == 0) return;
    std::vector<double> sorted = seconds_;
    std::sort(sorted.begin(), sorted.end());
    const auto ms = [&](double p) {
      return 1e3 *
             sorted[static_cast<std::size_t>(p * static_cast<double>(sorted.size() - 1) + 0.5)];
    };
    std::fprintf(stderr, "%-28s %9.2f ms p50 %9.2f ms p99 (%zu)\n", what, ms(0.5), ms(0.99),
                 count_);
  }

 private:
  static constexpr std::size_t kMost = 16384;
  std::vector<double> seconds_;
  std::size_t count_ = 0;
};
