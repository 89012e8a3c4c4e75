//! A user's graph, in turns with the built one: its weights as inputs, promoted, and frozen in a session of its own.

use std::sync::Arc;

use serde::Serialize;
use taskbasis::onnx::BoundGraph;
use taskbasis::{Encoder, EncoderOptions, Error, Model, Promotion, Result, TaskExpr, TaskWeights, Weights};

use super::super::Setup;
use super::super::frozen::FrozenFile;
use super::super::onnx_file::OnnxFileEncoder;
use super::super::samples::{Samples, Variant, time};
use super::{ByBatch, difference, images_per_s};
use crate::args::{Session, no_graph};

/// Figures of a user's graph.
#[derive(Serialize)]
pub struct OfGraph {
    /// Throughput as inputs over that of the same graph with the task's weights in it, in plain ONNX Runtime, by batch.
    pub inputs_vs_frozen: ByBatch,
    /// Throughput promoted over that of the same graph with the task's weights in it.
    pub promoted_vs_frozen: ByBatch,
    /// Throughput as inputs over that of the built graph, in the first precision that is measured.
    pub vs_built: ByBatch,
    pub batches: Vec<Batch>,
    /// The largest relative distance of embeddings from those of the same graph frozen.
    pub inputs_difference: f64,
    pub promoted_difference: f64,
    /// Time from the request to promote until it had been done.
    pub promotion_ms: f64,
}

#[derive(Serialize)]
pub struct Batch {
    pub batch: usize,
    pub inputs_ms: Samples,
    pub promoted_ms: Samples,
    pub frozen_ms: Samples,
    /// Images per second, of the medians.
    pub inputs_per_s: f64,
    pub promoted_per_s: f64,
    pub frozen_per_s: f64,
}

/// The user's graph, where one is given or the bundle carries one, bound to the session's model.
pub fn graph(setup: &Setup<'_>, session: &Session) -> Result<Option<BoundGraph>> {
    let Some(graph) = setup.args.graph(session)? else {
        return if setup.args.optimise_graph { Err(no_graph()) } else { Ok(None) };
    };
    let batch = graph.pixels().shape.as_ref().and_then(|shape| shape.first().copied().flatten());
    match batch {
        Some(batch) if setup.batches != [batch] => {
            Err(Error::unsupported("a graph for one batch size alone is not measured beside others")
                .at(graph.file().path())
                .got(format_args!("batch {batch}"))
                .hint("Export it with a dynamic batch, or leave out the one of a bundle with --built-graph"))
        }
        _ => Ok(Some(graph)),
    }
}

/// The graph with one task, in its three ways to run.
pub struct Ways {
    inputs: Encoder,
    promoting: Encoder,
    frozen: OnnxFileEncoder,
    /// The weights in the layout that each encoder takes: a graph that is optimised may have another form in each.
    as_inputs: Arc<Weights>,
    promoted: TaskWeights,
    promotion_ms: f64,
    inputs_difference: f64,
    promoted_difference: f64,
    batches: Vec<Batch>,
}

impl Ways {
    pub fn new(setup: &Setup<'_>, graph: &BoundGraph, model: &Arc<Model>, task: &TaskExpr) -> Result<Self> {
        let encoder = |promotion| {
            let options = EncoderOptions { promotion, ..setup.encoder.clone() };
            if setup.args.optimise_graph {
                return Encoder::with_fastest_graph(&setup.about.arch, graph, model, &options)
                    .map(|(encoder, _)| encoder);
            }
            Encoder::with_graph(&setup.about.arch, graph, &options)
        };
        let frozen = FrozenFile::of_graph(setup, graph, task)?.open(setup)?;
        let (inputs, promoting) = (encoder(Promotion::Off)?, encoder(Promotion::Manual)?);
        let named = model.weights(task)?;
        let as_inputs = named.in_layout(inputs.layout()).get()?;
        let promoted = named.in_layout(promoting.layout());
        let (promotion_ms, ()) = time(|| promoting.promote(&promoted))?;
        let (inputs_difference, promoted_difference, batches) = (0.0, 0.0, Vec::new());
        Ok(Self {
            inputs,
            promoting,
            frozen,
            as_inputs,
            promoted,
            promotion_ms,
            inputs_difference,
            promoted_difference,
            batches,
        })
    }

