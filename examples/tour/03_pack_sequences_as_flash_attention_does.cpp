// I have flash-attention's cu_seqlens. What do I call?
//
// casa::varlen: sequences of different lengths stand end to end, and two lists say where each one
// begins among the queries and among the keys. A causal mask is aligned at the bottom right, so
// that the last query sees all keys of its sequence. Prints the keys that each query sees, and
// whether the packed sequences give what each of them gives alone.
#include <casa/attention/simple.hpp>

#include <cstdint>
#include <cstdio>
#include <vector>

int main() {
  using Matrix = casa::RowMatrix<float>;
  const auto numbers = [](casa::Index rows, casa::Index cols, casa::Index step) -> Matrix {
    return Matrix::NullaryExpr(rows, cols, [=](casa::Index r, casa::Index c) {
      return static_cast<float>((step * (r * cols + c)) % 17) / 8 - 1;
    });
  };
  // A prompt of 4 tokens, a decode step (1 query over 6 cached keys), and a chunk of 2 over 5.
  const std::vector<std::int32_t> q_begins = {0, 4, 5, 7}, k_begins = {0, 4, 10, 15};
  const Matrix q = numbers(7, 2 * 8, 5), k = numbers(15, 8, 7), v = numbers(15, 8, 3);
  const casa::AttendOptions<float> heads{.num_heads = 2, .num_kv_heads = 1};
  const bool causal = true;

  for (const casa::Interval sees : casa::varlen_intervals(q_begins, k_begins, causal))
    std::printf("[%td, %td) ", sees.begin, sees.end);
  const Matrix out = casa::varlen(q, k, v, q_begins, k_begins, causal, heads);

  bool same = true;
  for (std::size_t s = 0; s + 1 < q_begins.size(); ++s) {
    const casa::Index q0 = q_begins[s], rows = q_begins[s + 1] - q0;
    const casa::Index k0 = k_begins[s], keys = k_begins[s + 1] - k0;
    const std::vector<std::int32_t> q_ends = {0, static_cast<std::int32_t>(rows)};
    const std::vector<std::int32_t> k_ends = {0, static_cast<std::int32_t>(keys)};
    const Matrix alone = casa::varlen(q.middleRows(q0, rows), k.middleRows(k0, keys),
                                      v.middleRows(k0, keys), q_ends, k_ends, causal, heads);
    same = same && (alone - out.middleRows(q0, rows)).cwiseAbs().maxCoeff() < 1e-6f;
  }
  std::printf("\nas each sequence alone: %s\n", same ? "yes" : "no");
}
