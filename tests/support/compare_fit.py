"""Compares what `fit` finds with the same objective minimised by exact gradients in PyTorch, on the digits family.

    python tests/support/compare_fit.py target/release/taskbasis [GROUPS] [PULL]

Needs torch, torchvision, open_clip and safetensors; ORT_DYLIB_PATH must be set. The objective is
mean cross-entropy over tasks (of logits divided by the temperature that `fit` found) + pull · Σ(λ − λ₀)² / groups, over
the very images that `fit` chose; here it is minimised by Adam through a vision transformer written out below. What
`fit` comes to must be at most 2 % above it, and both must agree on its value at the
start.
"""

import fnmatch
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import torch
import torch.nn.functional as F
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transform import image_transform
from PIL import Image
from safetensors.torch import load_file

DIGITS = pathlib.Path(__file__).parents[2] / "examples/digits"
COMMON = ["--base", str(DIGITS / "base/pickled_module.pt")]
LIMIT = 0.02
STEPS = 1000


def run(program, command, basis, *arguments):
    line = [program, command, "--basis", str(basis), *COMMON, *arguments, "--json"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def weights(program, basis, expression, folder):
    path = pathlib.Path(folder) / "weights.safetensors"
    run(program, "reconstruct", basis, "--weights", expression, "-o", str(path))
    return {name: value.clone() for name, value in load_file(path).items() if name.startswith("visual.")}


def encode(w, pixels, heads=1):
    """CLIP's image tower: patches, class token, positions, pre-norm blocks with QuickGELU, ln_post, projection."""
    width = w["visual.conv1.weight"].shape[0]
    norm = lambda x, name: F.layer_norm(x, (width,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)
    x = F.conv2d(pixels, w["visual.conv1.weight"], stride=w["visual.conv1.weight"].shape[-1]).flatten(2).mT
    token = w["visual.class_embedding"].expand(len(x), 1, -1)
    x = norm(torch.cat([token, x], 1) + w["visual.positional_embedding"], "visual.ln_pre")
    for block in range(99):
        name = f"visual.transformer.resblocks.{block}"
        if f"{name}.ln_1.weight" not in w:
            break
        qkv = F.linear(norm(x, f"{name}.ln_1"), w[f"{name}.attn.in_proj_weight"], w[f"{name}.attn.in_proj_bias"])
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + F.linear(attended, w[f"{name}.attn.out_proj.weight"], w[f"{name}.attn.out_proj.bias"])
        h = F.linear(norm(x, f"{name}.ln_2"), w[f"{name}.mlp.c_fc.weight"], w[f"{name}.mlp.c_fc.bias"])
        x = x + F.linear(h * torch.sigmoid(1.702 * h), w[f"{name}.mlp.c_proj.weight"], w[f"{name}.mlp.c_proj.bias"])
    return norm(x[:, 0], "visual.ln_post") @ w["visual.proj"]


def selectors(expression):
    """The groups of the first term, for groupings by name: `"visual.proj": 0.3, "visual.conv1*": …`; None for one."""
    found = re.search(r"@\{(.*?)\}", expression)
    return None if found is None else re.findall(r'(?:"([^"]+)"|(\*)): ', found.group(1))


def compare(program, method, groups, pull):
    basis = DIGITS / f"bases/ViT-D-8_{method}_M4_8task"
    data = ["--heads", str(DIGITS / "heads.safetensors"), "--classes", str(DIGITS / "classes.json")]
    images = DIGITS / "images.safetensors"
    data += ["--data", str(images), "--split", "test", "--groups", groups, "--pull", str(pull), "--rounds", "12"]
    found = run(program, "fit", basis, *data)
    ours = min(c["training"]["loss"] + c["penalty"] for c in found["curve"])

    with tempfile.TemporaryDirectory() as folder:
        base = weights(program, basis, "base", folder)
        tasks = found["tasks"]
        vectors = [{n: v - base[n] for n, v in weights(program, basis, t, folder).items()} for t in tasks]
    names = selectors(found["expression"])
    count = found["groups"]["count"]

    def group(parameter):
        if names is None:
            return 0
        exact = [i for i, (name, _) in enumerate(names) if name == parameter]
        globs = [i for i, (name, _) in enumerate(names) if "*" in name and fnmatch.fnmatchcase(parameter, name)]
        chosen = (exact or globs)[:1]
        return chosen[0] if chosen else None

    # Parameters of no group are those that no task changes.
    places = {name: place for name in base if (place := group(name)) is not None}
    transform = image_transform(32, False, mean=OPENAI_DATASET_MEAN, std=OPENAI_DATASET_STD)
    arrays, heads = load_file(images), load_file(DIGITS / "heads.safetensors")
    pixels, labels, parts = [], [], []
    for task in tasks:
        chosen = found["images"]["chosen"][task]
        raw = arrays[f"{task}/test/images"][chosen].numpy()
        pixels += [transform(Image.fromarray(image)) for image in raw]
        labels.append(arrays[f"{task}/test/labels"][chosen].long())
        parts.append(len(chosen))
    pixels = torch.stack(pixels)

    def objective(lambdas):
        w = dict(base)
        for name, place in places.items():
            w[name] = base[name] + sum(lambdas[place, t] * vectors[t][name] for t in range(len(tasks)))
        embeds = F.normalize(encode(w, pixels), dim=-1).split(parts)
        losses = [
            F.cross_entropy((e @ heads[f"{t}/weight"].T + heads[f"{t}/bias"]) / found["temperature"], y)
            for t, e, y in zip(tasks, embeds, labels)
        ]
        return sum(losses) / len(losses) + pull * (lambdas - start).square().sum() / count

    start = torch.full((count, len(tasks)), float(found["single"]["lambda"]))
    with torch.no_grad():
        begun, told = objective(start).item(), found["single"]["training"]["loss"]
    assert abs(begun - told) < 1e-4 * max(1, begun), (begun, told)
    lambdas = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([lambdas], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    least = float("inf")
    for _ in range(STEPS):
        optimiser.zero_grad()
        value = objective(lambdas)
        value.backward()
        optimiser.step()
        schedule.step()
        least = min(least, value.item())
    gap = ours / least - 1
    print(f"{method:5} {groups:10} pull {pull}: start {begun:.5f}, fit {ours:.5f}, Adam {least:.5f}, {100 * gap:+.2f} %")
    return gap <= LIMIT


if __name__ == "__main__":
    groups = sys.argv[2].split(",") if len(sys.argv) > 2 else ["whole", "layer"]
    pull = float(sys.argv[3]) if len(sys.argv) > 3 else 0.01
    results = [compare(sys.argv[1], method, by, pull) for method in ("AE", "PCA") for by in groups]
    sys.exit(0 if all(results) else "fit is more than 2 % above what gradients find")
