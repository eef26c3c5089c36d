#!/usr/bin/env bash
# The captioner as its users meet it: ids of raw frames are those of read_digits, a video comes
# through ffmpeg, and whatever breaks leaves whole files and a clear message.
#
#   caption_stream.sh FOLDER_OF_PROGRAMS
set -uo pipefail
bin=$(cd "$1" && pwd)
top=$(cd "$(dirname "$0")/../.." && pwd)
digits=$top/tests/golden/digits
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
bad=0
check() { if eval "$2"; then echo "ok: $1"; else echo "FAILED: $1"; bad=1; fi; }
ids() { sed -nE 's/.*"ids":\[([0-9,]*)\].*/\1/p' "$1"; }
read_frames() { "$bin/caption_stream" -q -t 1 -m "$digits/casa" --greedy --opening '>' --stop ';' --closing ';' "$@"; }

"$bin/digit_frames" --truth truth.txt --begins begins.txt > frames.raw
begins=$(cat begins.txt)
"$bin/read_digits" -m "$digits/casa" --streams "$digits/streams.safetensors" --json read.json \
  > /dev/null 2>&1
read_frames --raw 32x32x1 - --restart-at "$begins" --srt all.srt --jsonl all.jsonl \
  < frames.raw > all.txt 2> all.err
check "the ids of raw frames are those of read_digits" \
  'sed -E "s/.*\"captions\":\[//; s/\]\]\}\$/]/; s/\],/]\n/g; s/(^|\n)\[12,/\1/g; s/\]//g" read.json |
   sed "s/^\[12,//" | cmp -s - <(ids all.jsonl) && [ "$(ids all.jsonl | wc -l)" -eq 224 ]'
check "stdout is the text alone, quiet is silent" \
  '[ "$(wc -l < all.txt)" -eq 224 ] && [ ! -s all.err ] && ! grep -q "[^0-9/]" all.txt'
check "a cue a frame, times that rise" \
  '[ "$(grep -c -- "-->" all.srt)" -eq 224 ] && grep -- "-->" all.srt | sort -c'
check "the keys of the authors' captioner" \
  'for key in start_timestamp end_timestamp ttft num_tokens_generated memory_so_far subtitle ids lag; do
     [ "$(grep -c "\"$key\":" all.jsonl)" -eq 224 ] || exit 1; done; tail -n 1 all.jsonl | grep -q full_transcript' 

# A stream stopped after 100 frames and resumed from a file.
one="--text-window 40 --sinks 0 --horizon 70"
read_frames --raw 32x32x1 $one --jsonl whole.jsonl < frames.raw > /dev/null
head -c 102400 frames.raw | read_frames --raw 32x32x1 $one --session s --jsonl a.jsonl > /dev/null
tail -c +102401 frames.raw | read_frames --raw 32x32x1 $one --session s --jsonl b.jsonl > /dev/null
check "a session resumes where it stopped" \
  'cmp -s <(ids whole.jsonl) <(ids a.jsonl; ids b.jsonl) && [ "$(ids b.jsonl | wc -l)" -eq 124 ]'
head -c 1000 s > cut && mv cut s
head -c 1024 frames.raw | read_frames --raw 32x32x1 $one --session s > /dev/null 2> err; rc=$?
check "a cut session is refused by name" '[ $rc -eq 1 ] && grep -q "^caption_stream: s: " err'

# Frames that are skipped, and broken ones.
(head -c 1024 frames.raw; head -c 1024 frames.raw; head -c 2048 frames.raw | tail -c 1024) |
  read_frames --raw 32x32x1 --skip-similar 0.01 --jsonl skip.jsonl > skip.txt
check "a frame like the last one is skipped, and said so" \
  '[ "$(wc -l < skip.txt)" -eq 2 ] && [ "$(sed -n 2p skip.jsonl | grep -c "\"skipped\":true")" -eq 1 ]'
head -c 2500 frames.raw | read_frames --raw 32x32x1 --srt cut.srt --jsonl cut.jsonl > cut.txt 2> err
rc=$?
check "a pipe that ends inside a frame: an error, the captions so far whole" \
  '[ $rc -eq 1 ] && grep -q "frame 2: the stream ended after 452 of 1024 bytes" err &&
   [ "$(grep -c -- "-->" cut.srt)" -eq 2 ] && [ "$(ids cut.jsonl | wc -l)" -eq 2 ]'
