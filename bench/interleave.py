#!/usr/bin/env python3
"""Runs the attention variants of two builds of casa_bench in turn, for bench/compare.py.

    python3 bench/interleave.py old/bench/casa_bench new/bench/casa_bench A.json B.json
    python3 bench/compare.py A.json B.json

Case by case, in each round both programs run it, a process each, one right after the other. Which of the two goes first
is decided by chance in each round: compare.py's bound on false verdicts rests on that. Each process measures one block
of --seconds. Cases that only one of the programs has are left out, and named.
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile


def run(command):
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    except OSError as error:
        raise SystemExit(f"interleave.py: cannot run {command[0]}: {error.strerror}")
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def names(program):
    return run([program, "--variants", "--list"]).split()


def block(program, case, args, scratch):
    """One run of a program: the object in the list "runs" of the file that it writes."""
    path = pathlib.Path(scratch) / "run.json"
    run([program, "--variants", "--case", case, "--rounds", 1, "--seconds", args.seconds, "--threads", args.threads,
         "--json", path])
    return json.loads(path.read_text())["runs"][0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs=2, type=pathlib.Path, metavar="PROGRAM")
    parser.add_argument("files", nargs=2, type=pathlib.Path, metavar="FILE.json")
    parser.add_argument("--cases", type=lambda s: s.split(","), help="names, separated by commas (all)")
    parser.add_argument("--rounds", type=int, default=12, help="pairs of blocks of each case (12); compare.py needs 8")
    parser.add_argument("--seconds", type=float, default=0.1, help="of a block (0.1)")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    programs = [p.resolve() for p in args.programs]
    lists = [names(p) for p in programs]
    cases = [c for c in args.cases or lists[0] if c in lists[0] and c in lists[1]]
    for case in sorted(set(args.cases or lists[0] + lists[1]) - set(cases)):
        print(f"left out, because not both programs have it: {case}", file=sys.stderr)
    if not cases:
        print("interleave.py: the programs have no case in common; nothing was written", file=sys.stderr)
        return 1
    runs = [[], []]
    with tempfile.TemporaryDirectory(prefix="casa-interleave-") as scratch:
        for case in cases:
            for _ in range(args.rounds):
                for which in random.sample((0, 1), 2):
                    runs[which].append(block(programs[which], case, args, scratch))
            print(f"{case}: done", file=sys.stderr, flush=True)
    for path, list_ in zip(args.files, runs):
        path.write_text(json.dumps({"runs": list_}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
