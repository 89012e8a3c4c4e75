//! What a `tb_encoder` is inside: an encoder that has all weights of a task when it runs, or one that streams them.

use std::sync::Arc;

use crate::bundle::Bundle;
use crate::encoder::{Encoder, EncoderOptions, Execution, Promotion, Runtime, SelfTest, StreamedEncoder, WeightsOn};
use crate::error::{Error, Result};
use crate::onnx::BoundGraph;
use crate::tower::Arch;
use crate::weights::{Model, TaskWeights};

#[allow(clippy::large_enum_variant)] // Handles have it in memory of its own already.
pub(super) enum Runs {
    Whole(Encoder),
    Streamed(StreamedEncoder),
}

impl Runs {
    pub(super) fn whole(arch: &Arch, graph: Option<&BoundGraph>, how: &EncoderOptions) -> Result<Self> {
        let encoder = match graph {
            Some(graph) => Encoder::with_graph(arch, graph, how)?,
            None => Encoder::new(arch, how)?,
        };
        Ok(Self::Whole(encoder))
    }

    /// Options that could have no effect are errors.
    pub(super) fn streamed(arch: &Arch, graph: Option<&BoundGraph>, how: &EncoderOptions) -> Result<Self> {
        if graph.is_some() {
            return Err(Error::unsupported("only the built graph can be streamed")
                .hint("`options->built_graph` runs it, whatever a bundle carries"));
        }
        let excludes = |what: &str| Err(Error::invalid(format!("`options->streamed` and {what} exclude each other")));
        match how {
            EncoderOptions { weights_on: WeightsOn::Device, .. } => excludes("weights on the device"),
            EncoderOptions { self_test: SelfTest::On, .. } => excludes("a self-test"),
            EncoderOptions { cuda_graphs: true, .. } => excludes("`options->cuda_graphs`"),
            EncoderOptions { promotion: Promotion::Manual, .. } => excludes("promotion"),
            _ => Ok(Self::Streamed(StreamedEncoder::new(arch, how)?)),
        }
    }

    /// Compares the first run of a whole encoder with what the bundle says.
    pub(super) fn tested_by(self, bundle: &Bundle, model: &Arc<Model>) -> Self {
        match self {
            Self::Whole(encoder) => Self::Whole(encoder.tested_by(bundle, model)),
            streamed @ Self::Streamed(_) => streamed,
        }
    }

    /// For what needs all weights of a task in memory.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for an encoder that streams them.
    pub(super) fn with_weights(&self) -> Result<&Encoder> {
        match self {
            Self::Whole(encoder) => Ok(encoder),
            Self::Streamed(_) => Err(Error::unsupported("this encoder streams its weights, and never has a task's")
                .hint("`options->streamed` was set when it was made")),
        }
    }

    /// Where there are weights of whole tasks.
    pub(super) fn if_whole(&self) -> Option<&Encoder> {
        self.with_weights().ok()
    }

    pub(super) fn encode_into(&self, task: &TaskWeights, pixels: &[f32], n: usize, out: &mut [f32]) -> Result<()> {
        match self {
            Self::Whole(encoder) => encoder.encode_task_into(task, pixels, n, out),
            Self::Streamed(encoder) => encoder.encode_into(task, pixels, n, out),
        }
    }

    pub(super) fn arch(&self) -> &Arch {
        match self {
            Self::Whole(encoder) => encoder.arch(),
            Self::Streamed(encoder) => encoder.arch(),
        }
    }

    pub(super) fn execution(&self) -> &Execution {
        match self {
            Self::Whole(encoder) => encoder.execution(),
            Self::Streamed(encoder) => encoder.execution(),
        }
    }

    pub(super) fn runtime(&self) -> &'static Runtime {
        match self {
            Self::Whole(encoder) => encoder.runtime(),
            Self::Streamed(encoder) => encoder.runtime(),
        }
    }

    pub(super) fn threads(&self) -> usize {
        match self {
            Self::Whole(encoder) => encoder.threads(),
            Self::Streamed(encoder) => encoder.threads(),
        }
    }

    pub(super) fn sessions(&self) -> usize {
        match self {
            Self::Whole(encoder) => encoder.sessions(),
            Self::Streamed(encoder) => encoder.sessions(),
        }
    }

    pub(super) fn trim(&self) {
        match self {
            Self::Whole(encoder) => encoder.trim(),
            Self::Streamed(encoder) => encoder.trim(),
        }
    }

    /// Bytes of weights that one run needs in memory at a time.
    pub(super) fn weight_bytes(&self) -> usize {
        match self {
            Self::Whole(encoder) => encoder.arch().parameter_count() * size_of::<f32>(),
            Self::Streamed(encoder) => encoder.weight_bytes(),
        }
    }
}
