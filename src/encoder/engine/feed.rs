//! Images handed to a graph as it takes them: in its type, and as many at a time as it wants.

use std::sync::atomic::{AtomicBool, Ordering};

use super::Images;
use crate::encoder::graph::EncoderGraph;
use crate::encoder::input::{Elements, Input};
use crate::encoder::provider::precision;
use crate::encoder::session::{RunSettings, Session};
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::{DType, try_zeroed, u16_bytes};
use crate::tower::arch::Arch;

/// A graph, and how images go through it.
pub(in crate::encoder) struct Feed {
    pub(in crate::encoder) arch: Arch,
    pub(in crate::encoder) graph: EncoderGraph,
    /// A run of several images has given each the embedding that it gets alone.
    keeps_images_apart: AtomicBool,
}

impl Feed {
    pub(in crate::encoder) fn new(arch: Arch, graph: EncoderGraph) -> Self {
        Self { arch, graph, keeps_images_apart: AtomicBool::new(false) }
    }

    /// Runs a session over the graph with these weights, none where they are in the session.
    ///
    /// # Errors
    /// As [`Session::run_into`] and [`Feed::each`].
    pub(super) fn run(
        &self,
        session: &Session,
        weights: &[Input<'_>],
        settings: Option<&RunSettings>,
        images: Images<'_>,
        out: &mut [f32],
    ) -> Result<()> {
        self.each(images, out, |pixels, out| {
            let inputs = std::iter::once(pixels).chain(weights.iter().copied());
            session.run_into(inputs, &self.graph.embeds, settings, out)
        })
    }

    /// Calls `run` with the pixels of one run after another and room for their embeddings. What was computed is written
    /// to `out` at the end.
    ///
    /// # Errors
    /// What `run` says; [`ErrorKind::Runtime`] for a graph that mixes the images of a run; [`ErrorKind::OutOfMemory`].
    pub(super) fn each(
        &self,
        images: Images<'_>,
        out: &mut [f32],
        mut run: impl FnMut(Input<'_>, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let Images { pixels, n } = images;
        if !self.may_mix_images(n) {
            return self.each_unchecked(images, out, &mut run);
        }
        // The last image once more alone: it has to get the same embedding.
        let (image, embed) = (self.arch.pixels(), self.arch.embed_dim);
        let (mut together, mut alone) = (try_zeroed(out.len())?, try_zeroed(embed)?);
        self.each_unchecked(images, &mut together, &mut run)?;
        self.each_unchecked(Images { pixels: &pixels[(n - 1) * image..], n: 1 }, &mut alone, &mut run)?;
        precision::check_alone(&together[(n - 1) * embed..], &alone, n)?;
        self.keeps_images_apart.store(true, Ordering::Release);
        out.copy_from_slice(&together);
        Ok(())
    }

    fn each_unchecked(
        &self,
        Images { pixels, n }: Images<'_>,
        out: &mut [f32],
        run: &mut impl FnMut(Input<'_>, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let (size, image, embed) = (self.arch.image_size(), self.arch.pixels(), self.arch.embed_dim);
        let name = &*self.graph.pixels;
        let dtype = self.graph.pixels_dtype;
        let batch = self.graph.batch.unwrap_or(n);
        let explain = |e: Error| self.explain_batch(e, batch);
        if dtype == DType::F32 && batch == n {
            let input = Input { name, shape: &[n, 3, size, size], values: Elements::F32(pixels) };
            return run(input, out).map_err(explain);
        }
        let mut embeds = try_zeroed(n.div_ceil(batch) * batch * embed)?;
        let mut images = try_zeroed::<f32>(batch * image)?;
        // Room for half floats at an address that they may have.
        let mut cast = try_zeroed::<u16>(if dtype == DType::F32 { 0 } else { batch * image })?;
        for (some, out) in pixels.chunks(batch * image).zip(embeds.chunks_mut(batch * embed)) {
            // The last run is filled up with black images, whose embeddings are dropped.
            images[..some.len()].copy_from_slice(some);
            images[some.len()..].fill(0.0);
            let values = if dtype == DType::F32 {
                Elements::F32(&images)
            } else {
                cast.iter_mut().zip(&images).for_each(|(slot, value)| *slot = half::f16::from_f32(*value).to_bits());
                Elements::Other(dtype, u16_bytes(&cast))
            };
            run(Input { name, shape: &[batch, 3, size, size], values }, out).map_err(explain)?;
        }
        out.copy_from_slice(&embeds[..n * embed]);
        Ok(())
    }

    /// Whether it has not been seen yet that a run of several images gives each its own embedding: a user's graph may
    /// say that it takes any number, and have been exported for one.
    fn may_mix_images(&self, n: usize) -> bool {
        let is_open = self.graph.is_users() && self.graph.batch.is_none();
        is_open && n > 1 && !self.keeps_images_apart.load(Ordering::Acquire)
    }

    /// Exporters bake the number of images of their example into graphs that say that any number will do.
    fn explain_batch(&self, error: Error, batch: usize) -> Error {
        let is_open = self.graph.is_users() && self.graph.batch.is_none();
        if !is_open || batch < 2 || error.kind() != ErrorKind::Runtime {
            return error;
        }
        error.or_hint(format!(
            "The graph may have been exported for one image in each run, though it does not say so: this was a run of \
             {batch}. Give it one at a time (--batch 1), or export it with a dynamic batch"
        ))
    }
}
