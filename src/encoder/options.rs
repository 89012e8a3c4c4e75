//! The options of an encoder.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::precision_choice::PrecisionChoice;
use crate::did_you_mean;
use crate::error::{Error, Result};
use crate::kernel::threads;

/// The runs of an encoder that may be in progress, at most: a number mistaken for another one would open so many
/// sessions.
const MAX_CONCURRENCY: usize = 4096;

/// The options of an [`Encoder`](super::Encoder). The default suits a program that encodes one batch at a time.
#[derive(Clone, Debug, Default)]
pub struct EncoderOptions {
    /// Threads that compute, all runs together, at most [`max_threads`](crate::kernel::max_threads); 0 is as many as
    /// this process may use.
    pub threads: usize,
    /// Runs that may be in progress at once; 0 is 1. Each has `threads / concurrency` threads, at least one; further
    /// calls wait their turn. One run on all cores answers soonest. One run a core does most work in all: some 5 %
    /// more on a quiet machine, and much more where other programs want the cores too.
    pub concurrency: usize,
    /// The tasks that get sessions of their own, as [`Encoder::encode_task`](super::Encoder::encode_task) runs them,
    /// with a user's graph whose linear layers are not recognised. Packed weights, as the built graph and other users'
    /// graphs take them on the CPU, gain nothing from such sessions, so that none is made, and with weights on a device
    /// none is made by counting.
    pub promotion: Promotion,
    /// The library of ONNX Runtime; see [`Runtime::load`](super::Runtime::load) for what `None` means.
    pub runtime: Option<PathBuf>,
    /// The provider that computes; the CPU unless another is asked for. One that cannot be had is an error.
    pub provider: Provider,
    /// The device of the provider, counted from 0.
    pub device: u32,
    /// The options of TensorRT.
    pub tensorrt: TensorRtOptions,
    /// The place where a GPU's provider has the weights of tasks reconstructed.
    pub weights_on: WeightsOn,
    /// For weights on a device, the bytes of its memory for everything of a model, as
    /// [`DeviceOptions::budget`](crate::DeviceOptions). Where other encoders have the model there already, theirs
    /// holds.
    pub device_budget: Option<usize>,
    /// Records a run with CUDA and weights on the device, once for each number of images and memory that it is given,
    /// and replays it later, which spares the host some hundred launches per run. The first run of each is made three
    /// times more. For few batch sizes.
    pub cuda_graphs: bool,
    /// Whether an encoder over a bundle is compared with the bundle's golden embedding before its first run.
    pub self_test: SelfTest,
    /// The part of a task's weights that a run has in memory.
    pub residency: Residency,
    /// The types that the matrices of linear layers are multiplied in, on the CPU. Other types than f32 take weights of
    /// a half or a quarter of the bytes. Of a user's graph they are those of the layers that are recognised.
    pub precision: PrecisionChoice,
}

impl EncoderOptions {
    /// Options of an encoder that is run to compare embeddings: on the CPU, with nothing in the background.
    pub(crate) fn for_trials(threads: usize, runtime: Option<PathBuf>) -> Self {
        Self {
            promotion: Promotion::Off,
            provider: Provider::Cpu,
            self_test: SelfTest::Off,
            threads,
            runtime,
            ..Self::default()
        }
    }

    /// These, for an encoder that does not compare half floats with the CPU's.
    pub(super) fn without_fp16(&self) -> Result<&Self> {
        if self.tensorrt.fp16 {
            return Err(Error::unsupported("half floats, which this encoder does not compare with the CPU's"));
        }
        Ok(self)
    }

    /// Refuses options that could have no effect beside the residency.
    pub(super) fn check(&self) -> Result<()> {
        self.check_precision()?;
        if self.residency == Residency::Whole {
            return Ok(());
        }
        let excludes = |what: &str| {
            Err(Error::invalid(format!("a blockwise residency (`streamed`) and {what} exclude each other")))
        };
        match self {
            Self { weights_on: WeightsOn::Device, .. } => excludes("weights on the device"),
            Self { self_test: SelfTest::On, .. } => excludes("a self-test"),
            Self { cuda_graphs: true, .. } => excludes("CUDA graphs"),
            Self { promotion: Promotion::Manual, .. } => excludes("promotion"),
            _ => self.without_fp16().map(drop),
        }
    }

