//! The `taskbasis` program as a user runs it: results, JSON, exit codes, errors, and files that are never half-written.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::program::{fail, json, run, succeed};
use crate::support::{digits, relative_l2, whole_digits};
use serde_json::Value;
use taskbasis::Checkpoint;

fn text(path: PathBuf) -> String {
    path.to_str().unwrap().to_owned()
}

fn ae() -> String {
    text(digits("bases/ViT-D-8_AE_M4_8task").unwrap())
}

fn base() -> String {
    text(digits("base/pickled_module.pt").unwrap())
}

/// The options that `eval` and `classify` share.
fn heads() -> [String; 4] {
    let path = |relative| text(digits(relative).unwrap());
    ["--heads".into(), path("heads.safetensors"), "--classes".into(), path("classes.json")]
}

#[test]
fn inspect_tells_what_a_basis_is() {
    let info = json(&["inspect", &ae()]);
    assert_eq!(info["kind"], "basis");
    assert_eq!(info["method"], "Autoencoder");
    assert_eq!(info["tasks"].as_array().unwrap().len(), 8);
    assert_eq!((&info["vectors"], &info["has_mean"]), (&4.into(), &false.into()));
    assert_eq!(info["parameters"]["total"], 193_281);
    assert_eq!(info["parameters"]["image_tower"], info["parameters"]["changed"]);
    let coefficients = info["coefficients"].as_array().unwrap();
    assert_eq!((coefficients.len(), coefficients[0].as_array().unwrap().len()), (4, 8));
    assert!(info["bytes"].as_u64().unwrap() > 3_000_000);
    assert!(info["kernel"].is_string() && info["onnxruntime"]["version"].is_string(), "{info}");
    let shown = succeed(&["inspect", &ae()]);
    assert!(shown.contains("Autoencoder") && shown.contains("MNIST") && shown.contains("193,281"), "{shown}");

    let info = json(&["inspect", &base()]);
    assert_eq!((&info["kind"], &info["format"]), (&"checkpoint".into(), &"torch".into()));
    assert_eq!(info["architecture"]["width"], 64);
    fail(&["inspect", "/nonexistent"], &["/nonexistent"]);
}

#[test]
fn reconstruct_gives_weights_and_vectors() {
    let folder = tempfile::tempdir().unwrap();
    let out = text(folder.path().join("vector.safetensors"));
    let golden = Checkpoint::open(whole_digits("golden.safetensors").unwrap()).unwrap();
    succeed(&["reconstruct", "--basis", &ae(), "--weights", "MNIST", "--vector", "-o", &out]);
    let vector = Checkpoint::open(&out).unwrap();
    let expected = golden.require("AE/task/MNIST/vector/model.visual.conv1.weight").unwrap().to_f32().unwrap();
    assert!(relative_l2(&vector.require("visual.conv1.weight").unwrap().to_f32().unwrap(), &expected) <= 2e-5);

    let info = json(&["reconstruct", "--basis", &ae(), "--base", &base(), "--weights", "base", "-o", &out]);
    assert_eq!(info["tensors"], 50);
    let (weights, original) = (Checkpoint::open(&out).unwrap(), Checkpoint::open(base()).unwrap());
    for (name, tensor) in original.iter() {
        assert_eq!(*weights.require(name).unwrap().to_f32().unwrap(), *tensor.to_f32().unwrap(), "{name}");
    }
}

