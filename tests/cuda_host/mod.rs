//! The GPU's kernels as plain C++: compiling them for this machine.
#![allow(unreachable_pub)] // Programs and the library include it.

use std::path::Path;
use std::process::Command;

/// Compiles a source of this folder into a shared library. `false`, said aloud, where there is no C++ compiler.
pub fn compile(source: &str, library: &Path) -> bool {
    let named = std::env::var_os("CXX").filter(|name| !name.is_empty());
    let names = named.into_iter().chain(["c++", "g++", "clang++"].map(Into::into));
    let Some(compiler) = names.into_iter().find(|name| Command::new(name).arg("--version").output().is_ok()) else {
        crate::need::skip(crate::need::Need::Cc, "there is no C++ compiler to compile the kernels with");
        return false;
    };
    let root = crate::need::root();
    let output = Command::new(&compiler)
        .args(["-std=c++17", "-O2", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Werror"])
        // As --fmad=false on the device: every rounding is one that the source names.
        .args(["-ffp-contract=off", "-shared", "-fPIC"])
        .args([Path::new("-I"), &root.join("src/kernel/cuda"), Path::new("-o"), library])
        .arg(root.join("tests/cuda_host").join(source))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    true
}
