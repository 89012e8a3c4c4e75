//! Encoding with weights on the device, in turns with weights of the host's and a frozen session on the same provider.
//!
//! With the CPU as provider all of it runs too, on weights of the host's: that is how it is tested.

use std::sync::Arc;

use serde::Serialize;
use taskbasis::{
    Cuda, Encoder, EncoderOptions, Error, ErrorKind, Execution, Promotion, Result, TaskExpr, TaskWeights, Weights,
    WeightsOn,
};

use super::super::Setup;
use super::super::encode::{ByBatch, batch_rows, difference, images_per_s, rounds};
use super::super::family::{Fresh, basis_of, recoverable};
use super::super::frozen::FrozenFile;
use super::super::onnx_file::OnnxFileEncoder;
use super::super::samples::{Samples, Variant, digits, paired_difference, take_turns, time};
use super::with_tail;
use crate::output;

/// The tasks of a measurement: one that stays, one that runs and one that comes.
pub const TASKS: usize = 3;

#[derive(Serialize)]
pub struct Encode {
    /// The provider that really computed, and where the weights were.
    pub execution: String,
    /// Time to the embedding of one image, for a task whose weights are not on the device.
    pub not_ready_ms: Samples,
    /// Time to the embedding of one image, for a task whose weights are on the device.
    pub ready_ms: Samples,
    /// The time of a switch: the median of paired differences.
    pub switch_ms: f64,
    /// The interval of `switch_ms` with 95 % confidence.
    pub switch_interval_ms: [f64; 2],
    /// Throughput of a task's first run, its weights having been reconstructed just before, over that of a session on
    /// the task's own `.onnx`, by batch.
    pub switched_vs_frozen: ByBatch,
    /// Throughput of a task that runs again and again, over the frozen session's.
    pub steady_vs_frozen: ByBatch,
    /// Throughput with weights in the host's memory, over the frozen session's.
    pub host_vs_frozen: ByBatch,
    /// The lowest of `switched_vs_frozen`.
    pub lowest_switched_vs_frozen: f64,
    pub batches: Vec<Batch>,
    /// The largest distance of embeddings, relative to their length: ‖a − b‖ / ‖b‖ against the frozen session.
    pub steady_difference: f64,
    pub host_difference: f64,
    /// The fall of the device's free memory for the encoder, its model and what it computes the batches with.
    pub encoder_bytes: Option<usize>,
    /// The fall of the device's free memory for a frozen session beside the encoder, for the same batches.
    pub frozen_bytes: Option<usize>,
}

#[derive(Serialize)]
pub struct Batch {
    pub batch: usize,
    pub switched_ms: Samples,
    pub steady_ms: Samples,
    pub host_ms: Samples,
    pub frozen_ms: Samples,
    /// Images per second, of the medians.
    pub switched_per_s: f64,
    pub steady_per_s: f64,
    pub host_per_s: f64,
    pub frozen_per_s: f64,
}

