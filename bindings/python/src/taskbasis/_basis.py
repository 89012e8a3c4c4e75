"""Bases and the weights that they give."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Optional, Union

import numpy as np

from ._expression import Expression
from ._native import call, encoded, ffi, fields, lib, sized, text

__all__ = ["Basis", "Handle", "Named", "Path", "Tensors", "Weights"]

Path = Union[str, "os.PathLike[str]"]
#: What names weights: a task expression, as text or as arithmetic of tasks.
Named = Union[str, Expression]


class Handle:
    """Something that the library holds for us. Usable from any thread, in the process that made it; closed once, by
    `close()`, by `with`, or with the last reference. What others made of it stays usable."""

    def __init__(self, pointer: Any, free: Any) -> None:
        made_in = self._made_in = os.getpid()

        # A child of fork() has none of the threads that freeing would wait for.
        def free_here(pointer: Any, getpid: Any = os.getpid) -> None:
            if getpid() == made_in:
                free(pointer)

        self._pointer = ffi.gc(pointer, free_here)

    @property
    def _handle(self) -> Any:
        if self._pointer is None:
            raise ValueError(f"this {type(self).__name__} is closed")
        if os.getpid() != self._made_in:
            raise RuntimeError(f"this {type(self).__name__} was made before fork(): make one in the child, or spawn")
        return self._pointer

    def __reduce__(self) -> Any:
        raise TypeError(f"a {type(self).__name__} cannot be pickled: open the files in each process")

    def close(self) -> None:
        """Frees it now. No other thread may be using it."""
        if self._pointer is not None:
            ffi.release(self._pointer)
            self._pointer = None

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class Basis(Handle):
    """M basis vectors over a base, and the T tasks that they give back. Made by `taskbasis.open()`."""

    #: T names, in the order of the columns of `coefficients`.
    tasks: "tuple[str, ...]"
    #: M.
    vectors: int
    #: How the basis was made: `Autoencoder`, `PCA`, `Random`, `RandomSample`, or `none` for a base alone.
    method: str

    def __init__(
        self,
        path: Optional[Path],
        base: Optional[Path] = None,
        *,
        read: bool = False,
        threads: int = 0,
        cache_bytes: int = 0,
        share_cache: "Optional[Basis]" = None,
        base_prefix: Optional[str] = None,
        image_size: int = 0,
    ) -> None:
        options, base_text, out = sized("tb_basis_options"), encoded(base), ffi.new("tb_basis **")
        options.base, options.read, options.threads = base_text, read, threads
        options.cache_bytes = cache_bytes
        prefix_text = encoded(base_prefix)
        options.base_prefix = prefix_text
        options.image_size = image_size
        options.share_cache = ffi.NULL if share_cache is None else share_cache._handle
        call(lib.tb_basis_open, encoded(path), options, out)
        super().__init__(out[0], lib.tb_basis_free)
        self._token = object()  # what expressions hold instead of the basis, which they must not keep open
        info = self.info()
        self.method, self.vectors = info["method"], info["vectors"]
        names, name = [], ffi.new("char **")
        for index in range(info["tasks"]):
            call(lib.tb_basis_task_name, self._handle, index, name)
            names.append(text(name[0]))
        self.tasks = tuple(names)

    def info(self) -> "dict[str, Any]":
        """What the basis is, in numbers: `method`, `tasks` (T), `vectors` (M), `has_mean`, `parameters` and
        `image_tower_parameters` (times four are the bytes of a task's weights), `file_bytes`. Reads no files."""
        info = sized("tb_basis_properties")
        call(lib.tb_basis_info, self._handle, info)
        return fields(info)

    @property
    def coefficients(self) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """The recovery table, f64 [M, T]: what multiplies vector m for task t. NaN for a task that cannot be recovered."""
        table = np.empty((self.vectors, len(self.tasks)))
        pointer = ffi.cast("double *", table.ctypes.data)
        call(lib.tb_basis_coefficients, self._handle, pointer, table.size, ffi.NULL)
        return table

    def __getitem__(self, task: str) -> Expression:
        """The task as an expression that can be scaled and added to others of this basis: `0.3 * basis["MNIST"]`. It names
        weights, and `weights()` gives them."""
        call(lib.tb_basis_task_index, self._handle, encoded(task), ffi.new("size_t *"))
        return Expression(Expression.task(task).terms, self._token)

    def __contains__(self, task: object) -> bool:
        return task in self.tasks

    def __iter__(self) -> "Iterator[str]":
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def weights(self, expression: Named) -> "Weights":
        """Names weights: `"MNIST@0.3 + SVHN@0.3"`, or arithmetic of tasks. Nothing is computed yet.

        Raises NotFoundError for an unknown task, InvalidArgumentError for a text that is no expression.
        """
        if not isinstance(expression, (str, Expression)):
            raise TypeError(f"weights are named by a str or an Expression, not by {type(expression).__name__}")
        out = ffi.new("tb_weights **")
        call(lib.tb_weights_create, self._handle, encoded(str(expression)), out)
        return Weights(out[0])

    def dot(self, a: Named, b: Named) -> float:
        """The dot product of what two expressions add to the base, over all parameters. The first call on a basis reads
        all of its vectors; those after it cost nothing that a person would notice."""
        return self._product(lib.tb_basis_dot, a, b)

    def norm(self, a: Named) -> float:
        """The length of what an expression adds to the base."""
        return self._product(lib.tb_basis_norm, a)

    def cosine(self, a: Named, b: Named) -> float:
        """The cosine of the angle between what two expressions add to the base, from -1 to 1.

        Raises InvalidArgumentError where one of them adds nothing, as `"base"` does.
        """
        return self._product(lib.tb_basis_cosine, a, b)

    def _product(self, function: "Callable[..., int]", *expressions: Named) -> float:
        out = ffi.new("double *")
        call(function, self._handle, *(encoded(str(expression)) for expression in expressions), out)
        return float(out[0])

    def groups(self, grouping: str) -> "tuple[str, ...]":
        """The groups of parameters of a ready grouping, as expressions spell them: `"whole"` (all in one), `"kind"` (stem,
        attn, mlp, norm, proj), `"block"`, `"layer"` (a weight and its bias) or `"parameter"`."""
        count, needed, name = ffi.new("size_t *"), ffi.new("size_t *"), encoded(grouping)
        call(lib.tb_basis_group_count, self._handle, name, count)
        groups = []
        for index in range(count[0]):
            lib.tb_basis_group(self._handle, name, index, ffi.NULL, 0, needed, ffi.NULL)
            out = ffi.new("char[]", needed[0])
            call(lib.tb_basis_group, self._handle, name, index, out, needed[0], needed)
            groups.append(text(out))
        return tuple(groups)

    def combine(self, coefficients: Any, mean: Any = 0.0, groups: "Union[str, Sequence[str], None]" = None) -> "Weights":
        """Names the weights base + Σ coefficients[m]·(vector m) + mean·(PCA's mean): `coefficients` are M finite
        numbers, as `Weights.coefficients` gives them.

        With `groups`, a row of them for each group of parameters, [groups, M], and one mean or one per group: groups as
        expressions spell them (`["blocks.0-5.attn", "*"]`), or the name of a ready grouping (`groups()`).
        Raises InvalidArgumentError."""
        if groups is not None:
            return self._combine_grouped(coefficients, mean, groups)
        values = np.ascontiguousarray(coefficients, np.float64).ravel()
        source, out = ffi.cast("double *", values.ctypes.data), ffi.new("tb_weights **")
        call(lib.tb_weights_create_from_coefficients, self._handle, source, values.size, mean, out)
        return Weights(out[0])

    def _combine_grouped(self, coefficients: Any, mean: Any, groups: "Union[str, Sequence[str]]") -> "Weights":
        names = self.groups(groups) if isinstance(groups, str) else tuple(groups)
        rows = np.ascontiguousarray(coefficients, np.float64)
        if rows.ndim != 2 or rows.shape[0] != len(names):
            raise ValueError(f"coefficients: expected [{len(names)} groups, {self.vectors}], got {list(rows.shape)}")
        means = np.ascontiguousarray(np.broadcast_to(np.asarray(mean, np.float64), (len(names),)))
        texts = [encoded(name) for name in names]
        array, out = ffi.new("char *[]", texts), ffi.new("tb_weights **")
        source, of_mean = ffi.cast("double *", rows.ctypes.data), ffi.cast("double *", means.ctypes.data)
        shape = (len(names), source, rows.shape[1])
        call(lib.tb_weights_create_grouped, self._handle, array, *shape, of_mean, out)
        return Weights(out[0])

    def verify(self) -> None:
        """Reads everything and checks it; raises FormatError or MismatchError, naming file and tensor."""
        call(lib.tb_basis_verify, self._handle)

    @property
    def cache(self) -> "dict[str, int]":
        """What the cache of weights holds and how it has done: hits, misses, bytes, budget, …"""
        stats = sized("tb_cache_statistics")
        call(lib.tb_cache_stats, self._handle, stats)
        return fields(stats)

    def set_cache_budget(self, bytes: int) -> None:
        """Sets how many bytes of weights and promoted sessions are kept; 0 keeps nothing."""
        call(lib.tb_cache_set_budget, self._handle, bytes)

    def trim_cache(self, bytes: int = 0) -> None:
        """Drops the least recently used until at most `bytes` are kept."""
        call(lib.tb_cache_trim, self._handle, bytes)

    def __repr__(self) -> str:
        return f"Basis({self.method}, M = {self.vectors}, T = {len(self.tasks)})"


class Weights(Handle):
    """The weights of a task expression; they never change. Reconstructed when first needed, kept in the basis's cache.
    Made by `Basis.weights()` and `Basis.combine()`."""

    def __init__(self, pointer: Any) -> None:
        super().__init__(pointer, lib.tb_weights_free)

    @property
    def expression(self) -> str:
        """The task expression in its usual spelling."""
        return text(lib.tb_weights_expression(self._handle))

    @property
    def coefficients(self) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """What multiplies the basis vectors, f64 [M]."""
        return self._coefficients()[0]

    @property
    def mean(self) -> float:
        """What multiplies PCA's mean vector; 0 where there is none."""
        return self._coefficients()[1]

    def _coefficients(self) -> "tuple[Any, float]":
        needed, mean = ffi.new("size_t *"), ffi.new("double *")
        lib.tb_weights_coefficients(self._handle, ffi.NULL, 0, needed, ffi.NULL, ffi.NULL)
        values = np.empty(needed[0])
        pointer = ffi.cast("double *", values.ctypes.data)
        call(lib.tb_weights_coefficients, self._handle, pointer, values.size, needed, mean)
        return values, float(mean[0])

    def coefficients_of(self, parameter: str) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """What multiplies the basis vectors for one parameter, f64 [M]: where an expression has groups, they differ."""
        needed, name = ffi.new("size_t *"), encoded(parameter)
        lib.tb_weights_coefficients_of(self._handle, name, ffi.NULL, 0, needed, ffi.NULL, ffi.NULL)
        values = np.empty(needed[0])
        pointer = ffi.cast("double *", values.ctypes.data)
        call(lib.tb_weights_coefficients_of, self._handle, name, pointer, values.size, needed, ffi.NULL)
        return values

    def prepare(self) -> "Weights":
        """Reconstructs now, unless they are ready."""
        call(lib.tb_weights_prepare, self._handle)
        return self

    def prefetch(self) -> None:
        """Starts reconstructing in the background."""
        call(lib.tb_weights_prefetch, self._handle)

    def cancel_prefetch(self) -> bool:
        """Stops what `prefetch()` started, unless a call waits for it; whether anything was stopped."""
        stopped = ffi.new("int32_t *")
        call(lib.tb_weights_cancel_prefetch, self._handle, stopped)
        return bool(stopped[0])

    @property
    def ready(self) -> bool:
        """Whether they are reconstructed and still kept."""
        ready = ffi.new("int32_t *")
        call(lib.tb_weights_is_ready, self._handle, ready)
        return bool(ready[0])

    def tensors(self) -> "Tensors":
        """All tensors by their canonical names (`visual.proj`), as read-only views. Reconstructs; the weights then stay in
        memory as long as the mapping or any view of it lives."""
        return Tensors(self)

    def __getitem__(self, name: str) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """One tensor as a read-only NumPy view without a copy, f32. Raises NotFoundError."""
        return self.tensors()[name]

    def state_dict(self, prefix: str = "") -> "dict[str, Any]":
        """PyTorch tensors that share the memory of the weights, named as in open_clip's `model.visual` (without
        `visual.`). They must not be written to: copy them first (`load_state_dict` does)."""
        import warnings

        import torch

        with warnings.catch_warnings():
            # PyTorch knows no read-only tensors, and says so for every array of that kind.
            warnings.simplefilter("ignore", UserWarning)
            return {
                prefix + (name[7:] if name.startswith("visual.") else name): torch.from_numpy(values)
                for name, values in self.tensors().items()
            }

    def __repr__(self) -> str:
        return f"Weights({self.expression!r})"


class Tensors(Mapping):  # type: ignore[type-arg]
    """The tensors of some weights; the views keep what they show alive."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        count = ffi.new("size_t *")
        call(lib.tb_weights_tensor_count, weights._handle, count)
        self._count = int(count[0])
        self._names: Optional[list[str]] = None

    def __getitem__(self, name: str) -> "np.ndarray[Any, np.dtype[np.float32]]":
        tensor = sized("tb_tensor")
        call(lib.tb_weights_tensor, self._weights._handle, encoded(name), tensor)
        return np.asarray(_View(self._weights._handle, tensor))

    def __iter__(self) -> "Iterator[str]":
        if self._names is None:
            tensor, names = sized("tb_tensor"), []
            for index in range(self._count):
                call(lib.tb_weights_tensor_at, self._weights._handle, index, tensor)
                names.append(text(tensor.name))
            self._names = names
        return iter(self._names)

    def __len__(self) -> int:
        return self._count


class _View:
    """What NumPy needs to look at a tensor; holds the C handle, so that the memory stays."""

    def __init__(self, handle: Any, tensor: Any) -> None:
        self._handle = handle
        self.__array_interface__ = {
            "version": 3,
            "typestr": "<f4",
            "shape": tuple(tensor.shape[i] for i in range(tensor.rank)),
            # Read-only: weights never change.
            "data": (int(ffi.cast("uintptr_t", tensor.data)), True),
        }
