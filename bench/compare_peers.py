#!/usr/bin/env python3
"""How fast is casa's attention beside torch and ONNX Runtime: the same inputs, the same results, one run?

    python3 -m venv peers && peers/bin/pip install numpy torch onnxruntime onnx
    peers/bin/python bench/compare_peers.py --casa-bench build/bench/casa_bench

The cases are those of `casa_bench --csv` (float, 16 query heads of 128): a document (one image, then text), causal
attention and token insertion, CASA on streams of many windows with 8 and 2 kv heads, and decode over a cache. Their
inputs and casa's outputs are written by casa_bench (--problems) and read by the other libraries.

Before anything is timed, casa's outputs are checked against a definition in double on rows of every case, and every
peer's whole output against casa's. What differs by more than --tolerance is not timed, and the exit status is 1.

A round is one process for each program, one after the other, beginning with the next program each time; each measures
for --seconds a case, on the wall clock, after a warm-up. The machine's limits (multiply-adds, reads of memory) are
measured in casa's process. Rates are GFLOP/s of useful work (4 head_dim for each visible pair and head), for decode GB/s
of keys and values. The tables give two numbers: of medians (the median over the rounds of each round's median) and of
the fastest run of all rounds. The first ratio is the median of the rounds' ratios. On a busy machine only the second
numbers mean something, and on any machine only numbers of one run can be compared.

With --variants, the cases are those attention variants of `casa_bench --variants` that torch has a form of, too
(peer_variants.py): sliding windows, chosen blocks, soft caps and others, with flex_attention and SDPA. --cpu then measures
one thread in its processor time, which other jobs on the machine change less than the wall clock.

What a peer is given is prepared in its favour and not timed: keys in its own layout, kv heads repeated where that is
faster, masks made; "join timed" says that image and text keys are concatenated in the timed part, as a stream that
keeps images and text apart must. A peer that is not installed is left out, and named below the tables.
"""
import argparse
import collections
import csv
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import peer_variants

COLUMNS = ("bench", "case", "impl", "threads", "min_s", "med_s", "work", "unit")
NEEDED = {"torch": ("torch",), "onnxruntime": ("onnxruntime", "onnx")}  # packages of PyPI, also the modules' names
BUILD = ("cmake -B build -DCASA_BUILD_BENCHMARKS=ON -DCASA_BUILD_TESTS=OFF && "
         "cmake --build build --target casa_bench")
MOST_SCORES = 2 ** 27  # an implementation that stores all scores or a mask of them is given at most so many


def note(text):
    print(text, file=sys.stderr, flush=True)


# --- The cases ------------------------------------------------------------------------------------------------------

