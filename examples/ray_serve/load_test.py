"""Two replicas on one machine under load: requests sent where their task is warm against requests sent anywhere, a
replica killed, a replica drained. Prints JSON; docs/scaling.md tells what came out.

    python -m examples.ray_serve.load_test bundle=model.taskbasis [seconds=20] [clients=8] [rounds=3] [port=8000] …

It takes the options of app.py too. Everything stays on this machine.
"""

import asyncio
import io
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from typing import Any

import aiohttp
import numpy as np
import ray
from PIL import Image
from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import FIFOMixin, RequestRouter

import taskbasis
from examples.ray_serve.app import Encoder, Front, Options
from examples.ray_serve.processes import memory, replicas

#: Another try after 503 or a broken connection, at most this many times, each after a longer wait.
TRIES, WAIT_S = 12, 0.1
COMPARED = ("throughput", "p50_ms", "p99_ms", "warm", "batch")


class Anywhere(FIFOMixin, RequestRouter):
    """Two replicas at random, of which Serve takes the less busy one, whatever is warm where."""

    async def choose_replicas(self, candidate_replicas: "list[Any]", pending_request: Any = None) -> "list[list[Any]]":
        return [random.sample(candidate_replicas, min(2, len(candidate_replicas)))]


def start(options: Options, routing: str, count: int) -> None:
    """The application of app.py with `count` replicas; `routing` is "warm" or "anywhere". One that runs is replaced."""
    encoder = Encoder.options(num_replicas=count, ray_actor_options={"num_cpus": options.cpus})
    if routing == "anywhere":
        encoder = encoder.options(request_router_config=RequestRouterConfig(request_router_class=Anywhere))
    front = Front.options(ray_actor_options={"num_cpus": 0})
    serve.run(front.bind(options, encoder.bind(options)))


async def ask(session: aiohttp.ClientSession, url: str, task: str, image: bytes) -> "tuple[int, Any, int]":
    """The last status, the answer, and how many tries were needed."""
    status = 0
    for tries in range(1, TRIES + 1):
        try:
            async with session.post(f"{url}/classify", params={"task": task}, data=image) as answer:
                status = answer.status
                if status != 503:
                    return status, await answer.json(content_type=None) if status == 200 else await answer.text(), tries
        except (aiohttp.ClientError, asyncio.TimeoutError):
            status = 0
        await asyncio.sleep(min(WAIT_S * 2**tries, 2))
    return status, None, TRIES


async def load(url: str, seconds: float, clients: int, event: Any = None) -> "dict[str, Any]":
    """Clients that each send the next request when the last one is answered, tasks at random; `event` happens after a
    third of the time."""
    image = photo()
    rows: "list[tuple[float, int, Any, int, float]]" = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        async with session.get(f"{url}/tasks") as answer:
            tasks = await answer.json()
        await asyncio.gather(*(ask(session, url, task, image) for task in tasks * 2))
        began = time.perf_counter()

        async def client(seed: int) -> None:
            choose = random.Random(seed)
            while time.perf_counter() - began < seconds:
                sent = time.perf_counter()
                rows.append((sent, *(await ask(session, url, choose.choice(tasks), image)), time.perf_counter()))

        waiting = asyncio.gather(*(client(seed) for seed in range(clients)))
        if event is not None:
            await asyncio.sleep(seconds / 3)
            await asyncio.to_thread(event)
        await waiting
    good = [row for row in rows if row[1] == 200]
    times = [1000 * (row[4] - row[0]) for row in good]
    served = [row[2]["served"] for row in good]
    return {
        "requests": len(rows),
        "lost": len(rows) - len(good),
        "lost_with": sorted({f"{row[1]}: {row[2]}"[:200] for row in rows if row[1] != 200}),
        "retried": sum(row[3] > 1 for row in rows),
        "throughput": len(good) / (max(row[4] for row in rows) - began),
        "p50_ms": float(np.percentile(times, 50)),
        "p99_ms": float(np.percentile(times, 99)),
        "max_ms": max(times),
        "warm": sum(one["warm"] for one in served) / len(served),
        "batch": statistics.mean(one["batch"] for one in served),
        "replicas": len({one["replica"] for one in served}),
    }


