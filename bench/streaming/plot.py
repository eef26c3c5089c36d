#!/usr/bin/env python3
"""Time per frame and cache bytes against frames, from one or more JSON files of bench/streaming.

    build/bench/streaming --json streaming.json && python3 bench/streaming/plot.py streaming.json --out streaming.svg

Needs python3-matplotlib. The same input gives the same bytes.
"""
import argparse
import json
import pathlib

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update({"svg.hashsalt": "casa", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3,
                            "axes.spines.top": False, "axes.spines.right": False})
import matplotlib.pyplot as plt  # noqa: E402


def smooth(values, width):
    """Running median: one slow frame is the machine's, not the method's."""
    half = width // 2
    windows = [sorted(values[max(0, i - half):i + half + 1]) for i in range(len(values))]
    return [w[len(w) // 2] for w in windows]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", nargs="+", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("streaming.svg"))
    args = parser.parse_args()
    figure, (time, memory) = plt.subplots(1, 2, figsize=(9, 3.6))
    for path in args.json:
        data = json.loads(path.read_text())
        for v in data["variants"]:
            turns = v["turns"][1:]
            frames = [t["turn"] + 1 for t in turns]
            line, = time.plot(frames, smooth([1e3 * (t["ttft_s"] + t["decode_s"]) for t in turns], 9),
                              label=v["variant"], linewidth=1.2)
            memory.plot(frames, [t["cache_bytes"] / 2**20 for t in turns], color=line.get_color(), linewidth=1.2)
    s = data["shape"]
    for axis, label in ((time, "ms a frame"), (memory, "cache, MiB")):
        axis.set(xlabel="frames", ylabel=label, xscale="log", yscale="log")
    time.legend(fontsize=7, frameon=False)
    figure.suptitle(f"{s['image_tokens']} image tokens and {s['text_tokens']} text tokens a frame, "
                    f"{s['num_hidden_layers']} layers, {s['hidden_size']} wide", fontsize=9)
    figure.tight_layout()
    figure.savefig(args.out, metadata={"Date": None})
    print(args.out)


if __name__ == "__main__":
    main()
