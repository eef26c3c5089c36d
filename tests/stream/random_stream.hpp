// Random streams, and a stream written out token by token: the definition that layouts are held to.
#pragma once

#include <algorithm>
#include <random>
#include <vector>

#include "casa/stream/layout.hpp"

namespace stream_test {

using casa::Index;
using casa::Insertion;

struct Stream {
  Index text_len = 0;
  std::vector<Insertion> insertions;
};

/// Short streams in which insertions at one point, at both ends and of no tokens are common.
inline Stream random_stream(std::mt19937& random, Index max_text = 12) {
  const auto up_to = [&](Index n) { return std::uniform_int_distribution<Index>(0, n)(random); };
  Stream s;
  s.text_len = up_to(max_text);
  for (Index i = up_to(5); i > 0; --i) s.insertions.push_back({up_to(s.text_len), up_to(4)});
  std::ranges::stable_sort(s.insertions, {}, &Insertion::position);
  return s;
}

/// One token of the merged stream.
struct Token {
  bool image = false;
  Index number = 0;  // among tokens of its kind
  Index window = 0;
};

/// The merged stream, token by token, as design and paper tell it.
inline std::vector<Token> write_out(const Stream& s) {
  std::vector<Token> tokens;
  Index window = 0, images = 0, last_position = -1;
  std::size_t next = 0;
  for (Index i = 0; i <= s.text_len; ++i) {
    for (; next < s.insertions.size() && s.insertions[next].position == i; ++next) {
      if (i != last_position) ++window;
      last_position = i;
      for (Index n = 0; n < s.insertions[next].num_tokens; ++n)
        tokens.push_back({true, images++, window});
    }
    if (i < s.text_len) tokens.push_back({false, i, window});
  }
  return tokens;
}

}  // namespace stream_test
