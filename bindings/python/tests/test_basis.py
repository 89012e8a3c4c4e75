"""Bases, expressions, weights."""

import gc
import pickle

import numpy as np
import pytest

import taskbasis
from conftest import BASE, FOLDER


def test_what_a_basis_tells(basis):
    assert (len(basis.tasks), basis.vectors, basis.method) == (8, 4, "Autoencoder")
    assert basis.coefficients.shape == (4, 8) and np.isfinite(basis.coefficients).all()
    assert "MNIST" in basis and list(basis) == list(basis.tasks)


@pytest.mark.parametrize("scale", [1, -1, 0.3, -0.25, 1e-7, 1 / 3, 12345.678])
def test_arithmetic_means_what_the_text_means(basis, scale):
    arithmetic = scale * basis["MNIST"] - basis["Parity"] / 4 + 0.5 * taskbasis.Expression.merged()
    by_hand = scale * basis.coefficients[:, basis.tasks.index("MNIST")]
    by_hand = by_hand - basis.coefficients[:, basis.tasks.index("Parity")] / 4 + 0.5
    weights = basis.weights(arithmetic)
    np.testing.assert_allclose(weights.coefficients, by_hand, rtol=1e-12, atol=1e-15)
    again = basis.weights(str(arithmetic))
    assert weights.expression == again.expression
    assert np.array_equal(weights.coefficients, again.coefficients)


def test_lengths_and_angles(basis):
    def added(expression):
        base, with_it = basis.weights("base"), basis.weights(expression)
        return np.concatenate([(with_it[name].astype(np.float64) - base[name]).ravel() for name in base.tensors()])

    a, b = basis["MNIST"] - 0.5 * basis["Parity"], "all@0.3"
    of_a, of_b = added(a), added(b)
    length, other = np.linalg.norm(of_a), np.linalg.norm(of_b)
    assert basis.norm(a) == pytest.approx(length, rel=1e-5)
    assert basis.dot(a, b) == pytest.approx(of_a @ of_b, abs=1e-5 * length * other)
    assert basis.cosine(a, b) == pytest.approx(of_a @ of_b / length / other, abs=1e-5)
    assert basis.cosine(a, 2 * a) == pytest.approx(1.0) and basis.norm("base") == 0.0
    with pytest.raises(taskbasis.InvalidArgumentError, match="`base` adds nothing"):
        basis.cosine("MNIST", "base")
    with pytest.raises(taskbasis.InvalidArgumentError, match="not linear"):
        basis.norm("MNIST**2")
    with pytest.raises(ValueError, match="NUL"):
        basis.dot("MNIST\0", "MNIST")


def test_an_expression_is_a_value(basis):
    assert basis["MNIST"] + basis["Parity"] == basis["MNIST"] + basis["Parity"]
    assert hash(basis["MNIST"]) == hash(taskbasis.Expression.task("MNIST"))
    assert str(taskbasis.Expression()) == "base" and str(-basis["MNIST"]) == "-MNIST"
    assert str(taskbasis.Expression.task('odd "name" \\ @')) == '"odd \\"name\\" \\\\ @"'
    assert str(taskbasis.Expression.task("merged")) == '"merged"'
    with pytest.raises(TypeError):
        basis["MNIST"] * basis["Parity"]
    with pytest.raises(AttributeError):
        basis["MNIST"].terms = ()


def test_tasks_of_two_bases_are_not_added(basis):
    other = taskbasis.open(FOLDER, BASE)
    for sum in (lambda: basis["MNIST"] + other["MNIST"], lambda: 2 * basis["MNIST"] - other["Parity"] / 2):
        with pytest.raises(ValueError, match="two bases"):
            sum()
    # Names without a basis go with any, and a basis is no part of the value.
    named = taskbasis.Expression.task("MNIST")
    assert str(named + other["Parity"] + named) == "MNIST + Parity + MNIST"
    assert basis["MNIST"] == other["MNIST"] == named and len({basis["MNIST"], other["MNIST"], named}) == 1
    assert pickle.loads(pickle.dumps(basis["MNIST"])) + other["Parity"] == named + basis["Parity"]


