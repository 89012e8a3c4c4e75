//! Checkpoints in several files and in folders; tensors of subclasses; files that are something else.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::support::forms::{Array, tower, write};
use crate::support::{Need, skip};
use taskbasis::checkpoint::writer::{StorageId, TorchWriter, Value, ZipWriter};
use taskbasis::{Checkpoint, DType, ErrorKind, Mapping};

const INDEX: &str = "model.safetensors.index.json";

/// The tower in two parts and their index, in `folder`.
fn write_parts(folder: &Path) {
    let (first, second) = tower().into_iter().partition::<Vec<Array>, _>(|(name, ..)| name.contains("layers"));
    let mut entries = Vec::new();
    for (number, arrays) in [(1, first), (2, second)] {
        let file = format!("model-0000{number}-of-00002.safetensors");
        write(&folder.join(&file), &arrays);
        entries.extend(arrays.iter().map(|(name, ..)| format!("\"{name}\": \"{file}\"")));
    }
    write_index(folder, &entries);
}

fn write_index(folder: &Path, entries: &[String]) {
    let json = format!("{{\"metadata\": {{\"total_size\": 1}}, \"weight_map\": {{{}}}}}", entries.join(", "));
    fs::write(folder.join(INDEX), json).unwrap();
}

#[track_caller]
fn refused(path: &Path, kind: ErrorKind, wanted: &[&str]) {
    let error = Checkpoint::open(path).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    wanted.iter().for_each(|wanted| assert!(text.contains(wanted), "{text}\nshould say\n{wanted}"));
}

#[test]
fn a_checkpoint_in_several_files_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let whole = at.join("whole.safetensors");
    write(&whole, &tower());
    let whole = Checkpoint::open(whole).unwrap();
    let parts = at.join("parts");
    fs::create_dir(&parts).unwrap();
    write_parts(&parts);
    for path in [parts.join(INDEX), parts.clone()] {
        let opened = Checkpoint::open(&path).unwrap();
        assert_eq!((opened.len(), opened.parts().len()), (whole.len(), 2));
        assert_eq!(opened.path(), parts.join(INDEX));
        for (name, tensor) in whole.iter() {
            assert_eq!(*tensor.to_f32().unwrap(), *opened.require(name).unwrap().to_f32().unwrap(), "{name}");
        }
        let sizes: u64 = opened.parts().map(|part| fs::metadata(part).unwrap().len()).sum();
        assert_eq!(opened.file_bytes(), sizes);
    }
    let first = parts.join("model-00001-of-00002.safetensors");
    refused(&first, ErrorKind::Unsupported, &["part 1 of 2", "Name the index", INDEX]);

    // A part that is missing, of another save, or without what the index has in it.
    let second = parts.join("model-00002-of-00002.safetensors");
    let kept = fs::read(&second).unwrap();
    fs::remove_file(&second).unwrap();
    refused(&parts, ErrorKind::Io, &["model-00002-of-00002.safetensors: cannot open", "names 2 files"]);
    write(&second, &tower()[..1]);
    refused(&parts, ErrorKind::Format, &["00002-of-00002", "lacks a tensor that its index has in it"]);
    write(&second, &tower());
    refused(&parts, ErrorKind::Format, &["the index does not have this tensor here", "00001-of-00002.safetensors`"]);
    fs::write(&second, kept).unwrap();
    fs::remove_file(parts.join(INDEX)).unwrap();
    refused(&parts, ErrorKind::NotFound, &["parts of a checkpoint, and no index of them", INDEX]);
    refused(&first, ErrorKind::Unsupported, &["part 1 of 2", "Fetch the other parts"]);

    // An index is no file to follow anywhere, and nothing that bytes alone can stand for.
    write_index(&parts, &["\"a\": \"../whole.safetensors\"".into()]);
    refused(&parts, ErrorKind::Format, &["something else than a file beside it", "`../whole.safetensors`"]);
    write_index(&parts, &[format!("\"a\": \"{INDEX}\"")]);
    refused(&parts, ErrorKind::Format, &["an index of a checkpoint in several files"]);
    let bytes = fs::read(parts.join(INDEX)).unwrap();
    let error = Checkpoint::parse(Arc::new(Mapping::from_vec(bytes, "i.json"))).unwrap_err().to_string();
    assert!(error.contains("Open it by its path"), "{error}");
}

