#include "casa/session/srt.hpp"

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

namespace {

casa::io::SrtEnd scanned(std::string_view file) {
  casa::io::SrtScanner scanner("a.srt");
  while (!file.empty()) {
    const std::size_t end = std::min(file.find('\n'), file.size());
    scanner.line(file.substr(0, end));
    file.remove_prefix(std::min(end + 1, file.size()));
  }
  return scanner.finish();
}

std::string refusal(std::string_view file) {
  try {
    scanned(file);
  } catch (const casa::error& e) {
    return e.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("a file of cues is known to its end, whoever wrote it") {
  const auto is = [](std::string_view file, std::int64_t cues, std::int64_t number,
                     std::int64_t end) {
    CAPTURE(file);
    const casa::io::SrtEnd found = scanned(file);
    CHECK(found.cues == cues);
    CHECK(found.number == number);
    CHECK(found.end == end);
  };
  is("", 0, 0, 0);
  is("\n\n", 0, 0, 0);
  std::string file =
      srt_cue(1, 0, 500, "7\n00:00:00,000 --> 00:00:09,000") + srt_cue(2, 500, 900, "");
  is(file, 2, 2, 900);
  is(file + srt_cue(41, 0, 100, "an earlier end"), 3, 41, 900);
  is("\xef\xbb\xbf"
     "1\r\n00:00:00,000 --> 00:00:01,000 X1:40 X2:600\r\ntext\r\n\r\n\r\n",
     1, 1, 1000);
}

TEST_CASE("what is no file of cues is refused by line, a cut one too") {
  const std::string one = srt_cue(1, 0, 500, "text");
  CHECK(refusal(one) == "accepted");
  CHECK(refusal("my notes\n") ==
        "a.srt: line 1: expected the number of a SubRip cue, got \"my notes\"");
  CHECK(refusal(one + "text behind\n").starts_with("a.srt: line 5: expected the number"));
  CHECK(refusal("1\ntext\n\n").starts_with("a.srt: line 2: expected the times"));
  CHECK(refusal("1\n00:00:02,000 --> 00:00:01,000\n\n").starts_with("a.srt: line 2: expected"));
  CHECK(refusal("1 2\n").starts_with("a.srt: line 1: expected"));
  CHECK(refusal("-1\n").starts_with("a.srt: line 1: expected"));
  CHECK(refusal("99999999999999999999\n").starts_with("a.srt: line 1: expected"));
  // Cut anywhere inside its second cue.
  const std::string two = one + srt_cue(2, 500, 900, "more");
  for (std::size_t size = one.size() + 1; size < two.size(); ++size) {
    CAPTURE(size);
    CHECK(refusal(two.substr(0, size)) != "accepted");
  }
}

TEST_CASE("times that run backwards are refused") {
  CHECK_THROWS_AS(srt_cue(1, 2, 1, ""), casa::error);
  CHECK_THROWS_AS(srt_cue(1, -1, 1, ""), casa::error);
  CHECK_THROWS_AS(srt_cue(0, 0, 1, ""), casa::error);
}
