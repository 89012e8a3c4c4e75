"""Images in, embeddings and classes out."""

from __future__ import annotations

import os
from typing import Any, NamedTuple, Optional, Sequence, Union

import numpy as np

from ._basis import Basis, Handle, Named, Path, Weights
from ._expression import Expression
from ._native import call, call_with_runtime, constants, encoded, ffi, fields, lib, onnxruntime, sized, text

Floats = "np.ndarray[Any, np.dtype[np.float32]]"
_ACTIVATIONS = {
    "quick_gelu": "TB_ACTIVATION_QUICK_GELU_ALWAYS",
    "gelu": "TB_ACTIVATION_GELU",
    "gelu_tanh": "TB_ACTIVATION_GELU_TANH",
}
_FUNCTIONS = ("softmax", "sigmoid")
_POOLINGS = (
    "class_token",
    "mean_then_norm",
    "norm_then_mean",
    "patch_mean",
    "attention",
    "class_and_mean",
    "class_and_distillation",
)
_RESIZES = ("shortest", "squash", "longest")
_INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
_PROMOTIONS = {"auto": "TB_PROMOTION_AUTO", "off": "TB_PROMOTION_OFF", "manual": "TB_PROMOTION_MANUAL"}
_WEIGHTS_ON = {"auto": "TB_WEIGHTS_ON_AUTO", "host": "TB_WEIGHTS_ON_HOST", "device": "TB_WEIGHTS_ON_DEVICE"}
_PRECISIONS = {"f32": "TB_PRECISION_F32", "bf16": "TB_PRECISION_BF16", "int8": "TB_PRECISION_INT8", "auto": "TB_PRECISION_AUTO"}
_RESIDENCIES = {"whole": "TB_RESIDENCY_WHOLE", "blockwise": "TB_RESIDENCY_BLOCKWISE"}
_SELF_TESTS = {"auto": "TB_SELF_TEST_AUTO", "on": "TB_SELF_TEST_ON", "off": "TB_SELF_TEST_OFF"}
_STATES = ("inputs", "building", "promoted", "failed", "unneeded")
_GRAPHS = ("built", "bundle", "file")
_CHANNELS = (1, 3, 4)
# Grey images that are narrower than this are hardly meant where an array has three dimensions.
_LEAST_WIDTH = 8

__all__ = ["Encoder", "Head", "Score"]


