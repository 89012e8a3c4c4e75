"""Builds the wheel: compiles the library and the programs with cargo and puts them into the package.

One wheel serves every CPython from 3.9 on: nothing is compiled against Python. `TASKBASIS_BUILT` names a folder with
`libtaskbasis.so`, `taskbasis` and `taskbasis-bench` that are built already, instead of running cargo.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = {"darwin": "libtaskbasis.dylib", "win32": "taskbasis.dll"}.get(sys.platform, "libtaskbasis.so")
PROGRAMS = [name + (".exe" if sys.platform == "win32" else "") for name in ("taskbasis", "taskbasis-bench")]


def version():
    manifest = (ROOT / "Cargo.toml").read_text(encoding="utf-8")
    return re.search(r'^version = "(.+)"', manifest, re.MULTILINE).group(1)


def built():
    """The folder with library and programs, compiled now unless that was done before."""
    given = os.environ.get("TASKBASIS_BUILT")
    if given:
        return Path(given)
    subprocess.run(["cargo", "build", "--release", "--locked"], cwd=ROOT, check=True)
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


class BuildWithLibrary(build_py):
    def run(self):
        super().run()
        native = Path(self.build_lib) / "taskbasis" / "native"
        native.mkdir(parents=True, exist_ok=True)
        folder = built()
        for file in (folder / LIBRARY, *(folder / program for program in PROGRAMS), ROOT / "include" / "taskbasis.h"):
            shutil.copy(file, native / file.name)


class PlatformWheel(bdist_wheel):
    def finalize_options(self):
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


setup(version=version(), cmdclass={"build_py": BuildWithLibrary, "bdist_wheel": PlatformWheel})
