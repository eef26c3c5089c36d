#!/usr/bin/env bash
# The programs of examples/programs/ as a shell sees them: what goes to stdout, how they end, what JSON they write.
# CASA_EXAMPLES is the folder they were built in; those that were not built are not asked.
set -uo pipefail
golden=$CASA_SOURCE_DIR/tests/golden
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

expect() {  # expect STATUS NAME COMMAND...: runs it, checks how it ends; output in $work/out and $work/err
  local status=$1 name=$2; shift 2
  "$@" > "$work/out" 2> "$work/err" < /dev/null
  local rc=$?
  [ $rc -eq "$status" ] && return
  echo "$name: expected status $status, got $rc: $(head -c 500 "$work/err")"
  failures=$((failures + 1))
}
holds() {  # holds NAME TEST...
  local name=$1; shift
  "$@" && return
  echo "$name does not hold; stdout: $(head -c 500 "$work/out") stderr: $(head -c 500 "$work/err")"
  failures=$((failures + 1))
}

asked=0
if [ -x "$CASA_EXAMPLES/read_digits" ]; then
  asked=$((asked + 1))
  digits=$golden/digits
  expect 2 "read_digits: an unknown flag" "$CASA_EXAMPLES/read_digits" --no-such-flag
  expect 2 "read_digits: a model without streams" "$CASA_EXAMPLES/read_digits" --model "$digits/casa"
  expect 0 "read_digits --help" "$CASA_EXAMPLES/read_digits" --help
  expect 1 "read_digits: no such folder" "$CASA_EXAMPLES/read_digits" --model "$work/none" --streams "$digits/streams.safetensors"
  holds "the folder is named" grep -q "$work/none" "$work/err"
  expect 0 "read_digits on one model" "$CASA_EXAMPLES/read_digits" --model "$digits/casa" \
    --streams "$digits/streams.safetensors" --json "$work/captions.json"
  holds "every caption begins with 12 and ends with 11" \
    grep -qE '^\{"captions":\[\[12(,[0-9]+)*,11\](,\[12(,[0-9]+)*,11\])*\]\}$' "$work/captions.json"
  holds "224 lines are read aloud" [ "$(wc -l < "$work/out")" -eq 224 ]
  holds "the first line of stderr says how it was built" sh -c "head -n 1 '$work/err' | grep -q '^casa [0-9]'"
fi
if [ -x "$CASA_EXAMPLES/train_digits" ]; then
  asked=$((asked + 1))
  train="$CASA_EXAMPLES/train_digits"
  tiny="--steps 3 --batch 1 --test-every 2 --test-streams 1"
  expect 2 "train_digits: a variant that is none" "$train" --variant none -o "$work/runs"
  expect 2 "train_digits: one variant and all" "$train" --variant casa --all -o "$work/runs"
  expect 2 "train_digits: no steps" "$train" --steps 0 -o "$work/runs"
  expect 1 "train_digits: no such digits" "$train" --digits "$work/none" -o "$work/runs"
  holds "the file is named" grep -q "$work/none" "$work/err"
  expect 1 "train_digits: streams of other pictures" "$train" --streams "$golden/reader/streams.safetensors" -o "$work/runs"
  holds "the sizes are named" grep -q "32 x 32" "$work/err"
  holds "nothing was made" [ ! -e "$work/runs" ]
  expect 0 "train_digits of all variants and two seeds" "$train" --all --seeds 1,2 $tiny -t 2 -o "$work/runs"
  holds "a line for each run" [ "$(grep -cE '^(casa|cross_attention|token_insertion) +[12] +[0-9.]+ +[0-9.]+ +[0-9.]+ +[0-9]+ +[0-9.]+$' "$work/out")" -eq 6 ]
  holds "and one for each variant" [ "$(grep -cE '^(casa|cross_attention|token_insertion) +digits .* to .* exact' "$work/out")" -eq 3 ]
  holds "stderr, which is no terminal, has no bar" [ "$(wc -l < "$work/err")" -eq 1 ]
  holds "the log has a loss a step" [ "$(grep -cE '^\{"step":[123],"loss":[0-9.]+,' "$work/runs/casa-seed1/train.jsonl")" -eq 3 ]
  expect 1 "train_digits over a run" "$train" $tiny -o "$work/runs"
  holds "the option is named" grep -q -- "--resume goes on" "$work/err"
  expect 1 "train_digits: another run of the same name" "$train" --steps 4 --batch 1 --resume -o "$work/runs"
  holds "both configs are shown" grep -q '"steps":3.*expected.*"steps":4' "$work/err"
  expect 0 "train_digits: the same run by one thread" "$train" $tiny -t 1 -o "$work/alone"
  for file in model training; do
    holds "$file has the same bits" cmp -s "$work/alone/casa-seed1/$file.safetensors" "$work/runs/casa-seed1/$file.safetensors"
  done
  expect 0 "train_digits with bfloat16 weights" "$train" $tiny --weights bf16 -o "$work/bf16"
  if [ -x "$CASA_EXAMPLES/read_digits" ]; then
    for variant in casa cross_attention token_insertion; do
      expect 0 "read_digits on what was trained: $variant" "$CASA_EXAMPLES/read_digits" \
        --model "$work/runs/$variant-seed2" --streams "$golden/digits/streams.safetensors"
      holds "224 lines are read aloud" [ "$(wc -l < "$work/out")" -eq 224 ]
    done
  fi