class Encoder(Handle):
    """The image encoder of the basis's model. It holds no weights: every call names those that it runs with.

    `promotion` is "auto" (a task that is run often gets a session of its own), "manual" or "off"; with "off" the same
    call gives the same bits every time. `graph` is an .onnx image encoder of one's own, exported with the base's weights,
    to run instead of the built one, or of the one that a bundle carries; `map` says which of its constants are which
    parameters, where that is known. `built_graph` runs the built one, whatever the bundle carries.

    `provider` computes, on its `device`: "cpu", "cuda" or "tensorrt", an error where it cannot be had; "auto" takes CUDA
    where it works, else the CPU, and `info()["fallback"]` says why. `tensorrt_cache` is a folder for TensorRT's engines;
    `tensorrt_fp16` lets it compute in half floats, as long as its first embeddings have a cosine of at least
    `tensorrt_min_cosine` (0: 0.999) with the CPU's.

    On a GPU, `weights_on` says where the weights of tasks are reconstructed: "device", in its memory, so that none of them
    crosses the bus at a switch; "host"; or "auto", the device where it can be had, else the host, and
    `info()["weights_fallback"]` says why. `device_budget` is how many bytes of its memory base, basis and weights may
    take (0: three quarters of what is free). `cuda_graphs` records runs and replays them, with "cuda": for few batch sizes.

    What shapes do not tell is read of the bundle, else of the configuration beside the base (open_clip's, transformers'
    or timm's; `config` names another one, "none" none), else it is that of published models, else OpenAI's, which
    `info()["assumed"]` says: `activation` ("quick_gelu", "gelu", "gelu_tanh"), `heads`, `norm_epsilon`, `pooling`
    ("class_token", "mean_then_norm", "norm_then_mean", "patch_mean", "attention", "class_and_mean",
    "class_and_distillation"), and of images `mean`, `std` (three numbers each), `resize` ("shortest", "squash", "longest"), `interpolation` ("bicubic", "bilinear", ...), and `resize_edge`, the
    pixels that sides are resized to before the image is cropped. What is given here is used, whatever was read.

    `residency` is how much of a task's weights a call has in memory: all of them ("whole"), or those of one block at a
    time ("blockwise": 40 MB instead of 351 for ViT-B-32, which `info()["weight_bytes"]` tells), reconstructed anew in
    every call. `streamed=True` is "blockwise" by its older name.

    `precision` is the type that the matrices of linear layers are multiplied in, on the CPU: "f32", "bf16" (half the
    memory per task, about half the time where the processor has it), "int8" (a quarter, the fastest; measure the
    accuracy), or "auto": the fastest that passed when the bundle was packed (`pack(precision="auto")`), "f32" where
    nothing was measured. `info()["precisions"]` is what each kind of layer has, `info()["precision_reason"]` why "auto"
    took it (empty: it was asked for). A graph of which no linear layer is recognised runs in "f32" alone.

    `self_test` is for bundles with a golden embedding: whether the first call is preceded by the run of one image with the
    base's weights, which has to give that embedding. "auto" tests where the memory for those weights is not worth a
    thought, "on" always, "off" never.
    """

    #: S: preprocessed images are f32 [n, 3, S, S].
    image_size: int
    #: e: embeddings are f32 [n, e].
    embedding: int
    #: What really runs: "cpu", "cuda" or "tensorrt".
    provider: str

    def __init__(
        self,
        basis: Basis,
        *,
        provider: str = "cpu",
        device: int = 0,
        threads: int = 0,
        concurrency: int = 0,
        activation: Optional[str] = None,
        heads: int = 0,
        promotion: str = "auto",
        promote_after: int = 0,
        graph: Optional[Path] = None,
        map: Optional[Path] = None,
        built_graph: bool = False,
        tensorrt_cache: Optional[Path] = None,
        tensorrt_fp16: bool = False,
        tensorrt_min_cosine: float = 0.0,
        weights_on: str = "auto",
        device_budget: int = 0,
        cuda_graphs: bool = False,
        streamed: bool = False,
        norm_epsilon: float = 0.0,
        pooling: Optional[str] = None,
        config: Optional[Path] = None,
        mean: "Optional[Sequence[float]]" = None,
        std: "Optional[Sequence[float]]" = None,
        resize: Optional[str] = None,
        interpolation: Optional[str] = None,
        resize_edge: int = 0,
        self_test: str = "auto",
        residency: str = "whole",
        precision: str = "f32",
        onnxruntime_library: Optional[Path] = None,
    ) -> None:
        options = sized("tb_encoder_options")
        texts = encoded(provider), encoded(onnxruntime_library or onnxruntime()), encoded(graph), encoded(map)
        options.provider, options.onnxruntime, options.graph, options.map = texts
        options.device, options.threads, options.concurrency, options.heads = device, threads, concurrency, heads
        if activation is not None:
            options.activation = _choice(_ACTIVATIONS, "activation", activation)
        options.norm_epsilon, options.resize_edge = norm_epsilon, resize_edge
        options.pooling = _numbered(_POOLINGS, "pooling", pooling)
        options.resize = _numbered(_RESIZES, "resize", resize)
        options.interpolation = _numbered(_INTERPOLATIONS, "interpolation", interpolation)
        source, channels = encoded(config), (_channels("mean", mean), _channels("std", std))  # as `texts`
        options.config, (options.mean, options.std) = source, channels
        options.promotion = _choice(_PROMOTIONS, "promotion", promotion)
        options.promote_after, options.built_graph = promote_after, int(built_graph)
        cache = encoded(tensorrt_cache)  # has to live until the call, as `texts` do
        options.tensorrt_cache, options.tensorrt_fp16 = cache, int(tensorrt_fp16)
        options.tensorrt_min_cosine = tensorrt_min_cosine
        options.weights_on = _choice(_WEIGHTS_ON, "weights_on", weights_on)
        options.device_budget, options.cuda_graphs = device_budget, int(cuda_graphs)
        options.streamed = int(streamed)
        options.self_test = _choice(_SELF_TESTS, "self_test", self_test)
        options.residency = _choice(_RESIDENCIES, "residency", residency)
        options.precision = _choice(_PRECISIONS, "precision", precision)
        out = ffi.new("tb_encoder **")
        call_with_runtime(onnxruntime_library, lib.tb_encoder_create, basis._handle, options, out)
        super().__init__(out[0], lib.tb_encoder_free)
        self._basis = basis
        info = self.info()
        self.image_size, self.embedding, self.provider = info["image_size"], info["embedding"], info["provider"]
        self._resize = info["resize"], info["resize_edge"]

    def __call__(self, images: Any, weights: "Union[Weights, Named]") -> Any:
        """The embeddings f32 [n, e] of some images, not normalised, in one run.

        `images`: f32 [n, 3, S, S] (preprocessed) or [3, S, S], u8 [n, H, W, 3], [n, H, W] or one such image, as an
        array or a tensor of PyTorch; a PIL image, a path, or a sequence of these and of u8 arrays. A last dimension may
        be 1 (grey), 3 or 4. `weights`: Weights, or what names them in the encoder's basis. Raises ValueError for what
        is no image, and for a shape that could be several things (u8 [3, H, W]: an image with channels first, or three
        grey ones?); TypeError for what names no weights, MismatchError for weights of another architecture,
        OnnxRuntimeError.
        """
        weights = self._weights(weights)
        if hasattr(images, "__array__") and not hasattr(images, "convert"):
            images = np.asarray(images)
        if isinstance(images, np.ndarray) and images.dtype == np.float32:
            return self._encode(images, weights)
        return self._encode_images(_images(images, self.image_size, self._resize), weights)

    def _weights(self, weights: "Union[Weights, Named]") -> Weights:
        if isinstance(weights, Weights):
            return weights
        if not isinstance(weights, (str, Expression)):
            raise TypeError(f"weights are Weights, or named by a str or an Expression; got {type(weights).__name__}")
        return self._basis.weights(weights)

    def _pixels(self, images: Any) -> Any:
        """Images of every kind as f32 [n, 3, S, S]."""
        if hasattr(images, "__array__") and not hasattr(images, "convert"):
            images = np.asarray(images)
        is_ready = isinstance(images, np.ndarray) and images.dtype == np.float32
        return self._preprocessed(images) if is_ready else self.preprocess(images)

    def _preprocessed(self, pixels: Any) -> Any:
        """Preprocessed images as they are, f32 [n, 3, S, S]."""
        size = self.image_size
        pixels = np.ascontiguousarray(pixels[np.newaxis] if pixels.ndim == 3 else pixels)
        if pixels.shape[1:] != (3, size, size):
            is_last = pixels.ndim == 4 and pixels.shape[3] in _CHANNELS
            raise ValueError(
                f"arrays of f32 are preprocessed images, [n, 3, {size}, {size}] or [3, {size}, {size}]; "
                f"got {list(pixels.shape)}"
                + (", with channels last. Give the pixels as u8, which are then preprocessed" if is_last else "")
            )
        return pixels

    def _encode(self, pixels: Any, weights: Weights) -> Any:
        pixels = self._preprocessed(pixels)
        out = np.empty((len(pixels), self.embedding), np.float32)
        source, target = ffi.cast("float *", pixels.ctypes.data), ffi.cast("float *", out.ctypes.data)
        call(lib.tb_encoder_encode, self._handle, weights._handle, source, len(pixels), target, out.size)
        return out

    def _encode_images(self, images: "list[Any]", weights: Weights) -> Any:
        array, out = _as_c(images), np.empty((len(images), self.embedding), np.float32)
        target = ffi.cast("float *", out.ctypes.data)
        call(lib.tb_encoder_encode_images, self._handle, weights._handle, array, len(images), target, out.size)
        return out

    def preprocess(self, images: Any) -> Any:
        """Images as `__call__` takes them, preprocessed as the model's own library does: f32 [n, 3, S, S]."""
        size = self.image_size
        images = _images(images, size, self._resize)
        out = np.empty((len(images), 3, size, size), np.float32)
        array = _as_c(images)
        for i in range(len(images)):
            target = ffi.cast("float *", out[i].ctypes.data)
            call(lib.tb_encoder_preprocess, self._handle, array + i, target, 3 * size * size, ffi.NULL)
        return out

    def prepare(self, weights: "Union[Weights, Named]") -> None:
        """Reconstructs these weights where this encoder reads them, unless they are there: the next call need not."""
        call(lib.tb_encoder_prepare, self._handle, self._weights(weights)._handle)

    def is_prepared(self, weights: "Union[Weights, Named]") -> bool:
        """Whether the next call with these weights need not reconstruct them."""
        out = ffi.new("int32_t *")
        call(lib.tb_encoder_is_prepared, self._handle, self._weights(weights)._handle, out)
        return bool(out[0])

    def device_stats(self) -> "dict[str, int]":
        """What the encoder's basis takes on its device: nothing, where weights are in the host's memory."""
        stats = sized("tb_device_statistics")
        call(lib.tb_encoder_device_stats, self._handle, self._basis._handle, stats)
        return fields(stats)

    def promote(self, weights: "Union[Weights, Named]", wait: bool = True) -> None:
        """Gives these weights a session of their own, which runs faster and takes as much memory as they do."""
        call(lib.tb_encoder_promote, self._handle, self._weights(weights)._handle, int(wait))

    def demote(self, weights: "Union[Weights, Named]") -> None:
        """Drops that session."""
        call(lib.tb_encoder_demote, self._handle, self._weights(weights)._handle)

    def promotion(self, weights: "Union[Weights, Named]") -> str:
        """How these weights run: "inputs", "building", "promoted" or "failed"; "unneeded" where promotion gains nothing."""
        state = ffi.new("int32_t *")
        call(lib.tb_encoder_promotion, self._handle, self._weights(weights)._handle, state)
        return _STATES[state[0]]

    def info(self) -> "dict[str, Any]":
        """What is really used: provider, device and why `auto` fell back (empty: it did not), where weights are ("host" or
        "device") and why not on the device, threads, sessions, ONNX Runtime's file and version, the architecture, the
        preparation of images, what of both was assumed (empty: nothing), the precision (of several the narrowest; `precisions`
        has that of each kind of layer, `precision_reason` why "auto" took them), and which graph: "built", "bundle" (the
        one that it carries) or "file".
        """
        info = sized("tb_encoder_properties")
        call(lib.tb_encoder_info, self._handle, info)
        told = fields(info)
        told["graph"] = _GRAPHS[told["graph"]]
        told["precision"] = tuple(_PRECISIONS)[told["precision"]]
        told["weights_on"] = ("auto", "host", "device")[told["weights_on"]]
        told["activation"] = ("quick_gelu", "gelu", "gelu_tanh")[told["activation"]]
        told["pooling"] = _POOLINGS[told["pooling"] - 1]
        told["resize"] = _RESIZES[told["resize"] - 1]
        told["interpolation"] = _INTERPOLATIONS[told["interpolation"] - 1]
        return told

    def trim(self) -> None:
        """Gives back the memory that ONNX Runtime keeps for the next call."""
        call(lib.tb_encoder_trim, self._handle)

    def __repr__(self) -> str:
        return f"Encoder({self.provider}, {self.image_size}×{self.image_size} px → {self.embedding})"


