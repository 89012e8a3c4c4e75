//! Routers as a user makes and uses them.
#![cfg(feature = "cli")]

use std::fs;

use crate::support::program::{fail, json, succeed, text};
use crate::support::{Need, digits, skip, whole_digits};
use taskbasis::Dataset;

/// The options that every command here is given, and the data; `None` without the family's validation images.
fn arguments(basis: &str) -> Option<(Vec<String>, Vec<String>)> {
    let images = whole_digits("images.safetensors")?;
    if Dataset::open(&images).unwrap().tasks_with("val").is_err() {
        skip(Need::Digits, format_args!("{} has no validation images", images.display()));
        return None;
    }
    let path = |relative: &str| Some(text(&digits(relative)?).to_owned());
    let model = ["--basis".into(), path(basis)?, "--base".into(), path("base/pickled_module.pt")?];
    let heads = ["--heads".into(), path("heads.safetensors")?, "--classes".into(), path("classes.json")?];
    let data = ["--data".into(), text(&images).to_owned(), "--batch".into(), "100".into()];
    Some(([&model[..], &data].concat(), [&model[..], &heads].concat()))
}

fn with<'a>(command: &'a str, common: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    [&[command], &common.iter().map(String::as_str).collect::<Vec<_>>()[..], more].concat()
}