/// In every process: a program that caches or signs what is exported may go by its bytes.
#[test]
fn exports_are_the_same_bytes_every_time() {
    let folder = tempfile::tempdir().unwrap();
    let (basis, base) = (ae(), base());
    let graph = digits("onnx/transformers_style_opset14.onnx").map(text);
    let weights = ["--basis", &basis, "--base", &base, "--weights", "MNIST@0.3 + Parity@0.2"];
    let mut commands: Vec<Vec<&str>> =
        vec![vec!["reconstruct"], vec!["reconstruct", "--image-tower"], vec!["export"], vec!["export", "--f16"]];
    if let Some(graph) = &graph {
        commands.push(vec!["export", "--graph", graph]);
        commands.push(vec!["pack", "--graph", graph]);
    }
    for command in commands {
        let arguments = if command[0] == "pack" { &weights[..4] } else { &weights };
        let written = |number: usize| {
            let out = folder.path().join(format!("{number}"));
            succeed(&[&command[..], arguments, &["-o", out.to_str().unwrap()]].concat());
            fs::read(out).unwrap()
        };
        let first = written(0);
        // Two entries in no order would be in the same one every other time.
        assert!((1..6).all(|number| written(number) == first), "{command:?}");
    }
}

#[test]
fn embed_equals_the_reference() {
    let golden_path = whole_digits("golden.safetensors").unwrap();
    let golden = Checkpoint::open(&golden_path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = text(folder.path().join("embeds.safetensors"));
    let golden_path = text(golden_path);
    for (expr, key) in [("Loops@1.0", "AE/task/Loops@1.0/embeds"), ("merged@0.4", "AE/merged@0.4/embeds")] {
        let arguments = ["embed", "--basis", &ae(), "--base", &base(), "--weights", expr, "--input", &golden_path];
        for more in [&[][..], &["--streamed"], &["--residency", "blockwise"]] {
            succeed(&[&arguments[..], &["-o", &out, "--batch", "5", "--threads", "1"], more].concat());
            let embeds = Checkpoint::open(&out).unwrap();
            let (got, want) = (embeds.require("embeds").unwrap(), golden.require(key).unwrap());
            assert_eq!(got.shape(), want.shape());
            assert!(relative_l2(&got.to_f32().unwrap(), &want.to_f32().unwrap()) <= 2e-5, "{expr}");
        }
    }
    // Image files and folders; and no basis at all, for the base.
    let photos = text(digits("preprocess").unwrap());
    let info = json(&["embed", "--base", &base(), "--weights", "base", "--input", &photos, "-o", &out]);
    assert!(info["images"].as_u64().unwrap() >= 3 && info["files"].is_array(), "{info}");
    let photo = text(digits("preprocess/photo_small.png").unwrap());
    fail(
        &["embed", "--base", &base(), "--weights", "MNIST", "--input", &photo, "-o", &out],
        &["`MNIST` needs a basis", "Give it with --basis"],
    );
    // What is left out is told.
    let mixed = tempfile::tempdir().unwrap();
    fs::copy(&photo, mixed.path().join("a.png")).unwrap();
    fs::write(mixed.path().join("notes.txt"), "").unwrap();
    let mixed_path = text(mixed.path().to_owned());
    let both = run(&["embed", "--base", &base(), "--weights", "base", "--input", &mixed_path, "-o", &out]);
    let told = String::from_utf8(both.stderr).unwrap();
    assert!(told.contains("1 of 2 files left out"), "{told}");
}

#[test]
fn eval_gives_the_reference_accuracies() {
    let golden: Value =
        serde_json::from_str(&fs::read_to_string(whole_digits("golden.json").unwrap()).unwrap()).unwrap();
    let data = text(digits("images.safetensors").unwrap());
    let heads = heads();
    let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    let close = |result: &Value, task: &str, expected: &Value, what: &str| {
        let accuracy = result["tasks"][task]["accuracy"].as_f64().unwrap();
        let expected = expected.as_f64().unwrap();
        assert!((accuracy - expected).abs() <= 1.0 / 400.0 + 1e-6, "{what}, {task}: {accuracy}, not {expected}");
        assert_eq!(result["tasks"][task]["images"], 400);
    };
    for method in ["AE", "PCA", "Random"] {
        let Some(folder) = digits(&format!("bases/ViT-D-8_{method}_M4_8task")) else { continue };
        let folder = text(folder);
        let eval = |extra: &[&str]| {
            json(
                &[
                    &["eval", "--basis", &folder, "--base", &base(), "--data", &data, "--batch", "100"],
                    &heads[..],
                    extra,
                ]
                .concat(),
            )
        };
        let zero_shot = eval(&["--weights", "base"]);
        let own = eval(&[]);
        let addition = &golden["methods"][method]["addition"];
        let merged = eval(&["--weights", &format!("merged@{}", addition["optimal_coef"])]);
        for (task, recovered) in golden["methods"][method]["recovered"].as_object().unwrap() {
            close(&zero_shot, task, &golden["zeroshot"][task], "zero-shot");
            close(&own, task, &recovered["test@1.0"], method);
            close(&merged, task, &addition["test"][task], "merged");
            let negated = eval(&["--weights", &format!("-{task}@0.5"), "--task", task]);
            close(&negated, task, &recovered["negated_test@0.5"], "negated");
        }
        let mean: f64 = own["tasks"].as_object().unwrap().values().map(|t| t["accuracy"].as_f64().unwrap()).sum();
        assert!((own["mean"].as_f64().unwrap() - mean / 8.0).abs() < 1e-12);
    }
}

#[test]
fn tasks_that_were_not_selected_are_told_apart() {
    let Some(folder) = digits("bases/ViT-D-8_RandomSample_M4_8task") else { return };
    let data = text(digits("images.safetensors").unwrap());
    let (folder, heads) = (text(folder), heads());
    let arguments = ["eval", "--basis", &folder, "--base", &base(), "--data", &data];
    let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    let result = json(&[&arguments[..], &heads].concat());
    assert_eq!(result["tasks"].as_object().unwrap().len(), 4);
    assert_eq!(result["skipped"].as_object().unwrap().len(), 4);
    fail(&[&arguments[..], &heads, &["--weights", "Colors"]].concat(), &["`Colors` cannot be recovered", "MNIST"]);
}

#[test]
fn classify_names_the_classes() {
    let image = text(digits("preprocess/photo_small.png").unwrap());
    let heads = heads();
    let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    let arguments = ["classify", "--basis", &ae(), "--base", &base(), "--task", "Parity", &image];
    let result = json(&[&arguments[..], &heads].concat());
    let top = result["images"][0]["top"].as_array().unwrap();
    let total: f64 = top.iter().map(|s| s["probability"].as_f64().unwrap()).sum();
    assert!(top.len() == 2 && (total - 1.0).abs() < 1e-5 && top[0]["class"].is_string(), "{result}");
    assert!(top[0]["probability"].as_f64() >= top[1]["probability"].as_f64());
    let streamed = json(&[&arguments[..], &heads, &["--streamed"]].concat());
    assert_eq!(streamed["images"][0]["top"][0]["class"], top[0]["class"]);
    fail(&[&arguments[..], &["--heads", "/nonexistent"]].concat(), &["/nonexistent"]);
    fail(&[&arguments[..], &heads, &["--weights", "Party"]].concat(), &["Did you mean `Parity`?"]);
    let folder = tempfile::tempdir().unwrap();
    let narrow = text(folder.path().join("narrow.safetensors"));
    let head: [(&str, &[usize], &[f32]); 2] =
        [("Parity/weight", &[2, 32], &[0.5; 64]), ("Parity/bias", &[2], &[0.0; 2])];
    taskbasis::save_arrays(Path::new(&narrow), &head, &[], &[]).unwrap();
    let length =
        "the head of `Parity` takes embeddings of another length: expected 64, got 32. Is it of another model?";
    fail(&[&arguments[..], &["--heads", &narrow]].concat(), &[&narrow, length]);
    let pickled = text(digits("heads/head_MNISTVal.pt").unwrap());
    let result =
        json(&["classify", "--basis", &ae(), "--base", &base(), "--task", "MNIST", "--heads", &pickled, &image]);
    assert_eq!(result["images"][0]["top"].as_array().unwrap().len(), 3);
}

#[test]
fn outputs_are_whole_or_not_there_and_never_an_input() {
    let folder = tempfile::tempdir().unwrap();
    let basis = folder.path().join("basis");
    fs::create_dir(&basis).unwrap();
    for entry in fs::read_dir(ae()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, basis.join(path.file_name().unwrap())).unwrap();
    }
    let copied_base = folder.path().join("base.pt");
    fs::copy(base(), &copied_base).unwrap();
    let before = fs::read(basis.join("basis_vectors.pt")).unwrap();
    let (basis_text, base_text) = (text(basis.clone()), text(copied_base));
    let reconstruct = |out: &Path, expected: &[&str]| {
        let out = out.to_str().unwrap();
        fail(&["reconstruct", "--basis", &basis_text, "--base", &base_text, "--weights", "MNIST", "-o", out], expected);
    };
    reconstruct(&basis.join("basis_vectors.pt"), &["would overwrite a file of the input folder"]);
    reconstruct(Path::new(&base_text), &["would overwrite the input"]);
    // However the basis is named, all of its folder is an input.
    let (info, vectors) = (text(basis.join("method_info.json")), text(basis.join("basis_vectors.pt")));
    fail(&["reconstruct", "--basis", &info, "--weights", "MNIST", "--vector", "-o", &vectors], &["would overwrite"]);
    let embed = ["embed", "--basis", &info, "--base", &base_text, "--weights", "MNIST", "--input", "x.png", "-o"];
    fail(&[&embed[..], &[&vectors]].concat(), &["would overwrite"]);
    reconstruct(&folder.path().join("no/such/folder/out"), &["cannot create"]);
    reconstruct(&basis, &["is a folder"]);
    assert_eq!(fs::read(basis.join("basis_vectors.pt")).unwrap(), before);

    let out = folder.path().join("out.safetensors");
    fs::write(&out, "old").unwrap();
    fail(
        &[
            "reconstruct",
            "--basis",
            &basis_text,
            "--base",
            &base_text,
            "--weights",
            "Nope",
            "-o",
            out.to_str().unwrap(),
        ],
        &["no task `Nope`"],
    );
    assert_eq!(fs::read_to_string(&out).unwrap(), "old");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "nothing half-written is left: {left:?}");
}

