//! What computes: the options of every command that runs an encoder.

use std::path::PathBuf;
use std::sync::Once;

use clap::{Args, ValueEnum};
use taskbasis::{EncoderOptions, Execution, Provider, Result, Runtime, TensorRtOptions, WeightsOn};

use crate::output;

#[derive(Args)]
#[command(next_help_heading = "GPU")]
pub struct ProviderArgs {
    /// What computes. One that cannot be had is an error; `auto` takes CUDA where it works, else the CPU, and says so.
    #[arg(long, value_enum, default_value_t = ProviderArg::Cpu)]
    pub provider: ProviderArg,

    /// Which of the provider's devices, counted from 0.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub device: u32,

    /// A folder where TensorRT keeps its engines, which take minutes to build, and its timings.
    #[arg(long, value_name = "FOLDER")]
    pub tensorrt_cache: Option<PathBuf>,

    /// Let TensorRT compute in half floats, if its first embeddings are the CPU's.
    #[arg(long)]
    pub tensorrt_fp16: bool,

    /// The least cosine between those embeddings and the CPU's [default: 0.999]
    #[arg(long, value_name = "X", allow_negative_numbers = true, requires = "tensorrt_fp16")]
    pub tensorrt_cosine: Option<f32>,
}

/// Where weights are, and how runs with them are made.
#[derive(Args)]
#[command(next_help_heading = "GPU")]
pub struct PlacementArgs {
    /// With a GPU: where the weights of tasks are rebuilt. `device` is its own memory, or an error; `auto` that where
    /// it can be had, else the host's, and says so.
    #[arg(long, value_enum, default_value_t = WeightsOnArg::Auto)]
    pub weights_on: WeightsOnArg,

    /// MiB of the GPU's memory for base, basis and weights [default: three quarters of what is free]
    #[arg(long, value_name = "MIB")]
    pub device_budget: Option<u32>,

    /// With CUDA and weights on the device: record runs, one for each number of images, and replay them.
    #[arg(long)]
    pub cuda_graphs: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WeightsOnArg {
    Auto,
    Host,
    Device,
}

impl From<WeightsOnArg> for WeightsOn {
    fn from(place: WeightsOnArg) -> Self {
        match place {
            WeightsOnArg::Auto => Self::Auto,
            WeightsOnArg::Host => Self::Host,
            WeightsOnArg::Device => Self::Device,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProviderArg {
    Cpu,
    Cuda,
    #[value(name = "tensorrt")]
    TensorRt,
    Auto,
}

impl From<ProviderArg> for Provider {
    fn from(provider: ProviderArg) -> Self {
        match provider {
            ProviderArg::Cpu => Self::Cpu,
            ProviderArg::Cuda => Self::Cuda,
            ProviderArg::TensorRt => Self::TensorRt,
            ProviderArg::Auto => Self::Auto,
        }
    }
}

impl ProviderArgs {
    /// `options`, with these.
    pub fn applied_to(&self, options: EncoderOptions) -> EncoderOptions {
        let tensorrt = TensorRtOptions {
            cache: self.tensorrt_cache.clone(),
            fp16: self.tensorrt_fp16,
            min_cosine: self.tensorrt_cosine,
        };
        EncoderOptions { provider: self.provider.into(), device: self.device, tensorrt, ..options }
    }
}

impl PlacementArgs {
    /// `options`, with these.
    pub fn applied_to(&self, options: EncoderOptions) -> EncoderOptions {
        EncoderOptions {
            weights_on: self.weights_on.into(),
            device_budget: self.device_budget.map(|mib| (mib as usize) << 20),
            cuda_graphs: self.cuda_graphs,
            ..options
        }
    }
}

/// The options with a provider in the place of `auto`, so that everything runs on the same.
pub fn settled(options: EncoderOptions) -> Result<EncoderOptions> {
    if options.provider != Provider::Auto {
        return Ok(options);
    }
    let runtime = Runtime::load(options.runtime.as_deref())?;
    match runtime.check_provider(Provider::Cuda, options.device) {
        Ok(()) => Ok(EncoderOptions { provider: Provider::Cuda, ..options }),
        Err(why) => {
            say(&why.to_string());
            Ok(EncoderOptions { provider: Provider::Cpu, device: 0, ..options })
        }
    }
}

/// Says once, however many encoders are made, what `auto` took where that is not what one would wish, and why.
pub fn tell(execution: &Execution) {
    static TOLD: Once = Once::new();
    if let Some(why) = &execution.fallback {
        say(why);
    }
    if let Some(why) = &execution.weights_fallback {
        let text = format!("every run copies the weights to the GPU, as they cannot be rebuilt there: {why}");
        TOLD.call_once(|| output::note(&text));
    }
}

fn say(why: &str) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| output::note(&format!("the CPU computes, as CUDA cannot be had: {why}")));
}
