//! Basis folders: families never seen before, and everything that can be wrong with a folder or its base.

use crate::support;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::family::small;
use crate::support::synthetic::Synthetic;
use taskbasis::checkpoint::writer::{TorchWriter, Value};
use taskbasis::{
    Arch, ArchHints, Basis, Checkpoint, DType, Encoder, EncoderOptions, Error, ErrorKind, Method, ReconstructOptions,
    Scope, TaskExpr, Weights,
};

fn family(method: Method) -> Synthetic {
    small(method, 7)
}

struct Files {
    _folder: tempfile::TempDir,
    base: PathBuf,
    basis: PathBuf,
}

fn write(family: &Synthetic) -> Files {
    let folder = tempfile::tempdir().unwrap();
    let (base, basis) = (folder.path().join("base.pt"), folder.path().join("basis"));
    family.write_base(&base).unwrap();
    family.write_basis(&basis).unwrap();
    Files { _folder: folder, base, basis }
}

/// The recovered tensor as the formulas of the methods give it, in f64.
fn recovered(basis: &Basis, task: usize, name: &str) -> Vec<f64> {
    let parameter = basis.parameter(name).unwrap();
    let mut sum = vec![0.0; parameter.numel()];
    for (m, source) in parameter.sources().iter().enumerate() {
        // The mean, where there is one, comes last and counts once.
        let a = if m < basis.vectors() { basis.recovery().get(m, task).unwrap() } else { 1.0 };
        for (sum, s) in sum.iter_mut().zip(source.to_f32().unwrap().iter()) {
            *sum += a * f64::from(*s);
        }
    }
    sum
}

#[test]
fn another_family_works_with_no_change() {
    for (method, dtype) in [
        (Method::Autoencoder, DType::F32),
        (Method::Pca, DType::F32),
        (Method::Random, DType::F16),
        (Method::RandomSample, DType::BF16),
    ] {
        let family = Synthetic { dtype, ..family(method) };
        let files = write(&family);
        let (base, basis) = (Checkpoint::open(&files.base).unwrap(), Basis::open(&files.basis).unwrap());
        assert_eq!((basis.method(), basis.tasks().len(), basis.vectors()), (method, 7, 3));
        assert_eq!(basis.has_mean(), method == Method::Pca);
        let task = (0..7).find(|&t| basis.recovery().is_recoverable(t)).unwrap();
        let expr = TaskExpr::task(&basis.tasks()[task]) * 0.7;
        let weights = Weights::reconstruct(&base, &basis, &expr, &ReconstructOptions::default()).unwrap();
        for (name, _) in family.arch.parameters() {
            let expected = base.get(&name).unwrap().to_f64().unwrap();
            let change = recovered(&basis, task, &name);
            for ((got, base), change) in weights.get(&name).unwrap().iter().zip(expected).zip(change) {
                let want = base + 0.7 * change;
                assert!((f64::from(*got) - want).abs() <= 1e-6 * (1.0 + want.abs()), "{method}, {name}: {got}, {want}");
            }
        }
        let arch = Arch::of(&base, ArchHints { heads: Some(3), ..ArchHints::default() }).unwrap();
        assert_eq!(arch, family.arch);
        let encoder = Encoder::new(&arch, &EncoderOptions::default()).unwrap();
        let embeds = encoder.encode(&weights, &vec![0.25; 2 * arch.pixels()], 2).unwrap();
        assert!(embeds.len() == 40 && embeds.iter().all(|v| v.is_finite()));
    }
}

#[test]
fn what_no_vector_changes_is_a_view_of_the_base() {
    let files = write(&family(Method::Autoencoder));
    let (base, basis) = (Checkpoint::open(&files.base).unwrap(), Basis::open(&files.basis).unwrap());
    assert!(!basis.parameter("token_embedding.weight").unwrap().is_changed());
    assert!(basis.parameter("visual.proj").unwrap().is_changed());
    let count = basis.count();
    assert_eq!((count.total - count.changed, count.image_tower), (481, count.changed));

    let options = ReconstructOptions { scope: Scope::All, ..ReconstructOptions::default() };
    let weights = Weights::reconstruct(&base, &basis, &TaskExpr::task("Task0"), &options).unwrap();
    let place = |name: &str| (weights.get(name).unwrap().as_ptr(), base.get(name).unwrap().as_f32().unwrap().as_ptr());
    let (ours, theirs) = place("token_embedding.weight");
    assert_eq!(ours, theirs, "nothing is copied");
    let (ours, theirs) = place("visual.proj");
    assert_ne!(ours, theirs);
    let zero_shot = Weights::reconstruct(&base, &basis, &TaskExpr::base(), &options).unwrap();
    assert_eq!(zero_shot.nbytes(), 0, "the base is never copied");
}