/// `cuda` is that of the provider, and `budget` what encoders may take of its memory; both are without meaning for the
/// CPU.
pub fn measure(setup: &Setup<'_>, cuda: Option<&Cuda>, budget: Option<usize>) -> Result<Encode> {
    let model = setup.family.open(setup.threads, TASKS * setup.about.weights_bytes)?;
    let task: TaskExpr = recoverable(basis_of(&model)?)?.swap_remove(0);
    let (mut steady, mut fresh) = (model.weights(&task)?, Fresh::of(&model));
    let (pixels, image) = (setup.pixels(setup.batches.iter().max().copied().unwrap_or(1)), setup.about.arch.pixels());
    let all = Batches { sizes: &setup.batches, pixels: &pixels, image };
    let mut memory = Fallen::from_now(cuda)?;

    // Of a GPU, never the host's memory in silence.
    let weights_on = if cuda.is_some() { WeightsOn::Device } else { WeightsOn::Auto };
    let encoder = with_weights(setup, EncoderOptions { weights_on, device_budget: budget, ..setup.encoder.clone() })?;
    match encoder.device_model(&model)? {
        Some(device) => drop(device.pin(&steady)?),
        None => {
            steady = steady.in_layout(encoder.layout());
            steady.pin()?;
        }
    }
    let of_steady = all.run(|pixels, batch| encoder.encode_task(&steady, pixels, batch))?;
    let encoder_bytes = memory.since()?;
    let frozen = FrozenFile::write(setup, &task)?.open(setup)?;
    let of_frozen = all.run(|pixels, batch| frozen.encode(pixels, batch))?;
    let frozen_bytes = memory.since()?;
    let host = with_weights(setup, EncoderOptions { weights_on: WeightsOn::Host, ..setup.encoder.clone() })?;
    // Not the model's, which counts what it reconstructs.
    let held = setup.family.open(setup.threads, 0)?.weights(&task)?.in_layout(host.layout()).get()?;
    let of_host = all.run(|pixels, batch| host.encode(&held, pixels, batch))?;
    let farthest = |these: &[Vec<f32>]| {
        these.iter().zip(&of_frozen).map(|(these, frozen)| difference(these, frozen)).fold(0.0, f64::max)
    };

    let ways = Ways { encoder, steady, host, held, frozen };
    let [not_ready_ms, ready_ms] = ways.switches(&mut fresh, &pixels[..image], if setup.quick { 10 } else { 100 })?;
    let (switch_ms, switch_interval_ms) = paired_difference(&not_ready_ms.each, &ready_ms.each);
    let of_size = |&batch: &usize| ways.batch(&mut fresh, &pixels[..batch * image], batch, rounds(setup, batch));
    let batches = setup.batches.iter().map(of_size).collect::<Result<Vec<_>>>()?;
    let device = ways.encoder.device_model(&model)?;
    let kept = device.map_or_else(|| model.cache().stats(), |device| device.stats().cache);
    if kept.misses != fresh.given as u64 + 1 {
        return Err(Error::new(ErrorKind::Internal, "some weights were there already, or one task's not any more"));
    }
    let over_frozen = |of: fn(&Batch) -> f64| -> ByBatch {
        batches.iter().map(|batch| (batch.batch.to_string(), of(batch) / batch.frozen_per_s)).collect()
    };
    let switched_vs_frozen = over_frozen(|batch| batch.switched_per_s);
    Ok(Encode {
        execution: told(ways.encoder.execution()),
        not_ready_ms,
        ready_ms,
        switch_ms,
        switch_interval_ms,
        lowest_switched_vs_frozen: switched_vs_frozen.values().copied().fold(f64::INFINITY, f64::min),
        switched_vs_frozen,
        steady_vs_frozen: over_frozen(|batch| batch.steady_per_s),
        host_vs_frozen: over_frozen(|batch| batch.host_per_s),
        steady_difference: farthest(&of_steady),
        host_difference: farthest(&of_host),
        batches,
        encoder_bytes,
        frozen_bytes,
    })
}

/// The ways to run one task, and others.
struct Ways {
    /// The encoder with weights on the device.
    encoder: Encoder,
    steady: TaskWeights,
    /// The encoder with weights in the host's memory.
    host: Encoder,
    held: Arc<Weights>,
    frozen: OnnxFileEncoder,
}

impl Ways {
    /// Embeddings of one image by tasks whose weights are not there, and by one whose weights are.
    fn switches(&self, fresh: &mut Fresh, pixels: &[f32], rounds: usize) -> Result<[Samples; 2]> {
        self.warm_up(fresh, pixels, 1)?;
        let variants: [Variant<'_>; 2] = [
            Box::new(|| {
                let task = fresh.next()?;
                time(|| self.encoder.encode_task(&task, pixels, 1)).map(|(ms, _)| ms)
            }),
            Box::new(|| time(|| self.encoder.encode_task(&self.steady, pixels, 1)).map(|(ms, _)| ms)),
        ];
        in_turns(rounds, variants)
    }

    fn batch(&self, fresh: &mut Fresh, pixels: &[f32], batch: usize, rounds: usize) -> Result<Batch> {
        self.warm_up(fresh, pixels, batch)?;
        let variants: [Variant<'_>; 4] = [
            Box::new(|| {
                let task = fresh.next()?;
                compute(&self.encoder, &task)?;
                time(|| self.encoder.encode_task(&task, pixels, batch)).map(|(ms, _)| ms)
            }),
            Box::new(|| time(|| self.encoder.encode_task(&self.steady, pixels, batch)).map(|(ms, _)| ms)),
            Box::new(|| time(|| self.host.encode(&self.held, pixels, batch)).map(|(ms, _)| ms)),
            Box::new(|| time(|| self.frozen.encode(pixels, batch)).map(|(ms, _)| ms)),
        ];
        in_turns(rounds, variants).map(|samples| Batch::of(batch, samples))
    }

