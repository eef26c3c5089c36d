#!/usr/bin/env python3
"""Figures and fitted exponents from the JSON of casa_bench.

    build/bench/casa_bench --benchmark_filter='attention/fast|decode|scaling' --benchmark_out=bench.json --benchmark_out_format=json
    python3 bench/plot.py bench.json [--peers peers.csv] [--out bench/figures]

peers.csv is what `bench/compare_peers.py --csv` writes: the columns bench,case,impl,threads,min_s,med_s,work,unit, with
lines of the limits (the cases fma_fp32, and read_256MiB or read_512MiB) among them; a line of column names is skipped.
Needs python3-matplotlib. The same input gives the same bytes.
"""
import argparse
import collections
import json
import math
import pathlib

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update({"svg.hashsalt": "casa", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3,
                            "axes.spines.top": False, "axes.spines.right": False})
import matplotlib.pyplot as plt  # noqa: E402


def read_bench(paths):
    """name -> median over repetitions of (real seconds, counters)."""
    unit = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1}
    runs = collections.defaultdict(list)
    for path in paths:
        for b in json.loads(path.read_text())["benchmarks"]:
            if b.get("run_type") == "iteration" and not b.get("error_occurred"):
                runs[b["name"]].append((b["real_time"] * unit[b["time_unit"]], b))
    return {name: sorted(r, key=lambda x: x[0])[len(r) // 2] for name, r in runs.items()}


def read_peers(path):
    """(case, impl, threads) -> fraction of the limit measured in the same run."""
    rows = [row for row in (line.split(",") for line in path.read_text().splitlines())
            if len(row) == 8 and row[3].isdigit()]
    best, limit = {}, {}
    for _, case, impl, threads, least, _, work, unit in rows:
        rate = float(work) / float(least)
        key = (case, impl, int(threads), unit)
        best[key] = max(best.get(key, 0), rate)
        if case in ("fma_fp32", "read_256MiB", "read_512MiB"):  # smaller reads come from a cache
            limit[unit, int(threads)] = max(limit.get((unit, int(threads)), 0), rate)
    return {(case, impl, threads): rate / limit[unit, threads]
            for (case, impl, threads, unit), rate in best.items() if (unit, threads) in limit}


def save(figure, path):
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    print(path)


def roofline(bench, peers, out):
    ours = {}
    for name, (_, b) in bench.items():
        parts = name.split("/")
        if parts[:2] == ["attention", "fast"] and "float" in parts and "threads:1" in name and "keys" not in b:
            ours[parts[2]] = b["peak"]
    if not ours:
        return
    cases = list(ours)
    rivals = {case: max((v for (c, impl, t), v in peers.items() if c == case and t == 1 and impl != "casa"), default=None)
              for case in cases}
    figure, axes = plt.subplots(figsize=(7, 0.42 * len(cases) + 1))
    places = range(len(cases))
    axes.barh([p - 0.2 for p in places], [100 * ours[c] for c in cases], 0.38, label="casa", color="#1b6ca8")
    if any(rivals.values()):
        axes.barh([p + 0.2 for p in places], [100 * (rivals[c] or 0) for c in cases], 0.38, label="best peer",
                  color="#c9c9c9")
    axes.set_yticks(list(places), cases)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of this machine's limit, one thread (multiply-adds)")
    axes.legend(loc="lower right")
    save(figure, out / "roofline.svg")


def slope(points):
    """Exponent of the second half of a curve: least squares in log-log."""
    points = sorted(points)[-max(3, (len(points) + 1) // 2):]
    xs, ys = [math.log(x) for x, _ in points], [math.log(y) for _, y in points]
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - mx) * (y - my) for x, y in zip(xs, ys)) / sum((x - mx) ** 2 for x in xs)


def scaling(bench, out):
    curves = collections.defaultdict(lambda: collections.defaultdict(list))
    for name, (seconds, b) in bench.items():
        parts = name.split("/")
        if parts[0] == "scaling":
            curves[parts[1]][parts[2]].append((b["n"], seconds))
    label = {"sa": "self-attention", "ca": "cross-attention", "casa": "CASA", "ti": "token insertion"}
    colour = {"sa": "#777777", "ca": "#e08e0b", "casa": "#1b6ca8", "ti": "#b3261e"}
    for axis, variants in curves.items():
        figure, axes = plt.subplots(figsize=(4.6, 3.2))
        for variant, points in variants.items():
            points.sort()
            print(f"scaling/{axis}/{variant}: time ~ n^{slope(points):.2f}" if len(points) > 2 else f"scaling/{axis}/{variant}")
            axes.loglog([x for x, _ in points], [1e3 * y for _, y in points], "o-", ms=3, color=colour[variant],
                        label=label[variant])
        axes.set_xlabel({"frames": "frames (256 image, 20 text tokens each)", "text": "text tokens per window",
                         "image": "image tokens per window", "context": "text tokens"}[axis])
        axes.set_ylabel("ms, attention of the whole stream")
        axes.legend()
        save(figure, out / f"scaling_{axis}.svg")


def decode(bench, out):
    curves = collections.defaultdict(list)
    for name, (_, b) in bench.items():
        parts = name.split("/")
        if parts[0] == "decode" and "threads:1" in parts:
            curves[parts[3], int(b["rows"])].append((b["keys"], b["peak"]))
    if not curves:
        return
    figure, axes = plt.subplots(figsize=(4.6, 3.2))
    style = {"float": "o-", "bfloat16": "s--", "bfloat16_rounded": "^:"}
    colour = {1: "#1b6ca8", 2: "#e08e0b", 4: "#4c9a2a", 8: "#b3261e"}
    for (scalar, rows), points in sorted(curves.items()):
        if scalar == "bfloat16_rounded" and rows <= 2:  # not rounded
            continue
        points.sort()
        axes.semilogx([x for x, _ in points], [100 * y for _, y in points], style.get(scalar, "x-"), ms=3,
                      color=colour.get(rows), label=f"{scalar.replace('_', ', ')}, {rows} row{'s' * (rows > 1)}")
    axes.axhline(100, color="#777777", lw=0.8)
    axes.set_xlabel("keys (8 kv heads of 128)")
    axes.set_ylabel("% of the read rate of memory")
    axes.legend(fontsize=7)
    save(figure, out / "decode.svg")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", nargs="+", type=pathlib.Path)
    parser.add_argument("--peers", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("bench/figures"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    bench = read_bench(args.json)
    roofline(bench, read_peers(args.peers) if args.peers else {}, args.out)
    scaling(bench, args.out)
    decode(bench, args.out)


if __name__ == "__main__":
    main()
