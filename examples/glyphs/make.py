"""Makes the family: base, eight fine-tunes, images, and what a PyTorch evaluation measures of them.

    python make.py --npm node_modules --work FOLDER --program taskbasis

README.md says what has to be installed. Everything is seeded: the same versions on the same machine
give the same files. `--work` keeps what was made (drawings, base, fine-tunes) for the next start, which goes on from there.
"""

import argparse
import gzip
import json
import pickle
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import recipe
import sources
import tower

#: The coefficients that are tried on validation images, as the paper tries them, and those that the test is told of.
GRID = [round(0.05 * i, 2) for i in range(21)]
TOLD = [0.1, 0.2, 0.3, 0.4]

#: What negation must not harm, a domain of the base's that is no task, as ImageNet is in the paper; how much of its
#: accuracy has to stay on validation images, so that on the test 95 % do; and the coefficients that are tried.
CONTROL, KEEP, NEGATED = "Latin", 0.98, GRID[::2]

HERE = Path(__file__).parent


def kept(path, make, read, write):
    """What lies at `path`, or is made and put there."""
    if not path.exists():
        write(make(), path)
    return read(path)


def idx(path, values):
    """A gzipped IDX file of u8 [n] or [n, H, W], as MNIST has them; the same bytes whenever it is made."""
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(header + values.astype(np.uint8).tobytes())


class Family:
    """Base, task vectors, heads and images, and the accuracies of weights."""

    def __init__(self, base, tasks, heads, images):
        self.base, self.heads, self.images = base, heads, images
        self.vectors = {task: {name: w[name] - base[name] for name in base} for task, w in tasks.items()}
        self.visual = tower.Visual(embedding=recipe.EMBEDDING)

    def weights(self, coefficients):
        sums = {name: sum(c * self.vectors[task][name] for task, c in coefficients.items()) for name in self.base}
        return {name: self.base[name] + sums[name] for name in self.base}

    def all(self, coefficient):
        return {task: coefficient for task in self.vectors}

    def accuracies(self, coefficients, split, tasks=None):
        tower.load(self.visual, self.weights(coefficients))
        found = {}
        for task in tasks or self.vectors:
            images, labels = self.images[task][split]
            found[task] = tower.correct(self.visual, images, labels, self.heads[task]) / len(labels)
        return found

    def embeds(self, coefficients, images):
        tower.load(self.visual, self.weights(coefficients))
        return tower.embed(self.visual, images)


def mean(accuracies):
    return sum(accuracies.values()) / len(accuracies)


def negated(family, task, control_zeroshot):
    """The λ of base − λ·τ that is worst at the task on validation images, of those that keep the control task."""
    best = None
    for coefficient in NEGATED:
        found = family.accuracies({task: -coefficient}, "val", [task, CONTROL])
        if found[CONTROL] >= KEEP * control_zeroshot and (best is None or found[task] < best[1]):
            best = coefficient, found[task]
    test = family.accuracies({task: -best[0]}, "test", [task, CONTROL])
    return {"coef": best[0], "test": test[task], "control": test[CONTROL]}


def measured(family):
    """Everything of report.json that is accuracy. λ is chosen on validation images, and told of on test images."""
    zeroshot = {split: family.accuracies({}, split) for split in ("val", "test")}
    control = {split: family.accuracies({}, split, [CONTROL])[CONTROL] for split in ("val", "test")}
    finetuned = {split: {task: family.accuracies({task: 1.0}, split, [task])[task] for task in family.vectors}
                 for split in ("val", "test")}
    grid = [{"coef": c, "val": family.accuracies(family.all(c), "val")} for c in GRID]
    best = max(grid, key=lambda point: mean(point["val"]))["coef"]
    flat = torch.stack([torch.cat([v.flatten() for v in vector.values()]) for vector in family.vectors.values()])
    length = flat.norm(dim=1)
    cosines = (flat @ flat.T / length / length[:, None]).numpy().round(4).tolist()
    return {
        "zeroshot": zeroshot, "finetuned": finetuned,
        "addition": {"grid": grid, "best": best, "test": family.accuracies(family.all(best), "test")},
        "merged": {str(c): family.accuracies(family.all(c), "test") for c in TOLD},
        "negation": {"control": CONTROL, "keep": KEEP, "zeroshot": control["test"], "tasks": {
            task: negated(family, task, control["val"]) for task in family.vectors}},
        "cosines": cosines, "lengths": length.numpy().round(4).tolist(),
    }


def wanted(found):
    """What the family is for, as questions with their answers."""
    zeroshot, finetuned = mean(found["zeroshot"]["test"]), mean(found["finetuned"]["test"])
    merged, control = mean(found["addition"]["test"]), found["negation"]["zeroshot"]
    negation = found["negation"]["tasks"]
    return {
        "zeroshot_mean": round(100 * zeroshot, 2), "finetuned_mean": round(100 * finetuned, 2),
        "merged_mean": round(100 * merged, 2), "best_coefficient": found["addition"]["best"],
        "negated_mean": round(100 * sum(n["test"] for n in negation.values()) / len(negation), 2),
        "zeroshot_45_to_75": 0.45 <= zeroshot <= 0.75,
        "finetuned_12_points_above": finetuned >= zeroshot + 0.12,
        "addition_4_points_above_at_more_than_0.1": merged >= zeroshot + 0.04 and found["addition"]["best"] > 0.1,
        "negation_lowers_each_task": all(n["test"] < found["zeroshot"]["test"][task] for task, n in negation.items()),
        "negation_keeps_control": all(n["control"] >= 0.95 * control for n in negation.values()),
    }


