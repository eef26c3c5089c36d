# Makes the data of this folder: tiny models of random weights, one a family, that transformers runs
# under many configs (scaled rotary embeddings, sliding windows) past the length they were trained to.
#
#   python make.py        (torch, transformers 5.24, safetensors)
#
# FAMILY/model.safetensors holds the weights, NAME.json the config of a variant, io.safetensors what
# transformers computes: NAME.ids [T], NAME.logits [T, V] of the whole stream at once, and where the
# cut matters NAME.chunks and NAME.chunk_logits [T, V] of the stream in chunks with a cache. Variants
# of qwen2_5_vl have an image in the stream: NAME.image_tokens [N, hidden], NAME.grid [rows, cols].
import copy
import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2_5_VLForConditionalGeneration

here = pathlib.Path(__file__).parent
LENGTH, VOCAB, IMAGE = 40, 16, 15
CHUNKS = [10, 1, 1, 1, 4, 1, 6, 1, 1, 1, 1, 8, 1, 1, 1, 1]
IMAGE_CHUNKS = [13, 1, 4, 1, 6, 1, 1, 1, 1, 8, 1, 1, 1]  # the image whole in the first

shape = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
             num_key_value_heads=1, head_dim=16, vocab_size=VOCAB, max_position_embeddings=16,
             rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=0)
vision = dict(depth=1, hidden_size=8, num_heads=1, intermediate_size=8, out_hidden_size=32,
              patch_size=2, window_size=8, fullatt_block_indexes=[0], in_channels=3)
mrope = dict(mrope_section=[2, 3, 3])

yarn = dict(rope_type="yarn", factor=4.0, rope_theta=1000.0)
VARIANTS = {
    "linear": ("llama", dict(rope_scaling=dict(type="linear", factor=3.0), rope_theta=500.0)),
    "linear_new": ("helium", dict(rope_parameters=dict(rope_type="linear", factor=2.5, rope_theta=700.0))),
    "yarn": ("llama", dict(rope_parameters=yarn, original_max_position_embeddings=12)),
    "yarn_old": ("llama", dict(rope_scaling=dict(type="yarn", factor=4.0, original_max_position_embeddings=12),
                               rope_parameters=dict(rope_type="default", rope_theta=77.0), rope_theta=1000.0)),
    "yarn_attention_factor": ("llama", dict(rope_parameters=yarn | dict(
        attention_factor=1.3, beta_fast=3.0, beta_slow=0.25, original_max_position_embeddings=30))),
    "yarn_mscale": ("helium", dict(rope_parameters=yarn | dict(
        mscale=0.7, mscale_all_dim=0.4, truncate=False, beta_fast=8, original_max_position_embeddings=14))),
    "yarn_no_factor": ("llama", dict(rope_parameters=yarn | dict(factor=None, original_max_position_embeddings=6))),
    "dynamic": ("llama", dict(rope_scaling=dict(type="dynamic", factor=2.0), rope_theta=100.0)),
    "dynamic_helium": ("helium", dict(rope_parameters=dict(rope_type="dynamic", factor=4.0, rope_theta=100.0))),
    "llama3": ("llama", dict(rope_parameters=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0,
                                                  high_freq_factor=4.0, rope_theta=1000.0,
                                                  original_max_position_embeddings=12))),
    "window": ("qwen2", dict(use_sliding_window=True, sliding_window=5, max_window_layers=1)),
    "window_types": ("qwen2", dict(use_sliding_window=True, sliding_window=3, max_window_layers=9, layer_types=[
        "sliding_attention", "full_attention", "sliding_attention"])),
    "window_two": ("qwen2", dict(use_sliding_window=True, sliding_window=2, max_window_layers=2)),
    "window_off": ("qwen2", dict(use_sliding_window=False, sliding_window=4, max_window_layers=0)),
    "window_yarn": ("qwen2", dict(use_sliding_window=True, sliding_window=7, max_window_layers=0, rope_parameters=yarn)),
    "vl_yarn": ("qwen2_5_vl", dict(rope_parameters=yarn | mrope)),
    "vl_dynamic": ("qwen2_5_vl", dict(rope_scaling=dict(type="dynamic", factor=3.0) | mrope, rope_theta=100.0)),
    "vl_window": ("qwen2_5_vl", dict(use_sliding_window=True, sliding_window=6, max_window_layers=1,
                                     rope_scaling=dict(type="mrope") | mrope)),
}


