// SubRip subtitles: one cue at a time to write, and what a file of them ends in.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "casa/session/timeline.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// Cue number `number` (from 1) as a SubRip file has it, shown from begin to end (milliseconds).
/// Line ends become "\n"; empty lines, which would end the cue, are left out, and so are control
/// characters. Throws casa::error unless 0 <= begin <= end and number >= 1.
inline std::string srt_cue(std::int64_t number, std::int64_t begin, std::int64_t end,
                           std::string_view subtitle) {
  require(number >= 1, "srt_cue: number: expected 1 or more, got ", number);
  require(0 <= begin && begin <= end, "srt_cue: expected 0 <= begin <= end, got ", begin, " and ",
          end);
  std::string cue = text(number, "\n", srt_time(begin), " --> ", srt_time(end), "\n");
  bool line_is_empty = true;
  for (const char c : subtitle) {
    const bool ends = c == '\n' || c == '\r';
    if (ends ? line_is_empty : static_cast<unsigned char>(c) < 0x20 && c != '\t') continue;
    cue += ends ? '\n' : c;
    line_is_empty = ends;
  }
  cue += line_is_empty ? "\n" : "\n\n";
  return cue;
}

/// What must be known to add cues to a file.
struct SrtEnd {
  std::int64_t cues = 0;    ///< how many there are
  std::int64_t number = 0;  ///< of the last cue; 0: there are no cues
  std::int64_t end = 0;     ///< milliseconds: the latest end of a cue
};

/// Reads a SubRip file line by line, whoever wrote it (CR LF, a byte order mark and coordinates
/// after the times are fine). Throws casa::error, naming file and line, if the text is not SubRip.
class SrtScanner {
 public:
  /// `file` is what errors call it.
  explicit SrtScanner(std::string file) : file_(std::move(file)) {}

  /// The next line, without its "\n".
  void line(std::string_view s) {
    ++line_;
    if (line_ == 1 && s.starts_with("\xef\xbb\xbf")) s.remove_prefix(3);
    while (!s.empty() && (s.back() == '\r' || s.back() == ' ' || s.back() == '\t'))
      s.remove_suffix(1);
    switch (next_) {
      case Next::number:
        if (!s.empty()) read_number(s);
        break;
      case Next::times:
        read_times(s);
        break;
      case Next::text:
        if (s.empty()) next_ = Next::number;
        break;
    }
  }

  /// Cues whose times have been read.
  std::int64_t cues() const { return found_.cues; }

  /// Call it after the last line. A last cue without an empty line after it may be cut, and is
  /// refused.
  SrtEnd finish() const {
    require(next_ == Next::number, file_, ": cue ", found_.number,
            next_ == Next::times ? " has no times" : " is not ended by an empty line",
            ": the file may have been cut");
    return found_;
  }

 private:
  enum class Next { number, times, text };

  void read_number(std::string_view s) {
    const char* end = s.data() + s.size();
    const auto [stop, problem] = std::from_chars(s.data(), end, found_.number);
    require(problem == std::errc{} && stop == end && found_.number >= 0, file_, ": line ", line_,
            ": expected the number of a SubRip cue, got ", casa::quoted(s));
    next_ = Next::times;
  }
  void read_times(std::string_view s) {
    constexpr std::string_view arrow = " --> ";
    const std::size_t at = s.find(arrow);
    const std::string_view rest =
        at == std::string_view::npos ? std::string_view() : s.substr(at + arrow.size());
    const auto begin = parse_srt_time(s.substr(0, (std::min)(at, s.size())));
    const auto end = parse_srt_time(rest.substr(0, rest.find(' ')));
    require(begin && end && *begin <= *end, file_, ": line ", line_,
            ": expected the times of a SubRip cue, got ", casa::quoted(s));
    found_.end = (std::max)(found_.end, *end);
    ++found_.cues;
    next_ = Next::text;
  }

  std::string file_;
  std::int64_t line_ = 0;
  Next next_ = Next::number;
  SrtEnd found_;
};

}  // namespace io
CASA_NAMESPACE_END
