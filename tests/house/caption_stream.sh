#!/usr/bin/env bash
# The captioner as its users meet it: ids of raw frames are those of read_digits, a video comes
# through ffmpeg, whatever breaks leaves whole files and a clear message, and no mistake on the
# command line costs a file what it holds. Nothing here waits for a time: what must be waited for is
# a line in a FIFO, and a frame that must not come has no writer.
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
check() { if eval "$2"; then echo "ok: $1"; else echo "FAILED: $1"; head -c 600 err 2> /dev/null; bad=1; fi; }
ids() { sed -nE 's/.*"ids":\[([0-9,]*)\].*/\1/p' "$1"; }
cues() { grep -c -- '-->' "$1"; }
frames() { head -c $((($1 + $2) * 1024)) frames.raw | tail -c $(($2 * 1024)); }  # frames FIRST COUNT
# The timeout is a guard against hanging, except where a test sets `limit`.
captioner=("$bin/caption_stream" -q -t 1 -m "$digits/casa" --greedy --opening '>' --stop ';' --closing ';')
read_frames() { "${captioner[@]}" --timeout "${limit:-600000}" "$@"; }
one="--text-window 40 --sinks 0 --horizon 70"  # one stream without end

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
  '[ "$(cues all.srt)" -eq 224 ] && grep -- "-->" all.srt | sort -c'
check "the keys of the authors' captioner" \
  'for key in start_timestamp end_timestamp ttft num_tokens_generated memory_so_far subtitle ids lag; do
     [ "$(grep -c "\"$key\":" all.jsonl)" -eq 224 ] || exit 1; done; tail -n 1 all.jsonl | grep -q full_transcript'

# A stream stopped after 100 frames and resumed: into new files, and into the same.
read_frames --raw 32x32x1 $one --srt whole.srt --jsonl whole.jsonl < frames.raw > /dev/null
frames 0 100 | read_frames --raw 32x32x1 $one --session s --srt go.srt --jsonl a.jsonl > /dev/null
cp a.jsonl go.jsonl; cp s s100; cp go.srt go100.srt; cp go.jsonl go100.jsonl
frames 100 124 | read_frames --raw 32x32x1 $one --session s --jsonl b.jsonl > /dev/null
check "a session resumes where it stopped" \
  'cmp -s <(ids whole.jsonl) <(ids a.jsonl; ids b.jsonl) && [ "$(ids b.jsonl | wc -l)" -eq 124 ]'
cp s100 s
frames 100 124 | read_frames --raw 32x32x1 $one --session s --srt go.srt --jsonl go.jsonl > /dev/null 2> err; rc=$?
check "a resumed stream goes on with its subtitles: as if never stopped" '[ $rc -eq 0 ] && cmp -s whole.srt go.srt'
check "and with its records: one transcript, of all of them, at the end" \
  'cmp -s <(ids whole.jsonl) <(ids go.jsonl) && [ "$(grep -c full_transcript go.jsonl)" -eq 1 ] &&
   cmp -s <(tail -n 1 whole.jsonl) <(tail -n 1 go.jsonl) &&
   cmp -s <(grep -o "\"frame\":[0-9]*" whole.jsonl) <(grep -o "\"frame\":[0-9]*" go.jsonl)'
for n in 0 0 1 1 2 2; do frames $n 1; done > pairs.raw
read_frames --raw 32x32x1 $one --same-frame 0.01 --srt pairs.srt < pairs.raw > /dev/null
head -c 3072 pairs.raw | read_frames --raw 32x32x1 $one --same-frame 0.01 --session p --srt pair.srt > /dev/null
tail -c +3073 pairs.raw | read_frames --raw 32x32x1 $one --same-frame 0.01 --session p --srt pair.srt > /dev/null 2> err
check "skipped frames count in a resumed stream's times, and its first may be one" \
  '[ "$(cues pairs.srt)" -eq 3 ] && cmp -s pairs.srt pair.srt'

