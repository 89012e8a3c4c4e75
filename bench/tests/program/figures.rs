//! `taskbasis bench`: the keys that it promises, a report that needs nothing else, and the soak.

use std::path::Path;
use std::process::{Command, Output};

use crate::driver::on_the_hosts_driver;
use crate::need::{Need, digits, root, runtime, skip};
use serde_json::Value;
use taskbasis::onnx::{BindOptions, BoundGraph};
use taskbasis::{ArchHints, Basis, BlockFormat, Checkpoint, Packer};

/// Runs the bench on the digits family.
fn bench(arguments: &[&str]) -> Output {
    bench_command(arguments).output().unwrap()
}

fn bench_command(arguments: &[&str]) -> Command {
    let path = |relative| digits(relative).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_taskbasis-bench"));
    command.arg("--basis").arg(path("bases/ViT-D-8_AE_M4_8task"));
    command.arg("--base").arg(path("base/pickled_module.pt")).args(arguments);
    command
}

#[track_caller]
fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

/// `a.b.c`, as a number.
#[track_caller]
fn number(value: &Value, path: &str) -> f64 {
    let found = path.split('.').try_fold(value, |value, key| value.get(key));
    found.and_then(Value::as_f64).unwrap_or_else(|| panic!("no number at {path} in {value:#}"))
}

