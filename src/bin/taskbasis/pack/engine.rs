//! What a bundle's encoder is, and with what it is run when the bundle is made.

use taskbasis::{Checkpoint, EncoderOptions, ErrorKind, Result, Runtime, TowerConfig};

use super::Pack;
use crate::output;

impl Pack {
    /// The tower of the base; of one that only the user's graph is known of, what that and a configuration tell.
    pub(super) fn tower(&self, base: &Checkpoint) -> Result<TowerConfig> {
        match TowerConfig::needs_graph(base) && self.encoder.graph.is_some() {
            true => self.session()?.tower(self.encoder.tower.options(), &self.encoder.graph_choice()),
            false => TowerConfig::read(base, &self.encoder.tower.options()),
        }
    }

    /// Loads the ONNX Runtime that was asked for, before another is looked for.
    pub(super) fn check_runtime(&self) -> Result<()> {
        self.encoder.onnxruntime.as_deref().map_or(Ok(()), |path| Runtime::load(Some(path)).map(drop))
    }

    /// How the golden embedding is computed; `None` where it is left out, because there is nothing to compute it with.
    pub(super) fn golden(&self) -> Result<Option<EncoderOptions>> {
        // On the CPU: whatever is rounder than f32 would be for other machines to agree with.
        let EncoderOptions { threads, runtime, .. } = self.encoder.options();
        let options = EncoderOptions { threads, runtime, ..EncoderOptions::default() };
        if self.no_golden {
            return Ok(None);
        }
        match Runtime::load(options.runtime.as_deref()) {
            Err(error) if error.kind() == ErrorKind::RuntimeMissing && options.runtime.is_none() => {
                output::note("no golden embedding is put in: there is no ONNX Runtime to compute it with");
                Ok(None)
            }
            loaded => loaded.map(|_| Some(options)),
        }
    }
}
