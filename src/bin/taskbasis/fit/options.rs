//! The options of `taskbasis fit`.

use std::fmt;
use std::str::FromStr;

use clap::Args;
use clap::builder::PossibleValuesParser;
use taskbasis::fit::ClosedForm;
use taskbasis::{Error, Grouping};

use crate::args::{EncoderArgs, HeadArgs, ModelArgs};
use crate::eval::DataArg;
use crate::paths::OutFile;

const EXAMPLE: &str = "\
Example:
  taskbasis fit --basis model.taskbasis --data images --groups layer --shots 16 -o merged.json
  taskbasis eval --basis model.taskbasis --data images --weights @merged.json";

/// Find coefficients: a λ for every task and group of parameters, with which one set of weights serves all tasks.
///
/// From a few labelled images of every class, or from unlabelled ones, by search; or without images, from the lengths
/// of the task vectors. The search begins at the best single λ and gives nothing that is worse in cross-validation: on
/// images that what was fitted alike has not seen. What comes out is an expression, which -o writes into a file that
/// --weights takes as @FILE.
#[derive(Args)]
#[command(after_help = EXAMPLE)]
pub struct Fit {
    #[command(flatten)]
    pub(super) model: ModelArgs,

    /// Images, as `eval` takes them. Those that are not chosen are not read.
    #[arg(long, value_name = "DATA")]
    pub(super) data: Vec<DataArg>,

    /// As for `eval`: count class folders whose names are not the head's in the order of the alphabet.
    #[arg(long)]
    pub(super) alphabetical: bool,

    #[command(flatten)]
    pub(super) heads: HeadArgs,

    /// Which part of the data to choose images from.
    #[arg(long, default_value = "val")]
    pub(super) split: String,

    /// Only this task; may be given several times. All that have images by default; without images, all of the basis.
    #[arg(long = "task", value_name = "TASK")]
    pub(super) tasks: Vec<String>,

    /// The groups of parameters that get a λ of their own for each task.
    #[arg(long, default_value = "layer", value_name = "GROUPS", value_parser = PossibleValuesParser::new(Grouping::NAMES))]
    pub(super) groups: String,

    /// Images of every class.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub(super) shots: usize,

    /// Parts of the images, of which each is held out once to choose by; what is found is fitted on all of them.
    #[arg(long, value_name = "K", default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub(super) folds: u32,

    /// Look at no labels: make predictions decided (their mean entropy small) instead of right. As many images of a
    /// task as --shots would be of its head's classes.
    #[arg(long)]
    pub(super) unlabelled: bool,

    /// `search`, with images; or by a formula, without: `inverse-norm`, every task as far as every other, or `metagpt`,
    /// by the squared lengths of the task vectors.
    #[arg(long, default_value = "search", value_name = "search|inverse-norm|metagpt")]
    pub(super) method: Method,

    /// How often to measure anew how logits change with every λ; it ends before where nothing is gained.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(super) rounds: usize,

    /// How strongly λ are pulled back to where the search begins, instead of as cross-validation chooses.
    #[arg(long, value_name = "PULL")]
    pub(super) pull: Option<f64>,

    /// Chooses the images.
    #[arg(long, default_value_t = 0)]
    pub(super) seed: u64,

    /// Measure what was found on this part of the data, beside the base, the best single λ and each task's own weights.
    #[arg(long, value_name = "SPLIT")]
    pub(super) test: Option<String>,

    /// Write expression, curve and everything else that --json prints into a file.
    #[arg(short, long, value_name = "FILE.json")]
    pub(super) output: Option<OutFile>,

    /// Write the search as one HTML page with plots.
    #[arg(long, value_name = "FILE.html")]
    pub(super) report: Option<OutFile>,

    #[command(flatten)]
    pub(super) encoder: EncoderArgs,
}

/// How coefficients are found.
#[derive(Clone, Copy, Debug)]
pub(super) enum Method {
    Search,
    Closed(ClosedForm),
}

impl FromStr for Method {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "search" => Ok(Self::Search),
            name => name.parse().map(Self::Closed),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Search => "search",
            Self::Closed(form) => form.name(),
        })
    }
}
