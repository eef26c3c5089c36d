#!/usr/bin/env bash
# What a reader may rely on in the tree: dependencies go one way, no macro without CASA_, casa.hpp
# pulls in neither JSON nor iostream nor regex, headers are short.
. "$(dirname "$0")/common.sh"
cd "$include"
eigen=$(eigen_include)
bad=0
complain() { printf 'FAILED: %s\n' "$*"; bad=1; }

rank() {
  case "$1" in
    core) echo 0 ;; simd | stream) echo 1 ;; attention | linear) echo 2 ;; layers | c) echo 3 ;;
    model) echo 4 ;; vision) echo 5 ;; generate) echo 6 ;; train) echo 7 ;;
    files) echo 8 ;; json) echo 9 ;; checkpoint | text) echo 10 ;; image | session) echo 11 ;;
    *) complain "casa/$1: an unknown folder" >&2; echo 10 ;;
  esac
}
while IFS=: read -r file line; do
  from=$(cut -d/ -f2 <<< "$file")
  to=$(sed -nE 's|.*"casa/([a-z_]+)/.*|\1|p' <<< "$line")
  [ -n "$to" ] && [ "$from" != casa.hpp ] || continue
  [ "$from" = "$to" ] || [ "$(rank "$to")" -lt "$(rank "$from")" ] || complain "$file may not: $line"
done < <(grep -rE '^ *# *include *"casa/' casa)
[ $bad -eq 1 ] || say "includes go one way"

# (PCRE2 demands its one macro of whoever includes it.)
while IFS= read -r found; do complain "a macro without CASA_: $found"; done < \
  <(grep -rnE '^ *# *define' casa | grep -vE '# *define +(CASA_|PCRE2_CODE_UNIT_WIDTH)' || true)
while read -r header; do
  lines=$(wc -l < "$header")
  [ "$lines" -le 400 ] || complain "$header has $lines lines"
  grep -q '^#pragma once' "$header" || complain "$header: no #pragma once"
  head -n 1 "$header" | grep -q '^//' || complain "$header does not begin with its job"
done < <(find casa -name '*.hpp')

# What LLVM's C++ library of version 13 lacks, which Debian's Emscripten comes with (examples/web).
# (So does <charconv> for floating point: json/floating_text.hpp has both ways.)
while IFS= read -r found; do complain "not in every C++ library: $found"; done < \
  <(grep -rnE --include="*.hpp" "std::(ranges|views)::|std::bit_cast<" casa || true)

closure=$(printf '#include "casa/casa.hpp"\n' |
  $CXX -std=c++20 -M -I. -isystem "$eigen" -x c++ - | tr ' \\' '\n\n')
for unwanted in nlohmann iostream regex casa/files casa/json casa/checkpoint casa/text casa/image casa/session pcre2 utf8proc jpeglib png.h CLI doctest; do
  while IFS= read -r found; do complain "casa.hpp includes $found"; done < \
    <(grep -E "/$unwanted(/|\$|\.)|^$unwanted" <<< "$closure" || true)
done
for folder in core simd stream attention linear layers model vision generate train; do
  for header in casa/$folder/*.hpp; do
    [ ! -f "$header" ] || grep -q "$header" <<< "$closure" || complain "casa.hpp lacks $header"
  done
done
while IFS= read -r found; do complain "casa.hpp names what is no door: $found"; done < \
  <(grep -nE '"casa/(simd/|attention/kernel/|linear/(tile|product|packed_weight)|core/(arena|workspace|processors))' casa/casa.hpp || true)
[ $bad -eq 1 ] || say "casa.hpp reaches everything but files, by doors alone, and nothing it should not"

if command -v git > /dev/null && git -C "$CASA_SOURCE_DIR" rev-parse > /dev/null 2>&1; then
  cd "$CASA_SOURCE_DIR"
  while IFS= read -r -d '' file; do
    case "$file" in */model.safetensors) most=8 ;; *) most=4 ;; esac
    [ ! -f "$file" ] || [ "$(stat -c %s "$file")" -le $((most << 20)) ] || complain "$file is larger than $most MB"
  done < <(git ls-files -z)
  while IFS= read -r found; do complain "unfinished by its own word: $found"; done < \
    <(git grep -nIE '\b(TODO|FIXME)\b' -- include bench examples 'tests/*.[ch]pp' || true)
fi
exit $bad
