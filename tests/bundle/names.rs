//! Expressions that a bundle keeps under a name: tasks like any other, in a file that is otherwise as it was.
#![cfg(feature = "cli")]

use std::path::Path;

use crate::support::program::{fail, run, succeed};
use crate::support::{bits, digits};
use serde_json::Value;
use taskbasis::{Bundle, BundleUpdate, ErrorKind, ModelOptions, TaskExpr};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn packed(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("m.taskbasis");
    let (basis, base) = (digits("bases/ViT-D-8_AE_M4_8task").unwrap(), digits("base/pickled_module.pt").unwrap());
    let heads = digits("heads.safetensors").unwrap();
    let pack = ["pack", "--basis", text(&basis), "--base", text(&base), "--heads", text(&heads), "--no-golden"];
    succeed(&[&pack[..], &["-o", text(&path)]].concat());
    path
}

#[test]
fn a_kept_expression_is_a_task_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = packed(folder.path());
    let before = std::fs::read(&path).unwrap();
    let file = folder.path().join("found.json");
    std::fs::write(&file, r##"{"expression": "#1@0.5"}"##).unwrap();
    let given = ["best=MNIST@{attn: 0.4, *: 0.3} + Parity@0.2", &format!("second one=@{}", text(&file))];
    let json: Value = serde_json::from_str(&succeed(&["name", text(&path), given[0], given[1], "--json"])).unwrap();
    let names = serde_json::json!({
        "best": "MNIST@{attn: 0.4, *: 0.3} + Parity@0.2", "second one": "#1@0.5"
    });
    assert_eq!(json["names"], names);
    let inspected: Value = serde_json::from_str(&succeed(&["inspect", text(&path), "--json"])).unwrap();
    assert_eq!(inspected["names"], names);

    let bundle = Bundle::open(&path).unwrap();
    let model = bundle.model(None, &ModelOptions::default()).unwrap();
    let weights = |expr: &str| model.weights(&expr.parse().unwrap()).unwrap().get().unwrap();
    let (kept, written) =
        (weights("best@0.5 - \"second one\""), weights("MNIST@{attn: 0.2, *: 0.15} + Parity@0.1 - #1@0.5"));
    for (name, _) in model.base().image_tower() {
        assert_eq!(bits(kept.get(name).unwrap()), bits(written.get(name).unwrap()), "{name}");
    }
    succeed(&["verify", text(&path)]);
    let out = folder.path().join("w.safetensors");
    succeed(&["reconstruct", "--basis", text(&path), "--weights", "best", "-o", text(&out)]);

    // Without them the file is what it was.
    succeed(&["name", text(&path), "--forget", "best", "--forget", "second one"]);
    assert!(std::fs::read(&path).unwrap() == before);
}

#[test]
fn what_cannot_be_kept_is_refused_and_nothing_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = packed(folder.path());
    succeed(&["name", text(&path), "best=MNIST@0.5"]);
    let before = std::fs::read(&path).unwrap();
    for (given, parts) in [
        ("MNIST=Parity", &["name of a task"][..]),
        ("x=MNITS", &["no task `MNITS`", "MNIST"]),
        ("x=best@2", &["no task `best`"]),
        ("x=MNIST@{attn: 1}", &["no group has this parameter"]),
    ] {
        fail(&["name", text(&path), given], parts);
    }
    for (given, part) in
        [(&["x=MNIST@"][..], "number"), (&["=MNIST"], "NAME=EXPR"), (&["x"], "NAME=EXPR"), (&[], "NAME=EXPR")]
    {
        let output = run(&[&["name", text(&path)], given].concat());
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains(part), "{given:?}");
    }
    fail(&["name", text(&path), "--forget", "bst"], &["no kept expression `bst`", "best"]);
    assert!(std::fs::read(&path).unwrap() == before);

    let bundle = Bundle::open(&path).unwrap();
    let mut update = BundleUpdate::of_names(&bundle);
    let error = update.keep("", &TaskExpr::task("MNIST")).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    // A new task must not hide behind a kept name, nor be hidden by one.
    let base = digits("base/pickled_module.pt").unwrap();
    fail(&["add-task", text(&path), "--task", &format!("best={}", text(&base))], &["keeps an expression as `best`"]);
}
