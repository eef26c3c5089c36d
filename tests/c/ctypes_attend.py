#!/usr/bin/env python3
"""The C interface from Python's ctypes alone: python3 ctypes_attend.py libcasa.so

Attention over two pieces of keys is compared with its definition, written here in Python's floats.
"""
import ctypes
import math
import random
import sys

i32, i64, f64, ptr = ctypes.c_int32, ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
CASA_OK, CASA_INVALID, CASA_F64 = 0, 1, 1


class Keys(ctypes.Structure):
    _fields_ = [("k", ptr), ("v", ptr), ("count", i64), ("token_stride", i64), ("head_stride", i64)]


class Attention(ctypes.Structure):
    _fields_ = [("dtype", i32), ("key_dtype", i32), ("num_heads", i64), ("num_kv_heads", i64),
                ("head_dim", i64), ("scale", f64), ("q", ptr), ("rows", i64), ("q_stride", i64),
                ("keys", ptr), ("num_pieces", i64), ("intervals", ptr), ("pool", ptr),
                ("interval_offsets", ptr)]


class State(ctypes.Structure):
    _fields_ = [("dtype", i32), ("rows", i64), ("num_heads", i64), ("head_dim", i64), ("max", ptr),
                ("sum", ptr), ("out", ptr)]


casa = ctypes.CDLL(sys.argv[1])
casa.casa_version.restype = casa.casa_last_error.restype = ctypes.c_char_p
casa.casa_pool_create.argtypes = [i64, ctypes.POINTER(ptr)]
casa.casa_pool_destroy.argtypes = [ptr]
casa.casa_pool_destroy.restype = None
casa.casa_attend.argtypes = [ctypes.POINTER(Attention), ptr, i64, ptr]
casa.casa_attend_state.argtypes = [ctypes.POINTER(Attention), ctypes.POINTER(State)]
casa.casa_empty_state.argtypes = [ctypes.POINTER(State)]
casa.casa_merge.argtypes = [ctypes.POINTER(State), ctypes.POINTER(State)]
casa.casa_finish.argtypes = [ctypes.POINTER(State), ptr, i64, ptr]


def call(function, *arguments):
    if function(*arguments) != CASA_OK:
        raise RuntimeError(casa.casa_last_error().decode())


def address(array):
    return ctypes.cast(array, ptr)


HEADS, KV_HEADS, DIM, ROWS, COUNTS = 4, 2, 5, 6, (7, 4)
random.seed(1)


def values(count):
    return (f64 * count)(*(random.uniform(-1, 1) for _ in range(count)))


q = values(ROWS * HEADS * DIM)
k = [values(count * KV_HEADS * DIM) for count in COUNTS]
v = [values(count * KV_HEADS * DIM) for count in COUNTS]
pieces = (Keys * 2)(*(Keys(address(k[p]), address(v[p]), COUNTS[p], 0, 0) for p in range(2)))
seen = [(0, 3), (2, 11), (5, 5), (6, 9), (0, 11), (10, 11)]  # the third row sees nothing


def attention(intervals, pool=None):
    flat = (i64 * (2 * ROWS))(*(x for interval in intervals for x in interval))
    a = Attention(CASA_F64, CASA_F64, HEADS, KV_HEADS, DIM, 0, address(q), ROWS, 0,
                  ctypes.cast(pieces, ptr), 2, address(flat), pool)
    a.kept = flat
    return a


def definition():
    out, lse = [], []
    key_rows = [(p, t) for p in range(2) for t in range(COUNTS[p])]
    for row in range(ROWS):
        for head in range(HEADS):
            kv_head = head // (HEADS // KV_HEADS)
            mine = q[(row * HEADS + head) * DIM:(row * HEADS + head + 1) * DIM]
            weights, rows = [], []
            for p, t in key_rows[seen[row][0]:seen[row][1]]:
                at = (t * KV_HEADS + kv_head) * DIM
                dot = sum(a * b for a, b in zip(mine, k[p][at:at + DIM]))
                weights.append(math.exp(dot / math.sqrt(DIM)))
                rows.append(v[p][at:at + DIM])
            total = sum(weights)
            out += [sum(w * r[i] for w, r in zip(weights, rows)) / total if rows else 0.0
                    for i in range(DIM)]
            lse.append(math.log(total) if rows else -math.inf)
    return out, lse


def near(got, expected):
    # Scores are at most DIM in size: |error| <= eps * (1 + DIM) * 2, as in tests/attention.
    return all(x == y or abs(x - y) <= 2 * sys.float_info.epsilon * (1 + DIM)
               for x, y in zip(got, expected, strict=True))


def fresh(count):
    return (f64 * count)(*([math.nan] * count))


def state():
    s = State(CASA_F64, ROWS, HEADS, DIM)
    s.kept = [fresh(ROWS * HEADS), fresh(ROWS * HEADS), fresh(ROWS * HEADS * DIM)]
    s.max, s.sum, s.out = map(address, s.kept)
    return s


assert casa.casa_version().startswith(b"casa "), casa.casa_version()
expected_out, expected_lse = definition()
pool = ptr()
call(casa.casa_pool_create, 2, ctypes.byref(pool))
for workers in (None, pool):
    out, lse = fresh(ROWS * HEADS * DIM), fresh(ROWS * HEADS)
    call(casa.casa_attend, attention(seen, workers), out, 0, lse)
    assert near(out, expected_out) and near(lse, expected_lse), "attend"

    merged, part = state(), state()
    call(casa.casa_empty_state, merged)
    for begin, end in ((0, 4), (4, 8), (8, 11)):
        cut = [(max(b, begin), min(e, end)) for b, e in seen]
        call(casa.casa_attend_state, attention(cut, workers), part)
        call(casa.casa_merge, merged, part)
    out, lse = fresh(ROWS * HEADS * DIM), fresh(ROWS * HEADS)
    call(casa.casa_finish, merged, out, 0, lse)
    assert near(out, expected_out) and near(lse, expected_lse), "merged states"
casa.casa_pool_destroy(pool)

wrong = attention([(0, 12)] * ROWS)
assert casa.casa_attend(wrong, out, 0, None) == CASA_INVALID
message = casa.casa_last_error().decode()
assert "intervals[0] must lie within [0, 11), got [0, 12)" in message, message
print("the C interface from ctypes:", casa.casa_version().decode())
