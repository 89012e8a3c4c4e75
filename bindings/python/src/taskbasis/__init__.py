"""Many fine-tuned CLIP tasks from one compressed basis, switched in milliseconds.

    basis = taskbasis.open("ViT-B-32_AE_M4_8task", base="zeroshot.pt")
    encoder = taskbasis.Encoder(basis)
    embeds = encoder(["a.png"], 0.3 * basis["MNIST"] + 0.3 * basis["SVHN"])   # f32 [1, e]

Everything is safe to use from several threads; the interpreter's lock is released while the library works. After `fork`
the child opens its own: what was made before says so in a RuntimeError when it is used (views of tensors can still be
read). One interpreter of a process can import NumPy, and so this package: another gets an ImportError from NumPy (from old
versions a warning, and no promise).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _native
from ._basis import Basis, Tensors, Weights
from ._encoder import Encoder, Head, Score
from ._errors import (
    CancelledError,
    FormatError,
    InvalidArgumentError,
    IoError,
    MismatchError,
    NotFoundError,
    NotRecoverableError,
    OnnxRuntimeError,
    OutOfMemoryError,
    RuntimeMissingError,
    TaskbasisError,
    UnsupportedError,
)
from ._expression import Expression
from ._program import run
from ._router import Route, Router

if TYPE_CHECKING:
    from ._basis import Path
    from ._program import Progress

__version__: str = _native.text(_native.lib.tb_version_string())
__all__ = [
    "Basis",
    "CancelledError",
    "Encoder",
    "Expression",
    "FormatError",
    "Head",
    "InvalidArgumentError",
    "IoError",
    "MismatchError",
    "NotFoundError",
    "NotRecoverableError",
    "OnnxRuntimeError",
    "OutOfMemoryError",
    "Route",
    "Router",
    "RuntimeMissingError",
    "Score",
    "TaskbasisError",
    "Tensors",
    "UnsupportedError",
    "Weights",
    "bench",
    "build",
    "classify",
    "library",
    "open",
    "pack",
    "run",
    "verify",
]


def __dir__() -> "list[str]":
    return sorted([*__all__, "__all__", "__doc__", "__name__", "__version__"])


def open(path: "Path | None", base: "Path | None" = None, **options: Any) -> Basis:
    """Opens a basis (a folder as published, or a bundle) over its base.

    `base` is the zero-shot checkpoint, a file or a folder with one; a bundle may hold it. `path` may be None: a base alone. Options: `read` (copy into
    memory instead of mapping), `threads` (as many as there are processors, or 64, at most), `cache_bytes`, `share_cache`
    (another basis), `base_prefix` (of several image towers in the base's file, what the names of the one, or of its model, begin with),
    `image_size` (the side of the images in pixels, for which the tables of positions are resized). Raises IoError, FormatError,
    MismatchError, with file and tensor in the text.
    """
    return Basis(path, base, **options)


def library() -> "dict[str, Any]":
    """What computes here: the kernel that reconstructs, threads, the ONNX Runtime that is found (`onnxruntime_path` and
    `onnxruntime_version`, or `onnxruntime_error`: why none is), the providers."""
    info = _native.sized("tb_library_properties")
    _native.call(_native.lib.tb_library_info, _native.encoded(_native.onnxruntime()), info)
    return _native.fields(info)


def classify(
    encoder: Encoder, head: Head, images: Any, weights: "Weights | str | Expression", top: "int | None" = None
) -> "list[list[Score]]":
    """The `top` best classes of each image, the best first; as `Head.classify()`."""
    return head.classify(encoder(images, weights), top)


def pack(*, progress: Progress = False, **options: Any) -> "dict[str, Any]":
    """Makes a bundle, as `taskbasis pack` does: `pack(basis=P, base=B, format="q4", output="m.taskbasis")`. `progress`
    as in `run()`."""
    return run("pack", progress=progress, **options)


def verify(path: Path, *, progress: Progress = False) -> "dict[str, Any]":
    """Checks everything in a bundle, basis folder, checkpoint, graph or file of heads, as `taskbasis verify` does.
    Raises TaskbasisError, naming what is wrong."""
    return run("verify", path, progress=progress)


def build(*, progress: Progress = False, **options: Any) -> "dict[str, Any]":
    """Makes a basis of fine-tuned checkpoints, as `taskbasis build` does: `build(base=B, tasks_dir="finetuned/",
    vectors="auto", output="basis")`."""
    return run("build", progress=progress, **options)


def bench(*, progress: Progress = False, **options: Any) -> "dict[str, Any]":
    """Measures, as `taskbasis bench` does: `bench(basis=P, base=B, quick=True)`; docs/performance.md tells the keys."""
    return run("bench", progress=progress, **options)
