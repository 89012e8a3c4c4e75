//! Bundles of both versions, in `tests/data`, are opened for ever and give the bits that they gave when written; and
//! a reader in another language, `examples/python/read_bundle.py`, gives the same values.

use crate::support::{Need, skip};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support;
use crate::support::bundle::{format, narrow_files, tiny};
use crate::support::synthetic::Synthetic;
use serde_json::{Value, json};
use taskbasis::{
    Arch, Basis, BlockFormat, Bundle, Checkpoint, Head, Method, ModelOptions, Packer, StoredFormat, VectorFormat,
    Weights,
};

/// With a user's graph.
const WITH_GRAPH: &str = "golden_v1_graph.taskbasis";

const VERSION_2: &str = "golden_v2.taskbasis";

const EXPRESSIONS: [&str; 5] = ["Task0", "Task1@0.5 - Task2", "merged@0.4", "all@0.25", "base"];

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn weights(bundle: &Bundle, expr: &str) -> std::sync::Arc<Weights> {
    bundle.model(None, &ModelOptions::default()).unwrap().weights(&expr.parse().unwrap()).unwrap().get().unwrap()
}

/// By expression and tensor, the first eight values as they are shown, and the sum of all bits: nothing can change
/// without one of the two.
fn told(bundle: &Bundle) -> Value {
    let of_tensor = |values: &[f32]| {
        let sum = values.iter().fold(0u64, |sum, value| sum.rotate_left(5) ^ u64::from(value.to_bits()));
        json!({ "first": values.iter().take(8).map(|v| v.to_bits()).collect::<Vec<_>>(), "all": format!("{sum:016x}") })
    };
    let of_expr = |expr: &&str| {
        let weights = weights(bundle, expr);
        let tensors = weights.iter().map(|(name, _, _)| (name.to_owned(), of_tensor(weights.get(name).unwrap())));
        ((*expr).to_owned(), Value::Object(tensors.collect()))
    };
    Value::Object(EXPRESSIONS.iter().map(of_expr).collect())
}

/// Every format, PCA's mean, a residual, heads with and without class names, suggested λ, and a user's graph: the one
/// of the bundle `with`, or where there is none what an export of the built graph comes to.
fn write(path: &Path, with: Option<&Bundle>) {
    let folder = tempfile::tempdir().unwrap();
    let arch = Arch { width: 16, mlp_width: 24, grid: 2, layers: 2, ..tiny(Method::Pca).arch };
    let family = Synthetic { arch, ..tiny(Method::Pca) };
    let (base, basis) = (folder.path().join("base.pt"), folder.path().join("basis"));
    family.write_base(&base).unwrap();
    family.write_basis(&basis).unwrap();
    let (base, basis) = (Checkpoint::open(base).unwrap(), Basis::open(basis).unwrap());
    let hints = family.arch.hints();
    let mut packer = Packer::new(&base, &basis, hints).unwrap();
    let head = || Head::new(vec![0.5; 2 * 4], vec![0.25; 2]).unwrap();
    packer.head("Task0", head()).unwrap();
    packer.head("Task1", head().with_classes(vec!["no".into(), "yes, \"é\"".into()]).unwrap()).unwrap();
    let graph = match with {
        Some(bundle) => bundle.bound_graph(&base, Some(&basis)).unwrap().unwrap(),
        None => support::bundle::exported(&family.arch, &base, &basis, &folder.path().join("graph.onnx")),
    };
    packer.graph(&graph).unwrap();
    packer.lambdas(taskbasis::bundle::Lambdas { task: Some(1.0), merged: Some(0.3), all: None });
    packer.residual("Task2", Checkpoint::open(base.path()).unwrap(), BlockFormat::Q3.into(), 0.0).unwrap();
    let mut formats = packer.uniform(format("q4"));
    let names: Vec<String> = formats.iter().map(|(name, _)| name.to_owned()).collect();
    for (name, format) in names.iter().zip(VectorFormat::ALL.into_iter().cycle()) {
        formats.set(name, format.into()).unwrap();
    }
    packer.write(path, &formats, &[], &|_| {}).unwrap();
}

/// What version 2 added: matrices of low rank, among the vectors, in the mean and in a residual.
fn write_version_2(path: &Path) {
    let family = narrow_files(Method::Pca);
    let (base, basis) = (Checkpoint::open(&family.base).unwrap(), Basis::open(&family.basis).unwrap());
    let mut packer = Packer::new(&base, &basis, family.hints()).unwrap();
    let residual: StoredFormat = "r2q6".parse().unwrap();
    packer.residual("Task2", Checkpoint::open(base.path()).unwrap(), residual, 0.0).unwrap();
    let mut formats = packer.uniform(format("r2"));
    for (name, text) in [("visual.proj", "r2q8"), ("visual.conv1.weight", "r3"), ("visual.class_embedding", "q2")] {
        formats.set(name, format(text)).unwrap();
    }
    packer.write(path, &formats, &[], &|_| {}).unwrap();
}

