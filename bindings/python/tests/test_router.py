"""The task chosen by the image, through Python."""

import numpy as np
import pytest

import taskbasis
from conftest import BASE, DIGITS, FOLDER

pytest.importorskip("onnxruntime", reason="ONNX Runtime's package is not installed")


@pytest.fixture()
def router(basis, tmp_path):
    made = taskbasis.run(
        "route", basis=FOLDER, base=BASE, data=DIGITS / "images.safetensors", split="test", shots=8,
        task=["Colors", "Inverted", "Parity"], output=tmp_path / "router.safetensors",
    )
    assert [task["task"] for task in made["tasks"]] == ["Colors", "Inverted", "Parity"]
    return taskbasis.Router(basis, tmp_path / "router.safetensors")


def test_images_are_sent_to_their_tasks(basis, encoder, golden, router):
    assert router.tasks == ("Colors", "Inverted", "Parity") and router.embedding == encoder.embedding
    assert (router.features, router.fallback, router.threshold) == ("base", "all@0.3", 0.5)
    pixels = golden["pixel_values"]
    embeds, routes = router(encoder, pixels)
    assert embeds.shape == (32, 64) and len(routes) == 32
    assert router.route(encoder(pixels, router.features)) == routes
    for i, route in enumerate(routes):
        expression = route.task if route.choice == "task" else "all@0.3"
        alone = encoder(pixels[i], expression)[0]
        assert np.abs(embeds[i] - alone).max() <= 1e-5 * np.abs(alone).max(), (i, route)
    heads = [taskbasis.Head(DIGITS / "heads.safetensors", task) for task in router.tasks]
    found = router.classify(encoder, heads, pixels, top=3)
    assert [route for route, _ in found] == routes
    assert all(len(best) == min(3, len(heads[router.tasks.index(route.task)].classes)) for route, best in found)


def test_what_answers_below_the_threshold(basis, encoder, golden, router, tmp_path):
    path, pixels = tmp_path / "router.safetensors", golden["pixel_values"]
    certain = taskbasis.Router(basis, path, threshold=0)
    assert all(route.choice == "task" for route in certain(encoder, pixels)[1])
    silent = taskbasis.Router(basis, path, threshold=1, fallback="none")
    assert silent.fallback is None
    embeds, routes = silent(encoder, pixels)
    for embed, route in zip(embeds, routes):
        assert (route.choice == "none") == (not embed.any())
    with pytest.raises(taskbasis.InvalidArgumentError, match="a threshold is a confidence"):
        taskbasis.Router(basis, path, threshold=2)
    with pytest.raises(taskbasis.FormatError, match="not a router"):
        taskbasis.Router(basis, BASE)


def test_hidden_features(basis, encoder, golden, router, tmp_path):
    assert not router.hidden
    made = taskbasis.run(
        "route", basis=FOLDER, base=BASE, data=DIGITS / "images.safetensors", split="test", shots=16, hidden=True,
        task=["Colors", "Inverted", "Parity"], output=tmp_path / "hidden.safetensors",
    )
    assert made["kind"] == "hidden"
    hidden = taskbasis.Router(basis, tmp_path / "hidden.safetensors")
    assert hidden.hidden and hidden.embedding == 128
    embeds, routes = hidden(encoder, golden["pixel_values"])
    for i, route in enumerate(routes):
        alone = encoder(golden["pixel_values"][i], route.task if route.choice == "task" else "all@0.3")[0]
        assert np.abs(embeds[i] - alone).max() <= 1e-5 * np.abs(alone).max(), (i, route)
    assert len(hidden.route(np.ones((2, 128), np.float32))) == 2
    with pytest.raises(taskbasis.MismatchError):
        hidden.route(embeds)
