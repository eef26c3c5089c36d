// What a captioned stream leaves behind: subtitles, one JSON line a frame, a status line, figures.
#pragma once

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
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
      transcript_ += r.subtitle + "\n";
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

  /// The last line of the JSON file.
  void finish() {
    clear_status();
    casa::io::JsonWriter w;
    jsonl_.append(w.begin_object().member("full_transcript", transcript_).end_object().str() +
                  "\n");
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
  std::string transcript_;
};

/// Times of one kind; the median and the slowest of a hundred.
class Times {
 public:
  void add(double seconds) { seconds_.push_back(seconds); }
  bool empty() const { return seconds_.empty(); }
  double percentile(double p) {
    if (seconds_.empty()) return 0;
    std::sort(seconds_.begin(), seconds_.end());
    const auto at =
        static_cast<std::size_t>(p / 100 * static_cast<double>(seconds_.size() - 1) + 0.5);
    return seconds_[at];
  }
  void print(const char* what) {
    if (!empty())
      std::fprintf(stderr, "%-26s %9.2f ms p50 %9.2f ms p99 (%zu)\n", what, 1e3 * percentile(50),
                   1e3 * percentile(99), seconds_.size());
  }

 private:
  std::vector<double> seconds_;
};
