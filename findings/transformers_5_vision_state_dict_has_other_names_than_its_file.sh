#!/usr/bin/env bash
# transformers 5.24.0: a good guess would be that `torch.save(model.state_dict())` writes the names that
# `save_pretrained` writes. A ViT's modules have other names in memory than in files: `save_pretrained` gives the old ones
# back, `state_dict` does not, so that a state dict of a published file has no attention that the model knows. SigLIP's
# names are the same in both.
#
# Seen with transformers 5.24.0 and torch 2.15.0:
#   ViTModel: layers.0.attention.q_proj.weight in memory, encoder.layer.0.attention.attention.query.weight in the file
#   Dinov2Model: encoder.layer.0.attention.q_proj.weight, encoder.layer.0.attention.attention.query.weight
#   SiglipVisionModel: the same names
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.15.0 transformers==5.24.0 safetensors==0.8.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON' 2>/dev/null
import sys
import transformers
from safetensors import safe_open

small = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8)
for model, config, in_memory, in_file in [
    ("ViTModel", "ViTConfig", "layers.0.attention.q_proj.weight", "encoder.layer.0.attention.attention.query.weight"),
    (
        "Dinov2Model",
        "Dinov2Config",
        "encoder.layer.0.attention.q_proj.weight",
        "encoder.layer.0.attention.attention.query.weight",
    ),
    ("SiglipVisionModel", "SiglipVisionConfig", None, None),
]:
    made = getattr(transformers, model)(getattr(transformers, config)(**small))
    folder = f"{sys.argv[1]}/{model}"
    made.save_pretrained(folder)
    with safe_open(f"{folder}/model.safetensors", "pt") as file:
        saved = set(file.keys())
    memory = set(made.state_dict())
    if in_memory is None:
        assert saved == memory, saved ^ memory
        print(f"{model}: the same names")
        continue
    assert in_memory in memory and in_memory not in saved, sorted(memory)
    assert in_file in saved and in_file not in memory, sorted(saved)
    print(f"{model}: {in_memory} in memory, {in_file} in the file")
PYTHON
