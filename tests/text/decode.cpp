#include "casa/text/tokenizer/decode.hpp"

#include <doctest/doctest.h>

#include <string>
#include <vector>

using namespace casa::io::detail;

namespace {

using Kind = DecoderStep::Kind;
using Pieces = std::vector<std::string>;

DecoderStep step(Kind kind, std::string pattern = "", std::string content = "",
                 std::size_t start = 0, std::size_t stop = 0, bool drop_first = false) {
  return {kind, std::move(pattern), std::move(content), start, stop, drop_first};
}

/// What each token gives, and at last what was held back.
Pieces pieces(const std::vector<DecoderStep>& steps, const Pieces& tokens) {
  DecoderRun run(steps);
  Pieces out;
  for (const auto& token : tokens) run.push(token, out.emplace_back());
  run.finish(out.emplace_back());
  return out;
}

}  // namespace

TEST_CASE("byte-level text comes in whole characters") {
  const std::vector steps = {step(Kind::byte_level)};
  CHECK(pieces(steps, {"\xc3\xa2", "\xc4\xa4", "\xc2\xac", "a"}) ==
        Pieces{"", "", "\xe2\x82\xac", "a", ""});  // the bytes E2 82 AC, the euro sign
  CHECK(pieces(steps, {"\xc3\xa2", "a"}) == Pieces{"",
                                                   "\xef\xbf\xbd"
                                                   "a",
                                                   ""});
  CHECK(pieces(steps, {"\xc3\xa2"}) == Pieces{"", "\xef\xbf\xbd"});
  CHECK(pieces(steps, {"a b"}) == Pieces{"a b", ""});  // no letters of the alphabet: as it is
}

TEST_CASE("a run of byte tokens is text as a whole or not at all") {
  const std::vector steps = {step(Kind::byte_fallback)};
  CHECK(pieces(steps, {"<0xC3>", "<0xA9>", "a"}) == Pieces{"", "",
                                                           "\xc3\xa9"
                                                           "a",
                                                           ""});
  CHECK(pieces(steps, {"<0xC3>", "<0xA9>"}) == Pieces{"", "", "\xc3\xa9"});
  CHECK(pieces(steps, {"<0x41>", "<0xA9>", "a"}) == Pieces{"", "",
                                                           "\xef\xbf\xbd\xef\xbf\xbd"
                                                           "a",
                                                           ""});
  CHECK(pieces(steps, {"<0xZZ>", "<0x4>", "<0x+5>", "<0xab>"}) ==
        Pieces{"<0xZZ>", "<0x4>", "", "", "\xef\xbf\xbd\xef\xbf\xbd"});
}

TEST_CASE("Strip takes from each string, or from the whole text after Fuse") {
  CHECK(pieces({step(Kind::strip, "", " ", 1)}, {"  a", " b ", "c"}) ==
        Pieces{" a", "b ", "c", ""});
  CHECK(pieces({step(Kind::fuse), step(Kind::strip, "", " ", 1)}, {" ", " b", " c"}) ==
        Pieces{"", " b", " c", ""});
  // What may be the end is held back until more follows.
  CHECK(pieces({step(Kind::fuse), step(Kind::strip, "", "x", 0, 1)}, {"a", "x", "xx", "b", "x"}) ==
        Pieces{"a", "", "xx", "xb", "", ""});
  CHECK(pieces({step(Kind::strip, "", "x", 0, 1)}, {"ax", "b"}) == Pieces{"a", "b", ""});
}

TEST_CASE("Metaspace drops the marks of the first string") {
  CHECK(pieces({step(Kind::metaspace, "_", "", 0, 0, true)}, {"__a_b", "_c"}) ==
        Pieces{"ab", " c", ""});
  CHECK(pieces({step(Kind::metaspace, "_", "", 0, 0, false)}, {"_a", "_c"}) ==
        Pieces{" a", " c", ""});
  CHECK(pieces({step(Kind::replace, "_", "--")}, {"_a_", "b"}) == Pieces{"--a--", "b", ""});
}

TEST_CASE("without a decoder tokens stand with spaces between them") {
  CHECK(pieces({step(Kind::join)}, {"a", "b"}) == Pieces{"a", " b", ""});
}

TEST_CASE("finish leaves the run as new") {
  const std::vector steps = {step(Kind::byte_fallback), step(Kind::fuse),
                             step(Kind::strip, "", " ", 1)};
  DecoderRun run(steps);
  for (int round = 0; round < 2; ++round) {
    std::string out;
    run.push(" a", out);
    run.push("<0xC3>", out);
    run.finish(out);
    CHECK(out == "a\xef\xbf\xbd");
  }
}
