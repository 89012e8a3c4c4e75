#!/usr/bin/env bash
# peft 0.21.0 with torch 2.15.0: `LoraConfig(bias="all")` on a model with `nn.MultiheadAttention` (open_clip's and OpenAI's
# CLIP towers) trains every bias but one per attention: `in_proj_bias`, the bias of q, k and v, stays frozen, and it
# is not saved in the adapter. `out_proj.bias` beside it is trained, also where nothing of the attention is a target.
#
# A good guess would be that "all" means every parameter that is a bias. It means names that end in `.bias` of modules:
# `in_proj_bias` is a parameter of the attention itself. A merge that expects an adapter with bias="all" to carry q, k
# and v biases finds none, and the same model written with three `nn.Linear` would have them.
#
# Seen: trained: attn.out_proj.bias, fc.base_layer.bias; frozen: attn.in_proj_bias.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 peft==0.21.0 transformers==5.24.0
"$work/venv/bin/python" - <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = torch.nn.MultiheadAttention(8, 2)
        self.fc = torch.nn.Linear(8, 8)

    def forward(self, x):
        return self.fc(self.attn(x, x, x)[0])


for targets in (["fc"], ["attn", "fc"]):
    model = get_peft_model(Block(), LoraConfig(r=2, target_modules=targets, bias="all"))
    biases = {name: p.requires_grad for name, p in model.named_parameters() if name.endswith("bias")}
    trained = {name.removeprefix("base_model.model.") for name, is_trained in biases.items() if is_trained}
    frozen = {name.removeprefix("base_model.model.") for name, is_trained in biases.items() if not is_trained}
    print(targets, "trained:", sorted(trained), "frozen:", sorted(frozen))
    assert [name for name in frozen if not name.endswith("in_proj_bias")] == [], frozen
    assert len(frozen) == 1, "in_proj_bias is trained now"
    assert any(name.endswith("out_proj.bias") or name.endswith("out_proj.base_layer.bias") for name in trained)
    assert not any("in_proj_bias" in name for name in get_peft_model_state_dict(model))
PYTHON
