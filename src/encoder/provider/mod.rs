//! The execution providers of ONNX Runtime.
//!
//! Left to itself, ONNX Runtime goes on on the CPU where another provider cannot be had, and tells no caller. Here a
//! provider that was asked for is had, or there is an error that says what is missing. [`Provider::Auto`] alone falls
//! back, and what is really used is told ([`Execution`]).

mod diagnosis;
mod needs;
pub(super) mod precision;
mod smoke_test;
pub(super) mod target;

use std::fmt;

use parking_lot::Mutex;

use self::target::Target;
use super::options::{EncoderOptions, Provider, TensorRtOptions, WeightsOn};
use super::runtime::Runtime;
use super::session::SessionSetup;
use crate::error::{Error, Result};
use crate::tower::LayerPrecisions;

/// The hardware and the provider that an encoder really runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Execution {
    /// The provider that runs; never [`Provider::Auto`].
    pub provider: Provider,
    /// The device of the provider, counted from 0.
    pub device: u32,
    /// The reason why [`Provider::Auto`] took the CPU.
    pub fallback: Option<String>,
    /// The number of graph nodes that each of ONNX Runtime's providers has got, where that is not all of them on the
    /// CPU. A few on the CPU are arithmetic with shapes.
    pub nodes: Vec<(String, usize)>,
    /// The memory that weights of tasks are reconstructed in; never [`WeightsOn::Auto`].
    pub weights_on: WeightsOn,
    /// The reason why [`WeightsOn::Auto`] took the host's memory, though a GPU computes.
    pub weights_fallback: Option<String>,
    /// The types that the built graph's matrices are multiplied in; f32 for a user's graph.
    pub precisions: LayerPrecisions,
    /// The reason why [`PrecisionChoice::Auto`](super::PrecisionChoice::Auto) took them; `None` where they were asked
    /// for.
    pub precision_reason: Option<String>,
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

/// Makes an encoder's first session, or sessions, for what its options ask for: `create` is given what the others are
/// made with too. With [`Provider::Auto`] whatever goes wrong with CUDA leads to the CPU.
///
/// # Errors
/// As [`Runtime::load`], [`Runtime::check_provider`] and [`EncoderOptions::threads_per_run`], and what `create` says.
pub(super) fn begin<T>(
    options: &EncoderOptions,
    create: impl Fn(&SessionSetup) -> Result<T>,
) -> Result<(T, SessionSetup, Execution)> {
    let (threads, _) = options.threads_per_run()?;
    let runtime = Runtime::load(options.runtime.as_deref())?;
    let chosen = choose(runtime, options.provider, options.device, &options.tensorrt)?;
    let setup = |target: &Target| SessionSetup { runtime, threads, target: target.clone() };
    let is_auto = options.provider == Provider::Auto;
    let (made, target, execution) = begin_on(chosen, is_auto, |target| create(&setup(target)))?;
    Ok((made, setup(&target), execution))
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
    // The CPU is the default, and no news.
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
            precisions: LayerPrecisions::default(),
            precision_reason: None,
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
fn choose(
    runtime: &'static Runtime,
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
            check(runtime, &target).map(|()| (target, None))
        }
        Provider::Auto => {
            let target = Target::new(Provider::Cuda, device, tensorrt)?;
            match check(runtime, &target) {
                Ok(()) => Ok((target, None)),
                Err(error) => Ok((Target::cpu(), Some(fall_back(&error)))),
            }
        }
    }
}

/// Whether a target can be had: asks ONNX Runtime for it, and runs something small. What has worked is not tried again.
///
/// # Errors
/// As [`Runtime::check_provider`].
fn check(runtime: &'static Runtime, target: &Target) -> Result<()> {
    static WORKING: Mutex<Vec<(Provider, u32)>> = Mutex::new(Vec::new());

    if !runtime.providers().iter().any(|name| name == target.provider().onnx_name()) {
        return Err(diagnosis::not_built_in(target.provider(), runtime));
    }
    // Held meanwhile: two that are tried at once on one device could fail for want of memory.
    let mut working = WORKING.lock();
    let this = (target.provider(), target.device());
    if !working.contains(&this) {
        smoke_test::run(runtime, target)?;
        working.push(this);
    }
    Ok(())
}

