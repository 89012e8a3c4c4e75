//! The program with bundles: packed, and then taken wherever a folder is, with nothing else to be named.

use crate::support::runtime;
use std::fs;
use std::path::Path;

use crate::support::bundle::{Parts, digits_files};
use crate::support::program::{fail, fail_times, json, run, succeed};
use crate::support::{digits, relative_l2, whole_digits};
use serde_json::Value;
use taskbasis::{Bundle, Checkpoint};

fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().to_str().unwrap().to_owned()
}

struct Files {
    folder: tempfile::TempDir,
    basis: String,
    base: String,
    heads: String,
    classes: String,
    data: String,
}

impl Files {
    fn new() -> Self {
        let (basis, base) = digits_files("AE").unwrap();
        let path = |relative| text(digits(relative).unwrap());
        Self {
            folder: tempfile::tempdir().unwrap(),
            basis: text(basis),
            base: text(base),
            heads: path("heads.safetensors"),
            classes: path("classes.json"),
            data: path("images.safetensors"),
        }
    }

    fn path(&self, name: &str) -> String {
        text(self.folder.path().join(name))
    }

    fn pack(&self, name: &str, more: &[&str]) -> Value {
        let out = self.path(name);
        let usual = ["pack", "--basis", &self.basis, "--base", &self.base, "-o", &out];
        json(&[&usual[..], &["--heads", &self.heads, "--classes", &self.classes], more].concat())
    }
}

#[test]
fn a_bundle_needs_nothing_beside_it() {
    let files = Files::new();
    let report = files.pack("m.taskbasis", &["--format", "q8", "--suggest", "merged=0.3", "--data", &files.data]);
    let bundle = files.path("m.taskbasis");
    assert_eq!(report["bytes"].as_u64().unwrap(), fs::metadata(&bundle).unwrap().len());
    assert_eq!(report["errors"]["tasks"].as_array().unwrap().len(), 8);
    let told = &report["accuracy"]["tasks"];
    let eval = json(&["eval", "--basis", &bundle, "--data", &files.data]);
    let from_folder =
        json(&["eval", "--basis", &files.basis, "--base", &files.base, "--heads", &files.heads, "--data", &files.data]);
    for (task, result) in eval["tasks"].as_object().unwrap() {
        assert_eq!(result["accuracy"], told[task]["after"], "{task}");
        assert_eq!(from_folder["tasks"][task]["accuracy"], told[task]["before"], "{task}");
        assert_eq!(told[task]["before"], told[task]["after"], "q8 changes no prediction");
    }

    let info = json(&["inspect", &bundle]);
    assert_eq!((&info["kind"], &info["base"]["stored"]), (&"bundle".into(), &true.into()));
    assert_eq!(info["lambda"]["merged"], 0.3);
    assert_eq!(info["heads"].as_array().unwrap().len(), 8);
    assert_eq!(info["architecture"]["activation"], "quick_gelu");
    let shown = String::from_utf8(run(&["inspect", &bundle]).stdout).unwrap();
    assert!(shown.contains("suggested λ") && shown.contains("merged 0.3") && shown.contains("QuickGELU"), "{shown}");

    let golden_path = text(whole_digits("golden.safetensors").unwrap());
    let golden = Checkpoint::open(&golden_path).unwrap();
    let out = files.path("embeds.safetensors");
    json(&["embed", "--basis", &bundle, "--weights", "Loops", "--input", &golden_path, "-o", &out]);
    let embeds = Checkpoint::open(&out).unwrap();
    let (got, want) = (embeds.require("embeds").unwrap(), golden.require("AE/task/Loops@1.0/embeds").unwrap());
    assert!(relative_l2(&got.to_f32().unwrap(), &want.to_f32().unwrap()) < 2e-3);

    let image = text(digits("preprocess/photo_small.png").unwrap());
    let result = json(&["classify", "--basis", &bundle, "--task", "Parity", &image]);
    let class = result["images"][0]["top"][0]["class"].as_str().unwrap().to_owned();
    assert!(class == "even" || class == "odd", "{class}");
    // What is given counts more than what the bundle holds.
    let numbered = json(&["classify", "--basis", &bundle, "--task", "Parity", "--heads", &files.heads, &image]);
    assert!(numbered["images"][0]["top"][0]["class"].as_str().unwrap().parse::<usize>().is_ok());

    let weights = files.path("w.safetensors");
    let info = json(&["reconstruct", "--basis", &bundle, "--weights", "MNIST", "-o", &weights]);
    assert_eq!(info["tensors"], 44);
    json(&["reconstruct", "--basis", &bundle, "--weights", "MNIST", "--vector", "-o", &weights]);
    fail(&["reconstruct", "--basis", &bundle, "--weights", "MNIST", "-o", &bundle], &["would overwrite the input"]);
    fail(&["embed", "--basis", &bundle, "--weights", "Nope", "--input", &image, "-o", &out], &["no task `Nope`"]);
}

