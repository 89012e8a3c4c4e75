//! The search, as the program runs it: images in, an expression, its curve and its accuracies out.

use std::cell::Cell;
use std::time::Instant;

use serde_json::{Map, Value, json};
use taskbasis::fit::{Candidate, FitOptions, FitTask, Fitted, Measure, Objective, fit};
use taskbasis::{Dataset, Encoder, Error, Grouping, Result, TaskExpr};

use super::images::Source;
use super::options::Fit;
use super::report::Page;
use super::result::{Identity, no_basis, write};
use super::tested::Tested;
use crate::accuracy::Judge;
use crate::args::Session;
use crate::eval::open_data;
use crate::output;

pub(super) fn run(fit: &Fit, as_json: bool) -> Result<()> {
    if fit.data.is_empty() {
        return Err(Error::invalid("there are no images to find coefficients with")
            .hint("Give some with --data; --method inverse-norm and metagpt need none"));
    }
    let session = fit.model.open(fit.encoder.threads)?;
    let basis = session.model().basis().ok_or_else(no_basis)?;
    let grouping = fit.grouping(basis)?;
    let encoder = fit.encoder.encoder(&session)?;
    fit.encoder.tell_images(&session, true)?;
    let data = open_data(&fit.data)?;
    let preprocess = fit.encoder.preprocess(&session)?;
    let source = Source { fit, session: &session, data: &data, preprocess, arch: encoder.arch() };
    let tasks = source.tasks()?;
    fit.heads.check(&tasks)?;
    // A task that the basis does not know is found out before the first image is read.
    for task in &tasks {
        session.weights(&TaskExpr::task(task)).map_err(|e| e.also_hint("Choose tasks with --task"))?;
    }
    if let Some(test) = &fit.test {
        tasks.iter().try_for_each(|task| data.split(task, test).map(drop))?;
    }
    let began = Instant::now();
    let chosen = tasks.iter().map(|task| source.chosen(task)).collect::<Result<Vec<_>>>()?;
    let (chosen, places): (Vec<FitTask>, Vec<Vec<usize>>) = chosen.into_iter().unzip();
    let images: usize = places.iter().map(Vec::len).sum();
    let options = FitOptions {
        objective: if fit.unlabelled { Objective::Entropy } else { Objective::CrossEntropy },
        rounds: fit.rounds,
        pull: fit.pull,
        folds: fit.folds as usize,
        seed: fit.seed,
        batch: fit.encoder.batch as usize,
        threads: fit.encoder.threads,
        ..FitOptions::default()
    };
    let found = searched(&session, &encoder, chosen, &grouping, &options, images)?;
    let seconds = began.elapsed().as_secs_f64();
    let tested = fit.test.as_deref().map(|split| Tested::measure(&source, &encoder, &data, split, &tasks, &found));
    let tested = tested.transpose()?;

    let mut json = json!({
        "expression": found.expr.to_string(),
        "method": "search",
        "objective": options.objective.name(),
        "tasks": tasks,
        "groups": { "by": fit.groups, "count": found.groups },
        "directions": found.directions,
        "temperature": found.temperature,
        "single": { "lambda": found.start, "training": found.curve[0].training, "validation": found.curve[0].validation },
        "found": found.curve[found.best],
        "best": found.best,
        "curve": found.curve,
        "sweep": found.sweep,
        "images": {
            "split": fit.split, "shots": fit.shots, "count": images, "folds": found.folds,
            "chosen": tasks.iter().cloned().zip(places.iter().map(|places| json!(places))).collect::<Map<_, _>>(),
        },
        "seed": fit.seed,
        "rounds": fit.rounds,
        "seconds": seconds,
        "files": Identity::of(basis, Some(session.model().base()))?,
    });
    if let Some(tested) = &tested {
        json["test"] = tested.json();
    }
    write(fit.output.as_ref(), &json)?;
    if let Some(path) = &fit.report {
        let page = Page { tasks: &tasks, found: &found, tested: tested.as_ref(), json: &json };
        output::text_file(path, &page.html()?)?;
    }
    if as_json {
        return output::json(&json);
    }
    let mut text = output::table(&curve(&found));
    if let Some(tested) = &tested {
        text += &format!("\n{}", output::table(&tested.rows()));
    }
    output::text(&format!("{text}\n{}\n", found.expr))
}

