//! What a bundle's encoder is, and with what it is run when the bundle is made.

use taskbasis::bundle::{ComparedImages, Planner};
use taskbasis::{Checkpoint, Dataset, EncoderOptions, ErrorKind, Packer, Result, Runtime, TowerConfig};

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
        let is_there =
            has_runtime(&options, "no golden embedding is put in: there is no ONNX Runtime to compute it with")?;
        Ok(is_there.then_some(options))
    }

    /// What finds formats for a size: by what errors do to embeddings, on images of --data or on built-in ones, where
    /// the built graph can be run.
    pub(super) fn planner<'p>(&self, packer: &'p Packer<'_>, tower: &TowerConfig) -> Result<Planner<'p>> {
        let images = self.compared_images(tower)?;
        let times = 1 + usize::from(images.is_some());
        self.measured(packer, times, |progress| packer.planner(images.as_ref(), progress))
    }

    /// Images to compare embeddings of; `None`, said aloud, where they cannot be made.
    fn compared_images(&self, tower: &TowerConfig) -> Result<Option<ComparedImages>> {
        if self.encoder.graph.is_some() || tower.arch.is_of_graph() {
            output::note(
                "formats are chosen by the vectors alone: only the built graph is run for that, and another is carried",
            );
            return Ok(None);
        }
        let encoder = self.encoder.options();
        let without = "formats are chosen by the vectors alone: there is no ONNX Runtime to run the tasks with";
        if !has_runtime(&encoder, without)? {
            return Ok(None);
        }
        Ok(Some(ComparedImages { pixels: self.compared_pixels(tower)?, encoder }))
    }

    /// Images of --data to compare embeddings of, some of each task; none without --data.
    fn compared_pixels(&self, tower: &TowerConfig) -> Result<Vec<f32>> {
        /// Images of all tasks together, about.
        const IMAGES: usize = 64;

        let Some(path) = &self.data else { return Ok(Vec::new()) };
        let data = Dataset::open(path)?;
        let tasks = data.tasks_with(&self.split)?;
        let each = IMAGES.div_ceil(tasks.len().max(1));
        let mut pixels = Vec::new();
        for task in tasks {
            let images = data.split(task, &self.split)?;
            let count = images.len().min(each);
            pixels.extend(images.preprocess(&tower.preprocess, 0..count, self.encoder.threads)?);
        }
        Ok(pixels)
    }
}

/// Whether there is an ONNX Runtime; where none was asked for and none is there, says what that means.
fn has_runtime(options: &EncoderOptions, without: &str) -> Result<bool> {
    match Runtime::load(options.runtime.as_deref()) {
        Err(error) if error.kind() == ErrorKind::RuntimeMissing && options.runtime.is_none() => {
            output::note(without);
            Ok(false)
        }
        loaded => loaded.map(|_| true),
    }
}
