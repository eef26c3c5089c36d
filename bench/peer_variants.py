"""The attention variants of `casa_bench --variants` in torch, for compare_peers.py --variants.

A variant stands here if torch has a form of it: its mask as a function for flex_attention (compiled), from which the
dense mask of scaled_dot_product_attention follows, and its score function. The masks are checked against those that
casa_bench wrote, and compare_peers.py checks the results, by error_of_casa() and largest_difference() of this file."""
import csv
import os

GEMMA_CAP = 50
FRAME = 256


def causal(b, h, i, j): return i >= j
def window256(b, h, i, j): return (i >= j) & (i - j < 256)
def sinks4_window256(b, h, i, j): return (i >= j) & ((i - j < 256) | (j < 4))
def frames(b, h, i, j): return (i // FRAME == j // FRAME) & (i >= j)
def prefix_lm(b, h, i, j): return (i >= j) | (j < 512)


def blocks64(torch):
    keep = torch.rand(32, 32, generator=torch.Generator().manual_seed(1)) < .2
    return lambda b, h, i, j: (i >= j) & (keep[i // 64, j // 64] | (i // 64 == j // 64))


def soft_cap(torch, heads):
    return lambda s, b, h, i, j: GEMMA_CAP * torch.tanh(s / GEMMA_CAP)


def alibi(torch, heads):
    slopes = 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads)
    return lambda s, b, h, i, j: s + slopes[h] * (j - i)


MASKS = {**dict.fromkeys(("causal", "causal_4096", "causal_kv2", "soft_cap", "alibi"), causal), "frames": frames,
         **dict.fromkeys(("window256", "soft_cap_window256"), window256), "sinks4_window256": sinks4_window256,
         "prefix_lm": prefix_lm, "blocks64": blocks64}
SCORES = {"soft_cap": soft_cap, "soft_cap_window256": soft_cap, "alibi": alibi}


def largest_difference(a, b):
    """Of two arrays of the same shape; infinite where one has a number that is not finite."""
    import numpy
    difference = numpy.abs(a - b).max()
    return float(difference) if numpy.isfinite(difference) else float("inf")


def error_of_casa(case, sees, score=lambda scores, row: scores):
    """The largest difference of casa's output from the definition in double, on rows from first to last. sees(row)
    chooses the row's keys, as an index of the axis of keys; score(scores, row) changes its scores (heads, keys)."""
    import numpy
    worst = 0.0
    for row in sorted({int(x) for x in numpy.linspace(0, len(case.q) - 1, 40)}):
        seen = sees(row)
        k, v = (x[:, seen].astype(numpy.float64).repeat(case.group, 0) for x in (case.k, case.v))
        scores = score(numpy.einsum("hd,hkd->hk", case.q[row], k) / case.head_dim ** 0.5, row)
        weights = numpy.exp(scores - scores.max(1, keepdims=True))
        exact = numpy.einsum("hk,hkd->hd", weights / weights.sum(1, keepdims=True), v)
        worst = max(worst, largest_difference(exact, case.out[row]))
    return worst


class VariantCase:
    """Inputs and casa's output of one variant. q, out: (rows, num_heads, dim); k, v: (num_kv_heads, keys, dim)."""

    def __init__(self, folder, shape):
        import numpy
        self.name, self.unit, self.work = shape["case"], shape["unit"], float(shape["work"])
        self.heads, self.kv_heads, self.head_dim, value_dim, self.rows, self.keys = (int(shape[k]) for k in (
            "num_heads", "num_kv_heads", "head_dim", "value_dim", "rows", "keys"))
        path = f"{folder}/{self.name}."
        read = lambda what, *form: numpy.fromfile(f"{path}{what}.f32", numpy.float32).reshape(form)
        self.q, self.out = (read(x, self.rows, self.heads, n) for x, n in (("q", self.head_dim), ("out", value_dim)))
        self.k, self.v = (read(x, self.kv_heads, self.keys, n) for x, n in (("k", self.head_dim), ("v", value_dim)))
        self.intervals = numpy.fromfile(f"{path}intervals.i64", numpy.int64).reshape(-1, 2)
        self.offsets = (numpy.fromfile(f"{path}offsets.i64", numpy.int64) if os.path.exists(f"{path}offsets.i64") else
                        numpy.arange(self.rows + 1))

    @property
    def group(self):
        return self.heads // self.kv_heads

    def sees(self, row):
        """The keys that a row sees: (keys,), true and false."""
        import numpy
        seen = numpy.zeros(self.keys, bool)
        for begin, end in self.intervals[self.offsets[row]:self.offsets[row + 1]]:
            seen[begin:end] = True
        return seen

    def error(self, out):
        """The largest difference from casa's output; out holds (1, heads, rows, dim)."""
        import numpy
        return largest_difference(numpy.asarray(out)[0].swapaxes(0, 1), self.out)

    def score(self, scores, row):
        """The row's scores (heads, keys that it sees) as the variant changes them."""
        import numpy
        if "soft_cap" in self.name:
            return GEMMA_CAP * numpy.tanh(scores / GEMMA_CAP)
        if self.name == "alibi":
            slopes = 2.0 ** (-8.0 * numpy.arange(1, self.heads + 1) / self.heads)
            return scores + slopes[:, None] * (numpy.flatnonzero(self.sees(row)) - row)
        return scores

    def error_of_casa(self):
        return error_of_casa(self, self.sees, self.score)


def read_variants(folder):
    with open(f"{folder}/cases.csv", newline="") as file:
        for shape in csv.DictReader(file):
            yield VariantCase(folder, shape)


def torch_variants(c, threads, flex):
    """(name, f, g): f() is timed, and g(f()) has (1, heads, rows, dim)."""
    import torch
    torch.set_num_threads(threads)
    sdpa = torch.nn.functional.scaled_dot_product_attention
    tensor = lambda x: torch.from_numpy(x.copy())[None]
    same = lambda out: out.numpy()
    q, k, v = tensor(c.q.swapaxes(0, 1)), tensor(c.k), tensor(c.v)
    kr, vr = (x.repeat_interleave(c.group, 1) for x in (k, v))
    i, j = torch.arange(c.rows)[:, None], torch.arange(c.keys)[None]
    sees = MASKS[c.name](torch) if c.name == "blocks64" else MASKS[c.name]
    score = SCORES[c.name](torch, c.heads) if c.name in SCORES else None
    mask = sees(0, 0, i, j)
    for row in range(c.rows):
        if not (mask[row].numpy() == c.sees(row)).all():
            raise SystemExit(f"WRONG: row {row} of {c.name} has another mask in torch than in casa_bench")

    if "soft_cap" not in c.name:  # (SDPA takes what is added to scores, and nothing else)
        bias = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
        if c.name == "alibi":
            bias = score(bias, 0, torch.arange(c.heads)[:, None, None], i, j)[None]
        yield "SDPA mask + enable_gqa", lambda: sdpa(q, k, v, attn_mask=bias, enable_gqa=True), same
        yield "SDPA mask + kv heads repeated", lambda: sdpa(q, kr, vr, attn_mask=bias), same
    if sees is causal and score is None:
        yield "SDPA is_causal + enable_gqa", lambda: sdpa(q, k, v, is_causal=True, enable_gqa=True), same
        yield "SDPA is_causal + kv heads repeated", lambda: sdpa(q, kr, vr, is_causal=True), same
    if c.name == "frames":  # the windows as a batch
        batch = lambda x: x.reshape(x.shape[1], -1, FRAME, x.shape[3]).transpose(0, 1).contiguous()
        joined = lambda out: out.transpose(0, 1).reshape(1, c.heads, c.rows, -1).numpy()
        qb, kb, vb, krb, vrb = map(batch, (q, k, v, kr, vr))
        yield "SDPA is_causal + batch + enable_gqa", lambda: sdpa(qb, kb, vb, is_causal=True, enable_gqa=True), joined
        yield "SDPA is_causal + batch + kv heads repeated", lambda: sdpa(qb, krb, vrb, is_causal=True), joined
    if flex:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention
        torch._dynamo.reset()
        blocks = create_block_mask(sees, None, None, c.rows, c.keys, device="cpu", BLOCK_SIZE=128)
        compiled = torch.compile(flex_attention, dynamic=False)
        yield ("flex_attention + kv heads repeated",
               lambda: compiled(q, kr, vr, score_mod=score, block_mask=blocks), same)
        yield ("flex_attention + enable_gqa",
               lambda: compiled(q, k, v, score_mod=score, block_mask=blocks, enable_gqa=True), same)