class Score(NamedTuple):
    """A class and how likely it is."""

    class_index: int
    name: str
    logit: float
    probability: float


class Head(Handle):
    """The classification head of a task: logits = W·(e/|e|) + b."""

    #: The class names; numbers where none are known.
    classes: "tuple[str, ...]"
    #: What makes probabilities of logits: "softmax", or "sigmoid" of each class by itself (SigLIP's).
    function: str

    def __init__(self, path: Path, task: Optional[str] = None, classes: Optional[Path] = None) -> None:
        out = ffi.new("tb_head **")
        call(lib.tb_head_open, encoded(path), encoded(task), encoded(classes), out)
        super().__init__(out[0], lib.tb_head_free)
        count, name, names = ffi.new("size_t *"), ffi.new("char **"), []
        call(lib.tb_head_classes, self._handle, count)
        for index in range(count[0]):
            call(lib.tb_head_class_name, self._handle, index, name)
            names.append(text(name[0]))
        self.classes = tuple(names)
        function = ffi.new("uint32_t *")
        call(lib.tb_head_function, self._handle, function)
        self.function = _FUNCTIONS[function[0] - 1]

    def logits(self, embeds: Any) -> Any:
        """The logits f32 [n, C] of embeddings f32 [n, e]."""
        return self._classify(embeds, 0)[0]

    def classify(self, embeds: Any, top: Optional[int] = None) -> "list[list[Score]]":
        """The `top` best classes of each embedding, the best first; by default three, or all where there are fewer. Raises
        InvalidArgumentError for more than there are."""
        if top is not None and top < 0:
            raise ValueError(f"top is at least 0; got {top}")
        scores = self._classify(embeds, min(3, len(self.classes)) if top is None else top)[1]
        return [[self._score(s) for s in row] for row in scores]

    @staticmethod
    def classify_many(heads: "Sequence[Head]", embeds: Any, top: int = 3) -> "list[list[list[Score]]]":
        """`classify()` by several heads in one call: for each head, the `top` best classes of each embedding, or all
        classes where it has fewer."""
        if top < 0:
            raise ValueError(f"top is at least 0; got {top}")
        embeds = _rows(embeds)
        n, width = embeds.shape
        top = min(top, max((len(head.classes) for head in heads), default=0))
        handles = ffi.new("tb_head *[]", [head._handle for head in heads] or [ffi.NULL])
        scores = ffi.new("tb_score[]", max(len(heads) * n * top, 1))
        source = ffi.cast("float *", embeds.ctypes.data)
        best = scores if top else ffi.NULL
        call(lib.tb_head_classify_many, handles, len(heads), source, n, width, ffi.NULL, 0, best, top)
        return [
            [
                [head._score(scores[(at * n + i) * top + k]) for k in range(min(top, len(head.classes)))]
                for i in range(n)
            ]
            for at, head in enumerate(heads)
        ]

    def _score(self, score: Any) -> Score:
        return Score(score.class_index, self.classes[score.class_index], score.logit, score.probability)

    def _classify(self, embeds: Any, top: int) -> "tuple[Any, list[list[Any]]]":
        embeds = _rows(embeds)
        n, width = embeds.shape
        # A larger `top` is refused before anything is written.
        room = n * min(top, len(self.classes))
        logits, scores = np.empty((n, len(self.classes)), np.float32), ffi.new("tb_score[]", max(room, 1))
        source, target = ffi.cast("float *", embeds.ctypes.data), ffi.cast("float *", logits.ctypes.data)
        best = scores if top else ffi.NULL
        call(lib.tb_head_classify, self._handle, source, n, width, target, logits.size, best, top)
        return logits, [[scores[i * top + k] for k in range(top)] for i in range(n)]


