//! Where a session computes: the execution providers of ONNX Runtime.
//!
//! Left to itself, ONNX Runtime goes on on the CPU where another provider cannot be had, and tells nobody. Here a
//! provider that was asked for is had, or there is an error that says what is missing. [`Provider::Auto`] alone falls
//! back, and what is really used is told ([`Execution`]).

mod diagnosis;
mod needs;
pub(super) mod nodes;
pub(super) mod precision;
pub(super) mod recording;
mod target;
mod trial;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

pub(super) use self::target::Target;
use super::EncoderOptions;
use super::device::WeightsOn;
use super::runtime::Runtime;
use crate::did_you_mean;
use crate::error::{Error, Result};

/// What computes.
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

    /// As ONNX Runtime calls it, which lists those it was built with ([`Runtime::providers`]).
    const fn onnx_name(self) -> &'static str {
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

    /// As texts name it.
    const fn title(self) -> &'static str {
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

/// How TensorRT is set up; without meaning for the other providers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TensorRtOptions {
    /// A folder for the engines that TensorRT builds and for what it has timed, made where it is not there. An engine
    /// belongs to the GPU, the versions and the graph, all of which TensorRT checks. `None` builds anew in every
    /// process, which can take minutes.
    pub cache: Option<PathBuf>,
    /// Lets TensorRT compute in half floats. The first run of an encoder, and of each promoted session, is then
    /// compared with the CPU's.
    pub fp16: bool,
    /// With `fp16`: the cosine between an embedding and the CPU's may not be less; `None` is
    /// [`TensorRtOptions::DEFAULT_COSINE`].
    pub min_cosine: Option<f32>,
}

impl TensorRtOptions {
    /// Half floats have 11 bits: towers that do not overflow are above 0.9999, and one that is below this has.
    pub const DEFAULT_COSINE: f32 = 0.999;
}

/// What an encoder really runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Execution {
    /// Never [`Provider::Auto`].
    pub provider: Provider,
    /// Which of the provider's devices, counted from 0.
    pub device: u32,
    /// Why [`Provider::Auto`] took the CPU.
    pub fallback: Option<String>,
    /// How many nodes of the graph each of ONNX Runtime's providers has got, where that is not all of them on the CPU.
    /// A few on the CPU are arithmetic with shapes.
    pub nodes: Vec<(String, usize)>,
    /// Where the weights of tasks are reconstructed; never [`WeightsOn::Auto`].
    pub weights_on: WeightsOn,
    /// Why [`WeightsOn::Auto`] took the host's memory, though a GPU computes.
    pub weights_fallback: Option<String>,
}

impl fmt::Display for Execution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.provider {
            Provider::Cpu => f.write_str("cpu"),
            provider => {
                write!(f, "{provider}, device {}", self.device)?;
                match self.weights_on {
                    WeightsOn::Device => f.write_str(", weights on the device"),
                    _ => f.write_str(", weights from the host"),
                }
            }
        }
    }
}

/// Makes an encoder's first session, or sessions, for what its options ask for: `create` is given the target, which the
/// others are made for too. With [`Provider::Auto`] whatever goes wrong with CUDA leads to the CPU.
///
/// # Errors
/// As [`Runtime::check_provider`], and what `create` says.
pub(super) fn begin<T>(
    runtime: &Runtime,
    options: &EncoderOptions,
    create: impl Fn(&Target) -> Result<T>,
) -> Result<(T, Target, Execution)> {
    let chosen = choose(runtime, options.provider, options.device, &options.tensorrt)?;
    begin_on(chosen, options.provider == Provider::Auto, create)
}

fn begin_on<T>(
    (mut target, mut fallback): (Target, Option<String>),
    is_auto: bool,
    create: impl Fn(&Target) -> Result<T>,
) -> Result<(T, Target, Execution)> {
    let made = match create(&target) {
        Err(error) if is_auto && !target.is_cpu() => {
            (target, fallback) = (Target::cpu(), Some(fall_back(&error)));
            create(&target)?
        }
        made => made?,
    };
    let (provider, device) = (target.provider(), target.device());
    // The CPU is what everybody expects.
    if !target.is_cpu() {
        tracing::info!(provider = provider.name(), device, "encoder");
    }
    Ok((
        made,
        target,
        Execution {
            provider,
            device,
            fallback,
            nodes: Vec::new(),
            weights_on: WeightsOn::Host,
            weights_fallback: None,
        },
    ))
}

