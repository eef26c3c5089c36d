#!/usr/bin/env python3
"""Tests of compare.py on made-up samples: python3 bench/test_compare.py"""
import itertools
import json
import math
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

import compare


def alternating(rng, ratio, rounds=12, noise=0.01, drift=0.05, hiccups=0.1):
    """Blocks of A and B in pairs of random order, B `ratio` times as slow, on a machine that drifts and has hiccups."""
    lists, clock, level = ([], []), 0.0, 0.0
    for _ in range(rounds):
        for which in rng.sample((0, 1), 2):
            level += rng.gauss(0, drift / 10)  # the machine's own way, the same for both programs
            hiccup = rng.expovariate(5) if rng.random() < hiccups else 0
            lists[which].append(compare.Block(clock, math.exp(level + rng.gauss(0, noise) + hiccup) * (ratio if which else 1)))
            clock += 1
    return lists


def separate(rng, ratio, blocks=5, noise=0.02, apart=0.0):
    first = [compare.Block(i, math.exp(rng.gauss(0, noise))) for i in range(blocks)]
    return first, [compare.Block(100 + i, ratio * math.exp(apart + rng.gauss(0, noise))) for i in range(blocks)]


def verdicts(make, count=300, **options):
    found = [compare.compare(*make(random.Random(seed)), **options).verdict for seed in range(count)]
    return {v: found.count(v) for v in set(found)}


class SignedRank(unittest.TestCase):
    def test_no_more_of_all_sign_choices_than_alpha_are_called_different(self):
        for sizes in ((1, 2, 3, 4, 5, 6, 7, 8), (1, 1, 1, 2, 2, 5, 5, 9), (3,) * 8):
            p = [compare.signed_rank_p([s * x for s, x in zip(signs, sizes)])
                 for signs in itertools.product((-1, 1), repeat=len(sizes))]
            for alpha in (0.01, 0.02, 0.05, 0.2, 0.5):
                self.assertLessEqual(sum(x <= alpha for x in p), alpha * len(p))
            self.assertEqual(min(p), 2 / 256)

    def test_known_value(self):
        # 6 differences of which the smallest two are negative: W = 3, p = 2 * (1 + 1 + 1 + 2) / 64
        self.assertAlmostEqual(compare.signed_rank_p([-1, -2, 3, 4, 5, 6]), 10 / 64)

    def test_differences_of_zero_show_nothing(self):
        self.assertEqual(compare.signed_rank_p([0.0] * 10), 1)

    def test_the_interval_is_what_the_test_does_not_exclude(self):
        rng = random.Random(1)
        for n in (8, 10, 15):
            d = [rng.gauss(0.1, 1) for _ in range(n)]
            _, low, high = compare.estimate(d, 0.01)
            for inside in (low + 1e-6, high - 1e-6):
                self.assertGreater(compare.signed_rank_p([x - inside for x in d]), 0.01)
            for outside in (low - 1e-6, high + 1e-6):
                self.assertLessEqual(compare.signed_rank_p([x - outside for x in d]), 0.01)

    def test_seven_pairs_exclude_nothing(self):
        self.assertEqual(compare.estimate([1, 2, 3, 4, 5, 6, 7], 0.01)[1:], (-math.inf, math.inf))


class Verdicts(unittest.TestCase):
    def test_the_same_program_in_turn_however_the_machine_drifts(self):
        for noise, drift in ((0.005, 0.0), (0.05, 0.2), (0.02, 1.0)):
            found = verdicts(lambda rng: alternating(rng, 1, noise=noise, drift=drift), count=1000, margin=0)
            self.assertGreaterEqual(found["same"], 980, found)  # of 1000; at most 2 in 100 are false

    def test_a_difference_in_turn_is_found_with_its_direction(self):
        found = verdicts(lambda rng: alternating(rng, 1.10, hiccups=0.02))
        self.assertGreater(found["slower"], 270, found)
        self.assertNotIn("faster", found)
        found = verdicts(lambda rng: alternating(rng, 1 / 1.10, hiccups=0.02))
        self.assertGreater(found["faster"], 270, found)
        self.assertNotIn("slower", found)

    def test_the_ratio_is_of_b_over_a_and_in_its_interval(self):
        c = compare.compare(*alternating(random.Random(3), 1.5, noise=0.001, drift=0, hiccups=0))
        self.assertAlmostEqual(c.ratio, 1.5, delta=0.01)
        self.assertTrue(c.low <= c.ratio <= c.high)
        self.assertEqual((c.blocks, c.how), (12, "in turn"))

    def test_what_is_within_the_margin_is_the_same(self):
        make = lambda rng: alternating(rng, 1.01, noise=0.0005, drift=0, hiccups=0)
        self.assertEqual(set(verdicts(make, margin=0.02)), {"same"})
        self.assertEqual(set(verdicts(make, margin=0.0, count=20)), {"slower"})

    def test_too_few_pairs_are_no_verdict(self):
        self.assertTrue(compare.compare(*alternating(random.Random(1), 2, rounds=7)).verdict.startswith("unknown"))
        self.assertEqual(compare.compare(*alternating(random.Random(1), 2, rounds=8, noise=0, drift=0, hiccups=0)).verdict, "slower")

    def test_files_recorded_one_after_the_other(self):
        found = verdicts(lambda rng: separate(rng, 1))
        self.assertGreaterEqual(found["same"], 294, found)
        self.assertEqual(set(verdicts(lambda rng: separate(rng, 1.5))), {"slower"})
        self.assertEqual(set(verdicts(lambda rng: separate(rng, 1 / 1.5))), {"faster"})
        c = compare.compare(*separate(random.Random(1), 1.5, blocks=4))
        self.assertTrue(c.verdict.startswith("unknown"))
        self.assertEqual(c.how, "separate")

    def test_one_block_each_is_no_alternation(self):
        self.assertEqual(compare.compare(*separate(random.Random(1), 2, blocks=1)).how, "separate")


