//! Task analogy: arithmetic of other tasks in the place of one, `A + B - C`, beside the base and the task's own
//! weights.

use serde_json::{Map, Value, json};
use taskbasis::{Error, ErrorKind, Result, TaskExpr};

use super::measured::{key, percent};
use super::options::{Eval, Sweep};
use super::workbench::Bench;
use crate::output;

pub(super) fn run(
    eval: &Eval,
    bench: &Bench<'_>,
    analogy: &TaskExpr,
    sweep: Option<Sweep>,
    as_json: bool,
) -> Result<()> {
    let [target] = eval.tasks.as_slice() else {
        return Err(Error::invalid("an analogy is for one task").expected("one --task").got(eval.tasks.len()));
    };
    if analogy.terms().is_empty() {
        return Err(Error::invalid("the base is no analogy: give --analogy tasks to add"));
    }
    let sweep = sweep.map_or_else(Sweep::usual, Ok)?;
    bench.weights(analogy)?;
    let own = match bench.own_weights(target) {
        Ok(weights) => Some(weights),
        // A basis that was made without the task, or cannot give it back: that is what analogies are for.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotRecoverable) => None,
        Err(error) => return Err(error),
    };
    let val = bench.images.labelled(&eval.tasks, &eval.val_split)?;
    let test = bench.images.labelled(&eval.tasks, &eval.split)?;
    let (Some(val), Some(test)) = (val.first(), test.first()) else {
        return Err(Error::not_found(format!("no images of `{target}`")));
    };
    let bar = output::progress(val.len() * sweep.0.len() + 3 * test.len(), "images");
    let mut grid = Vec::with_capacity(sweep.0.len());
    let mut best = (f64::NAN, f64::NEG_INFINITY);
    for &lambda in &sweep.0 {
        let share = bench.accuracy(&bench.weights(&(analogy.clone() * lambda))?, val, &bar)?;
        grid.push((lambda, share));
        // The first of several that are equally good.
        if share > best.1 {
            best = (lambda, share);
        }
    }
    let zero_shot = bench.accuracy(&bench.weights(&TaskExpr::base())?, test, &bar)?;
    let tested = bench.accuracy(&bench.weights(&(analogy.clone() * best.0))?, test, &bar)?;
    let own = own.map(|weights| bench.accuracy(&weights, test, &bar)).transpose()?;
    bar.finish_and_clear();
    if as_json {
        let of_grid: Map<String, Value> = grid.iter().map(|(lambda, share)| (key(*lambda), json!(share))).collect();
        let mut result = json!({
            "task": target, "analogy": analogy.to_string(), "optimal_coefficient": best.0, "val": of_grid,
            "test": tested, "test_zeroshot": zero_shot, "test_own": own,
        });
        if let Some(images) = bench.images.skipped() {
            result["skipped_images"] = images;
        }
        return output::json(&result);
    }
    let rows = [
        ("zero-shot".to_owned(), percent(zero_shot)),
        (format!("{} at λ = {:.4}", analogy, best.0), percent(tested)),
        ("its own weights".to_owned(), own.map_or_else(|| "—".into(), percent)),
    ];
    let header = vec![target.clone(), "test".to_owned()];
    let rows: Vec<Vec<String>> =
        std::iter::once(header).chain(rows.into_iter().map(|(name, share)| vec![name, share])).collect();
    output::text(&output::table(&rows))
}
