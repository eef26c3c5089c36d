#!/usr/bin/env bash
# One command: ffmpeg makes a video of text (slides, a running clock, a scrolling ticker) in a font of
# this machine, plays it at its own speed into a pipe, and the small CASA reader says what it reads, as
# it comes. Then: how much was read right, how far behind, and the video with its subtitles burnt in.
#
#   examples/programs/live_text_demo.sh [--fast] [BUILD_FOLDER [OUT_FOLDER]]
#
# Takes three quarters of a minute; --fast decodes as quickly as the model reads, and then there is no
# lag to tell. Needs: apt-get install -y --no-install-recommends ffmpeg fonts-dejavu-core
set -euo pipefail
needs="apt-get install -y --no-install-recommends ffmpeg fonts-dejavu-core"
realtime=(--realtime)
if [ "${1:-}" = --fast ]; then realtime=(); shift; fi
top=$(cd "$(dirname "$0")/../.." && pwd)
build=$(cd "${1:-$top/build}" && pwd) out=${2:-$(mktemp -d)}
mkdir -p "$out"
cd "$out"  # names in filters are relative: no path needs their escapes
stop() { echo "live_text_demo: $*" >&2; exit 1; }
command -v ffmpeg > /dev/null || stop "no ffmpeg: $needs"
filters=$(ffmpeg -hide_banner -filters 2> /dev/null)
grep -q ' drawtext ' <<< "$filters" || stop "this ffmpeg has no drawtext filter (Debian's has): $needs"

# font FAMILY NAME: links the font file that this machine has for a family to NAME.
font() {
  local file=
  if command -v fc-match > /dev/null; then file=$(fc-match -f '%{file}' "$1"); fi
  [ -f "$file" ] || file=$(find /usr/share/fonts /usr/local/share/fonts -name "$3" 2> /dev/null | sort | head -n 1)
  [ -f "$file" ] || stop "no font for $1: $needs"
  ln -sf "$file" "$2"
  echo "$1: $file"
}
font sans-serif sans.font 'DejaVuSans.ttf'
font serif serif.font 'DejaVuSerif.ttf'
font monospace mono.font 'DejaVuSansMono.ttf'

# The video, 512 x 512 as the model's 128 x 128 are square: one chain of filters, and beside it what
# can be read when: kind, begin, end (seconds), text with its line ends as \n.
seconds=0
: > truth.tsv
: > talk.filter
text() { printf ',drawtext=fontfile=%s:textfile=%s:fontsize=%s:fontcolor=%s:x=%s:y=(h-text_h)/2:line_spacing=10:%s:enable=gte(t\\,%s)*lt(t\\,%s)' "$@" >> talk.filter; }
ground() { printf ',drawbox=color=%s:t=fill:enable=gte(t\\,%s)*lt(t\\,%s)' "$@" >> talk.filter; }
slides=0
slide() {  # FONT INK GROUND TEXT
  local end=$((seconds + 3)) longest
  slides=$((slides + 1))
  printf '%b' "$4" > "slide_$slides.txt"
  # As large as the sheets that the model learnt from: 460 of 512 pixels wide, 60 high at most.
  longest=$(printf '%b\n' "$4" | awk '{ if (length > n) n = length } END { print n }')
  ground "$3" "$seconds" "$end"
  text "$1.font" "slide_$slides.txt" "$(awk -v n="$longest" 'BEGIN { s = int(460 / (0.6 * n)); print s < 60 ? s : 60 }')" \
    "$2" '(w-text_w)/2' expansion=none "$seconds" "$end"
  printf 'slide\t%s\t%s\t%s\n' "$seconds" "$end" "$4" >> truth.tsv
  seconds=$end
}
slide sans black white 'A stream of\nimages and text\nis cut into\nwindows'
slide serif white 0x203040 'Each window\nholds one image\nand the words\nup to the next'
slide sans 0x202020 0xD0D0D0 'Images never\npile up in\nthe cache'
slide mono 0xF0F0F0 0x303030 'Frame 1000\ncosts what\nframe 1 did'
slide serif 0x101010 0xE8E0C8 'Coffee ... $3.20\nTea ... $2.75\nCake ... $4.10'
slide sans 0xFFE080 0x102010 'Train 512\nto Harbour\nPlatform 7\n18:45'
slide mono 0x303030 0xF8F8F8 '(6 + 9) * 5 = 75\nx^2 - 4 = 0'
slide sans white 0x601020 'Thank you!\nAny questions?'

begin=$seconds end=$((seconds + 6))
printf 'Doors close at\n%%{pts:gmtime:%s:%%H\\:%%M\\:%%S}' $((67500 - begin)) > clock.txt
ground 0xE0E8F0 $begin $end
text sans.font clock.txt 56 black '(w-text_w)/2' expansion=normal $begin $end
for s in 0 1 2 3 4 5; do
  printf 'clock\t%s\t%s\tDoors close at\\n18:45:%02d\n' $((begin + s)) $((begin + s + 1)) $s >> truth.tsv
done

# 16 letters of 32 pixels; two letters a second. ffmpeg's fps filter takes the picture of 0.2 s behind
# each half second, where the letters stand whole.
begin=$end end=$((end + 6))
ticker='Last call for train 512 to Harbour: run'
printf '%s' "$ticker" > ticker.txt
ground 0x101828 $begin $end
text mono.font ticker.txt 53 0xF0F0F0 "-64*(t-$begin-0.2)" expansion=none $begin $end
for n in 0 1 2 3 4 5 6 7 8 9 10 11; do
  printf 'ticker\t%s\t%s\t%s\n' "$(awk -v b=$begin -v n=$n 'BEGIN { print b + n / 2 }')" \
    "$(awk -v b=$begin -v n=$n 'BEGIN { print b + (n + 1) / 2 }')" "${ticker:n:16}" >> truth.tsv
