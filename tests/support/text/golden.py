"""Makes golden.json: what open_clip computes with a small text tower whose weights both sides can make.

Needs open_clip_torch, transformers and their PyTorch; run it from here: python golden.py
"""

import json

import numpy as np
import open_clip
import torch
import transformers

WIDTH, LAYERS, HEADS, EMBED = 32, 2, 2, 24
TEXTS = [
    "a photo of a cat.",
    'a zoomed in photo of a "speed limit 50" traffic sign.',
    "A Photo  of the NUMBER: \"7\".\n",
    "i love my 1998 Acura Integra Type-R!",
    "they're a bride's cake; don't touch 12,345 of it",
    "naïve café, déjà vu: Ünïcödé — 猫の写真 🐈",
    "",
    "word " * 100,
    "supercalifragilisticexpialidocious!?!?...###",
]
TEMPLATES = ["a photo of a {}.", "i love my {}!", 'the number: "{}"']
CLASSES = ["cat", "acura integra", "7"]


def values(name: str, shape: list[int]) -> np.ndarray:
    """Numbers in [-0.1, 0.1) from the tensor's name and each element's index; layer norms' weights are around 1."""
    seed = 2166136261
    for byte in name.encode():
        seed = (seed ^ byte) * 16777619 % 2**32
    x = (np.arange(np.prod(shape, dtype=np.int64), dtype=np.uint64) + seed) % 2**32
    for _ in range(2):
        x = ((x >> np.uint64(16)) ^ x) * np.uint64(0x45D9F3B) % 2**32
    x = (x >> np.uint64(16)) ^ x
    around = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
    return ((x.astype(np.float64) / 2**32 - 0.5) * 0.2 + around).astype(np.float32).reshape(shape)


def tower(quick_gelu: bool) -> open_clip.CLIP:
    text = {"context_length": 77, "vocab_size": 49408, "width": WIDTH, "heads": HEADS, "layers": LAYERS}
    vision = {"image_size": 8, "patch_size": 8, "width": 32, "head_width": 16, "layers": 1}
    model = open_clip.CLIP(EMBED, vision, text, quick_gelu=quick_gelu).eval()
    state = {k: torch.from_numpy(values(k, list(v.shape))) for k, v in model.state_dict().items() if not k.startswith("visual.")}
    state["logit_scale"] = torch.tensor(np.log(100.0), dtype=torch.float32)
    model.load_state_dict(state, strict=False)
    return model


def theirs(model: open_clip.CLIP, act: str) -> transformers.CLIPTextModelWithProjection:
    """The same tower under the names of the transformers library."""
    config = transformers.CLIPTextConfig(
        vocab_size=49408, hidden_size=WIDTH, intermediate_size=4 * WIDTH, projection_dim=EMBED, hidden_act=act,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS, max_position_embeddings=77, eos_token_id=49407,
    )
    other = transformers.CLIPTextModelWithProjection(config).eval()
    ours, state = model.state_dict(), {}
    for name in other.state_dict():
        source = name.removeprefix("text_model.")
        source = source.replace("embeddings.token_embedding", "token_embedding")
        source = source.replace("embeddings.position_embedding.weight", "positional_embedding")
        source = source.replace("encoder.layers", "transformer.resblocks").replace("final_layer_norm", "ln_final")
        source = source.replace("layer_norm1", "ln_1").replace("layer_norm2", "ln_2")
        source = source.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")
        source = source.replace("self_attn.out_proj", "attn.out_proj")
        if source == "text_projection.weight":
            state[name] = ours["text_projection"].T
        elif "self_attn." in source:
            block, rest = source.split("self_attn.")
            third, kind = rest.split("_proj.")
            state[name] = ours[f"{block}attn.in_proj_{kind}"].chunk(3)["qkv".index(third)]
        else:
            state[name] = ours[source]
    other.load_state_dict(state)
    return other


@torch.no_grad()
def main() -> None:
    tokens = open_clip.get_tokenizer("ViT-B-32")(TEXTS)
    golden = {"texts": TEXTS, "tokens": [row[: row.argmax() + 1].tolist() for row in tokens], "names": []}
    for activation in ["quick_gelu", "gelu"]:
        model = tower(activation == "quick_gelu")
        embeds = model.encode_text(tokens)
        other = theirs(model, activation)
        golden["names"] = sorted(other.state_dict())
        difference = (other(input_ids=tokens).text_embeds - embeds).norm() / embeds.norm()
        assert difference < 1e-5, difference
        golden[activation] = {"embeds": embeds.tolist()}
        rows = []
        for name in CLASSES:
            prompts = open_clip.get_tokenizer("ViT-B-32")([template.format(name) for template in TEMPLATES])
            mean = torch.nn.functional.normalize(model.encode_text(prompts), dim=-1).mean(dim=0)
            rows.append(mean / mean.norm() * model.logit_scale.exp())
        golden[activation]["head"] = torch.stack(rows).tolist()
    golden["templates"], golden["classes"] = TEMPLATES, CLASSES
    with open("golden.json", "w") as file:
        json.dump(golden, file, indent=None, separators=(",", ":"), ensure_ascii=False)
        file.write("\n")


if __name__ == "__main__":
    main()