#[test]
fn parts_that_pytorch_wrote_are_read_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = |number: usize| format!("pytorch_model-0000{number}-of-00002.bin");
    let mut entries = Vec::new();
    for number in [1, 2] {
        let mut writer = TorchWriter::new("part");
        let name = format!("visual.w{number}");
        let value = Value::dict([(name.as_str(), writer.tensor(DType::F32, &[2]).unwrap())]);
        let fill = |_: StorageId, out: &mut dyn std::io::Write| {
            [number as f32, 0.5].iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))
        };
        writer.write_file(folder.path().join(file(number)), &value, fill).unwrap();
        entries.push(format!("\"{name}\": \"{}\"", file(number)));
    }
    let json = format!("{{\"weight_map\": {{{}}}}}", entries.join(", "));
    fs::write(folder.path().join("pytorch_model.bin.index.json"), json).unwrap();
    let opened = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(*opened.require("visual.w2").unwrap().to_f32().unwrap(), [2.0, 0.5]);
    assert_eq!((opened.len(), opened.format().name()), (2, "torch"));
}

#[test]
fn a_folder_stands_for_its_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("config.json"), "{}").unwrap();
    fs::write(at.join("optimizer.pt"), "no checkpoint").unwrap();
    refused(at, ErrorKind::NotFound, &["there is no checkpoint"]);
    write(&at.join("Tuned.safetensors"), &tower());
    assert_eq!(Checkpoint::open(at).unwrap().path(), at.join("Tuned.safetensors"));
    write(&at.join("other.safetensors"), &tower());
    refused(at, ErrorKind::NotFound, &["several checkpoints: Tuned.safetensors, other.safetensors", "Name the file"]);
    write(&at.join("model.safetensors"), &tower());
    assert_eq!(Checkpoint::open(at).unwrap().path(), at.join("model.safetensors"));
    // What else a folder may be.
    for (file, wanted) in [
        ("__0_0.distcp", "dcp_to_torch"),
        ("flax_model.msgpack", "a Flax model"),
        ("saved_model.pb", "a TensorFlow model"),
        ("clip.gguf", "GGUF"),
        ("openvino_model.xml", "OpenVINO"),
        ("vision.onnx", "ONNX models"),
        ("method_info.json", "Give it with --basis"),
    ] {
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join(file), "x").unwrap();
        refused(other.path(), ErrorKind::Unsupported, &[wanted]);
    }
}

fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut zip = ZipWriter::new(&mut bytes);
    entries.iter().for_each(|(name, content)| zip.bytes(name, content).unwrap());
    zip.finish().unwrap();
    bytes
}

fn parse(bytes: Vec<u8>) -> taskbasis::Result<Checkpoint> {
    Checkpoint::parse(Arc::new(Mapping::from_vec(bytes, "file")))
}

/// A string as pickles have it.
fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// The arguments of `_rebuild_tensor_v2` for [1, 2, 3, 4, 5, 6] as [rows, 6 / rows].
fn dense(rows: u8) -> Vec<u8> {
    let storage =
        [b"(", &text("storage")[..], b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), b"K\x06tQ"].concat();
    [b"(", &storage[..], b"K\x00K", &[rows], b"K", &[6 / rows], b"\x86K", &[6 / rows], b"K\x01\x86\x89Nt"].concat()
}

/// An archive of `{"w": …}` with six floats.
fn archive(value: &[u8]) -> Vec<u8> {
    let pickle = [b"\x80\x02}", &text("w")[..], value, b"s."].concat();
    let floats: Vec<u8> = [1f32, 2., 3., 4., 5., 6.].iter().flat_map(|value| value.to_le_bytes()).collect();
    zip(&[("a/data.pkl", &pickle), ("a/data/0", &floats)])
}