fn fall_back(error: &Error) -> String {
    tracing::warn!(%error, "the CPU computes: CUDA cannot be had");
    error.to_string()
}

/// What sessions are made for, and why that is the CPU where `auto` took it. It has been tried out.
///
/// # Errors
/// As [`Runtime::check_provider`]; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for another device of the
/// CPU than 0.
pub(super) fn choose(
    runtime: &Runtime,
    provider: Provider,
    device: u32,
    tensorrt: &TensorRtOptions,
) -> Result<(Target, Option<String>)> {
    if let Some(least) = tensorrt.min_cosine.filter(|least| !(-1.0..=1.0).contains(least)) {
        return Err(Error::invalid("no such cosine").expected("-1 to 1").got(least));
    }
    match provider {
        Provider::Cpu if device != 0 => Err(Error::unsupported("the CPU is one device").expected(0).got(device)),
        Provider::Cpu => Ok((Target::cpu(), None)),
        Provider::Cuda | Provider::TensorRt => {
            let target = Target::new(provider, device, tensorrt)?;
            target.check(runtime).map(|()| (target, None))
        }
        Provider::Auto => {
            let target = Target::new(Provider::Cuda, device, tensorrt)?;
            match target.check(runtime) {
                Ok(()) => Ok((target, None)),
                Err(error) => Ok((Target::cpu(), Some(fall_back(&error)))),
            }
        }
    }
}