/// Whatever option names a file, and however: nothing is read before it is refused.
#[test]
fn no_command_writes_over_what_it_is_told_to_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        fs::write(folder.path().join(name), "precious").unwrap();
        text(folder.path().join(name))
    };
    let (x, base, inside) = (file("x"), file("base"), file("x.png"));
    let around = text(folder.path().to_owned());
    let (named, other_way) = (format!("New={x}"), format!("--map={around}/./x"));
    let model = ["--base", &base];
    let weights = ["--base", &base, "--weights", "base"];
    let eval = ["eval", "--base", &base, "--sweep"];
    let commands: [(&[&str], &[&str]); 24] = [
        (&["embed", "--input", &base, "--graph", &x, "-o", &x], &weights),
        (&["embed", "--input", &base, "--graph", &base, &other_way, "-o", &x], &weights),
        (&["embed", "--input", &around, "-o", &inside], &weights),
        (&["embed", "--input", &base, "--onnxruntime", &x, "-o", &x], &weights),
        (&["export", "--graph", &x, "-o", &x], &weights),
        (&["export", "--graph", &base, "--map", &x, "-o", &x], &weights),
        (&["bind", &x, "-o", &x], &model),
        (&["bind", &base, "--map", &x, "-o", &x], &model),
        (&eval, &["--data", &x, "--report", &x]),
        (&eval, &["--data", &format!("MNIST={around}"), "--report", &x]),
        (&eval, &["--data", &base, "--graph", &x, "--report", &x]),
        (&eval, &["--data", &base, "--graph", &base, "--map", &x, "--report", &x]),
        (&eval, &["--data", &base, "--heads", &x, "--report", &x]),
        (&eval, &["--data", &base, "--classes", &x, "--report", &x]),
        (&eval, &["--data", &base, "--finetuned", &x, "--report", &x]),
        (&eval, &["--data", &base, "--finetuned-dir", &around, "--report", &x]),
        (&["heads", "--text-model", &base, "--classes", &base, "--templates", &x, "-o", &x], &[]),
        (&["pack", "--basis", &base, "--heads", &x, "-o", &x], &model),
        (&["pack", "--basis", &base, "--graph", &base, "--map", &x, "-o", &x], &model),
        (&["add-task", &base, "--task", &named, "-o", &x], &[]),
        (&["add-task", &x, "--task", &named], &[]),
        (&["add-task", &base, "--task", "New=y", "--heads", &base, "--classes", &x, "-o", &x], &[]),
        (&["reconstruct", "--basis", &x, "-o", &x], &weights),
        (&["build", "--task", &named, "-o", &x], &model),
    ];
    for (command, more) in commands {
        fail(&[command, more].concat(), &["would overwrite ", " input "]);
    }
    assert!(["x", "base", "x.png"].iter().all(|name| fs::read(folder.path().join(name)).unwrap() == b"precious"));
}

