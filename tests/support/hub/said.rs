//! Messages of programs, and the hashes that the Hub goes by.

use std::process::Output;

use sha1::Sha1;
use sha2::{Digest, Sha256};

#[track_caller]
pub fn stdout(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end_matches('\n').to_owned()
}

#[track_caller]
pub fn complaint(output: Output) -> String {
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(output.stdout.is_empty());
    let last = stderr.lines().last().unwrap().to_owned();
    assert!(last.starts_with("error: "), "{stderr}");
    last
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The hash that `git hash-object` says.
pub fn git_sha1(bytes: &[u8]) -> String {
    hex(&Sha1::digest([format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat()))
}
