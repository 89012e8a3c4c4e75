//! `taskbasis export`

use clap::Args;
use serde_json::json;
use taskbasis::onnx::{BoundGraph, OnnxFile};
use taskbasis::{Result, TaskExpr, Visible, check_output, present, write_onnx, write_onnx_f16};

use crate::args::{EncoderArgs, ModelArgs};
use crate::conflicts::{Given, Refused, option, options};
use crate::expression::expression;
use crate::output;
use crate::paths::OutFile;
use crate::tower::ImageArgs;

/// Write one task as a plain .onnx file, for programs that know nothing of bases.
#[derive(Args)]
pub struct Export {
    #[command(flatten)]
    model: ModelArgs,

    /// Which weights: `MNIST`, `MNIST@0.3 + SVHN@0.3`, `-Cars@0.5`, `merged@0.4`, `all@0.3`, `base`,
    /// `MNIST@{attn: 0.4, *: 0.3}`; or `@FILE.json`, what `fit` wrote.
    #[arg(long, value_name = "EXPR", value_parser = expression, allow_hyphen_values = true)]
    weights: TaskExpr,

    /// The file to write: from `pixel_values` to `embeds`, or as the user's graph calls them.
    #[arg(short, long, value_name = "TASK.onnx")]
    output: OutFile,

    /// Keep the weights as f16, in half the bytes: they are cast to f32 when the file is loaded, and computed with as
    /// such. A value beyond f16's range is refused.
    #[arg(long)]
    f16: bool,

    #[command(flatten)]
    encoder: EncoderArgs,
}

impl Export {
    pub fn conflict(&self, given: &Given<'_>) -> Refused {
        let of_images = std::iter::once(option!(EncoderArgs, batch)).chain(options::<ImageArgs>());
        let unrun = || {
            let running = || given.first(EncoderArgs::running(), "is for '--optimise-graph': nothing else is run");
            if self.encoder.optimise_graph { None } else { running() }
        };
        let encoded = given.first(of_images, "cannot be used with 'export', which encodes no images");
        encoded.or_else(unrun).or_else(|| self.encoder.conflict(None, given))
    }

    pub fn run(self, as_json: bool) -> Result<()> {
        let session = self.model.open(self.encoder.threads)?;
        let graph = self.encoder.chosen_graph(&session)?;
        self.encoder.check_activation(graph.as_ref())?;
        check_output(&self.output, &[])?;
        let weights = session.weights(&self.weights)?;
        match &graph {
            Some(graph) => {
                let write = if self.f16 { BoundGraph::write_f16 } else { BoundGraph::write };
                write(graph, &*weights.in_layout(graph.layout()).get()?, &self.output, &[])?;
            }
            None => {
                let write = if self.f16 { write_onnx_f16 } else { write_onnx };
                write(&self.encoder.arch(&session)?, &weights.get()?, &self.output, &[])?;
            }
        }
        // Weights of 2 GiB and more are in a second file.
        let written = OnnxFile::open(&self.output)?;
        let files: Vec<_> = written.files().collect();
        let bytes = files.iter().map(|file| present::file_bytes(file)).sum::<Result<u64>>()?;
        if as_json {
            return output::json(&json!({
                "output": &*self.output, "files": files, "weights": self.weights.to_string(), "bytes": bytes,
            }));
        }
        let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
        output::text(&format!("{}: `{}`, {}\n", names.join(" and "), Visible(&self.weights), output::bytes(bytes)))
    }
}
