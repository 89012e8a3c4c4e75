//! Formats for a size: of several choices the one whose embeddings are nearest to those of the vectors as they are.
//!
//! Errors of one size are not equally bad. What rounding adds to a matrix is noise, which a tower averages out; what a
//! lower rank takes away it does not; and a patch embedding matters more than the last MLP. So a few tasks are run with
//! one parameter after the other stored coarsely, all others as they are. The squared distance between the embeddings,
//! over the squared error of the parameter, is the weight of that parameter's errors of that kind: a distance grows
//! with the square of a small error, and errors of different parameters add up. That is no more than nearly so.
//! Therefore the formats that these weights give are run against those of plain errors, and against one format or rank
//! for all.

use std::collections::BTreeMap;
use std::fmt;

use super::choose::{FormatCosts, Formats, LossKind, Sensitivity, candidates};
use super::gate::built_in_images;
use super::measure::{cosine, encode, task_factors};
use super::pack::Packer;
use super::quantise::StoredFormat;
use crate::basis::{Basis, TaskExpr};
use crate::encoder::{Encoder, EncoderOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::weights::{Model, ModelOptions};

/// Tasks that are run, from all over them.
const TASKS: usize = 8;

/// Images that one run takes.
const BATCH: usize = 32;

/// What embeddings are compared with.
#[derive(Clone, Debug, Default)]
pub struct ComparedImages {
    /// Preprocessed images, `[n, 3, S, S]`; built-in ones where there are none.
    pub pixels: Vec<f32>,
    /// Threads, and the library of ONNX Runtime; nothing else of it is looked at.
    pub encoder: EncoderOptions,
}

/// What finds formats for a size ([`Packer::planner`]).
pub struct Planner<'a> {
    packer: &'a Packer<'a>,
    measured: Option<Measured<'a>>,
}

/// What was measured of embeddings.
struct Measured<'a> {
    runs: Runs<'a>,
    /// With the vectors as they are.
    right: Embeds,
    /// The costs of formats by what they do to embeddings.
    weighed: FormatCosts,
}

impl fmt::Debug for Planner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Planner").field("is_measured", &self.measured.is_some()).finish_non_exhaustive()
    }
}

impl<'a> Packer<'a> {
    /// A planner of formats: on `images` by what becomes of embeddings, without any by the errors of vectors. It
    /// encodes everything in every format, as the first call of [`Packer::smallest`] does, and with images runs up to
    /// four tasks twice for each matrix that the vectors change. `progress` is told the bytes of the vectors that are
    /// done: those of [`Packer::source_bytes`], with images twice.
    ///
    /// # Errors
    /// As [`Encoder::new`] and [`Encoder::encode`]; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for images
    /// where a graph is carried, as the built one is what is run.
    pub fn planner(&self, images: Option<&ComparedImages>, progress: &dyn Fn(u64)) -> Result<Planner<'_>> {
        if images.is_some() && self.graph.is_some() {
            return Err(Error::unsupported(
                "embeddings are compared with the built graph, and the bundle carries another",
            ));
        }
        let costs = self.costs(progress)?;
        let Some(images) = images else { return Ok(Planner { packer: self, measured: None }) };
        let options = EncoderOptions::for_trials(images.encoder.threads, images.encoder.runtime.clone());
        let pixels = match images.pixels.is_empty() {
            true => built_in_images(&self.preprocess),
            false => images.pixels.clone(),
        };
        let runs = Runs { packer: self, encoder: Encoder::new(self.arch(), &options)?, pixels };
        let right = runs.embeds(self.basis.clone(), 1)?;
        let weighed = costs.weighed(&self.sensitivity(&costs, &runs, &right, progress)?);
        Ok(Planner { packer: self, measured: Some(Measured { runs, right, weighed }) })
    }
}

impl Planner<'_> {
    /// The bytes of the bundle in the smallest formats.
    ///
    /// # Errors
    /// As [`Packer::write`], where there is nothing to be written.
    pub fn least_bytes(&self) -> Result<u64> {
        let (smallest, _) = self.packer.costs(&|_| ())?.smallest();
        self.packer.planned_bytes(&smallest)
    }

    /// The formats found with which the bundle takes at most `bytes` and the worst task loses least. What residuals and
    /// merges take is not in the bytes. With images, up to eight tasks are run for each of four choices.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for bytes that the smallest formats exceed; as
    /// [`Encoder::encode`].
    pub fn within(&self, bytes: u64) -> Result<Formats> {
        let packer = self.packer;
        let plain = packer.fitted(&*packer.costs(&|_| ())?, bytes)?;
        let Some(Measured { runs, right, weighed }) = &self.measured else { return Ok(plain) };
        let weighed = packer.fitted(weighed, bytes)?;
        let mut best: Option<(f64, Formats)> = None;
        for formats in [Some(weighed), Some(plain)].into_iter().chain(packer.largest_uniform(bytes)).flatten() {
            let embeds = runs.embeds(packer.stored(&formats)?, 1)?;
            let of_task = |(t, embeds): (&usize, &Vec<f32>)| distance(&right[t], embeds, packer.arch().embed_dim);
            let worst = embeds.iter().map(of_task).fold(0.0, f64::max);
            tracing::info!(?worst, formats = ?formats.count(), "formats within a size");
            if best.as_ref().is_none_or(|(least, _)| worst < *least) {
                best = Some((worst, formats));
            }
        }
        best.map(|(_, formats)| formats).ok_or_else(|| Error::new(ErrorKind::Internal, "no formats were tried"))
    }
}

