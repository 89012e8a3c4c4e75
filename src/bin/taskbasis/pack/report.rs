//! The report of what packing saved and what it cost.

use std::path::Path;

use serde_json::{Map, Value, json};
use taskbasis::{PackReport, Visible};

use crate::accuracy::Accuracy;
use crate::{gate, output};

/// The accuracies before and after, where they were measured.
type Accuracies<'a> = Option<(&'a [Accuracy], &'a [Accuracy])>;

fn mean(accuracies: &[Accuracy]) -> f64 {
    accuracies.iter().map(Accuracy::share).sum::<f64>() / accuracies.len().max(1) as f64
}

pub fn json(path: &Path, report: &PackReport, accuracies: Accuracies<'_>) -> Value {
    let mut value = json!(report);
    value["output"] = json!(path);
    if let Some((before, after)) = accuracies {
        let tasks: Map<String, Value> = before
            .iter()
            .zip(after)
            .map(|(b, a)| (b.task.clone(), json!({ "before": b.share(), "after": a.share(), "images": b.images })))
            .collect();
        value["accuracy"] = json!({ "tasks": tasks, "mean": { "before": mean(before), "after": mean(after) } });
    }
    value
}

pub fn text(path: &Path, report: &PackReport, accuracies: Accuracies<'_>) -> String {
    let times = |bytes: u64| format!("{:.1} × as much", bytes as f64 / report.bytes.max(1) as f64);
    let formats: Vec<String> = report.formats.iter().map(|(format, count)| format!("{format} × {count}")).collect();
    let rows = [
        ("bundle", report.bytes, String::new()),
        ("  vectors", report.vector_bytes, formats.join(", ")),
        ("  base", report.base_bytes, report.base_error.map_or("left out".into(), |e| format!("error {e:.1e}"))),
        ("  graph", report.graph_bytes, "a user's, without weights".into()),
        ("task vectors, f32", report.task_vectors_bytes, times(report.task_vectors_bytes)),
        ("basis folder", report.basis_bytes, times(report.basis_bytes)),
        ("one checkpoint", report.checkpoint_bytes, times(report.checkpoint_bytes)),
    ];
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .filter(|(what, bytes, _)| *bytes > 0 || *what != "  graph")
        .map(|(what, bytes, note)| vec![what.to_owned(), output::bytes(bytes), note])
        .collect();
    let mut text = format!("{}\n\n{}", path.display(), output::table(&rows));
    if report.left_out > 0 {
        text += &format!("\n{} parameters outside the image tower were left out\n", report.left_out);
    }

    let mut rows = vec![vec!["task".to_owned(), "vector's error".into()]];
    if accuracies.is_some() {
        rows[0].extend(["accuracy before".to_owned(), "after".into(), "points".into()]);
    }
    let percent = |share: f64| format!("{:.2} %", 100.0 * share);
    let cells =
        |before: f64, after: f64| [percent(before), percent(after), format!("{:+.2}", 100.0 * (after - before))];
    for error in &report.errors.tasks {
        let mut row = vec![error.task.clone(), percent(error.relative)];
        if let Some((before, after)) = accuracies
            && let Some((b, a)) = before.iter().zip(after).find(|(b, _)| b.task == error.task)
        {
            row.extend(cells(b.share(), a.share()));
        }
        rows.push(row);
    }
    rows.push(vec!["merged".into(), percent(report.errors.merged)]);
    if let Some((before, after)) = accuracies {
        rows.push([vec!["mean".into(), String::new()], cells(mean(before), mean(after)).to_vec()].concat());
    }
    text += &format!("\n{}", output::table(&rows));
    for fit in &report.residuals {
        text += &format!("\nThe vectors lack {} of {}", percent(fit.lacking), fit.task);
        if let Some(lacking) = fit.lacking_with_residual {
            text += &format!(", with its residual {}", percent(lacking));
        }
    }
    for fit in &report.merges {
        let lost = fit.lacking_with_residual.map(percent).unwrap_or_default();
        text +=
            &format!("\nmerged vector {}: ‖τ‖ = {:.4}, stored with an error of {lost}", Visible(&fit.task), fit.norm);
    }
    if !report.residuals.is_empty() || !report.merges.is_empty() {
        text += "\n";
    }
    text += &report.precision.as_ref().map(gate::text).unwrap_or_default();
    text
}
