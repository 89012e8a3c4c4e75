//! `taskbasis eval`

use std::path::PathBuf;

use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Map, Value, json};
use taskbasis::{Dataset, Encoder, Error, ErrorKind, Head, Preprocess, Result, Split, TaskExpr, Weights, head_tasks};

use crate::args::{EncoderArgs, ModelArgs};
use crate::output;

/// Measure the accuracy of tasks on labelled images.
#[derive(Args)]
pub struct Eval {
    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    encoder: EncoderArgs,

    /// Classification heads: a safetensors file with `TASK/weight` and `TASK/bias`, or a folder of heads.
    #[arg(long, value_name = "H")]
    heads: PathBuf,

    /// Class names: {"TASK": ["name", …]}; only their number is checked here.
    #[arg(long, value_name = "C.json")]
    classes: Option<PathBuf>,

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

struct Accuracy {
    task: String,
    right: usize,
    images: usize,
}

impl Accuracy {
    fn share(&self) -> f64 {
        self.right as f64 / self.images.max(1) as f64
    }
}

impl Eval {
    pub fn run(self, as_json: bool) -> Result<()> {
        let model = self.model.open(self.encoder.threads)?;
        let encoder = self.encoder.encoder(&model)?;
        let data = Dataset::open(&self.data)?;
        let tasks: Vec<String> = match self.tasks.as_slice() {
            [] => data.tasks_with(&self.split)?.into_iter().map(String::from).collect(),
            chosen => chosen.to_vec(),
        };
        self.check_heads(&tasks)?;
        let splits = tasks
            .iter()
            .map(|task| Ok((task, self.head(task)?, data.split(task, &self.split)?)))
            .collect::<Result<Vec<_>>>()?;

        let shared = self.weights.as_ref().map(|expr| encoder.as_taken(&model.weights(expr)?).get()).transpose()?;
        let bar = output::progress(splits.iter().map(|(_, _, split)| split.len()).sum(), "images");
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
            let right = self.count_right(&encoder, weights, &head, &split, &bar)?;
            done.push(Accuracy { task: task.clone(), right, images: split.len() });
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

    /// A file of one head says of one task: for several it would be right for one and silently wrong for the others.
    fn check_heads(&self, tasks: &[String]) -> Result<()> {
        if tasks.len() < 2 || self.heads.is_dir() {
            return Ok(());
        }
        let known = head_tasks(&self.heads)?;
        match tasks.iter().find(|task| !known.contains(task)) {
            None => Ok(()),
            Some(task) => Err(Error::not_found(format!("no head of task `{task}`; known: {}", known.join(", ")))
                .at(&self.heads)
                .hint("Give a file or folder with a head a task, or choose tasks with --task")),
        }
    }

    fn head(&self, task: &str) -> Result<Head> {
        let head = Head::open(&self.heads, Some(task))?;
        match &self.classes {
            Some(classes) => head.with_class_names(classes, task),
            None => Ok(head),
        }
    }

    fn count_right(
        &self,
        encoder: &Encoder,
        weights: &Weights,
        head: &Head,
        split: &Split,
        bar: &ProgressBar,
    ) -> Result<usize> {
        if split.is_empty() {
            return Err(Error::format("a split without images").at(&self.data));
        }
        let preprocess = Preprocess::new(encoder.arch().image_size())?;
        let labels = head.check_labels(split.labels())?;
        let width = encoder.arch().embed_dim;
        let mut right = 0;
        for start in (0..split.len()).step_by(self.encoder.batch as usize) {
            let batch = start..split.len().min(start + self.encoder.batch as usize);
            let images = batch.clone().map(|i| split.image(i)).collect::<Result<Vec<_>>>()?;
            let pixels = preprocess.images(&images, self.encoder.threads)?;
            let embeds = encoder.encode(weights, &pixels, batch.len())?;
            for (embedding, &label) in embeds.chunks_exact(width).zip(&labels[batch.clone()]) {
                right += usize::from(head.classify(embedding, 1)?.first().is_some_and(|best| best.class == label));
            }
            bar.inc(batch.len() as u64);
        }
        Ok(right)
    }
}
