#!/usr/bin/env bash
# bench/compare.py calls a program and itself the same, finds what is slower, and names files it cannot read.
. "$(dirname "$0")/common.sh"
command -v python3 > /dev/null || skip "no python3"
cd "$scratch"
quiet log python3 -B "$CASA_SOURCE_DIR/bench/test_compare.py"
cat log
