//! What the tests share: the digits family, and measures of difference.
#![allow(dead_code, unreachable_pub)] // Every test program uses a part.

use std::path::{Path, PathBuf};

/// Where a file (or folder) of the digits family is: the part of it in `examples/digits`, or the whole in
/// `../shared/digits` where somebody put it. `None`, said aloud, where neither has it.
pub fn digits(relative: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = ["examples/digits", "../shared/digits"].map(|family| root.join(family).join(relative));
    let found = found.into_iter().find(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: {relative} is not part of examples/digits, and there is no ../shared/digits");
    }
    found
}

/// As [`digits`], the whole family before its part: for files that the part abridges.
pub fn whole_digits(relative: &str) -> Option<PathBuf> {
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/digits").join(relative);
    if whole.exists() { Some(whole) } else { digits(relative) }
}

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
