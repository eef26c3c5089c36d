#!/usr/bin/env bash
# Builds the page with warnings as errors, and lets headless Chromium read with it: test_page.py says
# what is checked. Skipped (exit status 77) where emscripten, Chromium or python3 is missing.
#   test.sh [SCREENSHOT]
. "$(dirname "$0")/../../tests/house/common.sh"
here=$CASA_SOURCE_DIR/examples/web
data=${CASA_GOLDEN_DIR:-$CASA_SOURCE_DIR/tests/golden}/reader
for program in em++ python3; do
  command -v $program > /dev/null || skip "no $program"
done
for chromium in chromium chromium-browser google-chrome ""; do
  if command -v "${chromium:-none}" > /dev/null; then break; fi
done
[ -n "$chromium" ] || skip "no chromium"
# (Another CASA_GOLDEN_DIR has other pictures, for the model of this tree.)
[ -f "$data/casa/outputs.safetensors" ] || die "$data/casa/outputs.safetensors is missing"

quiet "$scratch/log" "$here/build.sh" "$scratch/site" "$CASA_SOURCE_DIR/tests/golden/reader/casa" \
  $warnings -Wno-undef -Werror
say "the page: $(du -sk "$scratch/site" | cut -f 1) KiB, no warning"
# What -msimd128 promises: the library's portable vectors have become the machine's.
if command -v wasm-dis > /dev/null; then
  multiplies=$(wasm-dis --all-features "$scratch/site/casa_reader.wasm" | grep -c f32x4.mul || true)
  [ "$multiplies" -gt 1000 ] || die "only $multiplies multiplications of vectors in the module"
fi
python3 "$here/test_page.py" "$scratch/site" "$data" --chromium "$chromium" ${1:+--screenshot "$1"}
