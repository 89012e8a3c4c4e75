//! Matrices of low rank: what they lose is told, formats are found for a size, and nothing else fits their files.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use taskbasis::bundle::{ComparedImages, Formats};
use taskbasis::{
    ArchHints, BaseFormat, Basis, Bundle, BundleUpdate, Checkpoint, ErrorKind, Method, Packer, Source, StoredFormat,
};

use super::growth::{distance, task, weights};
use crate::support::bundle::{Parts, digits_files, faults, format, narrow_files, pack_digits};
use crate::support::{digits, onnxruntime};

#[test]
fn what_is_lost_is_told_and_fewer_bits_lose_more() {
    let folder = tempfile::tempdir().unwrap();
    let Some((basis, _)) = digits_files("AE") else { return };
    let exact = Basis::open(basis).unwrap();
    // Measured: 0.531, 0.288, 0.461, 0.691, 0.851. What the Autoencoder's sums make of noise is more than of
    // what a lower rank lacks: with rank 16 a third fewer bytes than with q2, and less is lost.
    let expected = [
        ("q2", 594_776, 0.54),
        ("r24q6", 680_792, 0.3),
        ("r16", 537_432, 0.47),
        ("r8", 480_088, 0.7),
        ("r4", 451_416, 0.87),
    ];
    for (text, bytes, most) in expected {
        let path = folder.path().join(text);
        let report = pack_digits("AE", format(text), BaseFormat::F16, &path).unwrap();
        let bundle = Bundle::open(&path).unwrap();
        assert!(bundle.verify(0, &|_| {}).is_empty(), "{text}");
        // The Gram matrices tell what a look at every value gives.
        let stored = bundle.basis().unwrap();
        let t = exact.task_index("Rotated").unwrap();
        let (mut error, mut norm) = (0.0, 0.0);
        for (name, parameter) in stored.parameters().filter(|(_, parameter)| parameter.is_changed()) {
            let sums = |sources: &[Source]| -> Vec<f64> {
                let mut sums = vec![0.0; parameter.numel()];
                for (m, source) in sources.iter().enumerate() {
                    let a = exact.recovery().get(m, t).unwrap();
                    sums.iter_mut()
                        .zip(&*source.to_f32().unwrap())
                        .for_each(|(sum, &value)| *sum += a * f64::from(value));
                }
                sums
            };
            for (value, right) in sums(parameter.sources()).iter().zip(sums(exact.parameter(name).unwrap().sources())) {
                error += (value - right).powi(2);
                norm += right.powi(2);
            }
        }
        let told = report.errors.tasks.iter().find(|task| task.task == "Rotated").unwrap().relative;
        let seen = (error / norm).sqrt();
        assert!((seen / told - 1.0).abs() < 1e-4, "{text}: told {told}, is {seen}");
        let largest = report.errors.largest();
        assert!(largest < most && largest > 0.95 * most, "{text}: {largest}");
        assert!(report.bytes.abs_diff(bytes) <= 8192, "{text}: {}", report.bytes);
        let version = Parts::of(&fs::read(&path).unwrap()).header["__metadata__"]["taskbasis.version"].clone();
        assert_eq!(version, if text == "q2" { "1" } else { "2" }, "the first version where it says everything");
    }
}

#[test]
fn one_dimension_is_never_below_half_floats_and_factors_never_larger_than_what_they_stand_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let Some(report) = pack_digits("AE", format("r60q6"), BaseFormat::F16, &path) else { return };
    let formats: Vec<&str> = report.formats.iter().map(|(format, _)| format.as_str()).collect();
    assert_eq!(formats, ["f16", "q6"], "60 of 64 directions are larger than the matrix");
    for text in ["r0", "r5000", "r4q9", "r"] {
        assert_eq!(text.parse::<StoredFormat>().unwrap_err().kind(), ErrorKind::InvalidArgument, "{text}");
    }
}

/// A packer of the digits family, by the Autoencoder.
fn with_digits(work: impl FnOnce(&mut Packer<'_>)) {
    let Some((folder, base)) = digits_files("AE") else { return };
    let (basis, base) = (Basis::open(folder).unwrap(), Checkpoint::open(base).unwrap());
    work(&mut Packer::new(&base, &basis, ArchHints::default()).unwrap());
}

fn written(packer: &Packer<'_>, formats: &Formats, path: &Path) -> (u64, f64) {
    let report = packer.write(path, formats, &[], &|_| {}).unwrap();
    (report.bytes, report.errors.largest())
}

#[test]
fn a_size_is_kept_to_and_more_of_it_loses_less() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    with_digits(|packer| {
        let (mut last, planner) = (f64::INFINITY, packer.planner(None, &|_| {}).unwrap());
        for size in [450_000, 500_000, 600_000, 900_000] {
            let formats = planner.within(size).unwrap();
            assert_eq!(planner.within(size).unwrap(), formats, "the same every time");
            let (bytes, error) = written(packer, &formats, &path);
            assert!(bytes <= size && bytes > size - 20_000, "{bytes} of {size}");
            assert!(error < last, "{size}: {error} after {last}");
            last = error;
        }
        let error = planner.within(300_000).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("at least") && error.to_string().contains("300000"), "{error}");
    });
}

