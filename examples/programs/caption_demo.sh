#!/usr/bin/env bash
# One command: a video of real handwritten digits is made by ffmpeg, decoded through a pipe and read
# by the trained CASA model. The subtitles show what was read and the truth. The model was trained on
# streams of three or four images: bounded text whose positions restart, as the model's captioner.json
# asks for, is what lets it read on.
#
#   examples/programs/caption_demo.sh [BUILD_FOLDER [OUT_FOLDER]]
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
build=${1:-$top/build} out=${2:-$(mktemp -d)}
mkdir -p "$out"
"$build/examples/digit_frames" --scale 16 --truth "$out/truth.txt" |
  ffmpeg -nostdin -hide_banner -loglevel error -y -f rawvideo -pix_fmt gray -s 512x512 -r 2 -i pipe:0 \
    -pix_fmt yuv420p "$out/digits.mp4"
"$build/examples/caption_stream" -m "$top/tests/golden/digits/casa" --video "$out/digits.mp4" \
  --truth "$out/truth.txt" --overwrite --srt "$out/digits.srt" --jsonl "$out/digits.jsonl"
echo "$out/digits.mp4 $out/digits.srt $out/digits.jsonl"
