"""Every command of the program that writes, on the digits family: what `kill.py` and `power.py` break off."""

import array
import http.server
import hashlib
import json
import os
import random
import re
import subprocess
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = str(Path(os.environ.get("TASKBASIS", ROOT / "target/debug/taskbasis")).resolve())
DIGITS = ROOT / "examples/digits"
MODEL = ["--basis", DIGITS / "bases/ViT-D-8_AE_M4_8task", "--base", DIGITS / "base/pickled_module.pt"]
COMMIT = "c0ffee" + "0" * 34
#: The files of the repository that is pulled.
PULLED = {
    "folder/large.bin": random.Random(1).randbytes(300_000),
    "folder/inner/small.json": b"{}",
    "folder/second.bin": random.Random(2).randbytes(20_000),
}


class Scene:
    """A command, and the output that it makes."""

    def __init__(self, name, arguments, output="out", old=b"the old file", environment=()):
        self.name, self.arguments, self.output = name, arguments, output
        #: What is at the output before: bytes, a file to copy, or nothing.
        self.old, self.environment = old, dict(environment)

    def prepare(self, folder):
        """Fills the folder that the command is run in."""
        if self.old is not None:
            old = self.old if isinstance(self.old, bytes) else Path(self.old).read_bytes()
            (Path(folder) / self.output).write_bytes(old)

    def start(self, folder):
        """Starts the command in `folder`."""
        command = [PROGRAM, *map(str, self.arguments)]
        return subprocess.Popen(command, cwd=folder, env=os.environ | self.environment, stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)

    def run(self, folder):
        """Runs the command to its end, which has to be a good one."""
        command = self.start(folder)
        told = command.communicate()[1].decode()
        if command.returncode != 0:
            raise SystemExit(f"{self.name} failed by itself: {told}")


def run(folder, *arguments):
    """Runs the program, which has to succeed."""
    Scene(arguments[0], arguments).run(folder)


def save(path, tensors):
    """Writes f32 tensors as safetensors."""
    header, end = {}, 0
    for name, (shape, values) in tensors.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + 4 * len(values)]}
        end += 4 * len(values)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, values in tensors.values():
            values.tofile(file)


def text_model(path):
    """Writes a small text tower."""
    width, embedding, rng = 32, 24, random.Random(7)
    shapes = {"token_embedding.weight": [49_408, width], "positional_embedding": [77, width]}
    layer = {"ln_1.weight": [width], "ln_1.bias": [width], "attn.in_proj_weight": [3 * width, width],
             "attn.in_proj_bias": [3 * width], "attn.out_proj.weight": [width, width], "attn.out_proj.bias": [width],
             "ln_2.weight": [width], "ln_2.bias": [width], "mlp.c_fc.weight": [4 * width, width],
             "mlp.c_fc.bias": [4 * width], "mlp.c_proj.weight": [width, 4 * width], "mlp.c_proj.bias": [width]}
    shapes |= {f"transformer.resblocks.0.{name}": shape for name, shape in layer.items()}
    shapes |= {"ln_final.weight": [width], "ln_final.bias": [width], "text_projection": [width, embedding]}
    tensors = {}
    for name, shape in shapes.items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        tensors[name] = (shape, array.array("f", [rng.uniform(-0.1, 0.1) for _ in range(count)]))
    tensors["logit_scale"] = ([], array.array("f", [4.6]))
    save(path, tensors)


def stage(folder):
    """The scenes, with the files that they read in `folder`; and the server that one asks."""
    folder = Path(folder)
    tasks = []
    for name, weights in [("T0", "MNIST"), ("T1", "Inverted"), ("T2", "Rotated"), ("T3", "MNIST - Inverted@0.5")]:
        path = folder / f"{name}.safetensors"
        run(folder, "reconstruct", *MODEL, "--weights", weights, "-o", path)
        tasks.append(f"{name}={path}")
    bundle = folder / "x.taskbasis"
    run(folder, "pack", *MODEL, "--no-golden", "-o", bundle)
    text_model(folder / "text.safetensors")
    (folder / "classes.json").write_text(json.dumps({"Pets": ["cat", "dog"]}))
    (folder / "templates.json").write_text(json.dumps(["a photo of a {}."]))
    base = MODEL[3]
    build = ["build", "--base", base, "--task", tasks[0], "--task", tasks[1], "--task", tasks[2], "--vectors", "2"]
    server = Server()
    image, weights = DIGITS / "eight.png", ["--weights", "MNIST"]
    text = ["--text-model", folder / "text.safetensors", "--heads-count", "2", "--activation", "quick_gelu"]
    text += ["--classes", folder / "classes.json", "--templates", folder / "templates.json"]
    scenes = [
        Scene("pack", ["pack", *MODEL, "--no-golden", "-o", "out"]),
        Scene("pack-residual", ["pack", *MODEL, "-o", "out", "--residual", "q4", "--residual-above", "0.0",
                                "--finetuned-dir", finetuned(folder / "tuned", tasks)]),
        Scene("add-task", ["add-task", "out", "--task", tasks[3], "--residual", "q4"], old=bundle),
        Scene("add-task-o", ["add-task", bundle, "--task", tasks[3], "-o", "out"]),
        Scene("build", [*build, "-o", "out"], old=None),
        Scene("build-bundle", [*build, "--no-golden", "-o", "out.taskbasis"], output="out.taskbasis"),
        Scene("reconstruct", ["reconstruct", *MODEL, *weights, "-o", "out"]),
        Scene("embed", ["embed", *MODEL, *weights, "-i", image, "-o", "out"]),
        Scene("export", ["export", *MODEL, *weights, "-o", "out"]),
        Scene("bind", ["bind", DIGITS / "onnx/torchscript_export_opset16.onnx", *MODEL, "-o", "out"]),
        Scene("heads", ["heads", *text, "-o", "out"]),
        Scene("pull", ["pull", "owner/bases", "folder"], output="hub", old=None, environment=server.environment()),
    ]
    return scenes, server


