"""The weights of a task from a bundle, with nothing but safetensors and numpy: docs/bundle-format.md in 70 lines.

    python3 read_bundle.py model.taskbasis TASK weights.npz"""
import json
import sys
import numpy as np
import safetensors

TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "U8": "u1", "U64": "<u8"}
# Bits of each plane, the lowest first, and what is subtracted from a code.
FORMATS = {"q8": ([8], 128), "q6": ([4, 2], 32), "q4": ([4], 8), "q3": ([2, 1], 4), "q2": ([2], 1.5)}

def bf16(raw):
    return (raw.view("<u2").astype("<u4") << 16).view("<f4")

def dequantize(raw, format, numel):
    """Rows of bytes to rows of `numel` f32 values, and what stands behind them in the rows."""
    planes, offset = FORMATS[format]
    end = -(-numel // 64) * (2 + 8 * sum(planes))
    blocks = raw[:, :end].reshape(len(raw), -1, 2 + 8 * sum(planes))
    scale = bf16(np.ascontiguousarray(blocks[:, :, :2]))
    codes, at, shift = 0, 2, 0
    for bits in planes:
        plane = blocks[:, :, at : at + 8 * bits]
        parts = [plane >> (bits * k) & (2**bits - 1) for k in range(8 // bits)]
        codes = codes + (np.concatenate(parts, axis=2).astype("<f4") * 2**shift)
        at, shift = at + 8 * bits, shift + bits
    return (scale * (codes - offset)).reshape(len(raw), -1)[:, :numel], raw[:, end:]

def values(raw, shape, format, rank=None):
    """Rows of bytes to rows of values of this shape; of matrices of low rank, to the products of their factors."""
    numel = int(np.prod(shape))
    if rank is None:
        return dequantize(raw, format, numel)[0]
    left, rest = dequantize(raw, format, rank * shape[0])
    right, _ = dequantize(rest, format, rank * numel // shape[0])
    left, right = (factor.astype("<f8").reshape(len(raw), rank, -1) for factor in (left, right))
    return left.transpose(0, 2, 1) @ right

def read(path):
    with open(path, "rb") as file:
        data = file.read()
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    about = {key.removeprefix("taskbasis."): value for key, value in metadata.items()}
    assert about["version"] in ("1", "2")
    blocks, tensors = json.loads(about["blocks"]), {}
    for name, tensor in safetensors.deserialize(data):
        raw, shape = np.frombuffer(tensor["data"], "u1"), tensor["shape"]
        if name in blocks:
            shape = shape[:-1] + blocks[name]["shape"]
            found = values(raw.reshape(-1, tensor["shape"][-1]), **blocks[name])
        else:
            found = bf16(raw) if tensor["dtype"] == "BF16" else raw.view(TYPES[tensor["dtype"]])
        tensors[name] = found.reshape(shape)
    return json.loads(about["basis"]), tensors

def weights(path, task):
    basis, tensors = read(path)
    column, out = tensors["recovery"][:, basis["tasks"].index(task)], {}
    for name in [name.removeprefix("base/") for name in tensors if name.startswith("base/")]:
        out[name] = tensors["base/" + name].astype("<f8")
        if "vectors/" + name in tensors:
            out[name] += np.tensordot(column, tensors["vectors/" + name].astype("<f8"), 1)
            out[name] += tensors["mean/" + name] if basis["mean"] else 0
            if task in basis["residuals"]:
                out[name] += tensors[f"residuals/{basis['residuals'].index(task)}/{name}"]
    return out

if __name__ == "__main__":
    np.savez(sys.argv[3], **{name: values.astype("<f4") for name, values in weights(sys.argv[1], sys.argv[2]).items()})
