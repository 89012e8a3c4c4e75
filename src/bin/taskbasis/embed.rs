//! `taskbasis embed`

use std::time::Instant;

use clap::Args;
use serde_json::json;
use taskbasis::{Error, Residency, Result, TaskExpr, Visible, check_output, save_arrays};

use crate::args::{EncoderArgs, ModelArgs, ResidencyArgs};
use crate::conflicts::{Given, Refused};
use crate::expression::expression;
use crate::input::{FileArgs, Input};
use crate::output;
use crate::paths::{InPath, OutFile};

/// Compute the embeddings of images with the weights of any task.
#[derive(Args)]
pub struct Embed {
    #[command(flatten)]
    model: ModelArgs,

    /// Which weights: `MNIST`, `MNIST@0.3 + SVHN@0.3`, `-Cars@0.5`, `merged@0.4`, `all@0.3`, `base`,
    /// `MNIST@{attn: 0.4, *: 0.3}`; or `@FILE.json`, what `fit` wrote.
    #[arg(long, value_name = "EXPR", value_parser = expression, allow_hyphen_values = true)]
    weights: TaskExpr,

    /// A safetensors file with `pixel_values` f32 [N,3,S,S] (already preprocessed), or image files, or a folder of
    /// them.
    #[arg(short, long, value_name = "X", required = true, num_args = 1..)]
    input: Vec<InPath>,

    #[command(flatten)]
    files: FileArgs,

    /// The file to write: `embeds` f32 [N,e], not normalised.
    #[arg(short, long, value_name = "Y.safetensors")]
    output: OutFile,

    #[command(flatten)]
    residency: ResidencyArgs,

    #[command(flatten)]
    encoder: EncoderArgs,
}

impl Embed {
    pub fn conflict(&self, given: &Given<'_>) -> Refused {
        let blockwise = || self.residency.conflict(&self.encoder, given);
        self.encoder.conflict(Some(&self.model), given).or_else(blockwise)
    }

    pub fn run(self, as_json: bool) -> Result<()> {
        let session = self.model.open(self.encoder.threads)?;
        let task = session.weights(&self.weights)?;
        let encoder = self.encoder.encoder_with(&session, self.residency.get())?;
        let input = Input::open(&self.input, &self.files, self.encoder.preprocess(&session)?)?;
        self.encoder.tell_images(&session, input.files().is_some())?;
        check_output(&self.output, &[])?;
        if encoder.residency() == Residency::Whole {
            encoder.prepare(&task)?;
        }

        let began = Instant::now();
        let bar = output::progress(input.len(), "images");
        let width = encoder.arch().embed_dim;
        let mut embeds = Vec::new();
        let room = input.len().saturating_mul(width);
        embeds.try_reserve_exact(room).map_err(|_| Error::out_of_memory(room.saturating_mul(size_of::<f32>())))?;
        let taken = input.for_each_batch(self.encoder.batch as usize, self.encoder.threads, |pixels, n| {
            embeds.extend(encoder.encode_task(&task, pixels, n)?);
            bar.inc(n as u64);
            Ok(())
        })?;
        bar.finish_and_clear();
        taken.skipped.tell();
        let took = began.elapsed();

        let mut about = vec![("taskbasis.weights", self.weights.to_string())];
        about.extend(taken.files().map(|files| ("taskbasis.files", json!(files).to_string())));
        save_arrays(&self.output, &[("embeds", &[taken.len(), width], &embeds)], &about, &[])?;

        let told = if as_json {
            output::json(&json!({
                "output": &*self.output, "weights": self.weights.to_string(), "images": taken.len(), "embedding": width,
                "files": taken.files(), "skipped": taken.skipped.json(), "encode_ms": took.as_secs_f64() * 1e3,
                "provider": encoder.execution().provider.name(), "device": encoder.execution().device,
            }))
        } else {
            let each = took.as_secs_f64() * 1e3 / taken.len().max(1) as f64;
            output::text(&format!(
                "{}: embeds [{}, {width}] of `{}`, {each:.2} ms per image on {}{}\n",
                self.output.display(),
                taken.len(),
                Visible(&self.weights),
                encoder.execution(),
                taken.left_out(),
            ))
        };
        told.map_err(output::after_writing(&self.output))
    }
}