class Case:
    """Inputs and casa's output of one case: `windows` windows of `image` tokens that are keys alone, then `text` tokens
    that are queries and keys, each of which sees its window up to itself. Causal attention is one window without an
    image, and a decode step one window of one text token.

    q, out: (rows, num_heads, head_dim); k, v: (num_kv_heads, keys, head_dim); intervals: (rows, 2)."""

    def __init__(self, folder, shape):
        import numpy
        self.name, self.unit, self.work = shape["case"], shape["unit"], float(shape["work"])
        self.heads, self.kv_heads, self.head_dim = (int(shape[k]) for k in ("num_heads", "num_kv_heads", "head_dim"))
        rows, keys = int(shape["rows"]), int(shape["keys"])
        path = f"{folder}/{self.name}."
        self.q, self.out = (numpy.fromfile(f"{path}{x}.f32", numpy.float32).reshape(rows, self.heads, self.head_dim)
                            for x in ("q", "out"))
        self.k, self.v = (numpy.fromfile(f"{path}{x}.f32", numpy.float32).reshape(self.kv_heads, keys, self.head_dim)
                          for x in ("k", "v"))
        self.intervals = numpy.fromfile(f"{path}intervals.i64", numpy.int64).reshape(rows, 2)
        self.windows = len(numpy.unique(self.intervals[:, 0]))
        self.text = rows // self.windows
        self.image = keys // self.windows - self.text
        row, window = numpy.arange(rows) % self.text, numpy.arange(rows) // self.text
        begin = window * (keys // self.windows)
        if not (numpy.stack([begin, begin + self.image + row + 1], 1) == self.intervals).all():
            raise SystemExit(f"{self.name} is not windows of image and text: this program does not know such a case")

    @property
    def group(self):
        return self.heads // self.kv_heads

    def mask(self):
        """(text, image + text), true where a text token of a window sees a key of the window."""
        import numpy
        return numpy.tri(self.text, self.image + self.text, self.image, dtype=bool)

    def window_queries(self):
        """(windows, heads, text, head_dim)"""
        return self.q.reshape(self.windows, self.text, self.heads, self.head_dim).swapaxes(1, 2).copy()

    def window_keys(self):
        """Keys and values, each (windows, kv_heads, image + text, head_dim)"""
        shape = (self.kv_heads, self.windows, self.image + self.text, self.head_dim)
        return tuple(x.reshape(shape).swapaxes(0, 1).copy() for x in (self.k, self.v))

    def error(self, out):
        """The largest difference from casa's output; out holds (windows, heads, text, head_dim)."""
        import numpy
        out = numpy.asarray(out).reshape(self.windows, self.heads, self.text, self.head_dim).swapaxes(1, 2)
        return peer_variants.largest_difference(out.reshape(self.out.shape), self.out)

    def error_of_casa(self):
        return peer_variants.error_of_casa(self, lambda row: slice(*self.intervals[row]))


def read_cases(folder):
    with open(f"{folder}/cases.csv", newline="") as file:
        for shape in csv.DictReader(file):
            yield Case(folder, shape)


# --- The other libraries: each yields (name, f, g); f() is timed, and g(f()) has (windows, heads, text, head_dim) ---

def torch_implementations(c, threads, flex):
    import torch
    torch.set_num_threads(threads)
    sdpa = torch.nn.functional.scaled_dot_product_attention
    tensor = lambda x: torch.from_numpy(x.copy())
    same = lambda out: out.numpy()
    q, (k, v) = tensor(c.window_queries()), map(tensor, c.window_keys())
    repeated = lambda x: x.repeat_interleave(c.group, 1)
    kr, vr = repeated(k), repeated(v)
    mask = tensor(c.mask())
    bias = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)

    if c.text == 1:  # a decode step sees the whole cache
        yield "SDPA + enable_gqa", lambda: sdpa(q, k, v, enable_gqa=True), same
        yield "SDPA + kv heads repeated", lambda: sdpa(q, kr, vr), same
    elif c.image == 0:
        yield "SDPA is_causal + enable_gqa", lambda: sdpa(q, k, v, is_causal=True, enable_gqa=True), same
        yield "SDPA is_causal + kv heads repeated", lambda: sdpa(q, kr, vr, is_causal=True), same
    else:
        yield "SDPA mask + enable_gqa", lambda: sdpa(q, k, v, attn_mask=bias, enable_gqa=True), same
        yield "SDPA mask + kv heads repeated", lambda: sdpa(q, kr, vr, attn_mask=bias), same

    # The query heads of one kv head as rows of one head: keys are read once for all of them.
    if c.text == 1 or c.image:
        stacked = q.reshape(c.windows, c.kv_heads, c.group * c.text, c.head_dim)
        rows = None if c.text == 1 else bias.repeat(c.group, 1)
        yield "SDPA + heads stacked", lambda: sdpa(stacked, k, v, attn_mask=rows), same
    if c.image and c.text > 1:
        ki, vi, kt, vt = (x.contiguous() for x in (k[:, :, :c.image], v[:, :, :c.image], k[:, :, c.image:],
                                                   v[:, :, c.image:]))
        yield ("SDPA + heads stacked + join timed",
               lambda: sdpa(stacked, torch.cat([ki, kt], 2), torch.cat([vi, vt], 2), attn_mask=rows), same)

    # The whole stream as one sequence, with a mask that keeps the windows apart.
    by_window = lambda out: out.reshape(c.heads, c.windows, c.text, c.head_dim).transpose(0, 1).numpy()
    joined = lambda x: x.transpose(0, 1).reshape(1, c.heads, -1, c.head_dim).contiguous()
    if c.windows > 1 and c.heads * mask.numel() * c.windows ** 2 <= MOST_SCORES:
        qj, kj, vj, dense = joined(q), joined(kr), joined(vr), torch.block_diag(*[mask] * c.windows).bool()
        yield "SDPA + one mask for the stream", lambda: sdpa(qj, kj, vj, attn_mask=dense), by_window
    if flex and c.text > 1:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention
        span, text, image = c.image + c.text, c.text, c.image

        def sees(_, __, i, j):
            return (i // text == j // span) & (j % span <= image + i % text)
        blocks = create_block_mask(sees, None, None, c.windows * text, c.windows * span, device="cpu")
        compiled, qj, kj, vj = torch.compile(flex_attention, dynamic=False), joined(q), joined(kr), joined(vr)
        yield "flex_attention + compiled", lambda: compiled(qj, kj, vj, block_mask=blocks), by_window


def onnxruntime_implementations(c, threads, _):
    import numpy
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper
    k, v = c.window_keys()
    tokens = lambda x: x.swapaxes(1, 2).reshape(len(x), x.shape[2], -1).copy()  # (windows, tokens, heads * head_dim)
    by_head = lambda outs: numpy.concatenate(outs).reshape(c.windows, c.text, c.heads, c.head_dim).swapaxes(1, 2)

    def session(op, domain, inputs, outputs, **attributes):
        """inputs: name -> array or None for one that is left out; the first output is asked for alone."""
        types = {numpy.dtype(numpy.float32): TensorProto.FLOAT, numpy.dtype(numpy.int32): TensorProto.INT32}
        infos = [helper.make_tensor_value_info(n, types[x.dtype], x.shape) for n, x in inputs.items() if x is not None]
        node = helper.make_node(op, [n if x is not None else "" for n, x in inputs.items()], outputs, domain=domain,
                                **attributes)
        graph = helper.make_graph([node], "attention", infos,
                                  [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23),
                                                        helper.make_opsetid("com.microsoft", 1)])
        model.ir_version = 10
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    # GroupQueryAttention: images are the past, text the new tokens, whose causal mask is then CASA's. With more than one
    # new token behind a past it takes one sequence at a time, so a stream is one call a window.
    q, new_k, new_v = tokens(c.window_queries()), tokens(k[:, :, c.image:]), tokens(v[:, :, c.image:])
    inputs = [{"query": q[w:w + 1], "key": new_k[w:w + 1], "value": new_v[w:w + 1],
               "past_key": k[w:w + 1, :, :c.image].copy(), "past_value": v[w:w + 1, :, :c.image].copy(),
               "seqlens_k": numpy.array([c.image + c.text - 1], numpy.int32),
               "total_sequence_length": numpy.array([c.image + c.text], numpy.int32)} for w in range(c.windows)]

    def grouped():
        s = session("GroupQueryAttention", "com.microsoft", inputs[0], ["out", "present_key", "present_value"],
                    num_heads=c.heads, kv_num_heads=c.kv_heads)
        return lambda: [s.run(["out"], x)[0] for x in inputs]
    yield "GroupQueryAttention + image as past", grouped, by_head

    # ONNX's own Attention takes all windows at once and stores the scores.
    if c.windows * c.heads * c.text * (c.image + c.text) <= MOST_SCORES:
        bias = numpy.where(c.mask(), numpy.float32(0), numpy.float32("-inf"))
        whole = {"Q": q, "K": tokens(k), "V": tokens(v), "attn_mask": bias}

        def standard():
            s = session("Attention", "", whole, ["Y"], q_num_heads=c.heads, kv_num_heads=c.kv_heads)
            return lambda: s.run(["Y"], whole)
        yield "Attention + mask", standard, by_head


