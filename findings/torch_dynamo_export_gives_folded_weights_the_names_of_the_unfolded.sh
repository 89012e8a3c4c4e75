#!/usr/bin/env bash
# torch 2.15.0 with onnxscript 0.7.2: a good guess would be that an initializer of an exported graph that is called as a
# parameter is that parameter, and that what the exporter computed has a name of its own, as the older exporter's
# `onnx::Conv_11`. The newer one (`dynamo=True`, the default) folds a batch normalisation into the convolution before it
# and calls the product `conv.weight`, and a bias that the state dict does not have `conv.weight_bias`. A tool that puts a
# fine-tune's `conv.weight` into the initializer of that name drops the normalisation's factors without a word.
#
# Seen with torch 2.15.0, onnx 1.23.2, onnxscript 0.7.2:
#   newer: conv.weight holds other values than the state dict's conv.weight
#   newer: conv.weight_bias is no name of the state dict
#   older: onnx::Conv_11 onnx::Conv_12
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.15.0 onnx==1.23.2 onnxscript==0.7.2
"$folder/venv/bin/python" - "$folder" <<'PYTHON' 2>/dev/null
import sys
import numpy as np
import onnx
import torch
from onnx import numpy_helper


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, bias=False)
        self.norm = torch.nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.conv(x)).relu()


torch.manual_seed(0)
net = Net().eval()
for values, low, high in [(net.norm.weight, 1.5, 2.5), (net.norm.running_var, 0.5, 1.5), (net.norm.bias, -1, 1)]:
    values.data.uniform_(low, high)


def initializers(dynamo):
    path = f"{sys.argv[1]}/net.onnx"
    torch.onnx.export(net, (torch.randn(1, 3, 8, 8),), path, dynamo=dynamo, verbose=False)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


own = net.state_dict()
newer, older = initializers(True), initializers(False)
assert set(newer) == {"conv.weight", "conv.weight_bias"}, set(newer)
factor = newer["conv.weight"] / own["conv.weight"].numpy()
assert np.ptp(factor, axis=(1, 2, 3)).max() < 1e-5 and abs(factor - 1).min() > 0.1, factor
assert "conv.weight_bias" not in own
print("newer: conv.weight holds other values than the state dict's conv.weight")
print("newer: conv.weight_bias is no name of the state dict")
assert not set(older) & set(own), set(older)
print("older:", *sorted(older))
PYTHON
