//! The golden embedding of a bundle that is packed: computed over the written file, then put into it.

use std::path::Path;

use super::add_tasks::BundleUpdate;
use super::opened::Bundle;
use super::pack::{BaseFormat, Packer};
use crate::checkpoint::Checkpoint;
use crate::encoder::EncoderOptions;
use crate::error::Result;
use crate::mmap::Identity;

impl Packer<'_> {
    /// Puts a golden embedding into the bundles that are written from here on, computed by an encoder with these
    /// options; with `None`, the default, there is none. It costs an image's run and another pass over the file. Its
    /// last bits are those of this machine.
    pub fn golden(&mut self, options: Option<EncoderOptions>) -> &mut Self {
        self.golden = options;
        self
    }

    /// Adds the golden embedding to the bundle at `path`, where one is wanted.
    pub(super) fn add_golden(&self, path: &Path) -> Result<()> {
        let Some(options) = &self.golden else { return Ok(()) };
        let bundle = Bundle::open(path)?;
        let base = (self.base_format == BaseFormat::LeftOut).then_some(self.base);
        let copy = |base: &Checkpoint| {
            let tensors = base.image_tower().map(|(name, tensor)| (name.to_owned(), tensor.clone()));
            Checkpoint::from_tensors(base.path(), base.format(), tensors.collect())
        };
        let golden = bundle.compute_golden(base.map(copy).transpose()?, options)?;
        let mut update = BundleUpdate::new(&bundle, base)?;
        update.golden(golden);
        update.write(path, &[], &|_| {}).map(drop)
    }
}

impl Bundle {
    /// The embedding `[e]` of the built-in image (`docs/bundle-format.md` has its formula) with the base's weights as
    /// this bundle holds them, not normalised, by the graph that the bundle is run with; `None` where the bundle was
    /// packed without one.
    pub fn golden(&self) -> Option<&[f32]> {
        self.golden.as_ref()?.as_f32()
    }

    /// The identity of its file.
    pub(crate) fn identity(&self) -> Identity {
        self.mapping.identity()
    }
}
