#!/usr/bin/env bash
# Instructions of five small cases, counted by callgrind (Debian: valgrind), beside those recorded here: a
# slow-down shows on the noisiest machine. Built for AVX2 (valgrind knows no AVX-512), so that every machine
# counts the same code; counts of another compiler differ by more than a change does. What the program takes to
# start, a third of the smallest case, is taken off.
#
#   bench/instructions/count.sh            prints case, count, recorded, ratio; status 1 if one grew by over 3 %
#   bench/instructions/count.sh --record   records what it counts
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) top=$here/../..
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
eigen=$(pkg-config --cflags-only-I eigen3 2> /dev/null || echo -I/usr/include/eigen3)
${CXX:-g++} -std=c++20 -O3 -DNDEBUG -march=x86-64-v3 -I"$top/include" -I"$top/bench" $eigen \
  "$here/instructions.cpp" -o "$work/instructions" -pthread
instructions_of() {
  valgrind --tool=callgrind --callgrind-out-file="$work/out" "$work/instructions" "$1" > /dev/null 2> "$work/err" ||
    { cat "$work/err" >&2; exit 1; }
  sed -nE 's/^(summary|totals): ([0-9]+).*/\2/p' "$work/out" | head -n 1
}
status=0
start=$(instructions_of nothing)
for name in causal stream decode projection step; do
  count=$(instructions_of $name)
  count=$((count - start))
  recorded=$(awk -v n=$name '$1 == n { print $2 }' "$here/recorded.txt" 2> /dev/null || true)
  echo "$name $count" >> "$work/counts"
  if [ -n "$recorded" ]; then
    awk -v n=$name -v c="$count" -v r="$recorded" 'BEGIN { printf "%-12s %12d %12d %6.3f\n", n, c, r, c / r; exit c > 1.03 * r }' || status=1
  else
    printf '%-12s %12d\n' $name "$count"
  fi
done
if [ "${1:-}" = --record ]; then cp "$work/counts" "$here/recorded.txt"; fi
exit $status
