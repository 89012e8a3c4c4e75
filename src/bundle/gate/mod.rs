//! The gate of precisions: what a bundle loses in bf16 and int8 is measured before [`PrecisionChoice::Auto`] runs them.
//!
//! Every task is run in f32 and in what is tried, with the weights that will run, reconstructed from the bundle's own
//! vectors. `search.rs` decides what is tried, `measuring.rs` runs it, `record.rs` is what the bundle then tells,
//! `patterns.rs` are images for those who have none.

mod measuring;
mod options;
mod patterns;
mod record;
mod search;

use std::fmt;

use twox_hash::XxHash3_128;

use self::measuring::Measuring;
pub use self::options::{Gate, GateProgress, LabelledTask};
pub(super) use self::patterns::pixels as built_in_images;
pub use self::record::{AccuracyMeasure, Floors, PrecisionMeasure, TaskMeasure, Trial};
use self::search::{Found, fastest};
use super::format::Role;
use super::keys::key;
use super::opened::Bundle;
use crate::checkpoint::Checkpoint;
use crate::encoder::{Encoder, EncoderOptions, PrecisionChoice, Runtime};
use crate::error::{Error, Result};
use crate::tower::{Arch, LayerPrecisions};
use crate::weights::ModelOptions;

impl Bundle {
    /// Measures what the bundle's tasks lose in lower precisions, and finds the fastest that keep to the floors of
    /// `gate`. Nothing is written: [`BundleUpdate::precision`](super::BundleUpdate::precision) puts it into a bundle.
    /// It takes a run of all images for each trial, of which there is one where all of int8 passes, and some ten at
    /// most. `base` as [`Bundle::base_or`] takes it; tasks that cannot be recovered are left out.
    ///
    /// # Errors
    /// As [`Gate::check`], [`Bundle::base_or`] and [`Encoder::encode`];
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a bundle that carries a graph, as the built one is
    /// what is measured; [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) where no task can be
    /// recovered.
    pub fn measure_precision(
        &self,
        base: Option<Checkpoint>,
        gate: &Gate,
        progress: &dyn Fn(GateProgress),
    ) -> Result<PrecisionMeasure> {
        gate.check()?;
        if self.graph_map().is_some() {
            return Err(Error::unsupported(
                "precisions are measured with the built graph, and the bundle carries another",
            )
            .at(self.path()));
        }
        let threads = gate.encoder.threads;
        let model = self.model(base, &ModelOptions { threads, cache_bytes: Some(0), ..ModelOptions::default() })?;
        let mut measuring = Measuring::new(self.arch(), self.preprocess()?, &model, gate, progress)?;
        let Found { precisions, trials, alone } = fastest(&mut measuring)?;
        Ok(PrecisionMeasure {
            precisions: precisions.to_string(),
            floors: gate.floors,
            data: gate.data.clone().filter(|_| !gate.labelled.is_empty()),
            built_in_images: measuring.built_in(),
            trials,
            alone,
            program: concat!("taskbasis ", env!("CARGO_PKG_VERSION")).to_owned(),
            onnxruntime: Runtime::load(gate.encoder.runtime.as_deref())?.version().to_owned(),
            content: self.content(),
        })
    }

    /// What was measured of precisions over this bundle's tasks; `None` where nothing was, or only before the bundle
    /// was changed ([`Bundle::has_stale_precision`]).
    pub fn precision(&self) -> Option<&PrecisionMeasure> {
        self.metadata.precision.as_ref().filter(|measure| measure.content == self.content())
    }

    /// Whether what the bundle tells of precisions was measured over another base, other vectors or tasks.
    pub fn has_stale_precision(&self) -> bool {
        self.metadata.precision.is_some() && self.precision().is_none()
    }

    /// The precisions that [`PrecisionChoice::Auto`] stands for in an encoder of `arch` with these options, over a
    /// user's graph or not, and the reason.
    fn automatic(&self, arch: &Arch, options: &EncoderOptions, has_graph: bool) -> (LayerPrecisions, String) {
        let not = |why: String| (LayerPrecisions::default(), why);
        if has_graph {
            return not("precisions are measured with the built graph, and another one runs".into());
        }
        if let Some(what) = options.unpacked() {
            return not(format!("{what} and other precisions exclude each other"));
        }
        if arch != self.arch() {
            return not("the architecture is another one than was measured".into());
        }
        match self.precision().map(|measure| (measure, measure.precisions())) {
            None if self.has_stale_precision() => not("the bundle was changed since precisions were measured".into()),
            None => not("nothing was measured when the bundle was packed (`taskbasis pack --precision auto`)".into()),
            Some((_, Err(error))) => not(format!("what was measured is not known to this version: {error}")),
            Some((measure, Ok(precisions))) => (precisions, measure.to_string()),
        }
    }

    /// A hash over all that weights are reconstructed from: base, vectors, recovery, architecture. The checksums stand
    /// for the values.
    pub(super) fn content(&self) -> String {
        let mut hash = XxHash3_128::new();
        let mut line = |text: fmt::Arguments<'_>| hash.write(format!("{text}\n").as_bytes());
        let told = [key::ARCH, key::BASE, key::BASIS, key::ENCODER, key::PREPROCESS, key::TOWER];
        for (key, value) in self.metadata.pairs().unwrap_or_default() {
            if told.contains(&key) {
                line(format_args!("{key} {value}"));
            }
        }
        let summed = self.tensors.iter().filter(|(name, _)| !super::reader::is_padding(name));
        for ((name, tensor), sum) in summed.zip(self.checksums.iter().skip(1)) {
            let role = Role::of(name);
            let is_weights = matches!(
                role,
                Some(Role::Base(_) | Role::Vectors(_) | Role::Mean(_) | Role::Residual(..) | Role::Recovery)
            );
            if is_weights {
                let format = self.metadata.blocks.get(name).map_or("", |blocks| &blocks.format);
                line(format_args!("{name} {} {:?} {format} {sum:016x}", tensor.dtype(), tensor.shape()));
            }
        }
        format!("{:032x}", hash.finish_128())
    }
}

impl Encoder {
    /// An encoder of this architecture over the built graph, for a model of `bundle`, in the precisions that were
    /// measured where the options ask for [`PrecisionChoice::Auto`]; `make` makes it of the options that are then left.
    ///
    /// # Errors
    /// Those of `make`.
    pub(crate) fn with_measured(
        bundle: &Bundle,
        arch: &Arch,
        has_graph: bool,
        options: &EncoderOptions,
        make: impl FnOnce(&EncoderOptions) -> Result<Self>,
    ) -> Result<Self> {
        if options.precision != PrecisionChoice::Auto {
            return make(options);
        }
        let (precisions, why) = bundle.automatic(arch, options, has_graph);
        let options = EncoderOptions { precision: precisions.into(), ..options.clone() };
        tracing::info!(%precisions, %why, "the precision of choice");
        Ok(make(&options)?.with_precision_reason(why))
    }
}
