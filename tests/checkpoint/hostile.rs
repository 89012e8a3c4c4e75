//! Damaged and hostile files end soon, in an error that names the file and the place.

use crate::support;
use std::sync::Arc;
use std::time::{Duration, Instant};

use taskbasis::checkpoint::Checkpoint;
use taskbasis::checkpoint::writer::{TorchWriter, Value, ZipWriter};
use taskbasis::{DType, Error, ErrorKind, Mapping};

fn open(bytes: Vec<u8>) -> taskbasis::Result<Checkpoint> {
    let started = Instant::now();
    let result = Checkpoint::parse(Arc::new(Mapping::from_vec(bytes, "hostile.pt")));
    assert!(started.elapsed() < Duration::from_secs(20), "took {:?}", started.elapsed());
    result
}

fn fail(bytes: Vec<u8>) -> Error {
    let error = open(bytes).unwrap_err();
    assert_eq!(error.path(), Some(std::path::Path::new("hostile.pt")), "{error}");
    error
}

#[track_caller]
fn refused(bytes: Vec<u8>, wanted: &str) {
    let error = fail(bytes).to_string();
    assert!(error.contains(wanted), "{error}\nshould say\n{wanted}");
}

/// The file opens, and only those who ask for the tensor are refused.
#[track_caller]
fn unread(bytes: Vec<u8>, tensor: &str, wanted: &str) {
    let checkpoint = open(bytes).unwrap();
    assert!(checkpoint.is_empty() && checkpoint.get(tensor).is_none());
    let error = checkpoint.require(tensor).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let error = error.to_string();
    assert!(error.starts_with(&format!("hostile.pt: tensor `{tensor}`: ")), "{error}");
    assert!(error.contains(wanted), "{error}\nshould say\n{wanted}");
}

/// An archive with this pickle and 24 bytes of storage `0`.
fn archive(pickle: &[u8]) -> Vec<u8> {
    zip(&[("a/data.pkl", pickle), ("a/data/0", &[0; 24])])
}

fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut zip = ZipWriter::new(&mut bytes);
    entries.iter().for_each(|(name, content)| zip.bytes(name, content).unwrap());
    zip.finish().unwrap();
    bytes
}

/// The pickle of `{"w": tensor}`, where `tensor` is what the opcodes in `call` push.
fn dict_of(call: &[u8]) -> Vec<u8> {
    [b"\x80\x02}X\x01\x00\x00\x00w".as_slice(), call, b"s."].concat()
}

const STORAGE: &[u8] = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ";

/// `_rebuild_tensor_v2(storage, …)` with the opcodes in `geometry` for offset, size and stride.
fn tensor(geometry: &[u8]) -> Vec<u8> {
    [b"ctorch._utils\n_rebuild_tensor_v2\n(".as_slice(), STORAGE, geometry, b"\x89NtR"].concat()
}

fn small_file() -> Vec<u8> {
    let mut writer = TorchWriter::new("small");
    let value = Value::dict([
        ("visual.proj", writer.tensor(DType::F32, &[2, 3]).unwrap()),
        ("bias", writer.tensor(DType::F16, &[3]).unwrap()),
    ]);
    let mut bytes = Vec::new();
    writer.write(&mut bytes, &value, |id, out| out.write_all(&[7; 24][..[24, 6][id.0]])).unwrap();
    bytes
}

fn replace(bytes: &mut [u8], place: usize, value: &[u8]) {
    bytes[place..place + value.len()].copy_from_slice(value);
}

/// The places of a record in the file.
fn find(bytes: &[u8], signature: &[u8]) -> Vec<usize> {
    (0..bytes.len()).filter(|&at| bytes[at..].starts_with(signature)).collect()
}

const LOCAL: &[u8] = b"PK\x03\x04";
const CENTRAL: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";

#[test]
fn every_truncation_is_refused() {
    let bytes = small_file();
    assert_eq!(open(bytes.clone()).unwrap().len(), 2);
    for length in 0..bytes.len() {
        let error = fail(bytes[..length].to_vec());
        assert!(matches!(error.kind(), ErrorKind::Format | ErrorKind::Unsupported), "{length}: {error}");
    }
    refused(bytes[..bytes.len() - 1].to_vec(), "the archive is truncated: its end record is not there");
}

#[test]
fn every_changed_byte_is_survived() {
    let bytes = small_file();
    for place in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0xff, !bytes[place]] {
            let mut changed = bytes.clone();
            changed[place] = value;
            // Data and padding may change; what may not happen is a panic or a tensor outside the file.
            if let Ok(checkpoint) = open(changed) {
                checkpoint.iter().for_each(|(_, tensor)| drop(tensor.to_f64()));
            }
        }
    }
}

