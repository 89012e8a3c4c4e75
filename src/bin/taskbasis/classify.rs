//! `taskbasis classify`

use std::num::NonZero;

use clap::Args;
use serde_json::{Value, json};
use taskbasis::{Encoder, Error, Head, Residency, Result, Score, TaskExpr};

use crate::args::{EncoderArgs, HeadArgs, ModelArgs, ResidencyArgs, Session};
use crate::conflicts::{Given, Refused};
use crate::expression::expression;
use crate::input::{FileArgs, Input};
use crate::paths::InPath;
use crate::route::{RouterArgs, leaves_choice};
use crate::{classify_auto, output};

/// The task that a router chooses.
pub const AUTO: &str = "auto";

/// Tell which classes of a task images belong to.
#[derive(Args)]
pub struct Classify {
    #[command(flatten)]
    model: ModelArgs,

    /// Whose head to use; `auto`: that of the task that each image looks like by the router, with its weights.
    #[arg(long)]
    task: String,

    #[command(flatten)]
    pub router: RouterArgs,

    #[command(flatten)]
    pub heads: HeadArgs,

    /// Which weights; the task's own by default.
    #[arg(long, value_name = "EXPR", value_parser = expression, allow_hyphen_values = true, conflicts_with = "router")]
    weights: Option<TaskExpr>,

    #[command(flatten)]
    residency: ResidencyArgs,

    /// How many classes to name an image.
    #[arg(long, default_value = "3", value_name = "K")]
    pub top: NonZero<usize>,

    /// Image files, or folders of them.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<InPath>,

    #[command(flatten)]
    files: FileArgs,

    #[command(flatten)]
    pub encoder: EncoderArgs,
}

impl Classify {
    pub fn conflict(&self, given: &Given<'_>) -> Refused {
        let blockwise = || self.residency.conflict(&self.encoder, given);
        self.encoder.conflict(Some(&self.model), given).or_else(blockwise)
    }

    /// The encoder, and the images as it takes them; tells what is assumed of both.
    pub fn open(&self, session: &Session) -> Result<(Encoder, Input)> {
        let encoder = self.encoder.encoder_with(session, self.residency.get())?;
        let input = Input::open(&self.images, &self.files, self.encoder.preprocess(session)?)?;
        self.encoder.tell_images(session, input.files().is_some())?;
        Ok((encoder, input))
    }

    pub fn run(self, as_json: bool) -> Result<()> {
        let session = self.model.open(self.encoder.threads)?;
        let is_left = leaves_choice(&self.task, &session);
        match (self.router.open(&session, is_left)?, self.task == AUTO) {
            (Some(routing), true) => return classify_auto::run(&self, &session, &routing, as_json),
            (Some(_), false) => {
                return Err(Error::invalid("--router chooses the task of each image")
                    .expected(format_args!("--task {AUTO}"))
                    .got(format_args!("--task {}", self.task)));
            }
            (None, true) if is_left => {
                let error = Error::invalid("--task auto needs a router (--router, or one that the bundle keeps)");
                return Err(error.hint("`taskbasis route` makes one"));
            }
            (None, _) => {}
        }
        let expr = self.weights.clone().unwrap_or_else(|| TaskExpr::task(&self.task));
        let task = session.weights(&expr)?;
        let (encoder, input) = self.open(&session)?;
        let head = self.heads.head(session.bundle(), &self.task, encoder.arch())?;
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
                .map(|(name, top)| json!({ "image": name, "top": top_json(&head, top) }))
                .collect();
            output::json(&json!({
                "task": self.task, "weights": expr.to_string(), "images": images,
                "skipped": taken.skipped.json(),
            }))
        } else {
            let rows: Vec<Vec<String>> = names
                .iter()
                .zip(&results)
                .map(|(name, top)| std::iter::once(name.clone()).chain(top_cells(&head, top)).collect())
                .collect();
            output::text(&output::table(&rows))
        }
    }
}

/// The best classes of an image, for `--json`.
pub fn top_json(head: &Head, top: &[Score]) -> Vec<Value> {
    let json = |s: &Score| {
        json!({
            "class": head.class_name(s.class), "index": s.class, "probability": s.probability, "logit": s.logit,
        })
    };
    top.iter().map(json).collect()
}

/// The best classes of an image, as cells of a table.
pub fn top_cells<'a>(head: &'a Head, top: &'a [Score]) -> impl Iterator<Item = String> + 'a {
    top.iter().map(|s| format!("{} {:.1} %", head.class_name(s.class), 100.0 * s.probability))
}
