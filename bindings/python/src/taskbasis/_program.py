"""What the program does, with its JSON as a dict."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from typing import Any, Callable, Union

from ._errors import TaskbasisError
from ._native import onnxruntime, program

__all__ = ["Progress", "environment", "run"]

#: Who is told how far long work is: a function of what is done, how much of it, and of how much; True for a bar of tqdm.
Progress = Union[bool, Callable[[str, int, int], None]]


def environment() -> "dict[str, str]":
    """The environment in which the program finds the ONNX Runtime that an installed package holds."""
    library = onnxruntime()
    return {**os.environ, **({"ORT_DYLIB_PATH": library} if library else {})}


def run(command: str, *arguments: Any, progress: Progress = False, **options: Any) -> "dict[str, Any]":
    """Runs `taskbasis COMMAND --json` in a process of its own and gives its result.

    `run("pack", basis=P, base=B, format="q4", output="m.taskbasis")`: options become `--basis P …`; True a bare flag;
    lists repeat. `progress(what, done, total)` is called some ten times per second, on this thread; what it raises ends
    the program. `progress=True` shows a bar of tqdm. Raises TaskbasisError with the program's message.
    """
    line = [str(program), command, "--json", *map(os.fspath, map(str, arguments))]
    for name, value in options.items():
        for each in value if isinstance(value, (list, tuple)) else [value]:
            if each is True:
                line.append("--" + name.replace("_", "-"))
            elif each is not None and each is not False:
                line.append(f"--{name.replace('_', '-')}={each}")
    if progress:
        line.append("--progress")
    tell = _Bar() if progress is True else progress or None
    # A file, not a pipe: the result need not be read while progress is read.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as result:
        working = subprocess.Popen(line, env=environment(), stdout=result, stderr=subprocess.PIPE, encoding="utf-8")
        try:
            said = [] if working.stderr is None else [text for text in working.stderr if not _is_progress(text, tell)]
            status = working.wait()
        except BaseException:
            working.kill()
            raise
        finally:
            working.communicate()
            if isinstance(tell, _Bar):
                tell.close()
        if status != 0:
            raise TaskbasisError("".join(said).strip() or f"taskbasis {command} ended with {status}")
        result.seek(0)
        return json.load(result)  # type: ignore[no-any-return]


def _is_progress(line: str, tell: "Callable[[str, int, int], None] | None") -> bool:
    if tell is None or not line.startswith('{"progress"'):
        return False
    told = json.loads(line)
    tell(told["progress"], told["done"], told["total"])
    return True


class _Bar:
    """A bar of tqdm for each thing that is done."""

    def __init__(self) -> None:
        from tqdm.auto import tqdm

        self._new, self._what = tqdm, ""
        self._bar: Any = None

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._bar is None or what != self._what:
            self.close()
            self._bar, self._what = self._new(total=total, desc=what, unit_scale=True), what
        self._bar.update(max(done - self._bar.n, 0))

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
