#include "casa/session/timeline.hpp"

#include <doctest/doctest.h>

#include <limits>
#include <string>

using casa::frame_milliseconds;
using casa::FrameRate;
using casa::parse_frame_rate;
using casa::parse_srt_time;
using casa::srt_time;

namespace {

constexpr std::int64_t kDay = 86'400'000;  // ms
constexpr FrameRate kNtsc{30000, 1001};

// |ms - 1000 frame / rate| <= 1/2, in integers (frame * 1000 * denominator must fit).
bool is_nearest(std::int64_t ms, std::int64_t frame, FrameRate rate) {
  const std::int64_t twice = 2 * (ms * rate.numerator - frame * 1000 * rate.denominator);
  return -rate.numerator <= twice && twice <= rate.numerator;
}

}  // namespace

TEST_CASE("a frame rate is read from an integer, a decimal and a fraction") {
  CHECK(parse_frame_rate("2") == FrameRate{2, 1});
  CHECK(parse_frame_rate("29.97") == FrameRate{2997, 100});
  CHECK(parse_frame_rate("30000/1001") == kNtsc);
  CHECK(parse_frame_rate("50/2") == FrameRate{25, 1});
  CHECK(parse_frame_rate("0.5") == FrameRate{1, 2});
  CHECK(parse_frame_rate("23.976") == FrameRate{2997, 125});
  CHECK(parse_frame_rate("25.00000000000000000") == FrameRate{25, 1});
  CHECK(parse_frame_rate("1000000000/999999") == FrameRate{1000000000, 999999});
}

TEST_CASE("what is no frame rate is refused and quoted") {
  for (const char* bad : {"",
                          "0",
                          "-2",
                          "+2",
                          " 2",
                          "2 ",
                          "2fps",
                          "1e3",
                          "nan",
                          "inf",
                          "2.",
                          ".5",
                          "2.-5",
                          "1.2.3",
                          "0.0",
                          "2/0",
                          "0/5",
                          "2/",
                          "/2",
                          "2/-1",
                          "1/2/3",
                          "30/1.001",
                          "99999999999999999999",
                          "1000000001",
                          "1/1000001",
                          "0.0000001",
                          "1.12345678901234567890123"}) {
    CAPTURE(bad);
    CHECK_THROWS_AS(parse_frame_rate(bad), casa::error);
  }
  CHECK_THROWS_WITH(parse_frame_rate("2\x1b["),
                    "frame rate: expected 2, 29.97 or 30000/1001, got \"2\\x1b[\"");
}

TEST_CASE("frames fall on the nearest millisecond") {
  CHECK(frame_milliseconds(0, {2, 1}) == 0);
  CHECK(frame_milliseconds(7199, {2, 1}) == 3'599'500);
  CHECK(frame_milliseconds(7200, {2, 1}) == 3'600'000);
  CHECK(frame_milliseconds(1, kNtsc) == 33);     // 33.37
  CHECK(frame_milliseconds(2, kNtsc) == 67);     // 66.73
  CHECK(frame_milliseconds(1, {2000, 1}) == 1);  // 0.5: up
  CHECK(frame_milliseconds(30'000, kNtsc) == 1'001'000);
}

TEST_CASE("time never runs backwards in 25 days") {
  for (const FrameRate rate :
       {FrameRate{2, 1}, FrameRate{2997, 100}, kNtsc, FrameRate{999983, 999979}}) {
    CAPTURE(rate.numerator);
    const std::int64_t last = 25 * 86'400 * rate.numerator / rate.denominator;
    const std::int64_t step = last / 200'000 + 1;
    for (std::int64_t frame = 0; frame <= last; frame += step) {
      const std::int64_t ms = frame_milliseconds(frame, rate);
      if (!is_nearest(ms, frame, rate) || frame_milliseconds(frame + 1, rate) <= ms)
        FAIL("frame ", frame);
    }
  }
  CHECK(frame_milliseconds(25 * 86'400 * 2, {2, 1}) == 25 * kDay);  // int32 ends before
}

TEST_CASE("frame numbers around 2^24, 2^31 and 2^32 stay exact") {
  for (const std::int64_t power :
       {std::int64_t{1} << 24, std::int64_t{1} << 31, std::int64_t{1} << 32})
    for (const FrameRate rate : {FrameRate{2, 1}, kNtsc, FrameRate{1, 10}}) {
      std::int64_t before = frame_milliseconds(power - 3, rate);
      for (std::int64_t frame = power - 2; frame <= power + 2; ++frame) {
        CAPTURE(frame);
        const std::int64_t ms = frame_milliseconds(frame, rate);
        CHECK(is_nearest(ms, frame, rate));
        CHECK(ms > before);
        before = ms;
      }
    }
  CHECK(frame_milliseconds((std::int64_t{1} << 32) - 2, {2, 1}) == 2'147'483'647'000);
}

TEST_CASE("a time that does not fit, a frame below 0 and a rate of 0 are errors") {
  constexpr std::int64_t largest = std::numeric_limits<std::int64_t>::max();
  CHECK(frame_milliseconds(largest, {1'000'000'000, 1}) == 9'223'372'036'855);
  CHECK_THROWS_AS(frame_milliseconds(largest, {2, 1}), casa::error);
  CHECK_THROWS_AS(frame_milliseconds(-1, {2, 1}), casa::error);
  CHECK_THROWS_AS(frame_milliseconds(1, {0, 1}), casa::error);
  CHECK_THROWS_AS(frame_milliseconds(1, {2, -1}), casa::error);
}

TEST_CASE("SRT times read back, and nothing else is one") {
  for (const std::int64_t ms :
       {std::int64_t{0}, std::int64_t{999}, std::int64_t{61'001}, std::int64_t{3'599'999},
        100 * std::int64_t{3'600'000} - 1, 25 * kDay, std::int64_t{1} << 61})
    CHECK(parse_srt_time(srt_time(ms)) == ms);
  CHECK(parse_srt_time("123:59:59,999") == 446'399'999);
  for (const char* other :
       {"", "0:00:00,000", "00:00:00.000", "00:00:00,00", "00:60:00,000", "00:00:60,000",
        "-1:00:00,000", "00:-1:00,000", "00:00:00,0000", "00:00:00,000 ", "aa:00:00,000",
        "00;00:00,000", "9999999999999:00:00,000"}) {
    CAPTURE(other);
    CHECK(!parse_srt_time(other));
  }
}

TEST_CASE("SRT times carry, and hours grow past two digits") {
  CHECK(srt_time(0) == "00:00:00,000");
  CHECK(srt_time(frame_milliseconds(35'999'994, {10'000, 1})) == "00:59:59,999");  // 3599.9994 s
  CHECK(srt_time(frame_milliseconds(35'999'995, {10'000, 1})) == "01:00:00,000");  // 3599.9995 s
  CHECK(srt_time(3'600'000) == "01:00:00,000");
  CHECK(srt_time(3'599'999) == "00:59:59,999");
  CHECK(srt_time(61'001) == "00:01:01,001");
  CHECK(srt_time(100 * 3'600'000 - 1) == "99:59:59,999");
  CHECK(srt_time(100 * 3'600'000) == "100:00:00,000");
  CHECK(srt_time(25 * kDay) == "600:00:00,000");
  CHECK(srt_time(std::numeric_limits<std::int64_t>::max()) == "2562047788015:12:55,807");
  CHECK_THROWS_AS(srt_time(-1), casa::error);
}
