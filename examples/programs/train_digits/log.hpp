// What a training run says while it runs: JSON lines in a file, and a bar on a terminal.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

#include "casa/files/file.hpp"
#include "casa/json/json.hpp"
#include "casa/json/json_writer.hpp"

namespace digits {

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// A file of JSON objects, a line each. Each line is written at once and whole.
class Log {
 public:
  /// Goes on after the lines of steps before `step`, those of a run that was stopped later than its
  /// checkpoint are dropped; step 0 begins anew.
  Log(const std::string& path, std::int64_t step) : path_(path) {
    std::string kept;
    if (step > 0) {
      const casa::io::Bytes old = casa::io::read_file(path);
      std::string_view rest = old.as_text();
      // What stands after the last line's end is a line that was cut.
      for (std::size_t end; (end = rest.find('\n')) != std::string_view::npos;
           rest.remove_prefix(end + 1)) {
        const std::string line(rest.substr(0, end));
        const casa::io::Json j = casa::io::parse_json(line, path);
        if (j.at("step").as_int() > step) continue;
        kept += line + "\n";
        if (j.contains("seconds")) seconds_ = j.at("seconds").as_number();
        if (j.contains("test_streams")) tested_ = j.at("step").as_int();
      }
    }
    casa::io::write_file(path, kept);
    file_ = std::fopen(path.c_str(), "a");
    casa::require(file_ != nullptr, path, ": cannot open to append");
  }
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;
  ~Log() { std::fclose(file_); }

  void write(const casa::io::JsonWriter& w) {
    const std::string line = w.str() + "\n";
    const bool written = std::fwrite(line.data(), 1, line.size(), file_) == line.size();
    casa::require(written && std::fflush(file_) == 0, path_, ": cannot write");
  }
  /// Seconds of the lines that were kept.
  double seconds() const { return seconds_; }
  /// The newest step of a test among them.
  std::int64_t tested() const { return tested_; }

 private:
  std::string path_;
  std::FILE* file_ = nullptr;
  double seconds_ = 0;
  std::int64_t tested_ = 0;
};

/// A bar with the newest numbers, on stderr where that is a terminal.
class Progress {
 public:
  Progress(std::string name, std::int64_t steps, bool quiet)
      : name_(std::move(name)), steps_(steps), shown_(!quiet && ::isatty(STDERR_FILENO) != 0) {}
  ~Progress() {
    if (shown_ && drawn_ > 0) std::fputs("\r\033[K", stderr);
  }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `digits` < 0: not tested yet.
  void show(std::int64_t step, double loss, double digits, double tokens_per_second,
            double seconds_left) {
    if (!shown_ || (now() - drawn_ < 0.1 && step < steps_)) return;
    drawn_ = now();
    constexpr std::int64_t width = 24;
    const auto full = static_cast<std::size_t>(width * step / (std::max<std::int64_t>)(steps_, 1));
    const std::string bar = std::string(full, '#') + std::string(std::size_t{width} - full, '.');
    const auto left = static_cast<long>(std::ceil(seconds_left));
    std::string tested;
    if (digits >= 0) {
      char text[32];
      std::snprintf(text, sizeof text, "  digits %.1f %%", 100 * digits);
      tested = text;
    }
    std::fprintf(stderr, "\r\033[K%s [%s] %lld/%lld  loss %.4f%s  %.0f tokens/s  %ld:%02ld left",
                 name_.c_str(), bar.c_str(), static_cast<long long>(step),
                 static_cast<long long>(steps_), loss, tested.c_str(), tokens_per_second, left / 60,
                 left % 60);
    std::fflush(stderr);
  }

 private:
  std::string name_;
  std::int64_t steps_;
  bool shown_;
  double drawn_ = 0;
};

}  // namespace digits
