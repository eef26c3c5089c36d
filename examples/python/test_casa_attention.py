#!/usr/bin/env python3
"""casa_attention against a definition in numpy (float64), and against torch where it is installed.

    PYTHONPATH=build python3 test_casa_attention.py
"""
import threading

import numpy as np

import casa_attention as casa

try:
    import torch
except ImportError:
    torch = None

random = np.random.default_rng(1)


def normal(*shape, dtype=np.float32):
    return random.standard_normal(shape).astype(dtype)


def visible(mask, keys):
    """Which keys each row sees (rows, keys), of a mask in either form."""
    places = np.arange(keys)
    if not isinstance(mask, tuple):
        return (mask[:, :1] <= places) & (places < mask[:, 1:])
    intervals, offsets = mask
    sees = np.zeros((len(offsets) - 1, keys), bool)
    for row, (begin, end) in enumerate(zip(offsets[:-1], offsets[1:])):
        for first, last in intervals[begin:end]:
            sees[row, first:last] = True
    return sees


def definition(q, k, v, mask, scale=None):
    """Attention in float64, and how far a result in q's type may be from it."""
    eps = np.finfo(q.dtype).eps
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    rows, heads, dim = q.shape
    scale = 1 / np.sqrt(dim) if scale is None else scale
    k, v = (np.repeat(x, heads // x.shape[1], axis=1) for x in (k, v))
    scores = scale * np.einsum("rhd,khd->rhk", q, k)
    scores = np.where(visible(mask, len(k))[:, None, :], scores, -np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        largest = scores.max(axis=2, keepdims=True, initial=-np.inf)
        weights = np.nan_to_num(np.exp(scores - np.where(np.isfinite(largest), largest, 0)))
        total = weights.sum(axis=2, keepdims=True)
        lse = (largest + np.log(total))[..., 0]
        out = np.einsum("rhk,khd->rhd", weights / np.where(total > 0, total, 1), v)
    # A score is a sum of products, off by eps times the sum of their sizes; a softmax shifts by as
    # much, and a mean of values by that times the largest value (the rule of casa's own tests).
    size = scale * np.einsum("rhd,khd->rhk", abs(q), abs(k)).max(initial=0)
    return (out, eps * abs(v).max(initial=0) * (1 + size),
            lse, 2 * eps * (1 + size + np.log(max(1, len(k)))))


def check(got, q, k, v, mask, scale=None):
    out, out_bound, lse, lse_bound = definition(q, k, v, mask, scale)
    got_out, got_lse = got
    assert got_out.shape == q.shape and got_out.dtype == q.dtype
    assert got_lse.shape == q.shape[:2] and got_lse.dtype == q.dtype
    assert np.isfinite(got_out).all() and abs(got_out - out).max(initial=0) <= out_bound
    seen = np.isfinite(lse)
    assert (got_lse[~seen] == -np.inf).all()
    assert abs(got_lse[seen] - lse[seen]).max(initial=0) <= lse_bound


def full(rows, keys):
    return np.tile(np.array([0, keys]), (rows, 1))


def refused(part, function, *arguments, error=casa.Error, **named):
    try:
        function(*arguments, **named)
    except error as e:
        assert part in str(e), f"expected {part!r} in {e}"
    else:
        raise AssertionError(f"not refused: {part}")


def test_masks():
    assert casa.causal(3, 5).tolist() == [[0, 3], [0, 4], [0, 5]]
    assert casa.causal(4, 2).tolist() == [[0, 0], [0, 0], [0, 1], [0, 2]]
    assert casa.sliding_window(4, 4, 2).tolist() == [[0, 1], [0, 2], [1, 3], [2, 4]]
    cu_q, cu_k = np.array([0, 2, 3], np.int32), np.array([0, 3, 5], np.int32)
    assert casa.documents(cu_q, cu_k).tolist() == [[0, 2], [0, 3], [3, 5]]
    assert casa.documents(cu_q, cu_k, causal=False).tolist() == [[0, 3], [0, 3], [3, 5]]
    # Two frames of 4 image tokens, 3 words after each: the figure of the README.
    frames = [(0, 4), (3, 4)]
    assert casa.casa_windows(6, frames).tolist() == [[0, 5], [0, 6], [0, 7], [7, 12], [7, 13], [7, 14]]
    assert casa.casa_windows(6, frames, keys="image").tolist() == [[0, 4]] * 3 + [[4, 8]] * 3
    assert casa.casa_windows(6, frames, history="all").tolist()[3] == [0, 12]
    refused("keys must be", casa.casa_windows, 6, frames, keys="words")
    refused("sorted", casa.casa_windows, 6, frames[::-1])
    refused("window must be positive", casa.sliding_window, 4, 4, 0)


def test_attend():
    for dtype in np.float32, np.float64:
        for rows, keys, heads, kv_heads, dim in ((37, 60, 4, 2, 24), (1, 300, 6, 1, 64), (5, 7, 2, 2, 3)):
            q, k, v = (normal(n, h, dim, dtype=dtype)
                       for n, h in ((rows, heads), (keys, kv_heads), (keys, kv_heads)))
            masks = [full(rows, keys), casa.causal(rows, keys), casa.sliding_window(rows, keys, 9)]
            masks.append(np.minimum(random.integers(0, keys + 1, (rows, 2)), keys))  # some see nothing
            for mask in masks:
                check(casa.attend(q, k, v, mask, lse=True), q, k, v, mask)
            check(casa.attend(q, k, v, lse=True, scale=0.1), q, k, v, masks[0], 0.1)
            assert np.array_equal(casa.attend(q, k, v), casa.attend(q, k, v, masks[0]))


def test_lists():
    causal = np.tri(40, dtype=bool)
    apart = np.arange(40)[:, None] - np.arange(40)  # row - key
    sinks = causal & ((apart < 7) | (np.arange(40) < 2))
    near = (abs(apart) < 4) | np.isin(np.arange(40), [3, 30]) | np.isin(np.arange(40), [3, 30])[:, None]
    blocks = np.kron([[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 0, 0, 0]], np.ones((10, 10))) > 0
    cases = [(casa.sinks_window(40, 40, 2, 7), sinks),
             (casa.sinks_window(9, 40, 2, 7), sinks[-9:]),
             (casa.global_window(40, 40, 4, [3, 30]), near),
             (casa.block_sparse(40, 40, 10, [[0, 2], [1, 3], [0, 2], []]), blocks),
             (casa.unite(casa.sinks_window(40, 40, 2, 7), casa.block_sparse(40, 40, 10, [[0], [2], [1], [3]])),
              sinks | (np.kron(np.eye(4)[[0, 2, 1, 3]], np.ones((10, 10))) > 0)),
             (casa.intersect(casa.causal(40, 40), casa.block_sparse(40, 40, 10, [[0, 2], [1, 3], [0, 2], []])),
              causal & blocks)]
    seen = np.concatenate([np.ones((5, 35), bool), np.array([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0],
                                                             [1, 0, 0, 1, 0], [0, 0, 0, 0, 1]], bool)], axis=1)
    cases.append((casa.draft_tree(35, [-1, 0, 1, 0, -1]), seen))
    k, v = normal(40, 2, 16), normal(40, 2, 16)
    for mask, expected in cases:
        assert isinstance(mask, tuple) and np.array_equal(visible(mask, 40), expected)
        q = normal(len(expected), 4, 16)
        check(casa.attend(q, k, v, mask, lse=True), q, k, v, mask)
        check(casa.attend_state(q, k, v, mask).finish(lse=True), q, k, v, mask)
    intervals, offsets = cases[0][0]
    refused("interval", casa.attend, normal(40, 4, 16), k, v, (intervals[::-1].copy(), offsets))
    refused("offsets", casa.attend, normal(40, 4, 16), k, v, (intervals, offsets[:0]))
    refused("offsets", casa.attend, normal(40, 4, 16), k, v, (intervals, offsets[:-1]))
    refused("rows must lie in [0, keys], [0, 4], got 5", casa.sinks_window, 5, 4, 1, 1)


def test_casa_windows():
    images = [(2, 20), (9, 11), (9, 5)]
    mask = casa.casa_windows(15, images)
    q, k, v = normal(15, 4, 16), normal(51, 2, 16), normal(51, 2, 16)
    check(casa.attend(q, k, v, mask, lse=True), q, k, v, mask)


def test_varlen():
    cu_q, cu_k = np.array([0, 5, 5, 30], np.int32), np.array([0, 20, 24, 40], np.int32)
    q, k, v = normal(33, 4, 16), normal(41, 2, 16), normal(41, 2, 16)
    for causal in False, True:
        mask = np.concatenate([casa.documents(cu_q, cu_k, causal), np.zeros((3, 2), int)])
        check(casa.varlen(q, k, v, cu_q, cu_k, causal, lse=True), q, k, v, mask)
    refused("cu_seqlens_q ends at 30", casa.varlen, q[:20].copy(), k, v, cu_q, cu_k)
    refused("must not decrease", casa.varlen, q, k, v, cu_q[::-1].copy() - 30, cu_k)


def test_states():
    for dtype in np.float32, np.float64:
        q, k, v = (normal(n, h, 16, dtype=dtype) for n, h in ((8, 4), (100, 2), (100, 2)))
        mask = casa.causal(8, 100)
        merged = casa.attend_state(q, k[:0], v[:0], full(8, 0))
        assert (merged.max == -np.inf).all() and (merged.sum == 0).all()
        for begin, end in (0, 40), (40, 93), (93, 100):
            cut = np.clip(mask - begin, 0, end - begin)
            merged.merge(casa.attend_state(q, k[begin:end], v[begin:end], cut))
        check(merged.finish(lse=True), q, k, v, mask)
        # The state's arrays are what the documentation says.
        out = merged.out / merged.sum[..., None]
        assert out.shape == q.shape and np.allclose(out, merged.finish(), rtol=1e-6)
        view = merged.out
        merged.merge(merged)  # every key twice: the memory is the state's, the mean the same
        assert np.array_equal(view, merged.out)
    refused("merge", merged.merge, casa.attend_state(q[:5], k, v))
    refused("float32", merged.merge, casa.attend_state(*(normal(8, 4, 16) for _ in range(3))))


def test_no_copies():
    # Strided rows, keys stored by head, and an output inside a larger array.
    q, keys, values = normal(9, 40)[:, 3:35].reshape(9, 4, 8), normal(2, 50, 8), normal(2, 50, 8)
    wide = normal(9, 6, 8)
    k, v = keys.transpose(1, 0, 2), values.transpose(1, 0, 2)
    mask = casa.causal(9, 50)
    check(casa.attend(wide[:, 1:5], k, v, mask, lse=True), wide[:, 1:5], k, v, mask)
    out = np.full((9, 6, 8), 7, np.float32)
    result, lse = casa.attend(q, k, v, mask, lse=True, out=out[:, 1:5])
    check((out[:, 1:5], lse), q, k, v, mask)
    assert (out[:, 0] == 7).all() and (out[:, 5] == 7).all() and np.shares_memory(result, out)
    q.flags.writeable = False
    assert np.array_equal(casa.attend(q, k, v, mask), out[:, 1:5])


def test_narrow_keys():
    q, k, v = normal(8, 4, 32), normal(40, 2, 32), normal(40, 2, 32)
    mask = casa.causal(8, 40)
    half = [x.astype(np.float16) for x in (k, v)]
    check(casa.attend(q, *half, mask, lse=True), q, *half, mask)
    bits = [(x.view(np.uint32) >> 16).astype(np.uint16) for x in (k, v)]  # bfloat16, cut
    as_float = [(x.astype(np.uint32) << 16).view(np.float32) for x in bits]
    check(casa.attend(q, *bits, mask, lse=True), q, *as_float, mask)


def test_pool():
    q, k, v = normal(200, 8, 64), normal(200, 2, 64), normal(200, 2, 64)
    mask, pool = casa.causal(200, 200), casa.Pool(2)
    assert pool.threads == 2
    expected = casa.attend(q, k, v, mask)
    wrong = []

    def call():
        for _ in range(5):
            if not np.array_equal(casa.attend(q, k, v, mask, pool=pool), expected):
                wrong.append(1)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    refused("num_threads", casa.Pool, -1)


def test_refused():
    q, k, v = normal(8, 4, 16), normal(40, 2, 16), normal(40, 2, 16)
    refused("q must have three axes", casa.attend, q[0], k, v)
    refused("the last axis must be contiguous (stride 1), got stride 2", casa.attend, q,
            normal(40, 2, 32)[..., ::2], v)
    refused("head_dim of k: expected 16, got 8", casa.attend, q, k[..., :8].copy(), v[..., :8].copy())
    refused("v must have the shape of k, (40, 2, 16), got (39, 2, 16)", casa.attend, q, k, v[:39])
    refused("v must have the strides of k", casa.attend, q, k, normal(2, 40, 16).transpose(1, 0, 2))
    refused("strides must not be negative", casa.attend, q, k[::-1], v[::-1])
    refused("num_kv_heads must divide", casa.attend, q, *(normal(40, 3, 16) for _ in "kv"))
    refused("q must be float32 or float64, got float16", casa.attend, q.astype(np.float16), k, v)
    refused("k must be float64, got float32", casa.attend, q.astype(np.float64), k, v)
    refused("v must be of k's type", casa.attend, q, k, v.astype(np.float64))
    refused("intervals (one per row of q): expected 8, got 7", casa.attend, q, k, v, full(7, 40))
    refused("intervals[0] must lie within [0, 40), got [0, 41)", casa.attend, q, k, v, full(8, 41))
    refused("scale must be finite", casa.attend, q, k, v, scale=np.inf)
    refused("out must have the shape of q", casa.attend, q, k, v, out=normal(8, 4, 15))
    refused("out must be of q's type", casa.attend, q, k, v, out=normal(8, 4, 16, dtype=np.float64))
    refused("the heads of a token must lie side by side", casa.attend,
            normal(4, 8, 16).transpose(1, 0, 2), k, v)
    frozen = normal(8, 4, 16)
    frozen.flags.writeable = False
    refused("incompatible", casa.attend, q, k, v, out=frozen, error=TypeError)


def test_torch():
    attention = torch.nn.functional.scaled_dot_product_attention
    for causal in False, True:
        q, k, v = (torch.randn(1, h, 50, 32) for h in (8, 2, 2))
        expected = attention(q.double(), *(x.double().repeat_interleave(4, 1) for x in (k, v)),
                             is_causal=causal)[0].transpose(0, 1).numpy()
        mask = casa.causal(50, 50) if causal else full(50, 50)
        # Tokens first; the keys stay where they lie, head by head.
        q = q[0].transpose(0, 1).contiguous()
        k, v = (x[0].transpose(0, 1) for x in (k, v))
        bound = definition(q.numpy(), k.numpy(), v.numpy(), mask)[1]
        assert abs(casa.attend(q, k, v, mask) - expected).max() <= bound

        out = torch.empty_like(q)
        casa.attend(q, k, v, mask, out=out)
        assert abs(out.numpy() - expected).max() <= bound

        for dtype in torch.bfloat16, torch.float16:
            narrow = [x.to(dtype) for x in (k, v)]
            wide = [x.float().numpy() for x in narrow]
            check(casa.attend(q, *narrow, mask, lse=True), q.numpy(), *wide, mask)
    if torch.cuda.is_available():
        refused("q must be in the CPU's memory", casa.attend, q.cuda(), k, v)


if __name__ == "__main__":
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            if name == "test_torch" and torch is None:
                print("left out:", name, "(torch is not installed)")
                continue
            test()
            print("passed:", name)
    print(casa.build())
