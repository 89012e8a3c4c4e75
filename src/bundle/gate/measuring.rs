//! The runs of the gate: embeddings of every task in f32 and in what is tried, over the weights that will run.

use std::ops::Range;
use std::sync::Arc;

use super::options::{Gate, GateProgress, LabelledTask};
use super::patterns;
use super::record::{AccuracyMeasure, Floors, TaskMeasure, Trial};
use super::search::Trials;
use crate::basis::TaskExpr;
use crate::bundle::measure::cosine;
use crate::encoder::{Encoder, EncoderOptions};
use crate::error::{Error, Result};
use crate::heads::Head;
use crate::preprocess::Preprocess;
use crate::tower::{Arch, LayerPrecisions};
use crate::weights::{Model, TaskWeights};

/// Labelled images of a task whose embeddings are compared.
const COMPARED: usize = 32;

/// The tasks of a bundle, with what they gave in f32.
pub(super) struct Measuring<'a> {
    arch: &'a Arch,
    gate: &'a Gate,
    options: EncoderOptions,
    preprocess: Preprocess,
    tasks: Vec<Task<'a>>,
    /// Built-in images, where a task has no others.
    built_in: Vec<f32>,
    trials: usize,
    progress: &'a dyn Fn(GateProgress),
}

/// A task and its images.
struct Task<'a> {
    name: String,
    weights: TaskWeights,
    labelled: Option<&'a LabelledTask>,
    /// In f32, of the images that are compared.
    embeds: Vec<f32>,
    /// In f32, the images that are classified as they are labelled.
    right: usize,
}

impl<'a> Measuring<'a> {
    /// Runs every task of `model` that can be recovered in f32.
    pub(super) fn new(
        arch: &'a Arch,
        preprocess: Preprocess,
        model: &Arc<Model>,
        gate: &'a Gate,
        progress: &'a dyn Fn(GateProgress),
    ) -> Result<Self> {
        let mut tasks = Vec::new();
        if let Some(basis) = model.basis() {
            let names = basis.tasks().iter().enumerate().filter(|(t, _)| basis.recovery().is_recoverable(*t));
            for (_, name) in names {
                let labelled = gate.labelled.iter().find(|labelled| labelled.task == *name);
                let weights = model.weights(&TaskExpr::task(name))?;
                tasks.push(Task { name: name.clone(), weights, labelled, embeds: Vec::new(), right: 0 });
            }
        }
        if tasks.is_empty() {
            return Err(Error::invalid("precisions are measured with tasks, and none can be recovered"));
        }
        let built_in = match tasks.iter().any(|task| task.labelled.is_none()) {
            true => patterns::pixels(&preprocess),
            false => Vec::new(),
        };
        let options = EncoderOptions::for_trials(gate.encoder.threads, gate.encoder.runtime.clone());
        let mut this = Self { arch, gate, options, preprocess, tasks, built_in, trials: 0, progress };
        let results = this.run(LayerPrecisions::default(), true)?;
        for (task, Given { embeds, right }) in this.tasks.iter_mut().zip(results) {
            (task.embeds, task.right) = (embeds, right);
        }
        Ok(this)
    }

    /// The number of built-in images that were looked at.
    pub(super) fn built_in(&self) -> usize {
        self.built_in.len() / self.arch.pixels()
    }

