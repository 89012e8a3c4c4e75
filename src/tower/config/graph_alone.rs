//! The encoder of a base that holds no vision transformer: a user's graph is all that is known of it.

use super::files::{self, ConfigSource};
use super::images::ImageHints;
use super::resolve::{Resolver, ValueSource};
use super::values::{Origin, TowerConfig, TowerOptions};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::preprocess::Preprocess;
use crate::tower::arch::{Arch, ArchHints, PATCH_EMBEDDING};
use crate::tower::features;
use crate::tower::variant::{Activation, Variant};

impl TowerConfig {
    /// Whether nothing but a user's graph can say what the encoder of this base is: it holds no vision transformer, or
    /// one with a feature that is not built in.
    pub fn needs_graph(checkpoint: &Checkpoint) -> bool {
        checkpoint.get(PATCH_EMBEDDING).is_none()
            || features::refuse(checkpoint.image_tower().map(|(name, _)| name)).is_err()
    }

    /// The encoder that a user's graph is, over images of `size` × `size` pixels. Its architecture is
    /// [`Arch::of_graph`]; the graph tells the length of embeddings when it is opened, and that is 0 before.
    ///
    /// # Errors
    /// As [`TowerConfig::read`], of the configurations beside the weights, which say how images are prepared.
    pub fn of_graph(checkpoint: &Checkpoint, size: usize, options: &TowerOptions) -> Result<Self> {
        let configs = files::read(checkpoint.path(), &options.config)?;
        let mut resolver = resolver(options);
        if let Some((path, side, mut images)) =
            configs.into_iter().find_map(|stated| Some((stated.path, stated.side, stated.images?)))
        {
            if let Some((edge, side)) = images.edge.zip(side.filter(|side| *side != size && *side > 0)) {
                let scaled = (edge as f64 * size as f64 / side as f64) as usize;
                images.edge = Some(scaled);
                resolver.note(format!(
                    "{} prepares images of {side} × {side} pixels, the graph takes {size} × {size}: sides are resized to \
                     {scaled} instead of {edge} (--resize-edge)",
                    path.display()
                ));
            }
            resolver.add(ValueSource { origin: Origin::Config(path), arch: ArchHints::default(), images });
        }
        finish(resolver, checkpoint, &Arch::of_graph(size, 0))
    }

    /// The encoder that is a graph alone, of which a bundle says that it is `arch`, and that images go through
    /// `preprocess`; `options` come first here too.
    ///
    /// # Errors
    /// As [`ImageHints::preprocess`].
    pub fn stored_graph(
        checkpoint: &Checkpoint,
        arch: &Arch,
        preprocess: &Preprocess,
        options: &TowerOptions,
    ) -> Result<Self> {
        let mut resolver = resolver(options);
        if let ConfigSource::File(path) = &options.config {
            resolver.note(format!("{} is not read: a bundle says all that a configuration could", path.display()));
        }
        let images = ImageHints::of(preprocess);
        resolver.add(ValueSource { origin: Origin::Bundle, arch: ArchHints::default(), images });
        finish(resolver, checkpoint, arch)
    }

    /// Refuses a preparation of images that was assumed in any part: a bundle over a graph alone says it for good.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument), with the options that settle it.
    pub(crate) fn check_images_told(&self) -> Result<()> {
        let open: Vec<&str> = self.open().map(|value| value.property.option()).collect();
        if open.is_empty() {
            return Ok(());
        }
        Err(Error::invalid("nothing says how images are prepared for this encoder, and a bundle has to say it")
            .expected("a configuration beside the base (timm's config.json, preprocessor_config.json), or options")
            .got(format_args!("nothing of what {} say", open.join(", ")))
            .hint("Give them, or --config with a configuration"))
    }
}

fn resolver(options: &TowerOptions) -> Resolver {
    Resolver::new(&TowerOptions { arch: ArchHints::default(), has_graph: true, ..options.clone() })
}

fn finish(resolver: Resolver, checkpoint: &Checkpoint, arch: &Arch) -> Result<TowerConfig> {
    // Of the architecture nothing is looked at but the size of images.
    let stand_in = Arch {
        width: 1,
        layers: 1,
        heads: 1,
        mlp_width: 1,
        patch: arch.image_size(),
        grid: 1,
        embed_dim: 1,
        activation: Activation::default(),
        variant: Variant::default(),
    };
    let tower = resolver.finish(stand_in).map_err(|e| e.at(checkpoint.path()))?;
    Ok(TowerConfig { arch: arch.clone(), ..tower })
}
