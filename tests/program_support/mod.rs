//! Running the program, as a user does.
#![allow(dead_code, unreachable_pub)] // Every test program uses a part.

use std::process::{Command, Output};

use serde_json::Value;

pub fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_taskbasis")).args(arguments).output().unwrap()
}

/// What a command that has to succeed prints with `--json`.
#[track_caller]
pub fn json(arguments: &[&str]) -> Value {
    let output = run(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
