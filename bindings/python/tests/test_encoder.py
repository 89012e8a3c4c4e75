"""Embeddings and classes: the reference's, through Python."""

import subprocess
import sys
import threading

import numpy as np
import pytest

import taskbasis
from conftest import BASE, DIGITS, FOLDER, tensors

pytest.importorskip("onnxruntime", reason="ONNX Runtime's package is not installed")


def close(ours, theirs):
    return np.abs(ours - theirs).max() <= 2e-5 * np.abs(theirs).max()


def test_the_goldens(basis, encoder, golden):
    pixels = golden["pixel_values"]
    assert close(encoder(pixels, "base"), golden["zeroshot/embeds"])
    assert close(encoder(pixels, "merged@0.4"), golden["AE/merged@0.4/embeds"])
    for task in basis.tasks:
        assert close(encoder(pixels, basis[task]), golden[f"AE/task/{task}@1.0/embeds"]), task
        assert close(encoder(pixels, -0.5 * basis[task]), golden[f"AE/negated/{task}@0.5/embeds"]), task


def test_images_of_every_kind_are_the_same_image(encoder, tmp_path):
    Image = pytest.importorskip("PIL.Image")
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    ways = [image, image[np.newaxis], Image.fromarray(image), tmp_path / "image.png", [str(tmp_path / "image.png")]]
    embeds = [encoder(way, "MNIST") for way in ways] + [encoder(encoder.preprocess(image), "MNIST")]
    assert all(e.shape == (1, encoder.embedding) and np.array_equal(e, embeds[0]) for e in embeds)
    assert encoder([image, image[:, ::-1]], "MNIST").shape == (2, 64)
    assert encoder(image[..., 0], "MNIST").shape == (1, 64)
    for wrong in [image.astype(np.float64), np.zeros((2, 3, 3, 7), np.uint8), np.zeros((1, 3, 8, 8), np.float32)]:
        with pytest.raises(ValueError):
            encoder(wrong, "MNIST")


def test_shapes_that_could_be_several_things_are_errors(encoder):
    """Whatever is taken is one embedding for each image that it is; nothing is cut into slices of grey."""
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    grey = image[..., :1]
    one = encoder(grey[..., 0], "MNIST")
    for way in [grey, grey[np.newaxis], [grey], grey[..., 0][np.newaxis]]:
        assert np.array_equal(encoder(way, "MNIST"), one), np.shape(way)
    assert encoder(np.stack([grey, grey]), "MNIST").shape == (2, encoder.embedding)
    assert encoder(np.zeros((5, 48, 64), np.uint8), "MNIST").shape == (5, encoder.embedding)
    first = image.transpose(2, 0, 1)
    size = encoder.image_size
    for wrong, says in [
        (first, "channels first, or 3 grey ones"),
        ([first], r"transpose\(1, 2, 0\)"),
        (first[np.newaxis], r"transpose\(1, 2, 0\)"),
        (grey.transpose(2, 0, 1)[np.newaxis], r"transpose\(1, 2, 0\)"),
        (np.zeros((4, 48, 64), np.uint8), "or 4 grey ones"),
        (np.zeros((48, 64, 2), np.uint8), "grey and alpha"),
        (np.zeros((48, 64, 5), np.uint8), "one image with 5 channels"),
        (np.zeros((3, 48, 3), np.uint8), "channels are first or last"),
        (np.zeros((1, 48, 3), np.uint8), "channels are first or last"),
        (np.zeros((2, 3, 48, 3), np.uint8), "channels are first or last"),
        (image.astype(np.float32) / 255, "channels last|preprocessed images"),
        (image.astype(np.float32)[np.newaxis], "channels last"),
        (image.astype(np.float32)[..., 0], "preprocessed images"),
        (np.zeros((2, 3, size, size)), "float64"),
        ([np.zeros((3, size, size), np.float32)], "one array f32"),
        (image.astype(np.int64), "int64"),
    ]:
        with pytest.raises(ValueError, match=says):
            encoder(wrong, "MNIST")
    torch = pytest.importorskip("torch")
    assert np.array_equal(encoder(torch.from_numpy(grey.copy()), "MNIST"), one)
    with pytest.raises(ValueError, match="channels first"):
        encoder(torch.from_numpy(first.copy()), "MNIST")


