"""Weights in PyTorch, and PyTorch's own reader on what `build` writes."""

import gc

import numpy as np
import pytest

import taskbasis
from conftest import BASE, FOLDER

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def visual():
    """The digits' image tower as open_clip builds it, with random weights."""
    model = pytest.importorskip("open_clip.model")
    tower = model.CLIPVisionCfg(layers=3, width=64, head_width=64, patch_size=8, image_size=32)
    text = model.CLIPTextCfg(context_length=8, vocab_size=16, width=64, heads=1, layers=1)
    return model.CLIP(64, tower, text, quick_gelu=True).visual.eval()


def test_open_clip_runs_what_it_is_given(basis, encoder, golden, visual):
    pixels = golden["pixel_values"]
    for expression, name in [("MNIST", "AE/task/MNIST@1.0"), ("merged@0.4", "AE/merged@0.4"), ("base", "zeroshot")]:
        visual.load_state_dict(basis.weights(expression).state_dict(), strict=True)
        with torch.no_grad():
            theirs = visual(torch.from_numpy(pixels.copy())).numpy()
        for known in (golden[f"{name}/embeds"], encoder(pixels, expression)):
            assert np.abs(theirs - known).max() <= 2e-5 * np.abs(known).max(), expression


def test_a_state_dict_shares_memory_and_keeps_it(basis):
    weights = basis.weights("MNIST")
    view, state = weights["visual.proj"], weights.state_dict(prefix="visual.")
    assert set(state) == set(weights.tensors())
    assert state["visual.proj"].data_ptr() == view.ctypes.data and state["visual.proj"].dtype == torch.float32
    assert torch.from_dlpack(view).data_ptr() == view.ctypes.data, "DLPack without a copy"
    copy = state["visual.proj"].clone()
    basis.set_cache_budget(0)
    del weights, view, basis
    gc.collect()
    _ = [np.full(1 << 18, 7.0) for _ in range(8)]
    assert torch.equal(state["visual.proj"], copy)


@pytest.mark.parametrize("method", ["ae", "pca", "random-sample"])
def test_torch_reads_what_build_writes(basis, tmp_path, method):
    """Bases made here are opened by `torch.load` with nothing but tensors allowed, and mean there what they mean here."""
    for task in ("MNIST", "Parity", "Loops"):
        line = {"basis": FOLDER, "base": BASE, "weights": task, "output": tmp_path / f"{task}.safetensors"}
        taskbasis.run("reconstruct", **line)
    made = tmp_path / "basis"
    taskbasis.run("build", base=BASE, tasks_dir=tmp_path, method=method, vectors=2, output=made)
    loaded = {file.name: torch.load(file, weights_only=True) for file in made.glob("*.pt")}
    vectors = loaded["basis_vectors.pt"]["basis_vectors"]
    ours = taskbasis.open(made, BASE)
    assert len(vectors) == ours.vectors == 2 and set(ours.tasks) == {"MNIST", "Parity", "Loops"}
    base = taskbasis.open(None, BASE).weights("base")
    scale = 0.5
    merged = ours.weights(f"merged@{scale}")
    name = "visual.transformer.resblocks.1.mlp.c_fc.weight"
    change = scale * sum(vector[f"model.{name}"] for vector in vectors)
    theirs = torch.from_numpy(base[name].copy()) + change
    assert torch.allclose(torch.from_numpy(merged[name].copy()), theirs, rtol=0, atol=1e-6)
    assert change.abs().max() > 1e-4
