//! `taskbasis eval`

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};
use taskbasis::{Dataset, ErrorKind, Result, TaskExpr};

use crate::accuracy::{Accuracy, Judge};
use crate::args::{EncoderArgs, HeadArgs, ModelArgs};
use crate::output;

/// Measure the accuracy of tasks on labelled images.
#[derive(Args)]
pub struct Eval {
    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    encoder: EncoderArgs,

    #[command(flatten)]
    heads: HeadArgs,

    /// Labelled images: a safetensors file with `TASK/SPLIT/images` u8 [N,H,W,3] or [N,H,W], and `TASK/SPLIT/labels` [N].
    #[arg(long, value_name = "images.safetensors")]
    data: PathBuf,

    /// Which part of the data.
    #[arg(long, default_value = "test")]
    split: String,

    /// Which weights, for every task; each task's own by default.
    #[arg(long, value_name = "EXPR", allow_hyphen_values = true)]
    weights: Option<TaskExpr>,

    /// Only this task; may be given several times.
    #[arg(long = "task", value_name = "TASK")]
    tasks: Vec<String>,
}

impl Eval {
    pub fn run(self, as_json: bool) -> Result<()> {
        let session = self.model.open(self.encoder.threads)?;
        let model = &session.model;
        let encoder = self.encoder.encoder(&session)?;
        let data = Dataset::open(&self.data)?;
        let tasks: Vec<String> = match self.tasks.as_slice() {
            [] => data.tasks_with(&self.split)?.into_iter().map(String::from).collect(),
            chosen => chosen.to_vec(),
        };
        let bundle = session.bundle.as_deref();
        self.heads.check(bundle, &tasks)?;
        let splits = tasks
            .iter()
            .map(|task| Ok((task, self.heads.head(bundle, task)?, data.split(task, &self.split)?)))
            .collect::<Result<Vec<_>>>()?;

        let shared = self.weights.as_ref().map(|expr| encoder.as_taken(&model.weights(expr)?).get()).transpose()?;
        let bar = output::progress(splits.iter().map(|(_, _, split)| split.len()).sum(), "images");
        let judge = Judge {
            encoder: &encoder,
            preprocess: session.preprocess(encoder.arch().image_size())?,
            batch: self.encoder.batch as usize,
            threads: self.encoder.threads,
        };
        let (mut done, mut skipped) = (Vec::new(), Vec::new());
        for (task, head, split) in splits {
            let own = match &shared {
                Some(_) => None,
                None => match model.weights(&TaskExpr::task(task)).and_then(|weights| encoder.as_taken(&weights).get())
                {
                    Ok(weights) => Some(weights),
                    // A basis of selected tasks has no weights for the others: their rows say so, the rest goes on.
                    Err(error) if error.kind() == ErrorKind::NotRecoverable => {
                        skipped.push((task, error));
                        bar.inc(split.len() as u64);
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            let Some(weights) = own.as_ref().or(shared.as_ref()) else { continue };
            let accuracy = judge.accuracy(task, weights, &head, &split, |n| bar.inc(n as u64));
            done.push(accuracy.map_err(|e| e.at(&self.data))?);
        }
        bar.finish_and_clear();
        if done.is_empty()
            && let Some((_, error)) = skipped.pop()
        {
            return Err(error);
        }

        let mean = done.iter().map(Accuracy::share).sum::<f64>() / done.len().max(1) as f64;
        if as_json {
            let tasks: Map<String, Value> =
                done.iter().map(|a| (a.task.clone(), json!({ "accuracy": a.share(), "images": a.images }))).collect();
            let mut result = json!({ "tasks": tasks, "mean": mean, "split": self.split });
            result["weights"] = self.weights.as_ref().map_or(Value::Null, |expr| json!(expr.to_string()));
            if !skipped.is_empty() {
                let why = skipped.iter().map(|(task, error)| ((*task).clone(), json!(error.to_string())));
                result["skipped"] = Value::Object(why.collect());
            }
            return output::json(&result);
        }
        let mut rows = vec![vec!["task".to_owned(), "accuracy".into(), "images".into()]];
        let percent = |share: f64| format!("{:.2} %", 100.0 * share);
        rows.extend(done.iter().map(|a| vec![a.task.clone(), percent(a.share()), a.images.to_string()]));
        rows.extend(skipped.iter().map(|(task, _)| vec![(*task).clone(), "—".into(), "0".into()]));
        rows.push(vec!["mean".into(), percent(mean)]);
        output::text(&output::table(&rows))?;
        skipped.iter().for_each(|(_, error)| output::note(&error.to_string()));
        Ok(())
    }
}
