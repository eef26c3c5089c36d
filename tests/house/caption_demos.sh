#!/usr/bin/env bash
# The demos of live captions do what they say, with ffmpeg's videos and fonts of this machine. Nothing
# here judges a time: the text demo runs as fast as it can.
#
#   caption_demos.sh FOLDER_OF_PROGRAMS
set -uo pipefail
build=$(cd "$1/.." && pwd)
demos=$(cd "$(dirname "$0")/../../examples/programs" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
command -v ffmpeg > /dev/null || { echo "skipped: no ffmpeg"; exit 77; }
bad=0
check() { if eval "$2"; then echo "ok: $1"; else echo "FAILED: $1"; tail -n 20 log 2> /dev/null; bad=1; fi; }
cues() { grep -c -- '-->' "$1"; }

"$demos/caption_demo.sh" "$build" digits > log 2>&1; rc=$?
check "the video of digits is read, with the truth beside it" \
  '[ $rc -eq 0 ] && [ "$(cues digits/digits.srt)" -eq 224 ] && [ "$(grep -c "^truth " digits/digits.srt)" -eq 224 ]'
right=$(sed -nE 's/^([0-9]+) of 224 frames as the truth says$/\1/p' log)
check "half of the pictures without a mistake in up to twelve digits (bounded text is what does it)" '[ "${right:-0}" -ge 112 ]'

"$demos/live_text_demo.sh" --fast "$build" text > log 2>&1; rc=$?
if [ $rc -ne 0 ] && grep -qE "no font for|no drawtext" log; then cat log; echo "skipped: no font, or no drawtext"; [ $bad -eq 0 ] && exit 77; exit 1; fi
check "the video of text is made and read" '[ $rc -eq 0 ]'
# KIND FIELD: "slide  6 of  8 read exactly,  99.3 % of 304 characters right,  8 captions begin ..."
figure() { sed -nE "s/^$1 +([0-9]+) of +([0-9]+) read exactly, +([0-9.]+) % of ([0-9]+) characters right, +([0-9]+) captions.*/\\$2/p" text/report.txt; }
check "all of it is counted" '[ "$(figure slide 2)" = 8 ] && [ "$(figure clock 2)" = 6 ] && [ "$(figure ticker 2)" = 12 ]'
check "each slide is one caption, from its first frame to its last" '[ "$(figure slide 5)" = 8 ]'
check "and so is each second of the clock" '[ "$(figure clock 5)" = 6 ]'
frames_in() { sed -nE 's/.*"frames":([0-9]+),.*/\1/p' "$1" | awk '{ n += $1 } END { print n }'; }
# Which fonts there are is the machine's matter; the reader has read all of its own tests' at 99 %.
check "slides are read" '[ "$(figure slide 1)" -ge 4 ] && awk "BEGIN { exit !($(figure slide 3) >= 90) }"'
check "the clock is read" 'awk "BEGIN { exit !($(figure clock 3) >= 90) }"'
check "a cue a caption, a record a caption, and the frames of the records are all frames" \
  '[ "$(cues text/talk.srt)" -eq "$(grep -c "\"start_timestamp\"" text/talk.jsonl)" ] &&
   [ "$(frames_in text/talk.jsonl)" -eq 72 ]'
check "the video with its subtitles is as long as the talk" \
  '[ "$(ffmpeg -nostdin -hide_banner -i text/talk_read.mp4 2>&1 | grep -c "Duration: 00:00:36.*")" -eq 1 ]'
# Below the picture: black but for what is written there.
white() { ffmpeg -nostdin -loglevel error -ss "$1" -i text/talk_read.mp4 -frames:v 1 -vf crop=512:192:0:512 -f rawvideo -pix_fmt gray - | LC_ALL=C tr -d '\000-\177' | wc -c; }
check "and shows them" '[ "$(white 1.2)" -gt 200 ] && [ "$(white 30.2)" -gt 100 ]'
exit $bad
