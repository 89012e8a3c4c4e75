"""Compares `taskbasis merge` with the papers' formulas, written out in PyTorch in f64 and in f32.

    python tests/support/compare_merges.py target/release/taskbasis [--full T [METHOD ...]]

Needs torch and safetensors. Without --full: the digits family (the checkpoints of its eight tasks, as the program
reconstructs them) and a family of random matrices, tall, wide and square, some parameters left alone by some tasks. The
relative L2 distance to f64 must be at most 1e-5, of rules of singular values 1e-4. With --full: T random fine-tunes of
a tower of the shapes of ViT-B-32 (BLOCKS: how many of its blocks); time (of the clock and of processors) and peak
memory of the program and of PyTorch in f32, both from files to a merged file; PyTorch holds all task vectors in memory,
as the authors' programs do.

DARE's mask is the program's own (SplitMix64 by XXH3 of the names), so it is told here by a merge of constant vectors:
what comes out of drop=p, times 1 - p, is the mask.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import torch
from safetensors.torch import load_file, save_file

DIGITS = pathlib.Path(__file__).parents[2] / "examples/digits"
LIMIT, SVD_LIMIT = 1e-5, 1e-4
# λ: so large that rounding the weights is nothing beside the vector.
SCALE = 4096
SVD = ("tsv", "iso-c", "iso-cts")


def run(*line):
    """What a program prints, its seconds by the clock and by processors, and the peak of its own memory in MB: mapped
    files are not among it."""
    began, peak = time.time(), 0
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([str(part) for part in line], stdout=out, stderr=errors)
        while True:
            try:
                status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
                peak = max([peak, *(int(row.split()[1]) for row in status.splitlines() if row.startswith("RssAnon"))])
            except (FileNotFoundError, ProcessLookupError):
                pass
            pid, code, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            time.sleep(0.02)
        out.seek(0)
        errors.seek(0)
        assert code == 0, (line, errors.read().decode())
        return out.read().decode(), time.time() - began, usage.ru_utime + usage.ru_stime, peak / 1024


def is_matrix(name, value):
    return value.ndim == 2 and "text_projection" not in name


def by_parameter(rule, matrices=is_matrix):
    """`rule` on the stacked vectors of what is a matrix, the mean on everything else."""

    def merge(vectors):
        merged = {}
        for name in vectors[0]:
            stack = torch.stack([vector[name] for vector in vectors])
            merged[name] = rule(stack) if matrices(name, stack[0]) and stack.any() else stack.mean(0)
        return merged

    return merge


def flat(vectors):
    """[T, D] over the parameters that some task changes."""
    names = [name for name in vectors[0] if any(vector[name].any() for vector in vectors)]
    return names, torch.stack([torch.cat([vector[name].reshape(-1) for name in names]) for vector in vectors])


def unflat(names, values, like):
    merged = {name: torch.zeros_like(value) for name, value in like.items()}
    for name in names:
        merged[name] = values[: like[name].numel()].reshape(like[name].shape)
        values = values[like[name].numel() :]
    return merged


def ties_flat(values, keep, by):
    count = values.shape[1]
    rank = count - int(count * keep)
    if rank > 0:
        least = torch.stack([row.abs().kthvalue(rank).values for row in values])
        values = torch.where(values.abs() >= least[:, None], values, torch.zeros_like(values))
    signs = torch.sign(values.sum(0))
    signs[signs == 0] = torch.sign(signs.sum())
    agree = torch.where(signs > 0, values > 0, values < 0)
    kept = torch.where(agree, values, torch.zeros_like(values))
    if by == "mean":
        return kept.sum(0) / agree.sum(0).clamp(min=1)
    return kept.sum(0) if by == "sum" else kept.abs().max(0).values * signs


def ties(keep=0.2, by="mean"):
    def merge(vectors):
        names, values = flat(vectors)
        return unflat(names, ties_flat(values, keep, by), vectors[0])

    return merge


def magmax(vectors):
    merged = dict(vectors[0])
    for vector in vectors[1:]:
        for name, value in vector.items():
            merged[name] = torch.where(value.abs() >= merged[name].abs(), value, merged[name])
    return merged


def stock(vectors):
    count, merged = len(vectors), {}
    for name in vectors[0]:
        values = torch.stack([vector[name].reshape(-1) for vector in vectors])
        lengths = values.norm(dim=1)
        angles = []
        for i in range(count):
            for j in range(i + 1, count):
                both = lengths[i] * lengths[j]
                cosine = (values[i] @ values[j] / both).clamp(-1, 1) if both > 0 else torch.zeros((), dtype=values.dtype)
                angles.append(cosine.arccos())
        cosine = torch.stack(angles).mean().cos()
        ratio = count * cosine / (1 + (count - 1) * cosine) if cosine > 1e-15 else 0
        merged[name] = (ratio * values.mean(0)).reshape(vectors[0][name].shape)
    return merged


def tall(task, scale=0.4):
    def merge(vectors):
        merged = {}
        for name in vectors[0]:
            whole = sum(vector[name] for vector in vectors)
            own = vectors[task][name]
            merged[name] = whole * (own.abs() > scale * (whole - own).abs())
        return merged

    return merge


def consensus(scale=0.4, agree=2):
    def merge(vectors):
        merged = {}
        for name in vectors[0]:
            whole = sum(vector[name] for vector in vectors)
            held = sum((vector[name].abs() > scale * (whole - vector[name]).abs()).int() for vector in vectors)
            merged[name] = whole * (held >= agree)
        return merged

    return merge


def polar(matrix):
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    return u @ v


def tsv(stack):
    rank = min(stack.shape[1:])
    own = rank // len(stack)
    if own == 0:
        return torch.zeros_like(stack[0])
    parts = [torch.linalg.svd(matrix, full_matrices=False) for matrix in stack if matrix.any()]
    u = torch.cat([u[:, :own] for u, _, _ in parts], 1)
    s = torch.cat([s[:own] for _, s, _ in parts])
    v = torch.cat([v[:own] for _, _, v in parts], 0)
    return polar(u) @ torch.diag(s) @ polar(v)


def iso_c(stack):
    u, s, v = torch.linalg.svd(stack.sum(0), full_matrices=False)
    return s.mean() * (u @ v)


def iso_cts(common):
    def rule(stack):
        rank, count = min(stack.shape[1:]), len(stack)
        shared = int(rank * common)
        shared = rank - round((rank - shared) / count) * count
        own = (rank - shared) // count
        u, s, v = torch.linalg.svd(stack.sum(0), full_matrices=False)
        parts = []
        for matrix in stack:
            rest = matrix - u[:, :shared] @ (u[:, :shared].T @ matrix)
            if rest.norm() > 1e-6 * s[0] and own > 0:
                a, b, c = torch.linalg.svd(rest, full_matrices=False)
                parts.append((a[:, :own], b[:own], c[:own]))
        parts.append((u[:, :shared], s[:shared], v[:shared]))
        left, right = torch.cat([part[0] for part in parts], 1), torch.cat([part[2] for part in parts], 0)
        return torch.cat([part[1] for part in parts]).sum() / rank * (polar(left) @ polar(right))

    return rule


def is_layer(name, value):
    return value.ndim == 2 and name.endswith("weight") and ("attn" in name or "mlp" in name)


def wudi(steps, rate=1e-5):
    def rule(stack):
        at = torch.nn.Parameter(stack.sum(0))
        adam = torch.optim.Adam([at], lr=rate)
        squares = stack.square().sum((1, 2))
        told = squares > 0
        for _ in range(steps):
            away = (at - stack[told]) @ stack[told].transpose(1, 2)
            loss = (away.square() / squares[told][:, None, None]).sum()
            adam.zero_grad()
            loss.backward()
            adam.step()
        return at.data

    return by_parameter(rule, is_layer)


RULES = {
    "magmax": magmax,
    "ties": ties(),
    "ties:keep=0.1,by=sum": ties(0.1, "sum"),
    "ties:keep=1,by=max": ties(1.0, "max"),
    "stock": stock,
    "tall:task=a": tall(0),
    "consensus:lambda=0.3,agree=2": consensus(0.3, 2),
    "tsv": by_parameter(tsv),
    "iso-c": by_parameter(iso_c),
    "iso-cts": by_parameter(iso_cts(0.8)),
    "iso-cts:common=0.5": by_parameter(iso_cts(0.5)),
    "wudi:steps=300": wudi(300),
    "wudi:steps=3": wudi(3),
}


class Family:
    def __init__(self, program, folder, base, tuned):
        """Saves a base and its fine-tunes by the names of their tasks."""
        self.program, self.folder, self.base, self.tuned = program, pathlib.Path(folder), base, tuned
        save_file(base, self.folder / "base.safetensors")
        for task, weights in tuned.items():
            save_file(weights, self.folder / f"{task}.safetensors")

    def vectors(self, dtype):
        names = [name for name, value in self.base.items() if value.is_floating_point()]
        return [{n: (w[n] - self.base[n]).to(dtype) for n in names} for w in self.tuned.values()]

    def merge(self, method):
        out = self.folder / "merged.safetensors"
        tasks = [part for task in self.tuned for part in ("--task", f"{task}={self.folder}/{task}.safetensors")]
        line = ["merge", "--base", self.folder / "base.safetensors", *tasks, "--method", method]
        run(self.program, *line, "--lambda", SCALE, "-o", out, "--json")
        merged = load_file(out)
        out.unlink()
        vector = {n: (merged[n].double() - b.double()) / SCALE for n, b in self.base.items() if b.is_floating_point()}
        return vector

    def masks(self, drop, seed):
        """What DARE keeps, told by merges of one task of constant vectors at a time."""
        masks = []
        for task in self.tuned:
            with tempfile.TemporaryDirectory() as folder:
                base = {n: torch.zeros_like(b) for n, b in self.base.items()}
                ones = Family(self.program, folder, base, {task: {n: torch.ones_like(b) for n, b in base.items()}})
                masks.append({n: v > 0 for n, v in ones.merge(f"dare:drop={drop},seed={seed}").items()})
        return masks


def distance(found, expected):
    """Relative, over all parameters."""
    off = sum((found[name] - value.double()).square().sum() for name, value in expected.items())
    return float((off / sum(value.double().square().sum() for value in expected.values())).sqrt())


def distance_of_files(one, other, base):
    """Relative, of the vectors in two merged checkpoints: f32 weights hold them to 1e-6 of the base or so."""
    one, other = load_file(one), load_file(other)
    vectors = [{n: w[n].double() - b.double() for n, b in base.items()} for w in (one, other)]
    return distance(*vectors)


def compare(what, family):
    bad = False
    rules = dict(RULES)
    if "a" not in family.tuned:
        rules["tall:task=MNIST"] = rules.pop("tall:task=a")
    exact, single = family.vectors(torch.float64), family.vectors(torch.float32)
    for method, rule in rules.items():
        expected = rule(exact)
        off, of_torch = distance(family.merge(method), expected), distance(rule(single), expected)
        limit = SVD_LIMIT if method.startswith(SVD) else LIMIT
        bad |= not off <= limit
        print(f"{what:8} {method:30} {off:.1e} (PyTorch in f32: {of_torch:.1e}) {'' if off <= limit else 'TOO FAR'}")
    masks = family.masks(0.7, 3)
    kept = float(torch.cat([mask.reshape(-1).double() for m in masks for mask in m.values()]).mean())
    left = [{n: v * m[n] / 0.3 for n, v in vector.items()} for vector, m in zip(exact, masks)]
    whole = {n: sum(vector[n] for vector in left) for n in left[0]}
    for method, expected in (("dare:drop=0.7,seed=3", whole), ("dare:drop=0.7,seed=3,then=ties", ties()(left))):
        off = distance(family.merge(method), expected)
        bad |= not off <= LIMIT
        print(f"{what:8} {method:30} {off:.1e} (kept {kept:.4f}) {'' if off <= LIMIT else 'TOO FAR'}")
    return bad


def small(program, folder):
    shapes = {
        "visual.conv1.weight": (16, 3, 4, 4),
        "visual.class_embedding": (16,),
        "visual.proj": (16, 12),
        "visual.transformer.resblocks.0.attn.in_proj_weight": (48, 16),
        "visual.transformer.resblocks.0.attn.in_proj_bias": (48,),
        "visual.transformer.resblocks.0.attn.out_proj.weight": (16, 16),
        "visual.transformer.resblocks.0.mlp.c_proj.weight": (16, 64),
        "visual.transformer.resblocks.0.ln_1.weight": (16,),
    }
    torch.manual_seed(0)
    # A base of zeros: what the merged checkpoint holds is the vector, whatever f32 rounds.
    base = {name: torch.zeros(shape) for name, shape in shapes.items()}
    tuned = {}
    for task in "abc":
        tuned[task] = {name: 1e-3 * torch.randn(shape) for name, shape in shapes.items()}
    tuned["b"]["visual.transformer.resblocks.0.attn.out_proj.weight"].zero_()
    for weights in tuned.values():
        weights["visual.transformer.resblocks.0.ln_1.weight"].zero_()
    return Family(program, folder, base, tuned)


def digits(program, folder):
    about = json.loads((DIGITS / "bases/ViT-D-8_AE_M4_8task/method_info.json").read_text())
    line = ["reconstruct", "--basis", DIGITS / "bases/ViT-D-8_AE_M4_8task", "--base", DIGITS / "base/pickled_module.pt"]
    weights = {}
    for task in ["base", *about["datasets"]]:
        out = pathlib.Path(folder) / "task.safetensors"
        run(program, *line, "--weights", task, "-o", out, "--json")
        weights[task] = load_file(out)
    torch.manual_seed(1)
    # The tasks of four vectors are no more than four directions; real ones have some of their own.
    tuned = {t: {n: v + 1e-4 * torch.randn_like(v) for n, v in w.items()} for t, w in weights.items() if t != "base"}
    return Family(program, folder, weights["base"], tuned)


def vit_b_32():
    width, mlp = 768, 3072
    shapes = {"visual.class_embedding": (width,), "visual.positional_embedding": (50, width), "visual.proj": (width, 512)}
    shapes["visual.conv1.weight"] = (width, 3, 32, 32)
    norms = ["visual.ln_pre", "visual.ln_post"]
    for block in range(int(os.environ.get("BLOCKS", "12"))):
        inside = f"visual.transformer.resblocks.{block}."
        norms += [inside + "ln_1", inside + "ln_2"]
        shapes |= {inside + "attn.in_proj_weight": (3 * width, width), inside + "attn.in_proj_bias": (3 * width,)}
        for layer, out, into in (("attn.out_proj", width, width), ("mlp.c_fc", mlp, width), ("mlp.c_proj", width, mlp)):
            shapes |= {f"{inside}{layer}.weight": (out, into), f"{inside}{layer}.bias": (out,)}
    return shapes | {f"{norm}.{part}": (width,) for norm in norms for part in ("weight", "bias")}


PEER = """
import sys
sys.path.insert(0, {here!r})
import compare_merges as c
from safetensors.torch import load_file, save_file
base = load_file({folder!r} + "/base.safetensors")
vectors = []
for t in range({tasks}):
    tuned = load_file({folder!r} + f"/t{{t}}.safetensors")
    vectors.append({{n: tuned[n] - base[n] for n in base}})
