//! `taskbasis classify`

use std::num::NonZero;

use clap::Args;
use serde_json::{Value, json};
use taskbasis::{Residency, Result, TaskExpr};

use crate::args::{EncoderArgs, HeadArgs, ModelArgs, ResidencyArgs};
use crate::conflicts::{Given, Refused};
use crate::expression::expression;
use crate::input::{FileArgs, Input};
use crate::output;
use crate::paths::InPath;

/// Tell which classes of a task images belong to.
#[derive(Args)]
pub struct Classify {
    #[command(flatten)]
    model: ModelArgs,

    /// Whose head to use.
    #[arg(long)]
    task: String,

    #[command(flatten)]
    heads: HeadArgs,

    /// Which weights; the task's own by default.
    #[arg(long, value_name = "EXPR", value_parser = expression, allow_hyphen_values = true)]
    weights: Option<TaskExpr>,

    #[command(flatten)]
    residency: ResidencyArgs,

    /// How many classes to name an image.
    #[arg(long, default_value = "3", value_name = "K")]
    top: NonZero<usize>,

    /// Image files, or folders of them.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<InPath>,

    #[command(flatten)]
    files: FileArgs,

    #[command(flatten)]
    encoder: EncoderArgs,
}

impl Classify {
    pub fn conflict(&self, given: &Given<'_>) -> Refused {
        let blockwise = || self.residency.conflict(&self.encoder, given);
        self.encoder.conflict(Some(&self.model), given).or_else(blockwise)
    }

    pub fn run(self, as_json: bool) -> Result<()> {
        let session = self.model.open(self.encoder.threads)?;
        let expr = self.weights.unwrap_or_else(|| TaskExpr::task(&self.task));
        let task = session.weights(&expr)?;
        let encoder = self.encoder.encoder_with(&session, self.residency.get())?;
        let head = self.heads.head(session.bundle(), &self.task, encoder.arch())?;
        let input = Input::open(&self.images, &self.files, self.encoder.preprocess(&session)?)?;
        self.encoder.tell_images(&session, input.files().is_some())?;
        if encoder.residency() == Residency::Whole {
            encoder.prepare(&task)?;
        }

        let bar = output::progress(input.len(), "images");
        let mut results = Vec::with_capacity(input.len());
        let width = encoder.arch().embed_dim;
        let taken = input.for_each_batch(self.encoder.batch as usize, self.encoder.threads, |pixels, n| {
            for embedding in encoder.encode_task(&task, pixels, n)?.chunks_exact(width) {
                results.push(head.classify(embedding, self.top.get())?);
            }
            bar.inc(n as u64);
            Ok(())
        })?;
        bar.finish_and_clear();

        taken.skipped.tell();
        let names = taken.names();
        if as_json {
            let images: Vec<Value> = names
                .iter()
                .zip(&results)
                .map(|(name, top)| {
                    let top: Vec<Value> = top
                        .iter()
                        .map(|s| json!({ "class": head.class_name(s.class), "index": s.class, "probability": s.probability, "logit": s.logit }))
                        .collect();
                    json!({ "image": name, "top": top })
                })
                .collect();
            output::json(&json!({
                "task": self.task, "weights": expr.to_string(), "images": images,
                "skipped": taken.skipped.json(),
            }))
        } else {
            let rows: Vec<Vec<String>> = names
                .iter()
                .zip(&results)
                .map(|(name, top)| {
                    let cells =
                        top.iter().map(|s| format!("{} {:.1} %", head.class_name(s.class), 100.0 * s.probability));
                    std::iter::once(name.clone()).chain(cells).collect()
                })
                .collect();
            output::text(&output::table(&rows))
        }
    }
}
