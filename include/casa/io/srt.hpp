// SubRip subtitles, one cue at a time.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "casa/generate/timeline.hpp"

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

}  // namespace io
CASA_NAMESPACE_END
