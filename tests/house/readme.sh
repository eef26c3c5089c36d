#!/usr/bin/env bash
# The C++ programs of the README and of the guide compile as they stand there, without a warning, and run.
. "$(dirname "$0")/common.sh"
eigen=$(eigen_include)
cd "$scratch"
for page in "$CASA_SOURCE_DIR/README.md" "$include"/casa/guide/*.md; do
  awk -v name="$(basename "$page" .md)" '/^```cpp/ { n++; on = 1; next } /^```/ { on = 0 }
    on { print > (name "-" n ".cpp") }' "$page"
done
[ -f README-1.cpp ] || die "README.md has no cpp block"
[ -f performance-1.cpp ] || die "the guide has no cpp block"
for program in *.cpp; do
  grep -q 'int main' "$program" || continue
  quiet log $CXX -std=c++20 -O1 $warnings -Werror "-I$include" -isystem "$eigen" "$program" -o "${program%.cpp}" -pthread
  (cd "$CASA_SOURCE_DIR" && quiet "$scratch/log" "$scratch/${program%.cpp}")
  say "$program: $(wc -l < "$program") lines, built and run"
done