#[test]
fn usage_is_exit_code_2_and_help_is_everywhere() {
    for command in ["inspect", "reconstruct", "embed", "classify", "eval"] {
        let help = succeed(&[command, "--help"]);
        let global = help.split("Of every command:\n").nth(1).unwrap_or_else(|| panic!("{help}"));
        assert_eq!(global.matches("      --").count(), 4, "nothing else comes after: {help}");
        assert_eq!(run(&[command, "--no-such-option"]).status.code(), Some(2), "{command}");
    }
    // What has to be given is told first, then what may be, by what it is for.
    for (command, order) in [
        (
            "embed",
            &["--basis", "--weights <", "--input", "--output", "--batch", "Your own graph:", "--map", "GPU:"][..],
        ),
        (
            "pack",
            &["--basis", "--base <", "--output", "--heads <", "Your own graph:", "--graph <", "GPU:", "--provider"],
        ),
        ("heads", &["--text-model", "--classes", "--output", "--templates", "GPU:", "--provider"]),
    ] {
        let help = succeed(&[command, "--help"]);
        let options = &help[help.find("Options:").unwrap()..];
        let places: Vec<_> = order.iter().map(|part| options.find(part).unwrap_or_else(|| panic!("{part}"))).collect();
        assert!(places.is_sorted(), "{order:?} {places:?}: {help}");
    }
    // What is true of those who open a bundle is not told to those who make one.
    for command in ["pack", "build", "add-task"] {
        let help = succeed(&[command, "--help"]).split_whitespace().collect::<Vec<_>>().join(" ");
        for wrong in ["needs none", "A bundle says", "that a bundle carries"] {
            assert!(!help.contains(wrong), "{command}: {wrong}: {help}");
        }
    }
    let usage = |arguments: &[&str], parts: &[&str]| {
        let output = run(arguments);
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && parts.iter().all(|part| told.contains(part)), "{told}");
    };
    usage(&["embed", "--weights", "MNIST", "--input", "y", "-o", "z"], &["--basis <", "--base <"]);
    usage(&["build", "--base", "x", "-o", "z"], &["--task <", "--tasks-dir <"]);
    usage(&["build", "--base", "x", "-o", "z", "--task", "A=x", "--tasks-dir", "y"], &["cannot be used with"]);
    usage(&["classify", "--base", "x", "--task", "A", "--top", "0", "y.png"], &["'0' for '--top"]);
    usage(&["pull", "owner"], &["`owner` is no repository: expected OWNER/REPO"]);
    // One limit wherever there are threads.
    for command in ["embed", "eval", "heads", "analyze", "reconstruct", "bind", "verify", "add-task", "build", "merge"]
    {
        let most = taskbasis::kernel::max_threads();
        let told = format!("{} is not in 0..={most}", most + 1);
        usage(&[command, "--threads", &(most + 1).to_string()], &[&told]);
    }
    let bad = run(&["embed", "--base", "x", "--weights", "MNIST@nan", "--input", "y", "-o", "z"]);
    assert_eq!(bad.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("must be finite"));
}
