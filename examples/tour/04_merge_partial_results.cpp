// My keys lie in two places. How do I combine attention over each into attention over both?
//
// A softmax over two sets of keys needs from each set only its largest score, the sum of its
// weights and its weighted values: casa::AttentionState. Prints the merged output and log-sum-exp,
// whether they are those of one call over all keys, and whether an output and log-sum-exp of
// another library (flash-attention gives both) can be merged as well.
#include <casa/attention/simple.hpp>

#include <iomanip>
#include <iostream>
#include <numbers>
#include <vector>

int main() {
  using Matrix = casa::RowMatrix<float>;
  const auto numbers = [](casa::Index rows, casa::Index cols, casa::Index step) -> Matrix {
    return Matrix::NullaryExpr(rows, cols, [=](casa::Index r, casa::Index c) {
      return static_cast<float>((step * (r * cols + c)) % 17) / 8 - 1;
    });
  };
  constexpr casa::Index d = 4, rows = 3, keys = 10, cached = 6;
  const casa::AttentionShape shape{.num_heads = 1, .num_kv_heads = 1, .head_dim = d};
  const Matrix q = numbers(rows, d, 5), k = numbers(keys, d, 7), v = numbers(keys, d, 3);

  const auto state_over = [&](casa::Index begin, casa::Index end) {
    const casa::KeyPiece<float> piece{.k = k.row(begin).data(),
                                      .v = v.row(begin).data(),
                                      .count = end - begin,
                                      .token_stride = d,
                                      .head_stride = d};
    const std::vector<casa::Interval> sees(rows, casa::Interval{0, piece.count});
    return casa::attend_state(
        casa::AttentionInput<float>{shape, casa::default_scale(d), q, {&piece, 1}, sees});
  };
  casa::AttentionState<float> both = state_over(0, cached);
  casa::merge(both, state_over(cached, keys));
  Matrix out(rows, d), lse(rows, 1);
  casa::finish(both, out, lse.data());
  std::cout << std::fixed << std::setprecision(3) << "output\n" << out << "\nlog-sum-exp\n" << lse;

  const std::vector<casa::Interval> all(rows, casa::Interval{0, keys});
  const Matrix once = casa::attend(q, k, v, all);
  const auto same = [&] { return (out - once).cwiseAbs().maxCoeff() < 1e-6f ? "yes" : "no"; };
  std::cout << "\nas over all keys at once: " << same() << '\n';

  // (output, log-sum-exp) is a state, too: its sum is 1 where its largest score, counted in base 2,
  // is the log-sum-exp.
  Matrix other_lse(rows, 1);
  const std::vector<casa::Interval> first(rows, casa::Interval{0, cached});
  const Matrix other = casa::attend(q, k, v, first, {.lse = other_lse.data()});
  casa::AttentionState<float> foreign = casa::empty_state<float>(rows, shape);
  foreign.out.eigen() = other;
  foreign.max.eigen() = other_lse * std::numbers::log2e_v<float>;
  foreign.sum.fill(1);
  casa::merge(foreign, state_over(cached, keys));
  casa::finish(foreign, out);
  std::cout << "merged with another library's result: " << same() << '\n';
}