def work_as_peer(peer, threads, folder, seconds, tolerance, variants, flex, cpu, verbose):
    """A process of its own: checks and times what the library can do, one CSV line each."""
    wrong = False
    implementations = {"torch": torch_implementations, "onnxruntime": onnxruntime_implementations}[peer]
    if variants:
        implementations = peer_variants.torch_variants
    for c in (peer_variants.read_variants if variants else read_cases)(folder):
        made = implementations(c, threads, flex)
        for name, f, g in made:
            label = f"{peer} {name}"
            try:
                with inference_mode(peer):
                    if peer == "onnxruntime":  # f makes the session
                        f = f()
                    error = c.error(g(f()))
                    if not error <= tolerance:
                        wrong = True
                        note(f"# WRONG {c.name}, {label}: differs from casa by {error:.1e}, not timed")
                        continue
                    if verbose:
                        note(f"# {c.name}, {label}: differs from casa by {error:.1e}")
                    times = measure(f, seconds, time.thread_time if cpu else time.perf_counter)
            except Exception as e:  # what a library cannot do is said, and the others go on
                note(f"# left out {c.name}, {label}: {type(e).__name__}: {(str(e).splitlines() or [''])[0][:160]}")
                continue
            print(",".join(map(str, ("variants" if variants else "attention", c.name, label, threads, f"{times[0]:.9g}",
                                     f"{statistics.median(times):.9g}", f"{c.work:.9g}", c.unit))), flush=True)
    return 1 if wrong else 0


def inference_mode(peer):
    import contextlib
    if peer != "torch":
        return contextlib.nullcontext()
    import torch
    return torch.inference_mode()


def measure(f, seconds, clock):
    """Sorted times of f(): three or more, until so many seconds have passed."""
    f()
    times, begin = [], time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - begin < seconds and len(times) < 2000):
        start = clock()
        f()
        times.append(clock() - start)
    return sorted(times)


