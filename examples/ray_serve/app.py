"""Many tasks behind one address: Ray Serve replicas that map the same basis, each request sent where its task is warm.

    pip install ./bindings/python -r examples/ray_serve/requirements.txt
    serve run examples.ray_serve.app:app bundle=model.taskbasis
    curl --data-binary @digit.png 'http://127.0.0.1:8000/classify?task=MNIST'
    curl -F image=@digit.png 'http://127.0.0.1:8000/classify?task=MNIST&weights=MNIST@0.8%20%2B%20Parity@0.2'

`Front` reads requests and finds out which weights they ask for; `Encoder` runs images with them. docs/scaling.md tells
how this goes to many machines, and what was measured.
"""

import asyncio
from typing import Any, Optional

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request
from pydantic import BaseModel
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

import taskbasis
from examples.ray_serve.upload import BadImage, decoded, image_of

#: Images in one run at most; what one replica has taken on at most.
BATCH, ONGOING = 32, 64
#: What the failures of the library are over HTTP; any other is the server's: 500.
STATUSES = {
    taskbasis.NotFoundError: 404,
    taskbasis.InvalidArgumentError: 400,
    taskbasis.NotRecoverableError: 422,
    taskbasis.OutOfMemoryError: 503,
    taskbasis.CancelledError: 503,
}
api = FastAPI(title="taskbasis")


class Options(BaseModel, extra="forbid"):
    """What `serve run examples.ray_serve.app:app NAME=VALUE …` takes."""

    #: The basis folder or the bundle; for a folder the base checkpoint, and the tasks' heads and class names.
    bundle: str
    base: Optional[str] = None
    heads: Optional[str] = None
    classes: Optional[str] = None
    #: Replicas of the encoder, and processors for each.
    replicas: int = 2
    cpus: int = 1
    #: MiB of weights and promoted sessions that each replica keeps.
    budget: int = 2048
    #: Whether tasks that run often get sessions of their own: "auto" or "off".
    promotion: str = "auto"
    #: Milliseconds for which an image waits for others of its task where nothing is running.
    wait: float = 2


