//! `--tasks-dir`: every layout gives the same basis, and what is left out is said.
#![cfg(feature = "cli")]

use std::fs;
use std::path::Path;

use crate::support::build::{content, write_family};
use crate::support::program::{fail, json, run, text};

/// The family's files in other places: each task's file, as the second of a pair.
fn place_files(folder: &Path, files: &[(&str, &Path)]) {
    for (place, file) in files {
        let place = folder.join(place);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(file, place).unwrap();
    }
}

#[test]
fn layouts_may_be_mixed_and_what_is_left_out_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_family(folder.path());
    let base = &files[0];
    let named: Vec<String> = (0..5).map(|t| format!("T{t}={}", text(&files[t + 1]))).collect();
    let named: Vec<&str> = named.iter().flat_map(|file| ["--task", file]).collect();
    let plain = folder.path().join("plain");
    json(&[&["build", "--base", text(base), "-o", text(&plain), "--vectors", "2"], &named[..]].concat());

    let mixed = tempfile::tempdir().unwrap();
    let at = mixed.path();
    place_files(
        at,
        &[
            ("T0Val/nonlinear_finetuned.pt", &files[1]),
            ("T0Val/zeroshot.pt", base),
            ("T1/finetuned.pt", &files[2]),
            ("T1/linear_finetuned.pt", &files[5]),
            ("T2.pth.tar", &files[3]),
            ("T3/checkpoint.ckpt", &files[4]),
            ("T3/optimizer.pt", base),
            ("T3/._checkpoint.ckpt", base),
            ("T4.bin", &files[5]),
            ("zeroshot.pt", base),
            ("zeroshot/model.pt", base),
            ("later/checkpoint-5/model.pt", base),
            ("head_MNIST.pt", base),
            ("._T0.pt", base),
            ("notes.txt", base),
            ("empty/README.md", base),
            ("two/a.pt", base),
            ("two/b.pt", base),
        ],
    );
    fs::write(at.join("X-00001-of-00002.safetensors"), "x").unwrap();
    let built = folder.path().join("mixed");
    #[cfg(unix)]
    {
        fs::create_dir(at.join("of_base")).unwrap();
        std::os::unix::fs::symlink(base, at.join("of_base/model.pt")).unwrap();
    }
    let build = ["build", "--base", text(base), "--tasks-dir", text(at), "-o", text(&built), "--vectors", "2"];
    let told = json(&build);
    assert_eq!(told["tasks"], serde_json::json!(["T0", "T1", "T2", "T3", "T4"]));
    assert!(content(&plain) == content(&built));
    let left_out: Vec<(String, String)> = told["left_out"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            let path = one["path"].as_str().unwrap().strip_prefix(text(at)).unwrap()[1..].to_owned();
            (path, one["reason"].as_str().unwrap().to_owned())
        })
        .collect();
    for (path, reason) in [
        ("T1/linear_finetuned.pt", "the linearised model"),
        ("zeroshot.pt", "a base"),
        ("zeroshot", "a base"),
        ("later", "but in folders in it: got checkpoint-5. Name one: "),
        ("head_MNIST.pt", "a head"),
        ("._T0.pt", "hidden"),
        ("notes.txt", "no checkpoint, by its name"),
        ("empty", "there is no checkpoint"),
        ("two", "several checkpoints: a.pt, b.pt"),
        ("X-00001-of-00002.safetensors", "part 1 of 2, without its index"),
    ] {
        let found = left_out.iter().find(|(left, _)| left == path);
        assert!(found.is_some_and(|(_, why)| why.contains(reason)), "{path}: {left_out:?}");
    }
    #[cfg(unix)]
    assert!(left_out.contains(&("of_base".into(), "the base".into())), "{left_out:?}");

    fs::remove_dir_all(&built).unwrap();
    let notes = String::from_utf8(run(&build).stderr).unwrap();
    assert!(notes.contains("notes.txt: left out: no checkpoint, by its name"), "{notes}");
}

#[test]
fn two_files_for_one_task_and_no_task_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_family(folder.path());
    let out = folder.path().join("out");
    let at = folder.path().join("tasks");
    let refused = |parts: &[&str]| {
        fail(&["build", "--base", text(&files[0]), "--tasks-dir", text(&at), "-o", text(&out)], parts);
    };
    place_files(&at, &[("head_A.pt", &files[1]), ("B/notes.txt", &files[1])]);
    refused(&["holds no fine-tuned checkpoint", "head_A.pt: a head", "B: there is no checkpoint"]);
    place_files(&at, &[("A.pt", &files[1]), ("AVal/finetuned.pt", &files[2])]);
    refused(&["two checkpoints for task `A`", "A.pt", "AVal/finetuned.pt"]);
    fs::remove_file(at.join("A.pt")).unwrap();
    place_files(&at, &[("AVal/nonlinear_finetuned.pt", &files[2]), ("C.pt", &files[3])]);
    let told = json(&["build", "--base", text(&files[0]), "--tasks-dir", text(&at), "-o", text(&out)]);
    assert_eq!(told["tasks"], serde_json::json!(["C"]));
    assert!(told["left_out"].to_string().contains("two checkpoints: finetuned.pt, nonlinear_finetuned.pt"), "{told}");
}
