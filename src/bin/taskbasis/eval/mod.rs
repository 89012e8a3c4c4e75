//! `taskbasis eval`

mod data;
mod finetuned;
mod negate;
mod plain;
mod report;
mod sweep;

use std::str::FromStr;

use clap::{ArgGroup, Args};
use indicatif::ProgressBar;
use taskbasis::{Encoder, Error, ErrorKind, Result, TaskExpr, TaskWeights};

pub use self::data::labels;
use self::data::{DataArg, Images, Labelled, open_data};
use crate::args::{EncoderArgs, HeadArgs, ModelArgs, Session};
use crate::conflicts::{Given, Refused};
use crate::paths::{InPath, OutPath};
use crate::skip::SkipArgs;

/// Measure the accuracy of tasks on labelled images.
///
/// Alone, each task with its own weights. With --sweep, the paper's task addition: `merged@λ` for every λ on the
/// validation split, then the best of them on the test split. With --negate, its task negation: for every task the λ
/// of `-TASK@λ` that forgets most, as long as a control task is kept.
#[derive(Args)]
#[command(group(ArgGroup::new("lambdas").args(["sweep", "negate"]).multiple(true)))]
pub struct Eval {
    #[command(flatten)]
    model: ModelArgs,

    /// Labelled images: a safetensors file with `TASK/SPLIT/images` u8 [N,H,W,3] or [N,H,W], and `TASK/SPLIT/labels`
    /// [N]; or a folder with one folder per task; or TASK=FOLDER, once per task: SPLIT/CLASS/*.png, or the files of
    /// MNIST, EMNIST, CIFAR, SVHN, STL10 or GTSRB as they are distributed. TASK=FOLDER:SET where a folder holds several
    /// sets: EMNIST=raw:digits.
    #[arg(long, value_name = "DATA", required = true)]
    data: Vec<DataArg>,

    /// Count class folders whose names are not the head's in the order of the alphabet, as torchvision's ImageFolder
    /// does, instead of refusing them.
    #[arg(long)]
    alphabetical: bool,

    #[command(flatten)]
    skip: SkipArgs,

    #[command(flatten)]
    heads: HeadArgs,

    /// Which part of the data to test on.
    #[arg(long, default_value = "test")]
    split: String,

    /// Which part of the data λ is chosen on.
    #[arg(long, default_value = "val", value_name = "SPLIT", requires = "lambdas")]
    val_split: String,

    /// Which weights, for every task; each task's own by default. With --sweep, what λ multiplies: `merged` by default.
    #[arg(long, value_name = "EXPR", allow_hyphen_values = true)]
    weights: Option<TaskExpr>,

    /// Only this task; may be given several times.
    #[arg(long = "task", value_name = "TASK")]
    tasks: Vec<String>,

    /// The λ to try: from, to, and how many, `0:1:21`.
    #[arg(long, value_name = "FROM:TO:N", num_args = 0..=1, default_missing_value = "0:1:21")]
    sweep: Option<Sweep>,

    /// Negate every task.
    #[arg(long, requires = "control", conflicts_with = "weights")]
    negate: bool,

    /// The task that negation must not harm.
    #[arg(long, value_name = "TASK", requires = "negate")]
    control: Option<String>,

    /// The share of the control task's zero-shot accuracy that negation must keep.
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, default_value_t = 0.95, requires = "negate")]
    keep: f64,

    /// The accuracies of the fine-tuned models, which normalise those of --sweep and --negate: {"TASK": 0.99, …};
    /// `TASKVal` for the validation split, where it differs.
    #[arg(long, value_name = "F.json", requires = "lambdas")]
    finetuned: Option<InPath>,

    /// The fine-tuned checkpoints themselves, to be measured: `NAMEVal/finetuned.pt` or `NAME/finetuned.pt`, else
    /// `NAME.pt` and `NAME.safetensors`.
    #[arg(long, value_name = "FOLDER", conflicts_with = "finetuned", requires = "lambdas")]
    finetuned_dir: Option<InPath>,

    /// Write the sweep as one HTML page with plots.
    #[arg(long, value_name = "FILE.html", requires = "sweep", conflicts_with = "negate")]
    report: Option<OutPath>,

    /// MiB of preprocessed images to keep between one λ and the next; more are preprocessed again.
    #[arg(long, value_name = "MIB", default_value_t = 4096, requires = "lambdas")]
    image_cache: usize,

    #[command(flatten)]
    encoder: EncoderArgs,
}

/// Evenly spaced λ, both ends among them.
#[derive(Clone, Debug)]
struct Sweep(Vec<f64>);

