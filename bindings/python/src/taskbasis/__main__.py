"""`python -m taskbasis`: the program."""

import subprocess
import sys

from ._native import program
from ._program import environment

__all__ = ["main"]


def main() -> int:
    """Runs the program with this process's arguments, input and output."""
    return subprocess.run([str(program), *sys.argv[1:]], env=environment()).returncode


if __name__ == "__main__":
    sys.exit(main())
