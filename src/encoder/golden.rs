//! The golden embedding: what the encoder of a bundle gives for one built-in image with the base's weights, as the
//! machine that packed the bundle computed it. Another machine that gives something else has a wrong build, kernel or
//! graph, or another base than the bundle says.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::mmap::{Identity, Mapping};
use crate::weights::Model;

/// The agreement of an embedding with the golden one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// The relative difference, ‖e − golden‖ / ‖golden‖.
    pub relative: f64,
    /// The cosine of the angle between them.
    pub cosine: f64,
}

/// The embedding that an encoder has to be compared with.
pub(crate) struct Golden {
    pub(super) expected: Vec<f32>,
    /// The encoder does not keep its first model alive.
    pub(super) model: Weak<Model>,
    /// The bundle's file.
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    /// What has been compared is remembered as long as it lives.
    pub(super) file: Weak<Mapping>,
    /// Whether the base is the unrounded one of what the bundle holds.
    pub(super) is_unrounded: bool,
    pub(super) has_passed: AtomicBool,
    /// Held during the test, so that other runs wait for it.
    pub(super) turn: Mutex<()>,
}

impl Golden {
    /// The golden embedding of `bundle`, for the base of `model`, which is the unrounded one of what the
    /// bundle holds or not.
    pub(crate) fn new(expected: &[f32], model: &Arc<Model>, bundle: &Arc<Mapping>, is_unrounded: bool) -> Self {
        let (path, identity, file) = (bundle.path().to_path_buf(), bundle.identity(), Arc::downgrade(bundle));
        let (model, has_passed, turn) = (Arc::downgrade(model), AtomicBool::new(false), Mutex::new(()));
        Self { expected: expected.to_vec(), model, path, identity, file, is_unrounded, has_passed, turn }
    }
}

/// The built-in image, preprocessed, `[3, S, S]`: in channel c, row y and column x
/// `((x² + 3·y² + 5·x·y + 64·c) mod 256) / 64 − 2`, exact in f32, smooth at one corner and rough at the other.
pub(crate) fn pattern(size: usize) -> Vec<f32> {
    let value = |c: usize, y: usize, x: usize| ((x * x + 3 * y * y + 5 * x * y + 64 * c) % 256) as f32 / 64.0 - 2.0;
    let rows = (0..3).flat_map(|c| (0..size).map(move |y| (c, y)));
    rows.flat_map(|(c, y)| (0..size).map(move |x| value(c, y, x))).collect()
}

impl Agreement {
    /// The agreement of two embeddings of one length.
    pub(super) fn of(got: &[f32], golden: &[f32]) -> Self {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let distance = got.iter().zip(golden).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>();
        let norm = dot(golden, golden).sqrt().max(f64::MIN_POSITIVE);
        let cosine = dot(got, golden) / (dot(got, got).sqrt().max(f64::MIN_POSITIVE) * norm);
        Self { relative: distance.sqrt() / norm, cosine }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_is_the_one_of_the_format() {
        let pixels = pattern(4);
        assert_eq!(pixels.len(), 48);
        assert_eq!(pixels[..4], [-2.0, -1.984375, -1.9375, -1.859375]);
        // c = 2, y = 3, x = 1: 1 + 27 + 15 + 128 = 171.
        assert_eq!(pixels[2 * 16 + 3 * 4 + 1], 171.0 / 64.0 - 2.0);
        assert!(pattern(224).iter().all(|value| (-2.0..2.0).contains(value)));
    }

    #[test]
    fn agreement_is_distance_and_angle() {
        let same = Agreement::of(&[3.0, 4.0], &[3.0, 4.0]);
        assert!(same.relative == 0.0 && (same.cosine - 1.0).abs() < 1e-12);
        let twice = Agreement::of(&[6.0, 8.0], &[3.0, 4.0]);
        assert!((twice.relative - 1.0).abs() < 1e-12 && (twice.cosine - 1.0).abs() < 1e-12);
        let across = Agreement::of(&[-4.0, 3.0], &[3.0, 4.0]);
        assert!(across.cosine.abs() < 1e-12);
        assert!(Agreement::of(&[0.0, 0.0], &[3.0, 4.0]).cosine == 0.0);
    }
}
