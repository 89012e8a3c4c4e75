//! What is computed over a bundle that is packed, and then put into it: the golden embedding, and what was measured of
//! precisions.

use std::path::Path;
use std::sync::Arc;

use super::add_tasks::BundleUpdate;
use super::computed::Computed;
use super::gate::{Gate, GateProgress, PrecisionMeasure};
use super::opened::Bundle;
use super::pack::{BaseFormat, Packer};
use crate::checkpoint::Checkpoint;
use crate::encoder::{Agreement, Encoder, EncoderOptions, Golden, SelfTest};
use crate::error::{Error, Result};
use crate::weights::{Model, ModelOptions};

impl<'a> Packer<'a> {
    /// Puts a golden embedding into the bundles that are written from here on, computed by an encoder with these
    /// options; with `None`, the default, there is none. It costs an image's run and another pass over the file. Its
    /// last bits are those of this machine.
    pub fn golden(&mut self, options: Option<EncoderOptions>) -> &mut Self {
        self.computed.golden = options;
        self
    }

    /// Measures what the tasks of the bundles that are written from here on lose in lower precisions, and has them tell
    /// it: [`PrecisionChoice::Auto`](crate::PrecisionChoice::Auto) then runs what passed. It costs what
    /// [`Bundle::measure_precision`] does, and another pass over the file. `progress` is told how far it has come.
    ///
    /// # Errors
    /// As [`Gate::check`]; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a bundle that carries a graph.
    pub fn gate(&mut self, gate: Gate, progress: impl Fn(GateProgress) + 'a) -> Result<&mut Self> {
        gate.check()?;
        self.computed.gate = Some((gate, Box::new(progress)));
        Ok(self)
    }

    /// The base's encoder as a checkpoint of its own, over the same values.
    pub(super) fn base_again(&self) -> Checkpoint {
        let tensors = self.base.encoder().map(|(name, tensor)| (name.to_owned(), tensor.clone()));
        Checkpoint::of_canonical(self.base.path(), self.base.format(), tensors.collect())
    }

    /// Adds to the bundle at `path` what is computed with it, where that is wanted: the golden embedding, and what was
    /// measured of precisions, which is given.
    pub(super) fn add_computed(&self, path: &Path) -> Result<Option<PrecisionMeasure>> {
        let Computed { golden, gate } = &self.computed;
        if golden.is_none() && gate.is_none() {
            return Ok(None);
        }
        let bundle = Bundle::open(path)?;
        let base = (self.base_format == BaseFormat::LeftOut).then_some(self.base);
        let copy = || base.map(|_| self.base_again());
        let mut update = BundleUpdate::new(&bundle, base)?;
        if let Some(options) = golden {
            update.golden(bundle.compute_golden(copy(), options)?);
        }
        let mut measured = None;
        if let Some((gate, progress)) = gate {
            let measure = measured.insert(bundle.measure_precision(copy(), gate, progress)?);
            update.precision(measure.clone());
        }
        update.write(path, &[], &|_| {})?;
        Ok(measured)
    }
}

impl Bundle {
    /// The embedding `[e]` of the built-in image (`docs/bundle-format.md` has its formula) with the base's weights as
    /// this bundle holds them, not normalised, by the graph that the bundle is run with; `None` where the bundle was
    /// packed without one.
    pub fn golden(&self) -> Option<&[f32]> {
        self.golden.as_ref()?.as_f32()
    }

    /// Compares the golden embedding with what this machine's encoder gives; `None` where the bundle has none. `base`
    /// as [`Bundle::base_or`] takes it.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where it is another one; as [`Bundle::base_or`] and
    /// [`Encoder::of_bundle`].
    pub fn check_golden(&self, base: Option<Checkpoint>, options: &EncoderOptions) -> Result<Option<Agreement>> {
        let Some(golden) = self.golden() else { return Ok(None) };
        let (encoder, model) = self.untested(base, options)?;
        let compared = if golden.len() == encoder.arch().embed_dim {
            encoder.compare(model.base(), self.is_rounder_than(model.base()), golden)
        } else {
            Err(Error::mismatch("the golden embedding has another length than the encoder's")
                .expected(encoder.arch().embed_dim)
                .got(golden.len()))
        };
        compared.map(Some).map_err(|e| e.at(self.path()))
    }

    /// Whether `base` was given in the place of the bundle's own, which is stored in half floats: the golden embedding
    /// is of the rounded weights.
    fn is_rounder_than(&self, base: &Checkpoint) -> bool {
        let is_half = |own: Checkpoint| own.encoder().any(|(_, tensor)| tensor.as_f32().is_none());
        base.path() != self.path() && self.base().ok().flatten().is_some_and(is_half)
    }

    /// The golden embedding as this machine computes it.
    fn compute_golden(&self, base: Option<Checkpoint>, options: &EncoderOptions) -> Result<Vec<f32>> {
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

impl Encoder {
    /// The encoder of a bundle: over the graph that it carries, or the built one where it carries none. `model` is the
    /// bundle's ([`Bundle::model`]). [`Encoder::new`] with [`Bundle::arch`] is the built one of any bundle. Where the
    /// bundle has a golden embedding, the first run is preceded by one that compares it ([`SelfTest`]).
    ///
    /// # Errors
    /// As [`Encoder::new`], [`Encoder::with_graph`] and [`Bundle::bound_graph`].
    pub fn of_bundle(bundle: &Bundle, model: &Arc<Model>, options: &EncoderOptions) -> Result<Self> {
        let (arch, graph) = (bundle.arch(), bundle.bound_graph(model.base(), model.basis())?);
        let encoder = Self::with_measured(bundle, arch, graph.is_some(), options, |options| match &graph {
            Some(graph) => Self::with_graph(arch, graph, options),
            None => Self::new(arch, options),
        });
        Ok(encoder?.tested_by(bundle, model))
    }

    /// This encoder, whose first run is preceded by the test that [`SelfTest`] tells of, where `bundle` has a golden
    /// embedding for what the encoder runs. `model` is the bundle's.
    #[must_use]
    pub fn tested_by(self, bundle: &Bundle, model: &Arc<Model>) -> Self {
        let is_its = match self.graph() {
            Some(graph) => graph.is_embedded() && bundle.graph_map().is_some(),
            None => bundle.graph_map().is_none() && self.arch() == bundle.arch(),
        };
        let Some(golden) = bundle.golden().filter(|_| is_its) else { return self };
        let is_unrounded = bundle.is_rounder_than(model.base());
        self.tested_with(Golden::new(golden, model, &bundle.mapping, is_unrounded), model)
    }
}
