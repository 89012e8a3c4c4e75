//! Steady state: the same task again and again, in the built graph in every precision, beside a session on the task's
//! own `.onnx`, other libraries, and a user's graph.

mod graph;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use taskbasis::{Encoder, Error, ErrorKind, PrecisionChoice, Result, TaskExpr, Weights};

use super::Setup;
use super::family::{basis_of, recoverable};
use super::frozen::FrozenFile;
use super::peers::{LeftOut, Peer, Peers};
use super::samples::{Ratio, Samples, Variant, digits, take_turns, time};
use crate::output;

pub use graph::{Batch as OfGraphBatch, OfGraph, graph};

/// A value per batch size, which is text as JSON's keys must be.
pub type ByBatch = BTreeMap<String, f64>;

/// The name of the session on the task's own `.onnx`, f32, with which all is compared.
const FROZEN: &str = "frozen";

/// The cosine with the frozen session's embeddings below which a peer computes something else.
const SAME_NETWORK: f64 = 0.9;

#[derive(Serialize)]
pub struct Encode {
    /// Time of a run over that of a session on the task's own `.onnx`, by what runs and batch: `median` of `ratios`.
    pub over_frozen: BTreeMap<String, ByBatch>,
    /// What runs: the precisions, then peers.
    pub ways: Vec<Way>,
    pub batches: Vec<Batch>,
    /// Everything over the frozen session, and every precision over every peer.
    pub ratios: Vec<Compared>,
    /// Other libraries that were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peers: Option<OfPeers>,
    /// Figures of a user's graph.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graph: Option<OfGraph>,
}

/// Something that runs the task, and how close it comes to the frozen session.
#[derive(Serialize)]
pub struct Way {
    pub name: String,
    /// Bytes of the task's weights, where they are of taskbasis.
    pub weights_bytes: Option<usize>,
    /// The largest distance of embeddings, relative to their length: ‖a − b‖ / ‖b‖ against the frozen session.
    pub difference: f64,
    /// The lowest cosine of an image's embedding with the frozen session's.
    pub cosine: f64,
}

#[derive(Serialize)]
pub struct Batch {
    pub batch: usize,
    /// In the order of [`Encode::ways`], and the frozen session last.
    pub runs: Vec<Runs>,
}

#[derive(Serialize)]
pub struct Runs {
    pub name: String,
    pub ms: Samples,
    /// Images per second, of the median.
    pub per_s: f64,
}

/// One time over another.
#[derive(Serialize)]
pub struct Compared {
    pub of: String,
    pub over: String,
    pub batch: usize,
    #[serde(flatten)]
    pub ratio: Ratio,
}

#[derive(Serialize)]
pub struct OfPeers {
    pub there: Vec<Peer>,
    pub left_out: Vec<LeftOut>,
}

/// The built graph with a task's weights.
struct Built {
    encoder: Encoder,
    weights: Arc<Weights>,
}

/// Runs a variant takes at a batch size: about as long at each, so that the small ones, where less shows, run often.
pub fn rounds(setup: &Setup<'_>, batch: usize) -> usize {
    if setup.quick { 3 } else { (120 / batch).clamp(7, 40) }
}

