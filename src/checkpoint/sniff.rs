//! Files that are no checkpoints, told by their first bytes: most such files are not damaged, but something else that
//! was taken for one. Each is named, with the command that makes a checkpoint of it where there is one.

mod text;

use std::path::Path;

use crate::error::Error;
use crate::mmap::{MapMode, Mapping};

/// A file that its first bytes give away.
struct KnownFile {
    /// The place of the signature.
    at: usize,
    signature: &'static [u8],
    /// The kind of file, as a clause.
    what: &'static str,
    hint: &'static str,
}

/// The beginning of Git LFS's pointer files: <https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";
const ORIGINAL: &str = "It holds a converted model: give the PyTorch or safetensors checkpoint that it was made from";
const LIBRARY_4: &str = "Version 4 of transformers converts it: python -c \"from transformers import CLIPModel; \
    CLIPModel.from_pretrained('FOLDER', from_tf=True).save_pretrained('OUT')\", with from_flax=True for Flax";
/// Makes a state dict of a dict of arrays that Python's pickle wrote. It runs what the file says, as pickles do.
const PICKLED: &str = "If you trust the file, as unpickling may run code of it: python -c \"import pickle, torch; \
    d = pickle.load(open('IN', 'rb')); torch.save({k: torch.as_tensor(v) for k, v in d.items()}, 'OUT.pt')\"";
/// Loads tensors and nothing else, whatever wrote them.
const SAVE_AGAIN: &str = "Save it again: python -c \"import torch; \
    torch.save(torch.load('IN', map_location='cpu', weights_only=True), 'OUT.pt')\"";
const ARRAYS: &str = "Save it again: python -c \"import numpy; from safetensors.numpy import save_file; \
    save_file({k: numpy.ascontiguousarray(v) for k, v in numpy.load('IN').items()}, 'OUT.safetensors')\"";
/// The file that only a basis folder has.
pub(super) const BASIS: &str = "method_info.json";
const DISTRIBUTED: &str =
    "Make one file of the folder: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER OUT.pt";

const fn file(at: usize, signature: &'static [u8], what: &'static str, hint: &'static str) -> KnownFile {
    KnownFile { at, signature, what, hint }
}

const KNOWN_FILES: [KnownFile; 23] = [
    file(0, LFS_POINTER, "a git-LFS pointer, not the file that it stands for", "Run `git lfs pull`"),
    file(0, b"GGUF", "a GGUF file, no checkpoint", ORIGINAL),
    file(0, b"GGML", "a GGML file, no checkpoint", ORIGINAL),
    file(0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras, TensorFlow), no checkpoint of PyTorch", LIBRARY_4),
    file(0, b"\x93NUMPY", "a single NumPy array, no checkpoint", "Save a dict of named arrays as safetensors"),
    file(0, b"\x1f\x8b", "compressed with gzip", "Unpack it: gunzip FILE, or tar xzf FILE"),
    file(0, b"BZh", "compressed with bzip2", "Unpack it: bunzip2 FILE, or tar xjf FILE"),
    file(0, b"\xfd7zXZ\0", "compressed with xz", "Unpack it: unxz FILE, or tar xJf FILE"),
    file(0, b"\x28\xb5\x2f\xfd", "compressed with Zstandard", "Unpack it: unzstd FILE"),
    file(0, b"\x04\x22\x4d\x18", "compressed with LZ4", "Unpack it: unlz4 FILE"),
    file(0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "Unpack it: 7z x FILE"),
    file(0, b"Rar!\x1a\x07", "a RAR archive", "Unpack it: unrar x FILE"),
    file(257, b"ustar", "a tar archive", "Unpack it: tar xf FILE"),
    file(4, b"TFL3", "a TensorFlow Lite model, no checkpoint", ORIGINAL),
    file(4, b"ET12", "an ExecuTorch program, no checkpoint", ORIGINAL),
    file(0, b"RIFF", "a RIFF container (WebP, AVI, WAV), no checkpoint", "Is it the right file?"),
    file(0, b"\x89PNG", "a PNG image, no checkpoint", "Images are given with -i"),
    file(0, b"\xff\xd8\xff", "a JPEG image, no checkpoint", "Images are given with -i"),
    file(0, b"%PDF", "a PDF document, no checkpoint", "Is it the right file?"),
    file(0, b"\x7fELF", "a program or library, no checkpoint", "Is it the right file?"),
    file(0, b"PAR1", "a Parquet table, no checkpoint", "Is it the right file?"),
    file(0, b"SQLite format 3", "an SQLite database, no checkpoint", "Is it the right file?"),
    file(0, b"ftrt", "a TensorRT engine, no checkpoint", ORIGINAL),
];