def test_pillow_images_are_preprocessed_as_open_clip_does(encoder):
    Image = pytest.importorskip("PIL.Image")
    expected = tensors(DIGITS / "preprocess" / "expected.safetensors")
    modes = set()
    for name, theirs in expected.items():
        path = DIGITS / "preprocess" / name.rsplit("/", 1)[0]
        with Image.open(path) as image:
            modes.add(image.mode)
            assert np.array_equal(encoder.preprocess(image)[0], theirs), name
        assert np.array_equal(encoder.preprocess(str(path))[0], theirs), name
    assert {"L", "P", "RGB"} <= modes
    # The alpha of a gray image counts as that of a coloured one does, the colours under it do not vanish.
    gray = Image.merge("LA", [Image.linear_gradient("L"), Image.radial_gradient("L")])
    assert np.array_equal(encoder.preprocess(gray), encoder.preprocess(gray.convert("RGBA")))
    deep = np.arange(40 * 50, dtype=np.uint16).reshape(40, 50) * 32
    assert np.array_equal(encoder.preprocess(Image.fromarray(deep)), encoder.preprocess((deep >> 8).astype(np.uint8)))
    with pytest.raises(ValueError, match="mode F"):
        encoder.preprocess(Image.new("F", (40, 40)))


def test_classes(encoder, head, golden):
    embeds = encoder(golden["pixel_values"], "base")
    assert close(head.logits(embeds), golden["zeroshot/logits/MNIST"])
    best = head.classify(embeds, top=2)
    assert len(best) == 32 and len(best[0]) == 2 and best[0][0].probability >= best[0][1].probability
    assert [row[0].class_index for row in best] == list(golden["zeroshot/logits/MNIST"].argmax(1))
    assert best[0][0].name == head.classes[best[0][0].class_index]
    assert taskbasis.classify(encoder, head, golden["pixel_values"], "base", top=2) == best
    assert len(head.classify(embeds)[0]) == 3 and len(head.classify(embeds, 10)[0]) == 10
    assert head.classify(embeds, 0) == [[]] * 32
    for top in (11, 1 << 40, -1):
        with pytest.raises(ValueError):
            head.classify(embeds, top)
    two = taskbasis.Head(DIGITS / "heads.safetensors", "Parity")
    assert len(two.classes) == 2 and len(two.classify(embeds)[0]) == 2
    with pytest.raises(taskbasis.InvalidArgumentError, match="expected 2, got 3"):
        two.classify(embeds, 3)
    assert head.function == "softmax"
    # Several heads in one call; those with fewer classes give all of theirs.
    assert taskbasis.Head.classify_many([head, two], embeds) == [head.classify(embeds, 3), two.classify(embeds, 2)]
    assert taskbasis.Head.classify_many([two, two], embeds[0], 1 << 40) == [two.classify(embeds[0], 2)] * 2
    assert taskbasis.Head.classify_many([head], embeds, 0) == [[[]] * 32]
    assert taskbasis.Head.classify_many([], embeds) == []
    with pytest.raises(taskbasis.MismatchError, match=r"heads\[0\]"):
        taskbasis.Head.classify_many([head, two], embeds[:, 1:])


def test_promotion(basis, encoder, golden):
    weights = basis.weights("MNIST")
    before = encoder(golden["pixel_values"], weights)
    encoder.promote(weights)
    assert encoder.promotion(weights) == "unneeded" and basis.cache["promoted"] == 0
    assert (encoder(golden["pixel_values"], weights) == before).all()
    encoder.demote(weights)
    assert encoder.promotion(weights) == "unneeded"


def test_what_is_no_weights(basis, encoder, golden):
    pixels = golden["pixel_values"][:1]
    for wrong in (None, 3, b"MNIST", basis):
        for use in (encoder.prepare, encoder.promote, encoder.promotion, lambda weights: encoder(pixels, weights)):
            with pytest.raises(TypeError, match=f"Weights.*str.*Expression.*{type(wrong).__name__}"):
                use(wrong)
    assert encoder.promotion("MNIST") == "unneeded"


def test_what_is_really_used(encoder):
    info = encoder.info()
    assert info["provider"] == "cpu" and "onnxruntime" in info["onnxruntime_path"] and info["layers"] == 3
    encoder.trim()


def test_weights_where_the_encoder_reads_them(encoder, basis):
    info = encoder.info()
    assert (info["weights_on"], info["weights_fallback"]) == ("host", "")
    basis.trim_cache()
    assert not encoder.is_prepared("Rotated@0.25")
    encoder.prepare("Rotated@0.25")
    assert encoder.is_prepared("Rotated@0.25") and encoder.is_prepared(basis.weights("Rotated@0.25"))
    assert set(encoder.device_stats().values()) == {0}


