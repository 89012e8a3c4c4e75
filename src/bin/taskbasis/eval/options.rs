//! The options of `taskbasis eval`.

use std::convert::Infallible;
use std::path::Path;
use std::str::FromStr;

use clap::{ArgGroup, Args};
use taskbasis::hub::{HubPath, Wanted};
use taskbasis::{Error, Grouping, Result, TaskExpr};

use crate::args::{EncoderArgs, HeadArgs, ModelArgs};
use crate::expression::expression;
use crate::paths::{InPath, OutFile, OutPath};
use crate::route::RouterArgs;
use crate::unreadable_images::SkipArgs;

/// Measure the accuracy of tasks on labelled images.
///
/// Alone, each task with its own weights. With --sweep, the paper's task addition: `merged@λ` for every λ on the
/// validation split, then the best of them on the test split. With --negate, its task negation: for every task the λ
/// of `-TASK@λ` that forgets most, as long as a control task is kept. With --analogy, how far the arithmetic of other
/// tasks stands in for one. With --sweep-layers, what the change of each block alone does. With --router, images are
/// sent to the task that they look like, beside knowing which it is.
#[derive(Args)]
#[command(group(ArgGroup::new("lambdas").args(["sweep", "negate", "analogy"]).multiple(true)))]
#[command(group(ArgGroup::new("validated").args(["sweep", "negate", "analogy", "accuracies"]).multiple(true)))]
#[command(group(ArgGroup::new("reported").args(["sweep", "sweep_layers"])))]
#[command(group(ArgGroup::new("repeated").args(["sweep", "negate", "analogy", "sweep_layers"]).multiple(true)))]
pub struct Eval {
    #[command(flatten)]
    pub(super) model: ModelArgs,

    /// The fine-tuned checkpoints themselves in the place of a basis: what their task vectors do without compression.
    /// As `build` takes them; all of them are read for each of the weights, where they are mapped. --sweep scales
    /// `all`, their sum.
    #[arg(long, value_name = "FOLDER", requires = "base", conflicts_with_all = ["basis", "router", "finetuned_dir"])]
    pub(super) tasks_dir: Option<InPath>,

