//! Steady state: the same task again and again, its weights as inputs, promoted, and frozen in a session of its own.

use std::sync::Arc;

use serde::Serialize;
use taskbasis::onnx::BoundGraph;
use taskbasis::{Encoder, EncoderOptions, Error, ErrorKind, Model, Promotion, Result, TaskExpr, TaskWeights};

use super::Setup;
use super::family::{basis_of, recoverable};
use super::frozen::FrozenFile;
use super::onnx_file::OnnxFileEncoder;
use super::samples::{Samples, Variant, digits, take_turns, time};
use crate::args::{Session, no_graph};

/// A value per batch size, which is text as JSON's keys must be.
pub type ByBatch = std::collections::BTreeMap<String, f64>;

#[derive(Serialize)]
pub struct Encode {
    /// Throughput of a promoted task over that of a session on its own `.onnx`, by batch.
    pub promoted_vs_frozen: ByBatch,
    /// Throughput of a task that is not promoted, over the frozen session's.
    pub inputs_vs_frozen: ByBatch,
    /// The lowest of `promoted_vs_frozen`.
    pub lowest_promoted_vs_frozen: f64,
    pub batches: Vec<Batch>,
    /// The largest distance of embeddings, relative to their length: ‖a − b‖ / ‖b‖ against the frozen session.
    pub inputs_difference: f64,
    pub promoted_difference: f64,
    /// Time from the request to promote until it had been done.
    pub promotion_ms: f64,
    /// Figures of a user's graph.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graph: Option<OfGraph>,
}

/// A user's graph, in turns with the built one.
#[derive(Serialize)]
pub struct OfGraph {
    /// Throughput as inputs over that of the same graph with the task's weights in it, in plain ONNX Runtime, by batch.
    pub inputs_vs_frozen: ByBatch,
    /// Throughput promoted over that of the same graph with the task's weights in it.
    pub promoted_vs_frozen: ByBatch,
    /// Throughput as inputs over that of the built graph as inputs.
    pub vs_built: ByBatch,
    pub batches: Vec<Batch>,
    /// The largest relative distance of embeddings from those of the same graph frozen.
    pub inputs_difference: f64,
    pub promoted_difference: f64,
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

/// One graph with one task, in its three ways to run.
struct Ways {
    inputs: Encoder,
    promoting: Encoder,
    frozen: OnnxFileEncoder,
    /// The weights in the layout that each encoder takes: a graph that is optimised may have another form in each.
    as_inputs: TaskWeights,
    promoted: TaskWeights,
    inputs_difference: f64,
    promoted_difference: f64,
}

impl Ways {
    fn of_graph(setup: &Setup<'_>, graph: &BoundGraph, model: &Arc<Model>, task: &TaskExpr) -> Result<Self> {
        let encoder = |promotion| {
            let options = EncoderOptions { promotion, ..setup.encoder.clone() };
            if setup.args.optimise_graph {
                return Encoder::with_fastest_graph(&setup.about.arch, graph, model, &options)
                    .map(|(encoder, _)| encoder);
            }
            Encoder::with_graph(&setup.about.arch, graph, &options)
        };
        let frozen = FrozenFile::of_graph(setup, graph, task)?.open(setup)?;
        Ok(Self::new(encoder(Promotion::Off)?, encoder(Promotion::Manual)?, frozen, &model.weights(task)?))
    }

    fn new(inputs: Encoder, promoting: Encoder, frozen: OnnxFileEncoder, task: &TaskWeights) -> Self {
        let (as_inputs, promoted) = (task.in_layout(inputs.layout()), task.in_layout(promoting.layout()));
        let (inputs_difference, promoted_difference) = (0.0, 0.0);
        Self { inputs, promoting, frozen, as_inputs, promoted, inputs_difference, promoted_difference }
    }

