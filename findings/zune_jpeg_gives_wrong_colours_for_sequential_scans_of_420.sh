#!/usr/bin/env bash
# zune-jpeg 0.5.15 (the decoder behind the `image` crate): a sequential JPEG with 4:2:0 sampling whose components come in
# a scan each, as `cjpeg -scans` writes it, decodes without an error to other colours: off by half of the range on
# average. The same image in one scan is right, and so are three scans of 4:4:4 or 4:2:2.
#
# A good guess would be that a decoder that reads progressive files, which have many scans, reads sequential ones with
# several too, or refuses them. Some cameras and servers write them, and nothing tells a program that its pixels are
# wrong. jpeg-decoder 0.3.2 reads this file.
#
# Seen, beside Pillow 12.2.0: 4:2:0 in one scan: mean difference 0.1 levels; in three: 129; jpeg-decoder: 0.1.
# Needs cargo, and Debian 12's packages for `cjpeg` (libjpeg-turbo-progs 1:2.1.5-2).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pillow==12.2.0 numpy==2.3.5
apt-get download -qq libjpeg-turbo-progs=1:2.1.5-2 libjpeg62-turbo=1:2.1.5-2
for package in ./*.deb; do dpkg-deb -x "$package" debian; done
mkdir -p decode/src
cat > decode/Cargo.toml <<'TOML'
[package]
name = "decode"
version = "0.0.0"
edition = "2021"

[dependencies]
zune-jpeg = "=0.5.15"
zune-core = "=0.5.1"
jpeg-decoder = { version = "=0.3.2", default-features = false }
TOML
cat > decode/src/main.rs <<'RUST'
use std::io::Cursor;

fn main() {
    let path = std::env::args().nth(1).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let zune = zune_jpeg::JpegDecoder::new(Cursor::new(&bytes)).decode().unwrap();
    let other = jpeg_decoder::Decoder::new(&bytes[..]).decode().unwrap();
    std::fs::write(format!("{path}.zune-jpeg"), zune).unwrap();
    std::fs::write(format!("{path}.jpeg-decoder"), other).unwrap();
}
RUST
cargo build --quiet --release --manifest-path decode/Cargo.toml --target-dir target
venv/bin/python - <<'PYTHON'
import os
import subprocess

import numpy as np
from PIL import Image

rows, columns = np.mgrid[0:48, 0:64]
image = np.stack([columns * 4 % 256, rows * 5 % 256, (255 - columns * 2 - rows) % 256], -1).astype(np.uint8)
Image.fromarray(image).save("image.ppm")
with open("scans.txt", "w") as scans:
    scans.write("0;\n1;\n2;\n")
library = {**os.environ, "LD_LIBRARY_PATH": "debian/usr/lib/x86_64-linux-gnu:debian/usr/lib/aarch64-linux-gnu"}
for sampling in ("1x1", "2x1", "2x2"):
    for options in ([], ["-scans", "scans.txt"]):
        name = f"{sampling}_{len(options)}.jpg"
        command = ["debian/usr/bin/cjpeg", "-quality", "95", "-sample", sampling, *options, "-outfile", name, "image.ppm"]
        subprocess.run(command, check=True, env=library)
        subprocess.run(["target/release/decode", name], check=True)
        right = np.asarray(Image.open(name)).astype(int)
        for decoder in ("zune-jpeg", "jpeg-decoder"):
            mean = np.abs(np.fromfile(f"{name}.{decoder}", np.uint8).reshape(right.shape) - right).mean()
            print(f"{sampling}, {'three scans' if options else 'one scan'}, {decoder}: mean difference {mean:.1f} levels")
            is_wrong = decoder == "zune-jpeg" and sampling == "2x2" and options != []
            assert (mean > 50) == is_wrong and (is_wrong or mean < 1)
PYTHON
