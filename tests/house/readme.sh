#!/usr/bin/env bash
# The C++ programs of the README compile as they stand there, without a warning, and run.
. "$(dirname "$0")/common.sh"
eigen=$(eigen_include)
cd "$scratch"
awk '/^```cpp/ { n++; on = 1; next } /^```/ { on = 0 } on { print > ("program" n ".cpp") }' "$CASA_SOURCE_DIR/README.md"
[ -f program1.cpp ] || die "README.md has no cpp block"
for program in program*.cpp; do
  grep -q 'int main' "$program" || continue
  quiet log $CXX -std=c++20 -O1 $warnings -Werror "-I$include" -isystem "$eigen" "$program" -o "${program%.cpp}" -pthread
  (cd "$CASA_SOURCE_DIR" && quiet "$scratch/log" "$scratch/${program%.cpp}")
  say "$program: $(wc -l < "$program") lines, built and run"
done
