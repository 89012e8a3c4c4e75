//! What the writer writes, the reader reads back; `torch.load` reads it too (checked by hand against PyTorch 2.15).

use std::io::Write;
use std::sync::Arc;

use taskbasis::checkpoint::torch::Archive;
use taskbasis::checkpoint::writer::{StorageId, TorchWriter, Value, ZipWriter};
use taskbasis::checkpoint::zip::Directory;
use taskbasis::checkpoint::{Checkpoint, Format};
use taskbasis::{DType, ErrorKind, MapMode, Mapping};

fn parse(bytes: Vec<u8>) -> Archive {
    Archive::parse(Arc::new(Mapping::from_vec(bytes, "written.pt"))).unwrap()
}

/// Storage `s` holds 100·s, 100·s + 1, …
fn floats(storage: StorageId, count: usize, out: &mut dyn Write) -> std::io::Result<()> {
    (0..count).try_for_each(|i| out.write_all(&((100 * storage.0 + i) as f32).to_le_bytes()))
}

fn sample(writer: &mut TorchWriter) -> Value {
    let shared = writer.storage(DType::F32, 12).unwrap();
    let strided = writer.strided(shared, 0, &[3, 4], &[1, 3]).unwrap();
    let slice = writer.view(shared, 4, &[2, 3]).unwrap();
    let own = writer.tensor(DType::F32, &[5]).unwrap();
    let scalar = writer.view(shared, 11, &[]).unwrap();
    Value::dict([
        ("basis_vectors", Value::List(vec![Value::dict([("a", strided), ("b", slice)]), Value::dict([("c", own)])])),
        ("scalar", scalar),
        ("shapes", Value::dict([("a", Value::Size(vec![3, 4]))])),
        ("name", "größer".into()),
        ("numbers", Value::Tuple([0, 255, 256, -1, i64::MAX, i64::MIN].map(Value::Int).to_vec())),
        ("λ", Value::Float(0.3)),
        ("flags", Value::List(vec![Value::Bool(true), Value::Bool(false), Value::None])),
        ("empty", Value::dict::<&str>([])),
    ])
}

fn check(archive: &Archive) {
    let root = archive.root();
    let vectors: Vec<_> = root.get("basis_vectors").unwrap().items().collect();
    let values = |key: &str, vector: usize| {
        vectors[vector].get(key).unwrap().tensor().unwrap().unwrap().to_f32().unwrap().into_owned()
    };
    assert_eq!(values("a", 0), [0., 3., 6., 9., 1., 4., 7., 10., 2., 5., 8., 11.]);
    assert_eq!(values("b", 0), [4., 5., 6., 7., 8., 9.]);
    assert_eq!(values("c", 1), [100., 101., 102., 103., 104.]);
    assert_eq!(*root.get("scalar").unwrap().tensor().unwrap().unwrap().to_f32().unwrap(), [11.]);
    let shape: Vec<_> = root.get("shapes").unwrap().get("a").unwrap().items().map(|n| n.as_i64()).collect();
    assert_eq!(shape, [Some(3), Some(4)]);
    assert_eq!(root.get("name").unwrap().as_str(), Some("größer"));
    let numbers: Vec<_> = root.get("numbers").unwrap().items().filter_map(|n| n.as_i64()).collect();
    assert_eq!(numbers, [0, 255, 256, -1, i64::MAX, i64::MIN]);
    assert_eq!(root.get("λ").unwrap().as_f64(), Some(0.3));
    let flags: Vec<_> = root.get("flags").unwrap().items().map(|n| n.as_bool()).collect();
    assert_eq!(flags, [Some(true), Some(false), None]);
    assert_eq!(root.get("empty").unwrap().entries().count(), 0);
    let names: Vec<_> = archive.tensors().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["basis_vectors.0.a", "basis_vectors.0.b", "basis_vectors.1.c", "scalar"]);
}

