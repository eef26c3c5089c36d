#!/usr/bin/env python3
"""A figure of one stream of pictures and what a model read in them: bench/figures/frames.png.

    build/examples/read_text --model tests/golden/reader/casa --streams tests/golden/reader/streams.safetensors --json read.json
    python3 bench/plot_frames.py read.json [--pictures 39 40 41 42] [--out bench/figures/frames.png]

Needs python3-matplotlib and python3-numpy. Characters that differ from the truth are red.
"""
import argparse
import difflib
import json
import pathlib
import struct

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402


def read_streams(path):
    """The pictures (n, side, side), the ids of their captions, and the vocabulary."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])

    def tensor(name, dtype):
        t = header[name]
        begin, end = t["data_offsets"]
        return np.frombuffer(data[8 + size + begin:8 + size + end], dtype).reshape(t["shape"])
    description = json.loads(header["__metadata__"]["description"])
    captions = [ids[:n] for ids, n in zip(tensor("captions", "<i8"), tensor("caption_len", "<i8"))]
    return tensor("images", "u1"), captions, description["vocab"]


def text_of(ids, vocab):
    return "".join("\n" if vocab[i] == "\\n" else vocab[i] for i in ids if not vocab[i].startswith("<") or len(vocab[i]) == 1)


def marked(read, truth):
    """(character, right) of what was read; a red _ stands for characters that it lacks."""
    for kind, i, j, begin, end in difflib.SequenceMatcher(None, truth, read, autojunk=False).get_opcodes():
        yield from ((c, kind == "equal") for c in read[begin:end])
        if kind == "delete":
            yield "_", False


def write_lines(axes, read, truth):
    """The text that was read, under the picture, in letters of equal width."""
    lines = [[]]
    for c, right in marked(read, truth):
        if c == "\n":
            lines.append([])
        else:
            lines[-1].append((c, right))
    for row, line in enumerate(lines):
        for color, keep in (("black", True), ("red", False)):
            shown = "".join(c if right == keep else " " for c, right in line)
            axes.text(0, 136 + 11 * row, shown, family="monospace", fontsize=8, color=color, va="top")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("read", type=pathlib.Path, help="what read_text --json wrote")
    parser.add_argument("--streams", type=pathlib.Path, default="tests/golden/reader/streams.safetensors")
    parser.add_argument("--pictures", type=int, nargs="+", default=[39, 40, 41, 42])
    parser.add_argument("--out", type=pathlib.Path, default="bench/figures/frames.png")
    args = parser.parse_args()
    images, captions, vocab = read_streams(args.streams)
    read = json.loads(args.read.read_text())["captions"]
    figure, all_axes = plt.subplots(1, len(args.pictures), figsize=(2.1 * len(args.pictures), 2.55))
    for axes, number in zip(all_axes, args.pictures):
        axes.imshow(images[number - 1], cmap="gray", vmin=0, vmax=255)
        axes.set_ylim(176, -1)
        axes.axis("off")
        write_lines(axes, text_of(read[number - 1], vocab), text_of(captions[number - 1], vocab))
    figure.subplots_adjust(left=0.005, right=0.995, top=1, bottom=0, wspace=0.06)
    figure.savefig(args.out, dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    main()