impl Runtime {
    /// Whether encoders can be made for a device of `provider`: a small one is made, and run.
    ///
    /// # Errors
    /// What is missing: [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a provider that this ONNX Runtime
    /// was not built with, a library that cannot be loaded, a driver or a GPU that is not there or too old;
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a device that there is not;
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime) for what is not understood.
    pub fn check_provider(&'static self, provider: Provider, device: u32) -> Result<()> {
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
    use crate::encoder::graph::EncoderGraph;
    use crate::encoder::options::Promotion;
    use crate::encoder::{Encoder, session};
    use crate::error::ErrorKind;
    use crate::onnx::OnnxFile;
    use crate::tower::arch::{Arch, ArchHints};
    use crate::weights::{Model, ModelOptions};

    /// An encoder of the digits, over the graph that a GPU runs, and its base as a task.
    fn encoder() -> Option<(Encoder, crate::weights::TaskWeights)> {
        crate::need::onnxruntime()?;
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/digits/base/pickled_module.pt");
        let base = Checkpoint::open(path).unwrap();
        let arch = Arch::of(&base, ArchHints::default()).unwrap();
        let options = EncoderOptions { promotion: Promotion::Manual, threads: 1, ..EncoderOptions::default() };
        let graph = |_: &Target| EncoderGraph::built(&arch);
        let encoder = Encoder::over_with(arch.clone(), &options, graph, |_| Ok((None, None))).unwrap();
        let model = Model::new(base, None, &ModelOptions::default()).unwrap();
        Some((encoder, model.weights(&"base".parse().unwrap()).unwrap()))
    }

    /// The CPU stands for a provider of half floats: the first run is compared, those as inputs and promoted each.
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
        encoder.setup.target = Target::compared(2.0);
        refused(&encoder);
        refused(&encoder);
        assert!(!encoder.is_precise.load(Ordering::Acquire));
        encoder.promote(&task).unwrap();
        refused(&encoder);

        encoder.setup.target = Target::compared(TensorRtOptions::DEFAULT_COSINE);
        let promoted = encoder.encode_task(&task, &pixels, 2).unwrap();
        assert!(!encoder.is_precise.load(Ordering::Acquire), "the promoted session is compared by itself");
        assert!(encoder.demote(&task));
        assert_eq!(encoder.encode_task(&task, &pixels, 2).unwrap(), expected);
        assert!(encoder.is_precise.load(Ordering::Acquire));
        precision::check(&promoted, &expected, encoder.arch().embed_dim, 0.9999).unwrap();
        // Not looked at again.
        encoder.setup.target = Target::compared(2.0);
        assert_eq!(encoder.encode_task(&task, &pixels, 2).unwrap(), expected);
    }

    #[test]
    fn every_node_is_somewhere() {
        let Some((encoder, _)) = encoder() else { return };
        assert!(encoder.execution().nodes.is_empty());
        let model = &encoder.feed.graph.model;
        let level = ort::session::builder::GraphOptimizationLevel::Disable;
        let builder = ort::session::Session::builder(encoder.runtime().environment()).unwrap();
        let builder = builder.with_optimization_level(level).unwrap();
        let session = builder.with_config_entry(session::RECORD_NODES, "1").unwrap().commit_from_memory(model).unwrap();
        let file = OnnxFile::parse(Arc::new(crate::Mapping::from_vec(model.clone(), "model"))).unwrap();
        assert_eq!(session::count_nodes(&session).unwrap(), [("CPUExecutionProvider".to_owned(), file.nodes())]);
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
}
