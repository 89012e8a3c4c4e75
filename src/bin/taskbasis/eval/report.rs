//! The sweep as one page: accuracy over λ, what was tested beside zero-shot and fine-tuned, the basis's coefficients.

use serde_json::Value;
use taskbasis::{Basis, Result};

use super::finetuned::Finetuned;
use super::measured::{Measured, percent};
use crate::report::plot::{COLOURS, Curve, Lines};
use crate::report::{bars, begin, end, heat_table, legend, paragraph, section};

/// The content of a page.
pub(super) struct Page<'a> {
    pub(super) weights: String,
    pub(super) tasks: &'a [String],
    pub(super) grid: &'a [(f64, Measured)],
    pub(super) best: f64,
    pub(super) test: &'a Measured,
    pub(super) zero_shot: &'a Measured,
    pub(super) finetuned: Option<&'a Finetuned>,
    pub(super) basis: Option<&'a Basis>,
    pub(super) json: &'a Value,
}

impl Page<'_> {
    pub(super) fn html(&self) -> Result<String> {
        let mut out = begin(&format!("{} over λ", self.weights));
        let normalised =
            self.test.mean_normalised().map_or_else(String::new, |mean| format!(", {} normalised", percent(mean)));
        out += &paragraph(&format!(
            "Best on the validation split at λ = {}; there {} on the test split in the mean{normalised}.",
            self.best,
            percent(self.test.mean()),
        ));
        self.over_lambda(&mut out)?;
        self.tested(&mut out)?;
        if let Some(basis) = self.basis {
            section(
                &mut out,
                "Coefficients",
                "What each basis vector counts in each recovered task.",
                &heat_map(basis),
            );
        }
        Ok(out + &end(&format!("{:#}", self.json)))
    }

    fn over_lambda(&self, out: &mut String) -> Result<()> {
        let curve = |t: usize| Curve {
            name: self.tasks[t].clone(),
            points: self.grid.iter().map(|(lambda, measured)| (*lambda, 100.0 * measured.top1[t])).collect(),
            colour: t,
            // Past the last colour they begin again, told apart by their dashes.
            dashed: t / COLOURS.len() % 2 == 1,
            marks: false,
        };
        let mean = Curve {
            name: "mean".into(),
            points: self.grid.iter().map(|(lambda, measured)| (*lambda, 100.0 * measured.mean())).collect(),
            colour: self.tasks.len(),
            dashed: false,
            marks: true,
        };
        let curves = (0..self.tasks.len()).map(curve).chain([mean]).collect();
        let lines = Lines { x: "λ", y: "% right, validation", log_x: false, log_y: false, curves };
        section(out, "Accuracy over λ", "", &(lines.svg()? + &legend(&lines.curves)));
        Ok(())
    }

    fn tested(&self, out: &mut String) -> Result<()> {
        let hundredfold = |values: &[f64]| values.iter().map(|value| 100.0 * value).collect::<Vec<f64>>();
        let mut series = vec![
            ("zero-shot".to_owned(), hundredfold(&self.zero_shot.top1)),
            (format!("{} at λ = {}", self.weights, self.best), hundredfold(&self.test.top1)),
        ];
        if let Some(finetuned) = self.finetuned {
            let accuracies = self.tasks.iter().map(|task| finetuned.get(task)).collect::<Result<Vec<_>>>()?;
            series.push(("fine-tuned".into(), hundredfold(&accuracies)));
        }
        // Bars of more tasks than fit side by side go on in another plot.
        for first in (0..self.tasks.len()).step_by(4) {
            let part = first..self.tasks.len().min(first + 4);
            let of_part = series.iter().map(|(name, values)| (name.clone(), values[part.clone()].to_vec()));
            let bars = bars("% right, test", self.tasks[part.clone()].to_vec(), of_part.collect())?;
            let title = if first == 0 { "On the test split" } else { "On the test split, continued" };
            section(out, title, "", &bars);
        }
        Ok(())
    }
}

/// The recovery table: blue for what is added, orange for what is taken away.
fn heat_map(basis: &Basis) -> String {
    let table = basis.recovery();
    let largest = table.iter().flatten().map(f64::abs).fold(f64::MIN_POSITIVE, f64::max);
    let tasks = 0..basis.tasks().len();
    let rows = (0..basis.vectors()).map(|m| (format!("s{m}"), tasks.clone().map(|t| table.get(m, t)).collect()));
    heat_table(basis.tasks().iter().map(String::as_str), rows, largest, |value| format!("{value:.3}"))
}