def test_a_block_at_a_time(basis, golden, encoder):
    streamed = taskbasis.Encoder(basis, streamed=True)
    pixels = golden["pixel_values"][:4]
    np.testing.assert_allclose(streamed(pixels, "MNIST"), encoder(pixels, "MNIST"), atol=1e-4)
    assert streamed.info()["weight_bytes"] * 2 < encoder.info()["weight_bytes"]
    blockwise = taskbasis.Encoder(basis, residency="blockwise")
    np.testing.assert_array_equal(blockwise(pixels, "MNIST"), streamed(pixels, "MNIST"))
    with pytest.raises(ValueError, match="residency"):
        taskbasis.Encoder(basis, residency="half")
    with pytest.raises(taskbasis.UnsupportedError, match="streamed"):
        streamed.prepare("MNIST")


def test_packed_precisions(basis, golden, encoder):
    pixels = golden["pixel_values"][:4]
    exact = encoder(pixels, "MNIST")
    for precision, least in [("bf16", 0.9999), ("int8", 0.999)]:
        packed = taskbasis.Encoder(basis, precision=precision)
        embeds = packed(pixels, "MNIST")
        cosines = (embeds * exact).sum(1) / np.linalg.norm(embeds, axis=1) / np.linalg.norm(exact, axis=1)
        assert cosines.min() > least and (embeds != exact).any()
        assert packed.info()["precision"] == precision
        assert packed.info()["weight_bytes"] < 0.6 * encoder.info()["weight_bytes"]
    assert encoder.info()["precision"] == "f32"
    with pytest.raises(ValueError, match="precision"):
        taskbasis.Encoder(basis, precision="int4")
    blocks = taskbasis.Encoder(basis, precision="int8", residency="blockwise")
    assert (blocks(pixels, "MNIST") == embeds).all()


def test_the_fastest_precision_that_passed(basis, tmp_path):
    path = tmp_path / "digits.taskbasis"
    told = taskbasis.pack(basis=FOLDER, base=BASE, format="q8", output=path, precision="auto")
    assert told["precision"]["precisions"] == "int8"
    info = taskbasis.Encoder(taskbasis.open(path), precision="auto").info()
    assert (info["precision"], info["precisions"]) == ("int8", "int8") and "cosine" in info["precision_reason"]
    info = taskbasis.Encoder(basis, precision="auto").info()
    assert info["precision"] == "f32" and "nothing was measured" in info["precision_reason"]
    assert taskbasis.Encoder(basis, precision="int8").info()["precision_reason"] == ""


