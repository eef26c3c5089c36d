// A caption as it stands in the files: a cue of subtitles and a JSON line, whose ends move while
// the picture that they are of stays on the screen.
#pragma once

#include <sys/resource.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "casa/core/error.hpp"
#include "casa/json/json.hpp"
#include "casa/json/json_writer.hpp"
#include "casa/session/srt.hpp"

/// What is said of a picture.
struct CaptionRecord {
  std::int64_t frame = 0;                 // the first that shows it
  std::int64_t frames = 1;                // that show it, one behind the other
  std::int64_t begin_ms = 0, end_ms = 0;  // when it is shown
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
inline std::string json_line(const CaptionRecord& r) {
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
  w.member("lag", r.lag).member("frame", r.frame).member("frames", r.frames);
  w.member("cache_bytes", r.cache_bytes).member("cut", r.cut);
  return w.end_object().str() + "\n";
}

/// The number behind `key` in a line that json_line wrote: where its text begins, and how long it
/// is. (Within the subtitle quotes are escaped, so that the key is found where it is one.)
inline std::pair<std::size_t, std::size_t> number_in(std::string_view line, std::string_view key) {
  const std::string quoted = casa::text("\"", key, "\":");
  const std::size_t at = line.find(quoted), begin = at + quoted.size();
  casa::require(at != line.npos, "a record without ", key);
  return {begin, line.find_first_of(",}", begin) - begin};
}

/// The line that json_line wrote, of a picture that one more frame shows, until end_ms.
inline std::string held_line(std::string line, std::int64_t end_ms) {
  const auto replace = [&](std::string_view key, const auto& change) {
    const auto [begin, length] = number_in(line, key);
    casa::io::JsonWriter number;
    number.value(change(line.substr(begin, length)));
    line.replace(begin, length, number.str());
  };
  replace("end_timestamp", [&](const std::string&) { return static_cast<double>(end_ms) / 1000; });
  replace("frames", [&](const std::string& frames) { return std::stoll(frames) + 1; });
  return line;
}

/// A cue that ends at end_ms instead.
inline std::string held_cue(std::string cue, std::int64_t end_ms) {
  constexpr std::string_view arrow = " --> ";
  const std::size_t begin = cue.find(arrow) + arrow.size();
  return cue.replace(begin, cue.find_first_of(" \r\n", begin) - begin, casa::srt_time(end_ms));
}
