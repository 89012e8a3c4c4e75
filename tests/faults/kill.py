"""Every command that writes, killed (SIGKILL) at random moments: its output must be the old one or the new, whole, and
the next run must leave nothing of what was broken off.

`kill.py [RUNS] [SEED]`; 40 runs over all commands where nothing is said.
"""

import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from writer_scenes import content, judge, left, stage


def main():
    """Runs, and prints a table."""
    runs, seed = int(sys.argv[1]) if len(sys.argv) > 1 else 40, int(sys.argv[2]) if len(sys.argv) > 2 else 1
    rng, began, wrong = random.Random(seed), time.monotonic(), []
    with tempfile.TemporaryDirectory() as around:
        files, folder = Path(around) / "files", Path(around) / "run"
        files.mkdir()
        scenes, _server = stage(files)
        print(f"seed {seed}\n{'scene':<16}{'runs':>6}{'killed':>8}{'partial':>9}{'new':>6}")
        for i, scene in enumerate(scenes):
            # A basis of its own: more for the first ones where they do not come out even.
            count = runs // len(scenes) + (i < runs % len(scenes))
            print(f"{scene.name:<16}" + "{:>6}{:>8}{:>9}{:>6}".format(*kill(scene, folder, count, rng, wrong)))
    print(f"{runs} runs in {time.monotonic() - began:.0f} s, {len(wrong)} wrong")
    for what in wrong:
        print(what)
    sys.exit(bool(wrong))


def kill(scene, folder, count, rng, wrong):
    """Kills a scene this often; how often it was killed, left something partial, and had its new output already."""
    def anew():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        scene.prepare(folder)

    anew()
    old = content(folder / scene.output)
    began = time.monotonic()
    scene.run(folder)
    took, new = time.monotonic() - began, content(folder / scene.output)
    killed = partial = ready = 0
    for n in range(count):
        anew()
        command, began = scene.start(folder), time.monotonic()
        # At any moment, or some time after it has begun to write.
        pause = rng.uniform(0, took)
        if n % 2:
            while not left(folder) and command.poll() is None and time.monotonic() - began < 10 * took:
                time.sleep(0.0005)
            pause = rng.uniform(0, took / 8)
        time.sleep(pause)
        command.kill()
        command.communicate()
        killed += command.returncode == -9
        if command.returncode not in (-9, 0):
            wrong.append(f"{scene.name}, run {n}: ended with {command.returncode}")
        found = content(folder / scene.output)
        if (what := judge(scene, found, old, new)) is not None:
            wrong.append(f"{scene.name}, run {n}: {what}")
        ready += found == new
        partial += bool(left(folder))
        if found != old and scene.name in ("add-task", "build"):
            continue  # Once is enough: the task is there, or the folder.
        scene.run(folder)
        again = content(folder / scene.output)
        if scene.name == "pull":
            what = judge(scene, again, old, new)
            if what is None and set(again["models--owner--bases"]["blobs"]) != set(new["models--owner--bases"]["blobs"]):
                what = "parts are left"
        else:
            what = None if again == new else "another output"
        if what is not None or left(folder):
            wrong.append(f"{scene.name}, run {n}: after the next run {what or left(folder)}")
    return count, killed, partial, ready


if __name__ == "__main__":
    main()
