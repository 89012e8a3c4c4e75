//! The search as one page: how the objective fell, what was tested, and the λ.

use serde_json::Value;
use taskbasis::fit::{Candidate, Fitted, Measure};
use taskbasis::{Result, Scale};

use super::tested::Tested;
use crate::report::plot::{Curve, Lines};
use crate::report::{bars, begin, end, heat_table, legend, paragraph, section};

/// The content of a page.
pub(super) struct Page<'a> {
    pub(super) tasks: &'a [String],
    pub(super) found: &'a Fitted,
    pub(super) tested: Option<&'a Tested>,
    pub(super) json: &'a Value,
}

impl Page<'_> {
    pub(super) fn html(&self) -> Result<String> {
        let found = self.found;
        let mut out = begin("coefficients found");
        let (start, best) = (&found.curve[0].validation, &found.curve[found.best].validation);
        let told = |measure: &Measure| {
            let right = measure.accuracy.map(|share| format!(" ({:.2} % right)", 100.0 * share));
            format!("{:.4}{}", measure.loss, right.unwrap_or_default())
        };
        out += &paragraph(&format!(
            "From the best single λ, {}, to λ for {} tasks in {} groups: in cross-validation, {} parts of the images \
             held out in turn, from {} to {}.",
            found.start,
            self.tasks.len(),
            found.groups,
            found.folds,
            told(start),
            told(best),
        ));
        self.falls(&mut out)?;
        if let Some(tested) = self.tested {
            tested_bars(&mut out, tested)?;
        }
        section(&mut out, "Coefficients", "λ of each task and group: blue is added, orange taken away.", &self.table());
        Ok(out + &end(&format!("{:#}", self.json)))
    }

    fn falls(&self, out: &mut String) -> Result<()> {
        let curve = |name: &str, colour: usize, of: fn(&Candidate) -> f64| Curve {
            name: name.to_owned(),
            points: self.found.curve.iter().enumerate().map(|(i, candidate)| (i as f64, of(candidate))).collect(),
            colour,
            dashed: false,
            marks: true,
        };
        let curves = vec![
            curve("training", 0, |candidate| candidate.training.loss),
            curve("validation", 1, |candidate| candidate.validation.loss),
        ];
        let lines = Lines { x: "tried", y: "objective", log_x: false, log_y: false, curves };
        let about = format!("What was tried, one after the other; number {} was chosen.", self.found.best);
        section(out, "The objective", &about, &(lines.svg()? + &legend(&lines.curves)));
        Ok(())
    }

    /// λ, a row for each group.
    fn table(&self) -> String {
        let terms = self.found.expr.terms();
        let names: Vec<String> = match terms.first() {
            Some((_, Scale::Groups(groups))) => groups.iter().map(|(selector, _)| selector.to_string()).collect(),
            _ => vec!["all".to_owned()],
        };
        let lambda = |t: usize, group: usize| match &terms[t].1 {
            Scale::Whole(lambda) => *lambda,
            Scale::Groups(groups) => groups[group].1,
        };
        let largest = (0..terms.len()).flat_map(|t| (0..names.len()).map(move |group| (t, group)));
        let largest = largest.map(|(t, group)| lambda(t, group).abs()).fold(f64::MIN_POSITIVE, f64::max);
        let rows = names.into_iter().enumerate().map(|(group, name)| {
            let cells = (0..terms.len()).map(|t| Some(lambda(t, group))).collect();
            (name, cells)
        });
        heat_table(self.tasks.iter().map(String::as_str), rows, largest, |lambda| format!("{lambda:.4}"))
    }
}

fn tested_bars(out: &mut String, tested: &Tested) -> Result<()> {
    // Bars of more tasks than fit side by side go on in another plot.
    for first in (0..tested.tasks.len()).step_by(4) {
        let part = first..tested.tasks.len().min(first + 4);
        let of_part = |shares: &[f64]| shares[part.clone()].iter().map(|share| 100.0 * share).collect();
        let series = tested.shares.iter().map(|(name, shares)| ((*name).to_owned(), of_part(shares)));
        let bars = bars("% right", tested.tasks[part.clone()].to_vec(), series.collect())?;
        let title = format!("On the {} split{}", tested.split, if first == 0 { "" } else { ", continued" });
        section(out, &title, "", &bars);
    }
    Ok(())
}
