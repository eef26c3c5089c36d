#!/usr/bin/env bash
# Makes page.png: page.txt as it stands, black on white, in a font that the models of reader/ never saw.
#   make.sh [FONT [SIZE [TEXT [OUT]]]]
# The page of the repository: Open Sans (Debian: ffmpeg fonts-open-sans), 24 pixels.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
font=${1:-/usr/share/fonts/truetype/open-sans/OpenSans-Regular.ttf} size=${2:-24}
text=${3:-$here/page.txt} out=${4:-$here/page.png}
lines=$(wc -l < "$text") columns=$(wc -L < "$text")
# 0.62 of the size is wider than a letter on average, and is that of a typewriter's font.
width=$((columns * size * 62 / 100 + 4 * size)) height=$((lines * size * 3 / 2 + 4 * size))
ffmpeg -hide_banner -loglevel error -y -f lavfi -i "color=white:size=${width}x$height" -frames:v 1 -vf \
  "drawtext=fontfile=$font:textfile=$text:fontsize=$size:fontcolor=black:expansion=none:x=$((2 * size)):y=$((2 * size)):line_spacing=$((size / 8)),format=gray" \
  -pred mixed -compression_level 9 "$out"