#[test]
fn other_files_are_named_as_such() {
    refused(Vec::new(), "the file is empty");
    refused(b"\x01\x02nothing known".to_vec(), "neither a PyTorch zip nor safetensors");
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    refused(pointer.to_vec(), "a git-LFS pointer, not the file that it stands for. Run `git lfs pull`");
    refused(b"\n<!DOCTYPE html>\n<html>".to_vec(), "a web page");
    refused(b"<html><body>Not found".to_vec(), "a web page");
    for graph in ["transformers_style_opset14", "torchscript_export_opset16"] {
        let Some(graph) = support::digits(&format!("onnx/{graph}.onnx")) else { continue };
        refused(std::fs::read(graph).unwrap(), "an ONNX model, no checkpoint. See `taskbasis bind --help`");
    }
    refused(
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.".to_vec(),
        "hostile.pt: written by PyTorch before 1.6. Save it again: python -c",
    );
    refused(zip(&[("a/readme.txt", b"")]), "the archive holds no data.pkl");
    refused(zip(&[("data.pkl", b"N.")]), "the archive holds no data.pkl");
    refused(zip(&[("a/data.pkl", b"N."), ("b/data.pkl", b"N.")]), "two pickles: got `a/data.pkl` and `b/data.pkl`");
    refused(
        zip(&[("a/data.pkl", b"N."), ("a/byteorder", b"big")]),
        "byte order is not this machine's: expected little, got big",
    );
    assert!(open(zip(&[("a/data.pkl", b"N."), ("a/byteorder", b"little")])).unwrap().is_empty());
}

#[test]
fn entries_must_be_stored_and_apart() {
    let bytes = small_file();
    let (local, central, end) = (find(&bytes, LOCAL), find(&bytes, CENTRAL), find(&bytes, END)[0]);
    let changed = |place: usize, value: &[u8]| {
        let mut bytes = bytes.clone();
        replace(&mut bytes, place, value);
        bytes
    };
    // Entries: data.pkl, byteorder, data/0, data/1, version.
    refused(changed(central[2] + 10, &[8]), "the archive's entry `small/data/0` is compressed or encrypted");
    refused(changed(local[2] + 8, &[8]), "the archive's entry `small/data/0` is compressed or encrypted");
    refused(changed(central[2] + 8, &[1]), "the archive's entry `small/data/0` is compressed or encrypted");
    refused(changed(central[3] + 42, &bytes[central[2] + 42..][..4]), "overlaps the next entry");
    refused(changed(central[2] + 20, &[0, 4, 0, 0, 0, 4, 0, 0]), "the archive's entry `small/data/0` lies outside");
    refused(changed(central[2] + 20, &[120, 0, 0, 0, 120, 0, 0, 0]), "`small/data/0` overlaps the next entry");
    refused(changed(central[2] + 20, &[25]), "`small/data/0` is stored but has two sizes: expected 24, got 25");
    refused(
        changed(central[2] + 20, &[25, 0, 0, 0, 25]),
        "storage `0` has another size than the pickle says: expected 24 bytes, got 25",
    );
    refused(changed(central[2] + 42, &[0xf0, 0xff, 0xff, 0x7f]), "`small/data/0` lies outside the file's data");
    refused(changed(central[2] + 42, &[0xff; 4]), "`small/data/0` lacks its zip64 sizes");
    refused(changed(central[3] + 46, b"small/data/0"), "two entries of the archive are named `small/data/0`");
    refused(
        changed(local[2] + 30, b"small/data/7"),
        "`small/data/0` has another name in its own header: got `small/data/7`",
    );
    refused(
        changed(local[2] + 22, &[9]),
        "`small/data/0` has two sizes: expected 24 bytes, as the directory says, got 9",
    );
    refused(changed(local[2] + 14, &[9]), "`small/data/0` has two checksums");
    refused(changed(local[2] + 28, &[0xff, 0xff]), "`small/data/0` has a header that reaches into the next entry");
    refused(changed(local[2], b"X"), "`small/data/0` has no header");
    refused(changed(end + 10, &[9, 0]), "spread over several disks");
    refused(changed(end + 8, &[9, 0, 9, 0]), "truncated: its directory is not there");
    refused(changed(end + 8, &[3, 0, 3, 0]), "the archive's directory is longer than its entries");
    refused(changed(end + 12, &[0xff; 8]), "the archive's directory lies outside the file");
}

