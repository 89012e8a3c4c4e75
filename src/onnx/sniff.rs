//! The kind of a file that is no ONNX model, where its first bytes say so.

use crate::checkpoint::sniff::is_lfs_pointer;
use crate::error::Error;

/// The error for a file that begins like something else than an ONNX model; `None` where it may be one.
pub(super) fn objection(bytes: &[u8]) -> Option<Error> {
    if bytes.is_empty() {
        return Some(Error::format("the file is empty"));
    }
    if is_lfs_pointer(bytes) {
        return Some(lfs_pointer());
    }
    let no_model = |what: &str, hint: &str| Some(Error::format(format!("{what}, no ONNX model")).hint(hint));
    let page = bytes.trim_ascii_start();
    let begins = |start: &[u8]| page.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start));
    if begins(b"<!doctype html") || begins(b"<html") || begins(b"<?xml") {
        no_model("a web page", "Was it downloaded from the page of the file, not the file?")
    } else if bytes.starts_with(b"PK\x03\x04") {
        no_model("a zip archive, as torch.save writes them", "Export the model with torch.onnx.export")
    } else if bytes.starts_with(&[0x1f, 0x8b]) {
        no_model("a gzip file", "Unpack it")
    } else if bytes.get(4..8) == Some(b"ORTM") {
        no_model("a model in ONNX Runtime's own format", "Give the .onnx file that it was made of")
    } else if bytes.get(4..8) == Some(b"TFL3") {
        no_model("a TensorFlow Lite model", "Export it as .onnx")
    } else if bytes.starts_with(b"ftrt") {
        no_model("a TensorRT engine", "Give the .onnx file that it was made of; --provider tensorrt builds the engine")
    } else if bytes.get(8) == Some(&b'{') && bytes.get(5..8) == Some(&[0; 3]) {
        no_model("a safetensors file", "Weights are --base; a graph is what torch.onnx.export writes")
    } else {
        None
    }
}

/// The error for a pointer of Git LFS in the place of a file.
pub(super) fn lfs_pointer() -> Error {
    Error::format("a git-LFS pointer, not the file that it stands for").hint("Run `git lfs pull`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_files_are_called_by_their_name() {
        for (bytes, said) in [
            (&b""[..], "empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-LFS pointer"),
            (b" <!DOCTYPE html><html>", "a web page"),
            (b"PK\x03\x04....", "torch.save"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"\x20\0\0\0ORTM", "ONNX Runtime's own format"),
            (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
            (b"ftrt\0\0", "TensorRT"),
            (b"\x40\0\0\0\0\0\0\0{\"a\":", "safetensors"),
        ] {
            assert!(objection(bytes).unwrap().to_string().contains(said), "{said}");
        }
        // The version of the format, and the name of who wrote it.
        assert!(objection(b"\x08\x08\x12\x07pytorch").is_none());
    }
}