const V2: &[u8] = b"ctorch._utils\n_rebuild_tensor_v2\n";
const TYPED: &[u8] = b"ctorch._tensor\n_rebuild_from_type_v2\n";

#[test]
fn subclasses_and_attributes_leave_a_tensor_what_it_is() {
    let attributes = [b"}", &text("note")[..], b"K\x01s"].concat();
    let of_type =
        |class: &str| [TYPED, b"(", V2, format!("c{class}\n").as_bytes(), &dense(2), &attributes, b"tR"].concat();
    let parameter = |inner: &[u8]| [b"ctorch._utils\n_rebuild_parameter\n(", inner, b"\x88NtR"].concat();
    let inner = [TYPED, b"(", V2, b"ctorch\nTensor\n", &dense(2), b"}tR"].concat();
    for value in [
        of_type("torch\nTensor"),
        of_type("torch.nn.parameter\nBuffer"),
        of_type("mine\nTensor"),
        parameter(&inner),
        [TYPED, b"(", b"ctorch._utils\n_rebuild_parameter\n", b"ctorch\nTensor\n(", &inner, b"\x88Nt}tR"].concat(),
    ] {
        let opened = parse(archive(&value)).unwrap();
        let tensor = opened.require("w").unwrap();
        assert_eq!((tensor.shape(), &*tensor.to_f32().unwrap()), (&[2, 3][..], &[1., 2., 3., 4., 5., 6.][..]));
    }
    // However deep a pickle nests them.
    let deep = (0..2000).fold(inner, |inner, _| parameter(&inner));
    assert!(parse(archive(&deep)).is_err());
}

/// A DTensor of 2 × 3 whose local tensor has `rows` rows, placed as `placement` says.
fn dtensor(rows: u8, placement: &str) -> Vec<u8> {
    let wrap = b"ctorch._utils\n_rebuild_wrapper_subclass\nctorch.distributed.tensor\nDTensor\n";
    let arguments = b"(Nctorch\nfloat32\nK\x02K\x03\x86t";
    let local = [V2, &dense(rows)[..], b"R"].concat();
    let placement = format!("ctorch.distributed.tensor.placement_types\n{placement}\n)");
    let spec = [b"cspec\nDTensorSpec\n)\x81}", &text("placements")[..], placement.as_bytes(), b"\x81\x85sb"].concat();
    let state = [b"}(", &text("_local_tensor")[..], &local, &text("_spec"), &spec, b"u"].concat();
    [TYPED, b"(", wrap, arguments, &state, b"tR"].concat()
}

#[test]
fn a_dtensor_is_read_where_all_of_it_is_there() {
    let opened = parse(archive(&dtensor(2, "Shard"))).unwrap();
    assert_eq!(opened.require("w").unwrap().shape(), [2, 3]);
    for (rows, placement, wanted) in [
        (1, "Shard", "expected [2, 3], got [1, 6]"),
        (2, "Partial", "one process's summand"),
        (2, "_Partial", "one process's summand"),
    ] {
        let error = parse(archive(&dtensor(rows, placement))).unwrap().require("w").unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{text}");
        assert!(text.contains(wanted) && text.contains("full_tensor()") && text.contains("dcp_to_torch"), "{text}");
    }
}

#[test]
fn a_tensor_of_another_kind_says_how_it_is_converted() {
    for (function, wanted) in [
        ("_rebuild_sparse_tensor", "to_dense()"),
        ("_rebuild_qtensor", "dequantize()"),
        ("_rebuild_meta_tensor_no_storage", "without its data"),
        ("_rebuild_nested_tensor", "to_padded_tensor()"),
    ] {
        let value = [format!("ctorch._utils\n{function}\n").as_bytes(), &dense(2), b"R"].concat();
        let opened = parse(archive(&value)).unwrap();
        let error = opened.require("w").unwrap_err().to_string();
        assert!(error.contains(function) && error.contains(wanted), "{error}");
        assert_eq!(error.matches("file: ").count(), 1, "{error}");
    }
}

