//! Folders of images and labelled data, as the program reads them: what is left out is named.
#![cfg(feature = "cli")]

use std::path::Path;

use crate::support::data::{grey, idx, png, write};
use crate::support::digits;
use crate::support::program::{fail, json, run, succeed, text};
use taskbasis::Checkpoint;

/// The digits family's base, heads and class names.
fn family() -> Option<[String; 3]> {
    let paths = ["base/pickled_module.pt", "heads.safetensors", "classes.json"].map(digits);
    paths.iter().all(Option::is_some).then(|| paths.map(|path| text(&path.unwrap()).to_owned()))
}

/// A folder of images as people have it.
fn photos(root: &Path) {
    grey(root.join("b.png"), 100);
    grey(root.join("a.png"), 50);
    grey(root.join("more/c.png"), 150);
    write(root.join("._a.png"), "AppleDouble");
    write(root.join(".DS_Store"), "");
    write(root.join("Thumbs.db"), "");
    write(root.join("notes.txt"), "");
}

/// Stderr of a command that has to succeed, and of what it writes the number of embeddings.
#[track_caller]
fn told(arguments: &[&str]) -> String {
    let output = run(arguments);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{told}");
    told
}

fn embeds(path: &str) -> usize {
    Checkpoint::open(path).unwrap().require("embeds").unwrap().shape()[0]
}

