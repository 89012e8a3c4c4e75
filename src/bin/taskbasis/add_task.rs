//! `taskbasis add-task`

use clap::Args;
use serde_json::json;
use taskbasis::build::{Refit, RefitOptions, refit};
use taskbasis::bundle::{PrecisionMeasure, TaskFit};
use taskbasis::{
    Bundle, BundleUpdate, Checkpoint, EncoderOptions, NewTask, Result, StoredFormat, Visible, check_output, present,
};

use crate::args::{HeadArgs, threads};
use crate::conflicts::{Given, Refused, option};
use crate::family::NamedPath;
use crate::gate::{self, CosineArgs};
use crate::paths::{BasePath, InPath, OutFile};
use crate::{checkpoints, output};

const HEADS: &str = "The new task's classification head, in a safetensors file with `TASK/weight` and `TASK/bias`, a \
    pickled head, or a folder of heads";
const CLASSES: &str = "The new task's class names: {\"TASK\": [\"name\", …]}. Without them its classes are numbered";

/// Add a task to a bundle: the vectors' best approximation of its fine-tuned weights.
///
/// The vectors stay as they are, and with them every other task; --residual stores what they lack of the new one.
/// --refit makes them anew instead, for all tasks, from themselves and the new checkpoint alone.
#[derive(Args)]
#[command(mut_arg("heads", |heads| heads.help(HEADS)))]
#[command(mut_arg("classes", |classes| classes.help(CLASSES)))]
pub struct AddTask {
    /// The bundle.
    #[arg(value_name = "FILE")]
    grown: InPath,

    /// The new task's name and its fine-tuned checkpoint.
    #[arg(long, value_name = "NAME=FINETUNED")]
    task: NamedPath,

    /// Store what the vectors lack of it as a vector of its own: q8 to q2, or as matrices of low rank, r16.
    #[arg(long, value_name = "FORMAT")]
    residual: Option<StoredFormat>,

    /// Make the vectors anew, so that they hold the new task as well as the others: all tasks change a little, and are
    /// rounded to their formats once more.
    #[arg(long, conflicts_with = "residual")]
    refit: bool,

    /// How many vectors --refit makes, instead of as many as there are.
    #[arg(long, value_name = "M", requires = "refit", value_parser = clap::value_parser!(u32).range(1..))]
    vectors: Option<u32>,

    /// Another seed gives another of the Autoencoder's equally good bases.
    #[arg(long, default_value_t = 0)]
    seed: u32,

    /// The base, for a bundle that leaves it out.
    #[arg(long, value_name = "FILE")]
    base: Option<BasePath>,

    #[command(flatten)]
    heads: HeadArgs,

    /// Threads, as many as there are processors, or 64, at most; 0 means one per processor.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = threads())]
    threads: usize,

    /// Measure again which precision passes, with all tasks on built-in images: what the bundle told before is of its
    /// tasks before, and is left out.
    #[arg(long, value_name = "auto", value_parser = ["auto"])]
    precision: Option<String>,

    #[command(flatten)]
    gate: CosineArgs,

    /// ONNX Runtime's shared library, instead of the one that would be found.
    #[arg(long, value_name = "FILE", requires = "precision")]
    onnxruntime: Option<InPath>,

    /// Where to write the grown bundle, instead of in the place of the old one.
    #[arg(short, long, value_name = "FILE")]
    output: Option<OutFile>,
}

impl AddTask {
    /// Says that the bundle is changed.
    ///
    /// # Errors
    /// As [`InPath::is_changed`].
    pub fn check_place(&self) -> Result<()> {
        self.grown.is_changed(self.output.is_some(), "-o names the file for the grown bundle")
    }

    /// The base once more, where it was given.
    fn base_again(&self) -> Result<Option<Checkpoint>> {
        self.base.as_deref().map(checkpoints::open).transpose()
    }

    pub fn conflict(&self, given: &Given<'_>) -> Refused {
        let ungated =
            || if self.precision.is_some() { None } else { given.first(CosineArgs::all(), "needs '--precision auto'") };
        let unseeded = || if self.refit { None } else { given.first([option!(Self, seed)], "needs '--refit'") };
        self.heads.classes_without_heads(given).or_else(ungated).or_else(unseeded)
    }

