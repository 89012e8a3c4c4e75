//! `taskbasis bench` starts another program, which lies beside this one. What that measures: `bench/tests`.
#![cfg(all(feature = "cli", unix))]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

fn run(program: &Path, arguments: &[&str]) -> Output {
    loop {
        match Command::new(program).args(arguments).output() {
            // A program that another test has started meanwhile holds what was just written here, for a moment.
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
            output => return output.unwrap(),
        }
    }
}

#[test]
fn it_hands_its_arguments_to_the_program_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let (program, other) = (folder.path().join("taskbasis"), folder.path().join("taskbasis-bench"));
    fs::copy(env!("CARGO_BIN_EXE_taskbasis"), &program).unwrap();
    let missing = run(&program, &["bench", "--quick"]);
    let said = String::from_utf8(missing.stderr).unwrap();
    assert_eq!((missing.status.code(), missing.stdout.len()), (Some(1), 0), "{said}");
    assert!(said.contains("taskbasis-bench") && said.contains("make install"), "{said}");

    fs::write(&other, "#!/bin/sh\nfor argument; do echo \"<$argument>\"; done\nexit 7\n").unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).unwrap();
    for (arguments, handed_over) in [
        (&["bench"][..], ""),
        (
            &["bench", "--quick", "--only", "open,encode", "--report", "a b.html"],
            "<--quick><--only><open,encode><--report><a b.html>",
        ),
        (&["bench", "--help"], "<--help>"),
        (&["--json", "--prefix", "ema", "bench", "--quick"], "<--json><--prefix><ema><--quick>"),
        (&["bench", "--json", "--quick", "--progress"], "<--json><--quick><--progress>"),
        (&["--json", "bench", "--quick", "--json"], "<--quick><--json>"),
    ] {
        let output = run(&program, arguments);
        assert_eq!(output.status.code(), Some(7), "{arguments:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap().replace('\n', ""), handed_over, "{arguments:?}");
    }
}
