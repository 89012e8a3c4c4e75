//! Figures on a GPU: weights in its memory (`weights.rs`), and what encodes with them (`encode.rs`).

mod encode;
mod weights;

use serde::Serialize;
use taskbasis::{Cuda, EncoderOptions, Provider, Result, Runtime};

pub use self::encode::Batch;
use self::encode::Encode;
pub use self::weights::InFormat;
use super::Setup;
use super::machine;
use super::samples::{Samples, digits};
use crate::output;

#[derive(Serialize)]
pub struct Device {
    pub gpu: Gpu,
    /// Reconstruction from the basis's own format: bytes moved per second over the copy's.
    pub bandwidth_ratio: f64,
    /// The lowest ratio of all formats.
    pub lowest_ratio: f64,
    /// Time from a task's name to its weights, of the basis's own format: half and 99 % of the times.
    pub switch_p50_ms: f64,
    pub switch_p99_ms: f64,
    /// The basis in its own format first.
    pub formats: Vec<InFormat>,
    /// Encoding with the provider that was asked for.
    pub encode: Option<Encode>,
    /// The reason why there is no `encode`: what the provider lacks.
    pub not_encoded: Option<String>,
}

/// The GPU. What its clocks are and whether others use it is not known.
#[derive(Serialize)]
pub struct Gpu {
    pub name: String,
    pub compute_capability: String,
    /// The CUDA that its driver is for.
    pub cuda: String,
    /// The driver's own version, where the system tells.
    pub driver: Option<String>,
    pub memory_bytes: usize,
    /// Free memory before anything was measured; whatever other programs have is not free.
    pub free_bytes: usize,
}

impl Gpu {
    fn look(cuda: &Cuda) -> Result<Self> {
        let version = |(major, minor): (u32, u32)| format!("{major}.{minor}");
        let (free_bytes, memory_bytes) = cuda.memory()?;
        Ok(Self {
            name: cuda.name().to_owned(),
            compute_capability: version(cuda.compute_capability()),
            cuda: version(cuda.driver_version()),
            driver: machine::nvidia_driver(),
            memory_bytes,
            free_bytes,
        })
    }

    /// One line.
    fn text(&self) -> String {
        let driver = self.driver.as_ref().map_or(String::new(), |version| format!(" {version}"));
        format!(
            "{}, compute capability {}, driver{driver} for CUDA {}; {} of {} free; clocks not known",
            self.name,
            self.compute_capability,
            self.cuda,
            output::bytes(self.free_bytes as u64),
            output::bytes(self.memory_bytes as u64)
        )
    }
}

/// Whether options ask for a GPU.
pub fn is_asked_for(options: &EncoderOptions) -> bool {
    matches!(options.provider, Provider::Cuda | Provider::TensorRt)
}

/// Measures on the GPU; where the provider cannot be had, everything but encoding.
pub fn measure(setup: &Setup<'_>, cuda: &Cuda) -> Result<Device> {
    let gpu = Gpu::look(cuda)?;
    let bases = setup.family.bases().iter();
    let formats = bases.map(|(name, path)| weights::measure(setup, cuda, name, path)).collect::<Result<Vec<_>>>()?;
    let (provider, device) = (setup.encoder.provider, setup.encoder.device);
    let usable =
        Runtime::load(setup.encoder.runtime.as_deref()).and_then(|runtime| runtime.check_provider(provider, device));
    let (encode, not_encoded) = match usable {
        Ok(()) => {
            let budget = formats.first().and_then(|own| own.budget(setup, encode::TASKS));
            (Some(encode::measure(setup, Some(cuda), budget)?), None)
        }
        Err(error) => (None, Some(error.to_string())),
    };
    let own = formats.first();
    Ok(Device {
        gpu,
        bandwidth_ratio: own.map_or(0.0, |own| own.ratio),
        lowest_ratio: formats.iter().map(|format| format.ratio).fold(f64::INFINITY, f64::min),
        switch_p50_ms: own.map_or(0.0, |own| own.computed_ms.median),
        switch_p99_ms: own.map_or(0.0, |own| own.computed_ms.p99),
        formats,
        encode,
        not_encoded,
    })
}

impl Device {
    /// Tables: what is in memory, how fast it gets there, reconstruction, encoding.
    pub fn tables(&self) -> Vec<Vec<Vec<String>>> {
        let mut tables = vec![weights::memory_rows(&self.formats), weights::reconstruction_rows(&self.formats)];
        tables.extend(self.encode.as_ref().map(Encode::rows));
        tables
    }

    pub fn rows(&self) -> Vec<[String; 2]> {
        let mut rows = vec![["the GPU".into(), self.gpu.text()]];
        rows.extend(self.encode.iter().flat_map(Encode::other_rows));
        rows.extend(self.not_encoded.as_ref().map(|why| ["encoding was not measured".into(), why.clone()]));
        rows
    }
}

/// `0.52, p99 0.61`.
fn with_tail(ms: &Samples) -> String {
    format!("{}, p99 {}", digits(ms.median), digits(ms.p99))
}
