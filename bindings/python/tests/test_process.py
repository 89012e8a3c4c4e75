"""Other processes and interpreters. Each test is a program of its own, which cannot hang: an alarm ends it."""

import os
import subprocess
import sys

import pytest

import taskbasis
from conftest import BASE, FOLDER

BEGIN = f"""
import gc, os, signal, sys
import numpy as np
import taskbasis
signal.alarm(60)
FOLDER, BASE = {str(FOLDER)!r}, {str(BASE)!r}
PIXELS = np.ones((2, 3, 32, 32), np.float32)
"""


def run(code, expect=0):
    done = subprocess.run([sys.executable, "-c", BEGIN + code], stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == expect, done.stderr


fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@fork
def test_a_forked_child_opens_its_own():
    """Whatever the parent has open and running; what the parent made says what is wrong, and is freed without a hang."""
    pytest.importorskip("onnxruntime", reason="ONNX Runtime's package is not installed")
    run("""
basis = taskbasis.open(FOLDER, BASE)
encoder = taskbasis.Encoder(basis, threads=2)
weights = basis.weights("MNIST")
view, embeds = weights["visual.proj"], encoder(PIXELS, weights)
child = os.fork()
if child == 0:
    signal.alarm(30)
    for use in (lambda: encoder(PIXELS, weights), weights.prepare, basis.info, encoder.trim):
        try:
            use()
            os._exit(3)
        except RuntimeError as e:
            if "fork" not in str(e):
                os._exit(4)
    same = np.array_equal(view, view.copy())
    use = None
    del encoder, weights, basis
    gc.collect()
    own = taskbasis.open(FOLDER, BASE)
    same &= np.array_equal(own.weights("MNIST")["visual.proj"], view)
    same &= np.array_equal(taskbasis.Encoder(own, threads=2)(PIXELS, "MNIST"), embeds)
    os._exit(0 if same else 5)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.exit(status or not np.array_equal(encoder(PIXELS, weights), embeds))
""")


@fork
def test_workers_of_multiprocessing():
    """Forked, each opens the files itself, as a data loader's workers would."""
    run("""
import multiprocessing

def work(expression):
    return float(taskbasis.open(FOLDER, BASE).weights(expression)["visual.proj"].sum())

here = [work(task) for task in ("MNIST", "Parity")]
with multiprocessing.get_context("fork").Pool(2) as pool:
    sys.exit(pool.map(work, ["MNIST", "Parity"]) != here)
""")


def test_a_second_interpreter_is_told():
    """NumPy loads once per process, so this package does too: an ImportError (a warning of old versions), no crash."""
    run("""
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
code = '''
import warnings
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    try:
        import taskbasis
    except ImportError as e:
        warned = [e]
if not warned:
    raise SystemError("imported twice, without a warning")
'''
failed = interpreters.run_string(interpreters.create(), code)
sys.exit(failed is not None)
""")


@pytest.mark.parametrize("version", [(3, 9), (3, 10), (3, 11), (3, 14), (3, 15)])
def test_pythons_that_onnxruntime_has_no_release_for_are_told_of_another_library(monkeypatch, version):
    import types

    from taskbasis import _native

    def missing(*arguments):
        raise taskbasis.RuntimeMissingError("ONNX Runtime was not found")

    monkeypatch.delenv("ORT_DYLIB_PATH", raising=False)
    monkeypatch.setattr(_native, "call", missing)
    monkeypatch.setattr(_native, "onnxruntime", lambda: None)
    monkeypatch.setattr(_native, "sys", types.SimpleNamespace(version_info=version))
    with pytest.raises(taskbasis.RuntimeMissingError) as told:
        _native.call_with_runtime(None, missing)
    assert ("ORT_DYLIB_PATH" in str(told.value)) == (version not in [(3, 11), (3, 14)])