#[test]
fn every_expression_costs_the_same_pass() {
    let files = write(&family(Method::Pca));
    let basis = Basis::open(&files.basis).unwrap();
    let options = ReconstructOptions::default();
    let vector = |expr: &str| {
        let coefficients = basis.coefficients(&expr.parse().unwrap()).unwrap();
        Weights::task_vector(&basis, &coefficients, &options).unwrap().get("visual.proj").unwrap().to_vec()
    };
    let sum = |parts: &[(&str, f32)]| {
        let parts: Vec<(Vec<f32>, f32)> = parts.iter().map(|(expr, a)| (vector(expr), *a)).collect();
        (0..parts[0].0.len()).map(|i| parts.iter().map(|(v, a)| a * v[i]).sum::<f32>()).collect::<Vec<_>>()
    };
    let close = |a: &[f32], b: &[f32]| assert!(support::relative_l2(a, b) < 1e-5);
    close(&vector("Task0@0.3 + Task1@0.4 - Task2@0.2"), &sum(&[("Task0", 0.3), ("Task1", 0.4), ("Task2", -0.2)]));
    close(
        &vector("all@0.5"),
        &sum(&[0, 1, 2, 3, 4, 5, 6].map(|t| (["Task0", "Task1", "Task2", "Task3", "Task4", "Task5", "Task6"][t], 0.5))),
    );
    let sources = basis.parameter("visual.proj").unwrap().sources();
    let plain: Vec<f32> = (0..sources[0].numel())
        .map(|i| sources[..3].iter().map(|s| s.to_f32().unwrap()[i]).sum::<f32>() * 0.4)
        .collect();
    close(&vector("merged@0.4"), &plain);
}

/// Spoils a copy of the family, and gives what opening it or reconstructing says.
fn spoiled(method: Method, spoil: impl FnOnce(&Path, &Path)) -> Error {
    let files = write(&family(method));
    spoil(&files.basis, &files.base);
    let opened = Basis::open(&files.basis).and_then(|basis| {
        let base = Checkpoint::open(&files.base)?;
        let task = basis.tasks().first().cloned().unwrap_or_default();
        Weights::reconstruct(&base, &basis, &TaskExpr::task(task), &ReconstructOptions::default()).map(drop)
    });
    opened.expect_err("it must be refused")
}

#[track_caller]
fn says(error: &Error, kind: ErrorKind, parts: &[&str]) {
    assert_eq!(error.kind(), kind, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "`{part}` is not in: {error}");
    }
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn missing_artifacts_are_named() {
    for (method, file) in [
        (Method::Autoencoder, "method_info.json"),
        (Method::Autoencoder, "basis_vectors.pt"),
        (Method::Autoencoder, "AWB.pt"),
        (Method::Pca, "pca_components.pt"),
        (Method::Random, "random_basis.pt"),
        (Method::RandomSample, "random_selection.json"),
    ] {
        let error = spoiled(method, |basis, _| fs::remove_file(basis.join(file)).unwrap());
        says(&error, ErrorKind::Format, &[file, "/basis: "]);
    }
    let error = Basis::open("/nonexistent/basis").unwrap_err();
    says(&error, ErrorKind::Io, &["/nonexistent/basis", "no such file or folder"]);
}

#[test]
fn descriptions_that_contradict_are_refused() {
    let info = |from: &'static str, to: &'static str| {
        move |basis: &Path, _: &Path| edit(&basis.join("method_info.json"), from, to)
    };
    let error = spoiled(Method::Autoencoder, info("AutoencoderBasisMethod", "MagicMethod"));
    says(&error, ErrorKind::Unsupported, &["method_info.json", "unknown method", "`MagicMethod`"]);
    let error = spoiled(Method::Autoencoder, info("Task3", "Task2"));
    says(&error, ErrorKind::Format, &["method_info.json", "`Task2` twice"]);
    let error = spoiled(Method::Autoencoder, |basis, _| fs::write(basis.join("method_info.json"), "{").unwrap());
    says(&error, ErrorKind::Format, &["method_info.json", "not the JSON"]);
    let error = spoiled(Method::Autoencoder, info("\"Task6\"", "\"Task6\", \"Task7\""));
    says(&error, ErrorKind::Format, &["AWB.pt", "tensor `W`", "expected [3, 8], got [3, 7]"]);
    let selection = |from: &'static str, to: &'static str| {
        move |basis: &Path, _: &Path| edit(&basis.join("random_selection.json"), from, to)
    };
    let error = spoiled(Method::RandomSample, selection("Task2", "Task3"));
    says(&error, ErrorKind::Format, &["random_selection.json", "selected task 2 is not `Task3`", "expected `Task2`"]);
}

