//! The support of all tests. This file: the digits family, random numbers, measures of difference, a process of one's
//! own; the others: what tests need of the machine, families and graphs and servers made on the fly, the program, the C
//! ABI.
#![allow(dead_code, unused_imports, unreachable_pub)] // Each test program uses a part.

#[cfg(feature = "build")]
pub mod build;
pub mod bundle;
pub mod c;
pub mod capi;
#[cfg(feature = "images")]
pub mod data;
pub mod family;
pub mod forms;
#[cfg(feature = "cli")]
pub mod hub;
pub mod naive;
pub mod need;
pub mod onnx;
/// A plain session on an .onnx file.
#[path = "../../bench/src/onnx_file.rs"]
pub mod onnx_file;
pub mod other;
#[cfg(feature = "cli")]
pub mod program;
/// Families of any size with random weights.
#[path = "../../bench/src/synthetic.rs"]
pub mod synthetic;
pub mod tensors;
pub mod text;

use std::process::Command;

pub use need::{Need, digits, onnxruntime, runtime, skip, whole_digits};

/// ‖a − b‖ / ‖b‖.
pub fn relative_l2(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "lengths differ");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    difference / norm(&mut b.iter().map(|b| f64::from(*b))).max(f64::MIN_POSITIVE)
}

/// The bits, for comparisons that allow no difference at all.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// xorshift64*: enough for test data, and equal on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.max(1);
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number in 0..`limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.bits() >> 16) as usize % limit
    }

    /// A number in -1..1.
    pub fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn many(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.uniform()).collect()
    }
}

/// Runs `body` in a process that no other test shares: this program again, for the test of this name (its path in the
/// program) alone. For what belongs to a process: its memory, its descriptors, its callbacks.
#[track_caller]
pub fn in_a_process_of_its_own(test: &str, body: impl FnOnce()) {
    const TEST: &str = "TASKBASIS_TEST_ALONE";
    if std::env::var(TEST).is_ok_and(|alone| alone == test) {
        return body();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", test, "--nocapture"]).env(TEST, test).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    print!("{text}");
    assert!(output.status.success() && text.contains("1 passed"), "{test}: {text}");
}