/// What is measured when a bundle is packed is shown, and run where `auto` is asked for; a task more leaves it out.
#[test]
fn the_precision_that_passed_is_run() {
    if !runtime() {
        return;
    }
    let files = Files::new();
    let bundle = files.path("m.taskbasis");
    let report = files.pack("m.taskbasis", &["--format", "q8", "--precision", "auto", "--data", &files.data]);
    let info = json(&["inspect", &bundle]);
    assert_eq!((&info["precision"], &info["precision_stale"]), (&report["precision"], &false.into()));
    assert_eq!(info["precision"]["precisions"], "int8");
    assert_eq!(info["precision"]["data"], "images.safetensors (test)");
    assert_eq!(info["precision"]["trials"][0]["tasks"].as_array().unwrap().len(), 8);
    let shown = succeed(&["inspect", &bundle]);
    assert!(shown.contains("precision     int8") && shown.contains("the worst task loses"), "{shown}");

    let image = text(digits("preprocess/photo_small.png").unwrap());
    let embed = |precision: &str| {
        let out = files.path(&format!("{precision}.safetensors"));
        let usual = ["embed", "--basis", &bundle, "--weights", "Loops", "-i", &image, "-o", &out];
        let told = run(&[&usual[..], &["--precision", precision]].concat());
        assert!(told.status.success());
        let embeds = Checkpoint::open(&out).unwrap().require("embeds").unwrap().to_f32().unwrap().into_owned();
        (embeds, String::from_utf8(told.stderr).unwrap())
    };
    let (auto, told) = embed("auto");
    assert!(told.contains("--precision auto: int8; on images.safetensors (test)"), "{told}");
    assert_eq!(auto, embed("int8").0);
    assert_ne!(auto, embed("f32").0);
    assert_eq!(auto, embed("patches=bf16,qkv=int8,out=int8,fc=int8,proj=int8").0);

    // The tasks are others then, until they are measured again.
    let task = format!("New={}", files.base);
    let told = run(&["add-task", &bundle, "--task", &task]);
    assert!(String::from_utf8(told.stderr).unwrap().contains("--precision auto measures again"));
    assert!(json(&["inspect", &bundle])["precision"].is_null());
    assert!(embed("auto").1.contains("--precision auto: f32; nothing was measured"));
    let task = format!("Newer={}", files.base);
    let told = json(&["add-task", &bundle, "--task", &task, "--precision", "auto", "--gate-cosine", "0.99"]);
    assert_eq!(told["precision"]["trials"][0]["tasks"].as_array().unwrap().len(), 10);
    assert_eq!(json(&["inspect", &bundle])["precision"], told["precision"]);
}

