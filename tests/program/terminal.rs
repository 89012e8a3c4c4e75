//! What the program says, where names would act on a terminal, and where there is no one to say it to.

use std::path::Path;
use std::process::Output;

use crate::support::digits;
use crate::support::program::{json, run, text};
use serde_json::Value;

/// It sets the window's title, clears the screen in both forms, goes on a new line and reads from right to left.
const HOSTILE: &str = "\x1b]0;owned\x07\x1b[2J\u{9b}2J\nerror: \u{202e}evil";
const SHOWN: &str = r"\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}2J\nerror: \u{202e}evil";

#[track_caller]
fn is_harmless(output: &Output, part: &str) {
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains(part), "`{part}` is not in: {said}");
    assert!(!said.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}'), "{said:?}");
    assert!(!said.contains("\nerror: \u{202e}") && !said.contains("\nerror: \\u{202e}"), "{said:?}");
}

/// A copy of a basis whose first task has the hostile name.
fn basis(folder: &Path) {
    let published = digits("bases/ViT-D-8_AE_M4_8task").unwrap();
    for entry in std::fs::read_dir(published).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let info = folder.join("method_info.json");
    let mut value: Value = serde_json::from_slice(&std::fs::read(&info).unwrap()).unwrap();
    value["datasets"][0] = HOSTILE.into();
    std::fs::write(info, value.to_string()).unwrap();
}

#[test]
fn names_of_files_do_not_act_on_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    basis(folder.path());
    let path = text(folder.path());
    is_harmless(&run(&["inspect", path]), SHOWN);
    // To a program the name is told as it is.
    assert_eq!(json(&["inspect", path])["tasks"][0], HOSTILE);
    let base = digits("base/pickled_module.pt").unwrap();
    let beside = tempfile::tempdir().unwrap();
    let out = beside.path().join("out");
    let model = ["--basis", path, "--base", text(&base)];
    let quoted = format!("\"{HOSTILE}\"");
    is_harmless(&run(&[&["reconstruct", "--weights", &quoted, "-o", text(&out)], &model[..]].concat()), SHOWN);
    let wrong = format!("\"{}\"", HOSTILE.replace("evil", "evip"));
    is_harmless(&run(&[&["reconstruct", "--weights", &wrong, "-o", text(&out)], &model[..]].concat()), "Did you mean");

    let file = folder.path().join("\x1b[2Jx.safetensors");
    taskbasis::save_arrays(&file, &[(HOSTILE, &[1], &[1.0])], &[], &[]).unwrap();
    is_harmless(&run(&["inspect", text(&file)]), SHOWN);
    std::fs::write(&file, "{}").unwrap();
    is_harmless(&run(&["inspect", text(&file)]), r"\u{1b}[2Jx.safetensors");
}

/// The program with its output turned as a shell's `redirection` says.
#[cfg(unix)]
fn turned(redirection: &str, arguments: &[&str]) -> Output {
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &format!("\"$@\" {redirection}"), "sh", env!("CARGO_BIN_EXE_taskbasis")]);
    shell.args(arguments).output().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn where_nobody_listens_the_work_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let files = ["bases/ViT-D-8_AE_M4_8task", "base/pickled_module.pt"].map(|path| digits(path).unwrap());
    let model = ["--basis", text(&files[0]), "--base", text(&files[1]), "--weights", "MNIST", "-o", text(&out)];
    let works = [&["reconstruct", "--progress"], &model[..]].concat();
    let fails = ["inspect", "/nonexistent"];
    for silence in ["2>/dev/full", "2>&-", "2>/dev/full >/dev/null"] {
        assert!(turned(silence, &works).status.success(), "{silence}");
        assert!(std::fs::read(&out).is_ok_and(|written| written.len() > 100_000), "{silence}");
        std::fs::remove_file(&out).unwrap();
        assert_eq!(turned(silence, &fails).status.code(), Some(1), "{silence}");
    }
    // A reader that goes away is no error, one that has no room is.
    for asked in [&["inspect", text(&files[0])][..], &["--help"], &["inspect", "--json", text(&files[0])]] {
        let closed = turned("| true", asked);
        assert!(closed.status.success() && closed.stderr.is_empty(), "{asked:?}: {closed:?}");
        let full = turned(">/dev/full", asked);
        let said = String::from_utf8(full.stderr).unwrap();
        assert_eq!(full.status.code(), Some(1), "{asked:?}: {said}");
        assert!(said.starts_with("error: standard output: cannot write") && said.lines().count() == 1, "{said}");
    }
}
