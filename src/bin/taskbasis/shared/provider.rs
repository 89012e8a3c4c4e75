//! The options for what computes, of every command that runs an encoder.

use std::sync::Once;

use clap::Args;
use taskbasis::{EncoderOptions, Execution, Provider, TensorRtOptions, WeightsOn};

use super::choice::{choice, value};
use super::conflicts::{Given, Refused, option};
use super::output;
use super::paths::OutPath;

#[derive(Args)]
#[command(next_help_heading = "GPU")]
pub struct ProviderArgs {
    /// What computes. One that cannot be had is an error; `auto` takes CUDA where it works, else the CPU, and says so.
    #[arg(long, default_value = "cpu", value_parser = choice([
        (value("cpu"), Provider::Cpu),
        (value("cuda"), Provider::Cuda),
        (value("tensorrt"), Provider::TensorRt),
        (value("auto"), Provider::Auto),
    ]))]
    pub provider: Provider,

    /// Which of the provider's devices, counted from 0.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub device: u32,

    /// A folder where TensorRT keeps its engines, which take minutes to build, and its timings.
    #[arg(long, value_name = "FOLDER")]
    pub tensorrt_cache: Option<OutPath>,

    /// Let TensorRT compute in half floats, if its first embeddings are the CPU's.
    #[arg(long)]
    pub tensorrt_fp16: bool,

    /// The least cosine between those embeddings and the CPU's [default: 0.999]
    #[arg(long, value_name = "X", allow_negative_numbers = true, requires = "tensorrt_fp16")]
    pub tensorrt_cosine: Option<f32>,
}

/// The place of weights, and how runs with them are made.
#[derive(Args)]
#[command(next_help_heading = "GPU")]
pub struct PlacementArgs {
    /// With a GPU: where the weights of tasks are rebuilt. `device` is its own memory, or an error; `auto` that where
    /// it can be had, else the host's, and says so.
    #[arg(long, default_value = "auto", value_parser = choice([
        (value("auto"), WeightsOn::Auto),
        (value("host"), WeightsOn::Host),
        (value("device"), WeightsOn::Device),
    ]))]
    pub weights_on: WeightsOn,

    /// MiB of the GPU's memory for base, basis and weights [default: three quarters of what is free]
    #[arg(long, value_name = "MIB")]
    pub device_budget: Option<u32>,

    /// With CUDA and weights on the device: record runs, one for each number of images, and replay them.
    #[arg(long)]
    pub cuda_graphs: bool,
}

impl ProviderArgs {
    /// What is TensorRT's alone.
    pub fn conflict(&self, given: &Given<'_>) -> Refused {
        let of_tensorrt = [option!(Self, tensorrt_cache), option!(Self, tensorrt_fp16)];
        let is_tensorrt = self.provider == Provider::TensorRt;
        if is_tensorrt { None } else { given.first(of_tensorrt, "needs '--provider tensorrt'") }
    }

    /// `options`, with these.
    pub fn applied_to(&self, options: EncoderOptions) -> EncoderOptions {
        let tensorrt = TensorRtOptions {
            cache: self.tensorrt_cache.as_deref().map(Into::into),
            fp16: self.tensorrt_fp16,
            min_cosine: self.tensorrt_cosine,
        };
        EncoderOptions { provider: self.provider, device: self.device, tensorrt, ..options }
    }
}

impl PlacementArgs {
    /// What has no effect with this provider.
    pub fn conflict(&self, provider: &ProviderArgs, given: &Given<'_>) -> Refused {
        let on_device = [option!(Self, device_budget), option!(Self, cuda_graphs)];
        let refused = match (provider.provider, self.weights_on) {
            (Provider::Cpu, _) => given.first(on_device, "is of a GPU, and '--provider cpu' computes without one"),
            (_, WeightsOn::Host) => {
                given.first(on_device, "is of weights on the device, where '--weights-on host' has none")
            }
            (Provider::TensorRt, _) => {
                given.first([option!(Self, cuda_graphs)], "cannot be used with '--provider tensorrt'")
            }
            _ => None,
        };
        refused.or_else(|| provider.conflict(given))
    }

    /// `options`, with these.
    pub fn applied_to(&self, options: EncoderOptions) -> EncoderOptions {
        EncoderOptions {
            weights_on: self.weights_on,
            device_budget: self.device_budget.map(|mib| (mib as usize) << 20),
            cuda_graphs: self.cuda_graphs,
            ..options
        }
    }
}

/// Says once, however many encoders are made, what `auto` took where that is not what one would wish, and why.
pub fn tell(execution: &Execution) {
    static TOLD: Once = Once::new();
    if let Some(why) = &execution.fallback {
        tell_fallback(why);
    }
    if let Some(why) = &execution.precision_reason {
        static TOLD: Once = Once::new();
        let text = format!("--precision auto: {}; {why}", execution.precisions);
        TOLD.call_once(|| output::note(&text));
    }
    if let Some(why) = &execution.weights_fallback {
        let text = format!("every run copies the weights to the GPU, as they cannot be rebuilt there: {why}");
        TOLD.call_once(|| output::note(&text));
    }
}

/// Says once that the CPU computes, though `auto` looked for CUDA.
pub fn tell_fallback(why: &str) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| output::note(&format!("the CPU computes, as CUDA cannot be had: {why}")));
}
