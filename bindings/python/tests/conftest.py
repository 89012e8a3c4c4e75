"""The digits family, which every clone carries."""

from pathlib import Path

import numpy as np
import pytest

import taskbasis

ROOT = Path(__file__).resolve().parents[3]
DIGITS = ROOT / "examples" / "digits"
FOLDER = DIGITS / "bases" / "ViT-D-8_AE_M4_8task"
BASE = DIGITS / "base" / "pickled_module.pt"


def tensors(path):
    """A safetensors file, read with nothing but NumPy."""
    import json

    data = Path(path).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    types = {"F32": "<f4", "U8": "u1", "I64": "<i8", "F16": "<f2"}
    return {
        name: np.frombuffer(data[8 + length :][slice(*about["data_offsets"])], types[about["dtype"]]).reshape(about["shape"])
        for name, about in header.items()
    }


@pytest.fixture(scope="session")
def golden():
    return tensors(DIGITS / "golden.safetensors")


@pytest.fixture()
def basis():
    return taskbasis.open(FOLDER, BASE)


@pytest.fixture()
def encoder(basis):
    return taskbasis.Encoder(basis)


@pytest.fixture(scope="session")
def head():
    return taskbasis.Head(DIGITS / "heads.safetensors", "MNIST", DIGITS / "classes.json")
