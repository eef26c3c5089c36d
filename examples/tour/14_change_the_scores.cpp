// How do I change the scores before the softmax?
//
// With a small struct that attend() is handed: one of casa/attention/scores.hpp, or your own in ten
// lines. Prints the weights (in percent) that rows give to keys plain, with a soft cap, with ALiBi,
// and with the program's own rule: a key counts half as much every two steps back. Then whether the
// kernel gives what the definition gives, which runs the same struct in double.
#include <casa/attention/scores.hpp>
#include <casa/attention/simple.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

// The score of a key loses ln 2 with every `half_life` places between it and the row.
struct Fading {
  double half_life;

  // V is a vector of scores in the kernel and double in the definition. `at` says where they stand.
  template <class V, class At>
  V operator()(V score, const At& at) const {
    return score - at.number(std::log(2.0) / half_life) * at.number(at.row() - at.key());
  }
};

int main() {
  using casa::Index;
  constexpr Index n = 5;
  const casa::RowMatrix<float> q = casa::RowMatrix<float>::Ones(n, n);
  casa::RowMatrix<float> k = casa::RowMatrix<float>::Zero(n, n);
  k.col(0) << 0, 6, 0, 3, 0;  // keys 1 and 3 stand out
  const casa::RowMatrix<float> v = casa::RowMatrix<float>::Identity(n, n);
  std::vector<casa::Interval> causal;
  for (Index row = 0; row < n; ++row) causal.push_back({0, row + 1});

  const auto show = [&](const char* name, const auto& score) {
    const casa::RowMatrix<float> weights = casa::attend(q, k, v, causal, {.scale = 1}, score);
    std::printf("%s\n", name);
    for (Index row = 0; row < n; ++row) {
      for (Index key = 0; key <= row; ++key)
        std::printf(" %3ld", std::lround(100 * weights(row, key)));
      std::printf("\n");
    }
  };
  show("plain", casa::PlainScore{});
  show("soft cap 2", casa::SoftCap{2});
  const std::vector<float> slopes = {1};  // one a head
  show("ALiBi, slope 1", casa::Alibi<float>{slopes});
  show("fading", Fading{2});
  show("a soft cap, then fading", casa::Scores{casa::SoftCap{2}, Fading{2}});

  casa::Context definition;
  definition.path = casa::Path::naive;
  const casa::RowMatrix<float> fast = casa::attend(q, k, v, causal, {}, Fading{2});
  const casa::RowMatrix<float> naive =
      casa::attend(q, k, v, causal, {.context = &definition}, Fading{2});
  const bool same = (fast - naive).cwiseAbs().maxCoeff() < 1e-6f;
  std::printf("as by the definition: %s\n", same ? "yes" : "no");
}
