//! Hidden features: what an image encoder knows of an image besides its embedding.

use std::sync::Arc;

use super::engine::feed::Feed;
use super::engine::host::HostEngine;
use super::engine::{Engine, Images, RunWeights};
use super::finite;
use super::image::Encoder;
use super::options::Residency;
use crate::error::{Error, Result};
use crate::tensor::try_zeroed;
use crate::tower::arch::Arch;
use crate::weights::TaskWeights;

/// The hidden features of images, and their embeddings, of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Hidden {
    /// f32 `[n, 2·width]`: of each image the class token behind the last norm, before the projection, and then the mean
    /// of its patches' tokens behind the last block.
    pub features: Vec<f32>,
    /// f32 `[n, e]`: what [`Encoder::encode_task`] gives, up to rounding.
    pub embeds: Vec<f32>,
}

impl Encoder {
    /// The hidden features and the embeddings of `n` images with the weights of a task. `pixels` are preprocessed
    /// images, f32 `[n, 3, S, S]`. The last block is computed for all tokens instead of the class token, which costs a
    /// tower of twelve blocks about a fifteenth more, and the first call opens a session of its own. The CPU computes
    /// them, with the built graph and whole weights, of towers that pool by the class token.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a user's graph, another provider than the CPU's,
    /// [`Residency::Blockwise`] and another pooling; as [`Encoder::encode_task`].
    pub fn encode_hidden(&self, task: &TaskWeights, pixels: &[f32], n: usize) -> Result<Hidden> {
        let engine = self.hidden_engine()?;
        self.check_pixels(pixels, n)?;
        self.test_once()?;
        let (features, embed) = (2 * self.arch().width, self.arch().embed_dim);
        let each = features + embed;
        let mut hidden =
            Hidden { features: try_zeroed(n.saturating_mul(features))?, embeds: try_zeroed(n.saturating_mul(embed))? };
        if n == 0 {
            self.check_model(task.model())?;
            return Ok(hidden);
        }
        let mut found = try_zeroed(n.saturating_mul(each))?;
        let task = &*self.in_layout(task);
        engine.run(Images { pixels, n }, RunWeights::Task(task), &mut found)?;
        finite::check(&found, pixels, each, self.arch().pixels(), || task.why_not_finite())?;
        let rows = hidden.features.chunks_exact_mut(features).zip(hidden.embeds.chunks_exact_mut(embed));
        for (row, (feature, embedding)) in found.chunks_exact(each).zip(rows) {
            feature.copy_from_slice(&row[..features]);
            embedding.copy_from_slice(&row[features..]);
        }
        Ok(hidden)
    }

    /// What computes them, made where it is not there.
    fn hidden_engine(&self) -> Result<Arc<HostEngine>> {
        let mut engine = self.hidden.lock();
        if let Some(engine) = &*engine {
            return Ok(Arc::clone(engine));
        }
        let Some(graph) = self.feed.graph.hidden()? else { return Err(self.gives_none_hidden()) };
        let arch = self.arch();
        let feed = Feed::new(Arch { embed_dim: 2 * arch.width + arch.embed_dim, ..arch.clone() }, graph);
        Ok(Arc::clone(engine.insert(Arc::new(HostEngine::new(&Arc::new(feed), &self.setup, &self.turns)?))))
    }

    /// Why there are none.
    fn gives_none_hidden(&self) -> Error {
        if self.graph().is_some() {
            let error = Error::unsupported("hidden features of a graph that was not built here");
            return error.hint("`built_graph` (--built-graph) runs the built one, whatever a bundle carries");
        }
        if self.residency == Residency::Blockwise {
            let error = Error::unsupported("hidden features where weights are there a block at a time");
            return error.hint("Give the encoder whole weights (`Residency::Whole`), or take embeddings as features");
        }
        Error::unsupported("hidden features by another provider than the CPU's")
            .got(self.execution.provider)
            .hint("The provider `cpu` computes them (--provider cpu)")
    }
}
