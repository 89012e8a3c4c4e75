//! How an encoder is set up.

use std::path::PathBuf;

use super::device::WeightsOn;
use super::golden::SelfTest;
use super::promote::Promotion;
use super::provider::{Provider, TensorRtOptions};
use crate::error::{Error, Result};

/// More threads than this are refused: a number mistaken for another one would take the machine down.
const MAX_THREADS: usize = 4096;

/// How an [`Encoder`](super::Encoder) is set up. The default suits a program that encodes one batch at a time.
#[derive(Clone, Debug, Default)]
pub struct EncoderOptions {
    /// Threads that compute, all runs together; 0 is as many as this process may use.
    pub threads: usize,
    /// Runs that may be in progress at once; 0 is 1. Each has `threads / concurrency` threads, at least one; further
    /// calls wait their turn. One run on all cores answers soonest. One run a core does most work in all: some 5 %
    /// more on a quiet machine, and much more where other programs want the cores too.
    pub concurrency: usize,
    /// Which tasks get sessions of their own, as [`Encoder::encode_task`](super::Encoder::encode_task) runs them. With
    /// weights on a device none gets one by being counted: it would gain nothing.
    pub promotion: Promotion,
    /// The library of ONNX Runtime; see [`Runtime::load`](super::Runtime::load) for what `None` means.
    pub runtime: Option<PathBuf>,
    /// What computes; the CPU unless another is asked for. One that cannot be had is an error.
    pub provider: Provider,
    /// Which of the provider's devices, counted from 0.
    pub device: u32,
    /// How TensorRT is set up.
    pub tensorrt: TensorRtOptions,
    /// With a GPU's provider: where the weights of tasks are reconstructed.
    pub weights_on: WeightsOn,
    /// Of weights on a device: bytes of its memory for everything of a model, as
    /// [`DeviceOptions::budget`](crate::DeviceOptions). Where other encoders have the model there already, theirs
    /// holds.
    pub device_budget: Option<usize>,
    /// With CUDA and weights on the device: records a run, once for each number of images and memory that it is given,
    /// and replays it later, which spares the host some hundred launches a run. The first run of each is made three
    /// times more. For few batch sizes.
    pub cuda_graphs: bool,
    /// Whether an encoder over a bundle is compared with the bundle's golden embedding before its first run.
    pub self_test: SelfTest,
}

impl EncoderOptions {
    /// These, for an encoder that does not compare half floats with the CPU's.
    pub(super) fn without_fp16(&self) -> Result<&Self> {
        if self.tensorrt.fp16 {
            return Err(Error::unsupported("half floats, which this encoder does not compare with the CPU's"));
        }
        Ok(self)
    }

    /// Threads that one run computes with, and how many runs may be in progress.
    pub(super) fn threads_a_run(&self) -> Result<(usize, usize)> {
        for (what, value) in [("threads", self.threads), ("runs at once", self.concurrency)] {
            if value > MAX_THREADS {
                return Err(Error::invalid(format!("too many {what}"))
                    .expected(format_args!("at most {MAX_THREADS}"))
                    .got(value));
            }
        }
        let concurrency = self.concurrency.max(1);
        // ONNX Runtime's own default counts the machine's cores, where a container may use fewer, and pins its threads.
        let threads = match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        Ok(((threads / concurrency).max(1), concurrency))
    }
}