#[test]
fn errors_weigh_what_they_do_to_embeddings() {
    if onnxruntime().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    with_digits(|packer| {
        let plain = packer.planner(None, &|_| {}).unwrap().within(560_000).unwrap();
        let images = ComparedImages::default();
        let weighed = packer.planner(Some(&images), &|_| {}).unwrap().within(560_000).unwrap();
        assert!(written(packer, &weighed, &path).0 <= 560_000);
        assert!(written(packer, &weighed, &path).1 > written(packer, &plain, &path).1, "vectors are off by more");
        // The patch embedding is what everything is made of.
        let bits = |formats: &Formats| match formats.get("visual.conv1.weight").unwrap() {
            StoredFormat::Values(format) => format.to_string(),
            StoredFormat::LowRank(format) => format!("rank {}", format.rank()),
        };
        assert!(["q3", "q4", "q6", "q8"].contains(&bits(&weighed).as_str()), "{}", bits(&weighed));
    });
}

#[test]
fn residuals_and_refits_may_be_of_low_rank() {
    let Some(finetuned) = digits("finetuned/MNIST.pt") else { return };
    let finetuned = Checkpoint::open(finetuned).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.taskbasis");
    pack_digits("AE", format("r16"), BaseFormat::F16, &path).unwrap();
    let before = Bundle::open(&path).unwrap();
    let mut last = f64::INFINITY;
    for (i, residual) in ["r4", "r16", "q2"].into_iter().enumerate() {
        let bundle = Bundle::open(&path).unwrap();
        let name = format!("New{i}");
        let mut update = BundleUpdate::new(&bundle, None).unwrap();
        update.task(task(&name, &finetuned, Some(format(residual)))).unwrap();
        let fit = update.write(&path, &[], &|_| {}).unwrap().pop().unwrap();
        let told = fit.lacking_with_residual.unwrap();
        assert!(told < fit.lacking && told < last, "{residual}: {told} of {}", fit.lacking);
        last = told;
        let grown = Bundle::open(&path).unwrap();
        assert!(grown.verify(0, &|_| {}).is_empty());
        let distance = distance(&weights(&grown, &name), &finetuned, &grown.base().unwrap().unwrap());
        assert!((distance / told - 1.0).abs() < 1e-3, "{residual}: told {told}, is {distance}");
        let matrix = "visual.transformer.resblocks.1.mlp.c_fc.weight";
        assert_eq!(weights(&before, "Colors").get(matrix), weights(&grown, "Colors").get(matrix));
    }
}

#[test]
fn nothing_else_fits() {
    let family = narrow_files(Method::Pca);
    let path = family.pack("low.taskbasis", "r2q8", BaseFormat::F16);
    let bytes = fs::read(&path).unwrap();
    assert!(faults(bytes.clone()).is_empty());
    let name = "vectors/visual.transformer.resblocks.0.mlp.c_fc.weight";
    assert_eq!(
        Parts::of(&bytes).metadata("taskbasis.blocks")[name]["rank"],
        2,
        "a matrix of low rank is what is tried"
    );
    let refused = |what: &str, change: &dyn Fn(&mut Parts), part: &str| {
        let mut taken = Parts::of(&bytes);
        change(&mut taken);
        let errors = faults(taken.join(true));
        let text = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(text.contains(part), "{what}: `{part}` is not in `{text}`");
    };
    let record = |field: &'static str, value: Value| {
        move |parts: &mut Parts| {
            let mut all = parts.metadata("taskbasis.blocks");
            all[name][field] = value.clone();
            parts.set_metadata("taskbasis.blocks", &all);
        }
    };
    for (rank, part) in [(json!(0), "not a rank"), (json!(5000), "not a rank"), (json!(60), "another shape")] {
        refused("rank", &record("rank", rank), part);
    }
    refused("no rank", &record("rank", Value::Null), "another shape");
    refused("half a rank", &record("rank", json!(1.5)), "`taskbasis.blocks` is broken");
    refused("another format", &record("format", json!("f16")), "unknown block format");
    refused("another shape", &record("shape", json!([32])), "another shape");
    let first = |parts: &mut Parts| parts.header["__metadata__"]["taskbasis.version"] = json!("1");
    refused("the first version", &first, "a matrix of low rank, which version 1 does not know");
    let behind = |parts: &mut Parts| {
        let end = parts.range(name).end;
        parts.data[end - 1] = 1;
    };
    refused("behind the factors", &behind, "must be zero");
    let infinite = |parts: &mut Parts| {
        let start = parts.range(name).start;
        parts.data[start..start + 2].copy_from_slice(&0x7f80u16.to_le_bytes());
    };
    refused("an infinite scale", &infinite, "not finite");
}
