//! Coefficients by groups of parameters beside one row of them for all.

use serde::Serialize;
use taskbasis::{Coefficients, Grouping, Result, TaskExpr};

use super::Setup;
use super::family::{InTurn, basis_of, first_vectors};
use super::samples::{Ratio, Samples, Variant, take_turns};

/// A grouping, and what it costs.
#[derive(Serialize)]
pub struct Grouped {
    pub grouping: String,
    pub groups: usize,
    /// All vectors, each group with other coefficients; in the host's memory on all threads.
    pub ms: Samples,
    /// The time over that of plain coefficients, round by round.
    pub ratio: Ratio,
}

pub fn measure(setup: &Setup<'_>, rounds: usize) -> Result<Vec<Grouped>> {
    let model = setup.family.open(setup.threads, setup.about.weights_bytes)?;
    let basis = basis_of(&model)?;
    let mut plain = InTurn::new(&model, basis.vectors(), None)?;
    let mut variants: Vec<Variant<'_>> = vec![Box::new(move || plain.reconstruct())];
    let mut about = Vec::new();
    for name in ["kind", "block", "parameter"] {
        let Some(grouping) = Grouping::named(basis, name) else { continue };
        let tasks = [0, 1].map(|n| {
            let row = |group| first_vectors(basis, basis.vectors(), 2 * group + n);
            let rows: Vec<Coefficients> = (0..grouping.len()).map(row).collect();
            model.weights(&TaskExpr::of_rows(grouping.selectors(), &rows)?)
        });
        let [a, b] = tasks;
        let mut in_turn = InTurn::of([a?, b?]);
        about.push((name.to_owned(), grouping.len()));
        variants.push(Box::new(move || in_turn.reconstruct()));
    }
    let mut samples = take_turns(3 * rounds, &mut variants)?.into_iter();
    let Some(plain) = samples.next() else { return Ok(Vec::new()) };
    let grouped = about.into_iter().zip(samples);
    Ok(grouped
        .map(|((grouping, groups), ms)| Grouped { grouping, groups, ratio: Ratio::of(&ms, &plain), ms })
        .collect())
}

impl Grouped {
    pub fn row(&self) -> [String; 2] {
        let Self { grouping, groups, ms, ratio } = self;
        [format!("coefficients by {grouping}, {groups} groups"), format!("{}, {} of plain", ms.text(), ratio.text())]
    }
}