fi
if [ -x "$CASA_EXAMPLES/read_text" ]; then
  asked=$((asked + 1))
  reader=$golden/reader
  printf 'P5\n200 60\n255\n' > "$work/white.pgm"; head -c 12000 /dev/zero | tr '\0' '\377' >> "$work/white.pgm"
  echo no image > "$work/text.pgm"
  expect 2 "read_text: an unknown flag" "$CASA_EXAMPLES/read_text" --no-such-flag
  expect 2 "read_text: a model without streams" "$CASA_EXAMPLES/read_text" --model "$reader/casa"
  expect 2 "read_text: images and streams" "$CASA_EXAMPLES/read_text" --images "$work/white.pgm" --streams "$reader/streams.safetensors"
  expect 1 "read_text: no such folder" "$CASA_EXAMPLES/read_text" --model "$work/none" --streams "$reader/streams.safetensors"
  holds "the folder is named" grep -q "$work/none" "$work/err"
  expect 1 "read_text: no such image" "$CASA_EXAMPLES/read_text" --images "$work/none.pgm"
  holds "the image is named" grep -q "$work/none.pgm" "$work/err"
  expect 1 "read_text: no image at all" "$CASA_EXAMPLES/read_text" --images "$work/text.pgm"
  holds "the file is named" grep -q "$work/text.pgm" "$work/err"
  expect 1 "read_text: pictures of another size" "$CASA_EXAMPLES/read_text" --model "$reader/casa" --streams "$golden/digits/streams.safetensors"
  holds "the sizes are named" grep -q "128 x 128 pixels, got 32 x 32" "$work/err"
  expect 1 "read_text: a model of other letters" "$CASA_EXAMPLES/read_text" --model "$golden/digits/casa" --streams "$reader/streams.safetensors"
  holds "the letter is named" grep -q "config.json: vocab has no <start>" "$work/err"
  expect 0 "read_text on one model" "$CASA_EXAMPLES/read_text" --model "$reader/casa" \
    --streams "$reader/streams.safetensors" --json "$work/captions.json"
  holds "every text begins with 96 and ends with 97" \
    grep -qE '^\{"captions":\[\[96(,[0-9]+)*,97\](,\[96(,[0-9]+)*,97\])*\]\}$' "$work/captions.json"
  holds "84 pictures are read, a line each" [ "$(wc -l < "$work/out")" -eq 84 ]
  expect 0 "read_text on its own" "$CASA_EXAMPLES/read_text"
  # The shares are those of results.json, which the training framework computed in float64.
  holds "CASA is as right as in training" grep -qE '^casa +99\.34 % +89\.76 % +87\.50 % +35\.71 %' "$work/out"
  holds "cross-attention is" grep -qE '^cross_attention +99\.40 % +90\.97 % +87\.50 % +32\.14 %' "$work/out"
  holds "token insertion is" grep -qE '^token_insertion +99\.40 % +89\.66 % +85\.71 % +25\.00 %' "$work/out"
  expect 1 "read_text --precision int8 alone" "$CASA_EXAMPLES/read_text" --precision int8
  holds "--dtype int8 is asked for" grep -q "give --dtype int8, too" "$work/err"
  expect 0 "read_text in 8 bits" "$CASA_EXAMPLES/read_text" --dtype int8 --precision int8
  holds "all three read at least 98 % of easy characters" [ "$(grep -cE '^(casa|cross_attention|token_insertion) +9[89]\.' "$work/out")" -eq 3 ]
  expect 0 "read_text --images" "$CASA_EXAMPLES/read_text" --model "$reader/casa" --images "$work/white.pgm"
  expect 0 "read_text --cost" "$CASA_EXAMPLES/read_text" --cost 5
  holds "a line for each tile of each model" [ "$(grep -cE '^[a-z_]+,[1-5],[0-9.]+,[0-9]+$' "$work/out")" -eq 15 ]
  expect 2 "read_text: no tiles" "$CASA_EXAMPLES/read_text" --cost 0
  expect 2 "read_text: tiles that are none" "$CASA_EXAMPLES/read_text" --images "$work/white.pgm" --tiles stripes
  expect 2 "read_text: tiles of no picture" "$CASA_EXAMPLES/read_text" --tiles grid
  expect 2 "read_text: a truth of no picture" "$CASA_EXAMPLES/read_text" --truth "$work/none.txt"
  expect 2 "read_text: costs and pictures" "$CASA_EXAMPLES/read_text" --cost 2 --images "$work/white.pgm"
  : > "$work/empty.txt"
  expect 1 "read_text: a truth without text" "$CASA_EXAMPLES/read_text" --images "$work/white.pgm" --truth "$work/empty.txt"
  expect 1 "read_text: a truth that is not there" "$CASA_EXAMPLES/read_text" --images "$work/white.pgm" --truth "$work/none.txt"
  holds "the file is named" grep -q "$work/none.txt" "$work/err"
  case "${CASA_ABSENT:-}" in
    *image*)  # built without libpng
      expect 1 "read_text: a PNG" "$CASA_EXAMPLES/read_text" --images "$golden/page/page.png"
      holds "the libraries are named" grep -q "without libjpeg and libpng" "$work/err"
      expect 2 "read_text: no maps without libpng" "$CASA_EXAMPLES/read_text" --attention "$work/sheet.png" ;;
    *)
      expect 0 "read_text --attention" "$CASA_EXAMPLES/read_text" --attention "$work/sheet.png"
      holds "the picture is read" grep -qx 'Usenet;' "$work/out"
      # 4 rows of 8 letters of 128 x 128 pixels: width and height of the header.
      holds "the sheet is a PNG of its size" sh -c \
        "od -An -tx1 -N 24 '$work/sheet.png' | tr -d ' \n' | grep -q '^89504e470d0a1a0a0000000d494844520000043600000284\$'"
      expect 1 "read_text: maps of a picture larger than the frame" "$CASA_EXAMPLES/read_text" \
        --attention "$work/page.png" --images "$golden/page/page.png"
      expect 0 "read_text --attention of a named head" "$CASA_EXAMPLES/read_text" --attention "$work/other.png" \
        --attention-head 3 1 --model "$reader/token_insertion" --images "$work/sheet.png" --tiles none
      expect 1 "read_text: a head that is not there" "$CASA_EXAMPLES/read_text" --attention "$work/none.png" --attention-head 3 6
      holds "the head is named" grep -q 'head must be in \[0, 6), got 6' "$work/err"
      holds "nothing is written" [ ! -e "$work/none.png" ]
      expect 1 "read_text: a sheet over its picture" "$CASA_EXAMPLES/read_text" --attention "$work/sheet.png" --images "$work/sheet.png"
      holds "the options are named" grep -q 'same file as --images' "$work/err"
      expect 2 "read_text: maps of streams" "$CASA_EXAMPLES/read_text" --attention "$work/none.png" \
        --model "$reader/casa" --streams "$reader/streams.safetensors"
      expect 0 "read_text on a page" "$CASA_EXAMPLES/read_text" --images "$golden/page/page.png" --truth "$golden/page/page.txt"
      holds "each of the three reads 99 % of it" [ "$(grep -cE '^(casa|cross_attention|token_insertion) +99\.[0-9]+ % of 2030 characters right' "$work/out")" -eq 3 ]
      expect 0 "read_text on a page, encoder in 8 bits" "$CASA_EXAMPLES/read_text" --images "$golden/page/page.png" \
        --truth "$golden/page/page.txt" --encoder-dtype int8 --encoder-precision int8
      holds "each of the three reads 99 % of it" [ "$(grep -cE '^(casa|cross_attention|token_insertion) +99\.[0-9]+ % of 2030 characters right' "$work/out")" -eq 3 ] ;;
  esac
