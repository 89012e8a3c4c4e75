"""The code that is shown runs as it is shown, and the text's code after it."""

import re
import textwrap

import pytest

import taskbasis
from conftest import BASE, DIGITS, FOLDER, ROOT

pytest.importorskip("onnxruntime", reason="ONNX Runtime's package is not installed")


def blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def told(text):
    """What the text says in code of the weights that the block before it made."""
    return [code for code in re.findall(r"`([^`\n]+)`", text) if "weights" in code and re.search(r"[.\[(]", code)]


def check(codes, names):
    """Evaluates each; what is for PyTorch only where that is."""
    assert isinstance(names["weights"], taskbasis.Weights)
    for code in codes:
        if "state_dict" in code:
            assert callable(names["weights"].state_dict)
        else:
            eval(code, names)
    assert any("visual.proj" in code for code in codes) and any("state_dict" in code for code in codes)


@pytest.fixture()
def files(tmp_path, monkeypatch):
    Image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ViT-B-32_AE_M4_8task").symlink_to(FOLDER)
    (tmp_path / "zeroshot.pt").symlink_to(BASE)
    for name in ("a.png", "b.jpg"):
        Image.new("RGB", (40, 50), (200, 30, 90)).save(tmp_path / name)
    return tmp_path


def test_the_projects_readme(files, capsys):
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## From Python")[1].split("\n## ")[0]
    shown = blocks(section)[0]
    body = textwrap.dedent(shown.split("image):\n", 1)[1])
    names = {"taskbasis": taskbasis, "folder": FOLDER, "base": BASE, "image": "a.png"}
    exec(body, {} | names | {"heads": DIGITS / "heads.safetensors", "classes": DIGITS / "classes.json"}, names)
    assert capsys.readouterr().out.count("%") == 3
    check(told(section.replace(shown, "")), names)


def test_the_packages_readme(files):
    text = (ROOT / "bindings" / "python" / "README.md").read_text(encoding="utf-8")
    # The digits have other tasks.
    text = text.replace("SVHN", "OptDigits").replace("Cars", "Parity")
    names = {}
    exec(blocks(text)[0], names)
    assert names["embeds"].shape == (2, names["encoder"].embedding)
    after = text.split(blocks(text)[0])[1].split("```python")[0]
    check(told(after), names | {"images": ["a.png"]})


def test_the_packages_readme_packs(files, capfd):
    pytest.importorskip("tqdm")
    text = (ROOT / "bindings" / "python" / "README.md").read_text(encoding="utf-8")
    exec(blocks(text)[1], {})
    assert (files / "m.taskbasis").is_file()
