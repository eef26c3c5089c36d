// How do I attend with matrices of my own?
//
// A token is a row; its heads stand side by side in that row. Prints the output of two query heads
// that share one head of keys and values, and whether it is what the formula
// softmax(q k^T / sqrt(head_dim)) v gives when it is written out with Eigen.
#include <casa/attention/simple.hpp>

#include <algorithm>
#include <iomanip>
#include <iostream>
#include <vector>

int main() {
  // Row-major, as all of casa: an Eigen::MatrixXf is column-major and is assigned to one of these.
  using Matrix = casa::RowMatrix<float>;
  const auto numbers = [](casa::Index rows, casa::Index cols, casa::Index step) -> Matrix {
    return Matrix::NullaryExpr(rows, cols, [=](casa::Index r, casa::Index c) {
      return static_cast<float>((step * (r * cols + c)) % 17) / 8 - 1;
    });
  };
  constexpr casa::Index num_heads = 2, head_dim = 4, tokens = 3, keys = 5;
  const Matrix q = numbers(tokens, num_heads * head_dim, 5);
  const Matrix k = numbers(keys, head_dim, 7), v = numbers(keys, head_dim, 3);

  const std::vector<casa::Interval> sees(tokens, casa::Interval{0, keys});  // all rows see all keys
  const Matrix out = casa::attend(q, k, v, sees, {.num_heads = num_heads, .num_kv_heads = 1});
  std::cout << std::fixed << std::setprecision(3) << out << '\n';

  float difference = 0;
  for (casa::Index h = 0; h < num_heads; ++h) {
    const auto head = [&](const Matrix& m) { return m.middleCols(h * head_dim, head_dim); };
    Matrix weights = (head(q) * k.transpose() / 2).array().exp();  // sqrt(head_dim) is 2
    weights.array().colwise() /= weights.rowwise().sum().eval().array();
    difference = std::max(difference, (head(out) - weights * v).cwiseAbs().maxCoeff());
  }
  std::cout << "as the formula: " << (difference < 1e-6f ? "yes" : "no") << '\n';
}