fi
if [ -x "$CASA_EXAMPLES/generate" ]; then
  asked=$((asked + 1))
  model=$golden/hf_llama
  expect 2 "generate without a model" "$CASA_EXAMPLES/generate" -p x
  expect 2 "generate: a type that is none" "$CASA_EXAMPLES/generate" -m "$model" --prompt-ids 1,2 --dtype float8
  expect 0 "generate --help" "$CASA_EXAMPLES/generate" --help
  expect 1 "generate: an encoder rounded to what it is not held as" \
    "$CASA_EXAMPLES/generate" -m "$model" --prompt-ids 1,2 --encoder-dtype bf16 --encoder-precision int8
  holds "both options are named" grep -q -- '--encoder-precision int8 .* --encoder-dtype int8' "$work/err"
  expect 1 "generate: an id beyond the vocabulary" "$CASA_EXAMPLES/generate" -m "$model" --prompt-ids 1,99999
  holds "the id is named" grep -q 99999 "$work/err"
  expect 1 "generate: a text without a tokenizer" "$CASA_EXAMPLES/generate" -m "$model" -p hello
  expect 1 "generate: a prompt longer than the context" "$CASA_EXAMPLES/generate" -m "$model" --prompt-ids 1,2,3 -c 2
  expect 1 "generate: a picture without an encoder" \
    "$CASA_EXAMPLES/generate" -m "$model" --prompt-ids 1,2 --image "$golden/digits/sheet_streams_00_07.png"
  for threads in 1 2; do
    expect 0 "generate --json" "$CASA_EXAMPLES/generate" -m "$model" --prompt-ids 3,14,15,92 -n 5 --json -t $threads --ignore-eos
    holds "one object, nothing else" \
      grep -qzE '^\{"prompt_ids":\[3,14,15,92\],"ids":\[[0-9]+(,[0-9]+){4}\],"text":"","finish_reason":"length","prefill_seconds":[0-9.e+-]+,"decode_seconds":[0-9.e+-]+,"peak_bytes":[0-9]+\}.$' "$work/out"
    sed -E 's/.*"ids":\[([0-9,]*)\],"text.*/\1/' "$work/out" > "$work/ids.$threads"
  done
  holds "ids do not depend on threads" cmp -s "$work/ids.1" "$work/ids.2"
  expect 0 "generate --quiet" "$CASA_EXAMPLES/generate" -m "$model" --prompt-ids 3,14,15,92 -n 5 --ignore-eos -q
  holds "stdout is the ids alone" cmp -s "$work/ids.1" "$work/out"
  holds "stderr is empty" [ ! -s "$work/err" ]
  expect 0 "generate --trace" "$CASA_EXAMPLES/generate" -m "$model" --prompt-ids 3,14,15 -n 2 --trace "$work/a.safetensors" -q
  if [ -x "$CASA_EXAMPLES/compare_traces" ]; then
    expect 0 "a trace equals itself" "$CASA_EXAMPLES/compare_traces" "$work/a.safetensors" "$work/a.safetensors"
  fi
