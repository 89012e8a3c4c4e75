#!/usr/bin/env bash
# timm 1.0.31: `vit_base_patch32_clip_224.openai` and `vit_base_patch32_clip_quickgelu_224.openai` name the same weights,
# the same repository of the Hub, and build towers with other activations: exact GELU and QuickGELU. OpenAI trained with
# QuickGELU. The wrong one says so only in the config's `notes`, which nothing prints.
#
# A good guess would be that the tag `.openai` selects the activation that its weights were trained with. The activation
# belongs to the architecture's name; loading succeeds strictly, and all embeddings are a little off.
# A reader that takes the activation from the architecture named in the repository's config.json repeats the mistake.
#
# Seen: GELU and QuickGELU, both from timm/vit_base_patch32_clip_224.openai, with the note "natively QuickGELU, ...".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 timm==1.0.31
"$work/venv/bin/python" - <<'PYTHON'
import timm
import torch

expected = {"vit_base_patch32_clip_224": "GELU", "vit_base_patch32_clip_quickgelu_224": "QuickGELU"}
towers, configs = {}, {}
for name, activation in expected.items():
    towers[name] = timm.create_model(f"{name}.openai", pretrained=False).eval()
    configs[name] = timm.get_pretrained_cfg(f"{name}.openai")
    seen = type(towers[name].blocks[0].mlp.act).__name__
    print(name, seen, configs[name].hf_hub_id, configs[name].notes)
    assert seen == activation
gelu, quick = towers.values()
assert len({config.hf_hub_id for config in configs.values()}) == 1
assert "QuickGELU" in configs["vit_base_patch32_clip_224"].notes[0]
quick.load_state_dict(gelu.state_dict(), strict=True)
images = torch.linspace(-1, 1, 3 * 224 * 224).reshape(1, 3, 224, 224)
with torch.no_grad():
    a, b = gelu(images), quick(images)
print("relative difference on the same weights:", float((a - b).norm() / a.norm()))
assert not torch.equal(a, b)
PYTHON
