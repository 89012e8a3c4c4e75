//! One run of an encoder: images handed over as the graph takes them, and half floats compared with the CPU.

use std::sync::atomic::{AtomicBool, Ordering};

use super::Encoder;
use super::engine::cuda::DeviceSlot;
use super::engine::slot::SessionSlot;
use super::input::{Elements, Input};
use super::provider::precision;
use super::provider::target::Target;
use super::session;
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::{DType, try_zeroed, u16_bytes};

impl Encoder {
    /// Runs a session over the graph without weights.
    pub(super) fn run_with(
        &self,
        lane: &mut SessionSlot,
        weights: &[Input<'_>],
        pixels: &[f32],
        n: usize,
        out: &mut [f32],
    ) -> Result<()> {
        let name = self.signature.pixels.to_string_lossy();
        let options = lane.device.as_ref().map_or(Ok(None), DeviceSlot::without_graph)?;
        let SessionSlot { session, .. } = lane;
        self.in_runs(pixels, n, out, |pixels, out| {
            let pixels = Input { name: &name, ..pixels };
            session::run(session, &self.signature, pixels, weights.iter().copied(), options.as_ref(), out)
        })
    }

    /// The same on the CPU, whatever the encoder's provider, in a session that is made for it alone.
    pub(super) fn run_on_cpu(&self, weights: &[Input<'_>], pixels: &[f32], n: usize, out: &mut [f32]) -> Result<()> {
        let level = session::level(self.signature.is_users());
        let session =
            session::create(self.runtime, &self.signature.model, self.threads_per_run, level, &Target::cpu())?;
        self.run_with(&mut SessionSlot { session, device: None }, weights, pixels, n, out)
    }

    /// Runs, and compares what comes of it with the CPU's embeddings of a few of the images, where that has to be done
    /// and `is_precise` tells that it has not been. Until it has been, nothing is written to `out` on an error.
    pub(super) fn with_precision(
        &self,
        is_precise: &AtomicBool,
        (pixels, n): (&[f32], usize),
        out: &mut [f32],
        run: impl FnOnce(&mut [f32]) -> Result<()>,
        on_cpu: impl FnOnce(&[f32], usize, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        const IMAGES: usize = 8;

        let Some(least) = self.target.min_cosine().filter(|_| !is_precise.load(Ordering::Acquire)) else {
            return run(out);
        };
        let mut embeds = try_zeroed(out.len())?;
        run(&mut embeds)?;
        let some = n.min(IMAGES);
        let mut cpu = try_zeroed(some * self.arch.embed_dim)?;
        on_cpu(&pixels[..some * self.arch.pixels()], some, &mut cpu)?;
        // Where the CPU's are not finite either, it is not for want of precision.
        if cpu.iter().all(|value| value.is_finite()) {
            precision::check(&embeds, &cpu, self.arch.embed_dim, least)?;
            is_precise.store(true, Ordering::Release);
        }
        out.copy_from_slice(&embeds);
        Ok(())
    }

    /// Hands the images over as the graph takes them: in its type, and as many at a time as it wants. `run` is given
    /// the pixels and room for their embeddings. What was computed is written to `out` at the end.
    pub(super) fn in_runs(
        &self,
        pixels: &[f32],
        n: usize,
        out: &mut [f32],
        run: impl FnMut(Input<'_>, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        if self.may_mix_images(n) {
            self.in_checked_runs(pixels, n, out, run)
        } else {
            self.in_unchecked_runs(pixels, n, out, run)
        }
    }

    fn in_unchecked_runs(
        &self,
        pixels: &[f32],
        n: usize,
        out: &mut [f32],
        mut run: impl FnMut(Input<'_>, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let (size, image, embed) = (self.arch.image_size(), self.arch.pixels(), self.arch.embed_dim);
        let dtype = self.signature.pixels_dtype;
        let batch = self.signature.batch.unwrap_or(n);
        let explain = |e: Error| self.explain_batch(e, batch);
        if dtype == DType::F32 && batch == n {
            let input = Input { name: "", shape: &[n, 3, size, size], values: Elements::F32(pixels) };
            return run(input, out).map_err(explain);
        }
        let mut embeds = try_zeroed(n.div_ceil(batch) * batch * embed)?;
        let mut images = try_zeroed::<f32>(batch * image)?;
        // Room for half floats at an address that they may have.
        let mut cast = try_zeroed::<u16>(if dtype == DType::F32 { 0 } else { batch * image })?;
        for (some, out) in pixels.chunks(batch * image).zip(embeds.chunks_mut(batch * embed)) {
            // The last run is filled up with black images, whose embeddings nobody sees.
            images[..some.len()].copy_from_slice(some);
            images[some.len()..].fill(0.0);
            let shape = [batch, 3, size, size];
            let values = if dtype == DType::F32 {
                Elements::F32(&images)
            } else {
                cast.iter_mut().zip(&images).for_each(|(slot, value)| *slot = half::f16::from_f32(*value).to_bits());
                Elements::Other(dtype, u16_bytes(&cast))
            };
            run(Input { name: "", shape: &shape, values }, out).map_err(explain)?;
        }
        out.copy_from_slice(&embeds[..n * embed]);
        Ok(())
    }

    /// Whether it has not been seen yet that a run of several images gives each its own embedding: a user's graph may
    /// say that it takes any number, and have been exported for one.
    fn may_mix_images(&self, batch: usize) -> bool {
        let is_open = self.signature.is_users() && self.signature.batch.is_none();
        is_open && batch > 1 && !self.keeps_images_apart.load(Ordering::Acquire)
    }

    /// [`Encoder::in_runs`], and the last image once more alone: it has to get the same embedding.
    fn in_checked_runs(
        &self,
        pixels: &[f32],
        n: usize,
        out: &mut [f32],
        mut run: impl FnMut(Input<'_>, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let (image, embed) = (self.arch.pixels(), self.arch.embed_dim);
        let (mut together, mut alone) = (try_zeroed(out.len())?, try_zeroed(embed)?);
        self.in_unchecked_runs(pixels, n, &mut together, &mut run)?;
        self.in_unchecked_runs(&pixels[(n - 1) * image..], 1, &mut alone, &mut run)?;
        precision::check_alone(&together[(n - 1) * embed..], &alone, n)?;
        self.keeps_images_apart.store(true, Ordering::Release);
        out.copy_from_slice(&together);
        Ok(())
    }

    /// Exporters bake the number of images of their example into graphs that say that any number will do.
    fn explain_batch(&self, error: Error, batch: usize) -> Error {
        if !self.signature.is_users()
            || self.signature.batch.is_some()
            || batch < 2
            || error.kind() != ErrorKind::Runtime
        {
            return error;
        }
        error.or_hint(format!(
            "The graph may have been exported for one image in each run, though it does not say so: this was a run of \
             {batch}. Give it one at a time (--batch 1), or export it with a dynamic batch"
        ))
    }
}