/// Every command runs the graph that the bundle carries, unless it is told otherwise.
#[test]
fn a_carried_graph_is_what_runs() {
    let Some(graph) = digits("onnx/transformers_style_opset14.onnx").map(text) else { return };
    let files = Files::new();
    let report = files.pack("m.taskbasis", &["--format", "f32", "--base-format", "f32", "--graph", &graph]);
    let plain = files.pack("plain.taskbasis", &["--format", "f32", "--base-format", "f32"]);
    let (bundle, more) = (files.path("m.taskbasis"), report["graph_bytes"].as_u64().unwrap());
    assert!(more > 0 && plain["graph_bytes"] == 0);
    // The section, its map in the header, and padding; the file that was exported has 729 kB.
    let grown = report["bytes"].as_u64().unwrap() - plain["bytes"].as_u64().unwrap();
    assert!((more..more + 20_000).contains(&grown) && grown < 150_000, "{grown}");
    assert_eq!(json(&["verify", &bundle])["ok"], true);
    let info = json(&["inspect", &bundle]);
    assert_eq!((&info["graph"]["source"], &info["graph"]["output"]), (&"carried".into(), &"image_embeds".into()));
    assert_eq!(info["graph"]["tensors"], 56);
    let shown = String::from_utf8(run(&["inspect", &bundle]).stdout).unwrap();
    assert!(shown.contains("carried, ") && shown.contains("`image_embeds`"), "{shown}");
    assert_eq!(json(&["inspect", &files.path("plain.taskbasis")])["graph"]["source"], "built");
    if !runtime() {
        return;
    }

    let pixels = text(digits("golden.safetensors").unwrap());
    let embed = |basis: &[&str], more: &[&str]| {
        let out = files.path("embeds.safetensors");
        let usual = ["embed", "--weights", "MNIST", "--input", &pixels, "--threads", "2", "-o", &out];
        json(&[&usual[..], basis, more].concat());
        Checkpoint::open(&out).unwrap().require("embeds").unwrap().to_f32().unwrap().into_owned()
    };
    let (of_bundle, of_folder) = (["--basis", &bundle], ["--basis", &files.basis, "--base", &files.base]);
    let carried = embed(&of_bundle, &[]);
    assert!(carried == embed(&of_folder, &["--graph", &graph]), "the bits of the graph beside a folder");
    let built = embed(&of_bundle, &["--built-graph"]);
    assert!(built == embed(&of_folder, &[]) && built != carried && relative_l2(&built, &carried) < 1e-5);
    let other = text(digits("onnx/torchscript_export_opset16.onnx").unwrap());
    assert!(embed(&of_bundle, &["--graph", &other]) == embed(&of_folder, &["--graph", &other]), "--graph overrides");
    assert!(relative_l2(&embed(&of_bundle, &["--optimise-graph"]), &carried) < 1e-5);
    let streamed = ["embed", "--basis", &bundle, "--weights", "MNIST", "--input", &pixels, "-o", "x", "--streamed"];
    fail(&streamed, &["only the built graph can be streamed", "--built-graph"]);
    assert!(relative_l2(&embed(&of_bundle, &["--streamed", "--built-graph"]), &carried) < 1e-5);
    assert_eq!(run(&[&streamed[..], &["--built-graph", "--graph", &graph]].concat()).status.code(), Some(2));

    // One task as a plain file, from the graph that the bundle carries and with its names.
    let task = files.path("task.onnx");
    json(&["export", "--basis", &bundle, "--weights", "MNIST", "-o", &task]);
    let names = |port: &taskbasis::onnx::Port| port.name.clone();
    let exported = taskbasis::onnx::OnnxFile::open(&task).unwrap();
    assert_eq!(exported.outputs().iter().map(names).collect::<Vec<_>>(), ["image_embeds"]);
    assert_eq!(exported.inputs().iter().map(names).collect::<Vec<_>>(), ["pixel_values"]);
    let encoder =
        crate::support::onnx_file::OnnxFileEncoder::open(&task, &taskbasis::EncoderOptions::default()).unwrap();
    let images = Checkpoint::open(&pixels).unwrap().require("pixel_values").unwrap().to_f32().unwrap().into_owned();
    assert!(relative_l2(&encoder.encode(&images, 32).unwrap(), &carried) < 1e-5);
    fail(&["export", "--basis", &bundle, "--weights", "MNIST", "-o", &bundle], &["would overwrite the input"]);

    // Accuracies, of a bundle with the faster form of the graph in it.
    let told = files.pack("fast", &["--format", "q8", "--graph", &graph, "--optimise-graph", "--data", &files.data]);
    let eval = json(&["eval", "--basis", &files.path("fast"), "--data", &files.data]);
    for (task, result) in eval["tasks"].as_object().unwrap() {
        assert_eq!(result["accuracy"], told["accuracy"]["tasks"][task]["after"], "{task}");
        assert_eq!(told["accuracy"]["tasks"][task]["before"], told["accuracy"]["tasks"][task]["after"], "{task}");
    }
}