def test_the_prefix_of_the_base_is_heeded():
    assert taskbasis.open(FOLDER, BASE, base_prefix="model").vectors == 4
    with pytest.raises(taskbasis.NotFoundError, match="no image tower under `teacher`: got `model.visual.`"):
        taskbasis.open(FOLDER, BASE, base_prefix="teacher")
    with pytest.raises(ValueError, match="NUL"):
        taskbasis.open(FOLDER, BASE, base_prefix="model\0")


def test_a_text_is_not_cut_at_a_nul(basis):
    cut = [
        lambda: basis.weights("MNIST\0@0.5"),
        lambda: basis["MNIST\0"],
        lambda: basis.weights(taskbasis.Expression.task("MNIST\0")),
        lambda: basis.weights("MNIST")["visual.proj\0x"],
        lambda: taskbasis.open(str(FOLDER) + "\0x", BASE),
        lambda: taskbasis.open(FOLDER, str(BASE) + "\0x"),
        lambda: taskbasis.Head(str(BASE) + "\0"),
        lambda: taskbasis.Encoder(basis, provider="cpu\0x"),
    ]
    for call in cut:
        with pytest.raises(ValueError, match="NUL"):
            call()


def test_what_names_no_weights(basis):
    for wrong in (None, 3, b"MNIST", ["MNIST"], basis.weights("MNIST")):
        with pytest.raises(TypeError, match=f"Expression.*{type(wrong).__name__}"):
            basis.weights(wrong)


def test_failures_carry_kind_and_story(basis, tmp_path):
    with pytest.raises(taskbasis.NotFoundError, match="MNIST") as failure:
        basis["MNITS"]
    assert (failure.value.status, failure.value.name) == (4, "not_found") and isinstance(failure.value, LookupError)
    with pytest.raises(taskbasis.InvalidArgumentError):
        basis.weights("MNIST@@")
    with pytest.raises(taskbasis.IoError, match="no_such"):
        taskbasis.open(tmp_path / "no_such", BASE)
    with pytest.raises(taskbasis.NotFoundError, match="visual.proj"):
        basis.weights("MNIST")["visual.porj"]
    basis.close()
    basis.close()
    with pytest.raises(ValueError, match="closed"):
        basis.coefficients


def test_tensors_are_views_that_keep_their_owner(basis):
    weights = basis.weights("MNIST")
    tensors = weights.tensors()
    assert len(tensors) == len(list(tensors)) == len(set(tensors))
    view = weights["visual.proj"]
    assert view.dtype == np.float32 and view.shape == (64, 64) and not view.flags.writeable
    assert view.ctypes.data == tensors["visual.proj"].ctypes.data, "no copy"
    copy = view.copy()
    with pytest.raises(ValueError):
        view[0, 0] = 1
    del weights, tensors
    basis.set_cache_budget(0)
    del basis
    gc.collect()
    # Other memory of the same size would land in a freed arena.
    _ = [np.full(1 << 18, 7.0) for _ in range(8)]
    assert np.array_equal(view, copy)


def test_tensors_are_base_plus_coefficients(basis):
    base = taskbasis.open(None, BASE)
    change = basis.weights("MNIST@0.5")["visual.proj"] - base.weights("base")["visual.proj"]
    full = basis.weights("MNIST")["visual.proj"] - base.weights("base")["visual.proj"]
    np.testing.assert_allclose(2 * change, full, atol=2e-6)
    assert np.abs(full).max() > 1e-4


def test_coefficients_of_ones_own(basis):
    weights = basis.weights("MNIST@0.5 + Parity")
    same = basis.combine(weights.coefficients, weights.mean)
    assert weights.mean == 0 and np.array_equal(same.coefficients, weights.coefficients)
    assert np.array_equal(same["visual.proj"], weights["visual.proj"])
    for wrong in [[1, 2, 3], [1, 2, 3, np.nan]]:
        with pytest.raises(taskbasis.InvalidArgumentError):
            basis.combine(wrong)
    pca = taskbasis.open(FOLDER.parent / "ViT-D-8_PCA_M4_8task", BASE)
    assert pca.info()["has_mean"] == 1 and pca.weights("MNIST").mean != 0