(head -c 1024 frames.raw; sleep 3) | read_frames --raw 32x32x1 --timeout 300 > /dev/null 2> err
rc=${PIPESTATUS[1]}
check "frames that do not come are a timeout" '[ $rc -eq 1 ] && grep -q "frame 1: nothing came for 300 ms" err'
read_frames --raw 32x32 < frames.raw > /dev/null 2> err; rc=$?
check "a shape that is none is refused" '[ $rc -eq 1 ] && grep -q "WIDTHxHEIGHTxCHANNELS" err'
read_frames > /dev/null 2>&1; rc=$?
check "no frames: a wrong command line" '[ $rc -eq 2 ]'
"$bin/caption_stream" --help > /dev/null; rc=$?
check "help is no error" '[ $rc -eq 0 ]'

# Ctrl-C in the middle: 130, files whole.
mkfifo live
(cat frames.raw; sleep 20) > live & feeder=$!
"$bin/caption_stream" -q -t 1 -m "$digits/casa" --raw 32x32x1 --greedy --opening '>' --stop ';' --closing ';' \
  --srt live.srt --jsonl live.jsonl < live > /dev/null & pid=$!
for _ in $(seq 100); do [ "$(ids live.jsonl 2> /dev/null | wc -l)" -ge 3 ] && break; sleep 0.1; done
kill -INT $pid; wait $pid; rc=$?
kill $feeder 2> /dev/null; wait $feeder 2> /dev/null
check "Ctrl-C ends with 130 and whole files" \
  '[ $rc -eq 130 ] && [ "$(tail -c 1 live.jsonl | od -An -c | tr -d " ")" = "\n" ] && tail -n 1 live.jsonl | grep -q full_transcript'

# Decoders that misbehave.
fake() { printf '#!/bin/sh\n%s\n' "$1" > fake; chmod +x fake; read_frames --video v.mp4 --ffmpeg ./fake --timeout "${2:-5000}" > fake.txt 2> err; }
cat > noisy.sh <<'S'
head -c 1048576 /dev/zero | tr '\0' 'e' >&2
head -c 3072 /dev/zero
S
fake ". $work/noisy.sh"; rc=$?
check "a decoder that writes 1 MiB to stderr does not hang" '[ $rc -eq 0 ] && [ "$(wc -l < fake.txt)" -eq 1 ]'
fake 'head -c 3072 /dev/zero; echo "it broke" >&2; exit 3'; rc=$?
check "a decoder that fails is an error with its last words" '[ $rc -eq 1 ] && grep -q "ended with status 3: \"it broke\"" err && [ "$(wc -l < fake.txt)" -eq 1 ]'
fake 'sleep 60' 300; rc=$?
check "a decoder that never writes is stopped" '[ $rc -eq 1 ] && grep -q "nothing came for 300 ms" err'
printf '#!/bin/sh\nfor a; do printf "%%s\\n" "$a"; done > args; exit 0\n' > fake; chmod +x fake
read_frames --video '-i; touch owned $(touch owned)' --ffmpeg ./fake > /dev/null 2>&1
check "no shell, no protocol but file and pipe" \
  '[ ! -e owned ] && grep -qxF -- "file:-i; touch owned \$(touch owned)" args && grep -qx -- "-nostdin" args && grep -qx "file,pipe" args'
read_frames --video v.mp4 --ffmpeg ./none > /dev/null 2> err; rc=$?
check "a decoder that is not there is an error" '[ $rc -eq 1 ] && grep -q "cannot start" err'

if command -v ffmpeg > /dev/null; then
  head -c 20480 frames.raw | ffmpeg -nostdin -loglevel error -f rawvideo -pix_fmt gray -s 32x32 -r 2 -i pipe:0 \
    -vf scale=512:512:flags=neighbor -pix_fmt yuv420p digits.mp4
  read_frames --video digits.mp4 --restart-at "$begins" --jsonl video.jsonl --srt video.srt > /dev/null 2> err; rc=$?
  # A lossy codec may turn a near tie: one digit in 20 frames has been seen.
  check "a video of digits is read as its frames are, or nearly" \
    '[ $rc -eq 0 ] && [ "$(ids video.jsonl | wc -l)" -eq 20 ] &&
     [ "$(diff <(ids all.jsonl | head -n 20) <(ids video.jsonl) | grep -c "^<")" -le 2 ]'
  check "subtitles open in ffmpeg" '[ "$(ffmpeg -nostdin -loglevel error -i video.srt -f srt - 2> err | grep -c -- "-->")" -eq 20 ] && [ ! -s err ]'
  read_frames --video none.mp4 > /dev/null 2> err; rc=$?
  check "a video that is not there is an error" '[ $rc -eq 1 ] && grep -q "No such file" err'
else
  echo "left out: no ffmpeg"
fi
exit $bad