def _rows(embeds: Any) -> Any:
    """Embeddings as f32 [n, e]; one alone is [e]."""
    embeds = np.ascontiguousarray(embeds, np.float32)
    return embeds[np.newaxis] if embeds.ndim == 1 else embeds


def _choice(known: "dict[str, str]", what: str, value: str) -> int:
    if value not in known:
        raise ValueError(f"{what} is one of {', '.join(known)}; got {value!r}")
    return constants[known[value]]


def _numbered(known: "tuple[str, ...]", what: str, value: Optional[str]) -> int:
    """The place of a name, counted from 1; 0 where there is none."""
    if value is None:
        return 0
    if value not in known:
        raise ValueError(f"{what} is one of {', '.join(known)}; got {value!r}")
    return known.index(value) + 1


def _channels(what: str, values: "Optional[Sequence[float]]") -> Any:
    """Three floats for C; NULL where there are none."""
    if values is None:
        return ffi.NULL
    if len(values) != 3:
        raise ValueError(f"{what} is three numbers; got {len(values)}")
    return ffi.new("float[3]", [float(value) for value in values])


def _images(images: Any, size: int, resize: "tuple[str, int]") -> "list[Any]":
    """Every image as a contiguous array u8 [H, W, 3], [H, W, 4] or [H, W]; `size` is S."""
    if hasattr(images, "__array__") and not hasattr(images, "convert"):
        images = np.asarray(images)
    if isinstance(images, np.ndarray):
        is_batch = images.ndim == 4 or (images.ndim == 3 and not _is_one(images))
        images = list(images) if is_batch else [images]
    elif isinstance(images, (str, os.PathLike)) or hasattr(images, "convert"):
        images = [images]
    return [_image(image, size, resize) for image in images]


