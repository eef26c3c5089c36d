#!/usr/bin/env python3
"""Loss and test accuracy of the runs of train_digits: a line for each variant, the mean of its seeds, in a band from
the lowest to the highest.

    plot.py digits_runs figure.svg
"""
import argparse
import json
import pathlib

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "casa"  # the same runs give the same file
import matplotlib.pyplot as plt  # noqa: E402

COLORS = {"casa": "#c44e52", "cross_attention": "#4c72b0", "token_insertion": "#55a868"}


def read(folder):
    """{variant: [(losses by step, digits by step) of each seed]}"""
    runs = {}
    for log in sorted(pathlib.Path(folder).glob("*/train.jsonl")):
        variant, losses, digits = None, {}, {}
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            if "config" in entry:
                variant = entry["config"]["variant"]
            if "loss" in entry:
                losses[entry["step"]] = entry["loss"]
            if "digits" in entry:
                digits[entry["step"]] = 100 * entry["digits"]
        if variant is None:
            raise SystemExit(f"{log}: no line has a config")
        runs.setdefault(variant, []).append((losses, digits))
    if not runs:
        raise SystemExit(f"{folder}: no run in it has a train.jsonl")
    return runs


def smooth(values, width):
    """The mean of the newest `width` values, at each."""
    total, out = 0.0, []
    for i, value in enumerate(values):
        total += value - (values[i - width] if i >= width else 0.0)
        out.append(total / min(i + 1, width))
    return out


def draw(axes, series, label, color):
    steps = sorted(set.intersection(*(set(s) for s in series)))
    columns = [[s[step] for s in series] for step in steps]
    axes.plot(steps, [sum(c) / len(c) for c in columns], label=label, color=color, linewidth=1.4)
    if len(series) > 1:
        axes.fill_between(steps, [min(c) for c in columns], [max(c) for c in columns], color=color, alpha=0.2, linewidth=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", help="the folder of --out")
    parser.add_argument("figure", help="the file to write: .svg, .png, .pdf")
    args = parser.parse_args()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    for variant, runs in read(args.runs).items():
        losses = [dict(zip(sorted(l), smooth([l[s] for s in sorted(l)], 25))) for l, _ in runs]
        label = variant.replace("_", " ") + (f" ({len(runs)} seeds)" if len(runs) > 1 else "")
        draw(left, losses, label, COLORS.get(variant))
        draw(right, [d for _, d in runs], label, COLORS.get(variant))
    left.set(xlabel="update", ylabel="loss, nats a token (mean of 25)", yscale="log")
    right.set(xlabel="update", ylabel="digits of the test right, %")
    for axes in (left, right):
        axes.grid(True, alpha=0.3)
    right.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(args.figure, metadata={"Date": None} if args.figure.endswith(".svg") else None)


if __name__ == "__main__":
    main()