impl Packer<'_> {
    /// The formats with the least error, by these costs, in so many bytes.
    fn fitted(&self, costs: &FormatCosts, bytes: u64) -> Result<Formats> {
        /// Halvings of the range of the bound, from no error to that of the smallest formats.
        const STEPS: usize = 24;

        let (mut best, mut above) = costs.smallest();
        let least = self.planned_bytes(&best)?;
        if least > bytes {
            return Err(Error::invalid("the bundle cannot be that small")
                .expected(format_args!("at least {least} bytes"))
                .got(bytes)
                .hint("Fewer vectors, or another base (--base-format), take less"));
        }
        let mut below = 0.0;
        for _ in 0..STEPS {
            let bound = 0.5 * (below + above);
            let formats = costs.choose(bound)?;
            if self.planned_bytes(&formats)? <= bytes {
                (above, best) = (bound, formats);
            } else {
                below = bound;
            }
        }
        Ok(best)
    }

    /// The largest format of all matrices that fits into so many bytes, and the largest rank.
    fn largest_uniform(&self, bytes: u64) -> [Option<Formats>; 2] {
        let fits = |formats: &Formats| self.planned_bytes(formats).is_ok_and(|planned| planned <= bytes);
        let largest = |all: &[StoredFormat]| all.iter().rev().map(|format| self.uniform(*format)).find(fits);
        let (values, ranks) = candidates();
        [largest(&values), largest(&ranks)]
    }

    /// The basis as a bundle of these formats would hold it.
    fn stored(&self, formats: &Formats) -> Result<Basis> {
        let mut basis = self.basis.clone();
        for &(name, parameter) in &self.changed {
            let Some(format) = formats.get(name) else { continue };
            let encoded = encode(parameter.sources(), format, self.threads).map_err(|e| e.tensor(name))?;
            basis = basis.with_parameter(name, encoded.sources(format, parameter.shape())?);
        }
        Ok(basis)
    }

    /// What errors do to embeddings, parameter by parameter.
    fn sensitivity(
        &self,
        costs: &FormatCosts,
        runs: &Runs<'_>,
        right: &Embeds,
        progress: &dyn Fn(u64),
    ) -> Result<Sensitivity> {
        let mut found = Sensitivity::new();
        for &(name, parameter) in &self.changed {
            for format in costs.coarse_formats(name) {
                let encoded = encode(parameter.sources(), format, self.threads).map_err(|e| e.tensor(name))?;
                let sources = encoded.sources(format, parameter.shape())?;
                let embeds = runs.embeds(self.basis.clone().with_parameter(name, sources), 2)?;
                let width = self.arch().embed_dim;
                let distance: f64 = embeds.iter().map(|(t, embeds)| distance(&right[t], embeds, width)).sum();
                let error: f64 = embeds.keys().map(|&t| costs.error(name, format, t)).sum();
                tracing::debug!(tensor = name, %format, error, distance, "what an error does");
                if error > 0.0 {
                    found.insert((name.to_owned(), LossKind::of(format)), distance / error);
                }
            }
            progress(parameter.sources().iter().map(|source| source.nbytes() as u64).sum());
        }
        Ok(found)
    }
}

/// The embeddings of all images by task, by its place among those that can be recovered.
type Embeds = BTreeMap<usize, Vec<f32>>;

/// What is run again and again.
struct Runs<'a> {
    packer: &'a Packer<'a>,
    encoder: Encoder,
    pixels: Vec<f32>,
}

impl Runs<'_> {
    /// The embeddings of up to [`TASKS`] tasks, or of every second or n-th one of those, with this basis.
    fn embeds(&self, basis: Basis, nth: usize) -> Result<Embeds> {
        let names: Vec<String> = task_factors(&basis).into_iter().map(|(name, _)| name).collect();
        let options = ModelOptions { threads: self.packer.threads, cache_bytes: Some(0), ..ModelOptions::default() };
        let model = Model::new(self.packer.base_again(), Some(basis), &options)?;
        let images = self.pixels.len() / self.packer.arch().pixels().max(1);
        let embeds = |(t, name): (usize, &String)| {
            let weights = model.weights(&TaskExpr::task(name))?.in_layout(self.encoder.layout()).get()?;
            Ok((t, self.encoder.encode_in_batches(&weights, &self.pixels, images, BATCH)?))
        };
        let step = names.len().div_ceil(TASKS).max(1);
        names.iter().enumerate().step_by(nth * step).map(embeds).collect()
    }
}

/// The mean squared distance between embeddings of one image, brought to length 1.
fn distance(a: &[f32], b: &[f32], width: usize) -> f64 {
    let rows = a.chunks_exact(width).zip(b.chunks_exact(width));
    let count = rows.len().max(1);
    rows.map(|(a, b)| 2.0 - 2.0 * cosine(a, b)).sum::<f64>() / count as f64
}