def _is_one(array: Any) -> bool:
    """Whether three dimensions are one image with channels last, not several grey ones. Raises ValueError where they
    could as well be an image with channels first."""
    _check_order(array)
    first, _, last = array.shape
    if first in (3, 4):
        raise ValueError(
            f"{_shape(array)} could be one image with channels first, or {first} grey ones: give the image as "
            "array.transpose(1, 2, 0), or grey ones as list(array)"
        )
    if last < _LEAST_WIDTH and last not in _CHANNELS:
        raise ValueError(
            f"{_shape(array)} could be one image with {last} channels, which are not known here (grey and alpha? give "
            f"array[..., 0], or one of PIL), or {first} grey ones, {last} wide: give these as list(array)"
        )
    return last in _CHANNELS


def _check_order(image: Any) -> None:
    """Raises ValueError for one image of which nothing tells whether its channels are first or last."""
    if image.shape[0] in _CHANNELS and image.shape[2] in _CHANNELS:
        raise ValueError(
            f"{_shape(image)} does not tell whether channels are first or last: an image as narrow as this can be given "
            "as one of PIL"
        )


def _shape(array: Any) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _image(image: Any, size: int, resize: "tuple[str, int]") -> Any:
    if isinstance(image, (str, os.PathLike)):
        from PIL import Image

        with Image.open(image) as opened:
            return _image(opened, size, resize)
    if hasattr(image, "convert"):
        image = _of_pillow(image, resize)
    else:
        image = np.asarray(image)
        if image.ndim == 3:
            _check_order(image)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in _CHANNELS):
        is_first = image.ndim == 3 and image.shape[0] in _CHANNELS
        raise ValueError(
            f"an image is u8 [H, W, 3], [H, W, 4] or [H, W], preprocessed ones are one array f32 [n, 3, {size}, {size}]; "
            f"got {_shape(image)}"
            + (", with channels first: array.transpose(1, 2, 0) puts them last" if is_first else "")
        )
    # A channel that is the only one is no dimension.
    return np.ascontiguousarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)


