#include "casa/core/arena.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <random>
#include <vector>

using namespace casa;

TEST_CASE("parts of an arena are aligned, apart from one another and outlive it") {
  const std::uint64_t seed = 1;
  CAPTURE(seed);
  std::mt19937_64 rng(seed);
  struct Part {
    std::shared_ptr<std::byte> data;
    std::size_t size;
    unsigned char fill;
  };
  std::vector<Part> parts;
  {
    Arena arena;
    for (int i = 0; i < 200; ++i) {
      const auto size = static_cast<std::size_t>(rng() % (i % 20 == 0 ? 1'000'000 : 3000));
      const auto fill = static_cast<unsigned char>(i);
      parts.push_back({arena.take(static_cast<Index>(size)), size, fill});
      REQUIRE(std::bit_cast<std::uintptr_t>(parts.back().data.get()) % kAlignment == 0);
      std::memset(parts.back().data.get(), fill, size);
    }
  }
  std::shuffle(parts.begin(), parts.end(), rng);
  while (!parts.empty()) {
    const Part& p = parts.back();
    REQUIRE(std::count(p.data.get(), p.data.get() + p.size, std::byte{p.fill}) ==
            static_cast<std::ptrdiff_t>(p.size));
    parts.pop_back();
  }
}

TEST_CASE("an arena's parts lie side by side, in blocks that double") {
  Arena arena;
  const auto at = [&](Index bytes) { return arena.take(bytes); };
  const auto first = at(100), second = at(64), third = at(1), fourth = at(64);
  CHECK(third.get() - second.get() == 64);  // the first block is just as large as asked for
  CHECK(first.use_count() == 1);
  CHECK(second.use_count() > 1);
  const auto large = at((Index{1} << 26) + 1), fifth = at(64);  // a block of its own
  CHECK(large.use_count() == 1);
  CHECK(fifth.get() - fourth.get() == 64);
  CHECK_THROWS_AS(at(std::numeric_limits<Index>::max() - 8), error);
}

TEST_CASE("an arena that keeps its blocks hands them out again, and only once they are free") {
  Arena arena = Arena::keeping();
  std::mt19937_64 rng(2);
  std::vector<Index> sizes;
  for (int i = 0; i < 60; ++i) sizes.push_back(1 + static_cast<Index>(rng() % 100'000));
  sizes.push_back((Index{1} << 26) + 64);  // blocks of their own
  sizes.push_back((Index{1} << 26) + 128);
  const auto take_all = [&] {
    std::vector<std::shared_ptr<std::byte>> parts;
    for (const Index size : sizes) parts.push_back(arena.take(size));
    return parts;
  };
  const auto places = [&](const std::vector<std::shared_ptr<std::byte>>& parts) {
    std::vector<std::byte*> at;
    for (const auto& p : parts) at.push_back(p.get());
    return at;
  };
  auto parts = take_all();
  for (int round = 0; round < 3; ++round) {  // the first rounds may still add a block
    parts.clear();
    parts = take_all();
  }
  const auto before = places(parts);
  parts.clear();
  parts = take_all();
  CHECK(places(parts) == before);

  // While a part lives no other has its memory.
  auto more = take_all();
  struct Range {
    std::byte *begin, *end;
  };
  std::vector<Range> ranges;
  for (const auto* set : {&parts, &more})
    for (std::size_t i = 0; i < sizes.size(); ++i)
      ranges.push_back({(*set)[i].get(), (*set)[i].get() + sizes[i]});
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return a.begin < b.begin; });
  for (std::size_t i = 1; i < ranges.size(); ++i) CHECK(ranges[i - 1].end <= ranges[i].begin);
}
