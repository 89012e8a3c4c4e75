"""The C library, its declarations taken from its own header."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import Any, Callable, Optional

import cffi

from ._errors import RuntimeMissingError, error_of

__all__ = ["call", "constants", "encoded", "ffi", "fields", "lib", "onnxruntime", "program", "sized", "text"]

_FOLDER = Path(__file__).resolve().parent / "native"
_NAMES = {"darwin": "libtaskbasis.dylib", "win32": "taskbasis.dll"}


def _declarations(header: str) -> tuple[str, dict[str, int]]:
    """What cffi can read of the header, and the constants that it defines."""
    constants = {name: int(value) for name, value in re.findall(r"^#define (TB_\w+) (\d+)$", header, re.MULTILINE)}
    header = re.sub(r"^#ifdef __cplusplus\n.*?^#endif.*?$", "", header, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^#.*$", "", header, flags=re.MULTILINE), constants


ffi = cffi.FFI()
_text, constants = _declarations((_FOLDER / "taskbasis.h").read_text(encoding="utf-8"))
ffi.cdef(_text)
lib: Any = ffi.dlopen(str(_FOLDER / _NAMES.get(sys.platform, "libtaskbasis.so")))

#: Where the program is.
program: Path = _FOLDER / ("taskbasis.exe" if sys.platform == "win32" else "taskbasis")


def call(function: Callable[..., int], *arguments: Any) -> None:
    """Calls a function that returns a status; raises what it reports. Other threads run meanwhile."""
    error = ffi.new("tb_error **")
    if function(*arguments, error) != 0:
        raise error_of(
            lib.tb_error_status(error[0]), text(lib.tb_error_message(error[0])), lambda: lib.tb_error_free(error[0])
        )


def text(pointer: Any) -> str:
    """A text of the library's; empty for NULL."""
    return "" if pointer == ffi.NULL else ffi.string(pointer).decode("utf-8")


def encoded(value: "Optional[str | os.PathLike[str]]") -> Any:
    """A text or a path as C takes it; NULL for None. Raises ValueError for a NUL, at which C's texts end."""
    if value is None:
        return ffi.NULL
    text = os.fspath(value).encode("utf-8", "surrogateescape")
    if b"\0" in text:
        raise ValueError(f"a text has a NUL in it: {text[:200]!r}")
    return ffi.new("char[]", text)


def sized(struct: str) -> Any:
    """A struct of zeros that knows its size."""
    value = ffi.new(struct + " *")
    value.struct_size = ffi.sizeof(struct)
    return value


def fields(struct: Any) -> "dict[str, Any]":
    """What an info struct tells, without its size."""
    values = ((name, getattr(struct, name)) for name, _ in ffi.typeof(struct).item.fields if name != "struct_size")
    return {name: _plain(value) for name, value in values}


def _plain(value: Any) -> Any:
    if not isinstance(value, ffi.CData):
        return value if isinstance(value, float) else int(value)
    return list(value) if ffi.typeof(value).kind == "array" else text(value)


def onnxruntime() -> Optional[str]:
    """The folder of the libraries of an installed ONNX Runtime, of which the newest is taken; None where there is
    none, or the environment names one."""
    if os.environ.get("ORT_DYLIB_PATH"):
        return None
    found = importlib.util.find_spec("onnxruntime")
    for folder in (found.submodule_search_locations or []) if found else []:
        capi = Path(folder) / "capi"
        for pattern in ("libonnxruntime.so*", "libonnxruntime*.dylib", "onnxruntime.dll"):
            if any(capi.glob(pattern)):
                return str(capi)
    return None


_CHOSEN = (
    "The path given is that of the installed package onnxruntime, which this package chose; "
    "onnxruntime_library or ORT_DYLIB_PATH names another one"
)
# The library does not depend on Python, so that of another one's wheel serves.
_NONE_FOR_THIS_PYTHON = (
    f"The package onnxruntime had no release for Python {sys.version_info[0]}.{sys.version_info[1]} that is new enough "
    "(1.24) when this package was made; `pip install 'onnxruntime>=1.24'` tells whether it has one now. Its library does "
    "not depend on Python: take another one's wheel, `pip download --no-deps --only-binary=:all: --python-version 3.11 "
    "'onnxruntime>=1.24'`, unpack it (it is a zip archive), and set ORT_DYLIB_PATH to the folder onnxruntime/capi in it"
)


def _onnxruntime_comes_with_us() -> bool:
    """Whether pyproject.toml has this Python among those that the package onnxruntime is asked for."""
    return (3, 11) <= sys.version_info[:2] < (3, 15)


def call_with_runtime(given: Any, function: Callable[..., int], *arguments: Any) -> None:
    """As call(), of a function that loads ONNX Runtime; where none is usable, the error says who chose the path.

    `given`: what the caller named; None where onnxruntime() chose."""
    try:
        call(function, *arguments)
    except RuntimeMissingError as error:
        if given or os.environ.get("ORT_DYLIB_PATH"):
            raise
        hints = [_CHOSEN] if onnxruntime() else []
        hints += [] if _onnxruntime_comes_with_us() else [_NONE_FOR_THIS_PYTHON]
        if not hints:
            raise
        raise RuntimeMissingError(". ".join([str(error), *hints])) from None
