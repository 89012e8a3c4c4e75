//! Merged vectors: the papers' numbers, in checkpoints and in bundles, whole or not at all.
#![cfg(feature = "cli")]

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::build::{open, write_family};
use crate::support::bundle::{Parts, faults};
use crate::support::program::{fail, json, run, succeed, text};
use serde_json::Value;
use taskbasis::build::{Family, Merge};
use taskbasis::bundle::VectorSource;
use taskbasis::{Bundle, Checkpoint, ModelOptions, Scope, save_arrays};

const MATRIX: &str = "visual.transformer.resblocks.0.attn.out_proj.weight";
const BIAS: &str = "visual.transformer.resblocks.0.attn.out_proj.bias";

/// The task vectors a, b and c in 1/1024: of a matrix [4, 3] and of a bias [4].
const VECTORS: [([f32; 12], [f32; 4]); 3] = [
    ([8., -3., 0., 1., 5., -2., 0., 7., 4., -6., 2., 1.], [4., -1., 0., 2.]),
    ([2., 6., -1., -4., 5., 3., 8., 0., -4., 1., 1., -5.], [4., 3., 0., 1.]),
    ([6., 1., 3., 2., -5., 6., 1., 4., 0., 3., -2., 7.], [1., 1., 0., -6.]),
];

/// What the formulas give, written out in PyTorch in f64 (tests/support/compare_merges.py). In `ties:keep=0.5` the
/// last element of the third row has a sum of 0 and gets the sign of most; the cosines of the matrix are
/// below 0, so that stock keeps the base there.
const GOLDEN: [(&str, [f64; 12], [f64; 4]); 13] = [
    ("magmax", [8., 6., 3., -4., -5., 6., 8., 7., -4., -6., -2., 7.], [4., 3., 0., -6.]),
    ("stock", [0.; 12], [0.953663, 0.317888, 0., -0.317888]),
    (
        "tsv",
        [
            8.187928, -7.830207, 1.347709, -2.008695, -0.093713, 9.19908, 5.466172, 6.438029, -3.261966, 5.204435,
            5.063855, 6.394654,
        ],
        [3., 1., 0., -1.],
    ),
    (
        "iso-c",
        [
            11.526765, -1.859169, 3.448229, -2.119532, 4.261725, 10.090298, 2.854139, 11.225113, -3.638319, -1.719366,
            0.916016, 4.638891,
        ],
        [3., 1., 0., -1.],
    ),
    (
        "iso-cts",
        [
            11.526765, -1.859169, 3.448229, -2.119532, 4.261725, 10.090298, 2.854139, 11.225113, -3.638319, -1.719366,
            0.916016, 4.638891,
        ],
        [3., 1., 0., -1.],
    ),
    (
        "iso-cts:common=0.5",
        [
            8.191382, -7.843613, 1.073267, -2.314481, -0.116334, 9.047962, 5.703102, 6.564416, -3.352888, 5.134885,
            5.169199, 6.09004,
        ],
        [3., 1., 0., -1.],
    ),
    ("ties:keep=0.5", [7., 6., 3., -4., 5., 4.5, 8., 5.5, 4., -6., 2., 7.], [4., 3., 0., -6.]),
    ("ties:keep=0.5,by=sum", [14., 6., 3., -4., 10., 9., 8., 11., 4., -6., 2., 7.], [8., 3., 0., -6.]),
    ("ties:keep=0.5,by=max", [8., 6., 3., -4., 5., 6., 8., 7., 4., -6., 2., 7.], [4., 3., 0., -6.]),
    ("ties:keep=1", [16. / 3., 3.5, 3., -4., 5., 4.5, 4.5, 5.5, 4., -6., 1.5, 4.], [3., 2., 0., -6.]),
    ("tall:task=b", [0., 4., 0., -1., 5., 7., 9., 0., 0., 0., 1., 3.], [9., 3., 0., 0.]),
    ("consensus", [16., 4., 0., -1., 5., 7., 0., 11., 0., -2., 1., 3.], [9., 3., 0., 0.]),
    (
        "wudi:steps=50,rate=0.0005",
        [
            6.459257, 0.387669, 2.237612, 0.102457, 1.718714, 8.072368, 3.753807, 4.975161, -2.286943, 1.230321,
            0.670031, 4.394837,
        ],
        [3., 1., 0., -1.],
    ),
];

