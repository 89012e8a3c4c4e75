//! Opening base and basis, and the files' sizes.

use std::path::PathBuf;

use serde::Serialize;
use taskbasis::{BasisFile, Encoder, Error, MapMode, ModelOptions, OpenModel, PrecisionChoice, Result, TaskWeights};

use super::family::{basis_of, first_vectors, recoverable};
use super::samples::{Samples, digits, repeat, time};
use super::{Setup, machine};
use crate::{checkpoints, output};

#[derive(Serialize)]
pub struct Open {
    /// Base and basis together, page cache warm: the median of `warm_ms`.
    pub ms: f64,
    pub warm_ms: Samples,
    /// The base's file, where it has one.
    pub base_ms: Option<Samples>,
    pub basis_ms: Samples,
    /// Time with the files evicted from the page cache before.
    pub cold_ms: Option<Samples>,
    /// Bytes that one cold opening had read from storage.
    pub cold_bytes: Option<u64>,
    /// An encoder for the architecture: the graph and a session over it.
    pub encoder_ms: Samples,
    /// Time from an expression's text to its coefficients.
    pub expression_ms: Samples,
}

pub fn measure(setup: &Setup<'_>) -> Result<Open> {
    let family = setup.family;
    let cold = cold(setup)?;
    let runs = if setup.quick { 5 } else { 30 };
    let warm = repeat(runs, || family.open(setup.threads, 0))?;
    let basis = family.open_basis()?;
    let text = recoverable(&basis)?.iter().map(ToString::to_string).collect::<Vec<_>>().join(" + ");
    Ok(Open {
        ms: warm.median,
        warm_ms: warm,
        base_ms: family.base().map(|base| repeat(runs, || checkpoints::open(base))).transpose()?,
        basis_ms: repeat(runs, || family.open_basis())?,
        cold_bytes: cold.as_ref().and_then(|(_, bytes)| *bytes),
        cold_ms: cold.map(|(samples, _)| samples),
        encoder_ms: repeat(runs.min(10), || Encoder::new(&setup.about.arch, &setup.encoder))?,
        expression_ms: repeat(runs * 10, || basis.coefficients(&text.parse()?))?,
    })
}

fn cold(setup: &Setup<'_>) -> Result<Option<(Samples, Option<u64>)>> {
    let (mut each, mut bytes) = (Vec::new(), None);
    for _ in 0..if setup.quick { 1 } else { 5 } {
        if !setup.family.evict()? {
            return Ok(None);
        }
        let before = machine::bytes_from_storage();
        each.push(time(|| setup.family.open(setup.threads, 0))?.0);
        bytes = before.zip(machine::bytes_from_storage()).map(|(before, after)| after - before);
    }
    Ok(Some((Samples::of(each), bytes)))
}

impl Open {
    pub fn rows(&self) -> Vec<[String; 2]> {
        let mut rows = vec![
            ["open base and basis".into(), self.warm_ms.text()],
            ["  the basis alone".into(), self.basis_ms.text()],
        ];
        rows.extend(self.base_ms.as_ref().map(|ms| ["  the base alone".into(), ms.text()]));
        if let Some(cold) = &self.cold_ms {
            let read =
                self.cold_bytes.map_or(String::new(), |bytes| format!(", {} from storage", output::bytes(bytes)));
            rows.push(["  not in the page cache".into(), cold.text() + &read]);
        }
        rows.push(["make an encoder".into(), self.encoder_ms.text()]);
        rows.push(["all tasks in one expression".into(), format!("{} µs", digits(self.expression_ms.median * 1e3))]);
        rows
    }
}

/// Bytes on storage.
#[derive(Serialize)]
pub struct Storage {
    /// The base's file, where it has one.
    pub base: Option<u64>,
    /// The basis as it was given.
    pub basis: u64,
    /// Bytes of each format, as far as they were made.
    pub bases: Vec<(String, u64)>,
    /// T checkpoints like the base's; T image towers where a bundle holds the base.
    pub checkpoints: u64,
    /// T task vectors of the image tower, f32.
    pub task_vectors: u64,
    /// The basis over T checkpoints.
    pub basis_over_checkpoints: f64,
}

pub fn storage(setup: &Setup<'_>) -> Result<Storage> {
    let base = setup.family.open_base()?.map(|base| base.file_bytes());
    let size = |path: &PathBuf| Ok(BasisFile::open(path, MapMode::Map)?.into_basis()?.file_bytes());
    let bases = setup.family.bases().iter().map(|(name, path)| Ok((name.clone(), size(path)?)));
    let bases = bases.collect::<Result<Vec<_>>>()?;
    let (basis, tasks) = (bases.first().map_or(0, |(_, bytes)| *bytes), setup.about.tasks as u64);
    let checkpoints = tasks * base.unwrap_or(setup.about.model_bytes as u64);
    Ok(Storage {
        base,
        basis,
        checkpoints,
        task_vectors: tasks * setup.about.model_bytes as u64,
        basis_over_checkpoints: basis as f64 / checkpoints.max(1) as f64,
        bases,
    })
}

impl Storage {
    pub fn rows(&self, tasks: usize) -> Vec<[String; 2]> {
        let mut rows = vec![
            [format!("{tasks} checkpoints"), output::bytes(self.checkpoints)],
            [format!("{tasks} task vectors, image tower, f32"), output::bytes(self.task_vectors)],
        ];
        rows.extend(self.base.map(|bytes| ["base".into(), output::bytes(bytes)]));
        rows.extend(self.bases.iter().map(|(format, size)| [format!("basis, {format}"), output::bytes(*size)]));
        rows
    }
}

