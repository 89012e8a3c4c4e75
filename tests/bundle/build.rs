//! Bases that are made here: as good as any can be, equal to the reference's where only one answer exists, readable by
//! PyTorch and by our own readers.
#![cfg(feature = "build")]

use crate::support::{Need, skip};
use std::process::Command;

use crate::support::build::{content, open, write_family};
use crate::support::digits;
use taskbasis::build::{Activation, AutoencoderForm, Family, Fit, Gram, WriteOptions};
use taskbasis::checkpoint::torch::Archive;
use taskbasis::checkpoint::writer::{StorageId, TorchWriter, Value as Pickled};
use taskbasis::{Basis, Checkpoint, DType, ErrorKind, MapMode, Method, Scope};

const METHODS: [Method; 3] = [Method::Autoencoder, Method::Pca, Method::RandomSample];

/// `‖τ_t − τ̂_t‖ / ‖τ_t‖`, from what the files hold.
fn measured_error(family: &Family, basis: &Basis, t: usize) -> f64 {
    let tuned = family.tuned().nth(t).unwrap();
    let (mut missing, mut all) = (0.0, 0.0);
    for (name, parameter) in basis.parameters() {
        let sources: Vec<_> = parameter.sources().iter().map(|source| source.to_f32().unwrap()).collect();
        let base = family.base().require(name).unwrap().to_f32().unwrap().into_owned();
        for (i, tuned) in tuned.require(name).unwrap().to_f32().unwrap().iter().enumerate() {
            let recovered: f64 = sources
                .iter()
                .enumerate()
                .map(|(m, source)| {
                    let a = if m < basis.vectors() { basis.recovery().get(m, t).unwrap() } else { 1.0 };
                    a * f64::from(source[i])
                })
                .sum();
            let task = f64::from(tuned - base[i]);
            missing += (task - recovered).powi(2);
            all += task * task;
        }
    }
    (missing / all).sqrt()
}

#[test]
fn what_is_written_recovers_the_tasks_as_promised() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_family(folder.path());
    let family = open(&files);
    let gram = family.gram(2, &|_| {}).unwrap();
    for method in METHODS {
        for vectors in [1, 3, 5] {
            let fit = Fit::of(method, &gram, vectors, 3).unwrap();
            let out = folder.path().join(format!("{method}{vectors}"));
            family.write_basis(&fit, &out, &WriteOptions::default()).unwrap();
            let basis = Basis::open(&out).unwrap();
            assert_eq!((basis.method(), basis.vectors(), basis.tasks().len()), (method, vectors, 5));
            assert_eq!(basis.tasks(), ["T0", "T1", "T2", "T3", "T4"]);
            assert!(!basis.parameter("token_embedding.weight").unwrap().is_changed());
            for t in 0..5 {
                assert_eq!(basis.recovery().is_recoverable(t), fit.errors()[t].is_some());
                let Some(promised) = fit.errors()[t] else { continue };
                let error = measured_error(&family, &basis, t);
                assert!((error - promised).abs() < 1e-5, "{method}, {vectors} vectors, task {t}: {error}, {promised}");
                assert!(vectors < 5 || error < 1e-5, "as many vectors as tasks lose nothing: {error}");
            }
        }
    }
    // The mean is one more dimension, so one vector less is enough.
    let exact = Fit::pca(&gram, 4).unwrap();
    assert!(exact.errors().iter().all(|error| error.unwrap() < 1e-6));
}

#[test]
fn the_same_seed_gives_the_same_files_on_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_family(folder.path());
    let build = |name: String, method, seed, threads| {
        let family = open(&files);
        let gram = family.gram(threads, &|_| {}).unwrap();
        let out = folder.path().join(name);
        let options = WriteOptions { threads, ..WriteOptions::default() };
        family.write_basis(&Fit::of(method, &gram, 2, seed).unwrap(), &out, &options).unwrap();
        content(&out)
    };
    for method in METHODS {
        let one = build(format!("{method}-1"), method, 7, 1);
        assert!(one == build(format!("{method}-3"), method, 7, 3), "{method}");
        let other = build(format!("{method}-other"), method, 8, 2);
        assert_eq!(one["method_info.json"] == other["method_info.json"], method == Method::Pca);
    }
}

