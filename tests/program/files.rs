//! Files as they must not be: spoiled, unreadable, pipes, far too large. Each is an error that names the place.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use taskbasis::mmap::end_on_lost_pages;
use taskbasis::{BaseFormat, Checkpoint, MapMode, Mapping, Method};

use crate::support::bundle::{Family, tiny_files};
use crate::support::program::{fail, fail_times, json, succeed, text};

const PARAMETER: &str = "visual.transformer.resblocks.0.mlp.c_fc.bias";

/// Changes the byte at `at` of the file at `path`.
fn change(path: &Path, at: usize, by: impl Fn(u8) -> u8) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] = by(bytes[at]);
    fs::write(path, bytes).unwrap();
}

/// Copies the base's tensors to safetensors: a form without checksums.
fn as_safetensors(family: &Family, name: &str) -> std::path::PathBuf {
    let path = family.path(name);
    let base = Checkpoint::open(&family.base).unwrap();
    let tensors: Vec<_> = base.iter().map(|(name, t)| (name, t.shape(), t.to_f32().unwrap())).collect();
    let arrays: Vec<_> = tensors.iter().map(|(name, shape, values)| (*name, *shape, &**values)).collect();
    taskbasis::save_arrays(&path, &arrays, &[], &[]).unwrap();
    path
}

#[test]
fn verify_takes_whatever_opens() {
    let family = tiny_files(Method::Autoencoder);
    let tensors = as_safetensors(&family, "base.safetensors");
    let bundle = family.pack("all.taskbasis", "q4", BaseFormat::F32);
    let _graph = family.graph();
    let heads = family.path("heads.safetensors");
    taskbasis::save_arrays(&heads, &[("A/weight", &[2, 4], &[0.5; 8]), ("A/bias", &[2], &[0.0; 2])], &[], &[]).unwrap();
    let several = family.path("several");
    fs::create_dir(&several).unwrap();
    let (first, index) = ("model-00001-of-00002.safetensors", "model.safetensors.index.json");
    taskbasis::save_arrays(&several.join(first), &[("a", &[2], &[1.0, 2.0])], &[], &[]).unwrap();
    let second = several.join("model-00002-of-00002.safetensors");
    taskbasis::save_arrays(&second, &[("b", &[1], &[3.0])], &[], &[]).unwrap();
    let map = serde_json::json!({"weight_map": {"a": first, "b": "model-00002-of-00002.safetensors"}});
    fs::write(several.join(index), map.to_string()).unwrap();
    let adapter = family.path("adapter");
    fs::create_dir(&adapter).unwrap();
    let factor = "base_model.model.visual.transformer.resblocks.0.mlp.c_fc.lora_A.weight";
    let arrays: &[(&str, &[usize], &[f32])] = &[(factor, &[1, 2], &[0.5; 2])];
    taskbasis::save_arrays(&adapter.join("adapter_model.safetensors"), arrays, &[], &[]).unwrap();
    let config = r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["c_fc"]}"#;
    fs::write(adapter.join("adapter_config.json"), config).unwrap();
    for (path, kind, files) in [
        (adapter.as_path(), "checkpoint", 2),
        (family.base.as_path(), "checkpoint", 1),
        (&tensors, "checkpoint", 1),
        (&several.join(index), "checkpoint", 3),
        (&family.basis, "basis", 3),
        (&family.basis.join("basis_vectors.pt"), "basis", 3),
        (&bundle, "bundle", 1),
        (&family.path("graph.onnx"), "graph", 1),
        (&heads, "heads", 1),
    ] {
        let told = json(&["verify", text(path)]);
        assert_eq!((&told["kind"], told["files"].as_array().unwrap().len()), (&kind.into(), files), "{told}");
        assert!(told["ok"] == true && told["tensors"].as_u64().unwrap() > 0 && told["bytes"].as_u64().unwrap() > 0);
        assert!(succeed(&["verify", text(path), "--read"]).starts_with(text(path)));
    }
    let refused = Command::new(env!("CARGO_BIN_EXE_taskbasis"))
        .args(["verify", text(&family.basis), "--base", text(&family.base)])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", String::from_utf8_lossy(&refused.stderr));
    fail(&["verify", "no/such/file"], &["no/such/file", "cannot open"]);
}

