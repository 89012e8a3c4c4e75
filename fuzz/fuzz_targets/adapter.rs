//! Structured: `fuzz/src/structured.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|choices: &[u8]| taskbasis_fuzz::structured::run("adapter", choices));
