//! Task addition as the reference evaluates it: every λ on the validation split, the best on the test split.

use std::time::Instant;

use indicatif::ProgressBar;
use serde_json::{Map, Value, json};
use taskbasis::{Error, Result, TaskExpr, check_output};

use super::data::Labelled;
use super::finetuned::Finetuned;
use super::measured::{Measured, Part, key, percent};
use super::options::{Eval, Sweep};
use super::report::Page;
use super::workbench::Bench;
use crate::output;

pub(super) fn run(eval: &Eval, bench: &Bench<'_>, sweep: &Sweep, as_json: bool) -> Result<()> {
    let usual = || if eval.tasks_dir.is_some() { TaskExpr::all() } else { TaskExpr::merged() };
    let direction = eval.weights.clone().unwrap_or_else(usual);
    if direction.terms().is_empty() {
        return Err(Error::invalid("λ times nothing is the base: give --sweep something to scale"));
    }
    // A direction that the basis does not know is found out before the first image is looked at.
    bench.weights(&direction)?;
    if let Some(path) = &eval.report {
        check_output(path, &[])?;
    }
    let tasks = bench.tasks(eval, &[&eval.val_split, &eval.split])?;
    let val = match (eval.subsample, bench.session.model().basis()) {
        (None, _) => bench.images.labelled(&tasks, &eval.val_split)?,
        (Some(seed), Some(basis)) => {
            bench.images.sampled(&tasks, &eval.val_split, (basis.vectors(), tasks.len(), seed))?
        }
        (Some(_), None) => return Err(Error::invalid("--subsample takes M/T of the images: there is no basis")),
    };
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
            basis: bench.session.model().basis().filter(|_| eval.tasks_dir.is_none()),
            json: &json,
        };
        output::text_file(path, &page.html()?)?;
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
