"""What `taskbasis bench --peers` measures beside taskbasis: OpenVINO, ONNX Runtime's dynamic int8 and PyTorch.

    worker.py look      the packages that can be imported, and their versions
    worker.py serve     makes the peers, then runs them, one at a time, as it is asked to

Each line of standard input and output is a JSON object. `serve` reads the first line:

    {"onnx", "weights", "pixels": files, "folder": for what is made, "image": [3, S, S], "threads", "arch"}

The peers' weights are constants, those of the file `onnx`; `weights` are the same as safetensors. It answers
`{"there": [{"peer", "package", "version", "ready_ms"}], "left_out": [{"peer", "package", "version", "why"}]}`. Then
`{"peer", "batch", "embeds": whether they are wanted}` is answered by `{"ms", "embeds": [batch · e numbers] or null}`,
or by `{"error"}`. It ends with its input.
"""

import gc
import importlib
import importlib.metadata
import json
import os
import sys
import time

# How long other threads may spin after a run: they must have stopped when another program's turn comes.
SETTLE_SECONDS = 0.01


def openvino(config, precision):
    """A model compiled for constants, in one stream on as many threads."""
    import openvino as ov

    core = ov.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise RuntimeError("it has no bf16 for this processor")
    hints = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": config["threads"],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    compiled = core.compile_model(core.read_model(config["onnx"]), "CPU", hints)
    request = compiled.create_infer_request()
    output = compiled.output(0)
    return lambda pixels: request.infer({0: pixels}, share_inputs=True)[output]


def onnxruntime_int8(config):
    """The file with the weights of its products quantised as the documentation of ONNX Runtime advises."""
    import onnx
    import onnxruntime as ort
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = os.path.join(config["folder"], "int8.onnx")
    quantize_dynamic(
        config["onnx"],
        path,
        # Convolutions get slower in int8: without them it is the faster file.
        op_types_to_quantize=["MatMul"],
        weight_type=QuantType.QInt8,
        use_external_data_format=os.path.getsize(config["weights"]) > 1 << 31,
        # Types are not inferred through operators of ONNX Runtime's own.
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = config["threads"]
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels})[0]


def pytorch_bf16(config):
    """The network written with PyTorch's own functions, parameters and activations in bf16, eagerly."""
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(config["threads"])
    arch, variant = config["arch"], config["arch"].get("variant", {})
    weights = {name: value.to(torch.bfloat16) for name, value in safetensors(config["weights"], torch).items()}
    epsilon, pooling = variant.get("norm_epsilon", 1e-5), variant.get("pooling", "class_token")
    if pooling == "patch_mean":
        raise RuntimeError("the network is not written for this pooling")
    activations = {
        "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    }
    activation = activations[arch["activation"]]

    def of(name):
        return weights[f"visual.{name}"]

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], of(f"{name}.weight"), of(f"{name}.bias"), epsilon)

    def linear(x, name, separator="."):
        return F.linear(x, of(f"{name}{separator}weight"), of(f"{name}{separator}bias"))

    def block(x, name):
        batch, tokens, width = x.shape
        qkv = linear(norm(x, f"{name}.ln_1"), f"{name}.attn.in_proj", "_").chunk(3, -1)
        q, k, v = (part.view(batch, tokens, arch["heads"], -1).transpose(1, 2) for part in qkv)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        x = x + linear(mixed, f"{name}.attn.out_proj")
        hidden = activation(linear(norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc"))
        return x + linear(hidden, f"{name}.mlp.c_proj")

    def tower(pixels):
        x = F.conv2d(pixels, of("conv1.weight"), stride=arch["patch"]).flatten(2).transpose(1, 2)
        x = torch.cat([of("class_embedding").expand(len(x), 1, -1), x], 1) + of("positional_embedding")
        if variant.get("pre_norm", True):
            x = norm(x, "ln_pre")
        for layer in range(arch["layers"]):
            x = block(x, f"transformer.resblocks.{layer}")
        if pooling == "class_token":
            x = norm(x[:, 0], "ln_post")
        elif pooling == "mean_then_norm":
            x = norm(x[:, 1:].mean(1), "ln_post")
        else:
            x = norm(x, "ln_post")[:, 1:].mean(1)
        return x @ of("proj")

    def run(pixels):
        with torch.inference_mode():
            return tower(torch.from_numpy(pixels).to(torch.bfloat16)).float().numpy()

    return run


def safetensors(path, torch):
    """The image tower's tensors of a file in that format."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        tensors = {}
        for name, about in header.items():
            if name.startswith("visual."):
                begin, end = about["data_offsets"]
                file.seek(8 + length + begin)
                values = torch.frombuffer(bytearray(file.read(end - begin)), dtype=torch.float32)
                tensors[name] = values.reshape(about["shape"])
    return tensors


# Name, the packages that it needs, of which the first one's version is told, and what makes it.
PEERS = [
    ("openvino-f32", ["openvino"], lambda config: openvino(config, "f32")),
    ("openvino-bf16", ["openvino"], lambda config: openvino(config, "bf16")),
    ("onnxruntime-int8", ["onnxruntime", "onnx"], onnxruntime_int8),
    ("pytorch-bf16", ["torch"], pytorch_bf16),
]


def look(package):
    """The version of a package, or why it cannot be imported."""
    try:
        module = importlib.import_module(package)
    except Exception as error:  # A package that is damaged may raise anything.
        return {"package": package, "version": None, "why": one_line(error)}
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = str(getattr(module, "__version__", "unknown"))
    return {"package": package, "version": version, "why": None}


def one_line(error):
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 400 else text[:400] + " …"


def serve(config, requests, answer):
    import numpy as np

    pixels = np.fromfile(config["pixels"], np.float32).reshape([-1, *config["image"]])
    runs, there, left_out = {}, [], []
    for peer, packages, make in PEERS:
        seen = [look(package) for package in packages]
        lacking = next((package for package in seen if package["version"] is None), None)
        about = {"peer": peer, "package": seen[0]["package"], "version": seen[0]["version"]}
        if lacking:
            left_out.append({**about, **lacking})
            continue
        try:
            began = time.perf_counter()
            runs[peer] = make(config)
            there.append({**about, "ready_ms": (time.perf_counter() - began) * 1e3})
        except Exception as error:
            left_out.append({**about, "why": one_line(error)})
    answer({"there": there, "left_out": left_out})

    # No pause for the collector within a run.
    gc.collect()
    gc.disable()
    for request in requests:
        asked = json.loads(request)
        images = pixels[: asked["batch"]]
        try:
            began = time.perf_counter()
            embeds = runs[asked["peer"]](images)
            ms = (time.perf_counter() - began) * 1e3
            time.sleep(SETTLE_SECONDS)
            answer({"ms": ms, "embeds": embeds.ravel().tolist() if asked["embeds"] else None})
        except Exception as error:
            answer({"error": one_line(error)})


def main():
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(value):
        answers.write(json.dumps(value, allow_nan=False) + "\n")
        answers.flush()

    if sys.argv[1] == "look":
        packages = {"numpy": None, **{package: None for _, packages, _ in PEERS for package in packages}}
        answer({"python": sys.version.split()[0], "packages": [look(package) for package in packages]})
    else:
        serve(json.loads(sys.stdin.buffer.readline()), sys.stdin.buffer, answer)


main()