def test_eight_threads(basis, golden):
    encoder = taskbasis.Encoder(basis, concurrency=2, promotion="off")
    pixels = golden["pixel_values"][:4]
    alone = [encoder(pixels, task) for task in basis.tasks]
    wrong = []

    def work(t):
        for i in range(40):
            task = (t + i) % len(alone)
            if not np.array_equal(encoder(pixels, basis.tasks[task]), alone[task]):
                wrong.append(task)

    threads = [threading.Thread(target=work, args=(t,)) for t in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong


def test_providers_that_cannot_be_had(basis):
    with pytest.raises(taskbasis.UnsupportedError, match="onnxruntime-gpu"):
        taskbasis.Encoder(basis, provider="cuda")
    with pytest.raises(taskbasis.TaskbasisError, match="abacus"):
        taskbasis.Encoder(basis, provider="abacus")
    auto = taskbasis.Encoder(basis, provider="auto", device=0).info()
    assert auto["provider"] == "cpu" and auto["device"] == 0 and "built without CUDA" in auto["fallback"]
    assert taskbasis.Encoder(basis).info()["fallback"] == ""
    with pytest.raises(taskbasis.UnsupportedError, match="cuda"):
        taskbasis.Encoder(basis, weights_on="device")
    with pytest.raises(taskbasis.UnsupportedError, match="CUDA graphs"):
        taskbasis.Encoder(basis, cuda_graphs=True)
    with pytest.raises(ValueError, match="auto, host, device"):
        taskbasis.Encoder(basis, weights_on="moon")
    with pytest.raises(ValueError, match="quick_gelu"):
        taskbasis.Encoder(basis, activation="relu")


def test_the_program(tmp_path):
    told = taskbasis.run("inspect", DIGITS / "bases" / "ViT-D-8_AE_M4_8task")
    assert told["method"] and isinstance(told, dict)
    with pytest.raises(taskbasis.TaskbasisError, match="no_such"):
        taskbasis.run("inspect", tmp_path / "no_such")


def test_a_bundle_needs_nothing_else(tmp_path, golden):
    path = tmp_path / "digits.taskbasis"
    told = taskbasis.pack(basis=FOLDER, base=BASE, format="q8", output=path, heads=DIGITS / "heads.safetensors")
    assert isinstance(told, dict) and path.is_file()
    taskbasis.verify(path)
    basis = taskbasis.open(path)
    embeds = taskbasis.Encoder(basis)(golden["pixel_values"], "MNIST")
    theirs = golden["AE/task/MNIST@1.0/embeds"]
    assert np.abs(embeds - theirs).max() <= 1e-2 * np.abs(theirs).max()
    assert taskbasis.Head(path, "MNIST").logits(embeds).shape == (32, 10)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(taskbasis.TaskbasisError, match="digits.taskbasis"):
        taskbasis.verify(path)


def test_progress_of_long_work(tmp_path):
    """Told to a function on the caller's thread; what that raises ends the program."""
    line = {"basis": FOLDER, "base": BASE, "format": "q8", "output": tmp_path / "a.taskbasis"}
    told = []
    taskbasis.pack(**line, progress=lambda *state: told.append((threading.get_ident(), *state)))
    assert told and {state[:2] for state in told} == {(threading.get_ident(), "packing")}
    assert all(0 <= done <= total for _, _, done, total in told)

    class Enough(Exception):
        pass

    def stop(what, done, total):
        raise Enough

    with pytest.raises(Enough):
        taskbasis.pack(**{**line, "output": tmp_path / "b.taskbasis"}, progress=stop)
    with pytest.raises(taskbasis.TaskbasisError, match="no_such"):
        taskbasis.verify(tmp_path / "no_such", progress=told.append)


def test_a_bar_of_tqdm(tmp_path, capfd):
    pytest.importorskip("tqdm")
    line = {"basis": FOLDER, "base": BASE, "format": "q8", "output": tmp_path / "a.taskbasis"}
    assert taskbasis.pack(**line, progress=True)["bytes"] > 0
    assert "packing" in capfd.readouterr().err


def test_bench_gives_its_figures():
    told = taskbasis.bench(basis=FOLDER, base=BASE, quick=True, only="open")
    assert told["open"]["ms"] > 0 and told["family"]["tasks"] == 8


def test_a_graph_of_ones_own(basis, golden):
    graph = DIGITS / "onnx" / "transformers_style_opset14.onnx"
    encoder = taskbasis.Encoder(basis, graph=graph)
    assert close(encoder(golden["pixel_values"], "MNIST"), golden["AE/task/MNIST@1.0/embeds"])
    assert (encoder.info()["graph"], taskbasis.Encoder(basis).info()["graph"]) == ("file", "built")


def test_a_graph_that_the_bundle_carries(tmp_path, golden):
    path, graph = tmp_path / "digits.taskbasis", DIGITS / "onnx" / "transformers_style_opset14.onnx"
    taskbasis.pack(basis=FOLDER, base=BASE, format="f32", base_format="f32", graph=graph, output=path)
    taskbasis.verify(path)
    basis = taskbasis.open(path)
    carried, built = taskbasis.Encoder(basis), taskbasis.Encoder(basis, built_graph=True)
    assert (carried.info()["graph"], built.info()["graph"]) == ("bundle", "built")
    for encoder in carried, built:
        assert close(encoder(golden["pixel_values"], "MNIST"), golden["AE/task/MNIST@1.0/embeds"])


def test_the_quickstart():
    paths = ["bases/ViT-D-8_AE_M4_8task", "base/pickled_module.pt", "heads.safetensors", "classes.json"]
    image = DIGITS / "preprocess" / "photo_gray.png"
    pytest.importorskip("PIL.Image")
    program = DIGITS.parent / "python" / "quickstart.py"
    line = [sys.executable, str(program), *(str(DIGITS / path) for path in paths), str(image)]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    rows = done.stdout.splitlines()
    assert len(rows) == 3 and all(row.endswith("%") for row in rows), done.stdout
    assert sum(1 for line in program.read_text().splitlines() if line.strip()) < 25
