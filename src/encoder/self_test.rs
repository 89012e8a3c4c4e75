//! An encoder compared with the golden embedding of its bundle before its first run.

use std::collections::HashMap;
use std::sync::Weak;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::engine::{Images, RunWeights};
use super::golden::{Agreement, Golden, pattern};
use super::image::Encoder;
use super::options::{Provider, Residency, SelfTest};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::mmap::{Identity, Mapping};
use crate::tensor::DType;
use crate::weights::{Model, ReconstructOptions, Weights};

/// The largest distance of embeddings computed in f32, as a share of their length. Machines differ by some 1e-6.
const MAX_RELATIVE: f64 = 1e-4;
/// The least cosine of embeddings that anything rounder computes: half floats, TF32, weights that one side has rounded.
const MIN_COSINE: f64 = 0.999;
/// The least cosine of embeddings of packed weights: what int8 may lose is the gate's to judge, this tells a machine
/// that computes something else.
const MIN_PACKED_COSINE: f64 = 0.98;

/// File, provider, whether it is a user's graph.
type Key = (Identity, &'static str, bool);

/// What has been compared in this process, of files that are still open.
static PASSED: Mutex<Option<HashMap<Key, Weak<Mapping>>>> = Mutex::new(None);

impl Encoder {
    /// The embedding `[e]` of the built-in image with the weights of `base`, past any cache.
    ///
    /// # Errors
    /// As [`Encoder::encode`] and [`Weights::of_base`].
    pub fn golden_embedding(&self, base: &Checkpoint) -> Result<Vec<f32>> {
        let pixels = pattern(self.arch().image_size());
        let how = ReconstructOptions { threads: self.threads(), ..ReconstructOptions::default() };
        // What is known of an encoder of another kind is its layout alone.
        let is_laid_out = self.feed.graph.takes_packed() && !is_f32(base) || self.arch().is_of_graph();
        let weights = match is_laid_out {
            true => Weights::of_base_in(base, self.layout())?,
            false => Weights::of_base(base, &how)?,
        };
        self.run(RunWeights::Given(&weights), Images { pixels: &pixels, n: 1 })
    }

    /// Puts before the encoder's first run the test that [`SelfTest`] tells of. `golden` is of what it runs,
    /// with the base of `model`.
    pub(crate) fn tested_with(mut self, golden: Golden, model: &Model) -> Self {
        let is_wanted = match self.self_test {
            SelfTest::Off => false,
            SelfTest::On => true,
            SelfTest::Auto => {
                is_f32(model.base()) || self.weight_bytes().saturating_mul(2) <= model.cache().stats().budget
            }
        };
        let is_its = self.residency == Residency::Whole && golden.expected.len() == self.arch().embed_dim;
        self.golden = Some(golden).filter(|_| is_wanted && is_its);
        self
    }

    /// Compares with the golden embedding before the first run, unless that has been done.
    pub(super) fn test_once(&self) -> Result<()> {
        let Some(golden) = self.golden.as_ref().filter(|golden| !golden.has_passed.load(Ordering::Acquire)) else {
            return Ok(());
        };
        let _turn = golden.turn.lock();
        let key = (golden.identity, self.execution.provider.name(), self.graph().is_some());
        let is_known = passed(|passed| passed.contains_key(&key));
        // Without its model there is nothing to compare with, and other weights are run.
        if let Some(model) = golden.model.upgrade().filter(|_| !is_known) {
            let agreement = self.compare(model.base(), golden.is_unrounded, &golden.expected);
            let agreement = agreement.map_err(|e| e.at(&golden.path))?;
            tracing::debug!(?agreement, bundle = %golden.path.display(), "the golden embedding");
            passed(|passed| {
                passed.retain(|_, file| file.strong_count() > 0);
                passed.insert(key, golden.file.clone())
            });
        }
        golden.has_passed.store(true, Ordering::Release);
        Ok(())
    }

    /// Compares the embedding with the weights of `base`; `is_unrounded` where the golden embedding is of rounded ones.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] where the embedding is another one.
    pub(crate) fn compare(&self, base: &Checkpoint, is_unrounded: bool, golden: &[f32]) -> Result<Agreement> {
        let got = self.golden_embedding(base)?;
        let agreement = Agreement::of(&got, golden);
        let Agreement { relative, cosine } = agreement;
        let is_exact = self.computes_in_f32() && !is_unrounded;
        let least = if self.precisions().is_f32() { MIN_COSINE } else { MIN_PACKED_COSINE };
        let is_fine = if is_exact { relative <= MAX_RELATIVE } else { cosine >= least };
        if is_fine {
            return Ok(agreement);
        }
        let error = Error::new(ErrorKind::Mismatch, "this machine's encoder does not give the golden embedding");
        let error = match is_exact {
            true => error.expected(format_args!("a distance of at most {MAX_RELATIVE:e} of its length")),
            false => error.expected(format_args!("a cosine of at least {least}")),
        };
        Err(error.got(format_args!("{relative:.2e} of its length, a cosine of {cosine:.6}")).hint(
            "Is this build, ONNX Runtime, provider or graph at fault? TASKBASIS_KERNEL=scalar tells kernels apart",
        ))
    }

    /// Whether nothing that it computes with is rounder than f32.
    fn computes_in_f32(&self) -> bool {
        let graph = &self.feed.graph;
        self.execution.provider == Provider::Cpu
            && [graph.pixels_dtype, graph.embeds_dtype] == [DType::F32; 2]
            && graph.layout().is_f32()
    }
}

/// Whether the encoder's weights can be read as f32 where they are.
fn is_f32(base: &Checkpoint) -> bool {
    base.encoder().filter(|(_, tensor)| tensor.dtype().is_float()).all(|(_, tensor)| tensor.as_f32().is_some())
}

fn passed<T>(look: impl FnOnce(&mut HashMap<Key, Weak<Mapping>>) -> T) -> T {
    look(PASSED.lock().get_or_insert_default())
}
