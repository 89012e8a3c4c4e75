//! What a file is that is no checkpoint, where its first bytes say so: most such files are not damaged, but something
//! else that was taken for one.
#![forbid(unsafe_code)]

use crate::error::Error;

/// How pointer files of Git LFS begin: <https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>.
const LFS: &[u8] = b"version https://git-lfs.github.com/spec/";

/// The error for `bytes` that are not the weights they were taken for; `otherwise` where nothing more can be told.
pub(crate) fn refused(bytes: &[u8], otherwise: &str) -> Error {
    let page = bytes.trim_ascii_start();
    let begins = |start: &[u8]| page.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start));
    if bytes.is_empty() {
        Error::format("the file is empty")
    } else if is_lfs_pointer(bytes) {
        Error::format("a git-LFS pointer, not the file that it stands for").hint("Run `git lfs pull`")
    } else if begins(b"<!doctype html") || begins(b"<html") {
        Error::format("a web page, no weights").hint("Was it downloaded from the page of the file, not the file?")
    } else if is_onnx(bytes) {
        Error::format("an ONNX model, no checkpoint").hint("See `taskbasis bind --help`")
    } else {
        Error::format(otherwise)
    }
}

/// Whether `bytes` are a pointer of Git LFS, not the file that it stands for.
pub(crate) fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(LFS)
}

/// Whether `bytes` begin as exporters let ONNX models begin: the version of the format (field 1, a small number), then
/// the producer's name, the graph or the operator sets (fields 2, 7 and 8).
fn is_onnx(bytes: &[u8]) -> bool {
    matches!(bytes, [0x08, 1..=0x7f, 0x12 | 0x3a | 0x42, ..])
}
