"""What goes wrong, as exceptions."""

from __future__ import annotations

from typing import Callable

__all__ = [
    "CancelledError",
    "FormatError",
    "InvalidArgumentError",
    "IoError",
    "MismatchError",
    "NotFoundError",
    "NotRecoverableError",
    "OnnxRuntimeError",
    "OutOfMemoryError",
    "RuntimeMissingError",
    "TaskbasisError",
    "UnsupportedError",
    "error_of",
]


class TaskbasisError(Exception):
    """A failure that the library reports: `status` is its number, `name` its stable name, the text the full story."""

    status: int = 99
    name: str = "internal"

    def __init__(self, message: str) -> None:
        super().__init__(message)


class InvalidArgumentError(TaskbasisError, ValueError):
    """An argument is out of its range or contradicts another."""

    status, name = 1, "invalid_argument"


class IoError(TaskbasisError, OSError):
    """A file could not be found, opened, read or written."""

    status, name = 2, "io"


class FormatError(TaskbasisError):
    """A file is not in the format it should be in."""

    status, name = 3, "format"


class NotFoundError(TaskbasisError, LookupError):
    """A name is not known: a task, a tensor, a class."""

    status, name = 4, "not_found"


class MismatchError(TaskbasisError):
    """Two valid things do not belong together: a basis and the base of another model."""

    status, name = 5, "mismatch"


class UnsupportedError(TaskbasisError, NotImplementedError):
    """Valid, but not something that this build or this method can do."""

    status, name = 6, "unsupported"


class NotRecoverableError(TaskbasisError):
    """A task's vector cannot be recovered from this basis."""

    status, name = 7, "not_recoverable"


class RuntimeMissingError(TaskbasisError, ImportError):
    """ONNX Runtime is missing, unusable or too old."""

    status, name = 8, "runtime_missing"


class OnnxRuntimeError(TaskbasisError, RuntimeError):
    """ONNX Runtime reported a failure."""

    status, name = 9, "runtime"


class OutOfMemoryError(TaskbasisError, MemoryError):
    """An allocation that the work needs was refused."""

    status, name = 10, "out_of_memory"


class CancelledError(TaskbasisError):
    """The work was called off before it was done."""

    status, name = 12, "cancelled"


_KINDS: dict[int, type[TaskbasisError]] = {kind.status: kind for kind in TaskbasisError.__subclasses__()}


def error_of(status: int, message: str, free: Callable[[], None]) -> TaskbasisError:
    """The exception of a status; `free` releases what the message was read from."""
    free()
    return _KINDS.get(int(status), TaskbasisError)(message)
