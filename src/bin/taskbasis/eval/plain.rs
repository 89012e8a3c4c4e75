//! Every task once: with its own weights, or with those that are given.

use serde_json::{Map, Value, json};
use taskbasis::{ErrorKind, Result};

use super::measured::percent;
use super::options::Eval;
use super::workbench::Bench;
use crate::output;

struct Accuracy {
    task: String,
    share: f64,
    images: usize,
}

pub(super) fn run(eval: &Eval, bench: &Bench<'_>, as_json: bool) -> Result<()> {
    let tasks = bench.tasks(eval, &[&eval.split])?;
    let labelled = bench.images.labelled(&tasks, &eval.split)?;
    let shared = eval.weights.as_ref().map(|expr| bench.weights(expr)).transpose()?;
    let bar = output::progress(labelled.iter().map(|labelled| labelled.len()).sum(), "images");
    let (mut done, mut skipped) = (Vec::new(), Vec::new());
    for labelled in &labelled {
        let task = &labelled.task;
        let own = match &shared {
            Some(_) => None,
            None => match bench.own_weights(task) {
                Ok(weights) => Some(weights),
                // A basis of selected tasks has no weights for the others: their rows say so, the rest goes on.
                Err(error) if error.kind() == ErrorKind::NotRecoverable => {
                    skipped.push((task, error));
                    bar.inc(labelled.len() as u64);
                    continue;
                }
                Err(error) => return Err(error),
            },
        };
        let Some(weights) = own.as_ref().or(shared.as_ref()) else { continue };
        let share = bench.accuracy(weights, labelled, &bar)?;
        done.push(Accuracy { task: task.clone(), share, images: labelled.measured() });
    }
    bar.finish_and_clear();
    if done.is_empty()
        && let Some((_, error)) = skipped.pop()
    {
        return Err(error);
    }

    let mean = done.iter().map(|accuracy| accuracy.share).sum::<f64>() / done.len().max(1) as f64;
    if as_json {
        let tasks: Map<String, Value> =
            done.iter().map(|a| (a.task.clone(), json!({ "accuracy": a.share, "images": a.images }))).collect();
        let mut result = json!({ "tasks": tasks, "mean": mean, "split": eval.split });
        result["weights"] = eval.weights.as_ref().map_or(Value::Null, |expr| json!(expr.to_string()));
        if !skipped.is_empty() {
            let why = skipped.iter().map(|(task, error)| ((*task).clone(), json!(error.to_string())));
            result["skipped"] = Value::Object(why.collect());
        }
        if let Some(images) = bench.images.skipped() {
            result["skipped_images"] = images;
        }
        return output::json(&result);
    }
    let mut rows = vec![vec!["task".to_owned(), "accuracy".into(), "images".into()]];
    rows.extend(done.iter().map(|a| vec![a.task.clone(), percent(a.share), a.images.to_string()]));
    rows.extend(skipped.iter().map(|(task, _)| vec![(*task).clone(), "—".into(), "0".into()]));
    rows.push(vec!["mean".into(), percent(mean)]);
    output::text(&output::table(&rows))?;
    skipped.iter().for_each(|(_, error)| output::note(&error.to_string()));
    Ok(())
}