fi
# stdout that does not take what is written: a program that cannot deliver says so, with the reason;
# one whose reader has left says nothing.
delivers() {  # delivers NAME COMMAND...
  local name=$1 rc; shift
  "$@" > /dev/full 2> "$work/err" < /dev/null; rc=$?
  : > "$work/out"
  holds "$name, full disk: status 1, got $rc" [ $rc -eq 1 ]
  holds "$name, full disk: the reason" grep -q ": stdout: cannot write: No space left on device$" "$work/err"
  "$@" 2> "$work/err" < /dev/null >&-; rc=$?
  holds "$name, closed stdout: status 1, got $rc" [ $rc -eq 1 ]
  holds "$name, closed stdout: the reason" grep -q ": stdout: cannot write: Bad file descriptor$" "$work/err"
  # The reader has gone before the program starts: a FIFO opened, and its other end closed.
  rm -f "$work/pipe"; mkfifo "$work/pipe"
  exec 7<> "$work/pipe" 8> "$work/pipe" 7<&-
  "$@" 2> "$work/err" < /dev/null >&8; rc=$?
  exec 8>&-
  holds "$name, no reader: status 141, got $rc" [ $rc -eq 141 ]
  holds "$name, no reader: quiet" sh -c "! grep -v '^casa [0-9]' '$work/err' | grep -q ."
}
if [ -x "$CASA_EXAMPLES/save_model" ]; then
  asked=$((asked + 1))
  expect 2 "save_model: no type" "$CASA_EXAMPLES/save_model" "$golden/hf_qwen2" "$work/eight"
  expect 2 "save_model: a type that is none" "$CASA_EXAMPLES/save_model" "$golden/hf_qwen2" "$work/eight" --weights int4
  expect 1 "save_model: no such folder" "$CASA_EXAMPLES/save_model" "$work/none" "$work/eight" --weights int8
  holds "nothing was made of it" [ ! -e "$work/eight" ]
  expect 0 "save_model" "$CASA_EXAMPLES/save_model" "$golden/hf_qwen2" "$work/eight" --weights int8
  if [ -x "$CASA_EXAMPLES/inspect" ]; then
    expect 0 "inspect in 8 bits" "$CASA_EXAMPLES/inspect" "$work/eight"
    holds "the types are counted" grep -qE '[0-9]+ tensors I8; [0-9]+ scales, one for each 32 values' "$work/out"
  fi
  if [ -x "$CASA_EXAMPLES/generate" ]; then
    expect 0 "generate int8" "$CASA_EXAMPLES/generate" -m "$golden/hf_qwen2" --dtype int8 --prompt-ids 5,9,17 -n 20 --ignore-eos --json -q
    grep -o '"ids":[^]]*' "$work/out" > "$work/ids"
    expect 0 "generate of 8 bits" "$CASA_EXAMPLES/generate" -m "$work/eight" --precision full --prompt-ids 5,9,17 -n 20 --ignore-eos --json -q
    grep -o '"ids":[^]]*' "$work/out" > "$work/ids8"
    holds "the ids are the same" cmp -s "$work/ids" "$work/ids8"
    for time in first second; do
      expect 0 "generate --packed, the $time time" "$CASA_EXAMPLES/generate" -m "$work/eight" --packed "$work/packed" --prompt-ids 5,9,17 -n 20 --ignore-eos --json -q
      grep -o '"ids":[^]]*' "$work/out" > "$work/ids8"
      holds "the ids are the same" cmp -s "$work/ids" "$work/ids8"
      [ $time = first ] && cp "$work/packed" "$work/packed.first"
    done
    holds "the file is as it was made" cmp -s "$work/packed" "$work/packed.first"
    expect 1 "generate --packed, a file of the model" "$CASA_EXAMPLES/generate" -m "$work/eight" --packed "$work/eight/model.safetensors" --prompt-ids 5 -q
    holds "both are named" grep -q -- "--packed .* is the same file as -m" "$work/err"
    expect 1 "generate int8 products of float" "$CASA_EXAMPLES/generate" -m "$golden/hf_qwen2" --precision int8 --prompt-ids 5 -q
  fi
