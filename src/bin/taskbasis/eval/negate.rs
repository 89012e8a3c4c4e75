//! Task negation as the reference evaluates it: for every task the λ whose `base − λ·τ̂` is worst at the task on the
//! validation split, of those that keep enough of the zero-shot accuracy on a control task.

use serde_json::{Map, Value, json};
use taskbasis::{Error, Result, TaskExpr};

use super::data::Labelled;
use super::finetuned::Finetuned;
use super::measured::{Measured, Part, key, percent};
use super::options::{Eval, Sweep};
use super::workbench::Bench;
use crate::output;

struct Negated {
    task: String,
    lambda: f64,
    grid: Vec<(f64, Measured)>,
    /// The task and the control task, on the test split.
    test: Measured,
    zero_shot: f64,
}

pub(super) fn run(eval: &Eval, bench: &Bench<'_>, sweep: Option<Sweep>, as_json: bool) -> Result<()> {
    let Some(control) = &eval.control else { return Err(Error::invalid("--negate needs --control")) };
    if !(eval.keep > 0.0 && eval.keep <= 1.0) {
        return Err(Error::invalid("the share to keep is out of range")
            .expected("above 0 and at most 1")
            .got(eval.keep));
    }
    let sweep = sweep.map_or_else(Sweep::usual, Ok)?;
    let mut tasks = bench.tasks(eval, &[&eval.val_split, &eval.split])?;
    tasks.retain(|task| task != control);
    for task in &tasks {
        bench.own_weights(task)?;
    }
    let with_control: Vec<String> = tasks.iter().chain([control]).cloned().collect();
    let mut val = bench.images.labelled(&with_control, &eval.val_split)?;
    let mut test = bench.images.labelled(&with_control, &eval.split)?;
    let finetuned = match (&eval.finetuned, &eval.finetuned_dir) {
        (None, None) => None,
        // The control task is not normalised, and need not have been fine-tuned.
        _ => Finetuned::of(eval, bench, &val[..tasks.len()], &test[..tasks.len()])?,
    };
    let (Some(control_val), Some(control_test)) = (val.pop(), test.pop()) else {
        return Err(Error::invalid("there is no control task"));
    };

    let images = |labelled: &[Labelled], control: &Labelled| -> usize {
        labelled.iter().map(|labelled| labelled.len() + control.len()).sum()
    };
    let total = images(&val, &control_val) * sweep.0.len() + 2 * images(&test, &control_test) + control_val.len();
    let bar = output::progress(total, "images");
    let base = bench.weights(&TaskExpr::base())?;
    let zero_shot_control = bench.accuracy(&base, &control_val, &bar)?;
    let enough = eval.keep * zero_shot_control;

    let mut negated = Vec::new();
    for ((task, val), test) in tasks.iter().zip(&val).zip(&test) {
        let measure = |lambda: f64, part: Part, labelled: &Labelled, control: &Labelled| -> Result<Measured> {
            let weights = bench.weights(&(TaskExpr::task(task) * -lambda))?;
            let mut measured =
                Measured::of(bench, &weights, part, std::slice::from_ref(labelled), finetuned.as_ref(), &bar)?;
            measured.names.push(part.name(&control.task));
            measured.top1.push(bench.accuracy(&weights, control, &bar)?);
            Ok(measured)
        };
        let grid: Vec<(f64, Measured)> = sweep
            .0
            .iter()
            .map(|&lambda| Ok((lambda, measure(lambda, Part::Val, val, &control_val)?)))
            .collect::<Result<_>>()?;
        // The first of several that forget as much.
        let allowed = grid.iter().filter(|(_, measured)| measured.top1[1] >= enough);
        let best = allowed.fold(None, |best: Option<(f64, f64)>, (lambda, measured)| match best {
            Some(best) if best.1 <= measured.top1[0] => Some(best),
            _ => Some((*lambda, measured.top1[0])),
        });
        let Some((lambda, _)) = best else {
            return Err(Error::invalid(format!("no λ for `{task}` keeps enough of control task `{control}`"))
                .expected(format_args!("an accuracy of {} on its validation split", percent(enough)))
                .hint("Let --sweep begin at 0, or --keep less"));
        };
        let zero_shot = bench.accuracy(&base, test, &bar)?;
        let test = measure(lambda, Part::Test, test, &control_test)?;
        negated.push(Negated { task: task.clone(), lambda, grid, test, zero_shot });
    }
    bar.finish_and_clear();
    let control_zero_shot = bench.accuracy(&base, &control_test, &bar)?;

    if as_json {
        let of_task = |negated: &Negated| {
            let val: Map<String, Value> =
                negated.grid.iter().map(|(lambda, measured)| (key(*lambda), fields(measured))).collect();
            json!({
                "test": negated.test.top1[0], "test_control": negated.test.top1[1], "val": val,
                "optimal_coefficient": negated.lambda, "test_zeroshot": negated.zero_shot,
            })
        };
        let mut tasks: Map<String, Value> =
            negated.iter().map(|negated| (negated.task.clone(), of_task(negated))).collect();
        tasks.extend(bench.images.skipped().map(|images| ("skipped_images".to_owned(), images)));
        return output::json(&Value::Object(tasks));
    }
    let header = ["task", "λ", "zero-shot", "negated", control.as_str()];
    let mut rows = vec![header.map(String::from).to_vec()];
    rows.extend(negated.iter().map(|negated| {
        let accuracies = [negated.zero_shot, negated.test.top1[0], negated.test.top1[1]].map(percent);
        [negated.task.clone(), format!("{:.4}", negated.lambda)].into_iter().chain(accuracies).collect()
    }));
    rows.push(vec![format!("{control}, zero-shot"), String::new(), percent(control_zero_shot)]);
    output::text(&output::table(&rows))
}

/// The reference's fields: the averages are of the task alone.
fn fields(measured: &Measured) -> Value {
    let mut fields = measured.json();
    fields["avg_top1"] = json!(measured.top1[0]);
    fields
}