#[test]
fn verify_names_what_was_changed() {
    let family = tiny_files(Method::Autoencoder);
    let place = |path: &Path| Checkpoint::open(path).unwrap().require(PARAMETER).unwrap().offset();
    // A number is another one, which a zip archive's checksum tells.
    let at = place(&family.base);
    let whole = fs::read(&family.base).unwrap();
    change(&family.base, at, |byte| byte ^ 1);
    fail(&["verify", text(&family.base)], &["another checksum", &format!("bytes at {at}"), "copy or download"]);
    fs::write(&family.base, whole).unwrap();
    let vectors = family.basis.join("basis_vectors.pt");
    let whole = fs::read(&vectors).unwrap();
    change(&vectors, whole.len() / 2, |byte| byte ^ 1);
    fail(&["verify", text(&family.basis)], &["basis_vectors.pt", "another checksum"]);
    fs::write(&vectors, whole).unwrap();

    // Two numbers that are none: each is told.
    let tensors = as_safetensors(&family, "nan.safetensors");
    let mut bytes = fs::read(&tensors).unwrap();
    for (name, value) in [(PARAMETER, f32::NAN), ("visual.proj", f32::INFINITY)] {
        let at = Checkpoint::open(&tensors).unwrap().require(name).unwrap().offset() + 12;
        bytes[at..][..4].copy_from_slice(&value.to_le_bytes());
    }
    fs::write(&tensors, bytes).unwrap();
    let parts = [PARAMETER, "NaN at element 3", "visual.proj", "inf at element 3", "nan.safetensors"];
    fail_times(2, &["verify", text(&tensors)], &parts);

    let graph = family.graph();
    let path = graph.file().path().to_path_buf();
    let known: Vec<u8> = Checkpoint::open(&family.base).unwrap().require(PARAMETER).unwrap().to_bytes().unwrap().into();
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(known.len()).position(|window| window == known).unwrap();
    bytes[at + 4..][..4].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    // In a graph it may be a mask, which is worth a note.
    let told = json(&["verify", text(&path)]);
    assert!(told["notes"][0].as_str().unwrap().contains("holds −∞"), "{told}");
    bytes[at + 4..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    fail(&["verify", text(&path)], &["graph.onnx", PARAMETER, "NaN at element 1"]);
    // Cut off.
    fs::write(&tensors, &fs::read(&tensors).unwrap()[..1000]).unwrap();
    fail(&["verify", text(&tensors)], &["nan.safetensors", "cut off"]);
}

#[test]
fn small_inputs_are_files_of_a_small_size() {
    let family = tiny_files(Method::Autoencoder);
    let (pipe, large) = (family.path("pipe"), family.path("large.json"));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // No page of it is on the disk.
    File::create(&large).unwrap().set_len(1 << 40).unwrap();
    let _graph = family.graph();
    let (base, basis, graph) = (text(&family.base), text(&family.basis), family.path("graph.onnx"));
    let out = family.path("out");
    let heads = |file| ["heads", "--text-model", base, "--classes", file, "-o", text(&out)];
    let export = |option, file| {
        let mut words = vec!["export", "--basis", basis, "--base", base, "--weights", "base", "-o", text(&out)];
        words.extend([option, file]);
        if option == "--map" {
            words.extend(["--graph", text(&graph)]);
        }
        words
    };
    for (file, parts) in [
        (text(&pipe), &["pipe: not a regular file"][..]),
        (text(&large), &["large.json: too large for", "at most", "got 1099511627776 bytes"]),
    ] {
        fail(&heads(file), parts);
        for option in ["--map", "--config"] {
            fail(&export(option, file), parts);
        }
    }
}

#[test]
fn what_is_read_gives_what_is_mapped() {
    let family = tiny_files(Method::Pca);
    let (base, basis) = (text(&family.base), text(&family.basis));
    let outs = [family.path("mapped"), family.path("read")];
    for (out, read) in outs.iter().zip([&[][..], &["--read"]]) {
        let words = ["reconstruct", "--basis", basis, "--base", base, "--weights", "Task1", "-o", text(out)];
        succeed(&[&words[..], read].concat());
    }
    assert_eq!(fs::read(&outs[0]).unwrap(), fs::read(&outs[1]).unwrap());
}

/// This test alone in another process, which is told `what` to do.
fn alone(test: &str, what: &str) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env("TASKBASIS_TEST_LOST_PAGES", what).output().unwrap()
}

/// A page that is gone is an error of the program, and its end with status 1; for a library it stays a signal.
#[test]
fn a_lost_page_is_an_error_that_names_file_and_byte() {
    const TEST: &str = "files::a_lost_page_is_an_error_that_names_file_and_byte";
    if let Ok(what) = std::env::var("TASKBASIS_TEST_LOST_PAGES") {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lost.bin");
        fs::write(&path, vec![1; 1 << 20]).unwrap();
        if what == "guarded" {
            end_on_lost_pages(|| eprintln!("cleaned up")).unwrap();
        }
        // One that is gone again, and one that stays whole.
        drop(Mapping::open(&path, MapMode::Map).unwrap());
        let (mapping, kept) =
            (Mapping::open(&path, MapMode::Map).unwrap(), Mapping::open(&path, MapMode::Read).unwrap());
        File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
        let error = mapping.read_at(0..9000).unwrap_err().to_string();
        assert!(error.contains("lost.bin: became shorter") && error.contains("got 4096"), "{error}");
        assert_eq!((kept[999_999], mapping[4095]), (1, 1));
        std::hint::black_box(mapping[700_000]);
        unreachable!("the page is gone");
    }
    let output = alone(TEST, "guarded");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("lost.bin: a mapped file could not be read") && said.contains("at byte 700000."), "{said}");
    assert!(said.contains("cleaned up") && !said.contains("panicked"), "{said}");
    assert_eq!(alone(TEST, "alone").status.signal(), Some(7), "a library's host decides");
}