    /// Compares the embeddings, and keeps the largest differences.
    fn compare(&mut self, pixels: &[f32], batch: usize) -> Result<()> {
        let expected = self.frozen.encode(pixels, batch)?;
        let inputs = self.inputs.encode(&self.as_inputs.get()?, pixels, batch)?;
        let promoted = self.promoting.encode_task(&self.promoted, pixels, batch)?;
        self.inputs_difference = self.inputs_difference.max(difference(&inputs, &expected));
        self.promoted_difference = self.promoted_difference.max(difference(&promoted, &expected));
        Ok(())
    }
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

/// Runs a variant takes at a batch size: about as long at each, so that the small ones, where less shows, run often.
pub fn rounds(setup: &Setup<'_>, batch: usize) -> usize {
    if setup.quick { 3 } else { (120 / batch).clamp(7, 40) }
}

pub fn measure(setup: &Setup<'_>) -> Result<Encode> {
    let session = setup.family.session(setup.family.basis(), setup.threads, usize::MAX)?;
    let model = session.model();
    let task: TaskExpr = recoverable(basis_of(model)?)?.swap_remove(0);
    let named = model.weights(&task)?;
    let frozen = FrozenFile::write(setup, &task)?.open(setup)?;
    let built = Ways::new(setup.encoder(Promotion::Off)?, setup.encoder(Promotion::Manual)?, frozen, &named);
    let mut all = vec![built];
    if let Some(graph) = graph(setup, &session)? {
        all.push(Ways::of_graph(setup, &graph, model, &task)?);
    }
    let mut promotion_ms = Vec::new();
    for ways in &all {
        promotion_ms.push(time(|| ways.promoting.promote(&ways.promoted))?.0);
    }

    let mut batches: Vec<Vec<Batch>> = all.iter().map(|_| Vec::new()).collect();
    for &batch in &setup.batches {
        let pixels = setup.pixels(batch);
        all.iter_mut().try_for_each(|ways| ways.compare(&pixels, batch))?;
        // What the graph takes is held on to: looking it up is not a part of running it.
        let weights = all.iter().map(|ways| ways.as_inputs.get()).collect::<Result<Vec<_>>>()?;
        let mut variants: Vec<Variant<'_>> = Vec::new();
        for (ways, weights) in all.iter().zip(&weights) {
            let pixels = &pixels;
            variants.push(Box::new(move || time(|| ways.inputs.encode(weights, pixels, batch)).map(|(ms, _)| ms)));
            variants.push(Box::new(move || {
                time(|| ways.promoting.encode_task(&ways.promoted, pixels, batch)).map(|(ms, _)| ms)
            }));
            variants.push(Box::new(move || time(|| ways.frozen.encode(pixels, batch)).map(|(ms, _)| ms)));
        }
        let mut samples = take_turns(rounds(setup, batch), &mut variants)?.into_iter();
        for batches in &mut batches {
            if let (Some(inputs), Some(promoted), Some(frozen)) = (samples.next(), samples.next(), samples.next()) {
                batches.push(Batch::of(batch, inputs, promoted, frozen));
            }
        }
    }
    let mut measured = all.iter().zip(batches);
    let (built, batches) = measured.next().ok_or_else(|| Error::new(ErrorKind::Internal, "nothing was measured"))?;
    let graph = measured.next().map(|(ways, of_graph)| OfGraph {
        inputs_vs_frozen: over(&of_graph, |batch| batch.inputs_per_s, &of_graph, |batch| batch.frozen_per_s),
        promoted_vs_frozen: over(&of_graph, |batch| batch.promoted_per_s, &of_graph, |batch| batch.frozen_per_s),
        vs_built: over(&of_graph, |batch| batch.inputs_per_s, &batches, |batch| batch.inputs_per_s),
        batches: of_graph,
        inputs_difference: ways.inputs_difference,
        promoted_difference: ways.promoted_difference,
    });
    let promoted_vs_frozen = over(&batches, |batch| batch.promoted_per_s, &batches, |batch| batch.frozen_per_s);
    Ok(Encode {
        lowest_promoted_vs_frozen: promoted_vs_frozen.values().copied().fold(f64::INFINITY, f64::min),
        inputs_vs_frozen: over(&batches, |batch| batch.inputs_per_s, &batches, |batch| batch.frozen_per_s),
        promoted_vs_frozen,
        inputs_difference: built.inputs_difference,
        promoted_difference: built.promoted_difference,
        promotion_ms: promotion_ms.swap_remove(0),
        batches,
        graph,
    })
}

impl Batch {
    fn of(batch: usize, inputs_ms: Samples, promoted_ms: Samples, frozen_ms: Samples) -> Self {
        let per_s = |ms: &Samples| images_per_s(batch, ms);
        Self {
            batch,
            inputs_per_s: per_s(&inputs_ms),
            promoted_per_s: per_s(&promoted_ms),
            frozen_per_s: per_s(&frozen_ms),
            inputs_ms,
            promoted_ms,
            frozen_ms,
        }
    }
}

/// One throughput over another, by batch.
fn over(these: &[Batch], this: fn(&Batch) -> f64, those: &[Batch], that: fn(&Batch) -> f64) -> ByBatch {
    these.iter().zip(those).map(|(a, b)| (a.batch.to_string(), this(a) / that(b))).collect()
}

/// Images per second, by the median.
pub fn images_per_s(batch: usize, ms: &Samples) -> f64 {
    batch as f64 / ms.median * 1e3
}

/// ‖a − b‖ / ‖b‖.
pub fn difference(a: &[f32], b: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let apart = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    apart / norm(&mut b.iter().map(|b| f64::from(*b))).max(f64::MIN_POSITIVE)
}

/// A table of batches, each in the same ways, of which the last is the frozen session.
pub fn batch_rows<'a>(
    title: &str,
    batches: impl Iterator<Item = (usize, Vec<(String, &'a Samples)>)>,
) -> Vec<Vec<String>> {
    let header = [title, "ms", "half of the runs", "images/s", "of frozen"];
    let mut rows = vec![header.map(String::from).to_vec()];
    for (batch, ways) in batches {
        let frozen = ways.last().map_or(f64::NAN, |(_, ms)| images_per_s(batch, ms));
        for (name, ms) in ways {
            let per_s = images_per_s(batch, ms);
            rows.push(vec![
                format!("batch {batch}, {name}"),
                digits(ms.median),
                format!("{}–{}", digits(ms.p25), digits(ms.p75)),
                digits(per_s),
                digits(per_s / frozen),
            ]);
        }
    }
    rows
}

impl Encode {
    pub fn rows(&self) -> Vec<Vec<String>> {
        let of_graph = self.graph.iter().flat_map(|graph| &graph.batches).map(|batch| ("the graph ", batch));
        let batches = self.batches.iter().map(|batch| ("", batch)).chain(of_graph).map(|(which, of)| {
            let ways = [("as inputs", &of.inputs_ms), ("promoted", &of.promoted_ms), ("frozen", &of.frozen_ms)];
            (of.batch, ways.map(|(name, ms)| (format!("{which}{name}"), ms)).to_vec())
        });
        batch_rows("encode", batches)
    }

    pub fn other_rows(&self) -> Vec<[String; 2]> {
        let mut rows = vec![
            ["promotion".into(), format!("{} ms", digits(self.promotion_ms))],
            [
                "difference as inputs, promoted".into(),
                format!("{:.1e}, {:.1e}", self.inputs_difference, self.promoted_difference),
            ],
        ];
        if let Some(graph) = &self.graph {
            // In the order of the batches: that of the map's keys is another.
            let ratio = |of: &Batch| graph.vs_built.get(&of.batch.to_string()).map(|ratio| digits(*ratio));
            let vs: Vec<_> = graph.batches.iter().filter_map(ratio).collect();
            let differences = format!("{:.1e}, {:.1e}", graph.inputs_difference, graph.promoted_difference);
            rows.push(["the graph over the built one, as inputs".into(), vs.join(", ")]);
            rows.push(["difference as inputs, promoted, of the graph".into(), differences]);
        }
        rows
    }
}