/// The family of those vectors over a base of zeros; `flipped` has the matrix transposed, [3, 4].
fn family(folder: &Path, tasks: usize, flipped: bool) -> Family {
    let shape: &[usize] = if flipped { &[3, 4] } else { &[4, 3] };
    let save = |name: &str, (matrix, bias): ([f32; 12], [f32; 4])| {
        let path = folder.join(format!("{name}.safetensors"));
        let matrix = turned(&matrix, flipped).map(|value| value / 1024.0);
        let bias = bias.map(|value| value / 1024.0);
        save_arrays(&path, &[(MATRIX, shape, &matrix), (BIAS, &[4], &bias)], &[], &[]).unwrap();
        Checkpoint::open(&path).unwrap()
    };
    let tuned = ["a", "b", "c"].into_iter().zip(VECTORS).take(tasks);
    let tuned = tuned.map(|(task, vector)| (task.to_owned(), save(task, vector))).collect();
    Family::new(save("base", ([0.0; 12], [0.0; 4])), tuned, Scope::All).unwrap()
}

fn turned<N: Copy>(matrix: &[N; 12], flipped: bool) -> [N; 12] {
    std::array::from_fn(|at| if flipped { matrix[at % 4 * 3 + at / 4] } else { matrix[at] })
}

/// Matrix and bias of a merge, in 1/1024.
fn merged(family: &Family, method: &str, threads: usize) -> (Vec<f32>, Vec<f32>) {
    let gram = family.gram(1, &|_| {}).unwrap();
    let merge: Merge = method.parse().unwrap();
    let merged = family.merge(&gram, &merge, threads).unwrap();
    let of = |name| merged.values(name).unwrap().into_iter().map(|value| value * 1024.0).collect();
    (of(MATRIX), of(BIAS))
}

#[test]
fn merges_are_the_papers() {
    let folder = tempfile::tempdir().unwrap();
    for flipped in [false, true] {
        let family = family(folder.path(), 3, flipped);
        for (method, matrix, bias) in GOLDEN {
            // The rows of a matrix are not its columns to WUDI.
            if flipped && method.starts_with("wudi") {
                continue;
            }
            let found = merged(&family, method, 1);
            let expected = turned(&matrix, flipped);
            for (found, expected) in found.0.iter().zip(expected).chain(found.1.iter().zip(bias)) {
                assert!((f64::from(*found) - expected).abs() < 2e-5, "{method}: {found}, not {expected}");
            }
        }
    }
}

#[test]
fn a_merge_of_one_task_is_that_task_where_the_paper_has_it_so() {
    let folder = tempfile::tempdir().unwrap();
    let family = family(folder.path(), 1, false);
    let (matrix, bias) = VECTORS[0];
    for method in ["magmax", "ties:keep=1", "dare:drop=0", "tall:task=a", "consensus:agree=1", "tsv", "wudi:steps=1"] {
        let found = merged(&family, method, 1);
        // Adam takes a step, though a small one, where a gradient of 0 is rounded.
        let limit = if method.starts_with("wudi") { 1e-3 } else { 2e-5 };
        assert!(found.0.iter().zip(matrix).all(|(found, value)| (found - value).abs() < limit), "{method}: {found:?}");
        assert_eq!(found.1, bias, "{method}");
    }
    let gram = family.gram(1, &|_| {}).unwrap();
    let refused = |merge: &str| family.merge(&gram, &merge.parse().unwrap(), 1).unwrap_err().to_string();
    assert!(refused("stock").contains("two tasks"));
    assert!(refused("consensus").contains("2 masks that agree, of 1 tasks"));
    assert!(refused("tall:task=A").contains("Did you mean `a`?"));
}

#[test]
fn bits_do_not_depend_on_threads() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_family(folder.path());
    let family = open(&files);
    let gram = family.gram(2, &|_| {}).unwrap();
    for method in ["ties", "dare:drop=0.5", "dare:drop=0.5,then=ties", "tsv", "iso-c", "iso-cts", "wudi:steps=3"] {
        let of = |threads| {
            let merged = family.merge(&gram, &method.parse().unwrap(), threads).unwrap();
            let names: Vec<&str> = family.base().iter().map(|(name, _)| name).filter(|n| merged.changes(n)).collect();
            assert!(names.len() > 20 && names.iter().all(|name| name.starts_with("visual.")));
            names.iter().flat_map(|name| merged.values(name).unwrap()).map(f32::to_bits).collect::<Vec<_>>()
        };
        let one = of(1);
        assert!(one == of(3) && one == of(7), "{method}");
    }
}

#[test]
fn what_dare_keeps_is_scaled_and_depends_on_the_seed() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_family(folder.path());
    let family = open(&files);
    let gram = family.gram(2, &|_| {}).unwrap();
    let name = "visual.transformer.resblocks.1.mlp.c_fc.weight";
    let of = |merge: &str| family.merge(&gram, &merge.parse().unwrap(), 2).unwrap().values(name).unwrap();
    let (sum, half) = (of("dare:drop=0"), of("dare:drop=0.5,seed=1"));
    let total = |values: &[f32]| values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>();
    // Each element is one of two, with a mean of the whole: the mean square is larger, the sum about the same.
    let along: f64 = sum.iter().zip(&half).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    assert!((along / total(&sum) - 1.0).abs() < 0.06, "{}", along / total(&sum));
    assert!(total(&half) > 1.2 * total(&sum));
    assert!(of("dare:drop=0.5,seed=2") != half && of("dare:drop=0.5,seed=1") == half);
}

