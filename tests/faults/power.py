"""Every command that writes, on a disk that forgets what was not synced (`forgetful_disk.py`), with the power failing
after every step that the command has the disk take: its output must be the old one or the new, whole; the new one once
the command has ended; and the next run must make of what is left what it should be. Each is also run on a disk without
owners and modes, as FAT.

`power.py [long] [SEED]`. Needs Linux, /dev/fuse and the right to mount; says so where that is missing.
"""

import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from forgetful_disk import Disk
from writer_scenes import content, judge, left, stage

#: What a disk may do with what is not synced.
HOW = ["forgets", "reorders", "zeros", "random", "random"]


def main():
    """Runs, and prints a table."""
    is_long = "long" in sys.argv[1:]
    seed = next((int(word) for word in sys.argv[1:] if word.isdigit()), 1)
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or os.geteuid() != 0:
        print("skipped: only the superuser can mount a disk that forgets")
        return
    rng, began, wrong, total = random.Random(seed), time.monotonic(), [], 0
    with tempfile.TemporaryDirectory() as around:
        files, place, after = (Path(around) / name for name in ("files", "disk", "after"))
        files.mkdir()
        place.mkdir()
        scenes, _server = stage(files)
        print(f"seed {seed}\n{'scene':<16}{'steps':>7}{'syncs':>7}{'states':>8}{'new':>7}{'runs':>6}")
        for scene in scenes:
            row = fail(scene, place, after, rng, wrong, 12 if is_long else 2, None if is_long else 400)
            total += row[2]
            print(f"{scene.name:<16}" + "{:>7}{:>7}{:>8}{:>7}{:>6}".format(*row))
    print(f"{total} states in {time.monotonic() - began:.0f} s, {len(wrong)} wrong")
    for what in wrong[:40]:
        print(what)
    sys.exit(bool(wrong))


def fail(scene, place, after, rng, wrong, runs, most):
    """Has the power fail in a scene: steps and syncs, states that were looked at and of them with the new output, and
    runs that began with one."""
    with Disk(place) as disk:
        scene.prepare(place)
        old, since = content(place / scene.output), len(disk.log)
        scene.run(place)
        new, until = content(place / scene.output), len(disk.log)
    points = range(since, until + 1)
    if most is not None and len(points) > most:
        # All about the syncs and names, some of the rest.
        near = {p + d for p in points[:-1] if disk.log[p][0] != "write" for d in (0, 1)}
        points = sorted(near | set(rng.sample(points, most // 2)) | {until})
    with Disk(place, is_plain=True):
        scene.prepare(place)
        scene.run(place)
        if left(place):
            wrong.append(f"{scene.name}: leaves {left(place)} on a disk without modes")
    states = ready = 0
    tried = []
    # The disk can tell: without any sync the output would be lost, or torn.
    unsynced = disk.without_syncs(since).after_power_loss(since, len(disk.log), "forgets").content()
    if is_same(scene, unsynced.get(scene.output), new):
        wrong.append(f"{scene.name}: the disk forgets nothing")
    for point in points:
        for i, how in enumerate(HOW):
            tree = disk.after_power_loss(since, point, how, seed=point * len(HOW) + i)
            found = tree.content().get(scene.output)
            states += 1
            ready += found == new
            what = judge(scene, found, old, new)
            if what is None and point == until and not is_same(scene, found, new):
                what = "the command had ended, and its output is not there"
            if what is not None:
                wrong.append(f"{scene.name}, step {point - since} of {until - since}, the disk {how}: {what}")
            tried.append((point, how, point * len(HOW) + i))
    for point, how, number in rng.sample(tried, min(runs, len(tried))):
        shutil.rmtree(after, ignore_errors=True)
        disk.after_power_loss(since, point, how, seed=number).write(after)
        found = content(after / scene.output)
        if found != old and scene.name in ("add-task", "build"):
            continue  # Once is enough: the task is there, or the folder.
        scene.run(after)
        again = content(after / scene.output)
        what = judge(scene, again, new, new) or (left(after) or None)
        if what is not None:
            wrong.append(f"{scene.name}, step {point - since}, the disk {how}: after the next run {what}")
    return until - since, sum(step[0] == "sync" for step in disk.log[since:until]), states, ready, runs


def is_same(scene, found, new):
    """Whether an output is the new one; of a cache, what all programs look at."""
    if scene.name != "pull":
        return found == new
    found, new = ((cache or {}).get("models--owner--bases", {}) for cache in (found, new))
    return all(found.get(part) == new[part] for part in ("blobs", "refs", "snapshots"))


if __name__ == "__main__":
    main()