# refuse NAME PATTERN COMMAND...: status 1 or 2, PATTERN on stderr, and the files old.* as they were.
refuse() {
  local name=$1 pattern=$2 rc; shift 2
  "$@" > /dev/null 2> err; rc=$?
  check "$name" '{ [ $rc -eq 1 ] || [ $rc -eq 2 ]; } && grep -qE -- "$pattern" err && sha256sum --quiet -c sums > /dev/null 2>&1 && [ -z "$(ls -A | grep -E "^new|tmp-")" ]'
}
cp go100.srt old.srt; cp go100.jsonl old.jsonl; cp s100 old.session; cp truth.txt old.truth
head -c 1000 s100 > old.cut; cp "$digits/sheet_streams_00_07.png" old.png; echo "notes of mine" > old.txt
(cat go100.srt; printf '101\n00:00:50,000 --> 00:00:50,500\n12') > old.cut.srt
head -c -1 go100.jsonl | head -n 100 > old.more.jsonl; printf '{"start_timestamp":50.0,"end' >> old.more.jsonl
mkdir old.model; cp "$digits/casa/"* old.model; ln old.png old.hard; ln -s old.png old.link; ln -s new.target old.dangling
sha256sum $(find old.* -type f) > sums
files="--srt old.srt --jsonl old.jsonl"
for also in "" --overwrite; do
  note="nothing is lost${also:+ with }$also:" or=
  [ -n "$also" ] || or="|old.srt: is there already"
  refuse "$note a typo in --raw" WIDTHxHEIGHTxCHANNELS read_frames --raw 32x32 $files $also < frames.raw
  refuse "$note a truth that is not there" "none: cannot open: No such file$or" read_frames --raw 32x32x1 --truth none $files $also < frames.raw
  refuse "$note a truth that is a folder" "cannot read$or" read_frames --raw 32x32x1 --truth old.model $files $also < frames.raw
  refuse "$note a picture that is not there" "none.png: cannot open: No such file" read_frames --images old.png none.png $files $also
  refuse "$note no such model" "none$or" "$bin/caption_stream" -q -m none --raw 32x32x1 $files $also
  refuse "$note a rate that is none" "frame rate$or" read_frames --raw 32x32x1 --fps 2/0 $files $also < frames.raw
  refuse "$note a word the model has not" "no token$or" read_frames --raw 32x32x1 -p Hello $files $also < frames.raw
  refuse "$note an unknown option" "no-such" read_frames --raw 32x32x1 --no-such $files $also < frames.raw
  refuse "$note a cut session" "^caption_stream: old.cut: " read_frames --raw 32x32x1 $one --session old.cut $files $also < frames.raw
  refuse "$note a session of other options" "saved under other state options" read_frames --raw 32x32x1 --text-window 41 --session old.session $files $also < frames.raw
  refuse "$note a session at another rate" "give that, or another --session" read_frames --raw 32x32x1 $one --fps 4 --session old.session $files $also < frames.raw
  refuse "$note a session in no folder" "No such file" read_frames --raw 32x32x1 --session none/s $files $also < frames.raw
  refuse "$note a decoder that is not there" "cannot start$or" read_frames --video none.mp4 --ffmpeg ./none $files $also
  refuse "$note a decoder that fails at once" "ended with status 1$or" read_frames --video none.mp4 --ffmpeg false $files $also
  refuse "$note a first frame that is cut" "frame 0: the stream ended after 9 of 1024$or" read_frames --raw 32x32x1 $files $also < <(head -c 9 frames.raw)
  refuse "$note the second output cannot be" "cannot create: No such file" read_frames --raw 32x32x1 --srt new.srt --jsonl none/new $also < frames.raw
  for share in -0.1 1.5 nan half; do
    refuse "$note --same-frame $share" "same-frame" read_frames --raw 32x32x1 --same-frame=$share $files $also < frames.raw
  done
  for reuse in exact approximate; do
    refuse "$note --reuse-patches $reuse without a tower" "the model has none$or" read_frames --raw 32x32x1 --reuse-patches $reuse $files $also < frames.raw
  done
  refuse "$note --refresh-every without approximate reuse" "go with --reuse-patches approximate, got --reuse-patches exact" read_frames --raw 32x32x1 --reuse-patches exact --refresh-every 3 $files $also < frames.raw
  refuse "$note --precision int8 on other weights" "give --dtype int8, too$or" read_frames --raw 32x32x1 --precision int8 $files $also < frames.raw
  for same in old.png ./old.png "$work/old.png" old.hard old.link; do
    refuse "$note a picture as output: $same" "same file as --images" read_frames --images old.png --srt $same $also
    refuse "$note a picture as session: $same" "same file as --images" read_frames --images old.png --session $same $also
  done
  refuse "$note the truth as output" "same file as --truth" read_frames --raw 32x32x1 --truth old.truth --jsonl old.truth $also < frames.raw
  refuse "$note the video as output" "same file as --video" read_frames --video old.png --jsonl old.png $also
  refuse "$note stdin as output" "same file as stdin" read_frames --raw 32x32x1 --srt old.txt $also < old.txt
  refuse "$note a model's file as output" "same file as -m" "$bin/caption_stream" -q -m old.model --raw 32x32x1 --jsonl old.model/config.json $also < frames.raw
  refuse "$note a session among the weights" "safetensors" "$bin/caption_stream" -q -m old.model --raw 32x32x1 --session old.model/new.safetensors $also < frames.raw
  refuse "$note the session as output" "same file as --session" read_frames --raw 32x32x1 $one --session old.session --srt old.session $also < frames.raw
  refuse "$note one name twice" "written as well" read_frames --raw 32x32x1 --srt new --jsonl ./new $also < frames.raw
  refuse "$note one name twice, by a link to nothing yet" "written as well" read_frames --raw 32x32x1 --srt new.target --jsonl old.dangling $also < frames.raw
  refuse "$note one name twice, the session" "written as well" read_frames --raw 32x32x1 --session new --jsonl new $also < frames.raw
