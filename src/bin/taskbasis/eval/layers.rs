//! What the change of each group of parameters does: alone over the base, and left out of the whole.

use std::fmt::Write;

use serde_json::{Value, json};
use taskbasis::checkpoint::is_image_tower;
use taskbasis::{Error, Grouping, Result, Selector, TaskExpr, check_output};

use super::measured::percent;
use super::options::Eval;
use super::workbench::Bench;
use crate::output;
use crate::report::{begin, end, heat_table, paragraph, section};

/// One task's accuracies.
struct Row {
    task: String,
    base: f64,
    whole: f64,
    /// The base with one group changed; the whole with one group left as the base has it.
    only: Vec<f64>,
    without: Vec<f64>,
}

pub(super) fn run(eval: &Eval, bench: &Bench<'_>, as_json: bool) -> Result<()> {
    let basis = bench.session.model().basis();
    let basis = basis.ok_or_else(|| Error::invalid("--sweep-layers needs a basis, and only a base is open"))?;
    // The parser has checked the name.
    let grouping = Grouping::named(basis, &eval.groups).ok_or_else(|| Error::invalid("no such grouping"))?;
    // Parameters of a text tower change nothing here.
    let is_of_tower: Vec<bool> = basis.parameters().map(|(name, _)| is_image_tower(name)).collect();
    let has_tower = is_of_tower.contains(&true);
    let is_run = |group: usize| {
        let mut members = grouping.groups().iter().zip(&is_of_tower).filter(|(of, _)| **of as usize == group);
        !has_tower || members.any(|(_, is_of_tower)| *is_of_tower)
    };
    let shown: Vec<usize> = (0..grouping.len()).filter(|&group| is_run(group)).collect();
    let groups: Vec<String> = shown.iter().map(|&group| grouping.selectors()[group].to_string()).collect();
    if let Some(path) = &eval.report {
        check_output(path, &[])?;
    }
    let tasks = bench.tasks(eval, &[&eval.split])?;
    let labelled = bench.images.labelled(&tasks, &eval.split)?;
    let images: usize = labelled.iter().map(|labelled| labelled.len()).sum();
    let bar = output::progress(images * (2 + 2 * groups.len()), "images");
    let base = bench.weights(&TaskExpr::base())?;
    let mut rows = Vec::with_capacity(tasks.len());
    for labelled in &labelled {
        let whole = match &eval.weights {
            Some(expr) => expr.clone(),
            None => {
                bench.own_weights(&labelled.task)?;
                TaskExpr::task(&labelled.task)
            }
        };
        let measure = |expr: TaskExpr| bench.accuracy(&bench.weights(&expr)?, labelled, &bar);
        // Group `changed` with `of_it`, all others with `others`.
        let by_group = |changed: usize, of_it: f64, others: f64| -> Result<f64> {
            let lambdas = (0..grouping.len()).map(|g| if g == changed { of_it } else { others });
            let lambdas: Vec<(Selector, f64)> = grouping.selectors().iter().cloned().zip(lambdas).collect();
            measure(whole.clone().by_group(&lambdas)?)
        };
        rows.push(Row {
            task: labelled.task.clone(),
            base: bench.accuracy(&base, labelled, &bar)?,
            whole: measure(whole.clone())?,
            only: shown.iter().map(|&g| by_group(g, 1.0, 0.0)).collect::<Result<_>>()?,
            without: shown.iter().map(|&g| by_group(g, 0.0, 1.0)).collect::<Result<_>>()?,
        });
    }
    bar.finish_and_clear();
    let mut json = json!({
        "groups": groups,
        "weights": eval.weights.as_ref().map(ToString::to_string),
        "split": eval.split,
        "tasks": rows.iter().map(|row| (row.task.clone(), row.json())).collect::<serde_json::Map<_, _>>(),
    });
    if let Some(images) = bench.images.skipped() {
        json["skipped_images"] = images;
    }
    if let Some(path) = &eval.report {
        output::text_file(path, &page(&groups, &rows, &json))?;
    }
    if as_json {
        return output::json(&json);
    }
    let mut text = String::new();
    for (title, of) in TABLES {
        let header = ["", "base"].map(String::from).into_iter().chain(groups.iter().cloned()).chain(["all".into()]);
        let mut table: Vec<Vec<String>> = vec![header.collect()];
        table.extend(rows.iter().map(|row| {
            let cells = of(row).into_iter().map(|points| format!("{points:+.1}"));
            let (name, base) = (row.task.clone(), percent(row.base));
            [name, base].into_iter().chain(cells).chain([percent(row.whole)]).collect()
        }));
        let _ = writeln!(text, "{title}\n{}", output::table(&table));
    }
    output::text(text.trim_end())
}

type Points = fn(&Row) -> Vec<f64>;

const TABLES: [(&str, Points); 2] = [
    ("points that a group's change alone brings over the base", Row::gained),
    ("points that are lost where a group stays the base's", Row::lost),
];

impl Row {
    fn gained(&self) -> Vec<f64> {
        self.only.iter().map(|only| 100.0 * (only - self.base)).collect()
    }

    fn lost(&self) -> Vec<f64> {
        self.without.iter().map(|without| 100.0 * (self.whole - without)).collect()
    }

    fn json(&self) -> Value {
        json!({ "base": self.base, "whole": self.whole, "only": self.only, "without": self.without })
    }
}

/// Heat maps of tasks and groups.
fn page(groups: &[String], rows: &[Row], json: &Value) -> String {
    let mut out = begin("What each group of parameters changes");
    out += &paragraph("Percentage points on the test split. Blue is a gain of the change, orange a loss by it.");
    for (title, of) in TABLES {
        let largest = rows.iter().flat_map(of).map(f64::abs).fold(f64::MIN_POSITIVE, f64::max);
        let rows = rows.iter().map(|row| (row.task.clone(), of(row).into_iter().map(Some).collect()));
        let table = heat_table(groups.iter().map(String::as_str), rows, largest, |points| format!("{points:+.1}"));
        section(&mut out, title, "", &table);
    }
    out + &end(&format!("{json:#}"))
}