pub fn measure(setup: &Setup<'_>) -> Result<Encode> {
    let session = setup.family.session(setup.family.basis(), setup.threads, usize::MAX)?;
    let model = session.model();
    let task: TaskExpr = recoverable(basis_of(model)?)?.swap_remove(0);
    let (named, file) = (model.weights(&task)?, FrozenFile::write(setup, &task)?);
    let peers = setup.peers.map(|python| Peers::start(setup, python, &file, &task)).transpose()?;
    let frozen = file.open(setup)?;
    drop(file);
    let built = |&precision: &PrecisionChoice| {
        let encoder = setup.encoder_in(precision)?;
        let weights = named.in_layout(encoder.layout()).get()?;
        Ok(Built { encoder, weights })
    };
    let built = setup.precisions.iter().map(built).collect::<Result<Vec<_>>>()?;
    let mut of_graph =
        graph(setup, &session)?.map(|graph| graph::Ways::new(setup, &graph, model, &task)).transpose()?;

    let mut ways: Vec<Way> = setup.precisions.iter().map(|precision| Way::of(&precision.to_string())).collect();
    ways.iter_mut().zip(&built).for_each(|(way, built)| way.weights_bytes = Some(built.weights.nbytes()));
    let mut ways_of_peers: Vec<Way> =
        peers.iter().flat_map(|peers| &peers.there).map(|peer| Way::of(&peer.peer)).collect();
    let peers = RefCell::new(peers);
    let mut batches = Vec::new();
    for &batch in &setup.batches {
        let pixels = setup.pixels(batch);
        let expected = frozen.encode(&pixels, batch)?;
        for (way, built) in ways.iter_mut().zip(&built) {
            way.compare(&built.encoder.encode(&built.weights, &pixels, batch)?, &expected, batch);
        }
        if let Some(peers) = peers.borrow_mut().as_mut() {
            for way in &mut ways_of_peers {
                way.compare(&peers.embed(&way.name, batch)?, &expected, batch);
                if way.cosine.is_nan() || way.cosine < SAME_NETWORK {
                    peers.leave_out(&way.name, format!("it computes something else (cosine {:.4})", way.cosine));
                }
            }
            ways_of_peers.retain(|way| peers.there.iter().any(|peer| peer.peer == way.name));
        }
        if let Some(of_graph) = &mut of_graph {
            of_graph.compare(&pixels, batch)?;
        }

        let (pixels, peers) = (&pixels, &peers);
        let mut variants: Vec<Variant<'_>> = Vec::new();
        for Built { encoder, weights } in &built {
            variants.push(Box::new(move || time(|| encoder.encode(weights, pixels, batch)).map(|(ms, _)| ms)));
        }
        for way in &ways_of_peers {
            variants.push(Box::new(move || {
                let mut peers = peers.borrow_mut();
                let peers = peers.as_mut().ok_or_else(|| Error::new(ErrorKind::Internal, "the peers are gone"))?;
                peers.run(&way.name, batch)
            }));
        }
        variants.push(Box::new(|| time(|| frozen.encode(pixels, batch)).map(|(ms, _)| ms)));
        variants.extend(of_graph.iter().flat_map(|of_graph| of_graph.variants(pixels, batch)));
        let mut samples = take_turns(rounds(setup, batch), &mut variants)?;
        drop(variants);
        let of_users = samples.split_off(ways.len() + ways_of_peers.len() + 1);
        if let (Some(of_graph), Ok(of_users)) = (&mut of_graph, of_users.try_into()) {
            of_graph.measured(batch, of_users);
        }
        let names = ways.iter().chain(&ways_of_peers).map(|way| way.name.as_str()).chain([FROZEN]);
        batches.push(Batch::of(batch, names.zip(samples)));
    }
    // One that failed at a larger batch is in none.
    batches.iter_mut().for_each(|batch| {
        let known = |name: &str| name == FROZEN || ways.iter().chain(&ways_of_peers).any(|way| way.name == name);
        batch.runs.retain(|runs| known(&runs.name));
    });
    let ratios = ratios(&batches, ways.len());
    let built_per_s: Vec<f64> = batches.iter().map(|batch| batch.runs[0].per_s).collect();
    ways.append(&mut ways_of_peers);
    Ok(Encode {
        over_frozen: over_frozen(&ratios),
        ways,
        batches,
        ratios,
        peers: peers.into_inner().map(|Peers { there, left_out, .. }| OfPeers { there, left_out }),
        graph: of_graph.map(|of_graph| of_graph.figures(&built_per_s)),
    })
}

/// Everything over the frozen session, then the first `precisions` over what lies between them and it.
fn ratios(batches: &[Batch], precisions: usize) -> Vec<Compared> {
    let mut ratios = Vec::new();
    for Batch { batch, runs } in batches {
        let Some((frozen, others)) = runs.split_last() else { continue };
        let mut add = |these: &Runs, those: &Runs| {
            let (of, over, ratio) = (these.name.clone(), those.name.clone(), Ratio::of(&these.ms, &those.ms));
            ratios.push(Compared { of, over, batch: *batch, ratio });
        };
        others.iter().for_each(|these| add(these, frozen));
        let (ours, peers) = others.split_at(precisions.min(others.len()));
        for these in ours {
            peers.iter().for_each(|those| add(these, those));
        }
    }
    ratios
}

