//! Tasks and residuals added to bundles.

use std::path::Path;

use crate::support;
use crate::support::bundle::{METHODS, format, pack_digits, tiny_files};
use taskbasis::bundle::TaskFit;
use taskbasis::{
    BaseFormat, BlockFormat, Bundle, BundleUpdate, Checkpoint, ErrorKind, Method, ModelOptions, NewTask, StoredFormat,
    TaskExpr, Weights,
};

pub(crate) fn weights(bundle: &Bundle, expr: &str) -> std::sync::Arc<Weights> {
    let expr: TaskExpr = expr.parse().unwrap();
    bundle.model(None, &ModelOptions::default()).unwrap().weights(&expr).unwrap().get().unwrap()
}

pub(crate) fn task<'a>(name: &'a str, finetuned: &'a Checkpoint, residual: Option<StoredFormat>) -> NewTask<'a> {
    NewTask { name, finetuned, head: None, residual }
}

fn add(path: &Path, new: NewTask<'_>) -> TaskFit {
    let bundle = Bundle::open(path).unwrap();
    let mut update = BundleUpdate::new(&bundle, None).unwrap();
    update.task(new).unwrap();
    update.write(path, &[], &|_| {}).unwrap().remove(0)
}

/// ‖weights − fine-tuned‖ / ‖fine-tuned − base‖ over the image tower.
pub(crate) fn distance(weights: &Weights, finetuned: &Checkpoint, base: &Checkpoint) -> f64 {
    let (mut off, mut norm) = (0.0, 0.0);
    for (name, _, _) in weights.iter() {
        let (target, base) = (finetuned.require(name).unwrap(), base.require(name).unwrap());
        let (target, base) = (target.to_f32().unwrap(), base.to_f32().unwrap());
        for ((w, t), b) in weights.get(name).unwrap().iter().zip(&*target).zip(&*base) {
            off += f64::from(w - t).powi(2);
            norm += f64::from(t - b).powi(2);
        }
    }
    (off / norm).sqrt()
}

/// The weights of an expression as a checkpoint of their own.
pub(crate) fn saved(bundle: &Bundle, expr: &str, path: &Path) -> Checkpoint {
    weights(bundle, expr).save(path, &[], &[]).unwrap();
    Checkpoint::open(path).unwrap()
}

#[test]
fn what_lies_in_the_span_is_found_again() {
    for method in [Method::Autoencoder, Method::Pca, Method::Random, Method::RandomSample] {
        let family = tiny_files(method);
        let path = family.pack("x.taskbasis", "q4", BaseFormat::F32);
        let bundle = Bundle::open(&path).unwrap();
        // Whatever is one task's worth of mean and any of the vectors.
        let expr = if method == Method::RandomSample { "Task0@0.5" } else { "Task0 + Task1@0.5 - Task2@0.5" };
        let finetuned = saved(&bundle, expr, &family.path("finetuned.safetensors"));
        let fitted = add(&path, task("New", &finetuned, None));
        assert!(fitted.lacking < 1e-4 && fitted.rank == 2, "{method}: {fitted:?}");
        let grown = Bundle::open(&path).unwrap();
        assert!(grown.verify(0, &|_| {}).is_empty());
        assert_eq!(grown.tasks().last().unwrap(), "New");
        assert!(distance(&weights(&grown, "New"), &finetuned, &grown.base().unwrap().unwrap()) < 1e-4, "{method}");
        // The others are what they were, and a reader that had the old one open still has it.
        for (name, _, _) in weights(&bundle, "Task0").iter() {
            assert_eq!(weights(&bundle, "Task0").get(name), weights(&grown, "Task0").get(name));
        }
        assert_eq!(bundle.tasks().len(), 3);
    }
}

#[test]
fn a_residual_brings_what_is_missing() {
    for method in METHODS {
        let Some(finetuned) = support::digits("finetuned/MNIST.pt") else { return };
        let finetuned = Checkpoint::open(finetuned).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.taskbasis");
        pack_digits(method, format("q4"), BaseFormat::F16, &path).unwrap();
        let before = Bundle::open(&path).unwrap();
        let mut last = f64::INFINITY;
        for (i, residual) in [None, Some("q2"), Some("q4"), Some("q8")].into_iter().enumerate() {
            let residual: Option<StoredFormat> = residual.map(|format| format.parse().unwrap());
            let name = format!("New{i}");
            let fitted = add(&path, task(&name, &finetuned, residual));
            let grown = Bundle::open(&path).unwrap();
            assert!(grown.verify(0, &|_| {}).is_empty());
            assert_eq!(grown.residuals().len(), i);
            let distance = distance(&weights(&grown, &name), &finetuned, &grown.base().unwrap().unwrap());
            let told = fitted.lacking_with_residual.unwrap_or(fitted.lacking);
            assert!((distance / told - 1.0).abs() < 1e-3, "{method}, {residual:?}: told {told}, is {distance}");
            assert!(told < 0.6 * last, "{method}, {residual:?}: {told} after {last}");
            last = told;
            // λ multiplies the residual too, and `merged` knows nothing of it.
            let base = weights(&grown, "base");
            let (whole, half) = (weights(&grown, &name), weights(&grown, &format!("{name}@0.5")));
            for (value, (whole, base)) in (half.get("visual.proj").unwrap().iter())
                .zip(whole.get("visual.proj").unwrap().iter().zip(base.get("visual.proj").unwrap()))
            {
                assert!((value - 0.5 * (whole + base)).abs() < 1e-6);
            }
            let expr = "merged@0.4";
            assert_eq!(weights(&before, expr).get("visual.proj"), weights(&grown, expr).get("visual.proj"));
        }
    }
}

