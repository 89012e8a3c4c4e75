//! The architecture of an encoder that nothing but a user's graph is known of: how large its images are, and how long
//! its embeddings.

use super::arch::Arch;
use super::shapes::MAX_EXTENT;
use super::variant::{Activation, Variant};
use crate::error::{Error, Result};

/// The largest side of images, in pixels.
const MAX_IMAGE: usize = 1 << 12;

impl Arch {
    /// The architecture of an encoder that is a user's graph, over images of `image_size` × `image_size` pixels, with
    /// embeddings of `embed_dim` values (0 where only running it tells). It has no parameters of its own: those are the
    /// base's. Width, layers and heads are 0, and no graph can be built of it.
    pub fn of_graph(image_size: usize, embed_dim: usize) -> Self {
        Self {
            width: 0,
            layers: 0,
            heads: 0,
            mlp_width: 0,
            patch: image_size,
            grid: 1,
            embed_dim,
            activation: Activation::default(),
            variant: Variant::default(),
        }
    }

    /// Whether it is [`Arch::of_graph`].
    pub fn is_of_graph(&self) -> bool {
        self.width == 0 && self.layers == 0
    }

    /// Whether these images and embeddings may be a graph's.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for an extent that is 0 or absurdly large.
    pub(crate) fn check_of_graph(&self) -> Result<()> {
        for (what, extent, most) in
            [("image size", self.image_size(), MAX_IMAGE), ("embedding length", self.embed_dim, MAX_EXTENT)]
        {
            if !(1..=most).contains(&extent) {
                return Err(Error::invalid(format!("out of range: the encoder's {what}"))
                    .expected(format_args!("1 to {most}"))
                    .got(extent));
            }
        }
        Ok(())
    }
}
