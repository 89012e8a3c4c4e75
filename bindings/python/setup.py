"""Builds the wheel: compiles the library and the programs with cargo and puts them into the package.

One wheel serves every CPython from 3.9 on: nothing is compiled against Python. `TASKBASIS_BUILT` names a folder with
`libtaskbasis.so`, `taskbasis` and `taskbasis-bench` that are built already, instead of running cargo. On Linux the
wheel's tag is that of what is in it, whatever machine makes the wheel.
"""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
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
    target = os.environ.get("CARGO_BUILD_TARGET", "")
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / target / "release"


def linux_tag(files):
    """The platform tag of a wheel with these ELF files. That of PEP 600 promises a version of glibc; what needs a newer
    one than the published wheels of ONNX Runtime is for the machine that made it."""
    needs = runpy.run_path(str(ROOT / "scripts" / "check-glibc"))["needs"]
    machines, versions = zip(*map(needs, files))
    if len(set(machines)) != 1:
        raise ValueError(f"the files are for several machines: {dict(zip(files, machines))}")
    return f"manylinux_2_28_{machines[0]}" if (0, 0) < max(versions) <= (2, 28) else f"linux_{machines[0]}"


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
        platform = super().get_tag()[2]
        if sys.platform == "linux" and not self.plat_name_supplied:
            native = Path(self.bdist_dir).rglob("native/*")
            platform = linux_tag([file for file in native if file.suffix != ".h"])
        return "py3", "none", platform


class NativeDistribution(Distribution):
    """One with libraries of a platform, which belong into `platlib`; auditwheel refuses them elsewhere."""

    def has_ext_modules(self):
        return True


setup(
    version=version(),
    cmdclass={"build_py": BuildWithLibrary, "bdist_wheel": PlatformWheel},
    distclass=NativeDistribution,
)