    /// Write the accuracies of the base and of the fine-tuned checkpoints, on both parts of the data, into this folder:
    /// `zeroshot_accuracies.json` and `ft_accuracies.json`, as the reference does and --finetuned reads them.
    #[arg(long, value_name = "FOLDER", requires = "tasks_dir",
        conflicts_with_all = ["lambdas", "sweep_layers", "weights"])]
    pub(super) accuracies: Option<OutPath>,

    /// Labelled images: a safetensors file with `TASK/SPLIT/images` u8 [N,H,W,3] or [N,H,W], and `TASK/SPLIT/labels`
    /// [N]; or a folder with one folder per task; or TASK=FOLDER, once per task: SPLIT/CLASS/*.png, or the files of
    /// MNIST, EMNIST, CIFAR, SVHN, STL10 or GTSRB as they are distributed. TASK=FOLDER:SET where a folder holds several
    /// sets: EMNIST=raw:digits.
    #[arg(long, value_name = "DATA", required = true)]
    pub(super) data: Vec<DataArg>,

    /// Count class folders whose names are not the head's in the order of the alphabet, as torchvision's ImageFolder
    /// does, instead of refusing them.
    #[arg(long)]
    pub(super) alphabetical: bool,

    #[command(flatten)]
    pub(super) skip: SkipArgs,

    #[command(flatten)]
    pub(super) heads: HeadArgs,

    /// Which part of the data to test on.
    #[arg(long, default_value = "test")]
    pub(super) split: String,

    /// Which part of the data λ is chosen on; `train:reference` is what the reference sets aside of that part: a tenth,
    /// at most 5,000, by the seed 0 (EuroSAT's is its own part `valid`).
    #[arg(long, default_value = "val", value_name = "SPLIT", requires = "validated")]
    pub(super) val_split: String,

    /// Choose λ on M/T of those images, drawn by the seed as the reference's --subsample-eval draws them.
    #[arg(long, value_name = "SEED", num_args = 0..=1, default_missing_value = "42", requires = "sweep",
        conflicts_with_all = ["negate", "analogy", "tasks_dir"])]
    pub(super) subsample: Option<u32>,

    /// Which weights, for every task; each task's own by default. With --sweep, what λ multiplies: `merged` by default.
    #[arg(long, value_name = "EXPR", value_parser = expression, allow_hyphen_values = true, conflicts_with = "router")]
    pub(super) weights: Option<TaskExpr>,

    #[command(flatten)]
    pub(super) router: RouterArgs,

    /// Only this task; may be given several times. `auto` is all that the router knows: --router's, or the bundle's.
    #[arg(long = "task", value_name = "TASK")]
    pub(super) tasks: Vec<String>,

    /// The λ to try: from, to, and how many, `0:1:21`.
    #[arg(long, value_name = "FROM:TO:N", num_args = 0..=1, default_missing_value = "0:1:21", conflicts_with = "router")]
    pub(super) sweep: Option<Sweep>,

    /// Negate every task.
    #[arg(long, requires = "control", conflicts_with_all = ["weights", "router"])]
    pub(super) negate: bool,

    /// The task that negation must not harm.
    #[arg(long, value_name = "TASK", requires = "negate")]
    pub(super) control: Option<String>,

    /// The share of the control task's zero-shot accuracy that negation must keep.
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, default_value_t = 0.95, requires = "negate")]
    pub(super) keep: f64,

    /// Arithmetic of other tasks that is to stand in for the one given by --task, as `A + B - C`: its best λ on the
    /// validation split, beside the base and the task's own weights.
    #[arg(long, value_name = "EXPR", value_parser = expression, allow_hyphen_values = true, conflicts_with_all = ["negate", "weights", "report",
        "finetuned", "finetuned_dir"])]
    pub(super) analogy: Option<TaskExpr>,

    /// Change one group of parameters at a time, and leave one at a time as the base has it: what that does to each
    /// task. Of each task's own weights, or those of --weights.
    #[arg(long, conflicts_with = "lambdas")]
    pub(super) sweep_layers: bool,

    /// The groups of --sweep-layers.
    #[arg(long, value_name = "GROUPING", default_value = "block", requires = "sweep_layers",
        value_parser = Grouping::NAMES)]
    pub(super) groups: String,

    /// The accuracies of the fine-tuned models, which normalise those of --sweep and --negate: {"TASK": 0.99, …};
    /// `TASKVal` for the validation split, where it differs.
    #[arg(long, value_name = "F.json", requires = "lambdas")]
    pub(super) finetuned: Option<InPath>,

    /// The fine-tuned checkpoints themselves, to be measured: `NAMEVal/finetuned.pt` or `NAME/finetuned.pt`, else
    /// `NAME.pt` and `NAME.safetensors`.
    #[arg(long, value_name = "FOLDER", conflicts_with = "finetuned", requires = "lambdas")]
    pub(super) finetuned_dir: Option<InPath>,

    /// Write what --sweep or --sweep-layers found as one HTML page.
    #[arg(long, value_name = "FILE.html", requires = "reported", conflicts_with = "negate")]
    pub(super) report: Option<OutFile>,

    /// MiB of preprocessed images to keep between one λ and the next; more are preprocessed again.
    #[arg(long, value_name = "MIB", default_value_t = 4096, requires = "repeated")]
    pub(super) image_cache: usize,

    #[command(flatten)]
    pub(super) encoder: EncoderArgs,
}

/// Evenly spaced λ, both ends among them.
#[derive(Clone, Debug)]
pub(super) struct Sweep(pub(super) Vec<f64>);

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

impl Sweep {
    /// What `--sweep` alone stands for.
    pub(super) fn usual() -> Result<Self> {
        "0:1:21".parse().map_err(Error::invalid)
    }
}

impl Eval {
    /// Whether images are seen more than once: with one λ and the next.
    pub(super) fn has_lambdas(&self) -> bool {
        self.sweep.is_some() || self.negate || self.analogy.is_some() || self.sweep_layers
    }
}

/// A file or folder of several tasks, or the folder of one.
#[derive(Clone, Debug)]
pub struct DataArg {
    pub(super) task: Option<String>,
    pub(super) path: InPath,
    /// One of several sets in the folder.
    pub(super) part: Option<String>,
}

impl FromStr for DataArg {
    type Err = Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Infallible> {
        // A path may hold `=` and `:`; one that is there, or on the Hub, is a path.
        let is_path = |text: &str| Path::new(text).exists() || HubPath::is_meant(Path::new(text));
        let of = |task: Option<&str>, path: &str, part: Option<&str>| Self {
            task: task.map(str::to_owned),
            path: InPath::new(path, Wanted::Path),
            part: part.map(str::to_owned),
        };
        let Some((task, path)) = text.split_once('=').filter(|(task, _)| !task.is_empty() && !is_path(text)) else {
            return Ok(of(None, text, None));
        };
        Ok(match path.rsplit_once(':') {
            Some((folder, part)) if !is_path(path) && Path::new(folder).exists() => of(Some(task), folder, Some(part)),
            _ => of(Some(task), path, None),
        })
    }
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