def kill_one() -> None:
    os.kill(replicas(os.getpid())[0], signal.SIGKILL)


def measure(options: Options, url: str, seconds: float, clients: int, rounds: int) -> "dict[str, Any]":
    found: "dict[str, list[dict[str, Any]]]" = {"warm": [], "anywhere": []}
    shares: "list[dict[str, float]]" = []
    for turn in range(rounds):
        for routing in ("warm", "anywhere") if turn % 2 == 0 else ("anywhere", "warm"):
            start(options, routing, options.replicas)
            found[routing].append(asyncio.run(load(url, seconds, clients)))
            shares = [memory(process, os.path.realpath(options.bundle)) for process in replicas(os.getpid())]
            serve.delete("default")
    start(options, "warm", options.replicas)
    killed = asyncio.run(load(url, 2 * seconds, clients, kill_one))
    drained = asyncio.run(load(url, seconds, clients, lambda: start(options, "warm", options.replicas - 1)))
    serve.delete("default")
    medians = {
        routing: {key: statistics.median(run[key] for run in runs) for key in COMPARED}
        for routing, runs in found.items()
    }
    ratios = {key: medians["warm"][key] / medians["anywhere"][key] for key in COMPARED[:3]}
    return {
        "cores": os.cpu_count(),
        "options": options.model_dump(),
        "seconds": seconds,
        "clients": clients,
        "medians": medians,
        "warm_over_anywhere": ratios,
        "memory_mb": shares,
        "killed": killed,
        "drained": drained,
        "runs": found,
    }


def with_heads(options: Options, folder: str) -> Options:
    """Heads of ten classes with random values, for a family that comes without any: only their size matters here."""
    basis = taskbasis.open(options.bundle, options.base)
    width = taskbasis.Encoder(basis).embedding
    each, header = 40 * width + 40, {}
    for i, task in enumerate(basis):
        at, mid, end = each * i, each * i + 40 * width, each * (i + 1)
        header[f"{task}/weight"] = {"dtype": "F32", "shape": [10, width], "data_offsets": [at, mid]}
        header[f"{task}/bias"] = {"dtype": "F32", "shape": [10], "data_offsets": [mid, end]}
    about = json.dumps(header).encode()
    values = np.random.default_rng(0).normal(size=each * len(basis) // 4).astype("<f4")
    with open(f"{folder}/heads.safetensors", "wb") as file:
        file.write(len(about).to_bytes(8, "little") + about + values.tobytes())
    return options.model_copy(update={"heads": f"{folder}/heads.safetensors"})


def photo() -> bytes:
    """A JPEG of 320 x 240 pixels of nothing in particular."""
    file = io.BytesIO()
    small = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(small).resize((320, 240), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def main() -> None:
    given: "dict[str, Any]" = dict(argument.split("=", 1) for argument in sys.argv[1:])
    ours = (("seconds", 20), ("clients", 8), ("rounds", 3), ("port", 8000))
    seconds, clients, rounds, port = (int(given.pop(name, default)) for name, default in ours)
    options = Options(**given)
    # Ray writes to both outputs, from several processes; what is said here is JSON alone.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    cpus = options.replicas * options.cpus
    ray.init(num_cpus=cpus, include_dashboard=False, logging_level="error", log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    with tempfile.TemporaryDirectory() as folder:
        if options.heads is None and os.path.isdir(options.bundle):
            options = with_heads(options, folder)
        print(json.dumps(measure(options, f"http://127.0.0.1:{port}", seconds, clients, rounds), indent=2), file=out)
    serve.shutdown()


if __name__ == "__main__":
    main()