#[test]
fn other_files_are_named_for_what_they_are() {
    let tar = [&[b'a'; 257][..], b"ustar\x0000", &[0; 300]].concat();
    let npz = zip(&[("a.npy", b"x"), ("b.npy", b"x")]);
    for (bytes, wanted) in [
        (b"GGUF\x03\0\0\0".to_vec(), &["a GGUF file", "that it was made from"][..]),
        (b"\x89HDF\r\n\x1a\n".to_vec(), &["HDF5", "from_tf=True"]),
        (b"\x1f\x8b\x08\0".to_vec(), &["gzip", "gunzip"]),
        (b"\x28\xb5\x2f\xfd".to_vec(), &["Zstandard", "unzstd"]),
        (b"BZh91AY".to_vec(), &["bzip2"]),
        (b"\xfd7zXZ\0".to_vec(), &["xz"]),
        (b"7z\xbc\xaf\x27\x1c".to_vec(), &["7-Zip", "7z x"]),
        (tar, &["a tar archive", "tar xf"]),
        (npz, &["NumPy's arrays", "numpy.load"]),
        (zip(&[("model.weights.h5", b"x"), ("config.json", b"{}")]), &["a Keras model"]),
        (zip(&[("archive_format", b"pt2")]), &["torch.export"]),
        (zip(&[("clip/model.safetensors", b"x")]), &["a zip archive of files", "unzip"]),
        (b"\x93NUMPY\x01\0".to_vec(), &["a single NumPy array"]),
        (b"\x80\x04\x95\x10\0\0\0\0\0\0\0}.".to_vec(), &["a Python pickle", "pickle.load", "trust"]),
        (b"(dp0\nS'a'\np1\n".to_vec(), &["a Python pickle"]),
        (b"\x82\xa5image\x81\xa1w\xc0".to_vec(), &["MessagePack", "from_flax=True"]),
        (b"\x08\x04\x12\x0c\x0a\x0a\x0a\x01x".to_vec(), &["a Core ML model"]),
        (b"\x08\x08\x12\x07pytorch".to_vec(), &["an ONNX model"]),
        (b"\x1c\0\0\0TFL3".to_vec(), &["TensorFlow Lite"]),
        (b"\x18\0\0\0ET12".to_vec(), &["ExecuTorch"]),
        (b"<?xml version=\"1.0\"?>\n<net name=\"clip\">".to_vec(), &["an OpenVINO model"]),
        (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied".to_vec(), &["XML, no weights", "AccessDenied"]),
        (b"{\"error\": \"Repository not found\"}".to_vec(), &["a server's error message", "\"Repository not found\""]),
        (b"{\"model_type\": \"clip\"}".to_vec(), &["a model's configuration"]),
        (b"{\"a\": 1}".to_vec(), &["JSON, no weights"]),
        (b"Entry not found".to_vec(), &["text, no weights", "\"Entry not found\""]),
        (vec![0; 5000], &["all zeros"]),
    ] {
        let error = parse(bytes).unwrap_err().to_string();
        wanted.iter().for_each(|wanted| assert!(error.contains(wanted), "{error}\nshould say\n{wanted}"));
    }
    // What only a file's name or neighbour tells.
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (file, wanted) in [("__0_0.distcp", "dcp_to_torch"), ("m.ckpt.data-00000-of-00001", "TensorFlow checkpoint")] {
        fs::write(at.join(file), "PK\x03\x04").unwrap();
        refused(&at.join(file), ErrorKind::Unsupported, &[wanted]);
    }
    fs::write(at.join("openvino_model.bin"), [1, 2, 3, 4]).unwrap();
    fs::write(at.join("openvino_model.xml"), "<?xml version=\"1.0\"?>\n<net name=\"a\">").unwrap();
    refused(&at.join("openvino_model.bin"), ErrorKind::Unsupported, &["the weights of an OpenVINO model"]);
}

#[cfg(unix)]
#[test]
fn a_pipe_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("there is no checkpoint"), "{error}");
    let pipe = folder.path().join("pipe");
    if !std::process::Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()) {
        return skip(Need::Cc, "there is no mkfifo");
    }
    assert!(Checkpoint::open(&pipe).unwrap_err().to_string().contains("not a regular file"));
}
