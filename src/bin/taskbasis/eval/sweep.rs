//! Task addition as the reference evaluates it: every λ on the validation split, the best on the test split.

use std::time::Instant;

use indicatif::ProgressBar;
use serde_json::{Map, Value, json};
use taskbasis::{Error, Result, TaskExpr, TaskWeights, check_output, replace_file};

use super::data::Labelled;
use super::finetuned::Finetuned;
use super::report::Page;
use super::{Bench, Eval, Sweep, percent};
use crate::output;

/// Accuracies of several tasks with the same weights, by the reference's names of data.
pub(super) struct Measured {
    pub(super) names: Vec<String>,
    pub(super) top1: Vec<f64>,
    /// Divided by the fine-tuned models'; empty where these are not known.
    pub(super) normalised: Vec<f64>,
}

/// What the data of a split are called: as the reference does, `MNIST` and `MNISTVal`.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Val,
    Test,
}

impl Part {
    pub(super) fn name(self, task: &str) -> String {
        match self {
            Self::Val => format!("{task}Val"),
            Self::Test => task.to_owned(),
        }
    }
}

impl Measured {
    pub(super) fn of(
        bench: &Bench<'_>,
        weights: &TaskWeights,
        part: Part,
        labelled: &[Labelled],
        finetuned: Option<&Finetuned>,
        bar: &ProgressBar,
    ) -> Result<Self> {
        let names: Vec<String> = labelled.iter().map(|labelled| part.name(&labelled.task)).collect();
        let top1 =
            labelled.iter().map(|labelled| bench.accuracy(weights, labelled, bar)).collect::<Result<Vec<_>>>()?;
        let normalised = match finetuned {
            Some(finetuned) => {
                names.iter().zip(&top1).map(|(name, top1)| Ok(top1 / finetuned.get(name)?)).collect::<Result<_>>()?
            }
            None => Vec::new(),
        };
        Ok(Self { names, top1, normalised })
    }

    pub(super) fn mean(&self) -> f64 {
        mean(&self.top1)
    }

    /// `None` where fine-tuned accuracies are not known.
    pub(super) fn mean_normalised(&self) -> Option<f64> {
        (!self.normalised.is_empty()).then(|| mean(&self.normalised))
    }

    /// The reference's fields.
    pub(super) fn json(&self) -> Value {
        let mut fields = Map::new();
        for (i, name) in self.names.iter().enumerate() {
            fields.insert(format!("{name}:top1"), json!(self.top1[i]));
            if let Some(normalised) = self.normalised.get(i) {
                fields.insert(format!("{name}:normalized_top1"), json!(normalised));
            }
        }
        if let Some(normalised) = self.mean_normalised() {
            fields.insert("avg_normalized_top1".into(), json!(normalised));
        }
        fields.insert("avg_top1".into(), json!(self.mean()));
        Value::Object(fields)
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// λ as Python writes it, which the reference's keys are.
pub(super) fn key(lambda: f64) -> String {
    format!("{lambda:?}")
}

pub(super) fn run(eval: &Eval, bench: &Bench<'_>, sweep: &Sweep, as_json: bool) -> Result<()> {
    let direction = eval.weights.clone().unwrap_or_else(TaskExpr::merged);
    if direction.terms().is_empty() {
        return Err(Error::invalid("λ times nothing is the base: give --sweep something to scale"));
    }
    // A direction that the basis does not know is found out before the first image is looked at.
    bench.weights(&direction)?;
    if let Some(path) = &eval.report {
        check_output(path, &[])?;
    }
    let tasks = eval.tasks(bench, &[&eval.val_split, &eval.split])?;
    let val = bench.images.labelled(&tasks, &eval.val_split)?;
    let test = bench.images.labelled(&tasks, &eval.split)?;
    let finetuned = Finetuned::of(eval, bench, &val, &test)?;
    let measure = |lambda: f64, part, labelled: &[Labelled], bar: &ProgressBar| {
        let weights = bench.weights(&(direction.clone() * lambda))?;
        Measured::of(bench, &weights, part, labelled, finetuned.as_ref(), bar)
    };

    let began = Instant::now();
    let images = |labelled: &[Labelled]| labelled.iter().map(Labelled::len).sum::<usize>();
    let bar = output::progress(images(&val) * sweep.0.len() + images(&test), "images");
    let grid: Vec<(f64, Measured)> =
        sweep.0.iter().map(|&lambda| Ok((lambda, measure(lambda, Part::Val, &val, &bar)?))).collect::<Result<_>>()?;
    let validation_time = began.elapsed().as_secs_f64();
    // The first of several that are equally good.
    let score = |measured: &Measured| measured.mean_normalised().unwrap_or_else(|| measured.mean());
    let best = grid.iter().fold((f64::NAN, f64::NEG_INFINITY), |best, (lambda, measured)| match score(measured) {
        score if score > best.1 => (*lambda, score),
        _ => best,
    });
    let began = Instant::now();
    let tested = measure(best.0, Part::Test, &test, &bar)?;
    let test_time = began.elapsed().as_secs_f64();
    let of_grid: Map<String, Value> = grid.iter().map(|(lambda, measured)| (key(*lambda), measured.json())).collect();
    let mut json = json!({
        "test": tested.json(), "val": of_grid, "optimal_coefficient": best.0, "weights": direction.to_string(),
        "timing": {
            "validation_time": validation_time, "test_time": test_time, "total_time": validation_time + test_time,
        },
    });
    if let Some(images) = bench.images.skipped() {
        json["skipped_images"] = images;
    }
    if let Some(path) = &eval.report {
        let zero_shot = measure(0.0, Part::Test, &test, &bar)?;
        let page = Page {
            weights: direction.to_string(),
            tasks: &tasks,
            grid: &grid,
            best: best.0,
            test: &tested,
            zero_shot: &zero_shot,
            finetuned: finetuned.as_ref(),
            basis: bench.session.model().basis(),
            json: &json,
        };
        let html = page.html()?;
        replace_file(path, &[], |sibling| {
            std::fs::write(sibling, html).map_err(|e| Error::io("cannot write", path, e))
        })?;
    }
    bar.finish_and_clear();
    if as_json {
        return output::json(&json);
    }
    let mut rows = vec![
        std::iter::once("λ".to_owned())
            .chain(tasks.iter().cloned())
            .chain(["mean".into(), "normalised".into()])
            .collect(),
    ];
    let row = |name: String, measured: &Measured| -> Vec<String> {
        let normalised = measured.mean_normalised().map_or_else(|| "—".into(), percent);
        let cells = measured.top1.iter().map(|top1| percent(*top1));
        std::iter::once(name).chain(cells).chain([percent(measured.mean()), normalised]).collect()
    };
    rows.extend(grid.iter().map(|(lambda, measured)| row(format!("{lambda:.4}"), measured)));
    rows.push(row(format!("test, {:.4}", best.0), &tested));
    output::text(&output::table(&rows))?;
    if finetuned.is_none() {
        output::note("chosen by the mean accuracy, there being no fine-tuned accuracies to normalise by (--finetuned)");
    }
    Ok(())
}
