"""Formats of task vectors beside compressions that papers give: relative error, bits per value, and harm to embeddings.

    python tests/support/compare_formats.py --base BASE --tuned NAME=FILE ... [--pixels NAME=FILE ...] [--only WORD ...]

All files are safetensors with one naming; parameters that any of them lacks are left out. Measured are the parameters
of two dimensions and more (leading dimensions of 1 do not count) that some task changes. Everything is counted: scales,
zero points, masks, what fills a last block; what rows are aligned by in a file is not, for any format. Bytes are those
of one task; what tasks share is divided by their number. --pixels (of a DINOv2 with the names of transformers:
`pixel_values` [N, 3, S, S]) adds the cosines of embeddings of fine-tune and compressed fine-tune; whatever has one
dimension is the fine-tune's own then, for all formats alike. --only: the methods whose names hold one of these words.

Needs torch, safetensors; transformers for --pixels. One thread (OMP_NUM_THREADS=1) takes 15 seconds for eight
fine-tunes of 165,000 values; for four DINOv2-S/14 it takes MINUTES_OF_VALUES, and MINUTES_OF_IMAGES more per task of
32 images.
tests/support/dinov2_family.py makes that family and its pixels.

Formulas, each written anew from its paper:
- TVQ and RTVQ: Kim et al. 2025, arXiv 2503.06921. Per tensor, uniform from minimum to maximum, with a whole zero point:
  s = (max - min) / (2^b - 1), z = -round(min / s), q = clamp(round(x / s) + z), so that zero stays zero. RTVQ: a base
  vector that all tasks share, mean of the fine-tunes - pre-trained, rounded; the offset of each task from the rounded
  one (the paper's error correction) in 2 bits.
- BitDelta: Liu et al. 2024, arXiv 2402.10193. Sign times mean magnitude per matrix. The paper goes on to train the
  scales on the model's outputs (scale distillation): that is left out here, for no other format sees data either.
- T-Switch: Qi et al. 2024, arXiv 2412.00054. Per tensor, the share alpha of smallest magnitude is dropped, among the
  positive and the negative values by themselves; what stays is a sign times one scale, which keeps its L2 norm (so it
  is the root of the mean square, not the mean that has the least error). The mask is counted as its entropy (what no
  coder beats without a model of places) and, another row, as a bitmap.
- TSV-Compress: Gargiulo et al. 2024, arXiv 2412.00081. The largest min(m, n) / T singular triples of each matrix.
taskbasis: docs/bundle-format.md. `tried` are formats that it does not have: the best ternary values per block (five to
a byte), and sparse ones: the largest values of the whole vector, a mean per 256, the mask counted as entropy.
DINOv2's query, key and value are three matrices here, as in transformers' files; a tower in a bundle has them as one.
"""

import argparse
import math
from pathlib import Path

import torch
from safetensors.torch import load_file

BLOCK = 64
# Bits of a code, what is subtracted from it, and the grid of scales: steps, highest, lowest (src/tensor/block.rs).
FORMATS = {
    "q6": (6, 32.0, 8, 1.0, 0.85),
    "q4": (4, 8.0, 10, 1.0, 0.6),
    "q3": (3, 4.0, 10, 0.95, 0.45),
    "q2": (2, 1.5, 12, 0.8, 0.25),
    "q1": (1, 0.5, 0, 0.5, 0.5),
}
RANKS, FACTORS = [4, 8, 16, 32, 64], ["q3", "q4", "q6"]
DENSITIES = [0.01, 0.03, 0.1, 0.2, 0.3]
# What a method that rounds per tensor stores beside the codes: two f32, or one.
SCALE_AND_ZERO, SCALE = 64, 32


def bf16(x):
    return x.to(torch.bfloat16).to(torch.float32)


def blocks_of(x, size):
    """[blocks, size], zeros behind a last one that the values do not fill."""
    return torch.nn.functional.pad(x.reshape(-1), (0, -x.numel() % size)).reshape(-1, size)


def unblocked(blocks, like):
    return blocks.reshape(-1)[: like.numel()].reshape(like.shape)


def block_bits(numel, name):
    return math.ceil(numel / BLOCK) * (16 + BLOCK * FORMATS[name][0])


