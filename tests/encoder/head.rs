//! Heads and evaluation data, against what the reference computed.

use crate::support;
use crate::support::whole_digits as digits;
use safetensors::{Dtype, SafeTensors, serialize_to_file, tensor::TensorView};
use taskbasis::ErrorKind;
use taskbasis::datasets::Dataset;
use taskbasis::heads::{Head, class_names, head_tasks, top_k};
use taskbasis::preprocess::{PixelFormat, Preprocess};

const TASKS: [&str; 8] = ["MNIST", "OptDigits", "Inverted", "Rotated", "Parity", "Colors", "Quadrant", "Loops"];

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// A safetensors file of zeros: (name, type, shape).
fn file_of(tensors: &[(&str, Dtype, &[usize])]) -> tempfile::TempPath {
    let path = tempfile::Builder::new().suffix(".safetensors").tempfile().unwrap().into_temp_path();
    let zeros = vec![0u8; 1 << 16];
    let views = tensors.iter().map(|&(name, dtype, shape)| {
        let length = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        (name, TensorView::new(dtype, shape.to_vec(), &zeros[..length]).unwrap())
    });
    serialize_to_file(views, None, &path).unwrap();
    path
}

#[test]
fn logits_are_the_references() {
    let (Some(golden), Some(heads)) = (digits("golden.safetensors"), digits("heads.safetensors")) else { return };
    let golden = std::fs::read(golden).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let embeds = floats(golden.tensor("zeroshot/embeds").unwrap().data());
    let mut known: Vec<String> = TASKS.map(String::from).into();
    known.sort();
    assert_eq!(head_tasks(&heads).unwrap(), known);
    for task in TASKS {
        let head = Head::open(&heads, Some(task)).unwrap();
        let expected = golden.tensor(&format!("zeroshot/logits/{task}")).unwrap();
        assert_eq!(expected.shape()[1], head.num_classes());
        let expected = floats(expected.data());
        let mut logits = vec![f32::NAN; expected.len()];
        head.logits(&embeds, &mut logits).unwrap();
        let worst = logits.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-4, "{task}: {worst}");
    }
}

#[test]
fn the_golden_pixels_are_each_tasks_first_four_test_images() {
    let (Some(golden), Some(images)) = (digits("golden.safetensors"), digits("images.safetensors")) else { return };
    let golden = std::fs::read(golden).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let expected = floats(golden.tensor("pixel_values").unwrap().data());
    let dataset = Dataset::open(images).unwrap();
    let preprocess = Preprocess::new(32).unwrap();
    let splits: Vec<_> = TASKS.iter().map(|task| dataset.split(task, "test").unwrap()).collect();
    let first_four: Vec<_> = splits.iter().flat_map(|split| split.images().take(4)).collect();
    assert!(preprocess.images(&first_four, 2).unwrap() == expected);
}

#[test]
fn class_names_go_with_their_head() {
    let (Some(heads), Some(classes)) = (digits("heads.safetensors"), digits("classes.json")) else { return };
    for task in TASKS {
        let names = class_names(&classes, task).unwrap();
        let head = Head::open(&heads, Some(task)).unwrap().with_classes(names.clone()).unwrap();
        assert_eq!(head.classes(), names);
    }
    let colors = class_names(&classes, "Colors").unwrap();
    let error = Head::open(&heads, Some("MNIST")).unwrap().with_classes(colors).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(error.to_string().contains("10 names") && error.to_string().contains("got 6"), "{error}");
    let error = class_names(&classes, "Color").unwrap_err();
    assert!(error.to_string().ends_with("Did you mean `Colors`?"), "{error}");
    assert_eq!(class_names(&heads, "MNIST").unwrap_err().kind(), ErrorKind::Format);
}

