"""`taskbasis serve` beside the server that one would write: FastAPI and onnxruntime in one process.

usage: serve.py TASKBASIS FAMILY WORK [--seconds S] [--rounds N] [--clients N] [--threads N]

FAMILY is a folder with a base and a basis as `taskbasis bench --only open --keep-files FAMILY` leaves it. WORK takes an
.onnx of each task, 350 MB each, if they are not there. Needs fastapi, uvicorn, onnxruntime, numpy and pillow.

Requests are of one image each, a photograph's size as JPEG, on CLIENTS connections; the tasks of all are drawn at random,
or are one. Ours has a budget of three tasks' f32 weights. The other has the same threads, and
    reload  one session, of the task that was asked for last,
    lru     three sessions, the least recently used goes first,
    one     the session of one task, when all requests are of it.
Both run all the time and are asked in turn, ROUNDS times, for S seconds each. Printed are requests per second, the median
of the rounds' ratios, and what HTTP adds to the time of decoding and running.
"""

import argparse
import collections
import glob
import http.client
import io
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time

PEERS = {"reload": 1, "lru": 3}


def peer():
    """The other server: `serve.py --peer PORT SESSIONS THREADS TASK=FILE...`."""
    import numpy as np
    import onnxruntime
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.concurrency import run_in_threadpool
    from PIL import Image

    port, most, threads = (int(value) for value in sys.argv[2:5])
    files = dict(pair.split("=", 1) for pair in sys.argv[5:])
    mean = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
    std = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
    sessions, lock = collections.OrderedDict(), threading.Lock()

    def session_of(task):
        if task not in sessions:
            while len(sessions) >= most:
                sessions.popitem(last=False)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            sessions[task] = onnxruntime.InferenceSession(files[task], options, providers=["CPUExecutionProvider"])
        sessions.move_to_end(task)
        return sessions[task]

    def embed(task, body):
        image = Image.open(io.BytesIO(body)).convert("RGB")
        short = min(image.size)
        size = [round(side * 224 / short) for side in image.size]
        image = image.resize(size, Image.Resampling.BICUBIC)
        left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
        image = image.crop((left, top, left + 224, top + 224))
        pixels = ((np.asarray(image, np.float32) / 255 - mean) / std).transpose(2, 0, 1)[None]
        with lock:
            session = session_of(task)
            return session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(pixels)})[0].tolist()

    app = FastAPI()

    @app.post("/embed")
    async def answer(request: Request, task: str):
        return {"embeddings": await run_in_threadpool(embed, task, await request.body())}

    uvicorn.run(app, port=port, log_level="error")


class Server:
    """A server in a process of its own, and the address of a task in it."""

    def __init__(self, command, port, path):
        self.process, self.port, self.path = subprocess.Popen(command, stdout=subprocess.DEVNULL), port, path

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def ask(self, connection, task, image):
        connection.request("POST", self.path.format(task), image, {"Content-Type": "image/jpeg"})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{self.path}: {answer.status} {body[:300]}")
        return json.loads(body)

    def wait(self, task, image):
        for _ in range(600):
            try:
                return self.ask(self.connect(), task, image)
            except OSError:
                time.sleep(0.1)
        raise SystemExit(f"{self.path}: it does not answer")

    def load(self, tasks, image, clients, seconds, seed):
        """Requests per second, and the latency of each in ms."""
        times, lock, until = [], threading.Lock(), time.monotonic() + seconds

        def client(number):
            draw, connection, mine = random.Random(seed * 1000 + number), self.connect(), []
            while time.monotonic() < until:
                began = time.monotonic()
                self.ask(connection, draw.choice(tasks), image)
                mine.append((time.monotonic() - began) * 1e3)
            with lock:
                times.extend(mine)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(times) / (time.monotonic() - began), sorted(times)


def photograph():
    import numpy as np
    from PIL import Image

    small = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


def family(args):
    basis = os.path.dirname(glob.glob(f"{args.family}/**/method_info.json", recursive=True)[0])
    (base,) = glob.glob(f"{args.family}/*.pt")
    told = subprocess.run([args.program, "inspect", basis, "--json"], check=True, capture_output=True, text=True)
    tasks = json.loads(told.stdout)["tasks"]
    tasks = [task if isinstance(task, str) else task["name"] for task in tasks]
    files = {}
    for task in tasks:
        files[task] = os.path.join(args.work, f"{task}.onnx")
        if not os.path.exists(files[task]):
            command = ["export", "--basis", basis, "--base", base, "--weights", task, "-o", files[task]]
            subprocess.run([args.program, *command], check=True)
    return basis, base, files


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("family")
    parser.add_argument("work")
    for name, default in (("seconds", 10), ("rounds", 5), ("clients", 4), ("threads", os.cpu_count())):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    basis, base, files = family(args)
    image, tasks = photograph(), list(files)
    threads, pairs = str(args.threads), [f"{task}={file}" for task, file in files.items()]
    weights = os.path.getsize(files[tasks[0]])
    budget = ["--budget", str(-(-3 * weights >> 20))]
    ours = [args.program, "serve", basis, "--base", base, "--bind", "127.0.0.1:18200", "--threads", threads]
    servers = {"ours": Server([*ours, *budget], 18200, "/v1/embed?weights={}")}
    for at, (name, sessions) in enumerate(PEERS.items()):
        command = [sys.executable, __file__, "--peer", str(18201 + at), str(sessions), threads, *pairs]
        servers[name] = Server(command, 18201 + at, "/embed?task={}")
    try:
        answers = {name: server.wait(tasks[0], image)["embeddings"][0] for name, server in servers.items()}
        for name in PEERS:
            apart = sum((a - b) ** 2 for a, b in zip(answers[name], answers["ours"]))
            if apart > 1e-4 * sum(b * b for b in answers["ours"]):
                raise SystemExit(f"{name} has other embeddings: not the same model, or not the same pixels")
        measure(args, servers, tasks, image)
    finally:
        for server in servers.values():
            server.process.terminate()
            server.process.wait()


def measure(args, servers, tasks, image):
    cases = [("8 tasks at random", "reload", tasks), ("8 tasks at random", "lru", tasks), ("one task", "one", tasks[:1])]
    for title, name, asked in cases:
        other, ratios, rates, latencies = servers[{"one": "lru"}.get(name, name)], [], [], []
        for server in (servers["ours"], other):
            server.load(asked, image, args.clients, args.seconds / 3, 99)
        for seed in range(args.rounds):
            ours, times = servers["ours"].load(asked, image, args.clients, args.seconds, seed)
            theirs, their_times = other.load(asked, image, args.clients, args.seconds, seed)
            ratios.append(ours / theirs)
            rates.append((ours, theirs))
            latencies.append((statistics.median(times), statistics.median(their_times)))
        ours, theirs = (statistics.median(column) for column in zip(*rates))
        mine, other_ms = (statistics.median(column) for column in zip(*latencies))
        print(f"{title}, {name}: {ours:.1f} requests a second, the other {theirs:.1f}; ratio "
              f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); p50 {mine:.0f} and {other_ms:.0f} ms",
              flush=True)
    connection, added = servers["ours"].connect(), []
    for _ in range(200):
        began = time.monotonic()
        timing = servers["ours"].ask(connection, tasks[0], image)["timing"]
        took = (time.monotonic() - began) * 1e3
        added.append(took - timing["decode_ms"] - timing["weights_ms"] - timing["run_ms"])
    print(f"HTTP, queue and JSON beside decoding and the run: p50 {statistics.median(added):.2f} ms, one client")


if __name__ == "__main__":
    peer() if sys.argv[1:2] == ["--peer"] else main()