    /// Refuses options that packed weights cannot serve.
    fn check_precision(&self) -> Result<()> {
        match self.unpacked() {
            Some(what) if self.precision != PrecisionChoice::Auto && !self.precision.is_f32() => {
                Err(Error::unsupported(format!("the precision {} and {what} exclude each other", self.precision)))
            }
            _ => Ok(()),
        }
    }

    /// The option that other types than f32 cannot serve.
    pub(crate) fn unpacked(&self) -> Option<&'static str> {
        match self.provider {
            Provider::Cuda | Provider::TensorRt => Some("another provider than the CPU's"),
            Provider::Cpu | Provider::Auto => None,
        }
    }

    /// Refuses a user's graph where the residency is of the built one.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported).
    pub fn check_graph(&self) -> Result<()> {
        match self.residency {
            Residency::Whole => Ok(()),
            Residency::Blockwise => Err(Error::unsupported("only the built graph can be streamed, block by block")
                .hint("`built_graph` (--built-graph) runs it, whatever a bundle carries")),
        }
    }

    /// Threads that one run computes with, and how many runs may be in progress.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for more threads than
    /// [`max_threads`](crate::kernel::max_threads), or thousands of runs.
    pub(super) fn threads_per_run(&self) -> Result<(usize, usize)> {
        if self.concurrency > MAX_CONCURRENCY {
            return Err(Error::invalid("too many runs at once")
                .expected(format_args!("at most {MAX_CONCURRENCY}"))
                .got(self.concurrency));
        }
        let concurrency = self.concurrency.max(1);
        // ONNX Runtime's own default counts the machine's cores, where a container may use fewer, and pins its threads.
        let threads = threads::count(self.threads)?;
        Ok(((threads / concurrency).max(1), concurrency))
    }
}

/// The part of a task's weights that a run has in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Residency {
    /// All of them, kept for the next run with the task: by the cache, or on the device.
    #[default]
    Whole,
    /// The weights of one block and what is outside the blocks: of a ViT-B-32's 351 MB, 40. Every run reconstructs the
    /// weights anew, block by block, past the cache, and takes a reconstruction longer, whatever the number of images:
    /// large batches hardly notice it. Embeddings agree with the other's to 1e-5, and are the same bits every time. It
    /// runs the built graph, nothing is promoted, and nothing is compared with a golden embedding.
    Blockwise,
}

impl Residency {
    /// `whole`, `blockwise`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Blockwise => "blockwise",
        }
    }
}

impl fmt::Display for Residency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The execution provider that computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Provider {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU, by CUDA and cuDNN.
    Cuda,
    /// An NVIDIA GPU, by TensorRT; what TensorRT does not take, by CUDA.
    TensorRt,
    /// CUDA where it works, else the CPU.
    Auto,
}

impl Provider {
    /// `cpu`, `cuda`, `tensorrt`, `auto`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
            Self::Auto => "auto",
        }
    }

    /// The name in ONNX Runtime, which lists those it was built with
    /// ([`Runtime::providers`](super::Runtime::providers)).
    pub(super) const fn onnx_name(self) -> &'static str {
        match self {
            Self::Cpu | Self::Auto => "CPUExecutionProvider",
            Self::Cuda => "CUDAExecutionProvider",
            Self::TensorRt => "TensorrtExecutionProvider",
        }
    }

    /// The known ones among the providers that an ONNX Runtime was built with, the CPU first.
    pub fn known_among(providers: &[String]) -> Vec<Self> {
        let all = [Self::Cpu, Self::Cuda, Self::TensorRt];
        all.into_iter().filter(|known| providers.iter().any(|name| name == known.onnx_name())).collect()
    }

    /// The name in texts.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Cpu | Self::Auto => "CPU",
            Self::Cuda => "CUDA",
            Self::TensorRt => "TensorRT",
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Provider {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let all = [Self::Cpu, Self::Cuda, Self::TensorRt, Self::Auto];
        all.into_iter().find(|provider| provider.name() == name).ok_or_else(|| {
            Error::invalid("no such execution provider")
                .expected("cpu, cuda, tensorrt or auto")
                .got(did_you_mean::clipped(name))
        })
    }
}

/// The options of TensorRT; without meaning for the other providers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TensorRtOptions {
    /// A folder for the engines that TensorRT builds and for what it has timed, made where it is not there. An engine
    /// belongs to the GPU, the versions and the graph, all of which TensorRT checks. `None` builds anew in every
    /// process, which can take minutes.
    pub cache: Option<PathBuf>,
    /// Lets TensorRT compute in half floats. The first run of an encoder, and of each promoted session, is then
    /// compared with the CPU's.
    pub fp16: bool,
    /// The least cosine between an embedding and the CPU's with `fp16`; `None` is
    /// [`TensorRtOptions::DEFAULT_COSINE`].
    pub min_cosine: Option<f32>,
}