def config_json(family, changes):
    text = dict(shape, model_type=family) | copy.deepcopy(changes)
    if family in ("helium", "qwen2_5_vl"):
        text |= dict(hidden_size=32)  # heads fill it in these families
    if family != "qwen2_5_vl":
        return text
    text["model_type"] = "qwen2_5_vl_text"
    return dict(model_type=family, text_config=text, vision_config=vision, image_token_id=IMAGE,
                video_token_id=14, vision_start_token_id=13, vision_end_token_id=12)


def new_model(name, weights=None):
    family, _ = VARIANTS[name]
    config = AutoConfig.from_pretrained(here / f"{name}.json")
    config._attn_implementation = "eager"
    kind = Qwen2_5_VLForConditionalGeneration if family == "qwen2_5_vl" else AutoModelForCausalLM
    model = (kind._from_config if family == "qwen2_5_vl" else kind.from_config)(config).float().eval()
    if weights:
        missing = model.load_state_dict(weights, strict=False)
        assert not missing.missing_keys and not missing.unexpected_keys, missing
    return model


def random_weights(model, seed):
    random = torch.Generator().manual_seed(seed)
    weights = {}
    for key, value in model.state_dict().items():
        w = torch.randn(value.shape, generator=random) / (value.shape[-1] ** 0.5)
        if "norm" in key:
            w = 1 + 0.2 * w
        elif "q_proj" in key or "k_proj" in key:
            w = 1.5 * w
        weights[key] = w.contiguous()
    return weights


def run(name, weights, ids, chunks, image_tokens, grid):
    model = new_model(name, weights)
    family, _ = VARIANTS[name]
    if family != "qwen2_5_vl":
        out, cache, begin = [], None, 0
        for count in chunks:
            answer = model(input_ids=ids[None, begin:begin + count], past_key_values=cache, use_cache=True)
            out.append(answer.logits[0])
            cache, begin = answer.past_key_values, begin + count
        return torch.cat(out)
    thw = torch.tensor([[1, 2 * grid[0], 2 * grid[1]]])
    types = (ids == IMAGE).long()[None]
    positions, _ = model.model.get_rope_index(ids[None], mm_token_type_ids=types, image_grid_thw=thw)
    embeds = model.model.language_model.embed_tokens(ids)[None].clone()
    embeds[0, ids == IMAGE] = image_tokens
    out, cache, begin = [], None, 0
    for count in chunks:
        part = slice(begin, begin + count)
        answer = model.model.language_model(inputs_embeds=embeds[:, part], position_ids=positions[:, :, part],
                                            past_key_values=cache, use_cache=True)
        out.append(model.lm_head(answer.last_hidden_state)[0])
        cache, begin = answer.past_key_values, begin + count
    return torch.cat(out)


@torch.no_grad()
def main():
    io, all_weights = {}, {}
    for seed, (name, (family, changes)) in enumerate(VARIANTS.items()):
        (here / f"{name}.json").write_text(json.dumps(config_json(family, changes), indent=1) + "\n")
        if family not in all_weights:
            all_weights[family] = random_weights(new_model(name), seed)
            stored = all_weights[family]
            if family == "qwen2_5_vl":  # under the names that published folders have
                stored = {k.replace("model.language_model.", "model.").replace("model.visual.", "visual."): v
                          for k, v in stored.items()}
            (here / family).mkdir(exist_ok=True)
            save_file(stored, here / family / "model.safetensors", {"format": "pt"})
        random = torch.Generator().manual_seed(100 + seed)
        ids = torch.randint(3, 12, (LENGTH,), generator=random)
        image_tokens, grid = None, (2, 3)
        if family == "qwen2_5_vl":
            ids[7:13] = IMAGE
            image_tokens = torch.randn(6, 32, generator=random)
            io[f"{name}.image_tokens"], io[f"{name}.grid"] = image_tokens, torch.tensor(grid)
        io[f"{name}.ids"] = ids
        io[f"{name}.logits"] = run(name, all_weights[family], ids, [LENGTH], image_tokens, grid)
        if "dynamic" in name or "window" in name:
            chunks = IMAGE_CHUNKS if family == "qwen2_5_vl" else CHUNKS
            io[f"{name}.chunks"] = torch.tensor(chunks)
            io[f"{name}.chunk_logits"] = run(name, all_weights[family], ids, chunks, image_tokens, grid)
            print(name, "whole and in chunks differ by",
                  (io[f"{name}.logits"] - io[f"{name}.chunk_logits"]).abs().max().item())
    save_file({k: v.contiguous() for k, v in io.items()}, here / "io.safetensors")


main()
