//! Coefficients by groups of parameters: a matrix [groups, M].

use std::collections::HashMap;
use std::sync::Arc;

use super::coefficients::Coefficients;

/// The coefficients of a basis for every parameter: one row of M for all of them, or a row for each group.
///
/// Rows are different from each other: groups with the same coefficients are one.
#[derive(Clone, Debug, PartialEq)]
pub struct CoefficientMatrix {
    rows: Vec<Coefficients>,
    /// The row of each parameter, in the order of [`Basis::parameters`](super::Basis::parameters); empty where there is
    /// one row.
    row_of: Arc<[u32]>,
}

impl From<Coefficients> for CoefficientMatrix {
    /// The same coefficients for every parameter.
    fn from(row: Coefficients) -> Self {
        Self { rows: vec![row], row_of: Arc::new([]) }
    }
}

impl CoefficientMatrix {
    /// The rows that `row_of` names for each parameter; each must be one of `rows`.
    pub(super) fn of_rows(rows: Vec<Coefficients>, row_of: &[u32]) -> Self {
        let bits = |row: &Coefficients| -> Vec<u64> {
            let all = row.vectors.iter().chain([&row.mean]).chain(&row.residuals);
            // −0 and 0 both mean that the vector is left out.
            all.map(|a| (a + 0.0).to_bits()).collect()
        };
        let mut places: HashMap<Vec<u64>, u32> = HashMap::new();
        let mut kept: Vec<Coefficients> = Vec::new();
        let mut place_of: Vec<Option<u32>> = vec![None; rows.len()];
        let mut place = |row: usize| {
            *place_of[row].get_or_insert_with(|| {
                *places.entry(bits(&rows[row])).or_insert_with(|| {
                    kept.push(rows[row].clone());
                    kept.len() as u32 - 1
                })
            })
        };
        let row_of: Vec<u32> = row_of.iter().map(|&row| place(row as usize)).collect();
        if kept.is_empty() {
            // Of a basis without parameters.
            kept.extend(rows.into_iter().next());
        }
        let row_of = if kept.len() == 1 { Arc::from([]) } else { Arc::from(row_of) };
        Self { rows: kept, row_of }
    }

    /// The rows, each another one, in the order of the parameters that they are for.
    pub fn rows(&self) -> &[Coefficients] {
        &self.rows
    }

    /// The coefficients where they are the same for every parameter.
    pub fn plain(&self) -> Option<&Coefficients> {
        match &*self.rows {
            [only] => Some(only),
            _ => None,
        }
    }

    /// The index of the row of the parameter that is `index`-th in the basis.
    pub fn row_of(&self, index: usize) -> usize {
        self.row_of.get(index).map_or(0, |&row| row as usize)
    }

    /// The row of each parameter; empty where there is one row.
    pub(crate) fn assignment(&self) -> &[u32] {
        &self.row_of
    }
}
