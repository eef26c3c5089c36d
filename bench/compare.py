#!/usr/bin/env python3
"""Which of two programs is faster, variant by variant?

    python3 bench/compare.py A.json B.json

A.json and B.json are files of `casa_bench --variants --json`, or of bench/interleave.py, which runs two programs in
turn. For each case that both have: the time of B over that of A, an interval for that ratio, and a verdict on B.

A file holds {"runs": [run, ...]}; a run {"program", "threads", "cases": {name: facts}, "blocks": [block, ...]}; a block
{"case", "began": seconds since 1970, "wall": [seconds, ...], "cpu": [seconds, ...]}: runs of one case one after the
other. Runs of a block share what disturbs them, so a block counts as one observation: the lower quartile of its times,
in processor time on one thread and on the wall clock on several.

Method, where blocks of A and B alternate in time (bench/interleave.py): neighbours are a pair, and d = ln(B / A) of each
pair is one value. Which of a pair ran first was decided by chance, so if the programs are the same, d is as likely as -d,
however the machine behaves. Wilcoxon's signed-rank test, computed exactly, then calls them different with a probability
of at most --alpha (0.01), whatever the noise is. "faster" or "slower" is said if the test does so and the ratio, the
median of the means of any two d (Hodges and Lehmann), is further from 1 than --margin (2 %). The interval holds all
ratios that the test does not exclude. Eight pairs are needed.

Where they do not alternate (two files recorded one after the other), nothing separates the programs from what the
machine did meanwhile. The interval is then of the slowest and fastest blocks, and "faster" or "slower" is said only if
there are five blocks or more of each, all blocks of one program are faster than all of the other, and the gap between
them is larger than --margin and larger than the spread of either program's own blocks. This is an estimate: no bound
on its error follows from theory, and small differences need alternation.

"same" means that no difference was found that is larger than --margin: the interval says what may still be there.
The probability of a false verdict is one of each case: of 100 cases of two equal programs, one may be called different.
"""
import argparse
import collections
import json
import math
import statistics
import sys

Block = collections.namedtuple("Block", "began seconds")
Comparison = collections.namedtuple("Comparison", "ratio low high verdict blocks how")


