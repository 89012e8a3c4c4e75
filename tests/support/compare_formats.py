"""Formats of task vectors beside compressions from papers: bits per value, relative error, and harm to embeddings.

    python tests/support/compare_formats.py --base BASE --tuned NAME=FILE ... [--pixels NAME=FILE ...]

All files are safetensors under one naming; parameters that any of them lacks are left out. Measured are the parameters
of two dimensions and more (those of 1 do not count) that some task changes. All is counted: scales, zero points, masks,
what fills a last block; not what aligns tensors in a file. Bytes are those of one task; what tasks share is divided by
their number. --pixels (`pixel_values` [N, 3, S, S], of a DINOv2 under transformers' names) adds the cosines of the
embeddings of fine-tune and compressed fine-tune; what has one dimension is the fine-tune's own there, in every row.

Needs torch, safetensors; transformers for --pixels. One thread of a server (OMP_NUM_THREADS=1) takes 20 seconds for
eight fine-tunes of 165,000 values, and seven minutes for four of a DINOv2-S/14 with 32 images of one task:
tests/support/dinov2_family.py makes those, and the pixels.

Formulas, each written anew from its paper:
- TVQ and RTVQ: Kim et al. 2025, arXiv 2503.06921. Per tensor, uniform from minimum to maximum, with a whole zero point:
  s = (max - min) / (2^b - 1), z = -round(min / s), q = clamp(round(x / s) + z), so that zero stays zero. RTVQ: a base
  that all tasks share (mean of the fine-tunes - pre-trained), rounded, and per task its offset from that in 2 bits.
- BitDelta: Liu et al. 2024, arXiv 2402.10193. Sign times mean magnitude per matrix. The paper then trains the scales on
  the model's outputs (scale distillation); that is left out, as no other format here sees data.
- T-Switch: Qi et al. 2024, arXiv 2412.00054. Per tensor, the share alpha of least magnitude is dropped, of positive and
  negative values each; what stays is a sign times one scale that keeps its L2 norm (the mean would have less error).
  The mask is counted as its entropy, the least without a model of places, and as a bitmap.
- TSV-Compress: Gargiulo et al. 2024, arXiv 2412.00081. The largest min(m, n) / T singular triples of each matrix.
taskbasis: docs/bundle-format.md. `tried` is what it does not have: the best ternary values per block (five to a byte),
and sparse ones: the largest values of the whole vector, their mean per 256 values, the mask as entropy.
Query, key and value of DINOv2 are three matrices here, as in transformers' files; in a bundle they are one.
"""

import argparse
import math
from functools import partial
from types import SimpleNamespace

import torch
from safetensors.torch import load_file
from torch.nn.functional import cosine_similarity, pad

BLOCK = 64
# Bits of a code, what is subtracted from it, and the grid of scales (src/tensor/block.rs): steps, highest, lowest.
FORMATS = {
    "q6": (6, 32.0, 8, 1.0, 0.85),
    "q4": (4, 8.0, 10, 1.0, 0.6),
    "q3": (3, 4.0, 10, 0.95, 0.45),
    "q2": (2, 1.5, 12, 0.8, 0.25),
    "q1": (1, 0.5, 0, 0.5, 0.5),
}
RANKS = [4, 8, 16, 32, 64]
DENSITIES = [0.01, 0.03, 0.1, 0.2, 0.3]


def bf16(x):
    return x.to(torch.bfloat16).float()


def blocks_of(x, size):
    """[blocks, size], zeros behind a last one that the values do not fill."""
    return pad(x.reshape(-1), (0, -x.numel() % size)).reshape(-1, size)


def unblocked(blocks, like):
    return blocks.reshape(-1)[: like.numel()].reshape(like.shape)


def entropy(share):
    return 0.0 if share in (0, 1) else -share * math.log2(share) - (1 - share) * math.log2(1 - share)


def block_bits(numel, name):
    return math.ceil(numel / BLOCK) * (16 + BLOCK * FORMATS[name][0])


