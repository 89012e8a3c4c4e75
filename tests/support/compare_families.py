"""Compares the program with timm, transformers and open_clip on small vision transformers of every family that is read,
and, with --real, on one real configuration of each, with random weights.

    python tests/support/compare_families.py target/release/taskbasis [--real] [NAME ...]

Needs torch, timm, open_clip, transformers and safetensors; ORT_DYLIB_PATH must be set. For each family a folder gets
weights and configuration as the library saves them, two fine-tunes are made of the base, and the program embeds two
images of noise with: the base, a task of a built basis of full rank, its negation, the sum of two, a q8 bundle, and the
base at int8. The relative L2 distance to the library's embeddings must be at most 2e-5 (of q8 and int8: the cosine at
least 0.999). docs/towers.md lists what this script found.
"""

import copy
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

LIMIT, COSINE = 2e-5, 0.999


def roughened(model: torch.nn.Module, seed: int = 0, scale: float = 1.0) -> torch.nn.Module:
    """Every parameter away from its initial value: a bias of 0 or a scale of 1 would hide mistakes."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.2 if parameter.ndim < 2 else 0.3 * max(float(parameter.std().nan_to_num(0.02)), 0.02)
            parameter.add_(scale * spread * torch.randn_like(parameter))
    return model.eval()


class Timm:
    """A model of timm's, saved as it is, or as the image tower of one of open_clip's models."""

    def __init__(self, name, size, real_size, trunk=False, resized=None, **arguments):
        self.name, self.size, self.real_size, self.trunk, self.arguments = name, size, real_size, trunk, arguments
        self.resized = resized

    def make(self, real):
        import timm

        small = {} if real else dict(depth=2)
        self.side = self.real_size if real else self.size
        return timm.create_model(self.name, img_size=self.side, **small, **self.arguments)

    def embed(self, model, pixels):
        return model(pixels)

    def save(self, model, folder):
        prefix = "visual.trunk." if self.trunk else ""
        weights = {prefix + name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, folder / "model.safetensors")
        if self.trunk:
            vision = {"timm_model_name": self.name, "timm_pool": model.global_pool, "image_size": self.side}
            config = {"model_cfg": {"embed_dim": self.arguments["num_classes"] or model.num_features, "vision_cfg": vision}}
            (folder / "open_clip_config.json").write_text(json.dumps(config))
            return
        pretrained = {key: model.pretrained_cfg.get(key) for key in ("mean", "std", "interpolation", "crop_pct", "tag")}
        config = {"architecture": self.name, "num_classes": model.num_classes, "global_pool": model.global_pool}
        config["pretrained_cfg"] = {**pretrained, "input_size": [3, self.side, self.side]}
        (folder / "config.json").write_text(json.dumps(config))


class Transformers:
    def __init__(self, kind, config, small, real, embed, resized=None):
        self.kind, self.config, self.small, self.real, self.embedding = kind, config, small, real, embed
        self.resized = resized

    def make(self, real):
        import transformers

        config = getattr(transformers, self.config)(**(self.real if real else self.small))
        self.side = config.image_size
        return getattr(transformers, self.kind)(config)

    def embed(self, model, pixels):
        return self.embedding(model, pixels)

    def save(self, model, folder):
        model.save_pretrained(folder)


def pooled(model, pixels):
    return model(pixels).pooler_output


def class_token(model, pixels):
    return model(pixels).last_hidden_state[:, 0]


def classifier_input(model, pixels):
    """What goes into the classifier, or both classifiers side by side."""
    kept = []
    heads = [module for name, module in model.named_modules() if name.split(".")[-1].endswith("classifier")]
    hooks = [head.register_forward_pre_hook(lambda _, given: kept.append(given[0])) for head in heads]
    model(pixels)
    [hook.remove() for hook in hooks]
    return torch.cat(kept, dim=-1)


SMALL = dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256, image_size=32, patch_size=8)
BY_RATIO = {key: value for key, value in SMALL.items() if key != "intermediate_size"}
S14 = dict(hidden_size=384, num_attention_heads=6, patch_size=14, image_size=518)
S16 = dict(hidden_size=384, num_attention_heads=6, intermediate_size=1536)

FAMILIES = {
    "siglip_timm": Timm("vit_base_patch16_siglip_224", 64, 224, num_classes=0),
    "siglip_open_clip": Timm("vit_base_patch16_siglip_224", 64, 224, trunk=True, num_classes=0),
    "siglip_transformers": Transformers("SiglipVisionModel", "SiglipVisionConfig", SMALL, {}, pooled),
    "dinov2_timm": Timm("vit_small_patch14_dinov2", 56, 518),
    "dinov2_reg_timm": Timm("vit_small_patch14_reg4_dinov2", 56, 518),
    "dinov2_giant_timm": Timm("vit_giant_patch14_dinov2", 56, None),
    "dinov2_transformers": Transformers("Dinov2Model", "Dinov2Config", BY_RATIO, S14, class_token),
    "dinov2_classifier": Transformers("Dinov2ForImageClassification", "Dinov2Config", BY_RATIO, S14, classifier_input),
    "dinov2_reg_swiglu": Transformers(
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        dict(BY_RATIO, use_swiglu_ffn=True),
        S14,
        class_token,
    ),
    "dinov2_reg_classifier": Transformers(
        "Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", BY_RATIO, S14, classifier_input
    ),
    "dinov2_resized": Transformers("Dinov2Model", "Dinov2Config", BY_RATIO, S14, class_token, resized=56),
    "dinov2_reg_resized": Transformers(
        "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", BY_RATIO, S14, class_token, resized=56
    ),
    "dinov2_timm_resized": Timm("vit_small_patch14_dinov2", 70, 518, resized=56, dynamic_img_size=True),
    "vit_timm": Timm("vit_tiny_patch16_224", 64, 224, num_classes=0),
    "vit_avg_timm": Timm("vit_tiny_patch16_224", 64, 224, num_classes=0, global_pool="avg"),
    "deit_timm": Timm("deit_tiny_patch16_224", 64, 224, num_classes=0),
    "deit3_timm": Timm("deit3_small_patch16_224", 64, 224, num_classes=0),
    "vit_transformers": Transformers("ViTForImageClassification", "ViTConfig", SMALL, S16, classifier_input),
    "deit_transformers": Transformers("DeiTForImageClassification", "DeiTConfig", SMALL, S16, classifier_input),
    "deit_teacher": Transformers("DeiTForImageClassificationWithTeacher", "DeiTConfig", SMALL, S16, classifier_input),
    "metaclip2": Transformers(
        "MetaClip2VisionModelWithProjection",
        "MetaClip2VisionConfig",
        dict(SMALL, projection_dim=48),
        dict(projection_dim=512),
        lambda model, pixels: model(pixels).image_embeds,
    ),
    "mobileclip2_l": Timm("vit_large_patch14_clip_224", 56, None, trunk=True, num_classes=64),
    "eva02_clip": Timm("eva02_base_patch16_clip_224", 64, 224, trunk=True, num_classes=512),
    "pe_core": Timm("vit_pe_core_base_patch16_224", 224, 224, trunk=True, num_classes=1024),
    "dinov3_timm": Timm("vit_small_patch16_dinov3", 64, 256),
    "dinov3_transformers": Transformers(
        "DINOv3ViTModel", "DINOv3ViTConfig", dict(SMALL, num_register_tokens=4), dict(num_register_tokens=4), class_token
    ),
}


def run(program, *arguments):
    ran = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    return ran.returncode, ran.stderr.strip()


def distance(got, right):
    return float(np.linalg.norm(got - right) / np.linalg.norm(right))


def cosine(got, right):
    return float(min((g @ r) / np.linalg.norm(g) / np.linalg.norm(r) for g, r in zip(got, right)))


def compared(program, name, family, real, folder):
    base = roughened(family.make(real))
    tuned = {task: roughened(copy.deepcopy(base), seed, 0.05) for seed, task in enumerate("AB", 1)}
    for part, model in [("base", base), *tuned.items()]:
        (folder / part).mkdir()
        family.save(model, folder / part)
    torch.manual_seed(7)
    side = family.resized or family.side
    pixels = torch.rand(2, 3, side, side) * 2 - 1
    size = [f"--image-size={family.resized}"] if family.resized else []
    save_file({"pixel_values": pixels}, folder / "pixels.safetensors")

    def mixed(a, b):
        model = copy.deepcopy(base)
        with torch.no_grad():
            parts = zip(model.parameters(), tuned["A"].parameters(), tuned["B"].parameters())
            for parameter, of_a, of_b in parts:
                start = parameter.clone()
                parameter.add_(a * (of_a - start) + b * (of_b - start))
        return model

    def embed(weights, *options):
        out = folder / "out.safetensors"
        sized = [] if folder / "q8.taskbasis" in options else size
        status, said = run(program, "embed", *sized, "--weights", weights, "-i", folder / "pixels.safetensors", "-o", out, *options)
        return (load_file(out)["embeds"] if status == 0 else None), said

    basis, bundle = folder / "basis", folder / "q8.taskbasis"
    base_option = ["--base", folder / "base"]
    tasks = [f"--task={task}={folder / task}" for task in tuned]
    built = run(program, "build", *base_option, *tasks, "--vectors", 2, "-o", basis)
    packed = run(program, "pack", "--basis", basis, *base_option, "--format", "q8", *size, "-o", bundle)
    of_basis = [*base_option, "--basis", basis]
    cases = [
        ("base", base, "base", base_option, "f32"),
        ("task", tuned["A"], "A", of_basis, "f32"),
        ("negation", mixed(-0.5, 0), "A@-0.5", of_basis, "f32"),
        ("merge", mixed(0.3, 0.3), "A@0.3 + B@0.3", of_basis, "f32"),
        ("q8", tuned["A"], "A", ["--basis", bundle], "q8"),
        ("int8", base, "base", [*base_option, "--precision", "int8"], "int8"),
    ]
    found, good = [], True
    for case, model, weights, options, form in cases:
        with torch.no_grad():
            right = family.embed(model, pixels).numpy()
        got, said = embed(weights, *options)
        if got is None or got.shape != right.shape:
            for step, (status, said_there) in (("build", built), ("pack", packed)):
                said = said if status == 0 else f"{step}: {said_there}"
            found.append(f"{case} {said or got.shape}"[:300])
            good = False
            continue
        error, likeness = distance(got, right), cosine(got, right)
        good &= error <= LIMIT if form == "f32" else likeness >= COSINE
        good &= "assumed: heads" not in said and "assumed: activation" not in said
        found.append(f"{case} {error:.1e}" if form == "f32" else f"{case} {likeness:.5f}")
        if case == "base" and said:
            found.append(f"[{said[:160]}]")
    print("ok  " if good else "FAIL", name, "; ".join(found), flush=True)
    return good


def main():
    program, *names = sys.argv[1:]
    real = "--real" in names
    names = [name for name in names if name != "--real"] or list(FAMILIES)
    results = []
    for name in names:
        if real and getattr(FAMILIES[name], "real_size", 1) is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            results.append(compared(program, name, FAMILIES[name], real, pathlib.Path(folder)))
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