#[test]
fn version_2_is_read_for_ever() {
    let file = data(VERSION_2);
    if std::env::var_os("TASKBASIS_BLESS_2").is_some() {
        write_version_2(&file);
        let told = told(&Bundle::open(&file).unwrap());
        std::fs::write(data("golden_v2.json"), serde_json::to_string(&told).unwrap() + "\n").unwrap();
    }
    let bundle = Bundle::open(&file).unwrap();
    let errors = bundle.verify(0, &|_| {});
    assert!(errors.is_empty(), "{errors:?}");
    let expected: Value = serde_json::from_slice(&std::fs::read(data("golden_v2.json")).unwrap()).unwrap();
    assert!(told(&bundle) == expected);
    assert_eq!(bundle.residuals(), ["Task2"]);
    // Which bits directions have depends on the machine that found them; the layout does not.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("golden");
    write_version_2(&path);
    let taken = |path: &Path| {
        let mut parts = support::bundle::Parts::of(&std::fs::read(path).unwrap());
        parts.header["__metadata__"]["taskbasis.writer"] = Value::Null;
        (parts.header, parts.data.len())
    };
    assert_eq!(taken(&path), taken(&file));
    assert_eq!(taken(&path).0["__metadata__"]["taskbasis.version"], "2");
}

#[test]
fn version_1_is_read_for_ever() {
    if std::env::var_os("TASKBASIS_BLESS").is_some() {
        write(&data(WITH_GRAPH), None);
        let told = told(&Bundle::open(data(WITH_GRAPH)).unwrap());
        std::fs::write(data("golden_v1_graph.json"), serde_json::to_string(&told).unwrap() + "\n").unwrap();
    }
    // The first one is from before graphs were run; what is in its section is of no consequence.
    for (file, values) in [("golden_v1.taskbasis", "golden_v1.json"), (WITH_GRAPH, "golden_v1_graph.json")] {
        let bundle = Bundle::open(data(file)).unwrap();
        let errors = bundle.verify(0, &|_| {});
        assert!(errors.is_empty(), "{file}: {errors:?}");
        let expected: Value = serde_json::from_slice(&std::fs::read(data(values)).unwrap()).unwrap();
        assert!(told(&bundle) == expected, "{file}");
        assert_eq!(bundle.head("Task1").unwrap().classes(), ["no", "yes, \"é\""]);
        assert_eq!(bundle.head_tasks().collect::<Vec<_>>(), ["Task0", "Task1"]);
        assert_eq!(bundle.residuals(), ["Task2"]);
        assert_eq!(bundle.lambdas().merged, Some(0.3));
        assert_eq!((bundle.arch().heads, bundle.arch().image_size()), (2, 4));
        let (model, is_embedded) = (bundle.model(None, &ModelOptions::default()).unwrap(), file == WITH_GRAPH);
        let graph = bundle.bound_graph(model.base(), model.basis()).unwrap();
        assert_eq!((graph.is_some(), bundle.graph_map().is_some()), (is_embedded, is_embedded));
        let Some(graph) = graph else {
            assert_eq!(bundle.graph(), Some(&b"not really onnx"[..]));
            continue;
        };
        assert_eq!((graph.map().tensors.len(), graph.layout().tensors().len()), (32, 32));
        let task = model.weights(&"Task0".parse().unwrap()).unwrap();
        let (laid_out, canonical) = (task.in_layout(graph.layout()).get().unwrap(), task.get().unwrap());
        assert_eq!(laid_out.get("visual.proj"), canonical.get("visual.proj"));
    }
}

/// The layout stays, name by name and byte by byte; what scales blocks get may improve, and who wrote it is told.
#[test]
fn the_writer_still_writes_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("golden");
    write(&path, Some(&Bundle::open(data(WITH_GRAPH)).unwrap()));
    let taken = |path: &Path| {
        let mut parts = support::bundle::Parts::of(&std::fs::read(path).unwrap());
        parts.header["__metadata__"]["taskbasis.writer"] = Value::Null;
        let graph = parts.data[parts.range("graph")].to_vec();
        (parts.header, parts.data.len(), graph)
    };
    assert_eq!(taken(&path), taken(&data(WITH_GRAPH)));
}

#[test]
fn a_reader_in_another_language_agrees() {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let ready = Command::new(&python).args(["-c", "import numpy, safetensors"]).output();
    if !ready.is_ok_and(|output| output.status.success()) {
        return skip(Need::Python, format_args!("{python} has no numpy and safetensors"));
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/python/read_bundle.py");
    assert!(std::fs::read_to_string(&script).unwrap().lines().count() <= 70, "it is to be short");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let bundles = ["golden_v1.taskbasis", WITH_GRAPH, VERSION_2].map(|file| Bundle::open(data(file)).unwrap());
    for (bundle, task) in bundles.iter().flat_map(|bundle| bundle.tasks().iter().map(move |task| (bundle, task))) {
        let run = "import sys, read_bundle; from safetensors.numpy import save_file\n\
                   w = read_bundle.weights(sys.argv[1], sys.argv[2])\n\
                   save_file({k: v.astype('<f4') for k, v in w.items()}, sys.argv[3])";
        let output = Command::new(&python)
            .args(["-c", run])
            .arg(bundle.path())
            .arg(task)
            .arg(&out)
            .env("PYTHONPATH", script.parent().unwrap())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let theirs = Checkpoint::open(&out).unwrap();
        let ours = weights(bundle, task);
        assert_eq!(theirs.len(), ours.len());
        for (name, shape, _) in ours.iter() {
            let tensor = theirs.require(name).unwrap();
            assert_eq!(tensor.shape(), shape);
            let error = support::relative_l2(&tensor.to_f32().unwrap(), ours.get(name).unwrap());
            assert!(error < 1e-7, "{task}, {name}: {error:e}");
        }
    }
}
