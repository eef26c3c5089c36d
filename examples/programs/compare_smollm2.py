#!/usr/bin/env python3
"""Compares build/examples/generate with the transformers package: greedy ids on the same folder, in float32.

    pip install torch transformers
    python examples/programs/compare_smollm2.py DIR --generate build/examples/generate

Prints one line a prompt and ends with status 1 where ids differ. Where they do, the margin between the best two
logits of transformers at that token tells a tie from an error.
"""
import argparse
import json
import subprocess
import sys

import torch
import transformers

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "Gravity is a fundamental force of nature that",
    "def fibonacci(n):\n",
    "<|im_start|>user\nName three primary colors.<|im_end|>\n<|im_start|>assistant\n",
]


def reference(model, prompt_ids, count):
    """Greedy ids and the margin of each."""
    ids, margins = list(prompt_ids), []
    past, step = None, torch.tensor([ids])
    with torch.no_grad():
        for _ in range(count):
            out = model(step, past_key_values=past, use_cache=True)
            past, best = out.past_key_values, out.logits[0, -1].topk(2)
            margins.append(float(best.values[0] - best.values[1]))
            ids.append(int(best.indices[0]))
            step = torch.tensor([[ids[-1]]])
    return ids[len(prompt_ids):], margins


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--generate", default="build/examples/generate")
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()

    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(args.folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.folder, dtype=torch.float32).eval()
    differences = 0
    for prompt in PROMPTS:
        ours = json.loads(subprocess.run(
            [args.generate, "-m", args.folder, "-p", prompt, "-n", str(args.tokens), "--dtype", "float",
             "--ignore-eos", "--json", "-q"], check=True, capture_output=True, text=True).stdout)
        prompt_ids = tokenizer(prompt)["input_ids"]
        ids, margins = reference(model, prompt_ids, args.tokens)
        if ours["prompt_ids"] != prompt_ids:
            verdict = f"prompt ids differ: {ours['prompt_ids']} and {prompt_ids}"
        elif ours["ids"] != ids:
            at = next(i for i, (a, b) in enumerate(zip(ours["ids"], ids)) if a != b)
            verdict = f"differs from token {at} on, where the margin is {margins[at]:.2e}"
        else:
            verdict = f"equal, smallest margin {min(margins):.2e}"
        differences += not verdict.startswith("equal")
        print(f"{prompt[:40]!r:45} {verdict}", flush=True)
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
