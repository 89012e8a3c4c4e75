"""A base without a tower that is known, from its graph: packed, opened and run through Python."""

import json
import struct

import numpy as np
import pytest

import taskbasis
from conftest import tensors

pytest.importorskip("onnxruntime", reason="ONNX Runtime's package is not installed")

SIZE, WIDTH, OUT = 8, 6, 5
SHAPES = {"stem.weight": (WIDTH, 3, SIZE, SIZE), "stem.bias": (WIDTH,), "head.fc.weight": (OUT, WIDTH), "head.fc.bias": (OUT,)}
CONFIG = {
    "architecture": "convnext_tiny",
    "pretrained_cfg": {
        "input_size": [3, SIZE, SIZE],
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": [0.25, 0.5, 0.75],
        "std": [0.5, 0.25, 0.125],
    },
}


def save(path, arrays):
    """A safetensors file of f32."""
    header, data = {}, b""
    for name, array in arrays.items():
        values = array.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def number(value):
    """A varint of protobuf."""
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(key, value):
    """A field of protobuf: an int, a text, or a message."""
    if isinstance(value, int):
        return number(key << 3) + number(value)
    value = value.encode() if isinstance(value, str) else value
    return number(key << 3 | 2) + number(len(value)) + value


def constant(name, array):
    extents = b"".join(field(1, extent) for extent in array.shape)
    return field(5, extents + field(2, 1) + field(8, name) + field(9, array.astype("<f4").tobytes()))


def node(op, inputs, output, attribute=b""):
    return field(1, b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, op) + attribute)


def port(key, name, extents):
    shape = field(1, field(2, "n")) + b"".join(field(1, field(1, extent)) for extent in extents)
    return field(key, field(1, name) + field(2, field(1, field(1, 1) + field(2, shape))))


def graph(weights):
    """The .onnx file of a convolution and a linear layer."""
    strides = field(5, field(1, "strides") + field(8, SIZE) + field(8, SIZE) + field(20, 7))
    nodes = node("Conv", ["pixels", "c0", "c1"], "a", strides) + node("Flatten", ["a"], "b")
    nodes += node("MatMul", ["b", "c2"], "c") + node("Add", ["c", "c3"], "features")
    stem, bias, matrix, last = (weights[name] for name in SHAPES)
    constants = constant("c0", stem) + constant("c1", bias) + constant("c2", matrix.T.copy()) + constant("c3", last)
    ports = port(11, "pixels", [3, SIZE, SIZE]) + port(12, "features", [OUT])
    return field(1, 8) + field(7, nodes + field(2, "encoder") + constants + ports) + field(8, field(2, 17))


def features(weights, pixels):
    a = pixels.reshape(len(pixels), -1) @ weights["stem.weight"].reshape(WIDTH, -1).T + weights["stem.bias"]
    return a @ weights["head.fc.weight"].T + weights["head.fc.bias"]


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    random = np.random.default_rng(3)
    base = {name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    task = {name: value + 0.1 * random.standard_normal(value.shape).astype(np.float32) for name, value in base.items()}
    (folder / "model").mkdir()
    (folder / "tasks").mkdir()
    save(folder / "model" / "base.safetensors", base)
    save(folder / "tasks" / "A.safetensors", task)
    (folder / "model" / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.onnx").write_bytes(graph(base))
    head = {"A/weight": random.standard_normal((3, OUT)), "A/bias": np.zeros(3)}
    save(folder / "heads.safetensors", head)
    taskbasis.build(base=folder / "model" / "base.safetensors", tasks_dir=folder / "tasks", vectors=1, output=folder / "basis")
    return folder, base, task, head


def test_a_bundle_over_another_encoder(family):
    folder, base, task, head = family
    model, path = folder / "model" / "base.safetensors", folder / "m.taskbasis"
    taskbasis.pack(
        basis=folder / "basis",
        base=model,
        graph=folder / "model.onnx",
        heads=folder / "heads.safetensors",
        format="f32",
        base_format="f32",
        output=path,
    )
    taskbasis.verify(path)
    pixels = np.random.default_rng(1).standard_normal((2, 3, SIZE, SIZE)).astype(np.float32)
    expected = features(task, pixels)
    of_bundle = taskbasis.Encoder(taskbasis.open(path))
    of_folder = taskbasis.Encoder(taskbasis.open(folder / "basis", model), graph=folder / "model.onnx")
    for encoder, source in (of_bundle, "bundle"), (of_folder, "file"):
        info = encoder.info()
        assert (info["graph"], info["width"], encoder.image_size, encoder.embedding) == (source, 0, SIZE, OUT)
        found = encoder(pixels, "A")
        assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()
        image = np.random.default_rng(2).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        prepared = (image.astype(np.float32) / 255 - [0.25, 0.5, 0.75]) / [0.5, 0.25, 0.125]
        wanted = features(base, prepared.transpose(2, 0, 1)[None].astype(np.float32))
        assert np.abs(encoder(image, "base") - wanted).max() <= 2e-5 * np.abs(wanted).max()
    scores = taskbasis.classify(of_bundle, taskbasis.Head(path, "A"), image, taskbasis.open(path).weights("A"))[0]
    wanted = features(task, prepared.transpose(2, 0, 1)[None].astype(np.float32))[0]
    logits = head["A/weight"] @ (wanted / np.linalg.norm(wanted))
    assert [score.class_index for score in scores] == list(np.argsort(-logits))
    with pytest.raises(taskbasis.UnsupportedError, match="block by block"):
        taskbasis.Encoder(taskbasis.open(path), residency="blockwise")
    with pytest.raises(taskbasis.UnsupportedError, match="no built graph"):
        taskbasis.Encoder(taskbasis.open(path), built_graph=True)
    names = set(taskbasis.open(path).weights("A").tensors())
    assert names == set(SHAPES) and set(tensors(model)) == names