def quantised(x, name):
    """What blocks give back of `x`, their scales those of the least error that the grid finds."""
    bits, offset, steps, highest, lowest = FORMATS[name]
    levels = lambda scaled: (scaled + offset).clamp_(0, 2**bits - 1).round_().sub_(offset)

    def of_chunk(values):
        symmetric = values.abs().amax(1, keepdim=True) / {"q2": 1.5, "q1": 0.5}.get(name, offset - 1)
        plain = bf16(symmetric)
        unit = torch.where(plain == 0, 1, plain)

        def error_and_better(scale):
            scaled = values * torch.where(scale == 0, 0, 1 / scale)
            level = levels(scaled)
            squares = (level * level).sum(1, keepdim=True)
            better = torch.where(squares > 0, scale * (scaled * level).sum(1, keepdim=True) / squares, scale)
            return (scaled - level).square_().sum(1, keepdim=True) * (scale / unit) ** 2, bf16(better)

        least, chosen = error_and_better(plain)[0], plain
        for step in range(steps + 1):
            part = highest - (highest - lowest) * step / max(steps, 1)
            # The levels of q2 and q1 are the same for both signs.
            for sign in [1] if name in ("q2", "q1") else [1, -1]:
                scale = bf16(sign * part * symmetric)
                for _ in range(2):
                    error, better = error_and_better(scale)
                    wins = (error < least) & (scale != 0)
                    least, chosen = torch.where(wins, error, least), torch.where(wins, scale, chosen)
                    scale = better
        return levels(values * torch.where(chosen == 0, 0, 1 / chosen)) * chosen

    return unblocked(torch.cat([of_chunk(chunk) for chunk in blocks_of(x, BLOCK).split(2048)]), x)


def triples(matrix, most):
    """The largest singular triples, [rows, most], [most], [most, columns]: by the shorter Gram matrix, in f64."""
    wide = matrix.shape[0] < matrix.shape[1]
    long = (matrix.T if wide else matrix).double()
    squares, vectors = torch.linalg.eigh(long.T @ long)
    values, short = squares.flip(0)[:most].clamp(min=1e-60).sqrt(), vectors.flip(1)[:, :most]
    of_long = long @ short / values
    return (short, values, of_long.T) if wide else (of_long, values, short.T)