#[test]
fn the_autoencoder_reaches_the_bound_or_the_best_there_is() {
    // Tasks that have much in common: the bound is attained, for every M and from every seed.
    let tasks = || (0..6).map(|t| format!("T{t}")).collect::<Vec<_>>();
    let entry = |i: usize, j: usize| if i == j { 1.0 + 0.2 * i as f64 } else { 0.35 + 0.01 * (i + j) as f64 };
    let values: Vec<f64> = (0..36).map(|at| entry(at / 6, at % 6)).collect();
    let gram = Gram::new(tasks(), &values).unwrap();
    for vectors in 1..=6 {
        for seed in [0, 1, 99] {
            let fit = Fit::autoencoder(&gram, vectors, seed).unwrap();
            let (loss, bound) = (fit.loss().unwrap(), fit.bound().unwrap());
            assert!(loss <= bound * (1.0 + 1e-6) + 1e-9, "M = {vectors}, seed {seed}: {loss} over {bound}");
            for m in 0..vectors {
                let column: Vec<f64> = (0..6).map(|t| fit.combine(t, m)).collect();
                assert!(column.iter().all(|b| *b > 0.0) && (column.iter().sum::<f64>() - 1.0).abs() < 1e-6);
            }
        }
    }
    // Two opposite tasks and one vector: no positive combination is the eigenvector (1, −1). The best is either task
    // alone, and the loss the other's part that it does not explain: none.
    let gram = Gram::new(vec!["A".into(), "B".into()], &[1.0, -1.0, -1.0, 1.0]).unwrap();
    assert!(Fit::autoencoder(&gram, 1, 0).unwrap().loss().unwrap() < 1e-9);
    // Orthogonal ones of the same size: half of the energy stays out whatever is done.
    let gram = Gram::new(vec!["A".into(), "B".into()], &[1.0, 0.0, 0.0, 1.0]).unwrap();
    let fit = Fit::autoencoder(&gram, 1, 0).unwrap();
    assert!((fit.loss().unwrap() - 0.25).abs() < 1e-9, "{:?}", fit.loss());
    assert_eq!(gram.vectors_for(0.95, false).unwrap(), 2);
    assert_eq!(gram.vectors_for(0.5, false).unwrap(), 1);
    assert!(gram.vectors_for(0.0, false).is_err() && Fit::autoencoder(&gram, 3, 0).is_err());
}

const TASKS: [&str; 8] = ["MNIST", "OptDigits", "Inverted", "Rotated", "Parity", "Colors", "Quadrant", "Loops"];

/// The digits family, where the whole of it is at hand.
fn digits_family() -> Option<Family> {
    let folder = digits("finetuned")?;
    let tasks = TASKS.map(|task| (task.to_owned(), Checkpoint::open(folder.join(format!("{task}.pt"))).unwrap()));
    let base = Checkpoint::open(digits("base/pickled_module.pt")?).unwrap();
    Some(Family::new(base, tasks.into(), Scope::All).unwrap())
}

