#include "casa/io/srt.hpp"

#include <doctest/doctest.h>

using casa::io::srt_cue;

TEST_CASE("a cue is number, times, text and an empty line") {
  CHECK(srt_cue(1, 0, 500, "a dog") == "1\n00:00:00,000 --> 00:00:00,500\na dog\n\n");
  CHECK(srt_cue(7, 3599999, 25 * 86400000LL, "two\nlines") ==
        "7\n00:59:59,999 --> 600:00:00,000\ntwo\nlines\n\n");
}

TEST_CASE("no text can end a cue early or steer a terminal") {
  CHECK(srt_cue(1, 0, 1, "") == "1\n00:00:00,000 --> 00:00:00,001\n\n");
  CHECK(srt_cue(1, 0, 1, "\n\na\r\n\nb\n\n") == "1\n00:00:00,000 --> 00:00:00,001\na\nb\n\n");
  CHECK(srt_cue(1, 0, 1, "\x1b[2J") == "1\n00:00:00,000 --> 00:00:00,001\n[2J\n\n");
}

TEST_CASE("times that run backwards are refused") {
  CHECK_THROWS_AS(srt_cue(1, 2, 1, ""), casa::error);
  CHECK_THROWS_AS(srt_cue(1, -1, 1, ""), casa::error);
  CHECK_THROWS_AS(srt_cue(0, 0, 1, ""), casa::error);
}