/// The bytes of a file's beginning that tell its kind.
pub(crate) const HEAD: usize = 128 << 10;

/// The error for `bytes`, the first [`HEAD`] of a file, that are not the weights they were taken for; `otherwise` where
/// nothing more can be told.
pub(crate) fn refused(bytes: &[u8], otherwise: &str) -> Error {
    let is = |file: &&KnownFile| bytes.get(file.at..).is_some_and(|rest| rest.starts_with(file.signature));
    if bytes.is_empty() {
        return Error::format("the file is empty");
    }
    if let Some(file) = KNOWN_FILES.iter().find(is) {
        return Error::format(file.what).hint(file.hint);
    }
    if bytes.iter().take(4096).all(|&byte| byte == 0) {
        return Error::format("the file is all zeros where it should begin").hint("Was its download cut short?");
    }
    if is_pickle(bytes) {
        return Error::format("a Python pickle, not what torch.save writes").hint(PICKLED);
    }
    if let Some(error) = text::refused(bytes) {
        return error;
    }
    if is_core_ml(bytes) {
        return Error::format("a Core ML model, no checkpoint").hint(ORIGINAL);
    }
    if is_onnx(bytes) {
        return Error::format("an ONNX model, no checkpoint").hint("See `taskbasis bind --help`");
    }
    if is_msgpack(bytes) {
        return Error::format("a MessagePack file (Flax), no checkpoint of PyTorch").hint(LIBRARY_4);
    }
    Error::format(otherwise)
}

/// The error for PyTorch's format from before 1.6.
pub(super) fn before_1_6() -> Error {
    Error::unsupported("written by PyTorch before 1.6").hint(SAVE_AGAIN)
}

/// The error for a file whose name at `path` gives away what its content does not.
pub(super) fn by_name(path: &Path) -> Option<Error> {
    let name = path.file_name()?.to_str()?;
    let (what, hint) = if name.ends_with(".distcp") || name == ".metadata" {
        ("one file of a distributed checkpoint of PyTorch", DISTRIBUTED)
    } else if name.contains(".data-0000") || name.ends_with(".ckpt.index") || name.ends_with(".ckpt.meta") {
        ("one file of a TensorFlow checkpoint", LIBRARY_4)
    } else if name == "saved_model.pb" {
        ("a TensorFlow model", ORIGINAL)
    } else if is_openvino(path) {
        ("the weights of an OpenVINO model", ORIGINAL)
    } else {
        return None;
    };
    Some(Error::unsupported(what).hint(hint))
}

/// OpenVINO's weights are bare bytes, beside the description of the model under the same name.
fn is_openvino(path: &Path) -> bool {
    path.extension().is_some_and(|kind| kind == "bin")
        && Mapping::open(path.with_extension("xml"), MapMode::Map)
            .and_then(|file| Ok(text::is_openvino(&file.head(4096)?)))
            .unwrap_or(false)
}

/// The error for a basis folder in the place of a checkpoint.
pub(super) fn basis() -> Error {
    Error::unsupported("a basis, no checkpoint").hint("Give it with --basis")
}