def _of_pillow(image: Any, resize: "tuple[str, int]") -> Any:
    """A PIL image as an array that the library preprocesses to what open_clip makes of the image, which resizes it
    before it converts it."""
    if image.mode in ("RGB", "RGBA", "L"):
        return np.asarray(image)
    if image.mode in ("P", "1"):
        # Indices cannot be averaged: Pillow takes the nearest ones. What comes out has the size that the library would
        # resize it to, and is not resized again.
        return np.asarray(image.resize(_resized(image.size, *resize), resample=0).convert("RGB"))
    if image.mode in ("LA", "La", "PA", "RGBa"):
        return np.asarray(image.convert("RGBA"))
    if image.mode.startswith("I;16"):
        return (np.asarray(image) >> 8).astype(np.uint8)
    if image.mode in ("I", "F"):
        raise ValueError(f"an image of mode {image.mode} has no known range: convert it to L or RGB first")
    return np.asarray(image.convert("RGB"))


def _resized(size: "tuple[int, int]", mode: str, edge: int) -> "tuple[int, int]":
    """What an image of this width and height is resized to."""
    width, height = (max(side, 1) for side in size)
    if mode == "squash":
        return edge, edge
    if mode == "longest":
        ratio = max(width, height) / edge
        return max(round(width / ratio), 1), max(round(height / ratio), 1)
    short = min(width, height)
    return edge * width // short, edge * height // short


def _as_c(images: "list[Any]") -> Any:
    """The images as C sees them; they have to outlive what is returned."""
    formats = {2: "TB_PIXELS_GRAY8", 3: "TB_PIXELS_RGB8", 4: "TB_PIXELS_RGBA8"}
    array = ffi.new("tb_image[]", max(len(images), 1))
    for slot, image in zip(array, images):
        slot.data = ffi.cast("uint8_t *", image.ctypes.data)
        slot.height, slot.width = image.shape[:2]
        slot.format = constants[formats[2 if image.ndim == 2 else image.shape[2]]]
    return array