fn over_frozen(ratios: &[Compared]) -> BTreeMap<String, ByBatch> {
    let mut over: BTreeMap<String, ByBatch> = BTreeMap::new();
    for compared in ratios.iter().filter(|compared| compared.over == FROZEN) {
        over.entry(compared.of.clone()).or_default().insert(compared.batch.to_string(), compared.ratio.median);
    }
    over
}

impl Way {
    fn of(name: &str) -> Self {
        Self { name: name.to_owned(), weights_bytes: None, difference: 0.0, cosine: 1.0 }
    }

    /// Keeps the worst of what was compared.
    fn compare(&mut self, embeds: &[f32], expected: &[f32], batch: usize) {
        if embeds.len() != expected.len() {
            (self.difference, self.cosine) = (f64::INFINITY, f64::NAN);
            return;
        }
        self.difference = self.difference.max(difference(embeds, expected));
        let each = expected.len() / batch.max(1);
        for (these, those) in embeds.chunks(each.max(1)).zip(expected.chunks(each.max(1))) {
            // Not by `min`, which passes over what is not a number.
            let cosine = cosine(these, those);
            self.cosine = if cosine < self.cosine || cosine.is_nan() { cosine } else { self.cosine };
        }
    }
}

impl Batch {
    fn of<'a>(batch: usize, runs: impl Iterator<Item = (&'a str, Samples)>) -> Self {
        let runs = runs.map(|(name, ms)| Runs { name: name.to_owned(), per_s: images_per_s(batch, &ms), ms });
        Self { batch, runs: runs.collect() }
    }
}

/// Images per second, by the median.
pub fn images_per_s(batch: usize, ms: &Samples) -> f64 {
    batch as f64 / ms.median * 1e3
}