/// Which graph runs is told to those who open a bundle.
#[test]
fn packing_the_built_graph_is_refused() {
    let files = Files::new();
    let out = files.path("m.taskbasis");
    let pack = ["pack", "--basis", &files.basis, "--base", &files.base, "--built-graph", "-o", &out];
    fail(&pack, &["--built-graph", "Without --graph, a bundle carries no graph"]);
    let data = digits("base").map(text).unwrap();
    let build = ["build", "--base", &files.base, "--tasks-dir", &data, "--built-graph"];
    for name in ["m.taskbasis", "folder"] {
        fail(&[&build[..], &["-o", &files.path(name)]].concat(), &["--built-graph", "carries no graph"]);
        assert!(!files.folder.path().join(name).exists());
    }
    for command in ["pack", "build"] {
        assert!(!succeed(&[command, "--help"]).contains("built-graph"));
    }
}

#[test]
fn a_bundle_without_base_demands_it() {
    let files = Files::new();
    files.pack("m.taskbasis", &["--base-format", "none"]);
    let (bundle, out) = (files.path("m.taskbasis"), files.path("w.safetensors"));
    let reconstruct = ["reconstruct", "--basis", &bundle, "--weights", "MNIST", "-o", &out];
    fail(&reconstruct, &["leaves the base out", "--base"]);
    json(&[&reconstruct[..], &["--base", &files.base]].concat());
    let Some(other) = digits("finetuned/MNIST.pt") else { return };
    let fingerprint = Bundle::open(&bundle).unwrap().fingerprint().to_string();
    fail(&[&reconstruct[..], &["--base", &text(other)]].concat(), &["not the base", "MNIST.pt", &bundle, &fingerprint]);
}

#[test]
fn promises_are_kept_and_mixtures_are_smaller() {
    let files = Files::new();
    for (bound, uniform) in [("0.2", "q4"), ("0.05", "q6")] {
        let mixed = files.pack("mixed", &["--max-error", bound]);
        let errors = mixed["errors"]["tasks"].as_array().unwrap();
        assert!(errors.iter().all(|task| task["relative"].as_f64().unwrap() <= bound.parse().unwrap()), "{mixed}");
        let uniform = files.pack("uniform", &["--format", uniform]);
        assert!(mixed["bytes"].as_u64().unwrap() < uniform["bytes"].as_u64().unwrap(), "{bound}");
        assert!(mixed["formats"].as_array().unwrap().len() > 1);
    }
    let nothing = files.pack("exact", &["--max-error", "0"]);
    assert!(nothing["errors"]["tasks"].as_array().unwrap().iter().all(|task| task["relative"] == 0.0));

    let kept = files.pack("kept", &["--max-drop", "0.5", "--data", &files.data]);
    for (task, accuracy) in kept["accuracy"]["tasks"].as_object().unwrap() {
        let drop = accuracy["before"].as_f64().unwrap() - accuracy["after"].as_f64().unwrap();
        assert!(drop <= 0.005 + 1e-9, "{task}: {drop}");
    }
    assert!(kept["bytes"].as_u64().unwrap() < files.pack("q4", &[])["bytes"].as_u64().unwrap());
    let left = fs::read_dir(files.folder.path()).unwrap().count();
    assert_eq!(left, 5, "no trial is left over");
}

#[test]
fn a_size_is_kept_to() {
    let files = Files::new();
    for more in [&[][..], &["--data", &files.data]] {
        let report = files.pack("s.taskbasis", &[&["--size", "560 kB"], more].concat());
        let bytes = report["bytes"].as_u64().unwrap();
        assert!(bytes == fs::metadata(files.path("s.taskbasis")).unwrap().len() && bytes <= 560_000, "{bytes}");
        assert!(
            report["formats"].as_array().unwrap().iter().any(|format| format[0].as_str().unwrap().starts_with('r'))
        );
        if let Some(accuracy) = report.get("accuracy") {
            let lost = accuracy["mean"]["before"].as_f64().unwrap() - accuracy["mean"]["after"].as_f64().unwrap();
            assert!(lost < 0.008, "{accuracy}");
        }
    }
    assert!(succeed(&["verify", &files.path("s.taskbasis")]).contains("all as they were written"));
    let out = files.path("none.taskbasis");
    let pack = ["pack", "--basis", &files.basis, "--base", &files.base, "-o", &out];
    fail(&[&pack[..], &["--size", "100kB"]].concat(), &["cannot be that small", "at least", "--base-format"]);
    assert!(!fs::exists(&out).unwrap());
    for (more, said) in
        [(&["--size", "5 parsec"][..], "not a size"), (&["--size", "1MB", "--format", "q4"], "--format")]
    {
        let output = run(&[&pack[..], more].concat());
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8(output.stderr).unwrap().contains(said), "{more:?}");
    }
}