/// `build … -o name` with `more`.
fn build(files: &[PathBuf], output: &Path, more: &[&str]) -> Vec<String> {
    let tasks = files[0].parent().unwrap();
    let whole = ["build", "--base", text(&files[0]), "--tasks-dir", text(tasks), "--vectors", "3", "-o", text(output)];
    let of_model = ["--activation", "quick_gelu", "--heads-count", "3", "--no-golden"];
    [&whole[..], &of_model, more].concat().into_iter().map(str::to_owned).collect()
}

fn strings(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

#[test]
fn a_bundle_keeps_merges_as_tasks_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_family(folder.path());
    let around = tempfile::tempdir().unwrap();
    let at = |name: &str| around.path().join(name);
    let family = open(&files);
    let gram = family.gram(1, &|_| {}).unwrap();
    let expected = family.merge(&gram, &"ties:keep=0.3".parse().unwrap(), 1).unwrap();
    // With PCA's mean, which every task has, too.
    for (method, format, limit) in [("ae", "f32", 1e-6), ("pca", "f32", 1e-6), ("pca", "q8", 0.012)] {
        let plain = at("plain.taskbasis");
        let stored = ["--method", method, "--format", "q8", "--base-format", "f32"];
        succeed(&strings(&build(&files, &plain, &stored)));
        let out = at("m.taskbasis");
        let merges = ["--merge", "ties=ties:keep=0.3", "--merge", "most=magmax", "--merge-format", format];
        let report = json(&strings(&build(&files, &out, &[&stored[..], &merges].concat())));
        let told = report["merges"][0]["lacking_with_residual"].as_f64().unwrap();
        assert!(told < limit && (format == "f32" || told > 1e-3), "{method} {format}: {told}");
        let inspected = json(&["inspect", text(&out)]);
        let told = serde_json::json!({ "most": "magmax", "ties": "ties:keep=0.3,by=mean" });
        assert_eq!(inspected["merges"], told);
        assert!(succeed(&["inspect", text(&out)]).contains("ties (ties:keep=0.3,by=mean)"));
        succeed(&["verify", text(&out)]);

        let bundle = Bundle::open(&out).unwrap();
        assert_eq!(bundle.tasks(), ["T0", "T1", "T2", "T3", "T4", "ties", "most"]);
        let model = bundle.model(None, &ModelOptions::default()).unwrap();
        let weights = model.weights(&"ties@2".parse().unwrap()).unwrap().get().unwrap();
        let (mut off, mut all) = (0.0, 0.0);
        for (name, base) in model.base().image_tower().filter(|(name, _)| expected.changes(name)) {
            let base = base.to_f32().unwrap();
            let values = expected.values(name).unwrap();
            for ((found, base), value) in weights.get(name).unwrap().iter().zip(base.iter()).zip(values) {
                off += (f64::from(found - base) - 2.0 * f64::from(value)).powi(2);
                all += 4.0 * f64::from(value).powi(2);
            }
        }
        // The weights are rounded to f32 after the sum.
        let error = (off / all).sqrt();
        assert!(error < limit + 5e-6, "{method} {format}: {error}");

        // What is no merge is as it was.
        for weights in ["all@0.3", "merged@0.5", "T1"] {
            let of = |bundle: &Path| {
                let out = at("w.safetensors");
                succeed(&["reconstruct", "--basis", text(bundle), "--weights", weights, "-o", text(&out)]);
                fs::read(&out).unwrap()
            };
            assert!(of(&plain) == of(&out), "{method} {weights}");
        }
        // It is grown like any other, and keeps them.
        succeed(&["add-task", text(&out), "--task", &format!("again={}", text(&files[1])), "--residual", "q8"]);
        assert_eq!(json(&["inspect", text(&out)])["merges"], told);
        succeed(&["name", text(&out), "mixed=ties@0.5 + T1@0.2 - most@0.1"]);
        succeed(&["verify", text(&out)]);
        fail(&["add-task", text(&out), "--task", &format!("ties={}", text(&files[1]))], &["a task `ties` already"]);
    }
}