#[test]
fn a_folder_with_one_bad_file() {
    let Some([base, heads, classes]) = family() else { return };
    let folder = tempfile::tempdir().unwrap();
    let photos_path = folder.path().join("photos");
    photos(&photos_path);
    let (input, out) = (text(&photos_path), folder.path().join("e.safetensors"));
    let out = text(&out);
    let embed = ["embed", "--base", &base, "--weights", "base", "-o", out, "--input", input];

    let said = told(&embed);
    for part in ["1 hidden file passed over: ._a.png", "1 image in subfolders not read: --recursive", "1 of 3 files"] {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
    assert_eq!(embeds(out), 2);
    let info = json(&[&embed[..], &["--recursive"]].concat());
    assert_eq!((info["images"].as_u64(), embeds(out)), (Some(3), 3));
    assert!(
        info["files"][2].as_str().unwrap().ends_with("more/c.png") && info["skipped"].as_array().unwrap().is_empty()
    );

    write(photos_path.join("aa.png"), "no image");
    for batch in ["1", "2", "32"] {
        let info = json(&[&embed[..], &["--batch", batch]].concat());
        assert_eq!((info["images"].as_u64(), embeds(out)), (Some(2), 2));
        assert!(info["files"][1].as_str().unwrap().ends_with("b.png"), "{info}");
        let skipped = &info["skipped"][0];
        assert!(skipped["file"].as_str().unwrap().ends_with("aa.png"), "{info}");
        assert!(skipped["error"].as_str().unwrap().contains("aa.png: "), "{info}");
    }
    let said = told(&embed);
    assert!(said.contains("left out: ") && said.contains("aa.png") && said.contains("1 image left out"), "{said}");
    // One that is named itself is wanted.
    let named = text(&photos_path.join("aa.png")).to_owned();
    let named = [&embed[..], &[&named]].concat();
    fail(&named, &["aa.png: ", "--skip-bad"]);
    let info = json(&[&named[..], &["--skip-bad"]].concat());
    assert_eq!((info["images"].as_u64(), info["skipped"].as_array().unwrap().len()), (Some(2), 1));

    let classify = ["classify", "--base", &base, "--weights", "base", "--heads", &heads, "--classes", &classes];
    let classify = [&classify[..], &["--task", "MNIST", input]].concat();
    let info = json(&classify);
    assert_eq!((info["images"].as_array().unwrap().len(), info["skipped"].as_array().unwrap().len()), (2, 1));
    assert!(info["images"][1]["image"].as_str().unwrap().ends_with("b.png"), "{info}");

    let bad = folder.path().join("bad");
    write(bad.join("x.png"), "no image");
    let none = [&embed[..7], &["--input", text(&bad)]].concat();
    fail(&none, &["none of 1 images could be read", "x.png"]);
    let deeper = folder.path().join("deeper");
    grey(deeper.join("in/a.png"), 0);
    fail(&[&embed[..7], &["--input", text(&deeper)]].concat(), &["1 image in its subfolders: --recursive"]);
    fail(
        &[&embed[..7], &["--recursive", "--input", text(&bad.join("x.png"))]].concat(),
        &["--recursive is for folders"],
    );
}

#[test]
fn bad_images_of_a_class_are_named_and_not_counted() {
    let Some([base, heads, classes]) = family() else { return };
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    for digit in 0..10u8 {
        for image in 0..2u8 {
            let pixels: Vec<u8> = (0..=255).map(|i: u8| i.wrapping_mul(digit + 1) ^ image).collect();
            png(data.join(format!("test/{digit}/{image}.png")), 16, 16, &pixels);
            png(data.join(format!("val/{digit}/{image}.png")), 16, 16, &pixels);
        }
    }
    let data_argument = format!("MNIST={}", text(&data));
    let eval = ["eval", "--base", &base, "--heads", &heads, "--classes", &classes, "--batch", "3"];
    let eval = [&eval[..], &["--weights", "base", "--data", &data_argument]].concat();
    let whole = json(&eval);
    assert_eq!(whole["tasks"]["MNIST"]["images"], 20);

    let bad = data.join("test/3/bad.png");
    write(&bad, "no image");
    fail(&eval, &["bad.png", "--skip-bad"]);
    let skipped = json(&[&eval[..], &["--skip-bad"]].concat());
    assert_eq!(skipped["tasks"], whole["tasks"], "the others count, each with its own label");
    assert_eq!(skipped["skipped_images"][0]["file"], text(&bad));
    let said = told(&[&eval[..], &["--skip-bad"]].concat());
    assert!(said.contains("bad.png") && said.contains("1 image left out"), "{said}");
    // Batches that are kept from one λ to the next lack it too.
    let Some(basis) = digits("bases/ViT-D-8_AE_M4_8task") else { return };
    let sweep = ["--basis", text(&basis), "--sweep", "0:1:3", "--weights", "MNIST", "--skip-bad"];
    let eval: Vec<&str> = eval.iter().copied().filter(|argument| !["--weights", "base"].contains(argument)).collect();
    let swept = json(&[&eval[..], &sweep].concat());
    let half = &swept["val"]["0.5"]["MNISTVal:top1"];
    assert!((half.as_f64().unwrap() * 20.0).fract().abs() < 1e-9, "of 20 images: {swept}");
    assert_eq!(swept["skipped_images"].as_array().unwrap().len(), 1);
}

#[test]
fn the_program_names_what_it_cannot_match() {
    let Some([base, heads, classes]) = family() else { return };
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for (i, digit) in
        ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"].iter().enumerate()
    {
        grey(root.join("words/test").join(digit).join("a.png"), i as u8);
    }
    let eval = ["eval", "--base", &base, "--weights", "base", "--heads", &heads];
    let named = [&eval[..], &["--classes", &classes]].concat();
    let words = format!("MNIST={}", text(&root.join("words")));
    fail(&[&named[..], &["--data", &words]].concat(), &["words/test", "`acht`", "--alphabetical", "--classes"]);
    let said = told(&[&named[..], &["--data", &words, "--alphabetical"]].concat());
    assert!(said.contains("in the order of the alphabet, in which `acht` is"), "{said}");

    for set in ["digits", "mnist"] {
        write(root.join(format!("raw/emnist-{set}-test-images-idx3-ubyte")), idx(&[1, 2, 2], &[0; 4]));
        write(root.join(format!("raw/emnist-{set}-test-labels-idx1-ubyte")), idx(&[1], &[0]));
    }
    let raw = format!("MNIST={}", text(&root.join("raw")));
    let raw_digits = format!("{raw}:digits");
    succeed(&[&eval[..], &["--data", &raw_digits]].concat());
    fail(&[&eval[..], &["--data", &format!("{raw}:letters")]].concat(), &["`letters`", "emnist-digits, emnist-mnist"]);
    fail(
        &[&eval[..], &["--data", &raw.replace("MNIST=", "SVHN=")]].concat(),
        &["emnist-digits, emnist-mnist", ":digits"],
    );
}