def quantised(x, name):
    """What blocks with the scale of the least error give back of `x`."""
    bits, offset, steps, highest, lowest = FORMATS[name]

    def levels(values, scale):
        inverse = torch.where(scale == 0, 0, 1 / scale)
        return (values * inverse).add_(offset).clamp_(0, 2**bits - 1).round_().sub_(offset)

    def of_chunk(values):
        largest = values.abs().amax(1, keepdim=True)
        symmetric = largest / {"q2": 1.5, "q1": 0.5}.get(name, offset - 1)
        plain = bf16(symmetric)
        unit = torch.where(plain == 0, 1, plain)

        def error_and_better(scale):
            level = levels(values, scale)
            scaled = values / torch.where(scale == 0, 1, scale)
            squares = (level * level).sum(1, keepdim=True)
            better = torch.where(squares > 0, scale * (scaled * level).sum(1, keepdim=True) / squares, scale)
            return (scaled - level).square_().sum(1, keepdim=True) * (scale / unit) ** 2, better

        best, chosen = error_and_better(plain)[0], plain
        for step in range(steps + 1):
            part = highest - (highest - lowest) * step / max(steps, 1)
            for sign in [1, -1] if name not in ("q2", "q1") else [1]:
                scale = bf16(sign * part * symmetric)
                for _ in range(2):
                    error, better = error_and_better(scale)
                    chosen = torch.where((error < best) & (scale != 0), scale, chosen)
                    best = torch.where(scale != 0, torch.minimum(error, best), best)
                    scale = bf16(better)
        return levels(values, chosen) * chosen

    # As many blocks at once as a cache holds.
    return unblocked(torch.cat([of_chunk(chunk) for chunk in blocks_of(x, BLOCK).split(2048)]), x)


def ternary(x, size):
    """The best ternary values per block: for k kept magnitudes the mean of them, for the best k."""
    blocks = blocks_of(x, size)
    ordered = blocks.abs().sort(1, descending=True).values
    sums = ordered.cumsum(1)
    kept = (sums**2 / torch.arange(1, size + 1)).argmax(1, keepdim=True)
    scale = bf16(sums.gather(1, kept) / (kept + 1))
    return unblocked(torch.where(blocks.abs() >= ordered.gather(1, kept), blocks.sign() * scale, 0), x)


def entropy(share):
    return 0.0 if share in (0, 1) else -share * math.log2(share) - (1 - share) * math.log2(1 - share)


def asymmetric(x, bits):
    low, high = x.min(), x.max()
    if low == high:
        return x.clone()
    scale = (high - low) / (2**bits - 1)
    zero = -torch.round(low / scale)
    return (torch.clamp(torch.round(x / scale) + zero, 0, 2**bits - 1) - zero) * scale


def task_switch(x, alpha):
    kept = torch.zeros_like(x)
    for sign in (1, -1):
        own = (x * sign).clamp(min=0)
        count = int((own > 0).sum())
        most = int(count * (1 - alpha))
        if most:
            kept += torch.where(own >= own.reshape(-1).kthvalue(own.numel() - most + 1).values, sign, 0) * (own > 0)
    signs = kept.abs().sum()
    return kept * ((x * kept.abs()).norm() / signs.sqrt() if signs else 0), float(signs) / x.numel()


def as_matrix(x):
    return x.reshape(x.shape[0], -1)


def triples(x, most):
    """Singular triples of the largest values, by the Gram matrix of the shorter side, in f64."""
    matrix = as_matrix(x).double()
    turned = matrix.shape[0] < matrix.shape[1]
    long = matrix.T if turned else matrix
    squares, vectors = torch.linalg.eigh(long.T @ long)
    squares, short = squares.flip(0)[:most].clamp(min=1e-60), vectors.flip(1)[:, :most]
    values = squares.sqrt()
    of_long = long @ short / values
    left, right = (short, of_long) if turned else (of_long, short)
    return left, values, right.T


