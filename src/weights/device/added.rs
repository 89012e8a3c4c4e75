//! The terms that a task adds to each parameter: those of its row whose coefficient is not zero.

use crate::basis::CoefficientMatrix;
use crate::weights::model::TaskWeights;

/// The terms that a task adds.
#[derive(Debug)]
pub(super) struct Added<'a> {
    /// Per row of coefficients the vectors that are added, counted as [`Parameter::sources`] has them, and their
    /// coefficients, in ascending order.
    ///
    /// [`Parameter::sources`]: crate::basis::Parameter::sources
    pub(super) rows: Vec<Vec<(u32, f32)>>,
    coefficients: &'a CoefficientMatrix,
}

impl<'a> Added<'a> {
    pub(super) fn of(task: &'a TaskWeights) -> Self {
        let (coefficients, factors) = (task.coefficients(), &*task.key().factors);
        let count = coefficients.rows().len();
        // Behind the rows the key has the row of each parameter.
        let factors = &factors[..factors.len() - coefficients.assignment().len()];
        let per_row = factors.len() / count.max(1);
        let row = |row: usize| {
            let factors = factors[row * per_row..][..per_row].iter().map(|&bits| f32::from_bits(bits));
            (0u32..).zip(factors).filter(|&(_, factor)| factor != 0.0).collect()
        };
        Self { rows: (0..count).map(row).collect(), coefficients }
    }

    /// The row of a parameter, which is `index`-th in the basis.
    pub(super) fn row_of(&self, index: usize) -> usize {
        self.coefficients.row_of(index)
    }

    /// The terms that are added to a parameter, which is `index`-th in the basis.
    pub(super) fn to(&self, index: usize) -> &[(u32, f32)] {
        &self.rows[self.row_of(index)]
    }
}
