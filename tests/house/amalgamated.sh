#!/usr/bin/env bash
# casa_attention.hpp, the one header of attention: made in an empty folder, it includes nothing of
# ours, compiles there without a warning, links in two files, and gives what the definition gives, for
# Eigen matrices, plain pointers, CASA's windows and threads.
. "$(dirname "$0")/common.sh"
command -v python3 > /dev/null || skip "no python3"
eigen=$(eigen_include)
cd "$scratch"
quiet log python3 "$CASA_SOURCE_DIR/.cmake/amalgamate.py" casa_attention.hpp
if grep -nE '^ *# *include *"' casa_attention.hpp; then die "it includes a file of ours"; fi
grep -q 'Permission is hereby granted' casa_attention.hpp || die "it lacks the licence"

cat > main.cpp <<'CPP'
#include "casa_attention.hpp"

#include <cstdio>

int other();

// softmax(q k^T / sqrt(dim)) v of one row and head, by the definition.
Eigen::RowVectorXd definition(const Eigen::RowVectorXd& q, const Eigen::MatrixXd& k, const Eigen::MatrixXd& v) {
  Eigen::RowVectorXd weights = (q * k.transpose() / std::sqrt(double(q.size()))).array().exp();
  return weights * v / weights.sum();
}

int main() {
  const casa::Index heads = 4, kv_heads = 2, dim = 24;
  casa::StreamLayout stream;
  for (int frame = 0; frame < 2; ++frame) stream.append_image(40), stream.append_text(30);
  std::vector<casa::Interval> sees(60);
  casa::text_intervals(stream, {0, 60}, casa::Keys::image_text, casa::History::window, sees);

  using Rows = casa::RowMatrix<double>;
  std::srand(1);
  const Rows q = Rows::Random(60, heads * dim), k = Rows::Random(140, kv_heads * dim), v = Rows::Random(140, kv_heads * dim);
  const Rows out = casa::attend(q, k, v, sees, {.num_heads = heads, .num_kv_heads = kv_heads});

  double worst = 0;
  for (casa::Index r = 0; r < 60; ++r)
    for (casa::Index h = 0; h < heads; ++h) {
      const auto [begin, end] = sees[std::size_t(r)];
      const auto block = [&, b = begin, e = end](const Rows& m) { return m.block(b, h / 2 * dim, e - b, dim); };
      const Eigen::RowVectorXd difference = out.block(r, h * dim, 1, dim) - definition(q.block(r, h * dim, 1, dim), block(k), block(v));
      worst = std::max(worst, difference.cwiseAbs().maxCoeff());
    }
  // Scores are at most sqrt(dim) in size and values at most 1: the rule of tests/attention.
  const double bound = 2.3e-16 * (1 + std::sqrt(double(dim))) * 2;

  // The same by pointers, on two threads: the same bits.
  casa::ThreadPool pool(2);
  const casa::KeyPiece<double> piece{k.data(), v.data(), 140, kv_heads * dim, dim};
  Rows again(60, heads * dim);
  casa::attend(casa::AttentionInput<double>{{heads, kv_heads, dim}, casa::default_scale(dim), {q.data(), 60, heads * dim}, {&piece, 1}, sees},
               {again.data(), 60, heads * dim}, nullptr, casa::Context{pool});
  std::printf("worst difference %g, bound %g, by pointers %s\n", worst, bound, again == out ? "the same" : "another");
  return !(worst <= bound && again == out && other() == 1);
}
CPP
printf '#include "casa_attention.hpp"\nint other() { return CASA_VERSION_MINOR; }\n' > other.cpp

quiet log $CXX -std=c++20 $warnings -Werror -isystem "$eigen" -c other.cpp -o other.o
quiet log $CXX -std=c++20 -O1 -isystem "$eigen" main.cpp other.o -pthread -o program
quiet log ./program
cat log