def test_what_travels_between_processes(basis):
    expression = 0.3 * basis["MNIST"] - basis["Parity"]
    assert pickle.loads(pickle.dumps(expression)) == expression
    with pytest.raises(taskbasis.NotFoundError) as failure:
        basis["MNITS"]
    again = pickle.loads(pickle.dumps(failure.value))
    assert type(again) is taskbasis.NotFoundError and str(again) == str(failure.value)
    for handle in (basis, basis.weights("MNIST")):
        with pytest.raises(TypeError, match="each process"):
            pickle.dumps(handle)


def test_what_the_library_is():
    told = taskbasis.library()
    assert told["kernel"] and told["threads"] >= 1 and "cpu" in told["providers"]
    assert bool(told["onnxruntime_version"]) != bool(told["onnxruntime_error"])


def test_the_cache_can_be_watched_shared_and_emptied(basis):
    weights = basis.weights("MNIST").prepare()
    assert weights.ready and basis.cache["misses"] == 1 and basis.cache["bytes"] > 0
    other = taskbasis.open(FOLDER, BASE, share_cache=basis)
    assert other.weights("MNIST").ready, "the same files and coefficients"
    assert not weights.cancel_prefetch()
    basis.trim_cache()
    assert not weights.ready and basis.cache["spare_bytes"] == 0
    basis.weights("Parity").prefetch()


def test_only_what_is_for_users_is_listed():
    assert [name for name in dir(taskbasis) if not name.startswith("__")] == sorted(taskbasis.__all__)
    assert all(hasattr(taskbasis, name) for name in taskbasis.__all__)
    for helper in ("call", "lib", "sized", "text", "encoded"):
        assert not hasattr(taskbasis, helper), helper


def test_groups_in_arithmetic(basis):
    expression = basis["MNIST"] * {"attn": 0.5, "*": 0.25} * 2 - basis["Parity"] / 4
    assert str(expression) == "MNIST@{attn: 1.0, *: 0.5} - Parity@0.25"
    weights = basis.weights(expression)
    assert weights.expression == "MNIST@{attn: 1, *: 0.5} - Parity@0.25"
    attn, mlp = "visual.transformer.resblocks.0.attn.out_proj.weight", "visual.transformer.resblocks.0.mlp.c_fc.weight"
    for name, plain in [(attn, "MNIST - Parity@0.25"), (mlp, "MNIST@0.5 - Parity@0.25")]:
        alone = basis.weights(plain)
        assert np.array_equal(weights[name], alone[name])
        assert np.array_equal(weights.coefficients_of(name), alone.coefficients)
    with pytest.raises(taskbasis.UnsupportedError, match="differ between groups"):
        weights.coefficients
    with pytest.raises(ValueError, match="by a number alone"):
        expression * {"*": 1}


def test_groups_as_numbers(basis):
    blocks = basis.groups("block")
    assert blocks[1:] and "blocks.0" in blocks and len(basis.groups("parameter")) > len(basis.groups("layer"))
    rows = np.linspace(-0.5, 0.5, len(blocks) * basis.vectors).reshape(len(blocks), basis.vectors)
    weights = basis.combine(rows, groups="block")
    name = "visual.transformer.resblocks.1.ln_2.bias"
    assert np.array_equal(weights.coefficients_of(name), rows[blocks.index("blocks.1")])
    again = basis.weights(weights.expression)
    assert np.array_equal(again[name], weights[name])
    for bad in [{"groups": ["attn"]}, {"groups": ["attn", "heads"]}, {"groups": "blocks"}]:
        rows = np.zeros((len(bad["groups"]) if isinstance(bad["groups"], list) else 1, basis.vectors))
        with pytest.raises(taskbasis.TaskbasisError):
            basis.combine(rows, **bad)
    with pytest.raises(ValueError, match="groups"):
        basis.combine(np.zeros((3, basis.vectors)), groups="block")
