#!/usr/bin/env python3
"""Processor time and cache bytes of a page against its tiles, as the three text readers take them in.

    build/examples/read_text --cost 256 > tiles.csv
    python3 bench/tiles_plot.py tiles.csv --out bench/figures/tiles.svg

Needs python3-matplotlib. The same input gives the same bytes.
"""
import argparse
import csv
import pathlib

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update({"svg.hashsalt": "casa", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3,
                            "axes.spines.top": False, "axes.spines.right": False})
import matplotlib.pyplot as plt  # noqa: E402

LABEL = {"casa": "CASA", "cross_attention": "cross-attention", "token_insertion": "token insertion"}
COLOUR = {"casa": "#1b6ca8", "cross_attention": "#e08e0b", "token_insertion": "#b3261e"}
LINE = {"casa": "-", "cross_attention": "--", "token_insertion": "-"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("tiles.svg"))
    args = parser.parse_args()
    figure, (time, memory) = plt.subplots(1, 2, figsize=(9, 3.4))
    with args.csv.open() as file:
        rows = list(csv.DictReader(file))
    for variant in LABEL:
        mine = [row for row in rows if row["variant"] == variant]
        tiles, seconds, total = [int(row["tile"]) for row in mine], [], 0.0
        for row in mine:
            total += float(row["cpu_seconds"])
            seconds.append(total)
        mib = [int(row["cache_bytes"]) / 2**20 for row in mine]
        time.plot(tiles, seconds, LINE[variant], color=COLOUR[variant], label=LABEL[variant], linewidth=1.4)
        memory.plot(tiles, mib, LINE[variant], color=COLOUR[variant], linewidth=1.4)
        for n in (4, 16, 64, 256):
            if n <= len(mine):
                print(f"{variant:16} {n:4} tiles {seconds[n - 1]:8.2f} s {mib[n - 1]:7.2f} MiB")
    for axis, label in ((time, "processor time of the page, s"), (memory, "cache, MiB")):
        axis.set(xlabel="tiles of a page (256 image, 36 text tokens each)", ylabel=label, xscale="log", yscale="log")
    time.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(args.out, metadata={"Date": None})
    print(args.out)


if __name__ == "__main__":
    main()