done
refuse "stdout as output" "stdout is the same file as --jsonl" eval 'read_frames --raw 32x32x1 --jsonl out.txt < frames.raw > out.txt'
refuse "a new stream and old subtitles" "old.srt: is there already.*--overwrite" read_frames --raw 32x32x1 --srt old.srt < frames.raw
refuse "a new stream and old records" "old.jsonl: is there already.*--overwrite" read_frames --raw 32x32x1 --session new --jsonl old.jsonl < frames.raw
resumed() { read_frames --raw 32x32x1 $one --session old.session "$@" < frames.raw; }
refuse "cues that are none" "old.txt: line 1: expected the number of a SubRip cue, got \"notes of mine\".*left as it is" resumed --srt old.txt
refuse "a cue that is cut" "old.cut.srt: cue 101 is not ended by an empty line.*--overwrite" resumed --srt old.cut.srt
refuse "records that are none" "old.txt: line 1" resumed --jsonl old.txt
refuse "a record that is cut" "old.more.jsonl: line 101" resumed --jsonl old.more.jsonl
refuse "cues behind the session's time" "all.srt: its cues end at 00:01:52,000, but the session goes on at 00:00:50,000" resumed --srt all.srt
refuse "records behind the session's time" "all.jsonl: its records end at 00:01:52,000" resumed --jsonl all.jsonl
refuse "subtitles are looked at before records are changed" "old.txt" resumed --srt old.srt --jsonl old.txt
cp old.txt over.srt; frames 0 2 | read_frames --raw 32x32x1 --overwrite --srt over.srt > /dev/null 2> err; rc=$?
check "--overwrite overwrites" '[ $rc -eq 0 ] && [ "$(cues over.srt)" -eq 2 ] && ! grep -q notes over.srt'
cp old.txt none.srt; read_frames --raw 32x32x1 --overwrite --srt none.srt < /dev/null > /dev/null 2> err
check "a stream without a frame overwrites nothing" 'cmp -s old.txt none.srt'
: > empty.srt; frames 0 2 | read_frames --raw 32x32x1 --srt empty.srt > /dev/null 2> err; rc=$?
check "an empty file is no loss" '[ $rc -eq 0 ] && [ "$(cues empty.srt)" -eq 2 ]'
tr -d '\r' < go100.srt | sed 's/$/\r/' > crlf.srt; cp s100 s
frames 100 2 | read_frames --raw 32x32x1 $one --session s --srt crlf.srt > /dev/null 2> err; rc=$?
check "cues that an editor saved are gone on with" '[ $rc -eq 0 ] && cmp -s <(tr -d "\r" < crlf.srt) <(cat go100.srt; head -n 408 whole.srt | tail -n 8)'