#[test]
fn packing_with_residuals_helps_the_tasks_that_need_it() {
    let Some(folder) = support::digits("finetuned/MNIST.pt") else { return };
    let folder = folder.parent().unwrap();
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("r.taskbasis");
    let (basis, base) = support::bundle::digits_files("AE").unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let arguments = [
        "pack",
        "--json",
        "--basis",
        &text(&basis),
        "--base",
        &text(&base),
        "--format",
        "q4",
        "--residual",
        "q4",
        "--residual-above",
        "0.6",
        "--finetuned-dir",
        &text(folder),
        "-o",
        &text(&path),
    ]
    .map(str::to_owned);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_taskbasis")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let bundle = Bundle::open(&path).unwrap();
    let fitted = report["residuals"].as_array().unwrap();
    assert_eq!(fitted.len(), 8);
    for fit in fitted {
        let (task, lacking) = (fit["task"].as_str().unwrap(), fit["lacking"].as_f64().unwrap());
        assert_eq!(bundle.residuals().iter().any(|known| known == task), lacking > 0.6, "{task}");
        let finetuned = Checkpoint::open(folder.join(format!("{task}.pt"))).unwrap();
        let expected = fit["lacking_with_residual"].as_f64().unwrap_or(lacking);
        let distance = distance(&weights(&bundle, task), &finetuned, &bundle.base().unwrap().unwrap());
        assert!((distance / expected - 1.0).abs() < 1e-3, "{task}: told {expected}, is {distance}");
    }
    assert!((1..8).contains(&bundle.residuals().len()));
}

#[test]
fn a_parameter_that_no_vector_changes_can_have_a_residual() {
    // Vectors of the text tower's kind: all zero in one parameter of the image tower.
    let Some((folder, base_path)) = support::bundle::digits_files("AE") else { return };
    let Some(finetuned) = support::digits("finetuned/MNIST.pt") else { return };
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("x.taskbasis");
    // A basis whose first layer norm never changes.
    let copy = out.path().join("basis");
    support::bundle::write_without(&folder, &["visual.ln_pre.weight"], &copy);
    let (basis, base) = (taskbasis::Basis::open(&copy).unwrap(), Checkpoint::open(base_path).unwrap());
    assert!(!basis.parameter("visual.ln_pre.weight").unwrap().is_changed());
    let packer = taskbasis::Packer::new(&base, &basis, taskbasis::ArchHints::default()).unwrap();
    packer.write(&path, &packer.uniform(format("q4")), &[], &|_| {}).unwrap();
    assert!(
        Bundle::open(&path).unwrap().basis().unwrap().parameter("visual.ln_pre.weight").unwrap().sources().is_empty()
    );

    let finetuned = Checkpoint::open(finetuned).unwrap();
    add(&path, task("A", &finetuned, Some(BlockFormat::Q8.into())));
    add(&path, task("B", &finetuned, Some(BlockFormat::Q8.into())));
    let grown = Bundle::open(&path).unwrap();
    assert!(grown.verify(0, &|_| {}).is_empty());
    assert!(distance(&weights(&grown, "B"), &finetuned, &grown.base().unwrap().unwrap()) < 0.02);
    assert_eq!(
        weights(&grown, "MNIST").get("visual.ln_pre.weight"),
        weights(&grown, "base").get("visual.ln_pre.weight")
    );
}

#[test]
fn what_does_not_belong_is_refused() {
    let family = tiny_files(Method::RandomSample);
    let path = family.pack("x.taskbasis", "q4", BaseFormat::LeftOut);
    let bundle = Bundle::open(&path).unwrap();
    let base = Checkpoint::open(&family.base).unwrap();
    let other = support::bundle::digits_files("AE").map(|(_, other)| Checkpoint::open(other).unwrap());
    assert!(BundleUpdate::new(&bundle, None).is_err(), "it has no base");
    let mut update = BundleUpdate::new(&bundle, Some(&base)).unwrap();
    let refused = |result: taskbasis::Result<&TaskFit>, kind: ErrorKind, part: &str| {
        let error = result.unwrap_err();
        assert!(error.kind() == kind && error.to_string().contains(part), "{error:?}");
    };
    refused(update.task(task("Task1", &base, None)), ErrorKind::InvalidArgument, "has a task `Task1` already");
    refused(update.task(task("", &base, None)), ErrorKind::InvalidArgument, "the new task's name is empty");
    refused(update.residual("Task9", &base, BlockFormat::Q2.into()), ErrorKind::NotFound, "Task9");
    let unselected =
        bundle.tasks().iter().position(|task| bundle.basis().unwrap().coefficients(&TaskExpr::task(task)).is_err());
    let unselected = bundle.tasks()[unselected.unwrap()].clone();
    refused(
        update.residual(&unselected, &base, BlockFormat::Q2.into()),
        ErrorKind::NotRecoverable,
        "cannot be recovered",
    );
    update.residual("Task0", &base, BlockFormat::Q2.into()).unwrap();
    refused(update.residual("Task0", &base, BlockFormat::Q2.into()), ErrorKind::InvalidArgument, "a residual already");
    if let Some(other) = &other {
        refused(update.task(task("New", other, None)), ErrorKind::Mismatch, "another model");
        assert!(BundleUpdate::new(&bundle, Some(other)).is_err());
    }
    let head = taskbasis::Head::new(vec![0.5; 6], vec![0.0; 2]).unwrap();
    let with_head = NewTask { name: "New", finetuned: &base, head: Some(head), residual: None };
    refused(update.task(with_head), ErrorKind::Mismatch, "the head of `New` takes embeddings of another length");
}
