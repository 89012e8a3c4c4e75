"""Compares heads with the libraries they come from, on small random models: the logits of classifiers that lie in
checkpoints of transformers and timm, through encoder and head, and the probabilities of a SigLIP's text head.

    python tests/support/compare_heads.py target/release/taskbasis

Needs torch, timm, transformers, tokenizers, safetensors, cffi and the package of bindings/python on PYTHONPATH;
ORT_DYLIB_PATH must be set. The relative L2 distance of logits must be at most 2e-5, as that of probabilities.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import taskbasis
import torch
import transformers
from compare_families import FAMILIES, SMALL, Timm, Transformers, classifier_input, distance, roughened

sys.path.insert(0, str(pathlib.Path(__file__).parent / "text"))

LIMIT = 2e-5
CLASSIFIERS = {
    **{name: family for name, family in FAMILIES.items() if isinstance(family, Transformers) and "Classif" in family.kind},
    "clip": Transformers("CLIPForImageClassification", "CLIPConfig", {}, {}, classifier_input),
    "siglip": Transformers("SiglipForImageClassification", "SiglipConfig", {}, {}, classifier_input),
    "vit_timm": Timm("vit_tiny_patch16_224", 64, 224, num_classes=7),
    "vit_avg_timm": Timm("vit_tiny_patch16_224", 64, 224, num_classes=7, global_pool="avg"),
    "deit_timm": Timm("deit_tiny_patch16_224", 64, 224, num_classes=7),
    "deit_distilled_timm": Timm("deit_tiny_distilled_patch16_224", 64, 224, num_classes=7),
}


def of(name, family):
    """A model of a family; CLIP's and SigLIP's have their configuration in two parts."""
    if name not in ("clip", "siglip"):
        return family.make(False)
    config = getattr(transformers, family.config)(vision_config=SMALL)
    family.side = SMALL["image_size"]
    config.num_labels = 3
    return getattr(transformers, family.kind)(config)


@torch.no_grad()
def classified(name, family, folder):
    model = roughened(of(name, family))
    family.save(model, folder)
    torch.manual_seed(7)
    pixels = torch.rand(2, 3, family.side, family.side) * 2 - 1
    right = model(pixels)
    right = getattr(right, "logits", right).numpy()
    basis = taskbasis.open(None, folder)
    got = taskbasis.Head(folder).logits(taskbasis.Encoder(basis)(pixels.numpy(), "base"))
    return distance(got, right)


@torch.no_grad()
def siglip(program, folder):
    from siglip import CONTEXT, TEXTS, canonical, padded, theirs, unigram

    model, tokenizer = theirs(), unigram()
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "</s>", "model_max_length": CONTEXT}))
    texts = [text for text in TEXTS if text]
    (folder / "classes.json").write_text(json.dumps({"T": texts}))
    (folder / "templates.json").write_text(json.dumps(["{}"]))
    files = ["--classes", folder / "classes.json", "--templates", folder / "templates.json", "-o", folder / "heads.safetensors"]
    subprocess.run([program, "heads", "--text-model", folder, *files], check=True, stdout=subprocess.DEVNULL)
    torch.manual_seed(7)
    pixels = torch.rand(2, 3, 8, 8) * 2 - 1
    out = model(input_ids=padded(tokenizer, [canonical(text) for text in texts], "</s>"), pixel_values=pixels)
    right = torch.sigmoid(out.logits_per_image).numpy()
    head = taskbasis.Head(folder / "heads.safetensors", "T")
    assert head.function == "sigmoid"
    embeds = taskbasis.Encoder(taskbasis.open(None, folder))(pixels.numpy(), "base")
    rows = head.classify(embeds, len(texts))
    got = np.array([[score.probability for score in sorted(row, key=lambda score: score.class_index)] for row in rows])
    return distance(got, right)


def main():
    good = True
    for name, compare in [
        *((name, lambda folder, n=name, f=family: classified(n, f, folder)) for name, family in CLASSIFIERS.items()),
        ("siglip's texts", lambda folder: siglip(sys.argv[1], folder)),
    ]:
        with tempfile.TemporaryDirectory() as folder:
            try:
                error = compare(pathlib.Path(folder))
            except taskbasis.TaskbasisError as said:
                error, name = float("inf"), f"{name}: {said}"
        good &= error <= LIMIT
        print("ok  " if error <= LIMIT else "FAIL", name, f"{error:.1e}", flush=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