/// ‖a − b‖ / ‖b‖.
pub fn difference(a: &[f32], b: &[f32]) -> f64 {
    let apart = norm(a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    apart / norm(b.iter().map(|b| f64::from(*b))).max(f64::MIN_POSITIVE)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let product: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    product / norm(a.iter().map(|a| f64::from(*a))) / norm(b.iter().map(|b| f64::from(*b)))
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
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
    /// The ratio of one to another.
    pub fn ratio(&self, of: &str, over: &str, batch: usize) -> Option<&Ratio> {
        let is_it = |compared: &&Compared| (&*compared.of, &*compared.over, compared.batch) == (of, over, batch);
        self.ratios.iter().find(is_it).map(|compared| &compared.ratio)
    }

    /// The median of a run's time over the frozen session's.
    pub fn over_frozen(&self, name: &str, batch: usize) -> Option<f64> {
        self.over_frozen.get(name)?.get(&batch.to_string()).copied()
    }

    pub fn rows(&self) -> Vec<Vec<String>> {
        let header = ["encode", "ms", "half of the runs", "images/s", "time over frozen", "half of the rounds"];
        let mut rows = vec![header.map(String::from).to_vec()];
        for Batch { batch, runs } in &self.batches {
            for Runs { name, ms, per_s } in runs {
                let ratio = self.ratio(name, FROZEN, *batch);
                rows.push(vec![
                    format!("batch {batch}, {name}"),
                    digits(ms.median),
                    format!("{}–{}", digits(ms.p25), digits(ms.p75)),
                    digits(*per_s),
                    ratio.map_or_else(String::new, |ratio| digits(ratio.median)),
                    ratio.map_or_else(String::new, |ratio| format!("{}–{}", digits(ratio.p25), digits(ratio.p75))),
                ]);
            }
        }
        rows
    }

    /// Each precision over each peer, a column a batch size; nothing but the header where there are no peers.
    pub fn peer_rows(&self) -> Vec<Vec<String>> {
        let sizes = self.batches.iter().map(|batch| format!("batch {}", batch.batch));
        let mut rows = vec![std::iter::once("time over a peer's".to_owned()).chain(sizes).collect::<Vec<_>>()];
        let peers = || self.ways.iter().filter(|way| way.weights_bytes.is_none());
        for ours in self.ways.iter().filter(|way| way.weights_bytes.is_some()) {
            for peer in peers() {
                let ratio = |batch: &Batch| self.ratio(&ours.name, &peer.name, batch.batch).map(Ratio::text);
                let cells = self.batches.iter().map(|batch| ratio(batch).unwrap_or_default());
                rows.push(std::iter::once(format!("{} over {}", ours.name, peer.name)).chain(cells).collect());
            }
        }
        rows
    }

    /// What a user's graph took.
    pub fn graph_rows(&self) -> Option<Vec<Vec<String>>> {
        self.graph.as_ref().map(|graph| batch_rows("encode", graph.ways()))
    }

    pub fn other_rows(&self) -> Vec<[String; 2]> {
        let closeness = |way: &Way| {
            let bytes = way.weights_bytes.map(|bytes| format!("; weights {}", output::bytes(bytes as u64)));
            let about =
                format!("cosine {:.6}, difference {:.1e}{}", way.cosine, way.difference, bytes.unwrap_or_default());
            [format!("{}, of frozen", way.name), about]
        };
        let mut rows: Vec<[String; 2]> = self.ways.iter().map(closeness).collect();
        for peer in self.peers.iter().flat_map(|peers| &peers.there) {
            let version = peer.version.as_deref().unwrap_or("of unknown version");
            rows.push([
                peer.peer.clone(),
                format!("{} {version}, ready after {} ms", peer.package, digits(peer.ready_ms)),
            ]);
        }
        rows.extend(self.peers.iter().flat_map(|peers| &peers.left_out).map(|peer| ["left out".into(), peer.text()]));
        rows.extend(self.graph.iter().flat_map(OfGraph::rows));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compared_with_what() {
        let runs = |name, each: [f64; 3]| (name, Samples::of(each.to_vec()));
        let batch = Batch::of(
            8,
            [
                runs("f32", [9.0, 18.0, 9.0]),
                runs("int8", [3.0, 6.0, 3.0]),
                runs("openvino-bf16", [5.0, 10.0, 5.0]),
                runs(FROZEN, [10.0, 20.0, 10.0]),
            ]
            .into_iter(),
        );
        let ratios = ratios(&[batch], 2);
        let told: Vec<_> = ratios.iter().map(|c| (&*c.of, &*c.over, c.batch, c.ratio.median)).collect();
        let expected = [
            ("f32", FROZEN, 8, 0.9),
            ("int8", FROZEN, 8, 0.3),
            ("openvino-bf16", FROZEN, 8, 0.5),
            ("f32", "openvino-bf16", 8, 1.8),
            ("int8", "openvino-bf16", 8, 0.6),
        ];
        assert_eq!(told, expected);
        assert_eq!(over_frozen(&ratios)["int8"]["8"], 0.3);
        assert_eq!(over_frozen(&ratios).len(), 3, "only what is over the frozen session");
    }

    #[test]
    fn the_worst_image_counts() {
        let mut way = Way::of("x");
        way.compare(&[2.0, 0.0, 0.0, 3.0], &[1.0, 0.0, 0.0, 1.0], 2);
        assert_eq!(way.cosine, 1.0);
        way.compare(&[1.0, 0.0, 1.0, 1.0], &[1.0, 0.0, 0.0, 1.0], 2);
        assert!((way.cosine - 0.5f64.sqrt()).abs() < 1e-12);
        way.compare(&[f32::NAN, 0.0], &[1.0, 0.0], 1);
        assert!(way.cosine.is_nan());
        let mut short = Way::of("y");
        short.compare(&[1.0], &[1.0, 0.0], 1);
        assert!(short.cosine.is_nan() && short.difference.is_infinite());
    }
}
