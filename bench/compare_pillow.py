#!/usr/bin/env python3
"""Times Pillow's bicubic resize of a 1920 x 1080 frame to 448 pixels of width beside casa's.

    python3 bench/compare_pillow.py BUILD/bench/casa_bench [--rounds 7]

Needs Pillow. Rounds of both alternate, on one thread each, in CPU time of that thread; the figure of a
round is its mean. Pillow's own image is timed: no copy to or from other libraries. The two results are
equal byte for byte: tests/image/ checks that.
"""

import argparse
import json
import statistics
import subprocess
import time

from PIL import Image, __version__

NAME = "image/resize/1920x1080-448/{}_rows"


def casa_ms(program, rows, seconds):
    out = subprocess.run(
        [program, f"--benchmark_filter=^{NAME.format(rows)}$", "--benchmark_format=json",
         f"--benchmark_min_time={seconds}"],
        check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    (result,) = json.loads(out)["benchmarks"]
    assert result["time_unit"] == "ms"
    return result["cpu_time"]


def pillow_ms(frame, rows, seconds):
    frame.resize((448, rows), Image.Resampling.BICUBIC)
    count, begin = 0, time.thread_time()
    while time.thread_time() - begin < seconds:
        frame.resize((448, rows), Image.Resampling.BICUBIC)
        count += 1
    return (time.thread_time() - begin) / count * 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("casa_bench", help="the benchmark program")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="CPU time of a round")
    args = parser.parse_args()

    frame = Image.effect_noise((1920, 1080), 60).convert("RGB")
    print(f"1920 x 1080 to 448 x rows, one thread, ms: median (best) of {args.rounds} alternating rounds")
    print(f"{'rows':>5} {'casa':>16} {'Pillow ' + __version__:>16} {'ratio':>6}")
    for rows in (252, 448):
        ours, theirs = [], []
        for _ in range(args.rounds):
            ours.append(casa_ms(args.casa_bench, rows, args.seconds))
            theirs.append(pillow_ms(frame, rows, args.seconds))
        shown = [f"{statistics.median(v):.2f} ({min(v):.2f})" for v in (ours, theirs)]
        ratio = statistics.median(theirs) / statistics.median(ours)
        print(f"{rows:>5} {shown[0]:>16} {shown[1]:>16} {ratio:>6.2f}")


if __name__ == "__main__":
    main()