fi
for program in caption_stream compare_traces digit_frames generate inspect read_digits read_text save_model train_digits; do
  [ -x "$CASA_EXAMPLES/$program" ] && delivers "$program --help" "$CASA_EXAMPLES/$program" --help
done
[ -x "$CASA_EXAMPLES/inspect" ] && delivers "inspect" "$CASA_EXAMPLES/inspect" "$golden/hf_llama"
[ -x "$CASA_EXAMPLES/read_digits" ] &&
  delivers "read_digits" "$CASA_EXAMPLES/read_digits" --model "$golden/digits/casa" --streams "$golden/digits/streams.safetensors"
[ -x "$CASA_EXAMPLES/read_text" ] &&
  delivers "read_text" "$CASA_EXAMPLES/read_text" --model "$golden/reader/casa" --streams "$golden/reader/streams.safetensors"
[ -x "$CASA_EXAMPLES/digit_frames" ] && delivers "digit_frames" "$CASA_EXAMPLES/digit_frames"
if [ -x "$CASA_EXAMPLES/compare_traces" ]; then
  delivers "compare_traces" "$CASA_EXAMPLES/compare_traces" "$golden/hf_llama/model.safetensors" "$golden/hf_llama/model.safetensors"
fi
if [ -x "$CASA_EXAMPLES/generate" ]; then
  for form in "" --json; do
    delivers "generate $form" "$CASA_EXAMPLES/generate" -m "$golden/hf_llama" --prompt-ids 1,2 -n 3 --ignore-eos -q $form
  done
