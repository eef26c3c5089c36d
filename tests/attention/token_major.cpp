// Keys and values token by token, all heads of a token side by side: few rows read the heads of a
// few keys in turn, and must give the bits that they give head by head.
#include <doctest/doctest.h>

#include <random>
#include <vector>

#include "casa/core/executor.hpp"
#include "problem.hpp"

using namespace casa;
using namespace attention_test;

namespace {

/// The keys and values of a problem, token by token, with `gap` values between tokens.
template <class S>
struct TokenMajor {
  std::vector<std::vector<S>> k, v;
  std::vector<KeyPiece<S>> pieces;

  template <class T>
  TokenMajor(Problem<T, S>& p, Index gap) {
    const Index d = p.shape.head_dim, heads = p.shape.num_kv_heads, token = heads * d + gap;
    Index place = 0;
    for (const Index count : p.piece_counts) {
      S nan;
      std::memset(&nan, 0xff, sizeof nan);
      k.emplace_back(Problem<T, S>::size((count + 1) * token), nan);
      v.push_back(k.back());
      for (Index t = 0; t < count; ++t, ++place)
        for (Index h = 0; h < heads; ++h) {
          std::copy_n(p.key(place, h), d, k.back().data() + t * token + h * d);
          std::copy_n(p.value(place, h), d, v.back().data() + t * token + h * d);
        }
      pieces.push_back({k.back().data(), v.back().data(), count, token, d});
    }
  }
};

}  // namespace

// Faults: a group of keys that begins one key late, sums of a group scaled twice, the lists of one
// head read by another, the parts of split jobs counted in the order of the jobs.
TEST_CASE_TEMPLATE("token by token gives the bits of head by head", P, Problem<float>,
                   Problem<double>, Problem<float, bfloat16>, Problem<float, half>) {
  std::mt19937 random(27);
  const auto draw = [&](Index from, Index to) {
    return std::uniform_int_distribution<Index>(from, to)(random);
  };
  ThreadPool pool(3);
  for (int round = 0; round < 120; ++round) {
    const Index kv_heads = draw(2, 5), group = draw(1, 3), tokens = draw(1, 6);
    const Index dims[] = {16, 32, 48, 64, 128, 24, 7};
    const Index d = dims[draw(0, 6)];
    std::vector<Index> counts;
    for (Index pieces = draw(1, 3); pieces > 0; --pieces)
      counts.push_back(draw(1, round % 4 == 0 ? 1500 : 200));
    CAPTURE(round);
    CAPTURE(kv_heads);
    CAPTURE(group);
    CAPTURE(tokens);
    CAPTURE(d);
    P p({kv_heads * group, kv_heads, d}, tokens, counts, static_cast<unsigned>(round));
    if (round % 3 == 0)  // the last rows of a causal mask
      for (Index r = 0; r < tokens; ++r)
        p.intervals[P::size(r)].end = std::max<Index>(0, p.num_keys() - tokens + r + 1);
    for (const Precision precision : {Precision::full, Precision::storage}) {
      Context context;
      context.precision = precision;
      const auto expected = run(p, context);
      const TokenMajor side_by_side(p, round % 5 == 0 ? 11 : 0);
      P other = p;
      other.pieces = side_by_side.pieces;
      const auto alone = run(other, context);
      context.executor = pool;
      const auto together = run(other, context);
      CHECK(same_bits(alone, expected));
      CHECK(same_bits(together, expected));
    }
  }
}
