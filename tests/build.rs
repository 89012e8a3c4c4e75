//! Bases that are made here: as good as any can be, equal to the reference's where only one answer exists, readable by
//! PyTorch and by our own readers, and never half-written.
#![cfg(feature = "build")]

mod common;
mod program_support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use common::{digits, whole_digits};
use program_support::{json, run};
use serde_json::Value;
use taskbasis::build::{Family, Fit, Gram, WriteOptions};
use taskbasis::checkpoint::torch::Archive;
use taskbasis::checkpoint::writer::{StorageId, TorchWriter, Value as Pickled};
use taskbasis::synthetic::Synthetic;
use taskbasis::{Activation, Arch, Basis, Checkpoint, DType, ErrorKind, MapMode, Method, Scope};

const METHODS: [Method; 3] = [Method::Autoencoder, Method::Pca, Method::RandomSample];

fn model() -> Synthetic {
    let arch = Arch {
        width: 48,
        layers: 1,
        heads: 3,
        mlp_width: 80,
        patch: 5,
        grid: 3,
        embed_dim: 20,
        activation: Activation::QuickGelu,
    };
    let text = vec![("token_embedding.weight".to_owned(), vec![10, 48]), ("logit_scale".to_owned(), vec![])];
    Synthetic { arch, text, method: Method::Autoencoder, tasks: 5, vectors: 3, dtype: DType::F32, seed: 1 }
}

