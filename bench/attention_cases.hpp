// The attention problems that the benchmarks run: the cases that other libraries are compared on,
// and one stream as each variant sees it.
#pragma once

#include <string>
#include <vector>

#include "bench_common.hpp"
#include "casa/attention/attend.hpp"

namespace bench {

using casa::Interval;

/// The shape of one attention problem, and the interval of keys that each query row sees. Queries
/// are rows x (heads * head_dim), keys and values kv heads x keys x head_dim.
struct Case {
  std::string name;
  Index rows = 0;
  Index keys = 0;
  Index num_kv_heads = 8;
  std::vector<Interval> intervals;
  bool decode = false;  ///< bound by reading keys and values, so its rate is in bytes
  Index num_heads = 16;
  Index head_dim = 128;

  /// The (query row, key) pairs that are attended to, for one query head.
  Index visible_pairs() const {
    Index n = 0;
    for (const Interval i : intervals) n += i.size();
    return n;
  }
  double flop() const {
    return 4.0 * static_cast<double>(head_dim * num_heads) * static_cast<double>(visible_pairs());
  }
  /// What a rate of this case counts, in billions: bytes of float keys and values where reading
  /// them is the limit, operations elsewhere.
  double work() const { return 1e-9 * (decode ? key_bytes<float>() : flop()); }
  const char* unit() const { return decode ? "GB" : "GFLOP"; }

  /// Bytes of keys and values where each value is an S.
  template <class S>
  double key_bytes() const {
    return 2.0 * static_cast<double>(sizeof(S)) *
           static_cast<double>(head_dim * num_kv_heads * keys);
  }
};

/// CASA on `count` windows of `image` image tokens and `text` text tokens each: text rows are the
/// queries, and keys stand in stream order.
inline Case windows(std::string name, Index count, Index image, Index text, Index num_kv_heads) {
  Case c{std::move(name), count * text, count * (image + text), num_kv_heads, {}};
  for (Index w = 0; w < count; ++w)
    for (Index t = 0; t < text; ++t) {
      const Index begin = w * (image + text);
      c.intervals.push_back({begin, begin + image + t + 1});
    }
  return c;
}
/// Causal self-attention of `rows` tokens; token insertion is the same over text and image tokens.
inline Case causal(std::string name, Index rows) {
  Case c{std::move(name), rows, rows, 8, {}};
  for (Index r = 0; r < rows; ++r) c.intervals.push_back({0, r + 1});
  return c;
}
/// `rows` queries that all see the whole cache of `keys` keys.
inline Case decode(std::string name, Index rows, Index keys) {
  Case c{std::move(name),
         rows,
         keys,
         8,
         std::vector<Interval>(static_cast<std::size_t>(rows), {0, keys}),
         true};
  return c;
}

/// The cases of the comparison with other libraries (F: windows, N: image tokens and L: text tokens
/// of each, T: tokens, q: query rows, k: keys, kv: kv heads).
inline std::vector<Case> peer_cases() {
  return {windows("stream_F8_N256_L20_kv8", 8, 256, 20, 8),
          windows("stream_F64_N256_L20_kv8", 64, 256, 20, 8),
          windows("stream_F8_N256_L20_kv2", 8, 256, 20, 2),
          windows("doc_F1_N1024_L512_kv8", 1, 1024, 512, 8),
          causal("causal_T1024_kv8", 1024),
          causal("causal_T4096_kv8", 4096),
          causal("TI_T2208_kv8", 2208),
          decode("decode_q1_k276_kv8", 1, 276),
          decode("decode_q1_k4096_kv8", 1, 4096)};
}

/// One stream of `frames` windows of 256 image and 20 text tokens under four kinds of attention:
/// self-attention over text alone (sa), cross-attention to the window's image (ca), CASA (casa),
/// token insertion (ti), where image tokens are queries as well.
inline std::vector<Case> variant_cases(Index frames) {
  const Index image = 256, text = 20, all = frames * (image + text);
  const std::string stream = "/F" + std::to_string(frames) + "_N256_L20";
  Case sa = causal("sa" + stream, frames * text);
  Case ca{"ca" + stream, frames * text, frames * image, 8, {}};
  for (Index w = 0; w < frames; ++w)
    for (Index t = 0; t < text; ++t) ca.intervals.push_back({w * image, (w + 1) * image});
  return {sa, ca, windows("casa" + stream, frames, image, text, 8), causal("ti" + stream, all)};
}

/// A case with random queries, keys and values of its shape, and memory for the output.
template <class T, class S = T>
struct Problem {
  Case c;
  casa::Buffer<T> q, out;
  casa::Buffer<S> k, v;
  casa::KeyPiece<S> piece;

  explicit Problem(Case given)
      : c(std::move(given)),
        q(random_values<T, T>(c.rows * c.num_heads * c.head_dim, 1)),
        out(c.rows * c.num_heads * c.head_dim),
        k(random_values<S, T>(c.keys * c.num_kv_heads * c.head_dim, 2)),
        v(random_values<S, T>(c.keys * c.num_kv_heads * c.head_dim, 3)),
        piece{k.data(), v.data(), c.keys, c.head_dim, c.keys * c.head_dim} {}

  /// A row for each query, heads side by side: a view of q, out, or of memory of their size.
  casa::MatrixView<T> rows(casa::Buffer<T>& values) const {
    return {values.data(), c.rows, c.num_heads * c.head_dim};
  }
  casa::AttentionInput<T, S> input() {
    return {{c.num_heads, c.num_kv_heads, c.head_dim},
            casa::default_scale(c.head_dim),
            rows(q),
            {&piece, 1},
            c.intervals};
  }
  void run(const casa::Context& context, T* lse = nullptr) {
    casa::attend(input(), rows(out), lse, context);
  }
};

}  // namespace bench