    /// Runs every task; on all its labelled images where `is_judged`.
    fn run(&mut self, precisions: LayerPrecisions, is_judged: bool) -> Result<Vec<Given>> {
        let encoder =
            Encoder::new(self.arch, &EncoderOptions { precision: precisions.into(), ..self.options.clone() })?;
        let count = |task: &Task<'_>| {
            let labelled = task.labelled.filter(|_| is_judged).map_or(0, |labelled| labelled.labels.len());
            task.compared(self.built_in()).len() + labelled
        };
        let (trial, total) = (self.trials, self.tasks.iter().map(count).sum());
        self.trials += 1;
        let mut done = 0;
        let mut tell = |images: usize| {
            done += images;
            (self.progress)(GateProgress { trial, precisions, is_alone: !is_judged, images: done, total });
        };
        tell(0);
        let mut results = Vec::with_capacity(self.tasks.len());
        for task in &self.tasks {
            // Reconstructed once, past the cache.
            let weights = task.weights.in_layout(encoder.layout()).get()?;
            let mut embeds = Vec::new();
            for batch in batches(&task.compared(self.built_in()), self.gate.batch) {
                let pixels = self.pixels(task, &batch)?;
                embeds.extend(encoder.encode(&weights, &pixels, batch.len())?);
                tell(batch.len());
            }
            let mut right = 0;
            for labelled in task.labelled.iter().filter(|_| is_judged) {
                let all: Vec<usize> = (0..labelled.labels.len()).collect();
                for batch in batches(&all, self.gate.batch) {
                    let pixels = self.pixels(task, &batch)?;
                    let embeds = encoder.encode(&weights, &pixels, batch.len())?;
                    right += count_right(&labelled.head, &embeds, &labelled.labels[range(&batch)])?;
                    tell(batch.len());
                }
            }
            results.push(Given { embeds, right });
        }
        Ok(results)
    }

    /// These images of a task.
    fn pixels(&self, task: &Task<'_>, images: &[usize]) -> Result<Vec<f32>> {
        let size = self.arch.pixels();
        match task.labelled {
            None => Ok(self.built_in[range(images).start * size..range(images).end * size].to_vec()),
            Some(labelled) => {
                let mut pixels = Vec::with_capacity(images.len() * size);
                for run in images.chunk_by(|a, b| a + 1 == *b) {
                    pixels.extend(labelled.images.preprocess(
                        &self.preprocess,
                        range(run),
                        self.gate.encoder.threads,
                    )?);
                }
                Ok(pixels)
            }
        }
    }

    fn cosines(&self, given: &[Given]) -> Vec<f64> {
        let width = self.arch.embed_dim;
        let pairs = self.tasks.iter().zip(given);
        pairs.map(|(task, given)| least_cosine(&given.embeds, &task.embeds, width)).collect()
    }
}

/// What a task's runs gave.
struct Given {
    embeds: Vec<f32>,
    right: usize,
}

impl Task<'_> {
    /// The images that embeddings are compared of: built-in ones, or some of the labelled ones, from all over them.
    fn compared(&self, built_in: usize) -> Vec<usize> {
        let Some(labelled) = self.labelled else { return (0..built_in).collect() };
        let (all, count) = (labelled.labels.len(), labelled.labels.len().min(COMPARED));
        (0..count).map(|i| i * all / count).collect()
    }
}

impl Trials for Measuring<'_> {
    fn try_out(&mut self, precisions: LayerPrecisions) -> Result<Trial> {
        let given = self.run(precisions, true)?;
        let measured = self.tasks.iter().zip(self.cosines(&given)).zip(&given);
        let tasks = measured.map(|((task, cosine), given)| {
            let accuracy = task.labelled.map(|labelled| {
                let (images, right_in_f32, right) = (labelled.labels.len(), task.right, given.right);
                AccuracyMeasure { images, right_in_f32, right }
            });
            TaskMeasure { task: task.name.clone(), cosine, accuracy }
        });
        let mut trial = Trial { precisions: precisions.to_string(), passed: false, tasks: tasks.collect() };
        let floors: &Floors = &self.gate.floors;
        trial.passed = trial.keeps_to(floors);
        let (least, drop) = (trial.least_cosine(false), trial.worst_drop());
        tracing::info!(%precisions, passed = trial.passed, ?least, ?drop, "the gate of precisions");
        Ok(trial)
    }

    fn error(&mut self, precisions: LayerPrecisions) -> Result<f64> {
        let given = self.run(precisions, false)?;
        let least = self.cosines(&given).into_iter().fold(1.0, f64::min);
        Ok(rounded(1.0 - least))
    }
}

/// Batches of images, by their numbers.
fn batches(images: &[usize], batch: usize) -> Vec<Vec<usize>> {
    images.chunks(batch.max(1)).map(<[usize]>::to_vec).collect()
}

/// The numbers of neighbours.
fn range(images: &[usize]) -> Range<usize> {
    images.first().map_or(0..0, |first| *first..first + images.len())
}

/// The images whose class the head finds first.
fn count_right(head: &Head, embeds: &[f32], labels: &[usize]) -> Result<usize> {
    let mut right = 0;
    for (embedding, &label) in embeds.chunks_exact(head.embedding_dim()).zip(labels) {
        right += usize::from(head.classify(embedding, 1)?.first().is_some_and(|best| best.class == label));
    }
    Ok(right)
}

/// To seven digits, which are read again as they are written.
fn rounded(value: f64) -> f64 {
    (value * 1e7).round() / 1e7
}

/// The least cosine between rows of one width, to seven digits; −1 where a row of one is zero, and none of the other's.
fn least_cosine(a: &[f32], b: &[f32], width: usize) -> f64 {
    rounded(a.chunks_exact(width).zip(b.chunks_exact(width)).map(|(a, b)| cosine(a, b)).fold(1.0, f64::min))
}