def packages(domains, modules):
    """The versions of what the drawings were made of."""
    files = sorted({path for domain in domains for path in domain.files})
    owners = subprocess.run(["dpkg", "-S", *files], capture_output=True, text=True).stdout.splitlines()
    names = sorted({line.split(":")[0] for line in owners})
    query = ["dpkg-query", "-W", "-f", "${Package} ${Version}\n", *names]
    shown = subprocess.run(query, capture_output=True, text=True)
    npm = {package: json.loads(Path(modules, package, "package.json").read_text()) for package in sources.ICONS}
    return {"debian": dict(line.split() for line in shown.stdout.splitlines()),
            "npm": {package: told["version"] for package, told in npm.items()}}


def write(out, family, domains, report, program, work):
    """The files of the example."""
    tasks = list(family.vectors)
    heads = {f"{task}/weight": head.contiguous() for task, head in family.heads.items()}
    heads |= {f"{task}/bias": torch.zeros(len(head)) for task, head in family.heads.items()}
    save_file(heads, out / "heads.safetensors")
    classes = {domain.name: domain.classes for domain in domains}
    (out / "classes.json").write_text(json.dumps(classes, ensure_ascii=False, indent=1) + "\n")
    for task, splits in family.images.items():
        for split, (images, labels) in splits.items():
            name = "t10k" if split == "test" else split
            folder = out / ("control" if task == CONTROL else "data") / task
            idx(folder / f"{name}-images-idx3-ubyte.gz", images.numpy())
            idx(folder / f"{name}-labels-idx1-ubyte.gz", labels.numpy())
    first = torch.cat([family.images[task]["test"][0][:4] for task in tasks])
    golden = {"base": family.embeds({}, first), "merged@0.3": family.embeds(family.all(0.3), first)}
    for task in tasks:
        golden[task] = family.embeds({task: 1.0}, first)
        golden[f"-{task}@0.5"] = family.embeds({task: -0.5}, first)
    save_file(golden, out / "golden.safetensors")
    (out / "report.json").write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    if program:
        bundle = out / "glyphs.taskbasis"
        subprocess.run([program, "build", "--base", work / "base.safetensors", "--tasks-dir", work / "tasks",
                        "--method", "random-sample", "--vectors", str(len(tasks)), "--format", "q8", "--heads",
                        out / "heads.safetensors", "--classes", out / "classes.json", "--activation", "quick_gelu",
                        "-o", bundle], check=True)
        arithmetic(program, bundle, out / "data", report["addition"]["best"], work / "fit.json")


def arithmetic(program, bundle, data, best, fit):
    """What the bundle keeps beside its tasks: the best single λ, a λ per task and layer, and a router by what these
    weights see."""
    of = ["--basis", bundle, "--data", data, "--split", "train"]
    if not fit.exists():
        subprocess.run([program, "fit", *of, "--groups", "layer", "--shots", str(recipe.SHOTS), "-o", fit], check=True)
    subprocess.run([program, "name", bundle, f"one_lambda=all@{best}", f"per_layer=@{fit}"], check=True)
    subprocess.run([program, "route", *of, "--shots", "528", "--hidden", "--features", "per_layer",
                    "--fallback", "per_layer", "--keep"], check=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--npm", required=True, type=Path, help="the folder node_modules with the sets of icons")
    arguments.add_argument("--work", required=True, type=Path, help="where base, fine-tunes and drawings are kept")
    arguments.add_argument("--out", default=HERE, type=Path, help="where the example's files go")
    arguments.add_argument("--program", help="taskbasis, which makes the bundle; without it none is made")
    arguments.add_argument("--threads", default=2, type=int)
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    given.work.joinpath("tasks").mkdir(parents=True, exist_ok=True)
    begun = time.time()

    def say(what):
        print(f"{time.time() - begun:6.0f} s  {what}", flush=True)

    tasks, others = kept(given.work / "drawings.pickle", lambda: sources.domains(given.npm),
                         lambda path: pickle.loads(path.read_bytes()),
                         lambda made, path: path.write_bytes(pickle.dumps(made)))
    say(f"drawings of {len(tasks)} tasks and {len(others)} other domains")

    def make_base():
        every = lambda step, loss: say(f"base, step {step}: {loss:.3f}") if step % 50 == 0 else None
        visual, heads = recipe.base(tasks + others, each=every)
        return {**tower.state(visual), **{f"heads/{name}": weight for name, weight in heads.items()}}

    both = kept(given.work / "base_and_heads.safetensors", make_base, load_file, save_file)
    heads = {name.removeprefix("heads/"): value for name, value in both.items() if name.startswith("heads/")}
    base = {name: value for name, value in both.items() if name.startswith("visual.")}
    save_file(base, given.work / "base.safetensors")

    finetuned = {}
    for domain in tasks:
        path = given.work / "tasks" / f"{domain.name}.safetensors"
        make = lambda: recipe.finetuned(base, domain, heads[domain.name])
        finetuned[domain.name] = kept(path, make, load_file, save_file)
        say(f"fine-tuned: {domain.name}")

    control = next(domain for domain in others if domain.name == CONTROL)
    images = {domain.name: recipe.evaluation_images(domain) for domain in tasks}
    images[CONTROL] = recipe.control_images(control)
    family = Family(base, finetuned, {name: heads[name] for name in images}, images)
    report = measured(family)
    report["wanted"] = wanted(report)
    report["made_of"] = packages(tasks + others, given.npm)
    report["makers"] = {domain.name: domain.makers for domain in [*tasks, control] if domain.name != "Digits"}
    say(json.dumps(report["wanted"], indent=1))
    write(given.out, family, [*tasks, control], report, given.program, given.work)
    say("written")


if __name__ == "__main__":
    sys.exit(main())
