//! Options that could have no effect, with what else is given, are refused as clap refuses, before anything is
//! measured.

use std::process::Command;

fn command(words: &str) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_taskbasis-bench")).args(words.split(' ')).output().unwrap();
    assert!(output.stdout.is_empty());
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[track_caller]
fn refused(words: &str, parts: &[&str]) {
    let (code, text) = command(words);
    assert_eq!(code, Some(2), "{words}: {text}");
    assert!(text.starts_with("error: ") && text.contains("Usage: taskbasis bench"), "{words}: {text}");
    parts.iter().for_each(|part| assert!(text.contains(part), "{words}: `{part}` is not in: {text}"));
}

#[track_caller]
fn understood(words: &str) {
    let (code, text) = command(words);
    assert_eq!(code, Some(1), "{words}: {text}");
}

#[test]
fn what_is_not_measured_needs_no_options() {
    let unheard =
        ["--synthetic ViT-L-14", "--tasks 3", "--vectors 2", "--formats q8", "--only open", "--batch 8", "--device 0"];
    for option in unheard {
        let name = option.split(' ').next().unwrap();
        refused(&format!("--growth {option}"), &[name, "'--growth'"]);
    }
    for option in ["--only open", "--batch 8", "--quick", "--built-graph", "--peers python3"] {
        let name = option.split(' ').next().unwrap();
        refused(&format!("--soak 1 {option}"), &[name, "'--soak'"]);
    }
    for option in ["--only open", "--batch 8", "--built-graph", "--peers python3", "--onnxruntime no/library.so"] {
        let name = option.split(' ').next().unwrap();
        refused(&format!("--tune {option}"), &[name, "'--tune'"]);
    }
    refused("--tune --growth", &["--tune", "--growth"]);
    refused("--only open,encode --formats q8", &["--formats", "reconstruct, switch, storage, device", "'--only'"]);
    refused("--only open,switch --peers python3", &["--peers", "encode", "'--only'"]);
    refused("--growth --peers python3", &["--peers", "'--growth'"]);
    refused("--only open,reconstruct --batch 8", &["--batch", "encode, device"]);
    refused("--only device --provider cuda --optimise-graph", &["--optimise-graph", "encode"]);
    refused("--only open --graph no/graph.onnx --batch 8", &["--graph", "encode"]);
    refused("--only reconstruct,storage --onnxruntime no/library.so", &["--onnxruntime", "'--only'"]);
    for option in ["--device-budget 100", "--cuda-graphs", "--tensorrt-cache no/cache", "--self-test on"] {
        refused(option, &[option.split(' ').next().unwrap()]);
    }
    let (code, text) = command("--threads 4097");
    assert!(code == Some(2) && text.contains("4097 is not in 0..="), "{text}");
    refused("--basis no/basis --keep-files no/folder", &["--keep-files", "--basis"]);
    understood("--basis no/basis --only storage --formats q8");
    understood("--basis no/basis --only encode --batch 8 --onnxruntime no/library.so");
}

/// Nothing is read before it is refused.
#[test]
fn a_report_is_never_written_over_what_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| {
        std::fs::write(folder.path().join(name), "precious").unwrap();
        folder.path().join(name).to_str().unwrap().to_owned()
    };
    let (x, base) = (path("x"), path("base"));
    for words in [format!("--graph {x} --report {x}"), format!("--graph {base} --map {x} --report {x}")] {
        let (code, text) = command(&words);
        assert!(code == Some(1) && text.contains("would overwrite ") && text.contains(" input "), "{words}: {text}");
    }
    assert!([&x, &base].iter().all(|file| std::fs::read(file).unwrap() == b"precious"));
}