#[test]
fn every_promised_figure_is_there_and_documented() {
    if !runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.html");
    let output = bench(&["--quick", "--json", "--batch", "2", "--threads", "2", "--report", report.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let measured = json(&output);
    for path in [
        "reconstruct.bandwidth_ratio",
        "reconstruct.ms",
        "switch.vs_reload",
        "encode.over_frozen.f32.1",
        "encode.over_frozen.f32.2",
        "encode.over_frozen.bf16.1",
        "encode.over_frozen.int8.2",
        "open.ms",
        "memory.peak_over_model",
        "storage.basis",
        "machine.processors",
        "machine.page_size",
    ] {
        assert!(number(&measured, path) > 0.0, "{path}");
    }
    assert!(number(&measured, "switch.cached_overhead_ms").is_finite());
    assert_every_precision(&measured);
    // One and two threads, M = 1 to 4, five formats; each the bytes of M vectors, base and result.
    let cases = measured["reconstruct"]["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 2 * 4 * 5);
    let tower = 4.0 * number(&measured, "family.parameters");
    for case in cases {
        let vector = (number(case, "bytes") - 2.0 * tower) / number(case, "vectors") / tower;
        match case["format"].as_str().unwrap() {
            "f32" => assert_eq!(vector, 1.0),
            "f16" | "bf16" => assert_eq!(vector, 0.5),
            // A block of 64 values has a scale, and what has one dimension is f16.
            "q8" => assert!((8.25 / 32.0..0.27).contains(&vector), "{case}"),
            "q4" => assert!((4.25 / 32.0..0.15).contains(&vector), "{case}"),
            other => panic!("{other}"),
        }
    }
    for format in ["f16", "bf16", "q8", "q4"] {
        assert!(number(&measured, &format!("reconstruct.over_own_format.{format}")) > 0.0);
    }
    assert_eq!(measured["machine"]["onnxruntime"], taskbasis::Runtime::probe(None).unwrap().version.as_str());

    assert_documented(&measured);

    // Reconstruction twice and packed, switching, tasks never seen, precisions.
    let page = assert_whole_page(&report, 6);
    for section in ["Reconstruction into packed weights", "A task never seen", "Precisions and peers"] {
        assert!(page.contains(section), "{section}");
    }
}

/// Of each: a time beside the frozen session's, how close it comes, bytes, reconstruction, a first embedding, memory.
#[track_caller]
fn assert_every_precision(measured: &Value) {
    let list = |path: &str| {
        let found = path.split('.').try_fold(measured, |value, key| value.get(key));
        found.and_then(Value::as_array).unwrap_or_else(|| panic!("no list at {path}"))
    };
    let names = |values: &[Value], key: &str| -> Vec<String> {
        values.iter().map(|value| value[key].as_str().unwrap().to_owned()).collect()
    };
    let all = ["f32", "bf16", "int8"];
    assert_eq!(names(list("encode.ways"), "name"), all);
    let plain = number(measured, "family.weights_bytes");
    for (way, (difference, share)) in list("encode.ways").iter().zip([(1e-5, 1.01), (0.02, 0.55), (0.05, 0.35)]) {
        assert!(number(way, "difference") < difference && number(way, "cosine") > 0.999, "{way}");
        assert!(number(way, "weights_bytes") <= share * plain, "{way}");
    }
    for batch in list("encode.batches") {
        assert_eq!(names(batch["runs"].as_array().unwrap(), "name"), ["f32", "bf16", "int8", "frozen"]);
    }
    let ratios = list("encode.ratios");
    assert_eq!(ratios.len(), 3 * 2, "each over the frozen session, at both batch sizes");
    for ratio in ratios {
        let of = |key| number(ratio, key);
        assert!(ratio["over"] == "frozen" && of("p25") <= of("median") && of("median") <= of("p75"), "{ratio}");
        let (name, batch) = (ratio["of"].as_str().unwrap(), of("batch"));
        assert_eq!(number(measured, &format!("encode.over_frozen.{name}.{batch}")), of("median"));
    }
    let packed = list("reconstruct.packed");
    assert_eq!(packed.len(), 5 * 3, "five formats");
    for packed in packed {
        assert!(number(packed, "over_plain.median") > 0.0 && number(packed, "weights_bytes") > 0.0, "{packed}");
    }
    let never_seen = list("switch.never_seen");
    assert_eq!(names(never_seen, "format"), ["f32", "q4"]);
    for of in never_seen {
        let precisions = of["precisions"].as_array().unwrap();
        assert_eq!(names(precisions, "precision"), all);
        assert!(precisions.iter().all(|first| number(first, "reload_over.median") > 0.0), "{of}");
        assert_eq!(number(&precisions[0], "over_first.median"), 1.0);
        assert!(number(of, "reload_open_ms.median") < number(of, "reload_ms.median"));
    }
    assert_eq!(names(list("memory.precisions"), "precision"), all);
    let process = list("memory.precisions");
    assert_eq!(number(measured, "memory.peak"), number(&process[0], "peak"));
    assert!(number(&process[2], "weights_over_plain") < number(&process[1], "weights_over_plain"));
}

#[test]
fn one_precision_alone_is_measured_where_it_is_asked_for() {
    if !runtime() {
        return;
    }
    let arguments = ["--quick", "--json", "--only", "encode,switch,memory", "--batch", "1", "--threads", "2"];
    let measured = json(&bench(&[&arguments[..], &["--precision", "int8", "--formats"]].concat()));
    for (list, key) in [("/encode/ways", "name"), ("/switch/never_seen/0/precisions", "precision")] {
        let found = measured.pointer(list).and_then(Value::as_array).unwrap();
        assert_eq!(found.iter().map(|value| value[key].as_str().unwrap()).collect::<Vec<_>>(), ["int8"], "{list}");
    }
    assert_eq!(measured["memory"]["precisions"].as_array().unwrap().len(), 1);
}

/// A Python without the packages, and a program that is none; before anything is measured.
#[cfg(unix)]
#[test]
fn peers_that_cannot_be_had_are_said_first() {
    use std::os::unix::fs::PermissionsExt;
    let said = |python: &str| {
        let output = bench(&["--quick", "--only", "encode", "--peers", python]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{text}");
        text
    };
    let text = said("/nowhere/python3");
    assert!(text.contains("cannot start the Python of --peers") && text.contains("/nowhere/python3"), "{text}");
    let folder = tempfile::tempdir().unwrap();
    let text = said(folder.path().to_str().unwrap());
    assert!(text.contains("bin/python"), "a folder is an environment: {text}");
    let text = said("/bin/cat");
    assert!(text.contains("the peers' process"), "{text}");

    if !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return skip(Need::Python, "there is no python3");
    }
    // An interpreter that sees no installed package.
    let bare = folder.path().join("bare");
    std::fs::write(&bare, "#!/bin/sh\nexec python3 -I -S \"$@\"\n").unwrap();
    std::fs::set_permissions(&bare, std::fs::Permissions::from_mode(0o755)).unwrap();
    let text = said(bare.to_str().unwrap());
    for package in ["numpy", "openvino", "onnxruntime", "torch"] {
        assert!(text.contains(&format!("{package}: No module named '{package}'")), "{package}: {text}");
    }
    assert!(text.contains("-m pip install openvino onnxruntime onnx torch numpy"), "{text}");
}

/// A report that needs nothing else, with this many plots at least.
#[track_caller]
fn assert_whole_page(report: &Path, plots: usize) -> String {
    let page = std::fs::read_to_string(report).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert!(page.matches("<svg").count() >= plots);
    let address = page.replace("http://www.w3.org/2000/svg", "");
    for outside in ["http:", "https:", "src=", "href=", "@import", "url(", "<script"] {
        assert!(!address.contains(outside), "the report refers to something outside: {outside}");
    }
    page
}

#[track_caller]
fn assert_documented(measured: &Value) {
    let docs = std::fs::read_to_string(root().join("docs/performance.md")).unwrap();
    let mut missing = Vec::new();
    undocumented(measured, &docs, &mut missing);
    assert!(missing.is_empty(), "docs/performance.md does not tell of {missing:?}");
}

/// Keys that the documentation does not name, but for those of maps whose keys are data.
fn undocumented(value: &Value, docs: &str, missing: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let names = ["f32", "f16", "bf16", "q8", "q4", "int8"];
                let is_data = key.parse::<u32>().is_ok() || names.contains(&key.as_str());
                if !is_data && !docs.contains(&format!("`{key}`")) {
                    missing.push(key.clone());
                }
                undocumented(value, docs, missing);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| undocumented(value, docs, missing)),
        _ => {}
    }
}

#[test]
fn a_bundle_is_measured_without_another_file() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("model.taskbasis");
    let path = |relative| digits(relative).unwrap();
    let (base, basis) = (path("base/pickled_module.pt"), path("bases/ViT-D-8_AE_M4_8task"));
    let (base, basis) = (Checkpoint::open(base).unwrap(), Basis::open(basis).unwrap());
    let packer = Packer::new(&base, &basis, ArchHints::default()).unwrap();
    packer.write(&bundle, &packer.uniform(BlockFormat::Q8.into()), &[], &|_| ()).unwrap();
    if !runtime() {
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_taskbasis-bench"))
        .args(["--quick", "--json", "--formats", "--only", "open,reconstruct,memory,storage", "--basis"])
        .arg(&bundle)
        .output()
        .unwrap();
    let measured = json(&output);
    assert_eq!(measured["family"]["format"], "q8");
    assert!(measured["reconstruct"]["cases"].as_array().unwrap().iter().all(|case| case["format"] == "q8"));
    assert_eq!(number(&measured, "storage.basis") as u64, std::fs::metadata(&bundle).unwrap().len());
    assert!(number(&measured, "memory.peak_over_model") > 1.0 && number(&measured, "open.ms") > 0.0);
    assert!(measured.get("switch").is_none(), "only what was asked for");
}

#[test]
fn a_users_graph_is_measured_beside_the_built_one() {
    let Some(graph) = digits("onnx/transformers_style_opset14.onnx").filter(|_| runtime()) else { return };
    let of_graph = ["--quick", "--json", "--batch", "2", "--threads", "2", "--graph", graph.to_str().unwrap()];
    let measured = json(&bench(&[&of_graph[..], &["--only", "encode"]].concat()));
    for ratio in ["inputs_vs_frozen", "promoted_vs_frozen", "vs_built"] {
        for batch in ["1", "2"] {
            assert!(number(&measured, &format!("encode.graph.{ratio}.{batch}")) > 0.0, "{ratio}, {batch}");
        }
    }
    assert!(number(&measured, "encode.graph.inputs_difference") < 1e-5, "each way computes the same");
    assert!(number(&measured, "encode.graph.promoted_difference") < 1e-5);
    assert_eq!(measured["encode"]["graph"]["batches"].as_array().unwrap().len(), 2);
    assert_documented(&measured);

    // Never taken and left out in silence.
    let output = bench(&[&of_graph[..], &["--only", "open"]].concat());
    assert!(String::from_utf8_lossy(&output.stderr).contains("'--only' leaves out"));
    assert_eq!(bench(&[&of_graph[..], &["--soak", "1"]].concat()).status.code(), Some(2));
}

#[test]
fn a_bundles_graph_is_measured_unless_the_built_one_is_asked_for() {
    let Some(graph) = digits("onnx/transformers_style_opset14.onnx").filter(|_| runtime()) else { return };
    let base = Checkpoint::open(digits("base/pickled_module.pt").unwrap()).unwrap();
    let basis = Basis::open(digits("bases/ViT-D-8_AE_M4_8task").unwrap()).unwrap();
    let graph = BoundGraph::open(graph, &base, Some(&basis), &BindOptions::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("model.taskbasis");
    let mut packer = Packer::new(&base, &basis, ArchHints::default()).unwrap();
    packer.graph(&graph).unwrap();
    packer.write(&bundle, &packer.uniform(BlockFormat::Q8.into()), &[], &|_| ()).unwrap();
    let quick = |more: &[&str]| {
        let mut bench = Command::new(env!("CARGO_BIN_EXE_taskbasis-bench"));
        bench.args(["--json", "--only", "encode", "--quick", "--batch", "2", "--threads", "2", "--basis"]);
        json(&bench.arg(&bundle).args(more).output().unwrap())
    };
    assert!(number(&quick(&[]), "encode.graph.inputs_difference") < 1e-5);
    assert!(quick(&["--built-graph"])["encode"].get("graph").is_none());
}

/// On a driver that has no GPU, and without ONNX Runtime.
#[test]
fn weights_on_a_gpu_are_measured_without_a_provider() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.html");
    let arguments = ["--only", "device", "--quick", "--json", "--threads", "2", "--formats", "f16,q4", "--report"];
    let others = [report.to_str().unwrap(), "--provider", "auto", "--onnxruntime", "/nowhere/libonnxruntime.so"];
    let mut command = bench_command(&[&arguments[..], &others].concat());
    let Some(output) = on_the_hosts_driver(&mut command, &[]) else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let measured = json(&output);
    assert_documented(&measured);
    assert!(measured.get("reconstruct").is_none() && measured.get("switch").is_none(), "only what was asked for");
    let device = &measured["device"];
    let gpu = &device["gpu"];
    assert_eq!((gpu["name"].as_str(), gpu["compute_capability"].as_str()), (Some("none at all"), Some("9.0")));
    assert_eq!((gpu["cuda"].as_str(), number(gpu, "memory_bytes")), (Some("12.8"), (1u64 << 32) as f64));
    assert!(measured["machine"]["onnxruntime"].is_null() && measured["machine"]["provider"].is_null());
    assert!(device["encode"].is_null() && device["not_encoded"].as_str().unwrap().contains("/nowhere/"), "{device}");

    let tower = 4.0 * number(&measured, "family.parameters");
    let formats = device["formats"].as_array().unwrap();
    let names: Vec<_> = formats.iter().map(|format| format["format"].as_str().unwrap()).collect();
    assert_eq!(names, ["f32", "f16", "q4"]);
    for (format, vectors) in formats.iter().zip([4.0, 2.0, 4.0 * 4.25 / 32.0]) {
        let bytes = |key: &str| number(format, key);
        // What has one dimension is f16 in q4.
        assert!((1.0..1.1).contains(&(bytes("basis_bytes") / tower / vectors)), "{format}");
        assert_eq!((bytes("base_bytes"), bytes("bytes")), (tower, 2.0 * tower + bytes("basis_bytes")));
        // Whole tiles of 8 KiB, and where they are.
        let whole = |stored: f64, on_device: f64| (stored..3.0 * stored).contains(&on_device);
        assert!(whole(tower + bytes("basis_bytes"), bytes("resident_bytes")) && whole(tower, bytes("weights_bytes")));
        // To the byte, as this driver counts: base and basis, and the weights of two tasks.
        assert_eq!(bytes("peak_bytes"), bytes("resident_bytes") + 2.0 * bytes("weights_bytes"));
        assert_eq!((bytes("slot_bytes"), bytes("streamed_bytes")), (0.0, 0.0));
        assert_eq!(bytes("copy_bytes"), bytes("bytes"), "there is room for copies of as many");
        for rate in ["gb_s", "copy_gb_s", "upload_gb_s", "ratio"] {
            assert!(bytes(rate).is_finite() && bytes(rate) > 0.0, "{rate} of {format}");
        }
        assert!((bytes("gb_s") / bytes("copy_gb_s") / bytes("ratio") - 1.0).abs() < 1e-9);
        assert!((bytes("gb_s") * bytes("computed_ms.median") * 1e6 / bytes("bytes") - 1.0).abs() < 1e-9);
        assert!((bytes("upload_gb_s") * bytes("upload_ms.median") * 1e6 / bytes("resident_bytes") - 1.0).abs() < 1e-9);
        assert!(bytes("computed_ms.runs") >= 10.0 && bytes("queued_ms.runs") == bytes("computed_ms.runs"));
        for quantile in ["median", "p99"] {
            let of = |key| bytes(&format!("{key}.{quantile}"));
            assert!(of("queued_ms") > 0.0 && of("queued_ms") <= of("computed_ms"), "{format}");
        }
        // As many groups as the basis has parameters, in turns with plain coefficients.
        assert!(format["grouped"]["grouping"] == "parameter" && bytes("grouped.groups") > 20.0, "{format}");
        assert_eq!(
            (bytes("grouped.ms.runs"), bytes("grouped.ratio.rounds")),
            (bytes("computed_ms.runs"), bytes("computed_ms.runs"))
        );
        assert!(bytes("grouped.ratio.median") > 0.0 && bytes("grouped.ratio.median").is_finite());
    }
    for (figure, of_own_format) in
        [("bandwidth_ratio", "ratio"), ("switch_p50_ms", "computed_ms.median"), ("switch_p99_ms", "computed_ms.p99")]
    {
        assert_eq!(number(device, figure), number(&formats[0], of_own_format));
    }
    let lowest = formats.iter().map(|format| number(format, "ratio")).fold(f64::INFINITY, f64::min);
    assert_eq!(number(device, "lowest_ratio"), lowest);
    let page = assert_whole_page(&report, 1);
    assert!(page.contains("On the GPU") && page.contains("none at all, compute capability 9.0"));

    // The same as text, where the basis does not fit.
    let tight = (tower + tower * 4.0).to_string();
    let mut command = bench_command(&["--only", "device", "--quick", "--formats", "--provider", "tensorrt"]);
    let output = on_the_hosts_driver(&mut command, &[("FAKE_MEMORY", &tight)]).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for said in [
        "driver for CUDA 12.8",
        "clocks not known",
        ", slots ",
        "of the copy",
        "by parameter",
        "encoding was not measured",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
}

#[test]
fn what_a_gpu_lacks_is_said_before_anything_is_measured() {
    let said = |output: Output| {
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{text}");
        text
    };
    let on_cpu = said(bench(&["--only", "device"]));
    assert!(on_cpu.contains("measured on a GPU") && on_cpu.contains("--provider cuda"), "{on_cpu}");
    let device = ["--only", "device", "--provider", "auto"];
    if let Err(error) = taskbasis::Cuda::open(0) {
        assert!(said(bench(&device)).contains(&error.to_string()));
    }
    for (setting, missing) in [
        (("FAKE_DEVICES", "0"), "the CUDA driver finds no GPU that it can use"),
        (("FAKE_CAPABILITY", "61"), "none at all is too old for the kernels"),
    ] {
        let Some(output) = on_the_hosts_driver(&mut bench_command(&device), &[setting]) else { return };
        assert!(said(output).contains(missing), "{missing}");
    }
    // The driver alone is not enough for the parts that encode.
    if runtime() {
        let mut all = bench_command(&["--only", "device,encode", "--provider", "cuda"]);
        let text = said(on_the_hosts_driver(&mut all, &[]).unwrap());
        assert!(text.contains("CUDA"), "{text}");
    }
}

/// Needs no ONNX Runtime: nothing is encoded.
#[test]
fn hints_are_compared_and_the_best_is_named() {
    let output = bench(&["--tune", "--quick", "--json", "--formats", "q4", "--threads", "2"]);
    let measured = json(&output);
    assert_eq!(output.status.code(), Some(0), "{measured:#}");
    assert_documented(&measured);
    let tune = &measured["tune"];
    let cases = tune["cases"].as_array().unwrap();
    let of = |key: &str, value: &Value| cases.iter().filter(|case| case[key] == *value).count();
    let all = ["none", "prefetch", "stream", "prefetch,stream"].map(Value::from);
    // Two formats, one thread and two.
    assert!(all.iter().all(|hints| of("hints", hints) == 4), "{tune:#}");
    assert_eq!((of("format", &"q4".into()), of("threads", &1.into()), cases.len()), (8, 8, 16), "{tune:#}");
    assert!(all.contains(&tune["best"]) && all.contains(&tune["own"]) && number(tune, "over_own") <= 1.0);
    let own = cases.iter().filter(|case| case["hints"] == tune["own"]);
    assert!(own.map(|case| number(case, "over_own.median")).all(|ratio| ratio == 1.0), "{tune:#}");
}

#[test]
fn a_short_soak_passes() {
    if !runtime() {
        return;
    }
    let output = bench(&["--soak", "3", "--json"]);
    let soak = json(&output);
    assert_eq!(output.status.code(), Some(0), "{soak:#}");
    assert_documented(&soak);

    let soak = &soak["soak"];
    assert_eq!(soak["passed"], true);
    for mode in ["plain", "packed", "blockwise"] {
        let (name, mode) = (mode, &soak[mode]);
        assert_eq!((number(mode, "differing"), mode["errors"].as_array().unwrap().len()), (0.0, 0));
        // More tasks than fit: there must have been switches, and weights dropped and made again.
        let is_kept = name != "blockwise";
        assert!(number(mode, "switches") > 0.0 && (number(mode, "evictions") > 0.0) >= is_kept, "{mode}");
    }
    for mode in ["plain.difference", "packed.difference", "blockwise.difference"] {
        assert_eq!(number(soak, mode), 0.0, "bit for bit");
    }
}

#[test]
fn what_cannot_be_measured_is_said() {
    let output = Command::new(env!("CARGO_BIN_EXE_taskbasis-bench"))
        .args(["--synthetic", "ViT-B-99", "--only", "open"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{text}");
    assert!(text.contains("ViT-B-99") && text.contains("ViT-B-32"), "{text}");
    // A report is never written over what is measured.
    let base = digits("base/pickled_module.pt").unwrap();
    let before = std::fs::read(&base).unwrap();
    let output = bench(&["--quick", "--only", "storage", "--report", base.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(std::fs::read(&base).unwrap(), before);
}
