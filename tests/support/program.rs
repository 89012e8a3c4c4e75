//! Running the program, as a user does.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

pub fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_taskbasis")).args(arguments).output().unwrap()
}

/// The output of a command that has to succeed.
#[track_caller]
pub fn succeed(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The output of a command with `--json`.
#[track_caller]
pub fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&succeed(&[arguments, &["--json"]].concat())).unwrap()
}

/// Fails without output and with one paragraph that holds all of `parts`.
#[track_caller]
pub fn fail(arguments: &[&str], parts: &[&str]) {
    fail_times(1, arguments, parts);
}

/// Runs a command that fails with this many paragraphs: `verify` tells all that it finds.
#[track_caller]
pub fn fail_times(count: usize, arguments: &[&str], parts: &[&str]) {
    let output = run(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{text}");
    assert_eq!(text.trim_end().lines().filter(|line| line.starts_with("error: ")).count(), count, "{text}");
    // What was assumed of a tower is told before.
    assert_eq!(text.trim_end().lines().filter(|line| !line.starts_with("note: ")).count(), count, "{text}");
    parts.iter().for_each(|part| assert!(text.contains(part), "`{part}` is not in: {text}"));
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