/// The error for a folder of these files that is a model in a form that is not read; `None` where none is known.
pub(super) fn folder(names: &[&str]) -> Option<Error> {
    let has = |wanted: &str| names.contains(&wanted);
    let ends = |end: &str| names.iter().any(|name| name.ends_with(end));
    let (what, hint) = if ends(".distcp") {
        ("a distributed checkpoint of PyTorch", DISTRIBUTED)
    } else if has("saved_model.pb") || has("tf_model.h5") || ends(".ckpt.index") {
        ("a TensorFlow model, no checkpoint of PyTorch", LIBRARY_4)
    } else if has("flax_model.msgpack") {
        ("a Flax model, no checkpoint of PyTorch", LIBRARY_4)
    } else if has("Manifest.json") {
        ("a Core ML package, no checkpoint", ORIGINAL)
    } else if ends(".gguf") {
        ("a folder of GGUF files, no checkpoint", ORIGINAL)
    } else if ends(".onnx") {
        ("a folder of ONNX models, no checkpoint", "See `taskbasis bind --help`")
    } else if names.iter().any(|name| name.starts_with("openvino") && name.ends_with(".xml")) {
        ("an OpenVINO model, no checkpoint", ORIGINAL)
    } else {
        return None;
    };
    Some(Error::unsupported(what).hint(hint))
}

/// The error for a zip archive of these entries that torch.save did not write; `None` where it is none that is known.
pub(super) fn archive<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<Error> {
    let ends = |end: &str| names.clone().any(|name| name.ends_with(end));
    let (what, hint) = if names.clone().next().is_some() && names.clone().all(|name| name.ends_with(".npy")) {
        ("NumPy's arrays (.npz), no checkpoint", ARRAYS)
    } else if ends("model.weights.h5") {
        ("a Keras model, no checkpoint of PyTorch", LIBRARY_4)
    } else if ends("archive_format") || ends("serialized_exported_program.json") {
        ("a program of torch.export, no checkpoint", "Save the weights: torch.save(program.state_dict, 'OUT.pt')")
    } else if [".safetensors", ".bin", ".pt", ".pth", ".ckpt"].iter().any(|end| ends(end)) {
        ("a zip archive of files", "Unpack it: unzip FILE")
    } else {
        return None;
    };
    Some(Error::format(what).hint(hint))
}

/// Whether `bytes` begin as pickles do: protocol 2 and later say so; those of protocol 0 begin with a container and its
/// place in the memo.
fn is_pickle(bytes: &[u8]) -> bool {
    matches!(bytes, [0x80, 2..=5, ..] | [b'(', b'd' | b'l', b'p', b'0'..=b'9', ..])
        || bytes.starts_with(b"ccollections\n")
}

/// Whether `bytes` begin as Core ML's models do: the version of the format (field 1), then a message that describes the
/// model (field 2) by its inputs (field 1 of it), where ONNX has the producer's name.
fn is_core_ml(bytes: &[u8]) -> bool {
    let [0x08, 1..=0x7f, 0x12, rest @ ..] = bytes else { return false };
    // A length of up to five bytes, each but the last with its highest bit set.
    let length = rest.iter().take(5).take_while(|&&byte| byte & 0x80 != 0).count() + 1;
    rest.get(length) == Some(&0x0a)
}

/// Whether `bytes` are a pointer of Git LFS, not the file that it stands for.
pub(crate) fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(LFS_POINTER)
}

/// Whether `bytes` begin as exporters let ONNX models begin: the version of the format (field 1, a small number), then
/// the producer's name, the graph or the operator sets (fields 2, 7 and 8).
fn is_onnx(bytes: &[u8]) -> bool {
    matches!(bytes, [0x08, 1..=0x7f, 0x12 | 0x3a | 0x42, ..])
}

/// Whether `bytes` begin as MessagePack's maps of named values do.
fn is_msgpack(bytes: &[u8]) -> bool {
    let key = match bytes {
        [0x81..=0x8f, rest @ ..] | [0xde, _, _, rest @ ..] | [0xdf, _, _, _, _, rest @ ..] => rest,
        _ => return false,
    };
    let text = match key {
        [length @ 0xa1..=0xbf, rest @ ..] => rest.get(..usize::from(length & 0x1f)),
        [0xd9, length, rest @ ..] => rest.get(..usize::from(*length)),
        _ => None,
    };
    text.is_some_and(|text| text.iter().all(|byte| byte.is_ascii_graphic()))
}
