// What train_digits trains on, and its log.
#include <doctest/doctest.h>

#include <algorithm>

#include "support/messages.hpp"
#include "support/scratch.hpp"
#include "train_digits/compose.hpp"
#include "train_digits/log.hpp"

using casa::Index;

namespace {

// Digits whose label is their number modulo 10, with ink everywhere.
digits::DigitImages some_digits() {
  digits::DigitImages d{casa::Matrix<std::uint8_t>(40, 64), {}};
  for (Index i = 0; i < 40; ++i) {
    d.labels.push_back(static_cast<int>(i % 10));
    std::fill_n(d.images.row(i), 64, std::uint8_t{12});
  }
  return d;
}

std::int64_t ink(const digits::Stream& s, Index picture, Index cell) {
  std::int64_t sum = 0;
  for (Index y = 0; y < 8; ++y)
    for (Index x = 0; x < 8; ++x)
      sum += s.images.row(picture)[(cell / 4 * 8 + y) * 32 + cell % 4 * 8 + x];
  return sum;
}

}  // namespace

TEST_CASE("captions of a composed stream say which digits its pictures show") {
  const digits::DigitImages all = some_digits();
  Index least = 16, most = 0;
  for (std::uint64_t number = 0; number < 200; ++number) {
    CAPTURE(number);
    std::vector<int> drawn;
    const digits::Stream s = digits::compose(
        all, 3, number,
        [&] {
          drawn.push_back(static_cast<int>(7 * drawn.size() % 40));
          return Index{drawn.back()};
        },
        -100);
    REQUIRE((s.images.rows() == 3 || s.images.rows() == 4));
    REQUIRE(std::ssize(s.insertions) == s.images.rows());
    REQUIRE(s.ids.size() == s.targets.size());
    std::size_t token = 0, digit = 0;
    for (Index picture = 0; picture < s.images.rows(); ++picture) {
      const auto [position, count] = s.insertions[static_cast<std::size_t>(picture)];
      REQUIRE(position == static_cast<Index>(token));
      REQUIRE(count == digits::kPatches);
      REQUIRE(s.ids[token++] == program::kBegin);
      Index shown = 0;
      for (Index cell = 0; cell < 16; ++cell) {
        if (cell > 0 && cell % 4 == 0) REQUIRE(s.ids[token++] == program::kRow);
        if (ink(s, picture, cell) == 0) continue;
        REQUIRE(s.ids[token++] == drawn[digit++] % 10);
        ++shown;
      }
      REQUIRE(s.ids[token++] == program::kEnd);
      least = (std::min)(least, shown);
      most = (std::max)(most, shown);
    }
    REQUIRE(token == s.ids.size());
    REQUIRE(digit == drawn.size());
    for (std::size_t t = 0; t < s.ids.size(); ++t)
      REQUIRE(s.targets[t] == (s.ids[t] == program::kEnd ? -100 : s.ids[t + 1]));
  }
  CHECK(least == 6);
  CHECK(most == 12);
}

TEST_CASE("a stream follows from seed, number and digits, and from nothing else") {
  const digits::DigitImages all = some_digits();
  const auto made = [&](std::uint64_t seed, std::uint64_t number) {
    return digits::compose(
        all, seed, number, [] { return Index{5}; }, -100);
  };
  const auto same = [](const digits::Stream& a, const digits::Stream& b) {
    return a.ids == b.ids && a.images.size() == b.images.size() &&
           std::equal(a.images.data(), a.images.data() + a.images.size(), b.images.data());
  };
  CHECK(same(made(1, 2), made(1, 2)));
  CHECK(!same(made(1, 2), made(1, 3)));
  CHECK(!same(made(1, 2), made(2, 2)));
}

TEST_CASE("a log that goes on drops what its run did after the checkpoint") {
  const Scratch scratch;
  const std::string path = scratch.file("log");
  const auto line = [](std::int64_t step) {
    casa::io::JsonWriter w;
    w.begin_object().member("step", step).member("seconds", 0.5 * static_cast<double>(step));
    return w.end_object();
  };
  {
    digits::Log log(path, 0);
    CHECK(log.seconds() == 0);
    for (std::int64_t step = 0; step < 4; ++step) log.write(line(step));
  }
  scratch.write("log", scratch.read("log") + "{\"step\":4,\"sec");  // killed here
  {
    digits::Log log(path, 2);
    CHECK(log.seconds() == 1);
    log.write(line(3));
  }
  CHECK(scratch.read("log") ==
        "{\"step\":0,\"seconds\":0.0}\n{\"step\":1,\"seconds\":0.5}\n"
        "{\"step\":2,\"seconds\":1.0}\n{\"step\":3,\"seconds\":1.5}\n");
  { digits::Log anew(path, 0); }
  CHECK(scratch.read("log").empty());
  CHECK(has(message_of([&] { digits::Log(scratch.file("none"), 1); }), "none: cannot open"));
}
