#!/usr/bin/env bash
# The crate zip 9.8.2: a program copies two files into an archive, and the source of the second fails halfway, so the
# program returns its error with `?`. The ZipWriter is dropped on the way out.
#
# A good guess would be that the file on the disk is then no archive (no central directory), as other writers leave it,
# so that no reader takes what was cut short for whole. But dropping the writer completes the archive: a central
# directory is written, with the length and the checksum of what had arrived. Every reader opens it, and the check of
# the checksum passes for the entry that lacks its end. `abort_file` before the return is what leaves the entry out.
#
# Seen: the entry `second` is listed with 600 of its 1000 bytes, and reads without an error.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/src"
cat >"$work/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"

[dependencies]
zip = { version = "=9.8.2", default-features = false }
TOML
cat >"$work/src/main.rs" <<'RUST'
use std::fs::File;
use std::io::{self, Read, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// Gives `length` bytes, then fails.
struct Failing(usize);

impl Read for Failing {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::Error::other("the disk is gone"));
        }
        let n = out.len().min(self.0);
        out[..n].fill(7);
        self.0 -= n;
        Ok(n)
    }
}

fn write(path: &str) -> io::Result<()> {
    let mut zip = ZipWriter::new(File::create(path)?);
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    zip.start_file("first", stored)?;
    zip.write_all(&[1; 1000])?;
    zip.start_file("second", stored)?;
    // 1000 bytes were to come.
    io::copy(&mut Failing(600), &mut zip)?;
    zip.finish()?;
    Ok(())
}

fn main() {
    let path = std::env::args().nth(1).unwrap();
    let failed = write(&path).unwrap_err();
    let mut archive = ZipArchive::new(File::open(&path).unwrap()).expect("an archive all the same");
    let mut bytes = Vec::new();
    archive.by_name("second").unwrap().read_to_end(&mut bytes).expect("its checksum is that of what arrived");
    println!("writing said: {failed}; reading gives {} entries, `second` of {} bytes", archive.len(), bytes.len());
    assert_eq!((archive.len(), bytes.len()), (2, 600));
}
RUST
cargo run --quiet --manifest-path "$work/Cargo.toml" -- "$work/out.zip"