fi

# An output that is an input, or cannot be made, is refused before any work, and nothing is lost.
keeps() {  # keeps NAME PATTERN COMMAND...: status 1, PATTERN on stderr, the folder `kept` as it was
  local name=$1 pattern=$2; shift 2
  expect 1 "$name" "$@"
  holds "$name: says so" grep -q -- "$pattern" "$work/err"
  holds "$name: nothing is lost" sh -c "cd '$work' && sha256sum --quiet -c sums && [ ! -e new ]"
}
mkdir "$work/kept"; cp "$golden/hf_llama/"*.json "$golden/hf_llama/model.safetensors" "$work/kept"
cp "$golden/digits/streams.safetensors" "$work/kept/frames"; ln "$work/kept/frames" "$work/kept/link"; echo 1 2 > "$work/kept/text"
(cd "$work" && sha256sum kept/* > sums)
kept=$work/kept
if [ -x "$CASA_EXAMPLES/digit_frames" ]; then
  keeps "digit_frames: its input as output" "same file as --streams" "$CASA_EXAMPLES/digit_frames" --streams "$kept/frames" --truth "$kept/link"
  keeps "digit_frames: one output twice" "written as well" "$CASA_EXAMPLES/digit_frames" --truth "$work/new" --begins "$work/./new"
fi
if [ -x "$CASA_EXAMPLES/read_digits" ]; then
  keeps "read_digits: its input as output" "same file as --streams" "$CASA_EXAMPLES/read_digits" --model "$golden/digits/casa" --streams "$kept/frames" --json "$kept/link"
  keeps "read_digits: an output in no folder" "none/captions.json: cannot write in .*none/: No such file" \
    "$CASA_EXAMPLES/read_digits" --model "$golden/digits/casa" --streams "$kept/frames" --json "$work/none/captions.json"
fi
[ -x "$CASA_EXAMPLES/read_text" ] &&
  keeps "read_text: its input as output" "same file as --streams" "$CASA_EXAMPLES/read_text" --model "$golden/reader/casa" --streams "$kept/frames" --json "$kept/link"
if [ -x "$CASA_EXAMPLES/generate" ]; then
  keeps "generate: its model as trace" "same file as -m" "$CASA_EXAMPLES/generate" -m "$kept" --prompt-ids 1,2 --trace "$kept/model.safetensors"
  keeps "generate: its prompt as trace" "same file as -f" "$CASA_EXAMPLES/generate" -m "$kept" -f "$kept/text" --trace "$kept/text"
  keeps "generate: a trace in no folder" "No such file" "$CASA_EXAMPLES/generate" -m "$kept" --prompt-ids 1,2 --trace "$work/none/new"
fi
[ $asked -gt 0 ] || exit 77
exit $((failures > 0))
