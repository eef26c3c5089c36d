// Which masks can I use?
//
// Any that says for each row which intervals of the keys it sees. Many have makers by name; others
// are unions and intersections of these, or are written row by row. Prints some of them as the
// weights (in percent) that seven rows give to seven keys. Queries are zero, so that a row weighs
// what it sees equally, and values are the unit matrix, so that the output is the weights.
#include <casa/attention/attend.hpp>
#include <casa/attention/masks.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

int main() {
  using casa::Index;
  namespace masks = casa::masks;
  constexpr Index n = 7;
  const casa::RowMatrix<float> q = casa::RowMatrix<float>::Zero(n, n);
  const casa::RowMatrix<float> k = casa::RowMatrix<float>::Ones(n, n);
  const casa::RowMatrix<float> v = casa::RowMatrix<float>::Identity(n, n);

  const auto show = [&](const char* name, const casa::Mask& mask) {
    const casa::RowMatrix<float> weights = casa::attend(q, k, v, mask);
    std::printf("%s\n", name);
    for (Index row = 0; row < n; ++row) {
      for (Index key = 0; key < n; ++key) {
        const long percent = std::lround(100 * weights(row, key));
        percent == 0 ? std::printf("   .") : std::printf(" %3ld", percent);
      }
      std::printf("\n");
    }
  };
  show("causal", masks::causal(n));
  show("sliding window of 3", masks::sliding_window(n, 3));
  show("prefix of 4, then causal", masks::prefix_lm(n, 4));
  show("documents of 3 and 4, packed", masks::packed_documents(n, {3, 4}));
  show("answers of 3 and 2 to one prompt of 2", masks::shared_prefix(n, 2, {3, 2}));
  show("a sink and a window of 2", masks::sinks_window(n, 1, 2));
  const std::vector<std::vector<Index>> chosen = {{0}, {0, 1}, {1, 2}, {0, 3}};
  show("key blocks of 2 chosen for each row block, up to the row",
       masks::block_sparse(n, n, 2, chosen, masks::Direction::causal));
  show("the sink and window, within the documents",
       masks::intersect(masks::sinks_window(n, 1, 2), masks::packed_documents(n, {3, 4})));
  casa::Mask own;
  own.add_row({});  // sees nothing: its output is zero
  for (Index row = 1; row < n; ++row) own.add_row({{row / 2, row / 2 + 1}, {row, row + 1}});
  show("row by row: itself and the key half as far", own);
}
