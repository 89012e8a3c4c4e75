#!/usr/bin/env python3
"""Makes the first corpus of every target from the small real files: python3 fuzz/seed.py [folder of digits]."""
import json
import pathlib
import struct
import sys
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
DIGITS = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "examples" / "digits"
LARGEST = 64 << 10  # The fuzzer learns nothing from a megabyte of weights.


def shrunk(path):
    """The archive with every storage cut to 64 bytes: the records are what matters."""
    out = HERE / "corpus" / "zip" / path.name
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist()[:24]:
            data = source.read(name)
            target.writestr(name, data if name.endswith("data.pkl") else data[:64])
    return out


# Those of structured targets are kept: the fuzzer's choices say nothing by themselves.
for path in (HERE / "seeds").glob("*/*"):
    (HERE / "corpus" / path.parent.name).mkdir(parents=True, exist_ok=True)
    (HERE / "corpus" / path.parent.name / path.name).write_bytes(path.read_bytes())
for target in ("zip", "pickle", "checkpoint", "bundle", "onnx", "graph", "image"):
    (HERE / "corpus" / target).mkdir(parents=True, exist_ok=True)
for path in sorted(DIGITS.rglob("*.pt")):
    small = shrunk(path).read_bytes()
    with zipfile.ZipFile(path) as archive:
        pickles = [archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl")]
    whole = path.read_bytes()
    for number, pickle in enumerate(pickles):
        for target in ("pickle", "checkpoint"):
            (HERE / "corpus" / target / f"{path.stem}.{number}.pkl").write_bytes(pickle)
    (HERE / "corpus" / "checkpoint" / path.name).write_bytes(whole if len(whole) <= LARGEST else small)
    if len(whole) <= LARGEST:
        (HERE / "corpus" / "zip" / f"whole_{path.name}").write_bytes(whole)
for path in sorted(DIGITS.rglob("*.safetensors")):
    whole = path.read_bytes()
    if len(whole) <= LARGEST:
        (HERE / "corpus" / "checkpoint" / path.name).write_bytes(whole)
for path in (HERE.parent / "tests" / "data").glob("*.taskbasis"):
    (HERE / "corpus" / "bundle" / path.name).write_bytes(path.read_bytes())
for path in [*DIGITS.rglob("*.png"), HERE.parent / "tests" / "preprocess_ramp.jpg"]:
    if path.stat().st_size <= LARGEST:
        (HERE / "corpus" / "image" / path.name).write_bytes(path.read_bytes())
# The start of each other kind of file; the fuzzer finds the rest.
for name, content in {
    "gif": b"GIF89a\2\0\2\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\2\0\2\0\0\2\3\x44\x34\5\0;",
    "bmp": b"BM" + struct.pack("<IIIIiiHHIIiiII", 70, 0, 54, 40, 2, 2, 1, 24, 0, 16, 0, 0, 0, 0) + bytes(range(16)),
    "ppm": b"P6 2 2 255\n" + bytes(range(12)),
    "pbm": b"P1 2 2 0110",
    "webp": b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0/\0\0\0\x10\x07\x10\x11\x11\x88\x88\xfe\x07\0",
    "tiff": b"II*\0\x08\0\0\0\x08\0"
    + b"".join(
        struct.pack("<HHIHH", tag, 3, 1, value, 0)
        for tag, value in ((256, 2), (257, 2), (258, 8), (259, 1), (262, 1), (273, 110), (277, 1), (279, 4))
    )
    + bytes(8),
}.items():
    (HERE / "corpus" / "image" / name).write_bytes(content)


def field(number, content):
    """A length-delimited field of protocol buffers."""
    if isinstance(content, str):
        content = content.encode()
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def port(number, name):
    return field(number, field(1, name))


# pixels x [n,2] -> MatMul -> y, with the constant that the targets' base has, and with its transpose in another shape.
def model(values, dims, operator="MatMul"):
    tensor = b"".join(bytes([8, dim]) for dim in dims) + b"\x10\x01" + field(8, "w") + field(9, struct.pack("<6f", *values))
    node = field(1, "x") + field(1, "w") + field(2, "y") + field(4, operator)
    graph = field(1, node) + field(5, tensor) + port(11, "x") + port(12, "y")
    return b"\x08\x08" + field(7, graph) + field(8, b"\x10\x0d")


plain, transposed = model(range(6), (2, 3)), model((0, 3, 1, 4, 2, 5), (3, 2), "Gemm")
for name, onnx in (("matmul", plain), ("gemm", transposed)):
    (HERE / "corpus" / "onnx" / f"{name}.onnx").write_bytes(onnx)

whole = {"parameter": "visual.proj"}
for name, onnx, inputs in (
    ("whole", plain, {"w": {"sum": [whole]}}),
    ("renamed", plain, {"p": {"constant": "w", "uses": [[0, 1]], "sum": [whole]}}),
    ("permuted", transposed, {"w": {"sum": [whole | {"shape": [2, 3], "permute": [1, 0]}]}}),
    ("unchecked", plain, {"w": {"sum": [whole | {"rows": [0, 2], "scale": 0.5}], "unchecked": True}}),
):
    text = json.dumps({"pixels": "x", "output": "y", "tensors": inputs, "missing": ["visual.ln_pre.weight"]})
    (HERE / "corpus" / "graph" / name).write_bytes(text.encode() + b"\0" + onnx)