#[test]
fn zip64_records_must_agree() {
    let mut writer = TorchWriter::new("z").force_zip64();
    let value = writer.tensor(DType::F32, &[6]).unwrap();
    let mut bytes = Vec::new();
    writer.write(&mut bytes, &Value::dict([("w", value)]), |_, out| out.write_all(&[0; 24])).unwrap();
    assert_eq!(open(bytes.clone()).unwrap().len(), 1);
    let (locator, end) = (find(&bytes, b"PK\x06\x07")[0], find(&bytes, END)[0]);
    for (place, value, wanted) in [
        (locator + 8, &[0xff; 8][..], "no zip64 end record"),
        (locator + 8, &[0; 8], "no zip64 end record where it should be: got other bytes at 0"),
        (locator - 8, &[0xff; 8], "directory lies outside the file"),
        (locator - 16, &[0xff; 8], "directory lies outside the file"),
        (locator - 24, &[0xff; 8], "spread over several disks"),
        (locator - 32, &[0xff; 16], "truncated: its directory"),
        (end + 10, &[1, 0], "spread over several disks"),
        (end + 8, &[1, 0, 1, 0], "two end records disagree: expected 4, got 1"),
    ] {
        let mut changed = bytes.clone();
        replace(&mut changed, place, value);
        refused(changed, wanted);
    }
}