#[test]
fn a_router_sends_images_to_their_tasks() {
    let Some((making, using)) = arguments("bases/ViT-D-8_AE_M4_8task") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("router.safetensors");
    let router = text(&path);
    let some = ["--task", "Colors", "--task", "Inverted", "--task", "OptDigits", "--task", "Quadrant"];
    let made = json(&with("route", &making, &[&some[..], &["-o", router]].concat()));
    assert_eq!(made["tasks"].as_array().unwrap().len(), 4);
    assert_eq!((&made["fallback"], &made["features"]), (&"all@0.3".into(), &"base".into()));
    let k = made["components"].as_u64().unwrap();
    assert_eq!(made["bytes_per_task"].as_u64().unwrap(), 4 * (64 + 64 * k + k + 2));
    assert!(made["own"].as_f64().unwrap() > 0.9, "{made}");
    let bytes = fs::read(&path).unwrap();
    let shown = succeed(&with("route", &making, &[&some[..], &["-o", router]].concat()));
    assert!(shown.contains("Quadrant") && shown.contains("4 tasks"), "{shown}");
    assert_eq!(fs::read(&path).unwrap(), bytes, "the same images make the same router");

    let evaluate = |more: &[&str]| {
        let data = [&making[4..], &using[..]].concat();
        json(&with("eval", &data, &[&["--router", router][..], more].concat()))
    };
    let found = evaluate(&["--task", "auto"]);
    let mean = |found: &serde_json::Value, name: &str| found["mean"][name].as_f64().unwrap();
    assert_eq!(found["tasks"].as_object().unwrap().len(), 4);
    assert!(mean(&found, "own") > 0.95 && mean(&found, "known") > 0.9, "{found}");
    assert!(mean(&found, "routed") > mean(&found, "known") - 0.05, "{found}");
    assert!(mean(&found, "own_head") >= mean(&found, "routed"));
    let plain = json(&with("eval", &[&making[4..], &using[..]].concat(), &some));
    let known = found["tasks"]["Quadrant"]["known"].as_f64().unwrap();
    assert!((plain["tasks"]["Quadrant"]["accuracy"].as_f64().unwrap() - known).abs() < 1e-9, "{plain}");
    let counted: u64 =
        found["tasks"]["Colors"]["likeliest"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(Some(counted), found["tasks"]["Colors"]["images"].as_u64());
    // No image is below a threshold of 0; with 1, nearly all, and without a fallback those are wrong.
    let all = evaluate(&["--threshold", "0", "--task", "Colors"]);
    assert_eq!(mean(&all, "unsure"), 0.0);
    let none = evaluate(&["--threshold", "1", "--fallback", "none", "--task", "Colors"]);
    assert!(mean(&none, "unsure") > 0.0 && mean(&none, "own_head") <= 1.0 - mean(&none, "unsure"), "{none}");

    // Files are preprocessed pixels here: what golden.safetensors has.
    let golden = whole_digits("golden.safetensors").unwrap();
    let classified =
        json(&with("classify", &using, &["--task", "auto", "--router", router, "--top", "1", text(&golden)]));
    let images = classified["images"].as_array().unwrap();
    assert_eq!(images.len(), 32);
    let own = |task: &str| images.iter().filter(|image| image["task"] == task && image["answer"] == "task").count();
    assert!(own("Colors") >= 4 && own("Inverted") >= 4, "{classified}");
    assert!(images.iter().all(|image| image["top"].as_array().unwrap().len() == 1));
    let shown = succeed(&with("classify", &using, &["--task", "auto", "--router", router, text(&golden)]));
    assert!(shown.contains("pixel_values[3]") && shown.contains("Inverted"), "{shown}");

    let pixels = text(&golden);
    fail(&with("classify", &using, &["--task", "auto", pixels]), &["--task auto needs a router", "taskbasis route"]);
    fail(&with("classify", &using, &["--task", "MNIST", "--router", router, pixels]), &["expected --task auto"]);
    fail(&with("classify", &using, &["--task", "auto", "--router", pixels, pixels]), &["not a router"]);
    let data = [&making[4..], &using[..]].concat();
    fail(&with("eval", &data, &["--router", router, "--task", "MNIST"]), &["no task of the router `MNIST`; known: "]);
}

#[test]
fn a_bundle_keeps_its_router() {
    let Some((making, using)) = arguments("bases/ViT-D-8_AE_M4_8task") else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| text(&folder.path().join(name)).to_owned();
    let (bundle, copy, file) = (at("m.taskbasis"), at("copy.taskbasis"), at("router.safetensors"));
    succeed(&with("pack", &using, &["--no-golden", "-o", &bundle]));
    let before = fs::read(&bundle).unwrap();
    let over = [&["--basis".to_owned(), bundle.clone()], &making[4..]].concat();
    let some = ["--task", "Colors", "--task", "Inverted"];
    let golden = whole_digits("golden.safetensors").unwrap();
    let classify = |basis: &str, more: &[&str]| {
        json(&[&["classify", "--basis", basis, "--task", "auto", "--top", "1", text(&golden)], more].concat())
    };
    fail(&["classify", "--basis", &bundle, "--task", "auto", text(&golden)], &["needs a router"]);
    fail(&["classify", "--basis", &bundle, "--task", "Colors", "--router", &bundle, text(&golden)], &["no router"]);
    fail(&with("route", &making, &[&some[..], &["--keep"]].concat()), &["only a bundle keeps a router"]);

    succeed(&with("route", &over, &[&some[..], &["--keep", "-o", &copy]].concat()));
    assert!(fs::read(&bundle).unwrap() == before, "-o leaves the bundle alone");
    let made = json(&with("route", &over, &[&some[..], &["--keep"]].concat()));
    assert_eq!(made["output"], bundle);
    assert!(fs::read(&bundle).unwrap() == fs::read(&copy).unwrap());
    succeed(&["verify", &bundle]);
    assert_eq!(json(&["inspect", &bundle])["router"]["tasks"], serde_json::json!(["Colors", "Inverted"]));

    // The same answers as from a file of its own, wherever the router is.
    succeed(&with("route", &over, &[&some[..], &["-o", &file]].concat()));
    let kept = classify(&bundle, &[]);
    assert_eq!(kept, classify(&bundle, &["--router", &file]));
    assert_eq!(kept, classify(&bundle, &["--router", &copy]));
    assert_ne!(kept, classify(&bundle, &["--threshold", "1", "--fallback", "none"]));
    let found = json(&with("eval", &over, &["--task", "auto"]));
    assert_eq!(found["tasks"].as_object().unwrap().len(), 2);

    // Another change of the bundle leaves it there; another router takes its place.
    succeed(&["name", &bundle, "best=Colors@0.5"]);
    assert_eq!(classify(&bundle, &[]), kept);
    succeed(&with("route", &over, &["--task", "Quadrant", "--task", "Colors", "--fallback", "best", "--keep"]));
    assert_eq!(json(&["inspect", &bundle])["router"]["fallback"], "best");
}

#[test]
fn hidden_features_make_a_router_too() {
    let Some((making, using)) = arguments("bases/ViT-D-8_AE_M4_8task") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("router.safetensors");
    let router = text(&path);
    let some = ["--task", "Colors", "--task", "Inverted", "--task", "Quadrant", "--hidden", "--components", "4"];
    let merged = ["--features", "all@0.3"];
    let made = json(&with("route", &making, &[&some[..], &merged, &["-o", router]].concat()));
    let k = made["components"].as_u64().unwrap();
    // The tower's width is 64.
    assert_eq!(made["bytes_per_task"].as_u64().unwrap(), 4 * (128 + 128 * k + k + 2));
    assert_eq!((&made["kind"], &made["shared_bytes"]), (&"hidden".into(), &(4 * 128 * 129 / 2).into()));
    assert!(made["own"].as_f64().unwrap() > 0.9, "{made}");
    let shown = succeed(&with("route", &making, &[&some[..], &merged, &["-o", router]].concat()));
    assert!(shown.contains("for all, subspaces of"), "{shown}");
    let data = [&making[4..], &using[..]].concat();
    let found = json(&with("eval", &data, &["--task", "auto", "--router", router]));
    assert!(found["mean"]["own"].as_f64().unwrap() > 0.9, "{found}");
    let precise = json(&with("eval", &data, &["--task", "auto", "--router", router, "--precision", "int8"]));
    let apart = precise["mean"]["own"].as_f64().unwrap() - found["mean"]["own"].as_f64().unwrap();
    assert!(apart.abs() < 0.05, "{precise}");
}

#[test]
fn what_makes_no_router_is_an_error() {
    let Some((making, _)) = arguments("bases/ViT-D-8_RandomSample_M4_8task") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("router.safetensors");
    let out = ["-o", text(&path)];
    // A basis of selected tasks has no weights for the others, which are left out; the sum of all it has not either.
    fail(&with("route", &making, &out), &["Parity left out", "--fallback takes other weights, or `none`"]);
    fail(&with("route", &making, &[&["--task", "Mnist"][..], &out].concat()), &["no task", "Did you mean `MNIST`?"]);
    fail(&with("route", &making, &[&["--split", "training"][..], &out].concat()), &["no split `training`; known: "]);
    assert!(!path.exists());
}