    /// Runs with every piece of memory that weights may be given: a first run there may cost more (CUDA graphs).
    fn warm_up(&self, fresh: &mut Fresh, pixels: &[f32], batch: usize) -> Result<()> {
        (0..TASKS).try_for_each(|_| self.encoder.encode_task(&fresh.next()?, pixels, batch).map(drop))
    }
}

fn in_turns<const N: usize>(rounds: usize, mut variants: [Variant<'_>; N]) -> Result<[Samples; N]> {
    let samples = take_turns(rounds, &mut variants)?;
    samples.try_into().map_err(|_| Error::new(ErrorKind::Internal, "a variant was not measured"))
}

/// Images for runs of every size.
struct Batches<'a> {
    sizes: &'a [usize],
    pixels: &'a [f32],
    /// Values of one.
    image: usize,
}

impl Batches<'_> {
    /// The embeddings of a run of each size.
    fn run(&self, run: impl Fn(&[f32], usize) -> Result<Vec<f32>>) -> Result<Vec<Vec<f32>>> {
        self.sizes.iter().map(|&batch| run(&self.pixels[..batch * self.image], batch)).collect()
    }
}

/// One that never promotes.
fn with_weights(setup: &Setup<'_>, options: EncoderOptions) -> Result<Encoder> {
    Encoder::new(&setup.about.arch, &EncoderOptions { promotion: Promotion::Off, ..options })
}

/// Puts the weights where the encoder reads them; returns once they are computed.
fn compute(encoder: &Encoder, task: &TaskWeights) -> Result<()> {
    match encoder.device_model(task.model())? {
        Some(device) => device.get(task)?.synchronize(),
        None => encoder.prepare(task),
    }
}

/// The nodes that ran where, told.
fn told(execution: &Execution) -> String {
    let nodes = execution.nodes.iter().map(|(provider, count)| format!("{count} nodes on {provider}"));
    std::iter::once(execution.to_string()).chain(nodes).collect::<Vec<_>>().join("; ")
}

/// The fall of a device's free memory.
struct Fallen<'a> {
    cuda: Option<&'a Cuda>,
    free: usize,
}

impl<'a> Fallen<'a> {
    fn from_now(cuda: Option<&'a Cuda>) -> Result<Self> {
        let mut fallen = Self { cuda, free: 0 };
        fallen.since()?;
        Ok(fallen)
    }

    /// Since it was asked last. `None` without a device.
    fn since(&mut self) -> Result<Option<usize>> {
        let Some(cuda) = self.cuda else { return Ok(None) };
        let (free, _) = cuda.memory()?;
        Ok(Some(std::mem::replace(&mut self.free, free).saturating_sub(free)))
    }
}

impl Batch {
    fn of(batch: usize, [switched_ms, steady_ms, host_ms, frozen_ms]: [Samples; 4]) -> Self {
        let per_s = |ms: &Samples| images_per_s(batch, ms);
        Self {
            batch,
            switched_per_s: per_s(&switched_ms),
            steady_per_s: per_s(&steady_ms),
            host_per_s: per_s(&host_ms),
            frozen_per_s: per_s(&frozen_ms),
            switched_ms,
            steady_ms,
            host_ms,
            frozen_ms,
        }
    }
}

impl Encode {
    pub fn rows(&self) -> Vec<Vec<String>> {
        let batches = self.batches.iter().map(|of| {
            let ways = [
                ("just switched", &of.switched_ms),
                ("steady", &of.steady_ms),
                ("weights of the host's", &of.host_ms),
                ("frozen", &of.frozen_ms),
            ];
            (of.batch, ways.map(|(name, ms)| (name.to_owned(), ms)).to_vec())
        });
        batch_rows("encode there", batches)
    }

