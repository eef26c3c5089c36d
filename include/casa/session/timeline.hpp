// When a frame is shown: frame number and rational frame rate to whole milliseconds, and to SRT
// time.
//
// All in integers. Adding up 1 / fps, or frame / fps in float, is minutes off after a day.
#pragma once

#include <charconv>
#include <cstdint>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>

#include "casa/core/error.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// Frames per second, numerator / denominator in lowest terms: 2 is 2 / 1, NTSC video 30000 / 1001.
struct FrameRate {
  std::int64_t numerator = 2;    ///< frames
  std::int64_t denominator = 1;  ///< seconds that they take
  CASA_COMMON_INLINE friend bool operator==(const FrameRate&, const FrameRate&) = default;
};

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

/// The largest numerator for which frame_milliseconds is exact in 64 bits.
inline constexpr std::int64_t kMaxRateNumerator = 1'000'000'000;
/// The largest denominator for which frame_milliseconds is exact in 64 bits.
inline constexpr std::int64_t kMaxRateDenominator = 1'000'000;

/// numerator / denominator in lowest terms. Throws unless both are positive and, reduced, at most
/// kMaxRateNumerator and kMaxRateDenominator.
inline FrameRate make_frame_rate(std::int64_t numerator, std::int64_t denominator) {
  require(numerator > 0 && denominator > 0, "frame rate: expected two positive numbers, got ",
          numerator, " / ", denominator);
  const std::int64_t divisor = std::gcd(numerator, denominator);
  const FrameRate rate{numerator / divisor, denominator / divisor};
  require(rate.numerator <= kMaxRateNumerator && rate.denominator <= kMaxRateDenominator,
          "frame rate: expected at most ", kMaxRateNumerator, " / ", kMaxRateDenominator,
          " in lowest terms, got ", rate.numerator, " / ", rate.denominator);
  return rate;
}

/// A frame rate as text: "2", "29.97" (taken as it stands, 2997 / 100) or "30000/1001". Digits, at
/// most one '.' or one '/', nothing else; throws on anything else and on what make_frame_rate
/// refuses.
inline FrameRate parse_frame_rate(std::string_view rate) {
  const auto refuse = [rate]() {
    fail("frame rate: expected 2, 29.97 or 30000/1001, got ", quoted(rate));
  };
  const auto number = [&](std::string_view digits) {
    std::int64_t value = 0;
    const char* end = digits.data() + digits.size();
    const auto [stop, problem] = std::from_chars(digits.data(), end, value);
    if (digits.empty() || digits.front() == '-' || problem != std::errc{} || stop != end) refuse();
    return value;
  };
  const std::size_t mark = rate.find_first_of("./");
  if (mark == std::string_view::npos) return make_frame_rate(number(rate), 1);
  std::string_view tail = rate.substr(mark + 1);
  if (rate[mark] == '/') return make_frame_rate(number(rate.substr(0, mark)), number(tail));

  const std::int64_t whole = number(rate.substr(0, mark));
  number(tail);  // checks all digits, before zeros are cut off
  while (tail.size() > 1 && tail.back() == '0') tail.remove_suffix(1);
  const std::int64_t fraction = number(tail);
  std::int64_t scale = 1;
  for (std::size_t i = 0; i < tail.size(); ++i) scale = checked_mul(scale, 10, "frame rate");
  return make_frame_rate(
      checked_add(checked_mul(whole, scale, "frame rate"), fraction, "frame rate"), scale);
}

/// The time at which frame number `frame` (from 0) is shown, in milliseconds: frame / rate seconds,
/// rounded to the nearest, halves up. Never falls as `frame` grows, and rises by at least 1 a frame
/// up to 1000 frames per second. Throws when frame < 0 and when the time does not fit 64 bits.
inline std::int64_t frame_milliseconds(std::int64_t frame, FrameRate rate) {
  rate = make_frame_rate(rate.numerator, rate.denominator);
  require(frame >= 0, "frame_milliseconds: frame: expected 0 or more, got ", frame);
  // frame = whole * numerator + rest: what whole stands for is exact, and the rest's products fit.
  const std::int64_t unit = 1000 * rate.denominator;
  const std::int64_t whole = frame / rate.numerator;
  const std::int64_t rest = frame % rate.numerator;
  return checked_add(checked_mul(whole, unit, "frame_milliseconds"),
                     (rest * unit + rate.numerator / 2) / rate.numerator, "frame_milliseconds");
}

/// hh:mm:ss,mmm as SubRip files have it. Hours have two digits or as many as they need: beyond 99
/// hours "100:00:00,000". Throws when milliseconds < 0.
inline std::string srt_time(std::int64_t milliseconds) {
  require(milliseconds >= 0, "srt_time: milliseconds: expected 0 or more, got ", milliseconds);
  std::string s;
  const auto append = [&s](std::int64_t value, std::size_t width) {
    char digits[20];
    const char* end = std::to_chars(digits, digits + sizeof digits, value).ptr;
    const auto length = static_cast<std::size_t>(end - digits);
    if (length < width) s.append(width - length, '0');
    s.append(digits, length);
  };
  append(milliseconds / 3'600'000, 2);
  s += ':';
  append(milliseconds / 60'000 % 60, 2);
  s += ':';
  append(milliseconds / 1000 % 60, 2);
  s += ',';
  append(milliseconds % 1000, 3);
  return s;
}

/// The milliseconds that srt_time wrote as `time`; nullopt if it is not in that form.
inline std::optional<std::int64_t> parse_srt_time(std::string_view time) {
  constexpr std::size_t tail = 10, most_hour_digits = 12;  // ":mm:ss,mmm"
  if (time.size() < tail + 2 || time.size() > tail + most_hour_digits) return std::nullopt;
  const std::size_t hours = time.size() - tail;
  std::int64_t value[4] = {};  // hours, minutes, seconds, milliseconds
  const std::size_t begin[] = {0, hours + 1, hours + 4, hours + 7}, length[] = {hours, 2, 2, 3};
  for (std::size_t part = 0; part < 4; ++part) {
    for (const char c : time.substr(begin[part], length[part])) {
      if (c < '0' || c > '9') return std::nullopt;
      value[part] = 10 * value[part] + (c - '0');
    }
  }
  if (time[hours] != ':' || time[hours + 3] != ':' || time[hours + 6] != ',' || value[1] > 59 ||
      value[2] > 59)
    return std::nullopt;
  return ((value[0] * 60 + value[1]) * 60 + value[2]) * 1000 + value[3];
}

CASA_NAMESPACE_END