done
ffmpeg -nostdin -hide_banner -loglevel error -y -f lavfi -i "color=c=black:s=512x512:r=20:d=$end" \
  -filter_script:v <(printf 'null'; cat talk.filter) -pix_fmt yuv420p talk.mp4

model=$top/tests/golden/reader/casa
"$build/examples/caption_stream" -t 1 -m "$model" --video talk.mp4 --fps 2 "${realtime[@]}" \
  --overwrite --srt talk.srt --jsonl talk.jsonl

# What was read against what was there. A picture's caption is the one shown in the middle of its time.
LC_ALL=C awk -F '\t' '
  function distance(a, b,   i, j, n, m, p, c, d) {  # edits, letter by letter
    n = length(a); m = length(b)
    for (j = 0; j <= m; ++j) p[j] = j
    for (i = 1; i <= n; ++i) {
      c[0] = i
      for (j = 1; j <= m; ++j) {
        d = p[j - 1] + (substr(a, i, 1) != substr(b, j, 1))
        if (p[j] + 1 < d) d = p[j] + 1
        if (c[j - 1] + 1 < d) d = c[j - 1] + 1
        c[j] = d
      }
      for (j = 0; j <= m; ++j) p[j] = c[j]
    }
    return p[m]
  }
  function sort(v, n,   i, j, t) { for (i = 2; i <= n; ++i) for (j = i; j > 1 && v[j] < v[j - 1]; --j) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t } }
  function number(line, key) {
    return match(line, "\"" key "\":[-0-9.e]+") ? substr(line, RSTART + length(key) + 3, RLENGTH - length(key) - 3) + 0 : 0
  }
  function plain(s) { gsub(/\\n/, "\n", s); gsub(/\\"/, "\"", s); gsub(/\\\\/, "\\", s); gsub(/^ +| +$/, "", s); return s }
  function shown(s) { gsub(/\n/, " / ", s); return s }
  FNR == NR {
    if (!match($0, /"subtitle":".*","ids":\[/)) next
    said[++count] = plain(substr($0, RSTART + 12, RLENGTH - 21))
    from[count] = number($0, "start_timestamp"); to[count] = number($0, "end_timestamp")
    lag[count] = number($0, "lag"); first[count] = number($0, "ttft")
    next
  }
  {
    middle = ($2 + $3) / 2; read = ""; found = 0
    for (i = 1; i <= count; ++i) if (from[i] <= middle && middle < to[i]) { read = said[i]; found = i }
    truth = plain($4)
    if (!($1 in pictures)) kinds[++kinds_count] = $1
    ++pictures[$1]; letters[$1] += length(truth); wrong[$1] += distance(truth, read)
    if (read == truth) ++exact[$1]
    else mistakes = mistakes sprintf("  %s at %s s: %s\n  %*s  %s\n", $1, $2, shown(truth), length($1 " at " $2 " s"), "read", shown(read))
    if (found && from[found] == $2 && to[found] == $3) ++timed[$1]
  }
  END {
    for (k = 1; k <= kinds_count; ++k) {
      kind = kinds[k]
      printf "%-6s %2d of %2d read exactly, %5.1f %% of %d characters right, %2d captions begin and end with their picture\n", kind, exact[kind], pictures[kind], 100 * (1 - wrong[kind] / letters[kind]), letters[kind], timed[kind]
    }
    if (mistakes != "") printf "what was read otherwise:\n%s", mistakes
    if (realtime && count) {
      sort(lag, count); sort(first, count); half = int((count + 1) / 2)
      printf "lag: a caption was whole %.2f s behind the time of its picture (median; %.2f s at most), start and decoding of ffmpeg included\n", lag[half], lag[count]
      printf "     the model: %.3f s from a picture to its first letter (median; %.3f s at most)\n", first[half], first[count]
    }
  }' realtime=${#realtime[@]} talk.jsonl truth.tsv | tee report.txt

# The video with what was read below it, for ffplay or any other player.
style="FontName=DejaVu Sans,FontSize=13,Alignment=2,MarginV=3,Outline=0"
if grep -q ' subtitles ' <<< "$filters"; then
  burnt="subtitles=talk.srt:force_style='$style'"
else  # no libass: a drawtext for each cue
  burnt=$(awk 'BEGIN { RS = ""; FS = "\n" }
    function seconds(s) { split(s, p, /[:,]/); return p[1] * 3600 + p[2] * 60 + p[3] + p[4] / 1000 }
    {
      split($2, t, / --> /); file = "cue_" NR ".txt"; body = $3
      for (i = 4; i <= NF; ++i) body = body "\n" $i
      printf "%s", body > file; close(file)
      printf "%sdrawtext=fontfile=sans.font:textfile=%s:expansion=none:fontsize=28:fontcolor=white:x=(w-text_w)/2:y=h-text_h-8:enable=gte(t\\,%s)*lt(t\\,%s)", NR > 1 ? "," : "", file, seconds(t[1]), seconds(t[2])
    }' talk.srt)
fi
ffmpeg -nostdin -hide_banner -loglevel error -y -i talk.mp4 -vf "pad=512:704:0:0:black,$burnt" -pix_fmt yuv420p talk_read.mp4
for file in talk_read.mp4 talk.mp4 talk.srt talk.jsonl truth.tsv report.txt; do echo "$PWD/$file"; done
echo "ffplay $PWD/talk_read.mp4"