#[test]
fn progress_is_told_to_programs_and_else_to_nobody() {
    let files = Files::new();
    files.pack("m.taskbasis", &["--format", "q8"]);
    let bundle = files.path("m.taskbasis");
    assert!(run(&["verify", &bundle]).stderr.is_empty());
    let output = run(&["verify", "--progress", &bundle]);
    let lines = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !lines.is_empty());
    for line in lines.lines() {
        let told: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert_eq!(told["progress"], "verifying");
        let (done, total) = (told["done"].as_u64().unwrap(), told["total"].as_u64().unwrap());
        assert!(done <= total && total == fs::metadata(&bundle).unwrap().len(), "{line}");
    }
}

#[test]
fn verify_names_everything_that_is_wrong() {
    let files = Files::new();
    files.pack("m.taskbasis", &[]);
    let bundle = files.path("m.taskbasis");
    assert_eq!(json(&["verify", &bundle])["ok"], true);
    let mut bytes = fs::read(&bundle).unwrap();
    let parts = Parts::of(&bytes);
    for tensor in ["base/visual.proj", "vectors/visual.proj"] {
        let at = bytes.len() - parts.data.len() + parts.range(tensor).start + 5;
        bytes[at] ^= 1;
    }
    fs::write(&bundle, bytes).unwrap();
    fail_times(2, &["verify", &bundle], &[&bundle, "`base/visual.proj`", "`vectors/visual.proj`", "another checksum"]);
    // What is called a bundle has to be one, and is not taken for another file that holds tensors.
    assert_eq!(json(&["verify", &files.base])["kind"], "checkpoint");
    let called = files.path("called.taskbasis");
    fs::copy(&files.base, &called).unwrap();
    fail(&["verify", &called], &["called.taskbasis: not a bundle"]);
    // It opens all the same: looking at every byte is what verify is for.
    json(&["inspect", &bundle]);
}

#[test]
fn tasks_can_be_added() {
    let Some(finetuned) = digits("finetuned/MNIST.pt") else { return };
    let files = Files::new();
    files.pack("m.taskbasis", &[]);
    let bundle = files.path("m.taskbasis");
    let new = format!("Again={}", text(&finetuned));
    // The head of the task it is the same as, under the new task's name.
    let head = files.path("head_Again.pt");
    fs::copy(digits("heads/head_MNISTVal.pt").unwrap(), &head).unwrap();
    let result =
        json(&["add-task", &bundle, "--task", &new, "--residual", "q4", "--heads", &head, "-o", &files.path("grown")]);
    let fitted = &result["fitted"][0];
    assert!(fitted["lacking"].as_f64().unwrap() > 0.4 && fitted["lacking_with_residual"].as_f64().unwrap() < 0.1);
    let grown = Bundle::open(files.path("grown")).unwrap();
    assert!(grown.verify(0, &|_| {}).is_empty() && grown.head("Again").is_ok());
    assert_eq!(Bundle::open(&bundle).unwrap().tasks().len(), 8, "written elsewhere, the old one stays");
    json(&["add-task", &bundle, "--task", &new]);
    assert_eq!(Bundle::open(&bundle).unwrap().tasks().len(), 9);
    json(&["add-task", &bundle, "--task", &format!("Third={}", text(&finetuned)), "-o", &bundle]);
    assert_eq!(Bundle::open(&bundle).unwrap().tasks().len(), 10, "its own place is a place");
    fail(&["add-task", &bundle, "--task", &new], &["has a task `Again`"]);
    fail(&["add-task", &bundle, "--task", &format!("X={}", files.heads)], &[&files.heads]);
    let onto = text(&finetuned);
    let before = fs::metadata(&onto).unwrap().len();
    fail(&["add-task", &bundle, "--task", &format!("X={onto}"), "-o", &onto], &["would overwrite the input"]);
    assert_eq!(fs::metadata(&onto).unwrap().len(), before);
}

