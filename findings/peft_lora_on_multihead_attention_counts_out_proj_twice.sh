#!/usr/bin/env bash
# peft 0.21.0 with torch 2.15.0: LoRA on `nn.MultiheadAttention` (target "attn": open_clip's and OpenAI's CLIP towers). The
# change of the output projection counts twice: the merged `out_proj.weight` is W + 2·(lora_alpha / r)·B·A, while the
# merged `in_proj_weight` is W + 1·(lora_alpha / r)·B·A. The forward pass of the unmerged model does the same.
#
# A good guess would be the formula of the paper and of peft's documentation, W + (lora_alpha / r)·B·A, for every module. A
# runtime that merges such an adapter by that formula gives other embeddings than the model that was trained, and no
# comparison of shapes or names shows it.
#
# Seen: ratio of the merged change to (lora_alpha / r)·B·A: out_proj 2.0, in_proj 1.0; forward before and after merging
# agree.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 peft==0.21.0 transformers==5.24.0
"$work/venv/bin/python" - <<'PYTHON'
import copy

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = torch.nn.MultiheadAttention(8, 2)

    def forward(self, x):
        return self.attn(x, x, x, need_weights=False)[0]


torch.manual_seed(0)
model = Model()
base = copy.deepcopy(model.state_dict())
adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, target_modules=["attn"]))
for name, parameter in adapted.named_parameters():
    if "lora_" in name:
        torch.nn.init.normal_(parameter)
adapter = {name.removeprefix("base_model.model."): t.clone() for name, t in get_peft_model_state_dict(adapted).items()}
x = torch.randn(3, 1, 8)
with torch.no_grad():
    before = adapted(x)
    merged = adapted.merge_and_unload()
    assert torch.allclose(before, merged(x), rtol=1e-4, atol=1e-4)
for weight, module, expected in (
    ("attn.out_proj.weight", "attn.base_layer.out_proj", 2.0),
    ("attn.in_proj_weight", "attn", 1.0),
):
    formula = 4 / 2 * adapter[f"{module}.lora_B.weight"] @ adapter[f"{module}.lora_A.weight"]
    change = merged.state_dict()[weight] - base[weight]
    ratio = float((change * formula).sum() / (formula * formula).sum())
    print(f"{weight}: {ratio:.3f} times (lora_alpha / r) B A")
    assert abs(ratio - expected) < 1e-3
    assert torch.allclose(change, expected * formula, atol=1e-4)
PYTHON
