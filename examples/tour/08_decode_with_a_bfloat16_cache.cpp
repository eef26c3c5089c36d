// How do I decode token by token with a KV cache, and what does bfloat16 change?
//
// Keys and values are appended to a casa::KvCache as tokens come, and attention reads them where
// they lie; 16-bit ones are widened while they are read. Prints the bytes of a cache in float and
// of one in bfloat16 after 100 tokens, and how far apart the outputs are.
#include <casa/casa.hpp>

#include <algorithm>
#include <cstdio>

constexpr casa::AttentionShape kShape{.num_heads = 4, .num_kv_heads = 2, .head_dim = 16};

// The token's keys and values go into the cache; its queries then see all that the cache holds.
template <class S>
casa::Matrix<float> decode(casa::KvCache<S>& cache, casa::MatrixView<const float> q,
                           casa::MatrixView<const float> k, casa::MatrixView<const float> v,
                           const casa::Context& context) {
  cache.append(k, v);
  const casa::Interval sees{0, cache.size()};
  const auto pieces = cache.pieces();
  casa::Matrix<float> out(q.rows(), q.cols());
  casa::attend(
      casa::AttentionInput<float, S>{
          kShape, casa::default_scale(kShape.head_dim), q, pieces, {&sees, 1}},
      out.view(), nullptr, context);
  return out;
}

int main() {
  const casa::Context context;  // keep it: its scratch memory is used again by every step
  casa::KvCache<float> exact(kShape.num_kv_heads, kShape.head_dim);
  casa::KvCache<casa::bfloat16> narrow(kShape.num_kv_heads, kShape.head_dim);
  float largest = 0, difference = 0;
  for (casa::Index token = 0; token < 100; ++token) {
    const auto numbers = [&](casa::Index heads, casa::Index step) -> casa::RowMatrix<float> {
      return casa::RowMatrix<float>::NullaryExpr(1, heads * kShape.head_dim, [=](casa::Index i) {
        return static_cast<float>((step * (token * 64 + i)) % 101) / 50 - 1;
      });
    };
    const auto q = numbers(kShape.num_heads, 5);
    const auto k = numbers(kShape.num_kv_heads, 7), v = numbers(kShape.num_kv_heads, 3);
    const auto a = decode(exact, q, k, v, context), b = decode(narrow, q, k, v, context);
    largest = std::max(largest, a.eigen().cwiseAbs().maxCoeff());
    difference = std::max(difference, (a.eigen() - b.eigen()).cwiseAbs().maxCoeff());
  }
  std::printf("%td tokens: %td bytes in float, %td in bfloat16\n", exact.size(), exact.bytes(),
              narrow.bytes());
  std::printf("outputs differ: %s; by less than 1 %% of the largest: %s\n",
              difference > 0 ? "yes" : "no", difference < 0.01f * largest ? "yes" : "no");
}