#[test]
fn tasks_come_with_the_vectors_made_anew_and_go() {
    let Some(finetuned) = digits("finetuned/MNIST.pt") else { return };
    let files = Files::new();
    files.pack("m.taskbasis", &[]);
    let (bundle, new) = (files.path("m.taskbasis"), format!("Again={}", text(&finetuned)));
    let result = json(&["add-task", &bundle, "--task", &new, "--refit", "--vectors", "5", "-o", &files.path("grown")]);
    let refit = &result["refit"];
    assert_eq!((&refit["vectors"], refit["tasks"].as_array().unwrap().len()), (&Value::from(5), 9));
    let (lacking, least) = (refit["lacking"].as_f64().unwrap(), refit["least"].as_f64().unwrap());
    assert!(0.0 < least && least <= lacking && lacking < 0.3, "{refit}");
    assert_eq!(refit["tasks"][8]["lacking"], result["fitted"][0]["lacking"]);
    let grown = Bundle::open(files.path("grown")).unwrap();
    assert_eq!((grown.tasks().len(), grown.head_tasks().len()), (9, 8));
    assert_eq!(json(&["inspect", &files.path("grown")])["vectors"], 5);
    assert!(json(&["add-task", &bundle, "--task", &new, "-o", &files.path("plain")])["refit"].is_null());

    let result = json(&["remove-task", &files.path("grown"), "MNIST", "Again", "-o", &files.path("less")]);
    assert_eq!((&result["tasks"], &result["router_removed"]), (&Value::from(7), &Value::from(false)));
    let less = Bundle::open(files.path("less")).unwrap();
    assert!(less.verify(0, &|_| {}).is_empty() && less.head("MNIST").is_err());
    fail(&["remove-task", &files.path("less"), "MNIST"], &["no task `MNIST`"]);
    assert_eq!(Bundle::open(files.path("grown")).unwrap().tasks().len(), 9, "written elsewhere, the old one stays");
    json(&["remove-task", &files.path("grown"), "Again"]);
    assert_eq!(Bundle::open(files.path("grown")).unwrap().tasks().len(), 8);
}

#[test]
fn pack_refuses_what_makes_no_sense() {
    let files = Files::new();
    let pack = |more: &[&str]| {
        let arguments = ["pack", "--basis", &files.basis, "--base", &files.base];
        fail(&[&arguments[..], more].concat(), &[]);
    };
    pack(&["-o", &files.base]);
    pack(&["-o", &format!("{}/basis_vectors.pt", files.basis)]);
    pack(&["-o", &files.path("x"), "--suggest", "merged=much"]);
    pack(&["-o", &files.path("x"), "--suggest", "mine=1"]);
    pack(&["-o", &files.path("x"), "--max-error", "nan"]);
    pack(&["-o", &files.path("x"), "--data", &files.data]);
    fail(
        &["pack", "--basis", &files.basis, "--base", &files.base, "-o", &files.path("x"), "--max-error", "-1"],
        &["at least 0: got -1"],
    );
    let no_heads =
        ["pack", "--basis", &files.basis, "--base", &files.base, "-o", &files.path("x"), "--data", &files.data];
    fail(&no_heads, &["error: --heads is missing"]);
    // A graph of another model, one that would be overwritten, and what is said of no graph.
    let graph = text(digits("onnx/torchscript_export_opset16.onnx").unwrap());
    pack(&["-o", &files.path("x"), "--graph", &files.base]);
    pack(&["-o", &graph, "--graph", &graph]);
    pack(&["-o", &files.path("x"), "--optimise-graph"]);
    let lost = ["pack", "--basis", &files.basis, "--base", &files.base, "-o", "x", "--map", "m.json"];
    assert_eq!(run(&lost).status.code(), Some(2), "a map without a graph");
    assert_eq!(fs::read_dir(files.folder.path()).unwrap().count(), 0);
    let usage = run(&["pack", "--basis", &files.basis, "--base", &files.base, "-o", "x", "--format", "q5"]);
    assert!(usage.status.code() == Some(2) && String::from_utf8_lossy(&usage.stderr).contains("one of f32, f16"));
    let both =
        run(&["pack", "--basis", &files.basis, "--base", &files.base, "-o", "x", "--format", "q4", "--max-error", "1"]);
    assert_eq!(both.status.code(), Some(2));
    for command in ["pack", "verify", "add-task"] {
        assert!(String::from_utf8_lossy(&run(&[command, "--help"]).stdout).contains("--json"), "{command}");
    }
}