/// [`fit`] under a progress bar.
fn searched(
    session: &Session,
    encoder: &Encoder,
    chosen: Vec<FitTask>,
    grouping: &Grouping,
    options: &FitOptions,
    images: usize,
) -> Result<Fitted> {
    // At most: in every round all directions, the logits of what is fitted without each part, and a dozen candidates,
    // which take two runs each.
    let sources = session.model().basis().map_or(0, |basis| basis.vectors() + usize::from(basis.has_mean()));
    let directions = grouping.len() * sources.min(chosen.len());
    let total = images * (options.sweep.len() + options.rounds * (directions + 1 + options.folds + 12 * 2));
    let bar = output::progress(total, "images");
    let done = Cell::new(0u64);
    let progress = |more: usize| {
        done.set(done.get() + more as u64);
        bar.set_position(done.get().min(total as u64));
    };
    let found = fit(session.model(), encoder, chosen, grouping, options, &progress);
    bar.finish_and_clear();
    found
}

/// What was tried, a row each.
fn curve(found: &Fitted) -> Vec<Vec<String>> {
    let has_labels = found.curve[0].training.accuracy.is_some();
    let mut rows = vec![vec!["round".to_owned(), "pull".into(), "training".into(), "validation".into()]];
    if has_labels {
        rows[0].insert(3, "right".into());
        rows[0].push("right".into());
    }
    let measure = |measure: &Measure| {
        let right = measure.accuracy.map(|share| format!("{:.2} %", 100.0 * share));
        std::iter::once(format!("{:.4}", measure.loss)).chain(right).collect::<Vec<_>>()
    };
    for (i, candidate) in found.curve.iter().enumerate() {
        let Candidate { round, pull, training, validation, .. } = candidate;
        let (name, pull) = match round {
            0 => (format!("all@{}", found.start), String::new()),
            // As an f32 it is 0.00009, where 0.0003 · 0.3 is 0.00008999999999999999.
            round => (round.to_string(), (*pull as f32).to_string()),
        };
        let mut row = [vec![name, pull], measure(training), measure(validation)].concat();
        row.extend((i == found.best).then(|| "chosen".to_owned()));
        rows.push(row);
    }
    rows
}

impl Tested {
    fn measure(
        source: &Source<'_>,
        encoder: &Encoder,
        data: &Dataset,
        split: &str,
        tasks: &[String],
        found: &Fitted,
    ) -> Result<Self> {
        let judge = Judge {
            encoder,
            preprocess: source.preprocess.clone(),
            batch: source.fit.encoder.batch as usize,
            threads: source.fit.encoder.threads,
        };
        let single = tasks.iter().map(|task| TaskExpr::task(task) * found.start).reduce(|all, task| all + task);
        let shared =
            [("base", TaskExpr::base()), ("single λ", single.unwrap_or_default()), ("found", found.expr.clone())];
        let mut shares: Vec<(&str, Vec<f64>)> = shared.iter().map(|(name, _)| (*name, Vec::new())).collect();
        shares.push(("own", Vec::new()));
        let splits = tasks.iter().map(|task| data.split(task, split)).collect::<Result<Vec<_>>>()?;
        let bar = output::progress(4 * splits.iter().map(|split| split.len()).sum::<usize>(), "images, test");
        for (task, split) in tasks.iter().zip(&splits) {
            let head = source.head(task)?;
            let labels = source.labels(task, &head, split)?;
            let own = TaskExpr::task(task);
            for ((_, shares), expr) in shares.iter_mut().zip(shared.iter().map(|(_, expr)| expr).chain([&own])) {
                let weights = source.session.weights(expr)?;
                let accuracy = judge.accuracy(task, &weights, &head, split, &labels, |n| bar.inc(n as u64))?;
                shares.push(accuracy.share());
            }
        }
        bar.finish_and_clear();
        Ok(Self { split: split.to_owned(), tasks: tasks.to_vec(), shares })
    }

    fn json(&self) -> Value {
        let of = |shares: &[f64]| {
            let tasks: Map<String, Value> =
                self.tasks.iter().zip(shares).map(|(task, share)| (task.clone(), json!(share))).collect();
            json!({ "tasks": tasks, "mean": mean(shares) })
        };
        let names = ["base", "single", "found", "own"];
        let mut json: Map<String, Value> =
            names.iter().zip(&self.shares).map(|(name, (_, shares))| ((*name).to_owned(), of(shares))).collect();
        json.insert("split".into(), json!(self.split));
        Value::Object(json)
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let percent = |share: f64| format!("{:.2} %", 100.0 * share);
        let names = self.shares.iter().map(|(name, _)| (*name).to_owned());
        let mut rows = vec![std::iter::once(self.split.clone()).chain(names).collect::<Vec<_>>()];
        for (t, task) in self.tasks.iter().enumerate() {
            let shares = self.shares.iter().map(|(_, shares)| percent(shares[t]));
            rows.push(std::iter::once(task.clone()).chain(shares).collect());
        }
        let means = self.shares.iter().map(|(_, shares)| percent(mean(shares)));
        rows.push(std::iter::once("mean".to_owned()).chain(means).collect());
        rows
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
