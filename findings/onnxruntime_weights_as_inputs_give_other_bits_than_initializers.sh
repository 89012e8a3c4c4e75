#!/usr/bin/env bash
# ONNX Runtime 1.32.0, CPU: one MatMul, one thread, the same weights. Given as an initializer they are prepacked when the
# session is made; given as an input of the run they cannot be. The two results differ in their last bits, for one row
# of x always, for several rows from an inner length of about 256 on.
#
# A good guess would be that packing only moves numbers about, so that the sums stay the same. It selects another kernel
# with another order of summation. With `session.disable_prepacking` the initializer gives the input's bits exactly,
# which shows the cause.
#
# Seen (x86-64 with AVX-512): inner length 768, one row: relative difference 4e-7; without prepacking: equal.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.3.5
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

INNER, COLUMNS = 768, 768


def product(x, weight, as_input, prepacking):
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", INNER])]
    constants = []
    feeds = {"x": x}
    if as_input:
        inputs.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, [INNER, COLUMNS]))
        feeds["weight"] = weight
    else:
        constants.append(numpy_helper.from_array(weight, "weight"))
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", COLUMNS])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "weight"], ["y"])], "g", inputs, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not prepacking:
        options.add_session_config_entry("session.disable_prepacking", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


random = np.random.default_rng(0)
weight = random.standard_normal((INNER, COLUMNS)).astype(np.float32)
for rows in (1, 50):
    x = random.standard_normal((rows, INNER)).astype(np.float32)
    as_input = product(x, weight, True, True)
    packed = product(x, weight, False, True)
    unpacked = product(x, weight, False, False)
    print(f"{rows} rows: relative difference {np.abs(packed - as_input).max() / np.abs(packed).max():.1e}")
    assert not np.array_equal(packed, as_input), "packed weights give the bits of inputs now"
    assert np.array_equal(unpacked, as_input), "prepacking is not the cause any more"
    assert np.allclose(packed, as_input, rtol=1e-4, atol=1e-4)
PYTHON