    pub fn run(self, as_json: bool) -> Result<()> {
        let NamedPath { name: task, path: finetuned_path } = &self.task;
        let output_path = self.output.as_deref().unwrap_or(&self.grown);
        let bundle = Bundle::open(&self.grown)?;
        let base = self.base_again()?;
        let finetuned = match &base {
            Some(base) => checkpoints::open_tuned(finetuned_path, base)?,
            None => checkpoints::open_tuned(finetuned_path, &bundle.base_or(None)?)?,
        };
        check_output(output_path, &[])?;
        let threads = self.threads;
        let encoder = EncoderOptions {
            threads,
            runtime: self.onnxruntime.as_deref().map(Into::into),
            ..EncoderOptions::default()
        };
        let gate = self.precision.as_ref().map(|_| self.gate.gate(encoder));
        gate.as_ref().map_or(Ok(()), |gate| gate.check())?;

        let head = self.heads.heads.is_some().then(|| self.heads.head(None, task, bundle.arch())).transpose()?;
        let mut update = BundleUpdate::new(&bundle, base.as_ref())?;
        update.threads(self.threads);
        let new = NewTask { name: task, finetuned: &finetuned, head, residual: self.residual };
        let refitted = match self.refit {
            true => {
                let vectors = self.vectors.map(|vectors| vectors as usize);
                Some(refit(&mut update, new, &RefitOptions { vectors, seed: self.seed })?)
            }
            false => update.task(new).map(|_| None)?,
        };
        let bar = output::progress(bundle.arch().parameter_count() / 4, "adding");
        for fit in update.fits() {
            checkpoints::note_unchanged(finetuned.path(), &fit.unchanged);
        }
        let fits = update.write(output_path, &[], &|bytes| bar.inc(bytes))?;
        bar.finish_and_clear();
        let doubts: Vec<String> = fits.iter().filter_map(TaskFit::doubt).collect();
        doubts.iter().for_each(|doubt| output::note(doubt));

        // A failure from here on must not read as if the task were not in the bundle.
        let after = output::after_writing(output_path);
        let measured: Option<PrecisionMeasure> = match &gate {
            Some(gate) => {
                let grown = Bundle::open(output_path).map_err(&after)?;
                let measure = grown.measure_precision(self.base_again()?, gate, &gate::progress()).map_err(&after)?;
                let mut update = BundleUpdate::new(&grown, base.as_ref()).map_err(&after)?;
                update.precision(measure.clone());
                update.write(output_path, &[], &|_| {}).map_err(&after)?;
                Some(measure)
            }
            None => {
                if bundle.precision().is_some() {
                    output::note(
                        "what was measured of precisions is of the tasks before, and left out: `auto` is f32 \
                        (--precision auto measures again)",
                    );
                }
                None
            }
        };
        let bytes = present::file_bytes(output_path).map_err(&after)?;
        if as_json {
            let told = output::json(&json!({
                "output": output_path, "bytes": bytes, "bytes_before": bundle.file_bytes(), "fitted": fits,
                "doubts": doubts, "precision": measured, "refit": refitted,
            }));
            return told.map_err(after);
        }
        let mut text = format!(
            "{}: {}, {} before\n",
            output_path.display(),
            output::bytes(bytes),
            output::bytes(bundle.file_bytes())
        );
        for fit in &fits {
            text += &format!(
                "task {}: the vectors lack {:.1} % of its task vector",
                Visible(&fit.task),
                100.0 * fit.lacking
            );
            if let Some(lacking) = fit.lacking_with_residual {
                text += &format!(", with the residual {:.1} %", 100.0 * lacking);
            }
            text += "\n";
        }
        text += &refitted.as_ref().map(told).unwrap_or_default();
        text += &measured.as_ref().map(gate::text).unwrap_or_default();
        output::text(&text).map_err(after)
    }
}

/// What making the vectors anew came to.
fn told(refit: &Refit) -> String {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let mut rows = vec![["task", "lacking"].map(String::from).to_vec()];
    rows.extend(refit.tasks.iter().map(|of| vec![Visible(&of.task).to_string(), percent(of.lacking)]));
    format!(
        "{}{} made anew lack {} of all task vectors together; no others would lack less than {}\n",
        output::table(&rows),
        output::counted(refit.vectors, "vector"),
        percent(refit.lacking),
        percent(refit.least),
    )
}