#[test]
fn a_head_is_found_or_the_error_says_what_there_is() {
    let Some(heads) = digits("heads.safetensors") else { return };
    let error = Head::open(&heads, Some("mnist")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("Colors, Inverted") && error.to_string().contains("Did you mean `MNIST`?"));
    let error = Head::open(&heads, None).unwrap_err();
    assert!(error.kind() == ErrorKind::InvalidArgument && error.to_string().contains("Quadrant"), "{error}");
    assert_eq!(Head::open("no/such/file", None).unwrap_err().kind(), ErrorKind::Io);

    let single = file_of(&[("weight", Dtype::F16, &[3, 8])]);
    let head = Head::open(&single, None).unwrap();
    assert_eq!((head.num_classes(), head.embedding_dim(), head.bias()), (3, 8, [0.0; 3].as_slice()));

    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(&single, folder.path().join("Cars.safetensors")).unwrap();
    std::fs::write(folder.path().join("notes.txt"), "").unwrap();
    assert_eq!(head_tasks(folder.path()).unwrap(), ["Cars"]);
    assert_eq!(Head::open(folder.path(), Some("Cars")).unwrap().num_classes(), 3);
    assert_eq!(Head::open(folder.path(), None).unwrap().num_classes(), 3);
    let error = Head::open(folder.path(), Some("../Cars")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn what_is_no_head_is_refused() {
    for (tensors, kind) in [
        (&[("weight", Dtype::F32, [3].as_slice())][..], ErrorKind::Format),
        (&[("weight", Dtype::F32, &[0, 8])], ErrorKind::Format),
        (&[("weight", Dtype::F32, &[3, 0])], ErrorKind::Format),
        (&[("weight", Dtype::I64, &[3, 8])], ErrorKind::Unsupported),
        (&[("weight", Dtype::F32, &[3, 8]), ("bias", Dtype::F32, &[4])], ErrorKind::Mismatch),
        (&[("other", Dtype::F32, &[3, 8])], ErrorKind::NotFound),
    ] {
        let error = Head::open(file_of(tensors), None).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.path().is_some(), "{error}");
    }
}

#[test]
fn evaluation_data_is_found_or_the_error_says_what_there_is() {
    let Some(path) = digits("images.safetensors") else { return };
    let dataset = Dataset::open(path).unwrap();
    assert_eq!(dataset.tasks().len(), 8);
    assert!(dataset.splits("MNIST").unwrap().contains(&"test"));
    let split = dataset.split("MNIST", "test").unwrap();
    assert_eq!((split.len(), split.labels().len(), split.images().len()), (400, 400, 400));
    assert!(split.labels().iter().all(|&label| label < 10));
    let image = split.image(399).unwrap();
    assert_eq!((image.width, image.height), (28, 28));
    assert!(matches!(image.format, PixelFormat::Rgb8 | PixelFormat::Gray8), "the part in examples/ keeps gray as gray");
    assert_eq!(image.data, split.images().last().unwrap().data);
    for beyond in [400, usize::MAX, usize::MAX / (28 * 28 * 3)] {
        assert_eq!(split.image(beyond).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    let error = dataset.split("MNSIT", "test").unwrap_err();
    assert!(error.to_string().contains("Did you mean `MNIST`?"), "{error}");
    let error = dataset.split("MNIST", "tset").unwrap_err();
    assert!(error.to_string().contains("Did you mean `test`?"), "{error}");
}

#[test]
fn evaluation_data_that_does_not_fit_is_refused() {
    type Named = (&'static str, Dtype, &'static [usize]);
    fn images(shape: &'static [usize]) -> Named {
        ("T/test/images", Dtype::U8, shape)
    }
    let labels: Named = ("T/test/labels", Dtype::I64, &[2]);
    let cases: [(Vec<Named>, &str); 7] = [
        (vec![images(&[2, 4, 4, 3])], "no such tensor"),
        (vec![images(&[3, 4, 4, 3]), labels], "differ in number: expected 3 labels, got 2"),
        (vec![images(&[2, 4, 4, 4]), labels], "not images"),
        (vec![images(&[2, 4, 0, 3]), labels], "empty"),
        (vec![("T/test/images", Dtype::F32, &[2, 4, 4, 3]), labels], "not images"),
        (vec![images(&[2, 4, 4, 3]), ("T/test/labels", Dtype::F32, &[2])], "not labels"),
        (vec![images(&[2, 4, 4, 3]), ("T/test/labels", Dtype::I64, &[2, 1])], "not labels"),
    ];
    for (tensors, text) in cases {
        let error = Dataset::open(file_of(&tensors)).unwrap().split("T", "test").unwrap_err();
        assert!(error.to_string().contains(text) && error.path().is_some(), "{error}");
    }
    assert_eq!(Dataset::open(file_of(&[labels])).unwrap_err().kind(), ErrorKind::Format);

    for gray in [[2, 5, 4].as_slice(), &[2, 5, 4, 1]] {
        let dataset = Dataset::open(file_of(&[images(gray), ("T/test/labels", Dtype::U8, &[2])])).unwrap();
        let split = dataset.split("T", "test").unwrap();
        let image = split.image(1).unwrap();
        assert_eq!((image.width, image.height, image.format), (4, 5, PixelFormat::Gray8));
    }
}

#[test]
fn the_best_class_comes_first() {
    let head = Head::new(vec![1.0, 0.0, 0.0, 1.0, 0.6, 0.8], vec![0.0; 3]).unwrap();
    let mut logits = [0.0; 6];
    head.logits(&[3.0, 4.0, 0.0, -2.0], &mut logits).unwrap();
    assert_eq!(top_k(&logits[..3], 2).iter().map(|&(class, _)| class).collect::<Vec<_>>(), [2, 1]);
    assert!((logits[2] - 1.0).abs() < 1e-6 && logits[4] == -1.0);
}

/// A pickle of the one object that heads are: a module of some class, with weight `[2, 4]` and bias `[2]`, and an
/// attribute `normalize` of these opcodes where any are given.
fn pickled_head(normalize: &[u8]) -> Vec<u8> {
    fn text(out: &mut Vec<u8>, text: &str) {
        out.push(b'X');
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.as_bytes());
    }
    fn tensor(out: &mut Vec<u8>, name: &str, key: &str, numel: u8, shape: &[u8], strides: &[u8]) {
        text(out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(out, "storage");
        out.extend(b"ctorch\nFloatStorage\n");
        text(out, key);
        text(out, "cpu");
        out.extend([b'K', numel, b't', b'Q', b'K', 0]);
        for extents in [shape, strides] {
            out.push(b'(');
            extents.iter().for_each(|&extent| out.extend([b'K', extent]));
            out.push(b't');
        }
        out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    let mut out = b"\x80\x02c__main__\nClassificationHead\n)\x81}(".to_vec();
    text(&mut out, "_parameters");
    out.extend(b"}(");
    tensor(&mut out, "weight", "0", 8, &[2, 4], &[4, 1]);
    tensor(&mut out, "bias", "1", 2, &[2], &[1]);
    out.extend(b"u");
    text(&mut out, "_modules");
    out.push(b'}');
    if !normalize.is_empty() {
        text(&mut out, "normalize");
        out.extend(normalize);
    }
    out.extend(b"ub.");
    out
}

/// The head in a file called `name`: class 0 is the embedding's first number, class 1 is always 1.5.
fn write_head(folder: &std::path::Path, name: &str, normalize: &[u8]) -> std::path::PathBuf {
    let path = folder.join(name);
    let mut zip = taskbasis::checkpoint::writer::ZipWriter::new(std::fs::File::create(&path).unwrap());
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    zip.bytes("head/data.pkl", &pickled_head(normalize)).unwrap();
    zip.bytes("head/byteorder", b"little").unwrap();
    zip.bytes("head/data/0", &bytes(&[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])).unwrap();
    zip.bytes("head/data/1", &bytes(&[0.0, 1.5])).unwrap();
    zip.finish().unwrap();
    path
}

#[test]
fn a_pickled_heads_normalize_is_heeded() {
    const TRUE: &[u8] = b"\x88";
    const FALSE: &[u8] = b"\x89";
    let folder = tempfile::tempdir().unwrap();
    let embedding = [3.0, 4.0, 0.0, 0.0];
    for (normalize, normalises, first) in
        [(&b""[..], true, 0.6), (TRUE, true, 0.6), (FALSE, false, 3.0), (b"K\x00", false, 3.0)]
    {
        let head = Head::open(write_head(folder.path(), "head_X.pt", normalize), Some("X")).unwrap();
        let mut logits = [0.0; 2];
        head.logits(&embedding, &mut logits).unwrap();
        assert_eq!((head.normalises(), logits), (normalises, [first, 1.5]));
        assert_eq!(head.classify(&embedding, 1).unwrap()[0].class, usize::from(normalises));
    }
    // Only what cannot be normalised is refused by those that normalise; what is not finite is by all.
    let head = Head::open(write_head(folder.path(), "head_X.pt", FALSE), None).unwrap();
    let mut logits = [0.0; 2];
    head.logits(&[0.0; 4], &mut logits).unwrap();
    assert_eq!(logits, [0.0, 1.5]);
    assert!(head.logits(&[f32::NAN, 0.0, 0.0, 0.0], &mut logits).is_err());
    let odd = write_head(folder.path(), "head_X.pt", b"N");
    let error = Head::open(&odd, None).unwrap_err();
    assert!(error.path() == Some(&*odd) && error.to_string().contains("`normalize` is no truth value"), "{error}");
}

#[test]
fn a_bundle_keeps_what_a_head_says() {
    let family = support::bundle::tiny_files(taskbasis::Method::Autoencoder);
    let raw = || Head::open(write_head(family.folder.path(), "head_Task2.pt", b"\x89"), None).unwrap();
    let path = family.pack_with("m.taskbasis", "q4", taskbasis::BaseFormat::F16, |packer| {
        packer.head("Task2", raw()).unwrap();
    });
    let bundle = taskbasis::Bundle::open(&path).unwrap();
    assert!(bundle.head("Task1").unwrap().normalises() && !bundle.head("Task2").unwrap().normalises());
    let tuned = taskbasis::Checkpoint::open(&family.base).unwrap();
    let mut update = taskbasis::BundleUpdate::new(&bundle, None).unwrap();
    update.task(taskbasis::NewTask { name: "New", finetuned: &tuned, head: Some(raw()), residual: None }).unwrap();
    let grown = family.path("grown.taskbasis");
    update.write(&grown, &[], &|_| {}).unwrap();
    let grown = taskbasis::Bundle::open(&grown).unwrap();
    assert!(!grown.head("New").unwrap().normalises() && !grown.head("Task2").unwrap().normalises());
    assert!(grown.head("Task1").unwrap().normalises() && grown.verify(1, &|_| {}).is_empty());
    // One of which nothing is to be said says nothing: the bytes are those of older bundles.
    let plain = family.pack("plain.taskbasis", "q4", taskbasis::BaseFormat::F16);
    assert!(!String::from_utf8_lossy(&std::fs::read(plain).unwrap()).contains("unnormalised"));
    let mut parts = support::bundle::Parts::of(&std::fs::read(path).unwrap());
    parts.set_metadata("taskbasis.unnormalised", &serde_json::json!(["Nowhere"]));
    let errors = support::bundle::faults(parts.join(true));
    assert!(errors[0].to_string().contains("`Nowhere` is classified, and it has no head"), "{:?}", errors[0]);
}
