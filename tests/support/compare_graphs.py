"""Compares exported graphs of other encoders than vision transformers with timm, on random weights: bound by the program
as `torch.onnx` writes them, by its older exporter (TorchScript) and its newer one (dynamo), with the batch normalisations
folded into the convolutions, as both do by default, and left in.

    python tests/support/compare_graphs.py target/release/taskbasis [NAME ...]

Needs torch, timm, onnx, onnxscript and safetensors; ORT_DYLIB_PATH must be set. For each graph two fine-tunes are made
of the base, in every parameter and statistic, and the program embeds two images of noise with the base, a task of a
built basis of full rank, its negation, and the sum of two. The relative L2 distance to what PyTorch computes from the
same state dicts must be at most 2e-5. A NAME is that of a model (`resnet`) or of one graph of it (`resnet/dynamo`).
docs/graphs.md tells what this script found.
"""

import contextlib
import io
import pathlib
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import timm
import torch
from compare_families import distance, roughened
from safetensors.numpy import load_file
from safetensors.torch import save_file

LIMIT = 2e-5
# A name of timm's, the size of images, and what else it takes.
MODELS = {
    "convnext": ("convnext_atto", 64, {}),
    "resnet": ("resnet18", 64, {}),
    "resnet_bottleneck": ("resnet26", 64, {}),
    "regnet": ("regnety_002", 64, {}),
    "mobilenetv3": ("mobilenetv3_small_050", 64, {}),
    "efficientnet": ("efficientnet_b0", 64, {}),
    "efficientnet_tf": ("tf_efficientnet_lite0", 64, {}),
    "mobileone": ("mobileone_s0", 64, {}),
    "fastvit_t8": ("fastvit_t8", 256, {}),
    "fastvit_sa12": ("fastvit_sa12", 256, {}),
    "mobileclip": ("fastvit_mci0", 256, {}),
    "vitamin": ("vitamin_small_224", 224, {}),
}
EXPORTS = {
    "torchscript": dict(dynamo=False, dynamic_axes={"pixels": {0: "n"}, "features": {0: "n"}}),
    "dynamo": dict(dynamo=True),
    "torchscript_plain": dict(
        dynamo=False,
        dynamic_axes={"pixels": {0: "n"}, "features": {0: "n"}},
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
    ),
    "dynamo_plain": dict(dynamo=True, optimize=False),
}


def made(name, size, arguments):
    model = roughened(timm.create_model(name, num_classes=0, **arguments))
    # What training leaves in batch normalisations.
    torch.manual_seed(9)
    for part in model.modules():
        if getattr(part, "running_var", None) is not None:
            part.running_mean.add_(0.1 * torch.randn_like(part.running_mean))
            part.running_var.mul_(1 + 0.3 * torch.rand_like(part.running_var))
    return model.eval()


def tuned(state, seed):
    """Another state dict, near this one."""
    torch.manual_seed(seed)

    def moved(name, values):
        if not values.is_floating_point():
            return values
        if name.endswith("running_var"):
            return values * (1 + 0.05 * torch.rand_like(values))
        return values + 0.02 * max(float(values.std().nan_to_num(0.1)), 0.02) * torch.randn_like(values)

    return {name: moved(name, values) for name, values in state.items()}


def mixed(base, parts):
    def of(name, values):
        if not values.is_floating_point():
            return values
        return values + sum(factor * (task[name] - values) for factor, task in parts)

    return {name: of(name, values) for name, values in base.items()}


def run(program, *arguments):
    ran = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    return ran.returncode, ran.stderr.strip() or ran.stdout.strip()


@torch.no_grad()
def compared(program, title, model, size, export, folder):
    base = {name: values.clone() for name, values in model.state_dict().items()}
    tasks = {"A": tuned(base, 1), "B": tuned(base, 2)}
    for name, state in [("base", base), *tasks.items()]:
        save_file({key: values.contiguous() for key, values in state.items()}, folder / f"{name}.safetensors")
    graph = folder / "model.onnx"
    torch.manual_seed(7)
    pixels = torch.rand(2, 3, size, size) * 2 - 1
    save_file({"pixel_values": pixels}, folder / "pixels.safetensors")
    names = dict(input_names=["pixels"], output_names=["features"])
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if export["dynamo"]:
                names["dynamic_shapes"] = ({0: torch.export.Dim("n", min=1, max=64)},)
            torch.onnx.export(model, (pixels,), graph, **names, **export)
    except Exception as error:  # What an exporter cannot write is no fault of the program's.
        print("skip", title, f"torch.onnx: {type(error).__name__} {str(error)[:120]!r}", flush=True)
        return True

    of_model = ["--base", folder / "base.safetensors", "--basis", folder / "basis"]
    status, said = run(
        program, "build", "--base", folder / "base.safetensors", "--vectors", 2, "-o", folder / "basis",
        *(f"--task={task}={folder / task}.safetensors" for task in tasks),
    )  # fmt: skip
    if status == 0:
        status, said = run(program, "bind", graph, *of_model)
    if status != 0:
        print("FAIL", title, said[:500], flush=True)
        return False
    folded = sum("folded: " in line for line in said.splitlines())
    found, good = [f"{folded} folded"], True
    for case, weights, parts in [
        ("base", "base", []),
        ("task", "A", [(1.0, tasks["A"])]),
        ("negation", "A@-0.5", [(-0.5, tasks["A"])]),
        ("merge", "A@0.3 + B@0.3", [(0.3, tasks["A"]), (0.3, tasks["B"])]),
    ]:
        model.load_state_dict(mixed(base, parts))
        right = model(pixels).numpy()
        out = folder / "out.safetensors"
        status, said = run(
            program, "embed", "--graph", graph, "--weights", weights, "-i", folder / "pixels.safetensors", "-o", out, *of_model
        )  # fmt: skip
        if status != 0:
            found.append(f"{case} {said[:300]}")
            good = False
            continue
        error = distance(load_file(out)["embeds"], right)
        good &= bool(error <= LIMIT)
        found.append(f"{case} {error:.1e}")
    model.load_state_dict(base)
    moved = np.linalg.norm(right - model(pixels).numpy()) / np.linalg.norm(right)
    found.append(f"(tasks move it by {moved:.0e})")
    print("ok  " if good else "FAIL", title, "; ".join(found), flush=True)
    return good


def main():
    program, *names = sys.argv[1:]
    results = []
    for name, (of_timm, size, arguments) in MODELS.items():
        wanted = [export for export in EXPORTS if not names or name in names or f"{name}/{export}" in names]
        if not wanted:
            continue
        model = made(of_timm, size, arguments)
        has_norms = any(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in model.modules())
        for export in wanted:
            # Without batch normalisations there is nothing to be left in.
            if has_norms or not export.endswith("_plain"):
                with tempfile.TemporaryDirectory() as folder:
                    title = f"{name}/{export}"
                    results.append(compared(program, title, model, size, EXPORTS[export], pathlib.Path(folder)))
    sys.exit(0 if results and all(results) else 1)


if __name__ == "__main__":
    main()
