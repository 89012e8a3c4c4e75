//! What `--precision auto` measures when a bundle is made, and how it is told.

use std::cell::RefCell;
use std::path::Path;

use clap::{Args, Id};
use indicatif::ProgressBar;
use taskbasis::bundle::{Floors, Gate, GateProgress, LabelledTask, PrecisionMeasure, Trial};
use taskbasis::{EncoderOptions, PrecisionChoice, Visible};

use crate::conflicts::options;
use crate::output;

/// What a precision has to keep to on built-in images.
#[derive(Args, Clone, Copy)]
pub struct CosineArgs {
    /// With --precision auto: the least cosine between embeddings and f32's, for tasks without labelled images.
    #[arg(long, value_name = "X", allow_negative_numbers = true, default_value_t = Floors::default().cosine)]
    gate_cosine: f64,
}

/// What a precision has to keep to.
#[derive(Args, Clone, Copy)]
pub struct GateArgs {
    #[command(flatten)]
    cosine: CosineArgs,

    /// With --precision auto: the points of accuracy on --data that a task may lose.
    #[arg(long, value_name = "POINTS", allow_negative_numbers = true, default_value_t = Floors::default().worst_drop)]
    #[arg(requires = "data")]
    gate_drop: f64,

    /// With --precision auto: the points of accuracy on --data that may be lost in the mean.
    #[arg(long, value_name = "POINTS", allow_negative_numbers = true, default_value_t = Floors::default().mean_drop)]
    #[arg(requires = "data")]
    gate_mean_drop: f64,
}

impl CosineArgs {
    /// The options, which have no effect where nothing is measured.
    pub fn all() -> Vec<Id> {
        options::<Self>()
    }

    /// The gate without labelled images.
    pub fn gate(self, encoder: EncoderOptions) -> Gate {
        Gate { floors: Floors { cosine: self.gate_cosine, ..Floors::default() }, encoder, ..Gate::default() }
    }
}

impl GateArgs {
    /// The options, which have no effect where nothing is measured.
    pub fn all() -> Vec<Id> {
        options::<Self>()
    }

    fn floors(self) -> Floors {
        Floors { cosine: self.cosine.gate_cosine, worst_drop: self.gate_drop, mean_drop: self.gate_mean_drop }
    }

    /// The gate, with labelled images where there are some, of `data`.
    pub fn gate(
        self,
        labelled: Vec<LabelledTask>,
        data: Option<(&Path, &str)>,
        batch: usize,
        encoder: EncoderOptions,
    ) -> Gate {
        let name = |(path, split): (&Path, &str)| {
            let file = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
            format!("{file} ({split})")
        };
        let encoder = EncoderOptions { precision: PrecisionChoice::default(), ..encoder };
        Gate { floors: self.floors(), labelled, data: data.map(name), batch, encoder }
    }
}

/// A bar for each trial.
pub fn progress() -> impl Fn(GateProgress) {
    let bar: RefCell<Option<(usize, ProgressBar)>> = RefCell::new(None);
    move |done| {
        let mut bar = bar.borrow_mut();
        if bar.as_ref().is_none_or(|(trial, _)| *trial != done.trial) {
            *bar = Some((done.trial, output::progress(done.total, "measuring precisions")));
        }
        if let Some((_, bar)) = bar.as_ref() {
            bar.set_position(done.images as u64);
            if done.images == done.total {
                bar.finish_and_clear();
            }
        }
    }
}

/// What was measured, for people.
pub fn text(measure: &PrecisionMeasure) -> String {
    let Trial { tasks, precisions, passed } = match measure.chosen().or(measure.trials.last()) {
        Some(trial) => trial,
        None => return String::new(),
    };
    let verdict = if *passed { "passed" } else { "failed" };
    let mut rows = vec![vec!["task".to_owned(), "least cosine".into(), "f32".into(), precisions_head(precisions)]];
    let percent = |points: f64| format!("{points:.2} %");
    for task in tasks {
        let mut row = vec![Visible(&task.task).to_string(), format!("{:.5}", task.cosine)];
        row.extend(task.accuracy.map(|accuracy| accuracy.points().map(percent)).into_iter().flatten());
        row.resize(4, String::new());
        rows.push(row);
    }
    let has_data = tasks.iter().any(|task| task.accuracy.is_some());
    if !has_data {
        rows.iter_mut().for_each(|row| row.truncate(2));
    }
    let mut text = format!("\nprecision     {}\n  {verdict}      {measure}\n", Visible(&measure.precisions));
    for (kind, error) in &measure.alone {
        text += &format!("  {:<11} alone is off by {error:.1e}\n", Visible(kind).to_string());
    }
    text + "\n" + &output::table(&rows)
}

/// The head of the column with a trial's accuracies.
fn precisions_head(precisions: &str) -> String {
    if precisions.contains('=') { "mixed".to_owned() } else { Visible(precisions).to_string() }
}