def prepared(vector, mean, tasks):
    """What methods ask for beside values; `least`: the least magnitude among the share of values that is largest."""
    whole = torch.cat([x.reshape(-1).abs() for x in vector.values()])
    least = {share: whole.kthvalue(whole.numel() - int(share * whole.numel()) + 1).values for share in DENSITIES}
    found = {name: triples(x.flatten(1), max(*RANKS, min(x.flatten(1).shape) // tasks)) for name, x in vector.items()}
    return SimpleNamespace(mean=mean, tasks=tasks, triples=found, least=least)


# Every method gives, of one parameter's values, what is read back and its bits; scales of whole tensors are f32.
def blocks(format, x, *_):
    return quantised(x, format), block_bits(x.numel(), format)


def low_rank(rank, format, x, task, name):
    rows, columns = x.flatten(1).shape
    bits = block_bits(rank * rows, format) + block_bits(rank * columns, format)
    if bits >= block_bits(x.numel(), format):
        return blocks(format, x)
    left, values, right = task.triples[name]
    root = values[:rank].sqrt()
    left = quantised((left[:, :rank] * root).T.float(), format)
    return (left.T @ quantised((right[:rank] * root[:, None]).float(), format)).reshape(x.shape), bits


def ternary(size, x, *_):
    """For k kept magnitudes the best scale is their mean; the best k."""
    values = blocks_of(x, size)
    ordered = values.abs().sort(1, descending=True).values
    sums = ordered.cumsum(1)
    last = (sums**2 / torch.arange(1, size + 1)).argmax(1, keepdim=True)
    scale = bf16(sums.gather(1, last) / (last + 1))
    signs = values.sign() * (values.abs() >= ordered.gather(1, last))
    return unblocked(signs * scale, x), len(values) * (16 + 8 * math.ceil(size / 5))


def sparse(density, x, task, _):
    values = blocks_of(x, 256)
    kept = values.abs() >= task.least[density]
    scale = bf16((values.abs() * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1))
    return unblocked(values.sign() * kept * scale, x), 16 * len(values) + (entropy(density) + density) * x.numel()


def tvq(bits, x, *_):
    low, high = x.min(), x.max()
    scale = (high - low) / (2**bits - 1)
    zero = -torch.round(low / scale)
    back = (torch.clamp(torch.round(x / scale) + zero, 0, 2**bits - 1) - zero) * scale
    return (back if scale > 0 else x), bits * x.numel() + 64


def rtvq(base_bits, x, task, name):
    base, shared = tvq(base_bits, task.mean[name])
    offset, own = tvq(2, x - base)
    return base + offset, own + shared / task.tasks


def bit_delta(x, *_):
    return torch.where(x < 0, -1.0, 1.0) * x.abs().mean(), x.numel() + 32


def task_switch(alpha, mask, x, *_):
    signs = torch.zeros_like(x)
    for sign in (1, -1):
        own = x[x * sign > 0].abs()
        keep = int(own.numel() * (1 - alpha))
        if keep:
            signs[x * sign >= own.kthvalue(own.numel() - keep + 1).values] = sign
    share = float(signs.abs().mean())
    scale = (x * signs).norm() / signs.norm().clamp(min=1)
    return signs * scale, ((entropy(share) if mask == "entropy" else 1) + share) * x.numel() + 32


def tsv(dtype, x, task, name):
    keep = max(1, min(x.flatten(1).shape) // task.tasks)
    left, values, right = (part.to(dtype).float() for part in task.triples[name])
    bits = keep * (sum(x.flatten(1).shape) + 1) * torch.finfo(dtype).bits
    return ((left[:, :keep] * values[:keep]) @ right[:keep]).reshape(x.shape), bits


def methods():
    yield "base alone", lambda x, *_: (torch.zeros_like(x), 0)
    for format in ["q4", "q3", "q2"]:
        yield f"taskbasis {format}", partial(blocks, format)
    yield "tried: one bit, blocks of 64", partial(blocks, "q1")
    for format in ["q3", "q4", "q6"]:
        for rank in RANKS:
            yield f"taskbasis r{rank}{format.replace('q4', '')}", partial(low_rank, rank, format)
    for size in (64, 128):
        yield f"tried: ternary, blocks of {size}", partial(ternary, size)
    for density in DENSITIES:
        yield f"tried: sparse ternary, {density:.0%} kept", partial(sparse, density)
    for bits in (2, 3, 4):
        yield f"TVQ, {bits} bits", partial(tvq, bits)
    for bits in (3, 4):
        yield f"RTVQ, base {bits} bits, offsets 2", partial(rtvq, bits)
    yield "BitDelta, scales not distilled", bit_delta
    for alpha in (0.5, 0.9):
        for mask in ("entropy", "bitmap"):
            yield f"T-Switch, {alpha:.0%} dropped, mask as {mask}", partial(task_switch, alpha, mask)
    for dtype in ("float16", "float32"):
        yield f"TSV-Compress, {dtype}", partial(tsv, getattr(torch, dtype))


def embedder(weights, pixels):
    """Embeddings (the class token) by weights under the files' names, of a DINOv2 of these shapes."""
    from extract_dinov2 import IN_MEMORY
    from transformers import Dinov2Config, Dinov2Model
    prefix = next(name for name in weights if name.endswith("embeddings.cls_token"))[: -len("embeddings.cls_token")]
    width, _, patch, _ = weights[f"{prefix}embeddings.patch_embeddings.projection.weight"].shape
    side = math.isqrt(weights[f"{prefix}embeddings.position_embeddings"].shape[1] - 1)
    layers = sum(name.endswith("norm1.weight") for name in weights)
    model = Dinov2Model(Dinov2Config(hidden_size=width, num_attention_heads=width // 64, num_hidden_layers=layers,
                                     image_size=side * patch, patch_size=patch, layer_norm_eps=1e-6)).eval()
    own = model.state_dict()

    renamed = [pair for pair in [*IN_MEMORY.items(), ("encoder.layer.", "layers.")] if pair[1] in "".join(own)]

    def in_memory(name):
        for pair in renamed:
            name = name.replace(*pair)
        return name

    def embeds(values):
        state = {in_memory(name[len(prefix):]): value for name, value in values.items() if name.startswith(prefix)}
        assert (lost := {name for name in own if "mask_token" not in name} - set(state)) == set(), sorted(lost)[:5]
        model.load_state_dict(state, strict=False)
        with torch.no_grad():
            return torch.cat([model(part).last_hidden_state[:, 0] for part in pixels.split(8)]).double()

    return embeds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", required=True)
    for option in ("--tuned", "--pixels"):
        parser.add_argument(option, nargs="+", required=option == "--tuned", default=[], metavar="NAME=FILE")
    given = parser.parse_args()
    tuned, pixels = (dict(pair.split("=", 1) for pair in pairs) for pairs in (given.tuned, given.pixels))
    assert set(pixels) <= set(tuned), f"pixels of tasks that are not there: {set(pixels) - set(tuned)}"
    base = load_file(given.base)
    tuned = {task: load_file(file) for task, file in tuned.items()}
    names = [name for name in base if all(name in weights for weights in tuned.values())]
    vectors = {task: {} for task in tuned}
    for name in names:
        own = {task: (weights[name].float() - base[name].float()).squeeze() for task, weights in tuned.items()}
        if any(x.ndim >= 2 and x.any() for x in own.values()):
            for task, x in own.items():
                vectors[task][name] = x
    mean = {name: sum(vector[name] for vector in vectors.values()) / len(tuned) for name in vectors[next(iter(tuned))]}
    numel = sum(x.numel() for x in mean.values())
    print(f"{len(tuned)} tasks, {len(mean)} parameters, {numel:,} values per task", flush=True)
    rules = dict(methods())
    bits, errors, cosines = ({label: [] for label in rules} for _ in range(3))
    for task, vector in vectors.items():
        this, weights = prepared(vector, mean, len(tuned)), {name: tuned[task][name] for name in names}
        length = sum(float(x.double().square().sum()) for x in vector.values())
        if task in pixels:
            embeds = embedder(weights, load_file(pixels[task])["pixel_values"])
            exact = embeds(weights)
        for label, rule in rules.items():
            lost, cost, rebuilt = 0.0, 0.0, dict(weights)
            for name, x in vector.items():
                back, own = rule(x, this, name)
                lost, cost = lost + float((back - x).double().square().sum()), cost + own
                rebuilt[name] = base[name] + back.reshape(base[name].shape)
            errors[label].append(math.sqrt(lost / length))
            bits[label].append(cost / numel)
            if task in pixels:
                cosines[label].append(cosine_similarity(exact, embeds(rebuilt), 1))

    embeddings = " | embeddings: least cosine | mean" * bool(pixels)
    print(f"| method | bits per value | bytes per task | ‖τ̂ − τ‖/‖τ‖: worst task | mean{embeddings} |")
    print("| --- |" + " ---: |" * (6 if pixels else 4))
    for label in sorted(rules, key=lambda label: sum(bits[label])):
        per_value, found = sum(bits[label]) / len(tuned), errors[label]
        cells = [label, f"{per_value:.3f}", f"{per_value * numel / 8:,.0f}"]
        cells += [f"{100 * max(found):.1f} %", f"{100 * sum(found) / len(tuned):.1f} %"]
        cells += [f"{of(torch.cat(cosines[label])):.6f}" for of in (torch.min, torch.mean) if pixels]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
