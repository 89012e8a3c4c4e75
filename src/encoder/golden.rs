//! The golden embedding: what the encoder of a bundle gives for one built-in image with the base's weights, as the
//! machine that packed the bundle computed it. Another machine that gives something else has a wrong build, kernel or
//! graph, or another base than the bundle says.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::provider::Provider;
use super::{Encoder, EncoderOptions};
use crate::bundle::Bundle;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::mmap::Identity;
use crate::tensor::{DType, try_zeroed};
use crate::weights::{Model, ModelOptions, ReconstructOptions, Weights};

/// The largest distance of embeddings computed in f32, as a share of their length. Machines differ by some 1e-6.
const MAX_RELATIVE: f64 = 1e-4;
/// The least cosine of embeddings that anything rounder computes: half floats, TF32, weights that one side has rounded.
const MIN_COSINE: f64 = 0.999;

/// Whether the first run of an encoder over a bundle that has a golden embedding is preceded by one that compares it.
///
/// The test runs one image with the base's weights, which it makes for that and drops again, once for each bundle,
/// provider and graph in a process. Of a ViT-B-32 that takes about as long as a reconstruction and an image more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SelfTest {
    /// Where the memory for the base's weights is not worth a thought: the bundle holds them as f32, which are read
    /// where they are, or the budget of the model's cache has room for them beside those of a task.
    #[default]
    Auto,
    /// Whatever memory it takes.
    On,
    /// Never.
    Off,
}

/// How an embedding compares with the golden one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// ‖e − golden‖ / ‖golden‖.
    pub relative: f64,
    /// The cosine of the angle between them.
    pub cosine: f64,
}

/// What an encoder has to be compared with.
pub(super) struct Golden {
    expected: Vec<f32>,
    /// The encoder does not keep its first model alive.
    model: Weak<Model>,
    bundle: PathBuf,
    key: Key,
    /// Whether the base is the unrounded one of what the bundle holds.
    is_unrounded: bool,
    has_passed: AtomicBool,
    /// Held during the test, so that other runs wait for it.
    turn: Mutex<()>,
}