# Frames that show the same picture, and broken ones. 0 0 0 1 1 2, at two a second.
held='0:00:00:00,000 --> 00:00:01,500 1:00:00:01,500 --> 00:00:02,500 2:00:00:02,500 --> 00:00:03,000'
for n in 0 0 0 1 1 2; do frames $n 1; done > held.raw
times() { n=0; grep -- '-->' "$1" | while read -r line; do printf '%s:%s ' $n "$line"; n=$((n + 1)); done | sed 's/ $//'; }
spans() { sed -nE 's/.*start_timestamp":([0-9.]+),"end_timestamp":([0-9.]+),.*"frame":([0-9]+),"frames":([0-9]+),.*/\1-\2:\3+\4/p' "$1" | tr '\n' ' '; }
read_frames --raw 32x32x1 $one --srt held.srt --jsonl held.jsonl --truth <(sed -n '1p;1p;1p;2p;2p;3p' truth.txt) < held.raw > held.txt 2> err
check "a picture that stays is read once, and its subtitle lasts until it changes" \
  '[ "$(wc -l < held.txt)" -eq 3 ] && [ "$(times held.srt)" = "$held" ] && cmp -s held.txt <(head -n 3 all.txt)'
check "so does its record, which counts its frames" \
  '[ "$(spans held.jsonl)" = "0.0-1.5:0+3 1.5-2.5:3+2 2.5-3.0:5+1 " ] && [ "$(wc -l < held.jsonl)" -eq 4 ]'
read_frames --raw 32x32x1 $one --srt >(cat > piped.srt) --jsonl >(cat > piped.jsonl) < held.raw > /dev/null 2> err; rc=$?
wait
check "into a pipe goes what is known to be whole" \
  '[ $rc -eq 0 ] && [ "$(times piped.srt)" = "$held" ] && [ "$(spans piped.jsonl)" = "$(spans held.jsonl)" ]'
for cut in 1 2 3 4 5; do
  rm -f part.*
  head -c $((cut * 1024)) held.raw | read_frames --raw 32x32x1 $one --session part.s --srt part.srt --jsonl part.jsonl > /dev/null 2> err
  tail -c +$((cut * 1024 + 1)) held.raw | read_frames --raw 32x32x1 $one --session part.s --srt part.srt --jsonl part.jsonl > /dev/null 2> err
  check "a picture that stays over a resumed session is one caption: after $cut frames" \
    '[ "$(grep -v "^read\|^truth\|^[0-9/]*$" held.srt)" = "$(grep -v "^[0-9/]*$" part.srt)" ] && [ "$(spans part.jsonl)" = "$(spans held.jsonl)" ] && cmp -s <(tail -n 1 held.jsonl) <(tail -n 1 part.jsonl)'
