#!/usr/bin/env bash
# A training that is killed at random moments, and goes on, ends with the bits of one that never was. The moments come
# from a seed (CASA_SEED, printed), but no verdict depends on them: whenever it is killed, the end must be the same.
. "$(dirname "$0")/common.sh"
train=${CASA_EXAMPLES:?}/train_digits
[ -x "$train" ] || skip "train_digits was not built"
seed=${CASA_SEED:-$RANDOM}
RANDOM=$seed
say "seed $seed"
cd "$scratch"
run=("$train" --steps 12 --batch 2 --test-every 5 --test-streams 1 --checkpoint-every 1 -q -o)

quiet whole.log "${run[@]}" whole -t 2
kills=0
# The first kills come early, so that the first checkpoint is hit as well; in the end nothing is killed.
for attempt in $(seq 1 40); do
  "${run[@]}" killed --resume -t $((attempt % 2 + 1)) > killed.log 2>&1 &
  pid=$!
  sleep "0.$(printf '%03d' $((RANDOM % (20 * attempt))))"
  if kill -9 "$pid" 2> /dev/null; then kills=$((kills + 1)); fi
  status=0
  wait "$pid" 2> /dev/null || status=$?
  [ $status -ne 0 ] || break
  [ $status -eq 137 ] || { cat killed.log; die "seed $seed: status $status after $kills kills"; }
done
quiet killed.log "${run[@]}" killed --resume -t 1
for file in training.safetensors model.safetensors config.json captioner.json; do
  cmp "whole/casa-seed1/$file" "killed/casa-seed1/$file" || die "seed $seed: $file differs after $kills kills"
done
# The logs differ in times only.
for run in whole killed; do
  sed -E 's/"(tokens_per_second|seconds)":[^,}]*//g' "$run/casa-seed1/train.jsonl" > "$run.steps"
done
cmp whole.steps killed.steps || die "seed $seed: the logs differ after $kills kills"
say "the same bits after $kills kills"