/// File, provider, whether it is the graph that the bundle carries.
type Key = (Identity, &'static str, bool);

/// What has been compared in this process.
static PASSED: Mutex<Option<HashSet<Key>>> = Mutex::new(None);

/// The built-in image, preprocessed, `[3, S, S]`: in channel c, row y and column x
/// `((x² + 3·y² + 5·x·y + 64·c) mod 256) / 64 − 2`, exact in f32, smooth at one corner and rough at the other.
pub(crate) fn pattern(size: usize) -> Vec<f32> {
    let value = |c: usize, y: usize, x: usize| ((x * x + 3 * y * y + 5 * x * y + 64 * c) % 256) as f32 / 64.0 - 2.0;
    let rows = (0..3).flat_map(|c| (0..size).map(move |y| (c, y)));
    rows.flat_map(|(c, y)| (0..size).map(move |x| value(c, y, x))).collect()
}

impl Agreement {
    /// Of two embeddings of one length.
    fn of(got: &[f32], golden: &[f32]) -> Self {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let distance = got.iter().zip(golden).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>();
        let norm = dot(golden, golden).sqrt().max(f64::MIN_POSITIVE);
        let cosine = dot(got, golden) / (dot(got, got).sqrt().max(f64::MIN_POSITIVE) * norm);
        Self { relative: distance.sqrt() / norm, cosine }
    }
}

impl Encoder {
    /// The embedding `[e]` of the built-in image with the weights of `base`, past any cache.
    ///
    /// # Errors
    /// As [`Encoder::encode`] and [`Weights::of_base`].
    pub fn golden_embedding(&self, base: &Checkpoint) -> Result<Vec<f32>> {
        let pixels = pattern(self.arch.image_size());
        let how = ReconstructOptions { threads: self.threads_a_run, ..ReconstructOptions::default() };
        let (weights, mut converted) = (Weights::of_base(base, &how)?, None);
        let inputs = self.signature.inputs(&weights, &mut converted)?;
        let mut embeds = try_zeroed(self.arch.embed_dim)?;
        self.run_inputs(&inputs, &pixels, 1, &mut embeds)?;
        self.check_finite(&embeds, &pixels, || Ok(super::finite::of_inputs(&inputs)))?;
        Ok(embeds)
    }

    /// This encoder, whose first run is preceded by the test that [`SelfTest`] tells of, where `bundle` has a golden
    /// embedding for what the encoder runs. `model` is the bundle's.
    #[must_use]
    pub fn tested_by(mut self, bundle: &Bundle, model: &Arc<Model>) -> Self {
        let is_its = match self.graph() {
            Some(graph) => graph.is_embedded() && bundle.graph_map().is_some(),
            None => bundle.graph_map().is_none() && self.arch == *bundle.arch(),
        };
        let expected = bundle.golden().filter(|golden| is_its && golden.len() == self.arch.embed_dim);
        let is_wanted = match self.self_test {
            SelfTest::Off => false,
            SelfTest::On => true,
            SelfTest::Auto => {
                let tower = self.arch.parameter_count() * size_of::<f32>();
                let is_there = model.base().image_tower().all(|(_, tensor)| tensor.as_f32().is_some());
                is_there || tower.saturating_mul(2) <= model.cache().stats().budget
            }
        };
        self.golden = expected.filter(|_| is_wanted).map(|expected| Golden {
            expected: expected.to_vec(),
            model: Arc::downgrade(model),
            bundle: bundle.path().to_path_buf(),
            key: (bundle.identity(), self.execution.provider.name(), self.graph().is_some()),
            is_unrounded: bundle.is_rounder_than(model.base()),
            has_passed: AtomicBool::new(false),
            turn: Mutex::new(()),
        });
        self
    }

    /// Compares with the golden embedding before the first run, unless that has been done.
    pub(super) fn test_once(&self) -> Result<()> {
        let Some(golden) = self.golden.as_ref().filter(|golden| !golden.has_passed.load(Ordering::Acquire)) else {
            return Ok(());
        };
        let _turn = golden.turn.lock();
        let is_known = passed(|passed| passed.contains(&golden.key));
        // Without its model there is nothing to compare with, and other weights are run.
        if let Some(model) = golden.model.upgrade().filter(|_| !is_known) {
            let agreement = self.compare(model.base(), golden.is_unrounded, &golden.expected);
            let agreement = agreement.map_err(|e| e.at(&golden.bundle))?;
            tracing::debug!(?agreement, bundle = %golden.bundle.display(), "the golden embedding");
            passed(|passed| passed.insert(golden.key));
        }
        golden.has_passed.store(true, Ordering::Release);
        Ok(())
    }

    /// With the weights of `base`; `is_unrounded` where the golden embedding is of rounded ones.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] where the embedding is another one.
    fn compare(&self, base: &Checkpoint, is_unrounded: bool, golden: &[f32]) -> Result<Agreement> {
        let got = self.golden_embedding(base)?;
        let agreement = Agreement::of(&got, golden);
        let Agreement { relative, cosine } = agreement;
        let is_exact = self.computes_in_f32() && !is_unrounded;
        let is_fine = if is_exact { relative <= MAX_RELATIVE } else { cosine >= MIN_COSINE };
        if is_fine {
            return Ok(agreement);
        }
        let error = Error::new(ErrorKind::Mismatch, "this machine's encoder does not give the golden embedding");
        let error = match is_exact {
            true => error.expected(format_args!("a distance of at most {MAX_RELATIVE:e} of its length")),
            false => error.expected(format_args!("a cosine of at least {MIN_COSINE}")),
        };
        Err(error.got(format_args!("{relative:.2e} of its length, a cosine of {cosine:.6}")).hint(
            "Is this build, ONNX Runtime, provider or graph at fault? TASKBASIS_KERNEL=scalar tells kernels apart",
        ))
    }

    /// Whether nothing that it computes with is rounder than f32.
    fn computes_in_f32(&self) -> bool {
        let signature = &self.signature;
        self.execution.provider == Provider::Cpu
            && [signature.pixels_dtype, signature.embeds_dtype] == [DType::F32; 2]
            && signature.layout().is_f32()
    }
}

fn passed<T>(look: impl FnOnce(&mut HashSet<Key>) -> T) -> T {
    look(PASSED.lock().get_or_insert_default())
}

impl Bundle {
    /// Compares the golden embedding with what this machine's encoder gives; `None` where the bundle has none. `base`
    /// as [`Bundle::base_or`] takes it.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] where it is another one; as [`Bundle::base_or`] and [`Encoder::of_bundle`].
    pub fn check_golden(&self, base: Option<Checkpoint>, options: &EncoderOptions) -> Result<Option<Agreement>> {
        let Some(golden) = self.golden() else { return Ok(None) };
        let (encoder, model) = self.untested(base, options)?;
        let compared = if golden.len() == encoder.arch.embed_dim {
            encoder.compare(model.base(), self.is_rounder_than(model.base()), golden)
        } else {
            Err(Error::mismatch("the golden embedding has another length than the encoder's")
                .expected(encoder.arch.embed_dim)
                .got(golden.len()))
        };
        compared.map(Some).map_err(|e| e.at(self.path()))
    }

    /// Whether `base` was given in the place of the bundle's own, which is stored in half floats: the golden embedding
    /// is of the rounded weights.
    fn is_rounder_than(&self, base: &Checkpoint) -> bool {
        let is_half = |own: Checkpoint| own.image_tower().any(|(_, tensor)| tensor.as_f32().is_none());
        base.path() != self.path() && self.base().ok().flatten().is_some_and(is_half)
    }

    /// The golden embedding as this machine computes it.
    pub(crate) fn compute_golden(&self, base: Option<Checkpoint>, options: &EncoderOptions) -> Result<Vec<f32>> {
        let (encoder, model) = self.untested(base, options)?;
        encoder.golden_embedding(model.base())
    }

    fn untested(&self, base: Option<Checkpoint>, options: &EncoderOptions) -> Result<(Encoder, Arc<Model>)> {
        let threads = options.threads;
        let model = self.model(base, &ModelOptions { threads, cache_bytes: Some(0), ..ModelOptions::default() })?;
        let options = EncoderOptions { self_test: SelfTest::Off, ..options.clone() };
        Ok((Encoder::of_bundle(self, &model, &options)?, model))
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