#[test]
fn pca_of_the_digits_is_the_references() {
    let (Some(family), Some(reference)) = (digits_family(), digits("bases/ViT-D-8_PCA_M4_8task")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("pca");
    let fit = Fit::pca(&family.gram(0, &|_| {}).unwrap(), 4).unwrap();
    family.write_basis(&fit, &out, &WriteOptions::default()).unwrap();
    let (ours, reference) = (Basis::open(&out).unwrap(), Basis::open(reference).unwrap());
    for (t, task) in TASKS.iter().enumerate() {
        let (mut difference, mut all) = (0.0, 0.0);
        for (name, parameter) in reference.parameters() {
            let recovered = |basis: &Basis, sources: &[taskbasis::Source]| {
                let mut sum = vec![0.0; parameter.numel()];
                for (m, source) in sources.iter().enumerate() {
                    let a = if m < 4 { basis.recovery().get(m, t).unwrap() } else { 1.0 };
                    sum.iter_mut().zip(source.to_f32().unwrap().iter()).for_each(|(sum, s)| *sum += a * f64::from(*s));
                }
                sum
            };
            let theirs = recovered(&reference, parameter.sources());
            let ours = recovered(&ours, ours.parameter(name).unwrap().sources());
            difference += theirs.iter().zip(&ours).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
            all += theirs.iter().map(|a| a * a).sum::<f64>();
        }
        assert!((difference / all).sqrt() <= 1e-5, "{task}: {}", (difference / all).sqrt());
    }
}

#[test]
fn the_autoencoders_loss_on_the_digits_is_not_above_the_references() {
    let (Some(family), Some(reference)) = (digits_family(), digits("bases/ViT-D-8_AE_M4_8task")) else { return };
    let gram = family.gram(0, &|_| {}).unwrap();
    let archive = Archive::open(reference.join("AWB.pt"), MapMode::Map).unwrap();
    let matrix = |key: &str| archive.root().get(key).unwrap().tensor().unwrap().unwrap().to_f64().unwrap();
    let (b, w) = (matrix("B"), matrix("W"));
    let residual = |i: usize, j: usize| {
        let product: f64 = (0..4).map(|m| b[i * 4 + m] * w[m * 8 + j]).sum();
        f64::from(u8::from(i == j)) - product
    };
    let mut loss = 0.0;
    for j in 0..8 {
        for i in 0..8 {
            loss += (0..8).map(|k| residual(i, j) * gram.get(i, k) * residual(k, j)).sum::<f64>();
        }
    }
    let theirs = loss / 64.0;
    for seed in [0, 1, 2] {
        let fit = Fit::autoencoder(&gram, 4, seed).unwrap();
        assert!(fit.loss().unwrap() <= theirs, "{:?}, theirs {theirs}", fit.loss());
        assert!(fit.loss().unwrap() <= fit.bound().unwrap() * (1.0 + 1e-6));
        // Nearly parallel vectors would do as well, and be useless once they are quantised.
        let largest = (0..4).flat_map(|m| (0..8).map(move |t| (m, t))).map(|(m, t)| fit.recover(m, t).unwrap().abs());
        assert!(largest.fold(0.0, f64::max) < 8.0);
    }
    let sample = Fit::random_sample(&gram, 4, 0).unwrap();
    assert_eq!(sample.selected(), [0, 3, 6, 7], "the tasks that the reference selected with this seed");
}

#[test]
fn random_vectors_of_the_digits_are_the_references() {
    let (Some(family), Some(folder)) = (digits_family(), digits("bases/ViT-D-8_Random_M4_8task")) else { return };
    let temporary = tempfile::tempdir().unwrap();
    let gram = family.gram(0, &|_| {}).unwrap();
    let build = |name: &str, seed, threads| {
        let out = temporary.path().join(name);
        let fit = Fit::random(&family, &gram, 4, seed, threads, &|_| {}).unwrap();
        family.write_basis(&fit, &out, &WriteOptions { threads, ..WriteOptions::default() }).unwrap();
        (out, fit)
    };
    let (out, fit) = build("random", 0, 2);
    assert!(content(&out) == content(&build("again", 0, 1).0), "the same bytes on any number of threads");
    let (ours, theirs) = (Basis::open(&out).unwrap(), Basis::open(folder).unwrap());
    assert_eq!((ours.method(), ours.tasks()), (Method::Random, theirs.tasks()));
    let other = Basis::open(build("other", 1, 0).0).unwrap();
    for m in 0..4 {
        let apart = |basis: &Basis| {
            let (mut apart, mut all) = (0.0, 0.0);
            for (name, parameter) in theirs.parameters() {
                let [a, b] = [parameter, basis.parameter(name).unwrap()]
                    .map(|of| of.sources()[m].to_f32().unwrap().into_owned());
                apart += a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
                all += a.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>();
            }
            (apart / all).sqrt()
        };
        assert!(apart(&ours) < 1e-5, "vector {m}: {}", apart(&ours));
        assert!(apart(&other) > 1.0, "another seed gives others");
        for t in 0..8 {
            let (a, b) = (ours.recovery().get(m, t).unwrap(), theirs.recovery().get(m, t).unwrap());
            assert!((a - b).abs() < 1e-5 * gram.get(t, t).sqrt(), "vector {m}, task {t}: {a}, {b}");
        }
    }
    for t in 0..8 {
        let promised = fit.errors()[t].unwrap();
        assert!((measured_error(&family, &ours, t) - promised).abs() < 1e-6 && promised > 0.99, "{promised}");
    }
    // Not of this model.
    let folder = tempfile::tempdir().unwrap();
    let files = write_family(folder.path());
    let error = open(&files[..]).write_basis(&fit, folder.path().join("x"), &WriteOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    assert!(Fit::of(Method::Random, &gram, 4, 0).unwrap_err().to_string().contains("Fit::random"));
    assert!(Fit::random(&family, &gram, 9, 0, 0, &|_| {}).is_err());
}

const FORMS: [(Activation, Activation); 4] = [
    (Activation::Softmax, Activation::Linear),
    (Activation::Linear, Activation::Linear),
    (Activation::Softmax, Activation::Softmax),
    (Activation::Linear, Activation::Softmax),
];

#[test]
fn the_autoencoders_other_activations() {
    // The losses that the reference's training ends with: 4,000 steps of Adam, lr 0.01, τ 5, seed 0, PyTorch 2.15.
    const TRAINED: [f64; 4] = [0.024_538_3, 0.024_487_8, 0.027_430_9, 0.025_625_5];
    let Some(family) = digits_family() else { return };
    let folder = tempfile::tempdir().unwrap();
    let gram = family.gram(0, &|_| {}).unwrap();
    for ((encoder, w), trained) in FORMS.into_iter().zip(TRAINED) {
        let form = AutoencoderForm { encoder, w };
        let fit = Fit::autoencoder_of(&gram, 4, 0, form).unwrap();
        let (loss, bound) = (fit.loss().unwrap(), fit.bound().unwrap());
        assert!(loss <= trained && loss >= bound * (1.0 - 1e-6), "{form:?}: {loss}, trained {trained}, bound {bound}");
        assert!(w == Activation::Softmax || loss <= bound * (1.0 + 1e-6), "{form:?} reaches the bound: {loss}");
        let sums_to_one = |column: Vec<f64>| {
            column.iter().all(|value| *value >= 0.0) && (column.iter().sum::<f64>() - 1.0).abs() < 1e-5
        };
        let of_b = (0..4).all(|m| sums_to_one((0..8).map(|t| fit.combine(t, m)).collect()));
        let of_w = (0..8).all(|t| sums_to_one((0..4).map(|m| fit.recover(m, t).unwrap()).collect()));
        assert_eq!((of_b, of_w), (encoder == Activation::Softmax, w == Activation::Softmax), "{form:?}");

        let out = folder.path().join(format!("{}-{}", encoder.name(), w.name()));
        family.write_basis(&fit, &out, &WriteOptions::default()).unwrap();
        let info = std::fs::read_to_string(out.join("method_info.json")).unwrap();
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        assert_eq!((&info["encoder"], &info["w_activation"]), (&encoder.name().into(), &w.name().into()));
        let basis = Basis::open(&out).unwrap();
        for t in 0..8 {
            let error = measured_error(&family, &basis, t);
            assert!((error - fit.errors()[t].unwrap()).abs() < 1e-5, "{form:?}, task {t}: {error}");
        }
    }
}

#[test]
fn logits_of_a_softmax_are_activated_at_the_temperature_of_a_and_b() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_family(folder.path());
    let family = open(&files);
    let gram = family.gram(0, &|_| {}).unwrap();
    for encoder in [Activation::Softmax, Activation::Linear] {
        let fit = Fit::autoencoder_of(&gram, 2, 0, AutoencoderForm { encoder, w: Activation::Softmax }).unwrap();
        let out = folder.path().join(encoder.name());
        family.write_basis(&fit, &out, &WriteOptions::default()).unwrap();
        let trained: Vec<f64> = Basis::open(&out).unwrap().recovery().iter().map(Option::unwrap).collect();
        let archive = Archive::open(out.join("AWB.pt"), MapMode::Map).unwrap();
        let matrix = |key: &str| archive.root().get(key).unwrap().tensor().unwrap().unwrap().to_f64().unwrap();
        let (a, b) = (matrix("A"), matrix("B"));
        drop(archive);
        // As the reference leaves them where `w_activation` is set and `softmax_w` is not: τ has been annealed to 1.5.
        let (tau, read_tau) = (1.5, 5.0);
        let a: Vec<f64> = a.iter().map(|a| a / read_tau * tau).collect();
        let w: Vec<f64> = trained.iter().map(|w| tau * w.max(1e-12).ln() + 0.25).collect();
        let info = std::fs::read_to_string(out.join("method_info.json")).unwrap();
        let write = |a: &[f64], w: &[f64]| {
            let mut writer = TorchWriter::new("AWB");
            let shapes = [("A", [5, 2]), ("W", [2, 5]), ("B", [5, 2])];
            let entries = shapes.map(|(name, shape)| (name, writer.tensor(DType::F32, &shape).unwrap()));
            let all = [a, w, &b];
            let fill = |StorageId(i): StorageId, out: &mut dyn std::io::Write| {
                all[i].iter().try_for_each(|value| out.write_all(&(*value as f32).to_le_bytes()))
            };
            writer.write_file(out.join("AWB.pt"), &Pickled::dict(entries), fill).unwrap();
            Basis::open(&out).map(|basis| basis.recovery().iter().map(Option::unwrap).collect::<Vec<f64>>())
        };
        let far = |w: &[f64]| w.iter().zip(&trained).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let read = write(&a, &w).unwrap();
        assert!(far(&read) < 1e-5, "{encoder:?}: {read:?}, not {trained:?}");
        // What is activated already is taken as it is, whatever the temperature.
        assert!(far(&write(&a, &trained).unwrap()) < 1e-6);
        // Neither A nor B would tell.
        let wrong: Vec<f64> = a.iter().map(|a| -a).collect();
        let error = write(&wrong, &w).unwrap_err();
        assert!(error.kind() == ErrorKind::Format && error.to_string().contains("temperature"), "{error}");
        // `softmax_w` says that W is activated: as it stands.
        std::fs::write(out.join("method_info.json"), info.replace("\"softmax_w\": false", "\"softmax_w\": true"))
            .unwrap();
        assert!(far(&write(&wrong, &w).unwrap()) > 0.1);
    }
}

#[test]
fn pytorch_reads_what_is_written() {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let has_torch = Command::new(&python).args(["-c", "import torch"]).output();
    if !has_torch.is_ok_and(|output| output.status.success()) {
        return skip(Need::Torch, format_args!("{python} has no PyTorch (set PYTHON to one that has)"));
    }
    let folder = tempfile::tempdir().unwrap();
    let files = write_family(folder.path());
    let family = open(&files);
    let gram = family.gram(0, &|_| {}).unwrap();
    for method in METHODS {
        let fit = Fit::of(method, &gram, 3, 0).unwrap();
        family.write_basis(&fit, folder.path().join(method.name()), &WriteOptions::default()).unwrap();
    }
    // As the reference recovers: from the names, shapes and keys that it expects.
    let script = r#"
import json, sys, torch
root = sys.argv[1]
load = lambda path: torch.load(f"{root}/{path}", weights_only=True)
base = load("base.pt")
tau = [{k: load(f"T{t}.pt")[k] - base[k] for k in base} for t in range(5)]
for method in ["AutoencoderBasisMethod", "PCABasisMethod", "RandomSampleMethod"]:
    info = json.load(open(f"{root}/{method}/method_info.json"))
    assert info["method"] == method and info["M"] == 3 and info["datasets"] == [f"T{t}" for t in range(5)], info
    vectors = load(f"{method}/basis_vectors.pt")
    assert vectors["num_basis"] == 3 and vectors["method"] == method
    s = vectors["basis_vectors"]
    assert all(list(v) == list(base) and all(v[k].shape == base[k].shape for k in base) for v in s)
    if method == "AutoencoderBasisMethod":
        awb = load(f"{method}/AWB.pt")
        assert torch.allclose(torch.softmax(awb["A"] / awb["metadata"]["tau_init"], 0), awb["B"], atol=1e-6)
        for m in range(3):
            for k in base:
                made = sum(float(awb["B"][t, m]) * tau[t][k] for t in range(5))
                assert torch.allclose(made, s[m][k], atol=1e-8), (m, k)
        assert awb["W"].shape == (3, 5) and awb["metadata"]["datasets"] == info["datasets"]
    elif method == "PCABasisMethod":
        pca = load(f"{method}/pca_components.pt")
        keys = pca["keys_order"]
        assert keys == list(base) and all(torch.Size(pca["param_shapes"][k]) == base[k].shape for k in keys)
        flat = lambda v: torch.cat([v[k].flatten() for k in keys])
        x = torch.stack([flat(v) for v in tau], 1).double()
        assert pca["total_dim"] == len(x) and torch.allclose(x.mean(1), pca["mean_vector"].double(), atol=1e-9)
        singular = torch.linalg.svdvals(x - x.mean(1, keepdim=True))[:3]
        assert torch.allclose(singular, pca["singular_values"].double(), rtol=1e-5), (singular, pca["singular_values"])
        assert torch.allclose(torch.stack([flat(v) for v in s]).norm(dim=1).double(), singular, rtol=1e-5)
    else:
        chosen = json.load(open(f"{root}/{method}/random_selection.json"))["selected_indices"]
        assert all(torch.equal(s[m][k], tau[t][k]) for m, t in enumerate(chosen) for k in base)
print("read")
"#;
    let output = Command::new(&python).args(["-c", script, folder.path().to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