done
(cat held.raw; head -c 99 frames.raw) | read_frames --raw 32x32x1 $one --srt broken.srt > /dev/null 2> err; rc=$?
check "a stream that breaks ends the caption at its last whole frame" '[ $rc -eq 1 ] && [ "$(times broken.srt)" = "$held" ]'
# The first 16 values one larger: 1 / 255 of the patches that they belong to, at most.
(frames 0 1; frames 0 1 | tail -c +17 | cat <(frames 0 1 | head -c 16 | LC_ALL=C tr '\000-\376' '\001-\377') -) > near.raw
read_frames --raw 32x32x1 < near.raw > near.txt 2> err
check "a difference like a codec's is none" '[ "$(wc -l < near.txt)" -eq 1 ] && ! cmp -s <(head -c 1024 near.raw) <(tail -c 1024 near.raw)'
read_frames --raw 32x32x1 --same-frame 0 < near.raw > near.txt 2> err
check "with --same-frame 0 only equal frames are the same" '[ "$(wc -l < near.txt)" -eq 2 ]'
read_frames --raw 32x32x1 --same-frame off --srt off.srt < held.raw > off.txt 2> err
check "with --same-frame off all are read" '[ "$(wc -l < off.txt)" -eq 6 ] && [ "$(cues off.srt)" -eq 6 ]'
"$bin/caption_stream" -t 1 -m "$digits/casa" --raw 32x32x1 --truth <(sed -n '1p;1p;1p;2p;2p;3p' truth.txt) < held.raw > /dev/null 2> said.err
check "the figures count them, and the truth holds for them" \
  'grep -q "^6 frames, " said.err && grep -q "^3 of them showed the picture before them" said.err && grep -q "^4 of 6 frames as the truth says" said.err'
(frames 0 1; frames 0 1; frames 1 1) | read_frames --raw 32x32x1 --restart-at 0,1 > skip.txt
check "a frame that begins a stream is read" '[ "$(wc -l < skip.txt)" -eq 3 ]'
for n in 0 1 0 1 2 0; do frames $n 1; done > back.raw
"$bin/caption_stream" -t 1 -m "$digits/casa" --raw 32x32x1 < back.raw > back.txt 2> said.err
"$bin/caption_stream" -t 1 -m "$digits/casa" --raw 32x32x1 --keep-pictures 0 < back.raw > none.txt 2> none.err
check "a picture that comes back keeps its embedding, and its captions are the same" \
  'cmp -s back.txt none.txt && [ "$(wc -l < back.txt)" -eq 6 ] && grep -q "^3 pictures came back and were not encoded again (3 held" said.err && ! grep -q "came back" none.err'
check "the figures say where the time of a frame went" \
  '[ "$(grep -cE "^  (waiting for a frame and decoding it|scaling, comparing with the last|preprocessing|patch encoder|waiting for the side of images|image and opening to logits|text, token by token|files, output and the rest) +[0-9.]+ ms +[0-9.]+ %$" said.err)" -eq 8 ]'

# captioner.json: the folder says how, and options go before it.
plain() { "$bin/caption_stream" -q -t 1 -m "$@" --raw 32x32x1; }
plain "$digits/casa" < frames.raw > plain.txt 2> err
check "a folder says how it wants to be asked" 'cmp -s plain.txt <(sed -nE "s/.*\"subtitle\":\"([^\"]*)\".*/\1/p" whole.jsonl)'
cp -r "$digits/casa" asked; sed -i 's/"max_new_tokens": 20/"max_new_tokens": 3/' asked/captioner.json
plain asked --jsonl asked.jsonl < frames.raw > /dev/null 2> err
check "and is heard" '[ "$(grep -c "\"num_tokens_generated\":4,.*\"cut\":true" asked.jsonl)" -gt 200 ]'
plain asked -n 20 < frames.raw > asked.txt 2> err
check "an option goes before it" 'cmp -s asked.txt plain.txt'
sed -i 's/"sinks": 0/"restart_every": 3, "sinks": 0/' asked/captioner.json
plain asked -n 20 --restart-at "$begins" < frames.raw > asked.txt 2> err
check "another rule of restarts replaces the folder's" 'cmp -s asked.txt all.txt'
plain asked -n 20 --restart-every 3 --jsonl every.jsonl < frames.raw > /dev/null 2> err
read_frames --raw 32x32x1 --restart-at "$(seq -s, 0 3 223)" --jsonl at.jsonl < frames.raw > /dev/null 2> err
check "a stream may begin again every so many frames" 'cmp -s <(ids every.jsonl) <(ids at.jsonl)'
while IFS='|' read -r text message; do
  printf '%s' "$text" > asked/captioner.json
  plain asked --srt new.srt < frames.raw > /dev/null 2> err; rc=$?
  check "refused: $text" '[ $rc -eq 1 ] && grep -qF "asked/captioner.json: $message" err && [ ! -e new.srt ]'
