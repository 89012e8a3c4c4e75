"""The Ray Serve example, started as its documentation says. Everything stays on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import taskbasis
from conftest import BASE, DIGITS, FOLDER, ROOT

pytest.importorskip("ray.serve", reason="Ray Serve is not installed")
sys.path.append(str(ROOT))
from examples.ray_serve.processes import replicas  # noqa: E402

URL = "http://127.0.0.1:8000"
PHOTOS = [DIGITS / "preprocess" / name for name in ("photo_gray.png", "photo_palette.png", "photo_small.png")]
OPTIONS = {"bundle": FOLDER, "base": BASE, "heads": DIGITS / "heads.safetensors", "classes": DIGITS / "classes.json"}
ENVIRONMENT = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}


def ask(path, data=None, kind="application/octet-stream", tries=1):
    """Status and answer; asks again after 503 and broken connections."""
    request = urllib.request.Request(URL + path, data, {"Content-Type": kind} if data is not None else {})
    for left in reversed(range(tries)):
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as e:
            if e.code != 503 or left == 0:
                return e.code, json.loads(e.read() or b"null")
        except OSError:
            if left == 0:
                raise
        time.sleep(0.5)


def classify(photo, tries=1, **query):
    return ask("/classify?" + urllib.parse.urlencode(query), photo.read_bytes(), tries=tries)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    log = tmp_path_factory.mktemp("serve") / "log"
    program = Path(sys.executable).parent / "serve"
    # Images wait for a while, so that there are batches even of a model that takes no time.
    options = [f"{name}={value}" for name, value in {**OPTIONS, "wait": 50}.items()]
    line = [program, "run", "examples.ray_serve.app:app", *options]
    with open(log, "wb") as out:
        running = subprocess.Popen([*map(str, line)], cwd=ROOT, env=ENVIRONMENT, stdout=out, stderr=out)
    try:
        for _ in range(120):
            assert running.poll() is None, log.read_text()[-4000:]
            try:
                if ask("/tasks")[0] == 200:
                    break
            except (OSError, ValueError):
                pass  # Nothing listens yet, or Ray answers in plain text that there is no such route yet.
            time.sleep(1)
        else:
            pytest.fail(log.read_text()[-4000:])
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(60)


def test_scores_are_those_of_the_program(served):
    for task, weights in [("MNIST", None), ("Parity", None), ("MNIST", "MNIST@0.8 + Parity@0.2"), ("Loops", "base")]:
        named = {"task": task, **({"weights": weights} if weights else {})}
        told = taskbasis.run(
            "classify", *PHOTOS, basis=FOLDER, base=BASE, heads=OPTIONS["heads"], classes=OPTIONS["classes"], **named
        )
        for photo, theirs in zip(PHOTOS, told["images"]):
            status, ours = classify(photo, **named)
            assert status == 200 and ours["weights"] == told["weights"]
            for one, other in zip(ours["top"], theirs["top"]):
                assert one["class"] == other["class"]
                assert one["logit"] == pytest.approx(other["logit"], rel=2e-5, abs=2e-4)
                assert one["probability"] == pytest.approx(other["probability"], rel=2e-5, abs=2e-5)


def test_what_is_wrong_has_its_status(served):
    tasks = ask("/tasks")[1]
    photo = PHOTOS[0].read_bytes()
    for path, status, word in [
        ("task=MNITS", 404, "MNIST"),
        ("task=MNIST&weights=SVHN%400.3", 404, "SVHN"),
        ("task=MNIST&weights=MNIST%40%40", 400, "number"),
    ]:
        answer = ask("/classify?" + path, photo)
        assert answer[0] == status and word in answer[1]["detail"]["error"], answer
        assert (answer[1]["detail"].get("tasks") == tasks) == (status == 404)
    for image in [b"", b"no image", photo[:200]]:
        answer = ask("/classify?task=MNIST", image)
        assert answer[0] == 400 and "image" in answer[1]["detail"]["error"], answer
    assert ask("/classify", photo)[0] == 422 and ask("/classify?task=MNIST&top=0", photo)[0] == 422
    assert ask("/classify?task=MNIST", b"\0" * ((32 << 20) + 1))[0] == 413


def test_a_form(served):
    photo, mark = PHOTOS[0], b"--mark"
    head = b'\r\nContent-Disposition: form-data; name="%s"; filename="a.png"\r\n\r\n'
    for name, status in [(b"image", 200), (b"file", 400)]:
        body = mark + head % name + photo.read_bytes() + b"\r\n" + mark + b"--\r\n"
        answer = ask("/classify?task=MNIST", body, "multipart/form-data; boundary=mark")
        assert answer[0] == status, answer
    alone = classify(photo, task="MNIST")[1]["top"]
    body = mark + head % b"image" + photo.read_bytes() + b"\r\n" + mark + b"--\r\n"
    assert ask("/classify?task=MNIST", body, "multipart/form-data; boundary=mark")[1]["top"] == alone


def test_batches_hold_one_task(served):
    """Many requests of many tasks at once: each gets the scores that it gets alone."""
    tasks = ask("/tasks")[1]
    alone = {task: classify(PHOTOS[0], task=task, top=1)[1]["top"][0] for task in tasks}
    asked = tasks * 24
    with ThreadPoolExecutor(48) as pool:
        answers = list(pool.map(lambda task: classify(PHOTOS[0], task=task, top=1), asked))
    for task, (status, answer) in zip(asked, answers):
        assert status == 200
        assert answer["top"][0]["logit"] == pytest.approx(alone[task]["logit"], rel=2e-5), task
    assert max(answer["served"]["batch"] for _, answer in answers) > 1, "nothing was batched"


def test_a_killed_replica_loses_nothing(served):
    tasks, killed = ask("/tasks")[1], []

    def one(i):
        if i == 40:
            killed.append(replicas(served.pid)[0])
            os.kill(killed[0], signal.SIGKILL)
        return classify(PHOTOS[i % 3], tries=40, task=tasks[i % 8])[0]

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(one, range(200))) == {200}
    for _ in range(60):
        if len(replicas(served.pid)) == 2:
            break
        time.sleep(1)
    assert len(replicas(served.pid)) == 2 and killed[0] not in replicas(served.pid), "no replica took its place"


def test_the_load_test(tmp_path, served):
    """Small, but whole; it starts a Ray of its own on another port."""
    options = [f"{name}={value}" for name, value in OPTIONS.items()]
    options += ["seconds=4", "rounds=1", "clients=4", "port=8012"]
    line = [sys.executable, "-m", "examples.ray_serve.load_test", *options]
    done = subprocess.run(line, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout)
    for part in (told["killed"], told["drained"], *told["runs"]["warm"], *told["runs"]["anywhere"]):
        assert part["lost"] == 0 and part["requests"] > 20, part
    # Both replicas map the same files: each counts for a half of them.
    for share in told["memory_mb"]:
        assert 0 < share["mapped_pss"] < 0.75 * share["mapped_rss"]
