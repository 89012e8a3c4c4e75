#!/usr/bin/env bash
# torch 2.15.0 (dynamo exporter, its default) with onnxscript 0.7.2 and open_clip 3.3.0: a vision transformer exported with
# example images of batch 2 and no dynamic shapes has no initializer called `class_embedding`. The token was expanded
# and folded: it is an initializer `expand` of shape [2, 1, width], two equal rows. With a dynamic batch it is `view_1`,
# [1, 1, width], renamed too.
#
# A good guess would be that parameters keep their names and shapes as initializers, as all the others do here (the
# positions next to it stay `positional_embedding`). A tool that matches weights by name or by shape
# finds every parameter but this one, and one that replaces what it found runs with the old class token in silence.
#
# Seen: batch 2: expand [2, 1, 64], rows equal to class_embedding; dynamic batch: view_1 [1, 1, 64].
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.15.0 open_clip_torch==3.3.0 onnx==1.23.2 onnxscript==0.7.2
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
import torch
from onnx import numpy_helper
from open_clip.transformer import VisionTransformer

torch.manual_seed(0)
tower = VisionTransformer(image_size=32, patch_size=16, width=64, layers=1, heads=1, mlp_ratio=4, output_dim=32).eval()
images = torch.zeros(2, 3, 32, 32)
token = tower.class_embedding.detach().numpy()
for batch, shapes, rows in (("2", None, 2), ("dynamic", {"x": {0: torch.export.Dim("batch")}}, 1)):
    program = torch.onnx.export(tower, (images,), dynamo=True, dynamic_shapes=shapes, input_names=["x"], verbose=False)
    constants = {one.name: numpy_helper.to_array(one) for one in program.model_proto.graph.initializer}
    assert "positional_embedding" in constants
    assert not any("class_embedding" in name for name in constants), "the class token keeps its name now"
    same = {n: a.shape for n, a in constants.items() if a.size and a.size % 64 == 0 and np.array_equal(
        a.reshape(-1, 64), np.tile(token, (a.size // 64, 1)))}
    print(batch, same)
    assert list(same.values()) == [(rows, 1, 64)], same
PYTHON
