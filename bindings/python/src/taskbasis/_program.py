"""What the program does, with its JSON as a dict."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from ._errors import TaskbasisError
from ._native import onnxruntime, program


def environment() -> "dict[str, str]":
    """The environment in which the program finds the ONNX Runtime that an installed package holds."""
    library = onnxruntime()
    return {**os.environ, **({"ORT_DYLIB_PATH": library} if library else {})}


def run(command: str, *arguments: Any, **options: Any) -> "dict[str, Any]":
    """Runs `taskbasis COMMAND --json` and gives its result.

    `run("pack", basis=P, base=B, format="q4", output="m.taskbasis")`: options become `--basis P …`; True a bare flag;
    lists repeat. Progress goes to stderr. Raises TaskbasisError with the program's message.
    """
    line = [str(program), command, "--json", *map(os.fspath, map(str, arguments))]
    for name, value in options.items():
        for each in value if isinstance(value, (list, tuple)) else [value]:
            if each is True:
                line.append("--" + name.replace("_", "-"))
            elif each is not None and each is not False:
                line.append(f"--{name.replace('_', '-')}={each}")
    done = subprocess.run(line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise TaskbasisError(done.stderr.strip() or f"taskbasis {command} ended with {done.returncode}")
    return json.loads(done.stdout)  # type: ignore[no-any-return]