    pub fn other_rows(&self) -> Vec<[String; 2]> {
        let [low, high] = self.switch_interval_ms;
        let mut rows = vec![
            ["encoding ran on".into(), self.execution.clone()],
            ["another task, to its first embedding".into(), format!("{} ms", with_tail(&self.not_ready_ms))],
            ["  one that is ready".into(), format!("{} ms", with_tail(&self.ready_ms))],
            [
                "  more than that".into(),
                format!("{} ms (95 %: {} to {})", digits(self.switch_ms), digits(low), digits(high)),
            ],
            [
                "difference on the device, of the host's".into(),
                format!("{:.1e}, {:.1e}", self.steady_difference, self.host_difference),
            ],
        ];
        let bytes = |bytes: usize| output::bytes(bytes as u64);
        if let (Some(encoder), Some(frozen)) = (self.encoder_bytes, self.frozen_bytes) {
            let value = format!("{}; a frozen session {}", bytes(encoder), bytes(frozen));
            rows.push(["device memory of the encoder and its model".into(), value]);
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use taskbasis::Precision;

    use super::super::super::family::Family;
    use super::super::super::machine::Machine;
    use super::super::super::{Bench, Report, batches, growth, html};
    use super::super::{Device, Gpu};
    use super::*;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        bench: Bench,
    }

    fn keys(value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) => {
                found.extend(map.keys().cloned());
                map.values().for_each(|value| keys(value, found));
            }
            serde_json::Value::Array(values) => values.iter().for_each(|value| keys(value, found)),
            _ => {}
        }
    }

    /// By the CPU: there is no other provider here.
    #[test]
    fn every_way_encodes_the_same() {
        if !crate::need::runtime() {
            return;
        }
        let family = Family::synthetic(&growth::small(4, 3), "small", None).unwrap();
        let Alone { bench } = Alone::parse_from(["bench", "--batch", "3", "--threads", "2"]);
        let about = family.about(&bench.encoder).unwrap();
        let setup = Setup {
            family: &family,
            about: &about,
            threads: 2,
            quick: true,
            batches: batches(3, true),
            precisions: vec![Precision::F32.into()],
            peers: None,
            encoder: bench.encoder.options(),
            args: &bench.encoder,
        };
        let encode = measure(&setup, None, None).unwrap();
        assert!(encode.steady_difference < 1e-5 && encode.host_difference < 1e-5);
        assert_eq!((encode.execution.as_str(), encode.encoder_bytes, encode.frozen_bytes), ("cpu", None, None));
        let [low, high] = encode.switch_interval_ms;
        assert!(low <= encode.switch_ms && encode.switch_ms <= high);
        assert!(encode.not_ready_ms.runs >= 10 && encode.ready_ms.runs == encode.not_ready_ms.runs);
        assert_eq!(encode.batches.iter().map(|of| of.batch).collect::<Vec<_>>(), [1, 2, 3]);
        for of in &encode.batches {
            let expected = of.frozen_ms.median / of.switched_ms.median;
            let ratio = encode.switched_vs_frozen[&of.batch.to_string()];
            assert!((ratio / expected - 1.0).abs() < 1e-9);
            assert!(encode.lowest_switched_vs_frozen <= ratio && expected.is_finite());
        }
        assert!(encode.switched_vs_frozen.values().any(|ratio| *ratio == encode.lowest_switched_vs_frozen));

        let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/performance.md")).unwrap();
        let mut found = Vec::new();
        keys(&serde_json::to_value(&encode).unwrap(), &mut found);
        found.retain(|key| key.parse::<u32>().is_err() && !docs.contains(&format!("`{key}`")));
        assert!(found.is_empty(), "docs/performance.md does not tell of {found:?}");

        // As text and as a page; a GPU's figures are those of nothing.
        let gpu = Gpu {
            name: "none".into(),
            compute_capability: "0.0".into(),
            cuda: "0.0".into(),
            driver: None,
            memory_bytes: 0,
            free_bytes: 0,
        };
        let device = Device {
            gpu,
            bandwidth_ratio: 0.0,
            lowest_ratio: 0.0,
            switch_p50_ms: 0.0,
            switch_p99_ms: 0.0,
            formats: Vec::new(),
            encode: Some(encode),
            not_encoded: None,
        };
        let machine = Machine::look(2, &setup.encoder, true).unwrap();
        let report = Report { machine, quick: true, device: Some(device), ..Report::default() };
        let (text, page) = (report.text(), html::page(&report).unwrap());
        for way in ["batch 3, just switched", "batch 3, steady", "batch 3, weights of the host", "batch 3, frozen"] {
            assert!(text.contains(way) && page.contains(way), "{way}: {text}");
        }
        assert!(page.matches("<svg").count() == 2 && text.contains("another task, to its first embedding"));
    }
}