def finetuned(folder, tasks):
    """The fine-tuned checkpoints as `--finetuned-dir` takes them, called after tasks of the basis."""
    folder.mkdir()
    for name, task in zip(["MNIST", "Inverted"], tasks):
        (folder / f"{name}.safetensors").write_bytes(Path(task.split("=")[1]).read_bytes())
    return folder


class Server:
    """A server on this machine that answers as the Hub does."""

    def __init__(self):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        # Those who ask are killed in the midst of it.
        self.server.handle_error = lambda *_: None
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def environment(self):
        """What has the program ask this server, for a cache in the working folder."""
        return {"HF_ENDPOINT": f"http://127.0.0.1:{self.server.server_port}", "HF_HUB_CACHE": "hub",
                "HF_HOME": "home", "NO_PROXY": "127.0.0.1", "TASKBASIS_HUB_RETRY_MS": "5"}


class Answers(http.server.BaseHTTPRequestHandler):
    """The Hub's answers for one repository."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Answers a request."""
        path, status = self.path.split("?")[0], 200
        if "/revision/" in path:
            body = json.dumps({"sha": COMMIT}).encode()
        elif "/tree/" in path:
            body = json.dumps([listed(name, content) for name, content in PULLED.items()]).encode()
        else:
            body = PULLED.get(path.split(f"/resolve/{COMMIT}/")[-1], b"")
            first = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if first and int(first[1]) < len(body):
                status, whole, body = 206, len(body), body[int(first[1]):]
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {whole - len(body)}-{whole - 1}/{whole}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Says nothing."""


def digest(name, content):
    """The hash that a file is known by."""
    if name.endswith(".bin"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def listed(name, content):
    """A file's line of a listing."""
    line = {"type": "file", "path": name, "size": len(content), "oid": digest(name, content)}
    if name.endswith(".bin"):
        line["lfs"] = {"oid": digest(name, content), "size": len(content)}
    return line


def content(path):
    """The bytes of a file, or a folder's content by name, links as where they lead; `None` for nothing."""
    path = Path(path)
    if path.is_symlink():
        return os.readlink(path)
    if path.is_dir():
        return {inner.name: content(inner) for inner in path.iterdir()}
    return path.read_bytes() if path.is_file() else None


def wrong_in_cache(cache):
    """What is wrong in a cache of the Hub, whose content is given by name; `None` where nothing is. What is not there
    yet is not wrong."""
    repository = (cache or {}).get("models--owner--bases", {})
    hashes = {digest(name, bytes_): bytes_ for name, bytes_ in PULLED.items()}
    blobs = {name: blob for name, blob in repository.get("blobs", {}).items() if not name.endswith(".incomplete")}
    for name, blob in blobs.items():
        if hashes.get(name) != blob:
            return f"the blob {name} has other content"
    for name, reference in repository.get("refs", {}).items():
        if reference != COMMIT.encode():
            return f"the reference {name} is {reference!r}"
    links = flat(repository.get("snapshots", {}).get(COMMIT, {}))
    for name, link in links.items():
        if name not in PULLED or link.rsplit("/", 1)[-1] not in blobs:
            return f"the link {name} leads to {link}, which is not there"
    if repository.get("refs") and len(links) < len(PULLED):
        return "the reference leads to a snapshot that is not whole"
    return None


def flat(folder, before=""):
    """The files of a folder and of those in it, by their paths."""
    found = {}
    for name, inner in folder.items():
        found |= flat(inner, f"{before}{name}/") if isinstance(inner, dict) else {before + name: inner}
    return found


def judge(scene, found, old, new):
    """What is wrong with an output: `None` where it is the old one or the new, whole."""
    if scene.name == "pull":
        return wrong_in_cache(found)
    if found == new or found == old:
        return None
    return "the output is neither the old one nor the new"


def left(folder):
    """What is ours beside the outputs in a folder."""
    return sorted(name for name in os.listdir(folder) if name.startswith(".taskbasis-"))
