// What a captioned stream leaves behind: subtitles, one JSON line a frame, a status line, figures.
#pragma once

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "caption_stream/growing_file.hpp"
#include "casa/json/json.hpp"
#include "casa/json/json_writer.hpp"
#include "casa/session/srt.hpp"
#include "support/standard_output.hpp"

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

/// Where a resumed stream goes on: its next frame, and when that is shown.
struct Resumed {
  std::int64_t frame = 0, begin_ms = 0;
};

struct OutputOptions {
  std::string srt, jsonl;  // empty: none
  bool overwrite = false;  // files that are in the way
  bool quiet = false;
};

/// Throws casa::error if the file holds something, which a new stream would have to overwrite.
inline void require_absent_or_empty(const std::string& path) {
  struct stat s {};
  if (path.empty() || ::stat(path.c_str(), &s) != 0 || !S_ISREG(s.st_mode)) return;
  casa::require(s.st_size == 0, path, ": is there already, ", s.st_size,
                " bytes, and no --session that goes on with it: give another name, or --overwrite");
}

class Outputs {
 public:
  /// Opens the files and changes nothing yet. A resumed stream goes on with files that hold what it
  /// said before; all else that is in the way is refused (casa::error) unless options.overwrite.
  Outputs(const OutputOptions& options, const std::optional<Resumed>& resumed)
      : status_(!options.quiet && isatty(STDERR_FILENO)), to_terminal_(isatty(STDOUT_FILENO) != 0) {
    if (!options.srt.empty()) {
      srt_ = GrowingFile(options.srt);
      go_on(srt_, options, resumed, [&] { return keep_cues(*resumed); });
    }
    if (!options.jsonl.empty()) {
      jsonl_ = GrowingFile(options.jsonl);
      go_on(jsonl_, options, resumed, [&] { return keep_records(*resumed); });
    }
  }

  /// A piece of the running caption. `stop`: asked while the reader of stdout is slow.
  void say(const std::string& piece, bool (*stop)()) {
    if (piece.empty() || failure_) return;
    if (to_terminal_) clear_status();
    try {
      program::put(piece);
      program::flush(stop);
    } catch (program::OutputFailed failure) {
      failure_ = failure;
    }
  }
  /// Why stdout takes no more, if so.
  std::optional<program::OutputFailed> failure() const { return failure_; }

  void frame_done(const FrameRecord& r, bool (*stop)()) {
    any_frame_ = true;
    if (!r.skipped) {
      say("\n", stop);
      const std::string cue =
          r.truth.empty() ? r.subtitle : "read  " + r.subtitle + "\ntruth " + r.truth;
      if (!cue.empty()) {
        srt_.append(casa::io::srt_cue(cues_ + 1, r.begin_ms, r.end_ms, cue));
        ++cues_;
      }
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
    // A stream without a frame (a decoder that failed in front of it) replaces no older file.
    const auto stays = [this](const GrowingFile& file) {
      return !any_frame_ && file.size() == 0 && file.old_size() > 0;
    };
    if (!stays(srt_)) srt_.begin();
    srt_.sync();
    if (stays(jsonl_)) return;
    jsonl_.begin();
    if (!jsonl_.is_open() || !jsonl_.is_regular()) return;
    const std::int64_t records = jsonl_.size();
    try {
      jsonl_.append(std::string(kTranscript) + "\"");
      jsonl_.lines(records, [&](std::string_view line) {
        if (const auto said = subtitle_in(line)) jsonl_.append(std::string(*said) + "\\n");
      });
      jsonl_.append("\"}\n");
    } catch (...) {
      jsonl_.cut(records);
      throw;
    }
    jsonl_.sync();
  }
  void clear_status() {
    if (shown_) std::fputs("\r\033[K", stderr);
    shown_ = false;
  }

 private:
  static constexpr std::string_view kTranscript = "{\"full_transcript\":",
                                    kBefore = "\"subtitle\":\"", kBehind = "\",\"ids\":[",
                                    kSkipped = "\"skipped\":true}";

  // The text in a line that json_line wrote, as it is escaped there; nothing for a skipped frame.
  static std::optional<std::string_view> subtitle_in(std::string_view line) {
    const std::size_t begin = line.find(kBefore), end = line.rfind(kBehind);
    if (line.ends_with(kSkipped) || begin == line.npos || end == line.npos) return std::nullopt;
    return line.substr(begin + kBefore.size(), end - begin - kBefore.size());
  }

  // Says how much of an old file stays.
  template <class Kept>
  static void go_on(GrowingFile& file, const OutputOptions& options,
                    const std::optional<Resumed>& resumed, Kept kept) {
    if (file.old_size() == 0) return;
    if (!resumed) {
      if (!options.overwrite) require_absent_or_empty(file.path());
      return;
    }
    try {
      file.keep(kept());
    } catch (const casa::error& e) {
      if (!options.overwrite)
        casa::fail(e.what(), ": left as it is; give another name, or --overwrite");
    }
  }

  static void require_before(const std::string& path, const char* what, std::int64_t last_end,
                             const Resumed& resumed) {
    casa::require(last_end <= resumed.begin_ms, path, ": ", what, " end at ",
                  casa::srt_time(last_end), ", but the session goes on at ",
                  casa::srt_time(resumed.begin_ms),
                  " (another stream's, or said after the session was saved)");
  }

  std::int64_t keep_cues(const Resumed& resumed) {
    casa::io::SrtScanner scanner(srt_.path());
    srt_.lines(srt_.old_size(), [&](std::string_view line) { scanner.line(line); });
    const casa::io::SrtEnd old = scanner.finish();
    require_before(srt_.path(), "its cues", old.end, resumed);
    cues_ = old.number;
    return srt_.old_size();
  }

  // All records, but not the transcript behind them.
  std::int64_t keep_records(const Resumed& resumed) {
    std::int64_t at = 0, kept = 0, number = 0;
    long long last_end = 0;
    bool ended = false;
    jsonl_.lines(jsonl_.old_size(), [&](std::string_view line) {
      const std::string where = casa::text(jsonl_.path(), ": line ", ++number);
      casa::require(!ended, where, ": more behind the full_transcript");
      at += static_cast<std::int64_t>(line.size()) + 1;
      ended = line.starts_with(kTranscript);
      if (ended) return;
      kept = at;
      const auto record = casa::io::parse_json(line, where);
      const auto end = record.at("end_timestamp").as_number(0, 1e12);
      casa::require(line.find(kBefore) != line.npos && line.rfind(kBehind) != line.npos, where,
                    ": not a line of caption_stream");
      last_end = std::max(last_end, std::llround(end * 1000));
    });
    casa::require(at == jsonl_.old_size(), jsonl_.path(), ": line ", number,
                  " has no end: the file may have been cut");
    require_before(jsonl_.path(), "its records", last_end, resumed);
    return kept;
  }

  GrowingFile srt_, jsonl_;
  bool status_, to_terminal_;
  bool shown_ = false;
  bool any_frame_ = false;
  std::int64_t cues_ = 0;
  std::optional<program::OutputFailed> failure_;
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
