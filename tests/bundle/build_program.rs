//! `taskbasis build`: checkpoints wherever they lie, folders and bundles whole or not at all, and what is wrong named.
#![cfg(feature = "cli")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use crate::support::build::{content, open, small, write_family};
use crate::support::program::{fail, json, run, succeed, text};
use crate::support::{digits, whole_digits};
use serde_json::Value;
use taskbasis::build::{Fit, Gram, WriteOptions};
use taskbasis::{Basis, Checkpoint, ErrorKind, Method};

#[test]
fn recovered_accuracies_are_the_references() {
    let (Some(tuned), Some(images)) = (digits("finetuned"), digits("images.safetensors")) else { return };
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
    // What each block adds comes to the whole.
    let groups = auto["groups"].as_array().unwrap();
    assert!(groups.iter().any(|part| part["group"] == "blocks.1"), "{groups:?}");
    for (i, j) in [(0, 0), (1, 3), (4, 2)] {
        let entry = |of: &serde_json::Value| of["gram"][i][j].as_f64().unwrap();
        let sum: f64 = groups.iter().map(entry).sum();
        assert!((sum - entry(&auto)).abs() <= 1e-12 * entry(&auto).abs().max(1.0), "{sum}");
    }
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
    let mut other = small(Method::Autoencoder, 5);
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
    fail(
        &["build", "--base", base, "--task", &format!("A={}", text(&files[1])), "-o", base],
        &["would overwrite the input"],
    );
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
        "ulimit -f 16; exec {} build --base {} --tasks-dir {} --vectors 3 -o {}",
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
    assert_eq!(names(), ["out"], "what killed programs left");
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
    // `pack` finds them in every layout that `build` does.
    let layout = folder.path().join("layout");
    for file in &files[1..] {
        let place = layout.join(file.file_stem().unwrap());
        fs::create_dir_all(&place).unwrap();
        fs::copy(file, place.join("finetuned.pt")).unwrap();
    }
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
        let finetuned: &[&str] =
            if formats.contains(&"--residual") { &["--finetuned-dir", text(&layout)] } else { &[] };
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
    assert!(says(&["-o", text(&at("no/x.taskbasis"))]).contains("its folder does not exist"));
    let whole = fs::read(at("built.taskbasis")).unwrap();
    assert!(says(&["-o", text(&at("built.taskbasis")), "--heads-count", "5"]).contains("heads"));
    assert!(fs::read(at("built.taskbasis")).unwrap() == whole, "what failed has changed nothing");
    assert_eq!(fs::read_dir(around.path()).unwrap().count(), 2);
}

