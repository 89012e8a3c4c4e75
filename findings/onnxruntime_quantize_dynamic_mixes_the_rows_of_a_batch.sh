#!/usr/bin/env bash
# ONNX Runtime 1.32.0, CPU: a MatMul after `quantize_dynamic`. What a row gets depends on the other rows of the run: in
# company of one row that is fifty times as large it is as wrong as if its numbers had one or two bits.
#
# A good guess would be that `per_channel=True` has a scale for each row of x too, or that dynamic means for each row.
# `per_channel` is of the weights alone; x has one scale for the whole tensor, the rows of all images of a batch. So an
# image's embedding changes with what else is in its batch, and one image with outliers spoils the others.
#
# Seen (x86-64 with AVX-512): relative error of a row alone 1.3e-2, beside the large row 4.2e-1; with per_channel 1.1e-2
# and 4.2e-1.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.3.5
cd "$work"
"$work/venv/bin/python" - <<'PYTHON' 2>/dev/null
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

INNER, COLUMNS = 768, 512
random = np.random.default_rng(0)
weight = (random.standard_normal((INNER, COLUMNS)) * 0.05).astype(np.float32)
x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", INNER])
y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", COLUMNS])
nodes, constants = [helper.make_node("MatMul", ["x", "weight"], ["y"])], [numpy_helper.from_array(weight, "weight")]
graph = helper.make_graph(nodes, "g", [x], [y], constants)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), "f32.onnx")

row = random.standard_normal((1, INNER)).astype(np.float32)
both = np.concatenate([row, 50 * random.standard_normal((1, INNER)).astype(np.float32)])
exact = row @ weight
for per_channel in (False, True):
    quantize_dynamic("f32.onnx", "int8.onnx", weight_type=QuantType.QInt8, per_channel=per_channel)
    session = onnxruntime.InferenceSession("int8.onnx", providers=["CPUExecutionProvider"])
    error = lambda got: float(np.linalg.norm(got - exact) / np.linalg.norm(exact))
    alone, beside = error(session.run(None, {"x": row})[0]), error(session.run(None, {"x": both})[0][:1])
    print(f"per_channel {per_channel}: relative error alone {alone:.1e}, beside a large row {beside:.1e}")
    assert alone < 2e-2, "a row alone is not precise any more"
    assert beside > 10 * alone, "rows do not depend on each other any more"
PYTHON