# --- The run --------------------------------------------------------------------------------------------------------

class Results:
    """The lines of all rounds."""

    def __init__(self, path):
        self.medians = collections.defaultdict(dict)  # (case, impl, threads) -> round -> rate of the median time
        self.fastest = collections.defaultdict(float)  # (case, impl, threads) -> rate of the shortest time
        self.units, self.file = {}, open(path, "w") if path else None
        self.write(",".join(COLUMNS))

    def write(self, line):
        if self.file:
            print(line, file=self.file, flush=True)

    def add(self, line, number):
        _, case, impl, threads, least, median, work, unit = line.split(",")
        key = case, impl, int(threads)
        self.medians[key][number] = float(work) / float(median)
        self.fastest[key] = max(self.fastest[key], float(work) / float(least))
        self.units[case] = unit
        self.write(line)

    def rates(self, key):
        """(of the medians, of the fastest run)"""
        return statistics.median(self.medians[key].values()), self.fastest[key]

    def ratios(self, ours, theirs):
        rounds = self.medians[theirs]
        return (statistics.median(self.medians[ours][n] / rounds[n] for n in rounds),
                self.fastest[ours] / self.fastest[theirs])

    def limits(self):
        return [key for key in self.medians if key[0].startswith(("fma_", "read_"))]

    def limit(self, unit, threads):
        return next(self.rates(key) for key in self.limits() if key[2] == threads and self.units[key[0]] == unit)


def table(heads, rows):
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in (heads, ["---"] * len(heads), *rows))


def pair(values, digits):
    return ", ".join(f"{x:.{digits}f}" for x in values)


def tables(results):
    best, every = [], []
    for ours in [key for key in results.medians if key[1] == "casa"]:
        case, _, threads = ours
        unit = results.units[case]

        def rate(key):
            rates = results.rates(key)
            return pair(rates, 1), pair((100 * x / limit for x, limit in zip(rates, results.limit(unit, threads))), 0)
        peers = sorted((key for key in results.medians if (key[0], key[2]) == (case, threads) and key != ours),
                       key=lambda key: results.ratios(ours, key)[1])
        rows = [(case, threads, key[1], *rate(key), unit + "/s", pair(results.ratios(ours, key), 2)) for key in peers]
        best.append((case, threads, *rate(ours), unit + "/s", *((rows[0][2], *rows[0][3:5], rows[0][6]) if rows else
                                                                ("none", "", "", ""))))
        every += rows
    limits = [f"{key[0]} on {key[2]}: {pair(results.rates(key), 1)} {results.units[key[0]]}/s" for key in results.limits()]
    return "\n\n".join([
        "Two numbers each: of medians, of the fastest run.",
        table(("case", "threads", "casa", "% of limit", "", "best peer", "its rate", "% of limit", "casa over it"), best),
        *([table(("case", "threads", "peer", "rate", "% of limit", "", "casa over it"), every)] if every else []),
        "Limits: " + "; ".join(limits)])


def run(command, results, number, environment, quiet):
    """Runs one program and adds its lines; its stderr is passed on unless quiet. Returns its exit status."""
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True, env=environment,
                               stderr=subprocess.DEVNULL if quiet else None)
    for line in process.stdout:
        fields = line.strip().split(",")
        if len(fields) == len(COLUMNS) and fields[3].isdigit():
            results.add(line.strip(), number)
    return process.wait()


def environment(threads):
    """OPENBLAS_CORETYPE and the like would slow numpy-based libraries down; thread counts are the same for all."""
    kept = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}
    return {**kept, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))}


def chosen_peers(wanted, notes):
    there = []
    for peer in wanted:
        missing = [package for package in NEEDED[peer] if importlib.util.find_spec(package) is None]
        if missing:
            notes.append(f"{peer} is left out, because {' and '.join(missing)} cannot be imported: "
                         f"{sys.executable} -m pip install {' '.join(NEEDED[peer])}")
        else:
            there.append(peer)
    return there


def casa_command(args, threads):
    cases = (["--variants", "--case", args.cases, "--rounds", 1, "--seconds", args.seconds,
              *["--cpu"] * args.cpu] if args.variants else ["--cases", args.cases])
    return [args.casa_bench, "--csv", *cases, "--threads", threads]


def chosen_variants(args):
    """The names of the variants that both casa_bench and torch have, and --cases finds, separated by commas."""
    there = subprocess.run([args.casa_bench, "--variants", "--list"], capture_output=True, text=True, check=True)
    names = [n for n in there.stdout.split() if n in peer_variants.MASKS and re.search(args.cases, n)]
    if not names:
        raise SystemExit(f"--cases: no variant matches {args.cases!r}; there are: {' '.join(peer_variants.MASKS)}")
    return ",".join(names)