class Task:
    """A task vector, {name: values}, with what methods share: its singular triples, its order of magnitudes."""

    def __init__(self, vector, shared, tasks):
        self.vector, self.shared, self.tasks, self.of_whole = vector, shared, tasks, {}

    def triples(self, name):
        if name not in self.of_whole:
            x = self.vector[name]
            most = max(max(RANKS), min(as_matrix(x).shape) // self.tasks)
            self.of_whole[name] = triples(x, most)
        return self.of_whole[name]

    def largest(self, density):
        """The magnitude that this share of all values has."""
        whole = torch.cat([x.reshape(-1).abs() for x in self.vector.values()])
        return whole.kthvalue(whole.numel() - int(density * whole.numel()) + 1).values


def per_tensor(rule):
    """A method out of a rule that gives, of (name, values, task), the values read back and their bits."""

    def method(task):
        found = {name: rule(name, x, task) for name, x in task.vector.items()}
        return {name: pair[0] for name, pair in found.items()}, sum(pair[1] for pair in found.values())

    return method


def low_rank(rank, factors):
    def rule(name, x, task):
        rows, columns = as_matrix(x).shape
        bits = block_bits(rank * rows, factors) + block_bits(rank * columns, factors)
        if bits >= block_bits(x.numel(), factors):
            return quantised(x, factors), block_bits(x.numel(), factors)
        left, values, right = task.triples(name)
        root = values[:rank].sqrt()
        left = quantised((left[:, :rank] * root).T.float().contiguous(), factors)
        right = quantised((right[:rank] * root[:, None]).float().contiguous(), factors)
        return (left.T @ right).reshape(x.shape), bits

    return per_tensor(rule)


def tsv(dtype):
    def rule(name, x, task):
        keep = max(1, min(as_matrix(x).shape) // task.tasks)
        left, values, right = (part.to(dtype).float() for part in task.triples(name))
        back = (left[:, :keep] * values[:keep]) @ right[:keep]
        return back.reshape(x.shape), keep * (sum(as_matrix(x).shape) + 1) * torch.finfo(dtype).bits

    return per_tensor(rule)


def residual(shared_bits, own_bits):
    def rule(name, x, task):
        base = asymmetric(task.shared[name], shared_bits)
        shared = (shared_bits * x.numel() + SCALE_AND_ZERO) / task.tasks
        return base + asymmetric(x - base, own_bits), own_bits * x.numel() + SCALE_AND_ZERO + shared

    return per_tensor(rule)


def switch(alpha, cost_of_mask):
    def rule(_, x, _task):
        back, kept = task_switch(x, alpha)
        return back, (cost_of_mask(kept) + kept) * x.numel() + SCALE

    return per_tensor(rule)


def sparse(density):
    def method(task):
        least, back, bits = task.largest(density), {}, 0
        for name, x in task.vector.items():
            blocks = blocks_of(x, 256)
            kept = blocks.abs() >= least
            scale = bf16((blocks.abs() * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1))
            back[name] = unblocked(blocks.sign() * kept * scale, x)
            bits += 16 * len(blocks)
        numel = sum(x.numel() for x in task.vector.values())
        return back, bits + (entropy(density) + density) * numel

    return method


def methods():
    own = {"base alone": per_tensor(lambda _, x, _task: (torch.zeros_like(x), 0))}
    for name in ["q4", "q3", "q2", "q1"]:
        own[f"taskbasis {name}"] = per_tensor(lambda _, x, _task, n=name: (quantised(x, n), block_bits(x.numel(), n)))
    for factors in FACTORS:
        for rank in RANKS:
            own[f"taskbasis r{rank}{'' if factors == 'q4' else factors}"] = low_rank(rank, factors)
    for size in (64, 128):
        bits = 16 + 8 * math.ceil(size / 5)
        own[f"tried: ternary, blocks of {size}"] = per_tensor(
            lambda _, x, _task, s=size, b=bits: (ternary(x, s), math.ceil(x.numel() / s) * b))
    for density in DENSITIES:
        own[f"tried: sparse ternary, {density:.0%} kept"] = sparse(density)
    for bits in (2, 3, 4):
        own[f"TVQ, {bits} bits"] = per_tensor(
            lambda _, x, _task, b=bits: (asymmetric(x, b), b * x.numel() + SCALE_AND_ZERO))
    for shared in (3, 4):
        own[f"RTVQ, base {shared} bits, offsets 2"] = residual(shared, 2)
    own["BitDelta, scales not distilled"] = per_tensor(
        lambda _, x, _task: (torch.where(x < 0, -1.0, 1.0) * x.abs().mean(), x.numel() + SCALE))
    for alpha in (0.5, 0.9):
        for mask, cost in [("entropy", entropy), ("bitmap", lambda _: 1.0)]:
            own[f"T-Switch, {alpha:.0%} dropped, mask as {mask}"] = switch(alpha, cost)
    own["TSV-Compress, f16"], own["TSV-Compress, f32"] = tsv(torch.float16), tsv(torch.float32)
    return own


def embedder(weights, pixels):
    """Embeddings (the class token) by weights under the file's names, of a DINOv2 of these shapes."""
    from transformers import Dinov2Config, Dinov2Model

    from extract_dinov2 import IN_MEMORY

    prefix = next(name for name in weights if name.endswith("embeddings.cls_token"))[: -len("embeddings.cls_token")]
    width, _, patch, _ = weights[f"{prefix}embeddings.patch_embeddings.projection.weight"].shape
    side = math.isqrt(weights[f"{prefix}embeddings.position_embeddings"].shape[1] - 1)
    layers = len([name for name in weights if name.endswith("norm1.weight")])
    model = Dinov2Model(Dinov2Config(hidden_size=width, num_attention_heads=width // 64, num_hidden_layers=layers,
                                     image_size=side * patch, patch_size=patch, layer_norm_eps=1e-6)).eval()
    own = model.state_dict()

    def in_memory(name):
        for file, memory in IN_MEMORY.items():
            name = name.replace(file, memory) if memory in "".join(own) else name
        return name.replace("encoder.layer.", "layers.") if "layers.0.norm1.weight" in own else name

    def embeds(values):
        state = {in_memory(name[len(prefix):]): value for name, value in values.items() if name.startswith(prefix)}
        lost = {name for name in own if "mask_token" not in name} - set(state)
        assert not lost, sorted(lost)[:5]
        model.load_state_dict(state, strict=False)
        with torch.no_grad():
            return torch.cat([model(part).last_hidden_state[:, 0] for part in pixels.split(8)]).double()

    return embeds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path, required=True)
    for option, needed in [("--tuned", True), ("--pixels", False)]:
        parser.add_argument(option, nargs="+", action="extend", required=needed, default=[], metavar="NAME=FILE")
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD")
    given = parser.parse_args()
    tuned, pixels = (dict(pair.split("=", 1) for pair in pairs) for pairs in (given.tuned, given.pixels))
    assert set(pixels) <= set(tuned), f"pixels of tasks that are not there: {set(pixels) - set(tuned)}"
    base = load_file(given.base)
    tuned = {task: load_file(file) for task, file in tuned.items()}
    names = [name for name in base if all(name in weights for weights in tuned.values())]

    def vector_of(weights, name):
        difference = weights[name].float() - base[name].float()
        while difference.ndim > 1 and difference.shape[0] == 1:
            difference = difference[0]
        return difference

    vectors = {task: {name: vector_of(weights, name) for name in names} for task, weights in tuned.items()}
    used = [name for name in names if vectors[next(iter(tuned))][name].ndim >= 2
            and any(vector[name].any() for vector in vectors.values())]
    shared = {name: sum(vector[name] for vector in vectors.values()) / len(tuned) for name in used}
    numel = sum(shared[name].numel() for name in used)
    print(f"{len(tuned)} tasks, {len(used)} parameters, {numel:,} values per task")

    found = {}
    for label, method in methods().items():
        if any(word in label for word in given.only):
            found[label] = {"method": method, "bits": 0.0, "errors": [], "cosines": []}
    for task, weights in tuned.items():
        this = Task({name: vectors[task][name] for name in used}, shared, len(tuned))
        length = math.sqrt(sum(float(x.double().square().sum()) for x in this.vector.values()))
        if task in pixels:
            embeds = embedder(weights, load_file(pixels[task])["pixel_values"])
            exact = embeds({name: weights[name] for name in names})
        for row in found.values():
            back, bits = row["method"](this)
            lost = sum(float((back[name] - x).double().square().sum()) for name, x in this.vector.items())
            row["errors"].append(math.sqrt(lost) / length)
            row["bits"] += bits / numel / len(tuned)
            if task in pixels:
                rebuilt = {name: base[name] + back[name].reshape(base[name].shape) for name in used}
                ours = embeds({name: rebuilt.get(name, weights[name]) for name in names})
                row["cosines"].append(torch.nn.functional.cosine_similarity(exact, ours, 1))

    heads = ["method", "bits per value", "bytes per task", "‖τ̂ − τ‖/‖τ‖: worst task", "mean"]
    heads += ["embeddings: least cosine", "mean"] if pixels else []
    print(f"| {' | '.join(heads)} |\n| --- |{' ---: |' * (len(heads) - 1)}")
    for label, row in sorted(found.items(), key=lambda pair: pair[1]["bits"]):
        errors = row["errors"]
        cells = [label, f"{row['bits']:.3f}", f"{math.ceil(row['bits'] * numel / 8):,}"]
        cells += [f"{100 * max(errors):.1f} %", f"{100 * sum(errors) / len(errors):.1f} %"]
        if pixels:
            cosines = torch.cat(row["cosines"])
            cells += [f"{cosines.min():.6f}", f"{cosines.mean():.6f}"]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