#[test]
fn a_merged_checkpoint_is_base_and_vector() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_family(folder.path());
    let around = tempfile::tempdir().unwrap();
    let out = around.path().join("m.safetensors");
    let tasks = text(folder.path());
    let given = ["merge", "--base", text(&files[0]), "--tasks-dir", tasks, "--method", "iso-c", "-o", text(&out)];
    let told = json(&[&given[..], &["--lambda", "0.5"]].concat());
    assert_eq!((&told["method"], &told["lambda"]), (&Value::from("iso-c"), &Value::from(0.5)));
    let (family, merged) = (open(&files), Checkpoint::open(&out).unwrap());
    let gram = family.gram(1, &|_| {}).unwrap();
    let expected = family.merge(&gram, &Merge::IsoC, 1).unwrap();
    assert_eq!(merged.len(), family.base().len());
    for (name, base) in family.base().iter() {
        let found = merged.require(name).unwrap().to_f32().unwrap().into_owned();
        let mut weights = base.to_f32().unwrap().into_owned();
        if expected.changes(name) {
            let values = expected.values(name).unwrap();
            weights.iter_mut().zip(values).for_each(|(w, v)| *w = (f64::from(*w) + 0.5 * f64::from(v)) as f32);
        }
        assert!(found == weights, "{name}");
    }
    // A fine-tune like any other: its vector is in the span of a basis of full rank and itself.
    succeed(&["inspect", text(&out)]);
}

#[test]
fn what_cannot_be_merged_is_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_family(folder.path());
    let around = tempfile::tempdir().unwrap();
    let out = around.path().join("m.taskbasis");
    for (merges, parts) in [
        (&["--merge", "T1=magmax"][..], &["called `T1` already"][..]),
        (&["--merge", "x=magmax", "--merge", "x=ties"], &["called `x` already"]),
        (&["--merge", "x=tall:task=T11"], &["no task `T11`", "Did you mean `T1`?"]),
        (&["--merge", "x=consensus:agree=6"], &["6 masks that agree, of 5 tasks"]),
    ] {
        fail(&strings(&build(&files, &out, merges)), parts);
    }
    let usage = |arguments: &[&str], part: &str| {
        let output = run(arguments);
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && told.contains(part), "{told}");
    };
    usage(&strings(&build(&files, &out, &["--merge", "x=tyes"])), "Did you mean `ties`?");
    usage(&strings(&build(&files, &out, &["--merge", "ties:keep=0.2"])), "NAME=METHOD");
    usage(&strings(&build(&files, &out, &["--merge-format", "q8"])), "--merge");
    let basis = around.path().join("basis");
    let (base, tasks) = (text(&files[0]), text(folder.path()));
    let to_folder = ["build", "--base", base, "--tasks-dir", tasks, "-o", text(&basis), "--merge", "x=ties"];
    usage(&to_folder, "'taskbasis merge' writes a merged checkpoint");

    let plain = around.path().join("x.safetensors");
    let merge = ["merge", "--base", base, "--tasks-dir", tasks, "-o", text(&plain)];
    usage(&[&merge[..], &["--method", "ties:kep=0.2"]].concat(), "Did you mean `keep`?");
    fail(&[&merge[..], &["--method", "ties", "--lambda", "inf"]].concat(), &["must be finite"]);
    fail(&[&merge[..], &["--method", "ties", "--lambda", "1e300"]].concat(), &["beyond what f32 can hold", "visual."]);
    let onto = ["merge", "--base", base, "--task", &format!("a={}", text(&files[1])), "--method", "magmax", "-o"];
    let before = fs::read(&files[1]).unwrap();
    assert_eq!(run(&[&onto[..], &[text(&files[1])]].concat()).status.code(), Some(1));
    assert!(fs::read(&files[1]).unwrap() == before, "an input is not overwritten");

    // A value that is no number, in the file of a task: 4 bytes of NaN among its values.
    let mut bytes = fs::read(&files[2]).unwrap();
    let middle = (bytes.len() / 2) & !3;
    bytes[middle..middle + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&files[2], bytes).unwrap();
    fail(&[&merge[..], &["--method", "ties"]].concat(), &["T1.pt", "not finite"]);
    fail(&strings(&build(&files, &out, &["--merge", "x=ties"])), &["T1.pt", "not finite"]);
    assert_eq!(fs::read_dir(around.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn a_merge_without_a_vector_is_no_bundle() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_family(folder.path());
    let around = tempfile::tempdir().unwrap();
    let out = around.path().join("m.taskbasis");
    succeed(&strings(&build(&files, &out, &["--merge", "x=magmax"])));
    let bytes = fs::read(&out).unwrap();
    assert!(faults(bytes.clone()).is_empty());
    let mut parts = Parts::of(&bytes);
    parts.set_metadata("taskbasis.merges", &serde_json::json!({ "x": "magmax", "T1": "ties" }));
    let errors = faults(parts.join(true));
    assert!(errors[0].to_string().contains("a merge `T1`, which has no residual"), "{}", errors[0]);
}