impl Runtime {
    /// Whether encoders can be made for a device of `provider`: a small one is made, and run.
    ///
    /// # Errors
    /// What is missing: [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a provider that this ONNX Runtime
    /// was not built with, a library that cannot be loaded, a driver or a GPU that is not there or too old;
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a device that there is not;
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime) for what is not understood.
    pub fn check_provider(&self, provider: Provider, device: u32) -> Result<()> {
        choose(self, provider, device, &TensorRtOptions::default()).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::encoder::{Encoder, Promotion};
    use crate::error::ErrorKind;
    use crate::onnx::OnnxFile;
    use crate::tower::arch::{Arch, ArchHints};
    use crate::weights::{Model, ModelOptions};

    /// An encoder of the digits, and its base as a task.
    #[allow(clippy::print_stdout)]
    fn encoder() -> Option<(Encoder, crate::weights::TaskWeights)> {
        if Runtime::load(None).is_err() {
            println!("skipped: no ONNX Runtime");
            return None;
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/digits/base/pickled_module.pt");
        let base = Checkpoint::open(path).unwrap();
        let arch = Arch::of(&base, ArchHints::default()).unwrap();
        let options = EncoderOptions { promotion: Promotion::Manual, threads: 1, ..EncoderOptions::default() };
        let encoder = Encoder::new(&arch, &options).unwrap();
        let model = Model::new(base, None, &ModelOptions::default()).unwrap();
        Some((encoder, model.weights(&"base".parse().unwrap()).unwrap()))
    }

    /// As if the CPU computed in half floats: the first run is compared, those as inputs and promoted each.
    #[test]
    fn half_floats_run_only_where_they_give_the_embeddings_of_the_cpu() {
        let Some((mut encoder, task)) = encoder() else { return };
        let pixels: Vec<f32> = (0..2 * encoder.arch().pixels()).map(|i| (i % 17) as f32 / 17.0).collect();
        let expected = encoder.encode_task(&task, &pixels, 2).unwrap();
        let refused = |encoder: &Encoder| {
            let mut out = vec![7.0; expected.len()];
            let error = encoder.encode_task_into(&task, &pixels, 2, &mut out).unwrap_err();
            assert!(error.kind() == ErrorKind::Runtime && error.to_string().contains("cosine"), "{error}");
            assert!(out.iter().all(|value| *value == 7.0), "nothing is written");
        };
        // No cosine is 2.
        encoder.target = Arc::new(Target::compared(2.0));
        refused(&encoder);
        refused(&encoder);
        assert!(!encoder.is_precise.load(Ordering::Acquire));
        encoder.promote(&task).unwrap();
        refused(&encoder);

        encoder.target = Arc::new(Target::compared(TensorRtOptions::DEFAULT_COSINE));
        let promoted = encoder.encode_task(&task, &pixels, 2).unwrap();
        assert!(!encoder.is_precise.load(Ordering::Acquire), "the promoted session is compared by itself");
        assert!(encoder.demote(&task));
        assert_eq!(encoder.encode_task(&task, &pixels, 2).unwrap(), expected);
        assert!(encoder.is_precise.load(Ordering::Acquire));
        precision::check(&promoted, &expected, encoder.arch().embed_dim, 0.9999).unwrap();
        // Not looked at again.
        encoder.target = Arc::new(Target::compared(2.0));
        assert_eq!(encoder.encode_task(&task, &pixels, 2).unwrap(), expected);
    }

    #[test]
    fn every_node_is_somewhere() {
        let Some((encoder, _)) = encoder() else { return };
        assert!(encoder.execution().nodes.is_empty());
        let model = &encoder.signature.model;
        let level = ort::session::builder::GraphOptimizationLevel::Disable;
        let builder = ort::session::Session::builder(encoder.runtime().environment()).unwrap();
        let builder = builder.with_optimization_level(level).unwrap().with_config_entry(nodes::RECORD, "1").unwrap();
        let session = builder.clone().commit_from_memory(model).unwrap();
        let file = OnnxFile::parse(Arc::new(crate::Mapping::from_vec(model.clone(), "model"))).unwrap();
        assert_eq!(nodes::count(&session).unwrap(), [("CPUExecutionProvider".to_owned(), file.nodes())]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let Some((encoder, _)) = encoder() else { return };
        let choose = |provider, device, tensorrt: TensorRtOptions| {
            choose(encoder.runtime(), provider, device, &tensorrt).map(|(target, why)| (target.provider(), why))
        };
        assert_eq!(choose(Provider::Cpu, 0, TensorRtOptions::default()).unwrap(), (Provider::Cpu, None));
        assert_eq!(choose(Provider::Cpu, 1, TensorRtOptions::default()).unwrap_err().kind(), ErrorKind::Unsupported);
        for cosine in [2.0, f32::NAN] {
            let options = TensorRtOptions { min_cosine: Some(cosine), ..TensorRtOptions::default() };
            assert_eq!(choose(Provider::Cpu, 0, options).unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
    }

    /// The first session of all cannot be made for CUDA, though it was found to work.
    #[test]
    fn auto_falls_back_whatever_goes_wrong_and_nothing_else_does() {
        let cuda = || (Target::new(Provider::Cuda, 3, &TensorRtOptions::default()).unwrap(), None);
        let create = |target: &Target| if target.is_cpu() { Ok(5) } else { Err(Error::invalid("no room")) };
        let (made, target, execution) = begin_on(cuda(), true, create).unwrap();
        assert!(made == 5 && target.is_cpu() && execution.provider == Provider::Cpu && execution.device == 0);
        assert!(execution.fallback.unwrap().contains("no room"));
        assert!(begin_on(cuda(), false, create).map(|(made, ..)| made).unwrap_err().to_string().contains("no room"));
        let create = |target: &Target| if target.is_cpu() { Err(Error::invalid("no graph")) } else { Ok(()) };
        let (_, target, execution) = begin_on(cuda(), true, create).unwrap();
        assert_eq!((target.provider(), execution.provider, execution.device), (Provider::Cuda, Provider::Cuda, 3));
        assert_eq!(execution.fallback, None);
        let create = |_: &Target| Err::<(), _>(Error::invalid("no graph"));
        assert!(begin_on(cuda(), true, create).map(drop).unwrap_err().to_string().contains("no graph"));
    }

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
    fn what_a_build_has() {
        let names =
            ["TensorrtExecutionProvider", "CUDAExecutionProvider", "AzureExecutionProvider", "CPUExecutionProvider"];
        let names = names.map(String::from);
        assert_eq!(Provider::known_among(&names), [Provider::Cpu, Provider::Cuda, Provider::TensorRt]);
        assert_eq!(Provider::known_among(&names[2..]), [Provider::Cpu]);
    }
}
