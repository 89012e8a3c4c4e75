"""Compares the program with open_clip and transformers on every plain vision transformer that open_clip has a
configuration of, with random weights, two layers and real widths.

    python tests/support/compare_towers.py target/debug/taskbasis [NAME ...]

Needs open_clip, transformers and safetensors; ORT_DYLIB_PATH must be set. For each configuration a folder gets weights
and the library's own configuration file beside them, the program embeds two images of noise, and the relative L2
distance to the library's embeddings must be at most 2e-5. Configurations with a feature that is not built in must be
refused by that feature's name. docs/files.md lists what this script found.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import open_clip
import torch
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from safetensors.numpy import load_file, save_file

LAYERS, IMAGES, LIMIT = 2, 2, 2e-5
# What the program has to say of what it refuses.
REFUSED = {"attentional_pool": "attentional pooling"}


def roughened(model: torch.nn.Module) -> torch.nn.Module:
    """Every parameter away from its initial value: a bias of 0 or a scale of 1 would hide mistakes."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.2 if parameter.ndim < 2 else 0.3 * parameter.std().nan_to_num(0.02)
            parameter.add_(scale * torch.randn_like(parameter))
    return model.eval()


def embedded(program: str, folder: pathlib.Path, pixels: torch.Tensor) -> "tuple[np.ndarray | None, str]":
    save_file({"pixel_values": pixels.numpy()}, folder / "pixels.safetensors")
    out = folder / "out.safetensors"
    base = ["--base", folder / "model.safetensors", "--weights", "base"]
    ran = subprocess.run(
        [program, "embed", *base, "-i", folder / "pixels.safetensors", "-o", out], capture_output=True, text=True
    )
    return (load_file(out)["embeds"] if ran.returncode == 0 else None), ran.stderr.strip()


def judged(name: str, got: "np.ndarray | None", said: str, right: np.ndarray, feature: "str | None") -> bool:
    if feature is not None:
        good, what = got is None and feature in said, said or "embedded"
    elif got is None:
        good, what = False, said
    else:
        error = np.linalg.norm(got - right) / np.linalg.norm(right)
        # Everything was told, so nothing may be assumed.
        good, what = error <= LIMIT and "assumed" not in said, f"{error:.1e} {said}"
    print("ok  " if good else "FAIL", name, what[:200], flush=True)
    return good


def of_open_clip(program: str, name: str) -> "bool | None":
    config = open_clip.get_model_config(name)
    vision = config["vision_cfg"]
    if "timm_model_name" in vision or isinstance(vision.get("layers"), list):
        return None
    vision["layers"] = LAYERS
    tower = _build_vision_tower(config["embed_dim"], CLIPVisionCfg(**vision), config.get("quick_gelu", False))
    tower.output_tokens = False
    roughened(tower)
    pixels = torch.randn(IMAGES, 3, tower.image_size[0], tower.image_size[1])
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        state = {f"visual.{key}": value.numpy() for key, value in tower.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
        got, said = embedded(program, folder, pixels)
    with torch.no_grad():
        right = tower(pixels).numpy()
    feature = next((word for key, word in REFUSED.items() if vision.get(key)), None)
    return judged(name, got, said, right, feature)


def of_transformers(program: str, name: str, **config: object) -> bool:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    sizes = {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": LAYERS, "patch_size": 8, "image_size": 32}
    of = CLIPVisionConfig(**sizes, projection_dim=48, num_attention_heads=8, **config)
    model = roughened(CLIPVisionModelWithProjection(of))
    pixels = torch.randn(IMAGES, 3, 32, 32)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        got, said = embedded(program, pathlib.Path(folder), pixels)
    with torch.no_grad():
        right = model(pixels).image_embeds.numpy()
    return judged(f"transformers {name}", got, said, right, None)


def main() -> int:
    program, *names = sys.argv[1:]
    results = [of_open_clip(program, name) for name in names or open_clip.list_models()]
    if not names:
        results += [
            of_transformers(program, "gelu", hidden_act="gelu"),
            of_transformers(program, "gelu_pytorch_tanh", hidden_act="gelu_pytorch_tanh"),
            of_transformers(program, "quick_gelu, eps 1e-3", layer_norm_eps=1e-3),
        ]
    judgements = [result for result in results if result is not None]
    print(f"{sum(judgements)} of {len(judgements)}")
    return 0 if all(judgements) else 1


if __name__ == "__main__":
    sys.exit(main())