#[test]
fn broken_pickles_name_the_byte() {
    for (pickle, wanted) in [
        (&b"\x80\x02"[..], "the pickle ends without a STOP (byte 2 of the pickle)"),
        (
            b"\x80\x02.",
            "stops in the middle of something (byte 2 of the pickle): expected one object on the stack, got 0 objects and 0 marks",
        ),
        (b"NN.", "got 2 objects and 0 marks"),
        (b"(N.", "got 1 objects and 1 marks"),
        (b"N.N", "bytes follow the pickle's STOP (byte 1"),
        (b"\x80\x09N.", "protocol 9 is not known (byte 0"),
        (b"N\xff.", "opcode 0xff is not known or not supported (byte 1"),
        (b"\x82\x01.", "opcode 0x82 is not known"),
        (b"N\x97.", "opcode 0x97 is not known"),
        (b"0.", "takes from an empty stack (byte 0"),
        (b"N(\x85.", "takes from an empty stack (byte 2"),
        (b"Nt.", "takes up to a mark that is not set (byte 1"),
        (b"h\x07.", "memo entry 7 is not set (byte 0"),
        (b"j\xff\xff\xff\xff.", "memo entry 4294967295 is not set"),
        (
            b"X\xff\xff\xff\xffab",
            "the pickle is truncated (byte 0 of the pickle): expected 4294967295 bytes from byte 5 on, got 2 left",
        ),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffab", "the pickle is truncated (byte 0"),
        (b"\x8b\xff\xff\xff\xff.", "the pickle is truncated (byte 0"),
        (b"V endless", "a line has no end (byte 0"),
        (b"cmodule\nname", "a line has no end"),
        (b"X\x01\x00\x00\x00\xff.", "a string is not UTF-8 (byte 0"),
        (b"V\\ud800\n.", "a string has a broken escape"),
        (b"S'\\x+1'\n.", "a string has a broken escape"),
        (b"I12x\n.", "a number cannot be read"),
        (b"}(N\x75.", "a dict has a key without a value (byte 3"),
        (b"NNNs.", "a key is set in what is not a dict"),
        (b"NNa.", "something is appended to what is not a list"),
        (b"NNb.", "a state is set on something that is not an object"),
        (b"NN\x93.", "a class or function is named by something other than strings"),
        (b"cm\nn\n)R}b}b.", "an object's state is set twice (byte 10"),
    ] {
        let shown = String::from_utf8_lossy(pickle).into_owned();
        let error = fail(archive(pickle)).to_string();
        assert!(
            error.starts_with("hostile.pt: ") && error.contains(wanted),
            "{shown:?}: {error}\nshould say\n{wanted}"
        );
    }
}

#[test]
fn all_protocols_give_the_same_tensor() {
    let old = b"ctorch._utils\n_rebuild_tensor\np0\n0(dp1\nVw\np2\ng0\n((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cuda:0'\nI6\ntQI0\n(I2\nI3\ntp3\n(I3\nL1L\nttRs.";
    let new = b"\x80\x05\x95\x00\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01w\x94\x8c\x0ctorch._utils\x94\x8c\x12_rebuild_tensor_v2\x94\x93\x94((\
        \x8c\x07storage\x8c\x05torch\x8c\x0cFloatStorage\x93\x8c\x010\x8c\x03cpu\x8a\x01\x06tQK\x00M\x02\x00K\x03\x86\x94J\x03\x00\x00\x00K\x01\x86\x94\x89Nt\x94R\x94s.";
    let two = dict_of(&tensor(b"K\x00K\x02K\x03\x86K\x03K\x01\x86"));
    for pickle in [&old[..], &new[..], &two] {
        let checkpoint = open(archive(pickle)).unwrap();
        assert_eq!(checkpoint.require("w").unwrap().shape(), [2, 3]);
    }
}

#[test]
fn tensors_stay_inside_their_storage() {
    assert_eq!(open(archive(&dict_of(&tensor(b"K\x00K\x06\x85K\x01\x85")))).unwrap().len(), 1);
    for (geometry, wanted) in [
        (&b"K\x01K\x06\x85K\x01\x85"[..], "reaches outside its storage"),
        (b"K\x00K\x07\x85K\x01\x85", "more elements than its storage"),
        (b"K\x00K\x03\x85K\x03\x85", "reaches outside its storage"),
        (b"K\x00K\x02\x85\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85", "reaches outside its storage"),
        (b"K\x00K\x05\x85K\x00\x85", "repeats its elements (stride 0)"),
        (b"J\xff\xff\xff\xffK\x01\x85K\x01\x85", "is negative: got -1"),
        (b"K\x00J\xfe\xff\xff\xff\x85K\x01\x85", "is negative: got -2"),
        (b"K\x00K\x02\x85J\xff\xff\xff\xff\x85", "is negative: got -1"),
        (b"K\x00K\x06\x85)", "another number of strides than dimensions"),
        (b"K\x00NN", "is not a tuple of numbers"),
        (b"NK\x06\x85K\x01\x85", "is not a number"),
        (b"K\x00\x8a\x0900000000\x01\x85K\x01\x85", "is not a number"),
    ] {
        let error = fail(archive(&dict_of(&tensor(geometry)))).to_string();
        assert!(
            error.starts_with("hostile.pt: tensor `w`: ") && error.contains(wanted),
            "{error}\nshould say\n{wanted}"
        );
    }
    let with = |from: &[u8], to: &[u8]| {
        let pickle = dict_of(&tensor(b"K\x00K\x06\x85K\x01\x85"));
        let at = find(&pickle, from)[0];
        archive(&[&pickle[..at], to, &pickle[at + from.len()..]].concat())
    };
    refused(
        with(b"cpuK\x06", b"cpuK\x07"),
        "tensor `w`: storage `0` has another size than the pickle says: expected 28 bytes, got 24",
    );
    refused(
        with(b"cpuK\x06", b"cpu\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f"),
        "expected more than memory holds, got 24",
    );
    refused(with(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x001"), "tensor `w`: the archive has no entry `a/data/1`");
    unread(
        with(b"FloatStorage", b"ComplexFloatStorage"),
        "w",
        "a type that is not supported: torch.ComplexFloatStorage",
    );
    refused(with(b"FloatStorage", b"UntypedStorage"), "storage `0` has another size");
    refused(with(b"storage", b"Storage"), "a tensor's storage cannot be read");
    unread(with(b"\x89NtR", b"\x89N}X\x03\x00\x00\x00neg\x88stR"), "w", "a lazily transformed tensor (neg)");
}

#[test]
fn tensors_of_other_kinds_are_never_skipped() {
    let call = |function: &str| [format!("c{function}\n(").as_bytes(), STORAGE, b"K\x00tR"].concat();
    for function in ["torch._utils\n_rebuild_qtensor", "torch._tensor\n_rebuild_from_type_v2", "another\nmodule"] {
        let wanted = format!("a tensor of a kind that is not supported: {}", function.replace('\n', "."));
        unread(archive(&dict_of(&call(function))), "w", &wanted);
    }
    unread(archive(&dict_of(STORAGE)), "w", "a bare storage, which is not a tensor");
    // What never held a tensor is only data, whatever it is called: here the call would have removed files.
    assert!(open(archive(&dict_of(b"cos\nsystem\nX\x08\x00\x00\x00rm -rf /\x85R"))).unwrap().is_empty());
}

#[test]
fn modules_hold_tensors_and_nothing_else() {
    let module = |parameters: &[u8], fleeting: &[u8]| {
        let text = |s: &str| [b"X", &(s.len() as u32).to_le_bytes()[..], s.as_bytes()].concat();
        let pickle = [
            b"\x80\x02cmine\nModel\n)\x81}(",
            &text("_parameters")[..],
            parameters,
            &text("_buffers"),
            b"}",
            &text("count"),
            &tensor(b"K\x00K\x06\x85K\x01\x85"),
            b"s",
            &text("_non_persistent_buffers_set"),
            fleeting,
            &text("_modules"),
            b"}",
            &text("junk"),
            b"cos\nsystem\n",
            b"ub.",
        ];
        archive(&pickle.concat())
    };
    let one = [b"}X\x01\x00\x00\x00w".as_slice(), &tensor(b"K\x00K\x06\x85K\x01\x85"), b"s"].concat();
    let names = |bytes| open(bytes).unwrap().iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>();
    assert_eq!(names(module(&one, b"c__builtin__\nset\n]\x85R")), ["w", "count"]);
    let fleeting = b"c__builtin__\nset\n]X\x05\x00\x00\x00counta\x85R";
    assert_eq!(names(module(&one, fleeting)), ["w"]);
    assert_eq!(names(module(b"}X\x04\x00\x00\x00biasNs", fleeting)), [""; 0], "a parameter may be None");
    refused(
        module(b"}X\x01\x00\x00\x00wK\x01s", fleeting),
        "tensor `w`: a module's parameter or buffer is not a tensor",
    );
}

#[test]
fn nesting_and_sharing_end_soon() {
    // Deep lists, deep dicts, a list that holds itself.
    let deep = [vec![b']'; 1_000_000], vec![b'a'; 999_999], b".".to_vec()].concat();
    refused(archive(&deep), "the pickled object is nested too deeply");
    let deep = [b"}X\x01\x00\x00\x00a".repeat(100), b"N".to_vec(), b"s".repeat(100), b".".to_vec()].concat();
    refused(archive(&deep), "nested too deeply: got `a.a.a.");
    refused(archive(b"]q\x00h\x00a."), "nested too deeply: got `0.0.0.0");
    // Every list holds the one before it twice: 2^59 leaves. The last one alone stays on the stack.
    let mut bomb = b"(]q\x00".to_vec();
    for level in 1..60u8 {
        bomb.extend_from_slice(&[b']', b'q', level, b'(', b'h', level - 1, b'h', level - 1, b'e']);
    }
    bomb.extend_from_slice(b"1h\x3b.");
    refused(archive(&bomb), "too large to walk");
}

#[test]
fn sharing_what_is_wide_ends_soon() {
    // One wide dict, one long name or one wide object, met again and again.
    let wide =
        [b"}q\x00(".to_vec(), b"NN".repeat(200_000), b"u0]q\x01(".to_vec(), b"h\x00".repeat(200_000), b"e.".to_vec()];
    refused(archive(&wide.concat()), "too large to walk");
    let object = [
        b"cm\nC\n)\x81q\x00}(".to_vec(),
        b"NN".repeat(200_000),
        b"ub0](".to_vec(),
        b"h\x00".repeat(200_000),
        b"e.".to_vec(),
    ];
    refused(archive(&object.concat()), "too large to walk");
    let name = [
        b"X\x40\x42\x0f\x00".to_vec(),
        vec![b'n'; 1_000_000],
        b"q\x000}(".to_vec(),
        b"h\x00N".repeat(100_000),
        b"u.".to_vec(),
    ];
    refused(archive(&name.concat()), "too large to walk");
    let key = [b"X\x40\x42\x0f\x00".to_vec(), vec![b'0'; 1_000_000], b"q\x000".to_vec(), dict_of(&tensor(b"K\x00))"))]
        .concat();
    let at = find(&key, b"X\x01\x00\x00\x000")[0];
    refused(archive(&[&key[..at], b"h\x00", &key[at + 6..]].concat()), "a tensor's storage cannot be read");
}

#[test]
fn memory_is_bounded() {
    let many = |opcode: &[u8], count: usize| archive(&[opcode.repeat(count), b".".to_vec()].concat());
    refused(many(b"N", 3_000_000), "the pickle has too many objects: expected at most 2097152");
    refused(many(b"(", 3_000_000), "the pickle has too many objects");
    refused(many(b"]0", 3_000_000), "the pickle has too many objects");
    refused(many(b"N\x940", 3_000_000), "the pickle has too many objects");
    refused(archive(&vec![b'N'; (64 << 20) + 1]), "the pickle is too large");
}

/// A safetensors file with this header and `data` bytes of tensors.
fn safetensors(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn safetensors_attacks() {
    let tensor = |name: &str, shape: &str, start: usize, end: usize| {
        format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{end}]}}"#)
    };
    let file = |tensors: &[String], data| safetensors(&format!("{{{}}}", tensors.join(",")), data);
    let good = file(&[tensor("a", "[2]", 0, 8), tensor("b", "[]", 8, 12)], 12);
    assert_eq!(open(good.clone()).unwrap().len(), 2);
    for length in 0..good.len() {
        fail(good[..length].to_vec());
    }
    let mut long = good.clone();
    replace(&mut long, 0, &200_000_000u64.to_le_bytes());
    refused(long.clone(), "the header is too long: expected at most 100000000 bytes, got 200000000");
    replace(&mut long, 0, &50_000_000u64.to_le_bytes());
    refused(long, "the file is too short for its header");
    let wrong = "the tensors' places or shapes are wrong";
    refused(file(&[tensor("a", "[2]", 0, 8), tensor("b", "[2]", 4, 12)], 12), wrong);
    refused(file(&[tensor("a", "[2]", 0, 8), tensor("b", "[1]", 12, 16)], 16), wrong);
    refused(file(&[tensor("a", "[3]", 0, 8)], 8), wrong);
    refused(file(&[tensor("a", "[4294967296,4294967296,2]", 0, 8)], 8), wrong);
    refused(file(&[tensor("a", "[2]", 8, 0)], 8), wrong);
    let cover = "the tensors do not cover the file exactly: expected";
    refused(file(&[tensor("a", "[2]", 0, 8)], 9), cover);
    let cut = "expected 8 bytes after the header, got 4. Was the download or copy cut off?";
    refused(file(&[tensor("a", "[2]", 0, 8)], 4), cut);
    // Places at the end of the address space.
    let size = 1usize << 60;
    let mut huge: Vec<_> =
        (0..15).map(|i| tensor(&i.to_string(), "[288230376151711744]", i * size, (i + 1) * size)).collect();
    huge.push(tensor("last", "[288230376151711743]", 15 * size, usize::MAX - 3));
    refused(file(&huge, 0), cover);
    refused(file(&[tensor("a", "[1]", 0, 4), tensor("a", "[1]", 4, 8)], 8), "two tensors are named `a`");
    refused(file(&[tensor("a", "[-1]", 0, 4)], 4), "the header is broken");
    refused(safetensors(&format!("{{\"a\":{}", "[".repeat(100_000)), 0), "the header is broken");
    let f8 = r#"{"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}"#;
    unread(safetensors(f8, 1), "a", "the elements' type is not supported: got F8_E4M3");
}

#[test]
fn what_nobody_asks_for_may_be_compressed() {
    // TorchScript compresses the code beside its weights.
    let mut bytes = zip(&[("a/data.pkl", b"N."), ("a/code/x.py", b"print()")]);
    let (local, central) = (find(&bytes, LOCAL)[1], find(&bytes, CENTRAL)[1]);
    replace(&mut bytes, local + 8, &[8]);
    replace(&mut bytes, central + 10, &[8]);
    replace(&mut bytes, central + 24, &[200]);
    assert!(open(bytes).unwrap().is_empty());
}

#[test]
fn names_that_collide_name_the_file() {
    let two = "\"visual.proj\":{\"dtype\":\"U8\",\"shape\":[1,1],\"data_offsets\":[0,1]},\
               \"visual_projection.weight\":{\"dtype\":\"U8\",\"shape\":[1,1],\"data_offsets\":[1,2]}";
    refused(safetensors(&format!("{{{two}}}"), 2), "two tensors stand for the same weights: got `visual.proj` and");
}

#[test]
fn many_names_over_one_storage_are_refused() {
    let mut writer = TorchWriter::new("shared");
    let storage = writer.storage(DType::F16, 4096).unwrap();
    let tied = |names: usize, writer: &TorchWriter| {
        let entries: Vec<_> =
            (0..names).map(|i| (format!("w{i}"), writer.view(storage, 0, &[4096]).unwrap())).collect();
        let mut bytes = Vec::new();
        writer.write(&mut bytes, &Value::dict(entries), |_, out| out.write_all(&[0; 8192])).unwrap();
        bytes
    };
    assert!(open(tied(2, &writer)).is_ok(), "tied weights are usual");
    refused(tied(200, &writer), "share storage beyond any use");
}