#[test]
fn a_coefficient_that_is_no_number_is_refused() {
    let error = spoiled(Method::Autoencoder, |basis, _| {
        let mut writer = TorchWriter::new("AWB");
        let value = Value::dict([("W", writer.tensor(DType::F32, &[3, 7]).unwrap())]);
        let mut table = [0.5f32; 21];
        table[9] = f32::NAN;
        let bytes: Vec<u8> = table.iter().flat_map(|v| v.to_le_bytes()).collect();
        writer.write_file(basis.join("AWB.pt"), &value, |_, out| out.write_all(&bytes)).unwrap();
    });
    says(&error, ErrorKind::Format, &["AWB.pt", "tensor `W`", "not finite", "vector 1, task 2"]);
}

/// Writes `basis_vectors.pt` anew: `vectors` of (name, shape), zeros.
fn write_vectors(basis: &Path, vectors: &[Vec<(&str, &[usize])>]) {
    let mut writer = TorchWriter::new("basis_vectors");
    let mut sizes = Vec::new();
    let list = vectors
        .iter()
        .map(|vector| {
            Value::dict(
                vector
                    .iter()
                    .map(|(name, shape)| {
                        sizes.push(shape.iter().product::<usize>() * 4);
                        (*name, writer.tensor(DType::F32, shape).unwrap())
                    })
                    .collect::<Vec<_>>(),
            )
        })
        .collect();
    let value = Value::dict([("basis_vectors", Value::List(list))]);
    writer.write_file(basis.join("basis_vectors.pt"), &value, |id, out| out.write_all(&vec![0; sizes[id.0]])).unwrap();
}

#[test]
fn vectors_that_disagree_are_refused() {
    let a: (&str, &[usize]) = ("model.visual.a", &[2]);
    for (vectors, part) in [
        (vec![vec![a], vec![a], vec![("model.visual.a", &[3][..])]], "vector 2 has another shape"),
        (vec![vec![a, ("model.visual.b", &[1][..])], vec![a], vec![a]], "missing in vector 1"),
        (vec![vec![a], vec![a], vec![a, ("model.visual.b", &[1][..])]], "vector 2 changes it"),
        (vec![vec![a], vec![], vec![a]], "basis vector 1 holds no tensors"),
        (vec![], "holds no basis vectors"),
    ] {
        let error = spoiled(Method::Autoencoder, |basis, _| write_vectors(basis, &vectors));
        says(&error, ErrorKind::Format, &["basis_vectors.pt", part]);
    }
    let error = spoiled(Method::Autoencoder, |basis, _| write_vectors(basis, &[vec![a], vec![a]]));
    says(&error, ErrorKind::Format, &["AWB.pt", "expected [2, 7], got [3, 7]"]);
}

#[test]
fn the_base_of_another_model_is_refused() {
    let another = Synthetic { arch: Arch { embed_dim: 24, ..family(Method::Pca).arch }, ..family(Method::Pca) };
    let error = spoiled(Method::Pca, |_, base| another.write_base(base).unwrap());
    says(&error, ErrorKind::Mismatch, &["base.pt", "tensor `visual.proj`", "[48, 20]", "got [48, 24]"]);

    let deeper = Synthetic { arch: Arch { layers: 3, ..another.arch.clone() }, ..another.clone() };
    let deeper = Synthetic { arch: Arch { embed_dim: 20, ..deeper.arch.clone() }, ..deeper };
    let error = spoiled(Method::Pca, |_, base| deeper.write_base(base).unwrap());
    says(&error, ErrorKind::Mismatch, &["base.pt", "resblocks.2.", "the basis does not know"]);

    let shallower = Synthetic { arch: Arch { layers: 1, ..deeper.arch.clone() }, ..deeper };
    let error = spoiled(Method::Pca, |_, base| shallower.write_base(base).unwrap());
    says(&error, ErrorKind::Mismatch, &["resblocks.1.", "the base does not have"]);
}

#[test]
fn a_truncated_artifact_is_refused_wherever_it_is_cut() {
    for file in ["basis_vectors.pt", "pca_components.pt"] {
        let files = write(&family(Method::Pca));
        let path = files.basis.join(file);
        let whole = fs::read(&path).unwrap();
        for cut in (0..whole.len()).step_by(whole.len() / 60 + 1) {
            fs::write(&path, &whole[..cut]).unwrap();
            let error = Basis::open(&files.basis).expect_err("cut");
            assert!(error.to_string().contains(file), "{error}");
        }
    }
}