/// Memory of a process that does what an embedding program does.
#[derive(Serialize)]
pub struct Memory {
    /// The highest anonymous resident memory of a process of its own that opened, reconstructed and embedded.
    pub peak: Option<u64>,
    /// Memory of the process before it opened anything.
    pub before: Option<u64>,
    /// Bytes of one task's weights.
    pub weights: u64,
    /// `peak` over the image tower's f32 bytes.
    pub peak_over_model: Option<f64>,
    /// One process for each precision; the above is the first.
    pub precisions: Vec<OfPrecision>,
}

#[derive(Serialize)]
pub struct OfPrecision {
    pub precision: String,
    pub peak: Option<u64>,
    pub before: Option<u64>,
    pub weights: u64,
    /// `weights` over the bytes of a task's weights as plain arrays.
    pub weights_over_plain: f64,
}

pub fn memory(setup: &Setup<'_>) -> Result<Memory> {
    let of = |&precision: &PrecisionChoice| of_precision(setup, precision);
    let precisions = setup.precisions.iter().map(of).collect::<Result<Vec<_>>>()?;
    let OfPrecision { peak, before, weights, .. } = precisions[0];
    let peak_over_model = peak.map(|peak| peak as f64 / setup.about.model_bytes as f64);
    Ok(Memory { peak, before, weights, peak_over_model, precisions })
}

/// Starts this program again as [`probe`], and reads what it says.
fn of_precision(setup: &Setup<'_>, precision: PrecisionChoice) -> Result<OfPrecision> {
    let mut child = std::process::Command::new(std::env::current_exe().map_err(|e| failed("find", e))?);
    child.args(["--probe-memory", "--threads", &setup.threads.to_string(), "--precision", &precision.to_string()]);
    child.arg("--basis").arg(setup.family.basis());
    if let Some(base) = setup.family.base() {
        child.arg("--base").arg(base);
    }
    if let Some(runtime) = &setup.encoder.runtime {
        child.arg("--onnxruntime").arg(runtime);
    }
    child.args(["--provider", setup.encoder.provider.name(), "--device", &setup.encoder.device.to_string()]);
    child.args(["--weights-on", setup.encoder.weights_on.name()]);
    if let Some(bytes) = setup.encoder.device_budget {
        child.args(["--device-budget", &(bytes >> 20).to_string()]);
    }
    child.args(setup.arch_arguments()?);
    let done = child.output().map_err(|e| failed("start", e))?;
    let said: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap_or_default();
    let number = |key: &str| said.get(key).and_then(serde_json::Value::as_u64);
    let weights = number("weights").ok_or_else(|| {
        let error =
            taskbasis::Error::new(taskbasis::ErrorKind::Internal, "the process whose memory is measured failed");
        error.because(String::from_utf8_lossy(&done.stderr).into_owned())
    })?;
    Ok(OfPrecision {
        precision: precision.to_string(),
        peak: number("peak"),
        before: number("before"),
        weights,
        weights_over_plain: weights as f64 / setup.about.weights_bytes as f64,
    })
}

fn failed(doing: &str, e: std::io::Error) -> taskbasis::Error {
    taskbasis::Error::io(format!("cannot {doing} this program again"), "taskbasis-bench", e)
}

/// The work of the process whose memory is measured: open, reconstruct one task, embed one image; once, as programs
/// do. The kernel keeps no highest mark of anonymous memory alone, so it is looked at every millisecond.
pub fn probe(setup: &Setup<'_>) -> Result<serde_json::Value> {
    let before = machine::anonymous_memory();
    let done = std::sync::atomic::AtomicBool::new(false);
    let (embedded, peak) = std::thread::scope(|scope| {
        let watch = || {
            let mut peak = before;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                peak = peak.max(machine::anonymous_memory());
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            peak.max(machine::anonymous_memory())
        };
        let watch = std::thread::Builder::new().spawn_scoped(scope, watch).map_err(Error::no_thread)?;
        let result = embed_one(setup);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        result.map(|embedded| (embedded, watch.join().unwrap_or(None)))
    })?;
    let (weights, _held, _encoder) = embedded;
    Ok(serde_json::json!({ "before": before, "peak": peak, "weights": weights }))
}

/// Bytes of the weights. Gives everything back, so that it still counts while memory is looked at for the last time.
fn embed_one(setup: &Setup<'_>) -> Result<(usize, TaskWeights, Encoder)> {
    let options = ModelOptions { threads: setup.threads, ..ModelOptions::default() };
    let file = BasisFile::open(setup.family.basis(), MapMode::Map)?;
    let opened = OpenModel::of(file, setup.family.open_base()?, &options)?;
    let encoder = Encoder::new(&setup.about.arch, &setup.encoder)?;
    let all = first_vectors(basis_of(opened.model())?, setup.about.vectors, 0);
    let weights = opened.model().weights_from(all)?;
    encoder.encode_task(&weights, &setup.pixels(1), 1)?;
    // They are in the cache in this form.
    let bytes = weights.in_layout(encoder.layout()).get()?.nbytes();
    Ok((bytes, weights, encoder))
}

impl Memory {
    pub fn rows(&self) -> Vec<[String; 2]> {
        let shown = |bytes: Option<u64>| bytes.map_or("unknown".into(), output::bytes);
        let over = self.peak_over_model.map_or("unknown".into(), |ratio| format!("{} ×", digits(ratio)));
        let of = |of: &OfPrecision| {
            let (weights, share) = (output::bytes(of.weights), digits(of.weights_over_plain));
            [
                [format!("one task's weights, {}", of.precision), format!("{weights}, {share} of plain arrays")],
                [format!("peak of a process that embeds, {}", of.precision), shown(of.peak)],
            ]
        };
        let mut rows: Vec<_> = self.precisions.iter().flat_map(of).collect();
        rows.push([format!("  {} over the image tower", self.precisions[0].precision), over]);
        rows
    }
}