def check_casa(args, folder):
    """casa's outputs, written to the folder, against the definition in double."""
    command = [*casa_command(args, max(args.threads)), "--problems", folder]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{args.casa_bench} ended with {done.returncode}: {done.stderr.strip()}")
    for line in done.stderr.splitlines():
        if not line.startswith("columns:"):
            note(f"# {line}")  # how casa was built, and a warning if it could be faster
    for c in (peer_variants.read_variants if args.variants else read_cases)(folder):
        error = c.error_of_casa()
        if not error <= args.tolerance:
            raise SystemExit(f"WRONG: casa's output of {c.name} differs from the definition in double by {error:.1e}")
        note(f"# {c.name}, casa: differs from the definition in double by {error:.1e}")
    return done.stderr.splitlines()[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--casa-bench", type=pathlib.Path, default=pathlib.Path("build/bench/casa_bench"))
    parser.add_argument("--peers", type=lambda s: s.split(","), default="torch,onnxruntime")
    parser.add_argument("--cases", default="", metavar="REGEX", help="the cases whose name REGEX finds (all)")
    parser.add_argument("--threads", type=lambda s: list(map(int, s.split(","))), default="1", help="1, or 1,2 ...")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each implementation and case in a round")
    parser.add_argument("--tolerance", type=float, default=2e-5, help="of the largest difference of two results")
    parser.add_argument("--variants", action="store_true", help="attention variants instead of the usual cases, with "
                        "torch alone, and with --flex")
    parser.add_argument("--cpu", action="store_true", help="with --variants on one thread: in processor time")
    parser.add_argument("--flex", action="store_true", help="torch's compiled flex_attention, too: needs a C++ compiler "
                        "and compiles for a minute a case in each round")
    parser.add_argument("--csv", type=pathlib.Path, help="write all lines here: what plot.py --peers reads")
    args = parser.parse_args()
    if args.rounds < 1 or min(args.threads) < 1 or not set(args.peers) <= set(NEEDED):
        parser.error(f"--rounds and --threads are positive, --peers are of {', '.join(NEEDED)}")
    if args.cpu and not (args.variants and args.threads == [1]):
        parser.error("--cpu goes with --variants and one thread")
    if importlib.util.find_spec("numpy") is None:
        raise SystemExit(f"numpy is not installed: {sys.executable} -m pip install numpy")
    if not args.casa_bench.is_file():
        raise SystemExit(f"no program {args.casa_bench}: give its path with --casa-bench, or build it:\n  {BUILD}")
    args.casa_bench, notes = args.casa_bench.resolve(), []
    if args.variants:
        args.peers, args.flex, args.cases = ["torch"], True, chosen_variants(args)
    peers = chosen_peers(args.peers, notes)
    if not peers:
        raise SystemExit("\n".join([*notes, "no library is left to compare with"]))
    for line in notes:
        note(f"# {line}")

    load, wrong, results = os.getloadavg()[0], False, Results(args.csv)
    with tempfile.TemporaryDirectory(prefix="casa-peers-") as folder:
        built = check_casa(args, folder)
        for number in range(args.rounds):
            for threads in args.threads:
                at = number % (len(peers) + 1)
                turn = ["casa", *peers]
                for program in turn[at:] + turn[:at]:
                    command = ([*casa_command(args, threads), "--limits"] if program == "casa" else
                               [sys.executable, "-W", "ignore", __file__, "--worker", program, threads, folder,
                                args.seconds, args.tolerance, int(args.variants), int(args.flex), int(args.cpu),
                                int(number == 0)])
                    status = run(command, results, number, environment(threads), quiet=program == "casa")
                    if status != 0 and program == "casa":
                        raise SystemExit(f"{args.casa_bench} ended with {status}")
                    if status != 0:
                        wrong = True
                        notes.append(f"{program} ended with {status} in round {number + 1}")
                note(f"# round {number + 1} of {args.rounds} on {threads}: done")
    versions = [f"{p} {importlib.metadata.version(p)}" for p in peers]
    notes.append(f"{'; '.join([built, *versions])}; rounds: {args.rounds}; load of the machine before: {load:.2f}")
    print("\n\n".join([tables(results), *notes]))
    return 1 if wrong else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _, _, peer, threads, folder, seconds, tolerance, *flags = sys.argv
        sys.exit(work_as_peer(peer, int(threads), folder, float(seconds), float(tolerance), *(f == "1" for f in flags)))
    sys.exit(main())