done <<'X'
{"openning": ">"}|openning: not a key of captioner.json, got ">"
{"opening": "Hello"}|opening: the model has no token for "Hello"
{"max_new_tokens": "20"}|max_new_tokens: expected an integer in [1,
X
rm asked/captioner.json
plain asked --greedy --opening '>' --stop ';' --closing ';' $one < frames.raw > asked.txt 2> err
check "a folder without the file is asked by options" 'cmp -s asked.txt plain.txt'

head -c 2500 frames.raw | read_frames --raw 32x32x1 $one --session broken --srt cut.srt --jsonl cut.jsonl > cut.txt 2> err
rc=$?
check "a pipe that ends inside a frame: an error, the captions so far whole" \
  '[ $rc -eq 1 ] && grep -q "frame 2: the stream ended after 452 of 1024 bytes" err &&
   [ "$(cues cut.srt)" -eq 2 ] && [ "$(ids cut.jsonl | wc -l)" -eq 2 ] && tail -n 1 cut.jsonl | grep -q full_transcript'
frames 2 10 | read_frames --raw 32x32x1 $one --session broken --srt cut.srt --jsonl cut.jsonl > cut.txt 2> err; rc=$?
check "and the session goes on behind them" '[ $rc -eq 0 ] && cmp -s <(head -n 48 whole.srt) cut.srt && cmp -s <(ids whole.jsonl | head -n 12) <(ids cut.jsonl)'
mkfifo live still said none
exec 5<> live
frames 0 1 >&5
limit=300 read_frames --raw 32x32x1 < live > /dev/null 2> err; rc=$?
check "frames that do not come are a timeout" '[ $rc -eq 1 ] && grep -q "frame 1: nothing came for 300 ms" err'
read_frames --raw 32x32 < frames.raw > /dev/null 2> err; rc=$?
check "a shape that is none is refused" '[ $rc -eq 1 ] && grep -q "WIDTHxHEIGHTxCHANNELS" err'
read_frames --raw 32x32x1 < . > /dev/null 2> err; rc=$?
check "stdin that is a folder: the reason" '[ $rc -eq 1 ] && grep -q "cannot read frames: Is a directory" err'
read_frames --raw 32x32x1 <&- > /dev/null 2> err; rc=$?
check "stdin that is closed: the reason" '[ $rc -eq 1 ] && grep -q "cannot read frames: Bad file descriptor" err'
read_frames > /dev/null 2>&1; rc=$?
check "no frames: a wrong command line" '[ $rc -eq 2 ]'
"$bin/caption_stream" --help > /dev/null; rc=$?
check "help is no error" '[ $rc -eq 0 ]'

# Outputs that fail.
frames 0 8 | read_frames --raw 32x32x1 --srt /dev/full > /dev/null 2> err; rc=$?
check "subtitles on a full disk: the reason" '[ $rc -eq 1 ] && grep -qx "caption_stream: /dev/full: cannot write: No space left on device" err'
frames 0 8 | read_frames --raw 32x32x1 --jsonl /dev/full --srt full.srt > /dev/null 2> err; rc=$?
check "records on a full disk: the reason, and the frame's cue is whole" '[ $rc -eq 1 ] && grep -q "/dev/full: cannot write: No space left on device" err && cmp -s full.srt <(head -n 4 whole.srt)'
(ulimit -f 1; frames 0 100 | read_frames --raw 32x32x1 $one --srt limit.srt > /dev/null 2> err); rc=$?
check "a file that may not grow: the reason, and no half cue" \
  '[ $rc -eq 1 ] && grep -q "limit.srt: cannot write: File too large" err && n=$(cues limit.srt) && [ $n -gt 10 ] && cmp -s limit.srt <(head -n $((4 * n)) whole.srt)'
frames 0 8 | read_frames --raw 32x32x1 $one --srt full.srt --overwrite --session full.s > /dev/full 2> err; rc=$?
check "stdout on a full disk: the reason, the frame so far whole, the session saved" \
  '[ $rc -eq 1 ] && grep -qx "caption_stream: stdout: cannot write: No space left on device" err && [ "$(cues full.srt)" -le 1 ] && [ -s full.s ]'
frames 0 8 | read_frames --raw 32x32x1 --srt closed.srt >&- 2> err; rc=$?
check "a closed stdout: the reason, and no text among the cues" \
  '[ $rc -eq 1 ] && grep -q "stdout: cannot write: Bad file descriptor" err && [ "$(cues closed.srt)" -le 1 ] && ! sed -n 1p closed.srt | grep -qv "^1$"'
exec 6<> said 7> said 6<&-  # a pipe whose reader has gone
read_frames --raw 32x32x1 --srt gone.srt < frames.raw >&7 2> err; rc=$?
exec 7>&-
check "stdout whose reader has gone: 141, quiet, at once" '[ $rc -eq 141 ] && [ ! -s err ] && [ "$(cues gone.srt)" -le 1 ]'
# The reader goes while the captioner waits for frames that never come: live stays open, empty.
frames 0 40 >&5
read_frames --raw 32x32x1 < live 2> err > said & pid=$!
head -n 1 < said > first
wait $pid; rc=$?
check "stdout whose reader goes later: the same" '[ $rc -eq 141 ] && [ ! -s err ] && [ "$(wc -l < first)" -eq 1 ]'

# Signals in the middle: files whole, the session saved. Three lines are waited for, then no frame
# would come any more.
exec 5<> still 7<> said
for signal in INT:130 TERM:143 HUP:129; do
  rm -f sig.*
  frames 0 3 >&5
  "${captioner[@]}" --timeout 600000 --raw 32x32x1 $one --session sig.s --srt sig.srt --jsonl sig.jsonl < still 2> err >&7 & pid=$!
  head -n 3 <&7 > first
  kill -"${signal%:*}" $pid; wait $pid; rc=$?
  check "SIG${signal%:*} ends with ${signal#*:} and whole files" \
    '[ $rc -eq ${signal#*:} ] && [ ! -s err ] && [ -s sig.s ] && cmp -s sig.srt <(head -n 12 whole.srt) && tail -n 1 sig.jsonl | grep -q "^{\"full_transcript\":.*}$"'
done
exec 7>&-
exec 5>&-

# Decoders that misbehave.
fake() { printf '#!/bin/sh\n%s\n' "$1" > fake; chmod +x fake; read_frames --video v.mp4 --ffmpeg ./fake > fake.txt 2> err; }
cat > noisy.sh <<'S'
head -c 1048576 /dev/zero | tr '\0' 'e' >&2
head -c 3072 /dev/zero
S
fake ". $work/noisy.sh"; rc=$?
check "a decoder that writes 1 MiB to stderr does not hang" '[ $rc -eq 0 ] && [ "$(wc -l < fake.txt)" -eq 1 ]'
fake 'head -c 3072 /dev/zero; echo "it broke" >&2; exit 3'; rc=$?
check "a decoder that fails is an error with its last words" '[ $rc -eq 1 ] && grep -q "ended with status 3: \"it broke\"" err && [ "$(wc -l < fake.txt)" -eq 1 ]'
limit=300 fake "read never < $work/none"; rc=$?
check "a decoder that never writes is stopped" '[ $rc -eq 1 ] && grep -q "nothing came for 300 ms" err'
limit=300 fake "exec >&-; read never < $work/none"; rc=$?
check "a decoder that never ends is stopped" '[ $rc -eq 1 ] && grep -Eq "closed its output but did not end|nothing came for 300 ms" err'
fake 'kill -PIPE $$; head -c 3072 /dev/zero'; rc=$?
check "a decoder sees closed pipes as it does elsewhere" '[ $rc -eq 1 ] && grep -q "was killed by signal 13" err'
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
check "no temporary file is left" '[ -z "$(ls -A | grep tmp-)" ]'
exit $bad
