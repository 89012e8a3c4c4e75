//! The options that several commands share, and what they open.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use taskbasis::onnx::BoundGraph;
use taskbasis::{
    Activation, Arch, ArchHints, Basis, Checkpoint, Encoder, EncoderOptions, Error, Model, ModelOptions, Result,
    StreamedEncoder, TaskExpr, TaskWeights,
};

use crate::graph::BindArgs;
use crate::output;

/// Which model.
#[derive(Args)]
pub struct ModelArgs {
    /// Basis folder: `method_info.json`, `basis_vectors.pt` and the method's own file.
    #[arg(long, value_name = "FOLDER")]
    pub basis: Option<PathBuf>,

    /// Base checkpoint (the zero-shot weights): PyTorch or safetensors, by open_clip's, OpenAI's or transformers' names.
    #[arg(long, value_name = "FILE")]
    pub base: PathBuf,
}

/// How to run it.
#[derive(Args)]
pub struct EncoderArgs {
    /// Images a run.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: u32,

    /// Threads; 0 means one a processor.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,

    /// The encoder's activation: OpenAI's models have quick_gelu, most others gelu. The wrong one gives plausible, wrong
    /// embeddings.
    #[arg(long, value_enum, default_value_t)]
    pub activation: ActivationArg,

    /// Attention heads, where they are not width / 64.
    #[arg(long, value_name = "N")]
    pub heads_count: Option<usize>,

    /// ONNX Runtime's shared library, instead of the one that would be found.
    #[arg(long, value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,

    /// An image encoder that somebody exported as .onnx with the base's weights, to run instead of the built one.
    #[arg(long, value_name = "MODEL.onnx")]
    pub graph: Option<PathBuf>,

    #[command(flatten)]
    pub binding: BindArgs,

    /// Try what ONNX Runtime's optimiser makes of the graph first, and run the faster form.
    #[arg(long, requires = "graph")]
    pub optimise_graph: bool,
}

#[derive(Clone, Copy, Default, ValueEnum)]
pub enum ActivationArg {
    #[default]
    #[value(name = "quick_gelu", alias = "quick-gelu")]
    QuickGelu,
    Gelu,
}

impl ModelArgs {
    /// Base and basis together; `threads` for reconstruction, 0 meaning one a processor.
    pub fn open(&self, threads: usize) -> Result<Arc<Model>> {
        let basis = self.basis.as_deref().map(Basis::open).transpose()?;
        let options = ModelOptions { threads, ..ModelOptions::default() };
        Model::new(Checkpoint::open(&self.base)?, basis, &options)
    }

    /// The files that nothing may be written over: the base, and all of the basis's folder, however it was named.
    pub fn inputs<'a>(&'a self, model: &'a Model) -> Vec<&'a Path> {
        model.basis().map(Basis::path).into_iter().chain([self.base.as_path()]).collect()
    }
}

impl EncoderArgs {
    /// The encoder with the weights of one task, of which nothing is reconstructed yet.
    pub fn of_task(&self, model: &Arc<Model>, weights: &TaskExpr, streamed: bool) -> Result<TaskEncoder> {
        let weights = model.weights(weights)?;
        if !streamed {
            let encoder = self.encoder(model)?;
            let weights = encoder.as_taken(&weights);
            return Ok(TaskEncoder::Whole(Box::new(encoder), weights));
        }
        if self.graph.is_some() {
            return Err(Error::unsupported("only the built graph can be streamed"));
        }
        let encoder = StreamedEncoder::new(&self.arch(model.base())?, &self.options())?;
        Ok(TaskEncoder::Streamed(Box::new(encoder), weights))
    }

    pub fn arch(&self, base: &Checkpoint) -> Result<Arch> {
        let activation = match self.activation {
            ActivationArg::QuickGelu => Activation::QuickGelu,
            ActivationArg::Gelu => Activation::Gelu,
        };
        Arch::of(base, ArchHints { heads: self.heads_count, activation })
    }

    pub fn options(&self) -> EncoderOptions {
        EncoderOptions { threads: self.threads, runtime: self.onnxruntime.clone(), ..EncoderOptions::default() }
    }

    /// The user's graph, where one is given.
    pub fn graph(&self, model: &Model) -> Result<Option<BoundGraph>> {
        self.graph.as_ref().map(|path| self.binding.bind(path, model)).transpose()
    }

    pub fn encoder(&self, model: &Arc<Model>) -> Result<Encoder> {
        let (arch, options) = (self.arch(model.base())?, self.options());
        let Some(graph) = self.graph(model)? else { return Encoder::new(&arch, &options) };
        if !self.optimise_graph {
            return Encoder::with_graph(&arch, &graph, &options);
        }
        let (encoder, trials) = Encoder::with_fastest_graph(&arch, &graph, model, &options)?;
        for trial in trials.iter().filter(|trial| trial.is_chosen) {
            output::note(&format!("the fastest of {1} forms of the graph is the one {0}", trial.form, trials.len()));
        }
        Ok(encoder)
    }
}

/// An encoder with the weights of one task: all of them at once, or a block at a time.
pub enum TaskEncoder {
    Whole(Box<Encoder>, TaskWeights),
    Streamed(Box<StreamedEncoder>, TaskWeights),
}

impl TaskEncoder {
    pub fn arch(&self) -> &Arch {
        match self {
            Self::Whole(encoder, _) => encoder.arch(),
            Self::Streamed(encoder, _) => encoder.arch(),
        }
    }

    /// Reconstructs what can be reconstructed before the first run.
    pub fn prepare(&self) -> Result<()> {
        match self {
            Self::Whole(_, weights) => weights.pin().map(drop),
            Self::Streamed(..) => Ok(()),
        }
    }

    pub fn encode(&self, pixels: &[f32], n: usize) -> Result<Vec<f32>> {
        match self {
            Self::Whole(encoder, weights) => encoder.encode(&weights.get()?, pixels, n),
            Self::Streamed(encoder, weights) => encoder.encode(weights, pixels, n),
        }
    }
}
