// Which masks can I use?
//
// All that show each row one interval of the keys. Prints five of them as the weights (in percent)
// that seven rows give to seven keys. Queries are zero, so that a row weighs what it sees equally,
// and values are the unit matrix, so that the output is the weights.
#include <casa/attention/simple.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

int main() {
  using casa::Index;
  using casa::Interval;
  constexpr Index n = 7;
  const casa::RowMatrix<float> q = casa::RowMatrix<float>::Zero(n, n);
  const casa::RowMatrix<float> k = casa::RowMatrix<float>::Ones(n, n);
  const casa::RowMatrix<float> v = casa::RowMatrix<float>::Identity(n, n);

  const auto show = [&](const char* name, auto seen_by) {
    std::vector<Interval> sees;
    for (Index row = 0; row < n; ++row) sees.push_back(seen_by(row));
    const casa::RowMatrix<float> weights = casa::attend(q, k, v, sees);
    std::printf("%s\n", name);
    for (Index row = 0; row < n; ++row) {
      for (Index key = 0; key < n; ++key) {
        const long percent = std::lround(100 * weights(row, key));
        percent == 0 ? std::printf("   .") : std::printf(" %3ld", percent);
      }
      std::printf("\n");
    }
  };
  show("causal", [](Index i) { return Interval{0, i + 1}; });
  show("sliding window of 3", [](Index i) { return Interval{std::max<Index>(0, i - 2), i + 1}; });
  show("prefix of 4, then causal", [](Index i) { return Interval{0, std::max<Index>(4, i + 1)}; });
  show("samples of 3 and 4, packed", [](Index i) {
    return i < 3 ? Interval{0, 3} : Interval{3, n};
  });
  show("padding after 5: nothing is seen, the output is zero", [](Index i) {
    return i < 5 ? Interval{0, 5} : Interval{};
  });
}