def quartile(times):
    """The lower quartile: less disturbed by other jobs than the median, less a matter of luck than the minimum."""
    return sorted(times)[len(times) // 4]


def read_blocks(path):
    """(case, threads) -> blocks in order of time. Raises ValueError for what is no such file."""
    try:
        with open(path) as file:
            runs = json.load(file)["runs"]
        blocks = collections.defaultdict(list)
        for run in runs:
            for block in run["blocks"]:
                seconds = quartile(block["cpu" if run["threads"] == 1 else "wall"])
                if not 0 < seconds < math.inf:
                    raise ValueError(f"a time of {seconds}")
                blocks[block["case"], run["threads"]].append(Block(block["began"], seconds))
    except (KeyError, TypeError, IndexError, ValueError) as e:
        raise ValueError(f"{path} is no file of casa_bench --variants --json: {type(e).__name__}: {e}") from e
    return {key: sorted(list_) for key, list_ in blocks.items()}


def pairs(a, b):
    """[(block of A, block of B)] if they alternate in time, in pairs of any order; else None."""
    order = sorted([(x.began, "a", x) for x in a] + [(x.began, "b", x) for x in b])
    if len(a) != len(b):
        return None
    found = []
    for first, second in zip(order[::2], order[1::2]):
        if first[1] == second[1]:
            return None
        found.append((first[2], second[2]) if first[1] == "a" else (second[2], first[2]))
    return found


def rank_sums(ranks):
    """How many of the 2^n choices of signs give each sum of the ranks with a positive sign."""
    counts = {0: 1}
    for rank in ranks:
        more = collections.Counter(counts)
        for total, n in counts.items():
            more[total + rank] += n
        counts = more
    return counts


def signed_rank_p(d):
    """The exact two-sided p-value of Wilcoxon's signed-rank test: the part of all 2^n choices of signs whose rank sum is
    as far from its middle as that of d or further. Equal sizes share their ranks' mean (ranks are doubled: integers)."""
    sizes = sorted(abs(x) for x in d)
    rank = {x: sizes.index(x) + 1 + len(sizes) - sizes[::-1].index(x) for x in set(sizes)}
    counts = rank_sums([rank[x] for x in sizes])
    middle = sum(rank[x] for x in sizes) / 2
    observed = abs(sum(rank[abs(x)] for x in d if x > 0) + sum(rank[0] / 2 for x in d if x == 0) - middle)
    return sum(n for total, n in counts.items() if abs(total - middle) >= observed - 1e-9) / 2 ** len(d)


def estimate(d, alpha):
    """(Hodges and Lehmann's estimate, low, high): the interval of the signed-rank test at that alpha."""
    means = sorted((d[i] + d[j]) / 2 for i in range(len(d)) for j in range(i, len(d)))
    counts, below, cut = rank_sums(range(1, len(d) + 1)), 0, 0
    for total in sorted(counts):  # the cut-off is the largest rank sum that the test still excludes, plus 1
        below += counts[total]
        if 2 * below > alpha * 2 ** len(d):
            break
        cut = total + 1
    if cut == 0:
        return statistics.median(means), -math.inf, math.inf
    return statistics.median(means), means[cut - 1], means[-cut]


def direction(log_ratio):
    return "slower" if log_ratio > 0 else "faster"


def compare_alternating(found, margin, alpha):
    d = [math.log(b.seconds / a.seconds) for a, b in found]
    middle, low, high = estimate(d, alpha)
    if 2 ** (1 - len(d)) > alpha:
        verdict = "unknown (too few pairs)"
    elif signed_rank_p(d) <= alpha and abs(middle) > math.log1p(margin):
        verdict = direction(middle)
    else:
        verdict = "same"
    return Comparison(math.exp(middle), math.exp(low), math.exp(high), verdict, len(d), "in turn")


def compare_separate(a, b, margin):
    a, b = ([math.log(x.seconds) for x in blocks] for blocks in (a, b))
    middle = statistics.median(b) - statistics.median(a)
    low, high = min(b) - max(a), max(b) - min(a)
    gap = max(low, -high)  # between the two ranges; negative where they overlap
    spread = max(max(a) - min(a), max(b) - min(b))
    if min(len(a), len(b)) < 5:
        verdict = "unknown (too few blocks)"
    elif gap > max(math.log1p(margin), spread):
        verdict = direction(middle)
    else:
        verdict = "same"
    return Comparison(math.exp(middle), math.exp(low), math.exp(high), verdict, min(len(a), len(b)), "separate")


def compare(a, b, margin=0.02, alpha=0.01):
    """Blocks of one case of A and of B -> a Comparison, whose ratio and verdict are B's."""
    found = pairs(a, b)
    # (One block of each is no alternation, whichever came first.)
    return compare_alternating(found, margin, alpha) if found and len(found) > 1 else compare_separate(a, b, margin)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", metavar="A.json")
    parser.add_argument("b", metavar="B.json")
    parser.add_argument("--margin", type=float, default=2, metavar="PERCENT", help="smaller differences are none (2)")
    parser.add_argument("--alpha", type=float, default=0.01, help="probability of a false verdict on a case (0.01)")
    parser.add_argument("--csv", action="store_true", help="comma-separated values instead of a table")
    args = parser.parse_args()
    if not args.margin >= 0 or not 0 < args.alpha < 1:
        parser.error("--margin is not negative, --alpha between 0 and 1")
    try:
        a, b = read_blocks(args.a), read_blocks(args.b)
    except (OSError, ValueError) as e:
        print(f"compare.py: {e}", file=sys.stderr)
        return 2
    both = sorted(set(a) & set(b))
    if not both:
        print(f"compare.py: {args.a} and {args.b} have no case in common", file=sys.stderr)
        return 2
    rows = [("case", "threads", "B / A", "from", "to", "blocks", "recorded", "B is")]
    for case, threads in both:
        c = compare(a[case, threads], b[case, threads], args.margin / 100, args.alpha)
        rows.append((case, str(threads), *(f"{x:.3f}" for x in (c.ratio, c.low, c.high)), str(c.blocks), c.how, c.verdict))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print(",".join(row) if args.csv else "  ".join(x.ljust(w) for x, w in zip(row, widths)).rstrip())
    for key in sorted(set(a) ^ set(b)):
        print(f"compare.py: {key[0]} on {key[1]} is in one file alone", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
