"""What a call through the Python package adds to the same call of the C library (which adds 0.03 µs to Rust's:
`cargo bench --bench capi`).

    python bench/benches/python_call.py [ROUNDS]

with the package installed. Both sides take turns within one process, call by call, on one thread; medians are compared.
"""

import statistics
import sys
import time
from pathlib import Path

import numpy as np

import taskbasis
from taskbasis._native import ffi, lib

DIGITS = Path(__file__).resolve().parents[1] / "examples" / "digits"


def compare(name, rounds, ours, bare):
    """Medians in µs of both, and what is between them."""
    times = ([], [])
    for i in range(rounds):
        for side in (0, 1) if i % 2 else (1, 0):
            began = time.perf_counter_ns()
            (ours, bare)[side]()
            times[side].append((time.perf_counter_ns() - began) / 1000)
    python, c = map(statistics.median, times)
    print(f"{name:<44} {python:10.2f} {c:10.2f} {python - c:10.2f}")


def main(rounds):
    basis = taskbasis.open(DIGITS / "bases" / "ViT-D-8_AE_M4_8task", DIGITS / "base" / "pickled_module.pt")
    encoder = taskbasis.Encoder(basis, threads=1, promotion="off")
    head = taskbasis.Head(DIGITS / "heads.safetensors", "MNIST")
    weights = basis.weights("MNIST").prepare()
    size, width, classes = encoder.image_size, encoder.embedding, len(head.classes)
    pixels = np.random.default_rng(0).normal(size=(1, 3, size, size)).astype(np.float32)
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    out, logits = np.empty((1, width), np.float32), np.empty((1, classes), np.float32)
    floats = [ffi.cast("float *", array.ctypes.data) for array in (pixels, out, logits)]
    handles, none = (encoder._handle, weights._handle), ffi.NULL
    as_c = ffi.new("tb_image *", {"data": ffi.cast("uint8_t *", image.ctypes.data), "width": size, "height": size})

    def encode(count):
        return lambda: lib.tb_encoder_encode(*handles, floats[0], count, floats[1], count * width, none)

    def encode_image():
        return lib.tb_encoder_encode_images(*handles, as_c, 1, floats[1], width, none)

    def classify():
        return lib.tb_head_classify(head._handle, floats[1], 1, width, floats[2], classes, none, 0, none)

    print(f"{f'{rounds} rounds, medians in µs':<44} {'Python':>10} {'C':>10} {'more':>10}")
    compare("encode one preprocessed image", rounds, lambda: encoder(pixels, weights), encode(1))
    compare("the same, the task named by its expression", rounds, lambda: encoder(pixels, "MNIST"), encode(1))
    compare("encode one image of bytes", rounds, lambda: encoder(image, weights), encode_image)
    compare("encode no images", rounds, lambda: encoder(pixels[:0], weights), encode(0))
    compare("logits of one embedding", rounds, lambda: head.logits(out), classify)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