@serve.deployment(
    max_ongoing_requests=ONGOING,
    health_check_period_s=10,
    graceful_shutdown_wait_loop_s=1,
    graceful_shutdown_timeout_s=60,
)
class Encoder:
    """A replica: the basis mapped (all replicas of a machine share the page cache), weights within its budget."""

    def __init__(self, options: Options) -> None:
        budget = options.budget << 20
        self.basis = taskbasis.open(options.bundle, options.base, threads=options.cpus, cache_bytes=budget)
        self.encoder = taskbasis.Encoder(self.basis, threads=options.cpus, promotion=options.promotion)
        self.replica = serve.get_replica_context().replica_id.unique_id
        # A promoted task takes the room of its weights twice: a session is beside them.
        task = 4 * self.basis.info()["image_tower_parameters"] * (1 if options.promotion == "off" else 2)

        # As many as fit the budget: what Serve believes to be warm here then is what the library's own cache keeps.
        @serve.multiplexed(max_num_models_per_replica=max(1, budget // task))
        async def warm(expression: str) -> taskbasis.Weights:
            return await asyncio.to_thread(self.basis.weights(expression).prepare)

        self.warm = warm
        self.last: Optional[taskbasis.Weights] = None
        self.runs, self.free = 0, asyncio.Event()
        self.free.set()
        self.run.set_batch_wait_timeout_s(options.wait / 1000)

    async def __call__(self, image: bytes) -> "tuple[Any, dict[str, Any]]":
        """The embedding f32 [1, e] of an image file with the weights whose task expression is the request's model id,
        and by whom, how and with how many others it was computed. Raises BadImage and what taskbasis raises."""
        pixels = await asyncio.to_thread(self.pixels, image)
        was_ready = self.basis.weights(serve.get_multiplexed_model_id()).ready
        weights = await self.warm(serve.get_multiplexed_model_id())
        # Serve closes a batch after its time even where none can run yet. Waiting here lets all that comes during a run
        # become one batch after it.
        await self.free.wait()
        embedding, together = await self.run(weights, pixels)
        return embedding, {"replica": self.replica, "batch": together, "warm": was_ready}

    @serve.batch(max_batch_size=BATCH)
    async def run(self, weights: "list[taskbasis.Weights]", pixels: "list[Any]") -> "list[tuple[Any, int]]":
        """Images of one task in one run. Serve splits batches by model id; with another it would be wrong, not slow."""
        if len({each.expression for each in weights}) != 1:
            raise RuntimeError("a batch of several tasks: Ray 2.54 or newer is needed")
        self.runs += 1
        self.free.clear()
        try:
            embeds = await asyncio.to_thread(self.encoder, np.concatenate(pixels), weights[0])
        finally:
            self.runs -= 1
            if self.runs == 0:
                self.free.set()
        self.last = weights[0]
        return [(embeds[i : i + 1], len(pixels)) for i in range(len(pixels))]

    def pixels(self, image: bytes) -> Any:
        """An image file as the encoder takes it: f32 [1, 3, S, S]."""
        return self.encoder.preprocess(decoded(image))

    async def check_health(self) -> None:
        """Runs an image with the weights that were used last. A replica that cannot is replaced."""
        if self.last is not None and self.last.ready:
            size = self.encoder.image_size
            await asyncio.to_thread(self.encoder, np.zeros((1, 3, size, size), np.float32), self.last)


@serve.deployment(max_ongoing_requests=1000, graceful_shutdown_wait_loop_s=1, graceful_shutdown_timeout_s=60)
@serve.ingress(api)
class Front:
    """HTTP: which weights, which head, and what is wrong. It opens the basis for its names, and reads no vectors."""

    def __init__(self, options: Options, encoder: DeploymentHandle) -> None:
        self.basis, self.encoder = taskbasis.open(options.bundle, options.base), encoder
        self.heads_in, self.classes = options.heads or options.bundle, options.classes
        self.heads: "dict[str, taskbasis.Head]" = {}

    @api.get("/tasks")
    async def tasks(self) -> "list[str]":
        return list(self.basis.tasks)

    @api.post("/classify")
    async def classify(
        self, request: Request, task: str, weights: Optional[str] = None, top: int = Query(3, ge=1)
    ) -> "dict[str, Any]":
        """The `top` best classes of an image: the body, or the file `image` of a form. `task` says whose head,
        `weights` which weights as a task expression, the task's own by default."""
        try:
            # The usual spelling, so that all who mean the same weights get the same ones.
            named = self.basis.weights(self.basis[task] if weights is None else weights).expression
            if task not in self.heads:
                self.heads[task] = taskbasis.Head(self.heads_in, task, self.classes)
        except taskbasis.TaskbasisError as e:
            raise self.failure(e) from None
        embedding, served = await self.encode(named, await image_of(request))
        best = [
            {"class": s.name, "index": s.class_index, "probability": s.probability, "logit": s.logit}
            for s in self.heads[task].classify(embedding, min(top, len(self.heads[task].classes)))[0]
        ]
        return {"task": task, "weights": named, "top": best, "served": served}

    async def encode(self, named: str, image: bytes) -> "tuple[Any, dict[str, Any]]":
        try:
            return await self.encoder.options(multiplexed_model_id=named).remote(image)
        except RayTaskError as e:
            raise self.failure(e.cause) from None
        except (RayActorError, BackPressureError, DeploymentUnavailableError) as e:
            # Nothing was changed by it, so the client may ask again.
            raise HTTPException(503, {"error": f"the replica is gone: {e}"}, {"Retry-After": "1"}) from None

    def failure(self, e: BaseException) -> HTTPException:
        status = 400 if isinstance(e, BadImage) else STATUSES.get(type(e), 500)
        known = {"tasks": list(self.basis.tasks)} if status == 404 else {}
        return HTTPException(status, {"error": str(e), **known}, {"Retry-After": "1"} if status == 503 else None)


def app(options: Options) -> serve.Application:
    """What `serve run` starts."""
    encoder = Encoder.options(num_replicas=options.replicas, ray_actor_options={"num_cpus": options.cpus})
    front = Front.options(ray_actor_options={"num_cpus": 0})
    return front.bind(options, encoder.bind(options))
