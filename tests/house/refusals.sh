#!/usr/bin/env bash
# What a new user gets wrong first is refused by one sentence with advice, and few lines around it:
# a column-major matrix, float q beside double k, an expression, Eigen's own bfloat16, at each door
# that takes matrices, and a score function that cannot be called; from whatever header declares the
# door.
. "$(dirname "$0")/common.sh"
eigen=$(eigen_include)
most=25  # lines in all: Clang prints the chain of calls and the source of each

compile() {  # compile HEADER CODE
  printf '#include "%s"\nusing namespace casa;\nvoid f(RowMatrix<float> q, RowMatrix<float> k, std::vector<Interval> sees,\n       RowMatrix<double> doubles, Eigen::MatrixXf columns, RowMatrix<Eigen::bfloat16> other) {\n  %s\n}\n' \
    "$1" "$2" > "$scratch/a.cpp"
  $CXX -std=c++20 -fsyntax-only "-I$include" -isystem "$eigen" "$scratch/a.cpp"
}
refusal() {  # refusal HEADER SENTENCE CODE
  refused "$scratch/log" "(static assertion failed|static_assert failed).*$2" compile "$1" "$3"
  local errors lines
  errors=$(grep -cE 'error:' "$scratch/log"); lines=$(wc -l < "$scratch/log")
  [ "$errors" -eq 1 ] || { grep 'error:' "$scratch/log" >&2; die "$3: $errors errors, expected one"; }
  [ "$lines" -le $most ] || { cat "$scratch/log" >&2; die "$3: $lines lines, at most $most expected"; }
  say "$3: 1 error, $lines lines"
}
accepted() {  # accepted HEADER CODE
  quiet "$scratch/log" compile "$1" "$2"
  say "$2: compiles"
}

for header in attention/attend attention/simple model/decoder; do
  refusal casa/$header.hpp 'column-major' 'RowMatrix<float> out = attend(columns, k, k, sees);'
done
attend=casa/attention/attend.hpp
refusal $attend "must hold q's scalar type" 'auto out = attend(q, doubles, doubles, sees);'
refusal $attend 'the same scalar type' 'auto out = attend(q, k, doubles, sees);'
refusal $attend 'Eigen expression' 'auto out = attend(2 * q, k, k, sees);'
refusal $attend 'Eigen::bfloat16' 'auto out = attend(q, other, other, sees);'
refusal $attend 'a comparison is no number' \
  'auto out = attend(q, k, k, sees, {}, [](auto s, const auto& at) { return s + at.number(at.key() > 3); });'
refusal $attend 'attend needs a mask' 'auto out = attend(q, k, k);'
refusal $attend 'attend takes the mask' \
  'std::vector<std::pair<int, int>> pairs; auto out = attend(q, k, k, pairs);'
refusal $attend 'are matrices' 'auto out = attend(q.data(), k, k, sees);'
refusal $attend 'float or double' \
  'MatrixView<const bfloat16> b; auto out = attend(b, b, b, sees);'
refusal $attend 'a score function is' \
  'auto out = attend(q, k, k, sees, {}, [n = 0](auto s, const auto&) mutable { return ++n, s; });'
refusal $attend 'a score function is' 'auto out = attend(q, k, k, sees, {}, [](auto s) { return s; });'
refusal casa/attention/simple.hpp 'column-major' 'auto out = varlen(q, columns, k, {0, 1}, {0, 14}, true);'
refusal casa/attention/simple.hpp 'Eigen expression' 'auto out = varlen(q, k, k + k, {0, 1}, {0, 14}, true);'
refusal $attend 'column-major' 'MatrixView<const float> v = columns;'
refusal $attend 'another scalar type' 'MatrixView<const float> v = doubles;'
refusal $attend 'Eigen expression' 'MatrixView<const float> v = q + q;'
refusal $attend 'object is const' 'MatrixView<float> v = std::as_const(q);'
refusal casa/model/decoder.hpp 'column-major' 'Linear<float> l(LinearPiece{columns});'
refusal casa/model/decoder.hpp 'Eigen expression' 'Linear<float> l(LinearPiece{q + q});'
refusal casa/model/decoder.hpp 'Eigen::bfloat16' 'Linear<float> l(LinearPiece{other});'

accepted $attend 'auto out = attend(q, k, k, {{0, 14}}); out = attend(q, k, k, sees);'
accepted $attend 'RowMatrix<bfloat16> m = other.cast<float>().unaryExpr([](float x) { return narrow<bfloat16>(x); }); attend(q, m, m, sees);'
accepted casa/model/decoder.hpp 'auto out = attend(q, k, k, {{0, 14}}, {.num_heads = 2, .num_kv_heads = 2});'
accepted casa/model/decoder.hpp 'Linear<float> l(LinearPiece{q}); Eigen::VectorXf b; Linear<float> m(LinearPiece{q, b});'
