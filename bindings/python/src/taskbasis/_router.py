"""The task chosen by the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Optional, Sequence, Union

import numpy as np

from ._encoder import _rows
from ._basis import Handle
from ._native import call, constants, encoded, ffi, lib, sized, text

if TYPE_CHECKING:
    from ._basis import Basis, Path
    from ._encoder import Encoder, Head, Score
    from ._expression import Expression

_CHOICES = {"task": "TB_CHOICE_TASK", "fallback": "TB_CHOICE_FALLBACK", "none": "TB_CHOICE_NONE"}

__all__ = ["Route", "Router"]


class Route(NamedTuple):
    """What a router says of one image."""

    #: The likeliest task.
    task: str
    #: The probability of that task among the router's tasks.
    probability: float
    #: The same, lowered where the image is further from the task than all that the router was made of.
    confidence: float
    #: "task" where the image is sent to it; below the threshold "fallback", or "none" where nothing answers.
    choice: str


class Router(Handle):
    """What tells the task of an image by the image, over the tasks of `basis`: a file that `taskbasis route` made, or a
    bundle that keeps it.

    Below `threshold` (None: the router's own) the weights `fallback` answer (None: the router's own; "none": nothing)."""

    #: The names of the tasks.
    tasks: "tuple[str, ...]"
    #: e: features are f32 [n, e], embeddings; or of twice the width where they are hidden.
    embedding: int
    #: The confidence below which an image is not sent to its likeliest task.
    threshold: float
    #: The expression of the weights that the features are of.
    features: str
    #: Whether features are hidden ones: the class token before the projection and the mean of the patches.
    hidden: bool
    #: The expression of the weights that answer below the threshold; None where nothing does.
    fallback: Optional[str]

    def __init__(
        self,
        basis: Basis,
        path: Path,
        *,
        threshold: Optional[float] = None,
        fallback: "Union[str, Expression, None]" = None,
    ) -> None:
        options, of = sized("tb_router_options"), encoded(None if fallback is None else str(fallback))
        options.fallback = of
        if threshold is not None:
            # 0 is the router's own for C: what sends every image to its task is the least number above it.
            options.threshold = threshold if threshold != 0 else np.finfo(np.float64).tiny
        out = ffi.new("tb_router **")
        call(lib.tb_router_open, basis._handle, encoded(path), options, out)
        super().__init__(out[0], lib.tb_router_free)
        info = sized("tb_router_properties")
        call(lib.tb_router_info, self._handle, info)
        name, names = ffi.new("char **"), []
        for index in range(info.tasks):
            call(lib.tb_router_task_name, self._handle, index, name)
            names.append(text(name[0]))
        self.tasks, self.embedding, self.threshold = tuple(names), int(info.embedding), float(info.threshold)
        self.features, self.fallback = text(info.features), text(info.fallback) or None
        self.hidden = bool(info.hidden)

    def route(self, features: Any) -> "list[Route]":
        """The tasks of images by their features f32 [n, e]: `encoder(images, router.features)`, or hidden
        features of those weights, [n, 2·width], where `hidden`. Runs nothing."""
        features = _rows(features)
        n, width = features.shape
        routes = ffi.new("tb_route[]", max(n, 1))
        call(lib.tb_router_route, self._handle, ffi.cast("float *", features.ctypes.data), n, width, routes)
        return self._routes(routes, n)

    def __call__(self, encoder: Encoder, images: Any) -> "tuple[Any, list[Route]]":
        """The embeddings f32 [n, e] of images, each with the weights of the task that it looks like, zeros where nothing
        answers; and the routes. Images are as `Encoder` takes them."""
        pixels = encoder._pixels(images)
        out = np.empty((len(pixels), encoder.embedding), np.float32)
        routes = ffi.new("tb_route[]", max(len(pixels), 1))
        source, target = (ffi.cast("float *", array.ctypes.data) for array in (pixels, out))
        call(lib.tb_router_encode, self._handle, encoder._handle, source, len(pixels), target, out.size, routes)
        return out, self._routes(routes, len(pixels))

    def classify(
        self, encoder: Encoder, heads: "Sequence[Head]", images: Any, top: int = 3
    ) -> "list[tuple[Route, list[Score]]]":
        """The route of each image, and the `top` best classes by the head of its task, all where there are fewer; none
        where nothing answers. `heads` has one per task, in the order of `tasks`."""
        if top < 0:
            raise ValueError(f"top is at least 0; got {top}")
        pixels = encoder._pixels(images)
        top = min(top, max((len(head.classes) for head in heads), default=0))
        handles = ffi.new("tb_head *[]", [head._handle for head in heads] or [ffi.NULL])
        n, source = len(pixels), ffi.cast("float *", pixels.ctypes.data)
        routes, scores = ffi.new("tb_route[]", max(n, 1)), ffi.new("tb_score[]", max(n * top, 1))
        best = scores if top else ffi.NULL
        call(
            lib.tb_router_classify, self._handle, encoder._handle, handles, len(heads), source, n, routes, best, top
        )
        found = []
        for i, route in enumerate(self._routes(routes, n)):
            head = heads[routes[i].task]
            rows = [scores[i * top + k] for k in range(min(top, len(head.classes)))]
            found.append((route, [head._score(s) for s in rows if s.class_index < len(head.classes)]))
        return found

    def _routes(self, routes: Any, n: int) -> "list[Route]":
        names = {constants[constant]: name for name, constant in _CHOICES.items()}
        return [
            Route(self.tasks[r.task], float(r.probability), float(r.confidence), names[int(r.choice)])
            for r in (routes[i] for i in range(n))
        ]
