#!/usr/bin/env bash
# Tests what casa_bench promises to the programs that read it: its flags, the lines of --csv, exit statuses, and the
# files of --problems. Times are printed, but no verdict depends on them.
#
#   bench/check_output.sh build/bench/casa_bench
set -uo pipefail
bench=$1 failed=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
columns=bench,case,impl,threads,min_s,med_s,work,unit

check() {  # check WHAT COMMAND...: says what is wrong if the command fails
  local what=$1; shift
  "$@" || { printf 'FAILED: %s\n' "$what"; failed=1; }
}
status() { local want=$1; shift; "$@" > /dev/null 2>&1; [ $? -eq "$want" ]; }
# Every line of stdin is a result: eight fields, a thread count and positive numbers; and there are so many of them.
are_results() {
  awk -F, -v want="$1" '
    NF != 8 || $4 !~ /^[0-9]+$/ || $5 <= 0 || $6 < $5 || $7 <= 0 || $8 !~ /^(GFLOP|GB)$/ { print "bad line: " $0; bad = 1 }
    END { if (NR != want) print NR " lines, not " want; exit bad || NR != want }'
}

"$bench" --help > "$work/help" 2> /dev/null
for flag in --csv --csv-header --tower-csv --variants --case --json --rounds --threads --cases --limits --problems --benchmark_counters_tabular --benchmark_filter; do
  check "--help does not list $flag" grep -q -e "$flag" "$work/help"
done

"$bench" --csv --cases q1_k276 > "$work/csv" 2> "$work/err"
check "--csv prints one result a line, and nothing else, on stdout" are_results 1 < "$work/csv"
check "--csv names the case and casa" grep -q '^attention,decode_q1_k276_kv8,casa,1,' "$work/csv"
check "--csv names the columns on stderr" grep -qF "$columns" "$work/err"
check "stderr says how casa was built" grep -q '^casa [0-9]' "$work/err"

"$bench" --csv-header --limits --threads 2 --cases 'q1_k276|kv2' > "$work/csv" 2> /dev/null
check "--csv-header prints the columns first" [ "$(head -n 1 "$work/csv")" = "$columns" ]
tail -n +2 "$work/csv" > "$work/rest"
check "--limits adds four lines" are_results 6 < "$work/rest"
for peak in fp32 bf16 int8; do
  check "--limits has the multiply-add peak of two threads in $peak" grep -q "^limits,fma_$peak,casa_bench,2," "$work/rest"
done
check "--limits has the read rate of two threads" grep -q '^limits,read_256MiB,casa_bench,2,' "$work/rest"

mkdir "$work/problems"
"$bench" --csv --cases 'q1_k276|kv2' --problems "$work/problems" > /dev/null 2>&1
sizes() {  # the sizes that cases.csv says are those of the files
  tail -n +2 "$work/problems/cases.csv" | while IFS=, read -r name rows keys heads kv_heads head_dim _; do
    printf '%d %s.q.f32\n' $((4 * rows * heads * head_dim)) "$name"
    printf '%d %s.out.f32\n' $((4 * rows * heads * head_dim)) "$name"
    printf '%d %s.k.f32\n' $((4 * keys * kv_heads * head_dim)) "$name"
    printf '%d %s.v.f32\n' $((4 * keys * kv_heads * head_dim)) "$name"
    printf '%d %s.intervals.i64\n' $((16 * rows)) "$name"
  done | sort
}
check "--problems writes the files that cases.csv describes" diff <(sizes) \
  <(cd "$work/problems" && find . -name '*.[fi]*' -printf '%s %f\n' | sort)
check "cases.csv has both cases" [ "$(sizes | wc -l)" -eq 10 ]

"$bench" --variants --list > "$work/names" 2> /dev/null
check "--variants --list has a name for each file of bench/variants" diff <(LC_ALL=C sort "$work/names") \
  <(cd "$(dirname "$0")/variants" && basename -s .cpp -- *.cpp | LC_ALL=C sort)
mkdir "$work/variants"
"$bench" --variants --case window256,frames --seconds 0.01 --rounds 2 --json "$work/json" > "$work/table" 2> /dev/null
check "--variants: status 0 where results are right" [ $? -eq 0 ]
check "--variants prints a line a case below its heads" [ "$(grep -cE '^(case|frames|window256) ' "$work/table")" -eq 3 ]
check "--variants says whether the processor counts" grep -qE '^no processor counters:|instr/cycle' "$work/table"
"$bench" --variants --csv --case frames --seconds 0.01 --rounds 2 --problems "$work/variants" > "$work/csv" 2> /dev/null
check "--variants --csv prints a result a round" are_results 2 < "$work/csv"
check "--variants --csv names the case and casa" grep -q '^variants,frames,casa,1,' "$work/csv"
check "--variants --problems writes the output" [ "$(wc -c < "$work/variants/frames.out.f32")" -eq $((4 * 2048 * 16 * 128)) ]
if command -v python3 > /dev/null; then
  python3 "$(dirname "$0")/compare.py" --csv "$work/json" "$work/json" > "$work/compared" 2>&1
  check "compare.py reads what --json writes" [ "$(grep -cE '^(frames|window256),1,1.000,' "$work/compared")" -eq 2 ]
fi
check "no variant of that name: status 2" status 2 "$bench" --variants --case frames,nothing
check "no name: status 2" status 2 "$bench" --variants --case ''
check "a file that cannot be written: status 1" status 1 "$bench" --variants --case frames --seconds 0.01 --json "$work/none/x"
check "an unknown flag of --variants: status 2" status 2 "$bench" --variants --cases frames
check "processor time of several threads: status 2" status 2 "$bench" --variants --csv --cpu --threads 2
check "no round: status 2" status 2 "$bench" --variants --rounds 0
check "no time: status 2" status 2 "$bench" --variants --seconds 0

"$bench" --tower-csv --threads 2 > "$work/csv" 2> /dev/null
check "--tower-csv prints six results" are_results 6 < "$work/csv"
for line in {full,window},casa\ {float,bf16,int8}; do
  check "--tower-csv has $line of two threads" grep -q "^tower,$line,2,.*,GFLOP$" "$work/csv"
done
check "an unknown flag of --tower-csv: status 2" status 2 "$bench" --tower-csv --cases full

check "no case: status 1" status 1 "$bench" --csv --cases 'no such case'
check "a folder that is not there: status 1" status 1 "$bench" --csv --cases q1_k276 --problems "$work/none"
check "an unknown flag of --csv: status 2" status 2 "$bench" --csv --treads 2
check "no thread: status 2" status 2 "$bench" --csv --threads 0
check "no number of threads: status 2" status 2 "$bench" --csv --threads 2x
check "--threads without a value: status 2" status 2 "$bench" --csv --threads
check "an unknown flag without --csv: status 2" status 2 "$bench" --threads 2

[ $failed -eq 0 ] && echo "casa_bench: output as promised"
exit $failed