class Pairs(unittest.TestCase):
    def test_neighbours_in_time_are_pairs_in_any_order(self):
        a, b = ([compare.Block(t, 1.0) for t in times] for times in ((0, 3, 4), (1, 2, 5)))
        self.assertEqual([(x.began, y.began) for x, y in compare.pairs(a, b)], [(0, 1), (3, 2), (4, 5)])

    def test_two_of_one_program_in_a_row_are_none(self):
        a, b = ([compare.Block(t, 1.0) for t in times] for times in ((0, 1), (2, 3)))
        self.assertIsNone(compare.pairs(a, b))
        self.assertIsNone(compare.pairs(a, b[:1]))


class Files(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def write(self, name, ratio, threads=1, start=0, case="causal"):
        blocks = [{"case": case, "began": start + 2 * i, "cpu": [ratio, 1.01 * ratio], "wall": [9, 9]} for i in range(8)]
        (self.folder / name).write_text(json.dumps({"runs": [{"threads": threads, "blocks": blocks}]}))

    def run_compare(self, *args):
        return subprocess.run([sys.executable, compare.__file__, *args], cwd=self.folder, capture_output=True, text=True)

    def test_table(self):
        self.write("a.json", 1), self.write("b.json", 1.2, start=1)
        done = self.run_compare("a.json", "b.json", "--csv")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(done.stdout.splitlines()[1], "causal,1,1.200,1.200,1.200,8,in turn,slower")

    def test_several_threads_are_compared_on_the_wall_clock(self):
        self.write("a.json", 1, threads=2), self.write("b.json", 1.2, threads=2, start=1)
        self.assertIn("same", self.run_compare("a.json", "b.json").stdout)

    def test_what_cannot_be_compared(self):
        self.write("a.json", 1), self.write("b.json", 1, threads=2)
        done = self.run_compare("a.json", "b.json")
        self.assertEqual(done.returncode, 2)
        self.assertIn("no case in common", done.stderr)
        for text in ("", "[]", "{}", '{"runs": [{"threads": 1, "blocks": [{"case": "x", "began": 0, "cpu": []}]}]}',
                     '{"runs": [{"threads": 1, "blocks": [{"case": "x", "began": 0, "cpu": [0]}]}]}'):
            (self.folder / "bad.json").write_text(text)
            done = self.run_compare("a.json", "bad.json")
            self.assertEqual(done.returncode, 2, text)
            self.assertIn("bad.json is no file", done.stderr)
        self.assertEqual(self.run_compare("a.json", "none.json").returncode, 2)

    def test_interleave_names_a_program_it_cannot_run_and_writes_nothing_without_a_case(self):
        interleave = pathlib.Path(compare.__file__).with_name("interleave.py")
        (self.folder / "a.json").write_text("old")
        for program, message in (("/no/such", "cannot run /no/such: No such file"), ("/bin/true", "no case in common")):
            done = subprocess.run([sys.executable, interleave, program, program, self.folder / "a.json",
                                   self.folder / "b.json"], capture_output=True, text=True)
            self.assertEqual(done.returncode, 1)
            self.assertIn(message, done.stderr)
            self.assertNotIn("Traceback", done.stderr)
        self.assertEqual((self.folder / "a.json").read_text(), "old")


if __name__ == "__main__":
    unittest.main()