merged = c.RULES[{method!r}](vectors)
save_file({{n: base[n] + value for n, value in merged.items()}}, {folder!r} + "/peer.safetensors")
"""


def full(program, count, methods):
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        torch.manual_seed(0)
        base = {name: 0.02 * torch.randn(shape) for name, shape in vit_b_32().items()}
        save_file(base, f"{folder}/base.safetensors")
        for task in range(count):
            tuned = {name: value + 1e-3 * torch.randn_like(value) for name, value in base.items()}
            save_file(tuned, f"{folder}/t{task}.safetensors")
        tasks = [part for t in range(count) for part in ("--task", f"t{t}={folder}/t{t}.safetensors")]
        for method in methods or ["magmax", "ties", "stock", "iso-c", "tsv", "iso-cts"]:
            line = ["merge", "--base", f"{folder}/base.safetensors", *tasks, "--method", method]
            _, ours, cpu, memory = run(program, *line, "-o", f"{folder}/m.safetensors", "--json")
            told = f"{ours:7.1f} s, of processors {cpu:7.1f} s, {memory:6.0f} MB"
            print(f"T = {count} {method:10} taskbasis {told}", end="", flush=True)
            if method in RULES and os.environ.get("PEER", "1") == "1":
                here = str(pathlib.Path(__file__).parent)
                code = PEER.format(here=here, folder=folder, tasks=count, method=method)
                _, peer, peer_cpu, peer_memory = run(sys.executable, "-c", code)
                told = f"{peer:7.1f} s, of processors {peer_cpu:7.1f} s, {peer_memory:6.0f} MB"
                print(f"   PyTorch {told}   {ours / peer:.2f}, of processors {cpu / peer_cpu:.2f}", end="", flush=True)
                off = distance_of_files(f"{folder}/m.safetensors", f"{folder}/peer.safetensors", base)
                print(f"   apart {off:.1e}", end="")
            print(flush=True)


def main():
    program = sys.argv[1]
    if "--full" in sys.argv:
        at = sys.argv.index("--full")
        full(program, int(sys.argv[at + 1]), sys.argv[at + 2 :])
        return
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        bad = compare("random", small(program, one))
        bad |= compare("digits", digits(program, other))
    sys.exit(bad)


if __name__ == "__main__":
    main()
