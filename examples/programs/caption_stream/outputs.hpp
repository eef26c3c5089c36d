// What a captioned stream leaves behind: subtitles, one JSON line a picture, a status line,
// figures.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "caption_stream/growing_file.hpp"
#include "caption_stream/records.hpp"
#include "casa/json/json.hpp"
#include "casa/session/srt.hpp"
#include "support/standard_output.hpp"

/// Where a resumed stream goes on: its next frame, and when that is shown.
struct Resumed {
  std::int64_t frame = 0, begin_ms = 0;
};

struct OutputOptions {
  std::string srt, jsonl;  // empty: none
  bool overwrite = false;  // files that are in the way
  bool quiet = false;
  bool holds =
      true;  // hold() may be called: what goes into a pipe waits for the end of its picture
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
      : holds_(options.holds),
        status_(!options.quiet && isatty(STDERR_FILENO)),
        to_terminal_(isatty(STDOUT_FILENO) != 0) {
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

  /// A caption is whole: it goes into the files, with the end that is known by now.
  void caption_done(const CaptionRecord& r, bool (*stop)()) {
    any_frame_ = true;
    say("\n", stop);
    settle();
    const std::string cue =
        r.truth.empty() ? r.subtitle : "read  " + r.subtitle + "\ntruth " + r.truth;
    if (!cue.empty()) {
      srt_.append_changeable(casa::io::srt_cue(cues_ + 1, r.begin_ms, r.end_ms, cue));
      cue_end_ = r.end_ms;
      ++cues_;
    }
    jsonl_.append_changeable(json_line(r));
    record_end_ = r.end_ms;
    if (!holds_) settle();
  }

  /// One more frame, from begin_ms to end_ms, shows the picture of the last caption, which may have
  /// been said before the stream was resumed. An empty caption has no cue.
  void hold(std::int64_t begin_ms, std::int64_t end_ms) {
    any_frame_ = true;
    if (cue_end_ == begin_ms && !srt_.last().empty()) {
      srt_.replace_last(held_cue(srt_.last(), end_ms));
      cue_end_ = end_ms;
    }
    if (record_end_ == begin_ms && !jsonl_.last().empty()) {
      jsonl_.replace_last(held_line(jsonl_.last(), end_ms));
      record_end_ = end_ms;
    }
  }

  void status(std::int64_t frame, double tokens_per_second, double lag, casa::Index cache_bytes) {
    if (!status_) return;
    std::fprintf(stderr, "\r\033[Kframe %lld  %.1f tokens/s  lag %+.2f s  cache %.1f MiB",
                 static_cast<long long>(frame), tokens_per_second, lag,
                 static_cast<double>(cache_bytes) / 1048576);
    std::fflush(stderr);
    shown_ = true;
  }

  /// The last line of the JSON file: all subtitles once more. They are copied from the file, so
  /// that a stream of days takes no memory for them.
  void finish() {
    clear_status();
    settle();
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
                                    kBefore = "\"subtitle\":\"", kBehind = "\",\"ids\":[";

  void settle() {
    jsonl_.settle();
    srt_.settle();
  }

  // The text in a line that json_line wrote, as it is escaped there.
  static std::optional<std::string_view> subtitle_in(std::string_view line) {
    const std::size_t begin = line.find(kBefore), end = line.rfind(kBehind);
    if (begin == line.npos || end == line.npos) return std::nullopt;
    return line.substr(begin + kBefore.size(), end - begin - kBefore.size());
  }

  // How much of an old file stays, and where its last piece begins.
  struct Kept {
    std::int64_t bytes = 0, last_at = 0;
  };

  template <class Read>
  static void go_on(GrowingFile& file, const OutputOptions& options,
                    const std::optional<Resumed>& resumed, Read read) {
    if (file.old_size() == 0) return;
    if (!resumed) {
      if (!options.overwrite) require_absent_or_empty(file.path());
      return;
    }
    try {
      const Kept kept = read();
      file.keep(kept.bytes);
      file.keep_changeable(kept.last_at);
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

  Kept keep_cues(const Resumed& resumed) {
    casa::io::SrtScanner scanner(srt_.path());
    std::int64_t at = 0, line_before = 0, last_at = 0;
    srt_.lines(srt_.old_size(), [&](std::string_view line) {
      const std::int64_t cues = scanner.cues();
      scanner.line(line);
      if (scanner.cues() > cues) last_at = line_before;  // the line of the times; its number's
      line_before = at;
      at += static_cast<std::int64_t>(line.size()) + 1;
    });
    const casa::io::SrtEnd old = scanner.finish();
    require_before(srt_.path(), "its cues", old.end, resumed);
    cues_ = old.number;
    cue_end_ = old.end;
    return {srt_.old_size(), last_at};
  }

  // All records, but not the transcript behind them.
  Kept keep_records(const Resumed& resumed) {
    Kept kept;
    std::int64_t at = 0, number = 0;
    long long last_end = 0;
    bool ended = false;
    jsonl_.lines(jsonl_.old_size(), [&](std::string_view line) {
      const std::string where = casa::text(jsonl_.path(), ": line ", ++number);
      casa::require(!ended, where, ": more behind the full_transcript");
      at += static_cast<std::int64_t>(line.size()) + 1;
      ended = line.starts_with(kTranscript);
      if (ended) return;
      kept = {at, kept.bytes};
      const auto record = casa::io::parse_json(line, where);
      const auto end = record.at("end_timestamp").as_number(0, 1e12);
      record.at("frames").as_int(1);
      casa::require(line.find(kBefore) != line.npos && line.rfind(kBehind) != line.npos, where,
                    ": not a line of caption_stream");
      last_end = std::max(last_end, std::llround(end * 1000));
    });
    casa::require(at == jsonl_.old_size(), jsonl_.path(), ": line ", number,
                  " has no end: the file may have been cut");
    require_before(jsonl_.path(), "its records", last_end, resumed);
    record_end_ = last_end;
    return kept;
  }

  GrowingFile srt_, jsonl_;
  bool holds_, status_, to_terminal_;
  bool shown_ = false;
  bool any_frame_ = false;
  std::int64_t cues_ = 0;
  std::int64_t cue_end_ = -1, record_end_ = -1;  // milliseconds, of the last ones; -1: none
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