#[test]
fn what_is_written_is_read() {
    for zip64 in [false, true] {
        let mut writer = TorchWriter::new("sample");
        if zip64 {
            writer = writer.force_zip64();
        }
        let value = sample(&mut writer);
        let fill = |storage: StorageId, out: &mut dyn Write| floats(storage, [12, 5][storage.0], out);
        let mut bytes = Vec::new();
        writer.write(&mut bytes, &value, fill).unwrap();
        let locators = bytes.windows(4).filter(|window| *window == b"PK\x06\x07").count();
        assert_eq!(locators, usize::from(zip64));
        let mapping = Mapping::from_vec(bytes.clone(), "sample");
        let directory = Directory::parse(&mapping).unwrap();
        for name in directory.names() {
            assert_eq!(directory.range(&mapping, name).unwrap().start % 64, 0, "{name} can be mapped");
        }
        check(&parse(bytes));

        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sample_{zip64}.pt"));
        writer.write_file(&path, &value, fill).unwrap();
        check(&Archive::open(&path, MapMode::Map).unwrap());
        assert_eq!(Checkpoint::open(&path).unwrap().format(), Format::TorchZip);
    }
}

#[test]
fn every_type_survives() {
    let types = [
        DType::F64,
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::I64,
        DType::I32,
        DType::I16,
        DType::I8,
        DType::U8,
        DType::Bool,
    ];
    let mut writer = TorchWriter::new("types");
    let tensors: Vec<_> = types.iter().map(|&dtype| (dtype.name(), writer.tensor(dtype, &[3]).unwrap())).collect();
    let mut bytes = Vec::new();
    let fill = |storage: StorageId, out: &mut dyn Write| out.write_all(&vec![1; 3 * types[storage.0].size()]);
    writer.write(&mut bytes, &Value::dict(tensors), fill).unwrap();
    for (name, stored) in parse(bytes).tensors().unwrap() {
        let tensor = stored.unwrap();
        assert_eq!((tensor.dtype().name(), tensor.shape()), (name.as_str(), &[3][..]));
    }
    assert_eq!(TorchWriter::new("a").tensor(DType::U16, &[1]).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn wrong_use_is_refused() {
    let mut writer = TorchWriter::new("wrong");
    let storage = writer.storage(DType::F32, 6).unwrap();
    for (offset, shape, strides) in
        [(0, &[7][..], &[1][..]), (1, &[6], &[1]), (0, &[2, 3], &[4, 1]), (0, &[2], &[usize::MAX]), (0, &[2, 3], &[3])]
    {
        let error = writer.strided(storage, offset, shape, strides).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{offset} {shape:?} {strides:?}");
    }
    assert!(writer.view(StorageId(1), 0, &[1]).is_err());
    let value = writer.view(storage, 0, &[6]).unwrap();
    for count in [5, 7] {
        let error = writer.write(Vec::new(), &value, |id, out| floats(id, count, out)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("`wrong/data/0`"), "{error}");
    }
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("left_behind.pt");
    let failed = writer.write_file(&path, &value, |_, _| Err(std::io::Error::other("no more"))).unwrap_err();
    assert_eq!((failed.kind(), failed.path()), (ErrorKind::Io, Some(path.as_path())));
    assert!(!path.exists());
}

#[test]
fn thousands_of_entries_have_their_places() {
    let mut bytes = Vec::new();
    let mut zip = ZipWriter::new(&mut bytes);
    for i in 0..70_000u32 {
        zip.bytes(&format!("data/{i}"), &i.to_le_bytes()).unwrap();
    }
    zip.finish().unwrap();
    let mapping = Mapping::from_vec(bytes, "many");
    let directory = Directory::parse(&mapping).unwrap();
    assert_eq!(directory.names().count(), 70_000, "more than the short end record can count");
    for i in [0u32, 1, 65_535, 69_999] {
        assert_eq!(mapping[directory.range(&mapping, &format!("data/{i}")).unwrap()], i.to_le_bytes());
    }
}