/// Task vectors from a base that is not theirs are the way from one model to another.
#[test]
fn another_models_base_is_doubted() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_family(folder.path());
    let elsewhere = tempfile::tempdir().unwrap();
    let other = elsewhere.path().join("other.pt");
    let mut family = small(Method::Autoencoder, 5);
    family.seed = 99;
    family.write_base(&other).unwrap();
    let tasks: Vec<String> = (0..2).map(|t| format!("T{t}={}", text(&files[t + 1]))).collect();
    let doubts = |arguments: &[&str]| {
        let output = run(&[arguments, &["--task", &tasks[0], "--task", &tasks[1], "--json"]].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let told: Vec<String> = serde_json::from_value(json["doubts"].clone()).unwrap();
        assert_eq!(said.lines().filter(|line| line.starts_with("note: ")).count(), told.len(), "{said}");
        told.iter().for_each(|doubt| assert!(said.contains(doubt)));
        told
    };
    for (i, command) in ["build", "analyze"].into_iter().enumerate() {
        let out = elsewhere.path().join(format!("basis{i}"));
        let build = ["build", "-o", text(&out), "--vectors", "2", "--base"];
        let analyze = ["analyze", "--method", "pca", "--base"];
        let usual: &[&str] = if command == "build" { &build } else { &analyze };
        assert_eq!(doubts(&[usual, &[text(&files[0])]].concat()), Vec::<String>::new());
        if out.exists() {
            fs::remove_dir_all(&out).unwrap();
        }
        let told = doubts(&[usual, &[text(&other)]].concat());
        assert!(told[0].contains("as long as the base's weights (`T0` ") && told[0].contains("another model's base?"));
        assert!(told[1].contains("nearly one vector") && told[1].contains("% of the spectrum"), "{told:?}");
    }
    let open = |path: &Path| Checkpoint::open(path).unwrap();
    let doubt = |base: &Path| taskbasis::build::doubt(&open(base), "T0", &open(&files[1])).unwrap();
    assert!(doubt(&files[0]).is_none() && doubt(&other).is_some_and(|doubt| doubt.contains("`T0`")));

    // A task that is added: the bundle's own base against another's fine-tune.
    family.seed = 1;
    let (base, basis) = (elsewhere.path().join("base.pt"), elsewhere.path().join("basis"));
    family.write_base(&base).unwrap();
    family.write_basis(&basis).unwrap();
    let bundle = elsewhere.path().join("m.taskbasis");
    let pack = ["pack", "--basis", text(&basis), "--base", text(&base), "--heads-count", "3", "--no-golden"];
    succeed(&[&pack[..], &["-o", text(&bundle)]].concat());
    let grown = elsewhere.path().join("grown.taskbasis");
    let add = ["add-task", text(&bundle), "-o", text(&grown), "--task"];
    let output = run(&[&add[..], &[&format!("X={}", text(&other)), "--json"]].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("note: task vectors as long as the base's weights (`X` "), "{said}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["doubts"].as_array().unwrap().len(), 1);
    assert!(run(&[&add[..], &[&format!("X={}", text(&base))]].concat()).stderr.is_empty());
}

/// The digits family is fine-tuned as people do: nothing is doubted.
#[test]
fn nothing_is_doubted_of_real_fine_tunes() {
    let (Some(base), Some(tasks)) = (digits("base/state_dict.pt"), digits("finetuned")) else { return };
    let output = run(&["analyze", "--base", text(&base), "--tasks-dir", text(&tasks), "--method", "pca", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(json["doubts"].as_array().unwrap().is_empty(), "{json}");
    let lengths: Vec<f64> = serde_json::from_value(json["relative_lengths"].clone()).unwrap();
    assert!(lengths.iter().all(|length| (0.01..0.05).contains(length)), "{lengths:?}");
}

/// A basis that loses nothing has its tasks' lengths and angles, in all and block by block.
#[test]
fn a_basis_is_analysed_as_its_checkpoints_are() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_family(folder.path());
    let at = |name: &str| folder.path().join(name);
    let of_files = ["--base", text(&files[0]), "--tasks-dir", text(folder.path())];
    let expected = json(&[&["analyze", "--method", "pca", "--vectors", "1"], &of_files[..]].concat());
    for (method, vectors) in [("ae", "5"), ("pca", "4")] {
        let out = at(&format!("{method}.taskbasis.folder"));
        json(&[&["build", "--method", method, "--vectors", vectors, "-o", text(&out)], &of_files[..]].concat());
        let found =
            json(&["analyze", "--basis", text(&out), "--weights", "T0@2", "--weights=-T1 + T0@{attn: 1, *: 0}"]);
        let numbers = |of: &Value, key: &str, i: usize, j: usize| of[key][i][j].as_f64().unwrap();
        for i in 0..5 {
            for j in 0..5 {
                let (got, want) = (numbers(&found, "cosines", i, j), numbers(&expected, "cosines", i, j));
                assert!((got - want).abs() < 1e-4, "{method}: {got}, not {want}");
            }
            let (got, want) = (found["norms"][i].as_f64().unwrap(), expected["norms"][i].as_f64().unwrap());
            assert!((got - want).abs() < 1e-4 * want, "{method}: {got}, not {want}");
        }
        assert!((numbers(&found, "cosines", 0, 5) - 1.0).abs() < 1e-9, "twice a task points where the task does");
        assert!(numbers(&found, "cosines", 1, 6) < -0.5, "{found}");
        let (groups, wanted) = (found["groups"].as_array().unwrap(), expected["groups"].as_array().unwrap());
        assert_eq!(groups.len(), wanted.len());
        for (group, want) in groups.iter().zip(wanted) {
            assert_eq!(group["group"], want["group"]);
            let (got, want) = (numbers(group, "gram", 0, 1), numbers(want, "gram", 0, 1));
            assert!((got - want).abs() < 1e-4 * want.abs().max(1e-6), "{}: {got}, not {want}", group["group"]);
        }
    }
    let sample = at("sample");
    json(&[&["build", "--method", "random-sample", "--vectors", "2", "-o", text(&sample)], &of_files[..]].concat());
    let told = run(&["analyze", "--basis", text(&sample)]);
    assert!(told.status.success() && String::from_utf8_lossy(&told.stderr).contains("cannot give it back"));
    fail(&["analyze", "--basis", text(&at("ae.taskbasis.folder")), "--weights", "base"], &["`base`"]);
}