    /// Compares the embeddings, and keeps the largest differences.
    pub fn compare(&mut self, pixels: &[f32], batch: usize) -> Result<()> {
        let expected = self.frozen.encode(pixels, batch)?;
        let inputs = self.inputs.encode(&self.as_inputs, pixels, batch)?;
        let promoted = self.promoting.encode_task(&self.promoted, pixels, batch)?;
        self.inputs_difference = self.inputs_difference.max(difference(&inputs, &expected));
        self.promoted_difference = self.promoted_difference.max(difference(&promoted, &expected));
        Ok(())
    }

    /// As inputs, promoted, frozen.
    pub fn variants<'a>(&'a self, pixels: &'a [f32], batch: usize) -> [Variant<'a>; 3] {
        [
            Box::new(move || time(|| self.inputs.encode(&self.as_inputs, pixels, batch)).map(|(ms, _)| ms)),
            Box::new(move || time(|| self.promoting.encode_task(&self.promoted, pixels, batch)).map(|(ms, _)| ms)),
            Box::new(move || time(|| self.frozen.encode(pixels, batch)).map(|(ms, _)| ms)),
        ]
    }

    pub fn measured(&mut self, batch: usize, [inputs_ms, promoted_ms, frozen_ms]: [Samples; 3]) {
        let per_s = |ms: &Samples| images_per_s(batch, ms);
        self.batches.push(Batch {
            batch,
            inputs_per_s: per_s(&inputs_ms),
            promoted_per_s: per_s(&promoted_ms),
            frozen_per_s: per_s(&frozen_ms),
            inputs_ms,
            promoted_ms,
            frozen_ms,
        });
    }

    /// All of it, with the images per second of the built graph at each batch size.
    pub fn figures(self, built_per_s: &[f64]) -> OfGraph {
        let over_frozen = |of: fn(&Batch) -> f64| -> ByBatch {
            self.batches.iter().map(|batch| (batch.batch.to_string(), of(batch) / batch.frozen_per_s)).collect()
        };
        let built = self.batches.iter().zip(built_per_s);
        OfGraph {
            inputs_vs_frozen: over_frozen(|batch| batch.inputs_per_s),
            promoted_vs_frozen: over_frozen(|batch| batch.promoted_per_s),
            vs_built: built.map(|(batch, built)| (batch.batch.to_string(), batch.inputs_per_s / built)).collect(),
            inputs_difference: self.inputs_difference,
            promoted_difference: self.promoted_difference,
            promotion_ms: self.promotion_ms,
            batches: self.batches,
        }
    }
}

impl OfGraph {
    /// What [`batch_rows`](super::batch_rows) takes of each batch.
    pub fn ways(&self) -> impl Iterator<Item = (usize, Vec<(String, &Samples)>)> {
        self.batches.iter().map(|of| {
            let ways = [("as inputs", &of.inputs_ms), ("promoted", &of.promoted_ms), ("frozen", &of.frozen_ms)];
            (of.batch, ways.map(|(name, ms)| (format!("the graph {name}"), ms)).to_vec())
        })
    }

    pub fn rows(&self) -> Vec<[String; 2]> {
        use super::digits;
        // In the order of the batches: that of the map's keys is another.
        let ratio = |of: &Batch| self.vs_built.get(&of.batch.to_string()).map(|ratio| digits(*ratio));
        let vs: Vec<_> = self.batches.iter().filter_map(ratio).collect();
        let differences = format!("{:.1e}, {:.1e}", self.inputs_difference, self.promoted_difference);
        vec![
            ["the graph over the built one, as inputs".into(), vs.join(", ")],
            ["promotion of the graph".into(), format!("{} ms", digits(self.promotion_ms))],
            ["difference as inputs, promoted, of the graph".into(), differences],
        ]
    }
}
