//! The encoder of a base that holds no vision transformer: a user's graph is all that is known of it.

use super::files;
use super::images::ImageHints;
use super::resolve::{Resolver, ValueSource};
use super::values::{Origin, TowerConfig, TowerOptions};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::tower::arch::{Arch, ArchHints, PATCH_EMBEDDING};
use crate::tower::variant::{Activation, Variant};

impl TowerConfig {
    /// Whether nothing but a user's graph can say what the encoder of this base is.
    pub fn needs_graph(checkpoint: &Checkpoint) -> bool {
        checkpoint.get(PATCH_EMBEDDING).is_none()
    }

    /// The encoder that a user's graph is, over images of `size` × `size` pixels. Of its architecture only that size
    /// means something: width, layers and heads are 0, and the graph tells the length of embeddings when it is opened.
    ///
    /// # Errors
    /// As [`TowerConfig::read`], of the configurations beside the weights, which say how images are prepared.
    pub fn of_graph(checkpoint: &Checkpoint, size: usize, options: &TowerOptions) -> Result<Self> {
        let configs = files::read(checkpoint.path(), &options.config)?;
        let mut resolver =
            Resolver::new(&TowerOptions { arch: ArchHints::default(), has_graph: true, ..options.clone() });
        if let Some((path, images)) = configs.into_iter().find_map(|stated| Some((stated.path, stated.images?))) {
            resolver.add(ValueSource { origin: Origin::Config(path), arch: ArchHints::default(), images });
        } else {
            let (arch, images) = (ArchHints::default(), ImageHints::default());
            resolver.add(ValueSource { origin: Origin::Assumed, arch, images });
        }
        let one = Arch {
            width: 1,
            layers: 1,
            heads: 1,
            mlp_width: 1,
            patch: size,
            grid: 1,
            embed_dim: 1,
            activation: Activation::default(),
            variant: Variant::default(),
        };
        let tower = resolver.finish(one).map_err(|e| e.at(checkpoint.path()))?;
        let arch = Arch { width: 0, layers: 0, heads: 0, mlp_width: 0, ..tower.arch };
        Ok(Self { arch, ..tower })
    }
}