impl FromStr for Sweep {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let [from, to, count] = parts.as_slice() else { return Err("expected FROM:TO:N, as in 0:1:21".into()) };
        let number = |text: &str| text.parse::<f64>().ok().filter(|value| value.is_finite());
        let (Some(from), Some(to), Ok(count @ 2..=10_000)) = (number(from), number(to), count.parse::<usize>()) else {
            return Err("expected two numbers and how many λ, at least 2: 0:1:21".into());
        };
        // As numpy.linspace computes them, so that λ are the same numbers, and the last is exactly `to`.
        let step = (to - from) / (count - 1) as f64;
        let mut values: Vec<f64> = (0..count).map(|i| i as f64 * step + from).collect();
        if let Some(last) = values.last_mut() {
            *last = to;
        }
        Ok(Self(values))
    }
}

/// What every kind of evaluation works with.
struct Bench<'a> {
    session: &'a Session,
    encoder: Encoder,
    images: Images<'a>,
}

impl Bench<'_> {
    /// The weights of `expr`; the expression is checked, nothing is reconstructed yet.
    fn weights(&self, expr: &TaskExpr) -> Result<TaskWeights> {
        self.session.weights(expr)
    }

    /// As [`Bench::weights`], of a task that the data named: it may be no task of the basis.
    fn own_weights(&self, task: &str) -> Result<TaskWeights> {
        self.weights(&TaskExpr::task(task)).map_err(|error| match self.session.model().basis() {
            Some(basis) if error.kind() == ErrorKind::NotFound && self.images.data().tasks().contains(&task) => {
                Error::not_found(format!("no task `{task}`, which is in the data; known: {}", basis.tasks().join(", ")))
                    .at(basis.path())
                    .hint("Choose tasks with --task")
            }
            _ => error,
        })
    }

    fn accuracy(&self, weights: &TaskWeights, labelled: &Labelled, bar: &ProgressBar) -> Result<f64> {
        self.images.accuracy(&self.encoder, weights, labelled, bar)
    }
}

impl Eval {
    pub fn conflict(&self, given: &Given<'_>) -> Refused {
        self.encoder.conflict(Some(&self.model), given)
    }

    pub fn run(self, as_json: bool) -> Result<()> {
        let session = self.model.open(self.encoder.threads)?;
        let encoder = self.encoder.encoder(&session)?;
        let images = Images::new(open_data(&self.data)?, &self, &session, encoder.arch())?;
        let bench = Bench { session: &session, encoder, images };
        match (&self.sweep, self.negate) {
            (sweep, true) => negate::run(&self, &bench, sweep.clone(), as_json),
            (Some(sweep), false) => sweep::run(&self, &bench, sweep, as_json),
            (None, false) => plain::run(&self, &bench, as_json),
        }?;
        bench.images.tell_skipped();
        Ok(())
    }

    /// Whether images are seen more than once: with one λ and the next.
    fn has_lambdas(&self) -> bool {
        self.sweep.is_some() || self.negate
    }

    /// The tasks that are asked for: those given, or all that have images in every one of `splits`.
    fn tasks(&self, bench: &Bench<'_>, splits: &[&str]) -> Result<Vec<String>> {
        if !self.tasks.is_empty() {
            return Ok(self.tasks.clone());
        }
        let mut tasks: Vec<String> = Vec::new();
        for (i, split) in splits.iter().enumerate() {
            let of_split = bench.images.data().tasks_with(split)?;
            if i == 0 {
                tasks = of_split.into_iter().map(String::from).collect();
            } else {
                tasks.retain(|task| of_split.contains(&task.as_str()));
            }
        }
        if tasks.is_empty() {
            return Err(Error::not_found(format!("no task has all of the splits {}", splits.join(", "))));
        }
        Ok(tasks)
    }
}

/// `97.25 %`
fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_are_those_of_numpy() {
        let Sweep(values) = "0:1:21".parse().unwrap();
        // numpy.linspace(0, 1, 21)[[3, 6, 20]]
        assert_eq!(
            (values.len(), values[3], values[6], values[20]),
            (21, 0.15000000000000002, 0.30000000000000004, 1.0)
        );
        assert_eq!("-1:1:3".parse::<Sweep>().unwrap().0, [-1.0, 0.0, 1.0]);
        for wrong in ["0:1", "0:1:1", "0:1:x", "a:1:3", "0:inf:3", "0:1:3:4", ""] {
            assert!(wrong.parse::<Sweep>().is_err(), "{wrong}");
        }
    }
}