/// A base and five fine-tuned checkpoints in one folder, `base.pt`, `T0.pt`, …: random walks from the base that have a
/// part in common, with the text tower's tensors left as they are.
fn write_family(folder: &Path) -> Vec<PathBuf> {
    let model = model();
    let parameters = model.parameters();
    let noise = |task: usize, p: usize, i: usize| {
        let mut z = ((task as u64) << 40 | (p as u64) << 20 | i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((z >> 40) as f32 / (1 << 23) as f32) - 1.0
    };
    (0..=5)
        .map(|file| {
            let name = if file == 0 { "base".to_owned() } else { format!("T{}", file - 1) };
            let mut writer = TorchWriter::new(name.clone());
            let entries = parameters
                .iter()
                .map(|(name, shape)| (format!("model.{name}"), writer.tensor(DType::F32, shape).unwrap()));
            let value = Pickled::dict(entries.collect::<Vec<_>>());
            let path = folder.join(format!("{name}.pt"));
            let fill = |StorageId(p): StorageId, out: &mut dyn std::io::Write| {
                let (name, shape) = &parameters[p];
                (0..shape.iter().product()).try_for_each(|i| {
                    let base = 0.05 * noise(99, p, i);
                    let step = 1e-3 * (noise(file, p, i) + 0.5 * noise(77, p, i));
                    let value = if file > 0 && name.starts_with("visual.") { base + step } else { base };
                    out.write_all(&value.to_le_bytes())
                })
            };
            writer.write_file(&path, &value, fill).unwrap();
            path
        })
        .collect()
}

fn open(files: &[PathBuf]) -> Family {
    let tuned = files[1..].iter().enumerate();
    let tasks = tuned.map(|(t, path)| (format!("T{t}"), Checkpoint::open(path).unwrap())).collect();
    Family::new(Checkpoint::open(&files[0]).unwrap(), tasks, Scope::All).unwrap()
}

/// Everything in a folder, by name.
fn content(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

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

/// The digits family's checkpoints, where the whole family is at hand.
fn digits_family() -> Option<(PathBuf, Family)> {
    let folder = digits("finetuned")?;
    let tasks = TASKS.map(|task| (task.to_owned(), Checkpoint::open(folder.join(format!("{task}.pt"))).unwrap()));
    let base = Checkpoint::open(digits("base/pickled_module.pt")?).unwrap();
    Some((folder, Family::new(base, tasks.into(), Scope::All).unwrap()))
}

#[test]
fn pca_of_the_digits_is_the_references() {
    let (Some((_, family)), Some(reference)) = (digits_family(), digits("bases/ViT-D-8_PCA_M4_8task")) else { return };
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
    let (Some((_, family)), Some(reference)) = (digits_family(), digits("bases/ViT-D-8_AE_M4_8task")) else { return };
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

/// Fails with one paragraph that holds all of `parts`.
#[track_caller]
fn fail(arguments: &[&str], parts: &[&str]) {
    let output = run(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("error: ") && text.trim_end().lines().count() == 1, "{text}");
    parts.iter().for_each(|part| assert!(text.contains(part), "`{part}` is not in: {text}"));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn recovered_accuracies_are_the_references() {
    let (Some((tuned, _)), Some(images)) = (digits_family(), digits("images.safetensors")) else { return };
    let golden: Value = serde_json::from_slice(&fs::read(whole_digits("golden.json").unwrap()).unwrap()).unwrap();
    let base = digits("base/pickled_module.pt").unwrap();
    let heads = digits("heads.safetensors").unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (method, name) in [("ae", "AE"), ("pca", "PCA")] {
        let out = folder.path().join(method);
        let built = json(&[
            "build",
            "--base",
            text(&base),
            "--tasks-dir",
            text(&tuned),
            "--method",
            method,
            "--vectors",
            "4",
            "-o",
            text(&out),
        ]);
        assert_eq!(built["tasks"].as_array().unwrap().len(), 8);
        let result = json(&[
            "eval",
            "--basis",
            text(&out),
            "--base",
            text(&base),
            "--heads",
            text(&heads),
            "--data",
            text(&images),
            "--batch",
            "100",
        ]);
        let recovered = golden["methods"][name]["recovered"].as_object().unwrap();
        let reference: f64 = recovered.values().map(|task| task["test@1.0"].as_f64().unwrap()).sum::<f64>() / 8.0;
        let mean = result["mean"].as_f64().unwrap();
        assert!((mean - reference).abs() <= 0.01, "{name}: {mean}, the reference {reference}");
    }
}

#[test]
fn forms_of_checkpoints_and_their_places() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_family(folder.path());
    let build = |arguments: &[&str], out: &str| {
        let out = folder.path().join(out);
        let built = json(&[&["build", "--base", text(&files[0]), "-o", text(&out)], arguments].concat());
        assert_eq!(built["tasks"].as_array().unwrap().len(), 5, "{built}");
        content(&out)
    };
    // A folder of files, of which the base is none; the reference's layout; one by one.
    let named: Vec<String> = (0..5).map(|t| format!("T{t}={}", text(&files[t + 1]))).collect();
    let named: Vec<&str> = named.iter().flat_map(|file| ["--task", file]).collect();
    let one_by_one = build(&[&["--vectors", "2"], &named[..]].concat(), "a");
    assert!(one_by_one == build(&["--vectors", "2", "--tasks-dir", text(folder.path())], "b"));
    let layout = folder.path().join("layout");
    for (t, file) in files[1..].iter().enumerate() {
        let place = layout.join(format!("T{t}{}", if t == 2 { "" } else { "Val" }));
        fs::create_dir_all(&place).unwrap();
        fs::copy(file, place.join("finetuned.pt")).unwrap();
    }
    assert!(one_by_one == build(&["--vectors", "2", "--tasks-dir", text(&layout)], "c"));
    let auto = json(&["analyze", "--base", text(&files[0]), "--tasks-dir", text(&layout), "--method", "pca"]);
    let spectrum: Vec<f64> = auto["spectrum_centred"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    let total: f64 = spectrum.iter().sum();
    let enough = (1..=5).find(|m| spectrum[..*m].iter().sum::<f64>() >= 0.7 * total).unwrap();
    build(&["--method", "pca", "--keep", "0.7", "--tasks-dir", text(&layout)], "d");
    assert_eq!(Basis::open(folder.path().join("d")).unwrap().vectors(), enough);
    assert_eq!(auto["fits"].as_array().unwrap().len(), 5);
}

#[test]
fn what_is_wrong_is_named_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_family(folder.path());
    let base = text(&files[0]);
    let out = folder.path().join("out");
    let build = |task: &str, parts: &[&str]| {
        let good = format!("T0={}", text(&files[1]));
        fail(&["build", "--base", base, "--task", &good, "--task", task, "-o", text(&out)], parts);
        assert!(!out.exists());
    };
    let mut other = model();
    other.arch.width = 24;
    let path = folder.path().join("other.pt");
    other.write_base(&path).unwrap();
    build(&format!("X={}", text(&path)), &["other.pt", "tensor `", "as in", "base.pt"]);
    build(&format!("T0={}", text(&files[2])), &["two checkpoints for task `T0`"]);
    build(&format!("X={base}"), &["the weights of task `X` are the base's"]);
    build("X=/nonexistent.pt", &["/nonexistent.pt"]);

    // A value that is not finite, deep in a file.
    let bytes = fs::read(&files[3]).unwrap();
    let checkpoint = Checkpoint::open(&files[3]).unwrap();
    let tensor = checkpoint.require("visual.proj").unwrap();
    let mut broken = bytes;
    broken[tensor.offset() + 40..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let path = folder.path().join("nan.pt");
    fs::write(&path, broken).unwrap();
    build(&format!("X={}", text(&path)), &["nan.pt", "`visual.proj`", "not finite", "element 10"]);

    // Nothing is overwritten, least of all what it is made of.
    fail(
        &["build", "--base", base, "--tasks-dir", text(folder.path()), "-o", text(folder.path())],
        &["nothing is overwritten"],
    );
    fail(&["build", "--base", base, "--task", &format!("A={}", text(&files[1])), "-o", base], &["is a file"]);
    let nowhere = folder.path().join("no/such/place");
    fail(&["build", "--base", base, "--task", &format!("A={}", text(&files[1])), "-o", text(&nowhere)], &["no/such"]);
    let family = open(&files);
    let gram = Gram::new(vec!["A".into()], &[1.0]).unwrap();
    let error = family.write_basis(&Fit::pca(&gram, 1).unwrap(), &out, &WriteOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    let mut left: Vec<_> = content(folder.path()).into_keys().filter(|name| name.starts_with('.')).collect();
    left.retain(|name| name.contains("partial"));
    assert!(left.is_empty() && !out.exists(), "{left:?}");
}

/// A file system without room is played by a limit on the size of files.
#[cfg(unix)]
#[test]
fn a_full_disk_is_a_clear_error_that_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_family(folder.path());
    let inputs = tempfile::tempdir().unwrap();
    let out = inputs.path().join("out");
    let script = format!(
        "trap '' XFSZ; ulimit -f 16; exec {} build --base {} --tasks-dir {} --vectors 3 -o {}",
        env!("CARGO_BIN_EXE_taskbasis"),
        text(&files[0]),
        text(folder.path()),
        text(&out)
    );
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("out/basis_vectors.pt") && message.contains("large"), "{message}");
    assert_eq!(fs::read_dir(inputs.path()).unwrap().count(), 0);
}

/// Killed at any moment, `build` leaves no basis or a whole one, and the next removes what it left.
#[test]
fn killing_build_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_family(folder.path());
    let around = tempfile::tempdir().unwrap();
    let out = around.path().join("out");
    let build = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_taskbasis"));
        command.args(["build", "--vectors", "3", "--base"]).arg(&files[0]).arg("--tasks-dir").arg(folder.path());
        command.arg("-o").arg(&out).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let began = Instant::now();
    assert!(build().status().unwrap().success());
    let (whole, took) = (content(&out), began.elapsed());
    let names = || fs::read_dir(around.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let mut left = 0;
    for i in 0..40 {
        let _ = fs::remove_dir_all(&out);
        let mut child = build().spawn().unwrap();
        // As long as it lasts, or until it is at its most vulnerable: something stands beside the place.
        let began = Instant::now();
        if i % 2 == 0 {
            thread::sleep(took * i / 40);
        } else {
            let is_partial = |name: &std::ffi::OsString| name.to_string_lossy().ends_with(".partial");
            while !names().iter().any(is_partial) && began.elapsed() < 10 * took {
                thread::yield_now();
            }
        }
        let _ = child.kill();
        child.wait().unwrap();
        assert!(!out.exists() || content(&out) == whole, "half a basis after kill {i}");
        left += usize::from(names().iter().any(|name| name != "out"));
    }
    assert!(left > 0, "never killed while it wrote");
    let _ = fs::remove_dir_all(&out);
    assert!(build().status().unwrap().success());
    assert!(content(&out) == whole);
    // One that was killed before it had written anything leaves an empty folder for a while.
    for name in names().into_iter().filter(|name| name != "out") {
        assert_eq!(fs::read_dir(around.path().join(&name)).unwrap().count(), 0, "{name:?}");
    }
}

/// What `build` packs is what `pack` makes of what it builds, whole or not at all.
#[test]
fn a_bundle_is_built_as_it_would_be_packed() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_family(folder.path());
    let around = tempfile::tempdir().unwrap();
    let at = |name: &str| around.path().join(name);
    let (base, tasks) = (text(&files[0]), text(folder.path()));
    let of_model = ["--activation", "quick_gelu", "--heads-count", "3"];
    for (method, formats) in [
        ("ae", &["--format", "q4"][..]),
        ("pca", &["--max-error", "0.1"]),
        ("ae", &["--residual", "q8", "--residual-above", "0"]),
    ] {
        let build = |output: &str, more: &[&str]| {
            let out = at(output);
            let arguments =
                ["build", "--base", base, "--tasks-dir", tasks, "--method", method, "--vectors", "3", "-o", text(&out)];
            json(&[&arguments[..], more].concat())
        };
        build("folder", &[]);
        let basis = at("folder");
        let packed = at("packed.taskbasis");
        let pack = ["pack", "--basis", text(&basis), "--base", base, "-o", text(&packed)];
        let finetuned: &[&str] = if formats.contains(&"--residual") { &["--finetuned-dir", tasks] } else { &[] };
        let report = json(&[&pack[..], &of_model, formats, finetuned].concat());
        let built = build("built.taskbasis", &[&of_model[..], formats].concat());
        assert!(fs::read(&packed).unwrap() == fs::read(at("built.taskbasis")).unwrap(), "{method} {formats:?}");
        assert_eq!((&built["bytes"], &built["built"]["vectors"]), (&report["bytes"], &Value::from(3)));
        assert_eq!(fs::read_dir(around.path()).unwrap().count(), 3, "nothing else is left");
        fs::remove_dir_all(at("folder")).unwrap();
    }

    let says = |arguments: &[&str]| {
        let output = run(&[&["build", "--base", base, "--tasks-dir", tasks, "--vectors", "3"], arguments].concat());
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(says(&["-o", text(&at("x")), "--format", "q4"]).contains("Name the output `model.taskbasis`"));
    assert!(says(&["-o", text(&at("no/x.taskbasis"))]).contains("its folder does not exist"));
    let whole = fs::read(at("built.taskbasis")).unwrap();
    assert!(says(&["-o", text(&at("built.taskbasis")), "--heads-count", "5"]).contains("heads"));
    assert!(fs::read(at("built.taskbasis")).unwrap() == whole, "what failed has changed nothing");
    assert_eq!(fs::read_dir(around.path()).unwrap().count(), 2);
}

#[test]
fn pytorch_reads_what_is_written() {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let has_torch = Command::new(&python).args(["-c", "import torch"]).output();
    if !has_torch.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: {python} has no PyTorch (set PYTHON to one that has)");
        return;
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
    let output = Command::new(&python).args(["-c", script, text(folder.path())]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
