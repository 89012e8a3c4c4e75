#!/usr/bin/env python3
"""Makes the first corpus of every target from the small real files: python3 fuzz/seed.py [folder of digits]."""
import pathlib
import sys
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
DIGITS = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "examples" / "digits"
LARGEST = 64 << 10  # The fuzzer learns nothing from a megabyte of weights.


def shrunk(path):
    """The archive with every storage cut to 64 bytes: the records are what matters."""
    out = HERE / "corpus" / "zip" / path.name
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist()[:24]:
            data = source.read(name)
            target.writestr(name, data if name.endswith("data.pkl") else data[:64])
    return out


for target in ("zip", "pickle", "checkpoint", "bundle"):
    (HERE / "corpus" / target).mkdir(parents=True, exist_ok=True)
for path in sorted(DIGITS.rglob("*.pt")):
    small = shrunk(path).read_bytes()
    with zipfile.ZipFile(path) as archive:
        pickles = [archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl")]
    whole = path.read_bytes()
    for number, pickle in enumerate(pickles):
        for target in ("pickle", "checkpoint"):
            (HERE / "corpus" / target / f"{path.stem}.{number}.pkl").write_bytes(pickle)
    (HERE / "corpus" / "checkpoint" / path.name).write_bytes(whole if len(whole) <= LARGEST else small)
    if len(whole) <= LARGEST:
        (HERE / "corpus" / "zip" / f"whole_{path.name}").write_bytes(whole)
for path in sorted(DIGITS.rglob("*.safetensors")):
    whole = path.read_bytes()
    if len(whole) <= LARGEST:
        (HERE / "corpus" / "checkpoint" / path.name).write_bytes(whole)
for path in (HERE.parent / "tests" / "data").glob("*.taskbasis"):
    (HERE / "corpus" / "bundle" / path.name).write_bytes(path.read_bytes())