impl TensorRtOptions {
    /// The default of [`TensorRtOptions::min_cosine`]. Half floats have 11 bits: towers that do not overflow are above
    /// 0.9999, and one that is below this has.
    pub const DEFAULT_COSINE: f32 = 0.999;
}

/// The memory that weights of tasks are reconstructed in, and so the one that the encoder reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightsOn {
    /// Weights in the memory of the device that computes, where that can be had (`docs/gpu.md` says what it takes),
    /// else in the host's, with a warning and the reason in [`Execution`](super::Execution).
    #[default]
    Auto,
    /// Weights in the host's memory. A GPU gets them anew in every run.
    Host,
    /// Weights in the memory of the device that computes; an error where they cannot be there.
    Device,
}

impl WeightsOn {
    /// `auto`, `host`, `device`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Host => "host",
            Self::Device => "device",
        }
    }
}

impl fmt::Display for WeightsOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for WeightsOn {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let all = [Self::Auto, Self::Host, Self::Device];
        all.into_iter()
            .find(|place| place.name() == name)
            .ok_or_else(|| Error::invalid("no such place for weights").expected("auto, host or device").got(name))
    }
}

/// The tasks that an encoder promotes: that it gives a session with the weights frozen into it, which runs faster and
/// takes as much memory as the weights.
///
/// Before and after, embeddings agree to 1e-5 of their size; each way of running gives the same bits every time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promotion {
    /// None.
    Off,
    /// Promotion of those tasks that [`Encoder::promote`](super::Encoder::promote) names.
    Manual,
    /// Promotion of the tasks that [`Encoder::promote`](super::Encoder::promote) names, and of any after this many
    /// runs.
    After(u32),
}

impl Promotion {
    /// The runs after which a promoted task pays on the machines that were measured: building its session takes as long
    /// as some 30 runs of one image gain.
    pub const DEFAULT_RUNS: u32 = 32;
}

impl Default for Promotion {
    fn default() -> Self {
        Self::After(Self::DEFAULT_RUNS)
    }
}

/// Whether the first run of an encoder over a bundle that has a golden embedding is preceded by one that compares it.
///
/// The test runs one image with the base's weights, which it makes for that and drops again, once for each bundle,
/// provider and graph in a process. Of a ViT-B-32 that takes about as long as a reconstruction and an image more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SelfTest {
    /// A test where the memory for the base's weights is not worth a thought: the bundle holds them as f32, which are
    /// read where they are, or the budget of the model's cache has room for them beside those of a task.
    #[default]
    Auto,
    /// A test whatever memory it takes.
    On,
    /// No test.
    Off,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_there_and_back() {
        for provider in [Provider::Cpu, Provider::Cuda, Provider::TensorRt, Provider::Auto] {
            assert_eq!(provider.to_string().parse::<Provider>().unwrap(), provider);
        }
        let error = "gpu".parse::<Provider>().unwrap_err().to_string();
        assert!(error.contains("cpu, cuda, tensorrt or auto") && error.contains("gpu"), "{error}");
        assert_eq!(Provider::default(), Provider::Cpu);
    }

    #[test]
    fn thousands_are_refused() {
        let most = crate::kernel::max_threads();
        let of = |threads, concurrency| EncoderOptions { threads, concurrency, ..EncoderOptions::default() };
        assert_eq!(of(most, 2).threads_per_run().unwrap(), (most / 2, 2));
        let refused = |options: EncoderOptions| options.threads_per_run().unwrap_err().to_string();
        assert!(refused(of(most + 1, 1)).contains(&format!("at most {most}")));
        assert!(refused(of(1, 4097)).contains("at most 4096"));
    }

    #[test]
    fn what_a_build_has() {
        let names =
            ["TensorrtExecutionProvider", "CUDAExecutionProvider", "AzureExecutionProvider", "CPUExecutionProvider"];
        let names = names.map(String::from);
        assert_eq!(Provider::known_among(&names), [Provider::Cpu, Provider::Cuda, Provider::TensorRt]);
        assert_eq!(Provider::known_among(&names[2..]), [Provider::Cpu]);
    }
}
