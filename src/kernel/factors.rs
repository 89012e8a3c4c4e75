//! Terms of low rank: their factors are decoded once for each job and thread.

use super::dispatch::Functions;
use super::hints::Hints;
use super::product::Factors;
use super::tile::{Tile, TileTerm};
use crate::error::Result;
use crate::tensor::{Blocks, LowRank, Source, VectorFormat, try_zeroed};

fn factors(matrix: &LowRank, functions: Functions) -> Result<Factors> {
    Ok(Factors {
        rank: matrix.format().rank(),
        rows: matrix.rows(),
        columns: matrix.columns(),
        left: decoded(matrix.left(), functions)?,
        right: decoded(matrix.right(), functions)?,
    })
}

/// The values of blocks. Times one and added to zero they have the bits that they have.
fn decoded(blocks: &Blocks, functions: Functions) -> Result<Vec<f32>> {
    let mut values = try_zeroed(blocks.numel())?;
    let term = TileTerm { coefficient: 1.0, format: VectorFormat::Blocks(blocks.format()), bytes: blocks.bytes() };
    (functions.combine)(Tile { out: &mut values, base: None, terms: &[term], hints: Hints::new(false, false) });
    Ok(values)
}

/// The factors of a job's terms, as one thread needs them: for all its work items of the job.
#[derive(Default)]
pub(super) struct JobFactors {
    job: Option<usize>,
    terms: Vec<Option<Factors>>,
}

impl JobFactors {
    /// Decodes the factors among the terms of a job, unless that was done.
    pub(super) fn prepare(&mut self, job: usize, terms: &[(f32, &Source)], functions: Functions) -> Result<()> {
        if self.job == Some(job) {
            return Ok(());
        }
        (self.job, self.terms) = (None, Vec::new());
        let of_term = |&(_, term): &(f32, &Source)| match term {
            Source::LowRank(matrix) => factors(matrix, functions).map(Some),
            _ => Ok(None),
        };
        self.terms = terms.iter().map(of_term).collect::<Result<_>>()?;
        self.job = Some(job);
        Ok(())
    }

    /// The factors of term `m` of the job that was prepared.
    pub(super) fn of(&self, m: usize) -> Option<&Factors> {
        self.terms.get(m)?.as_ref()
    }
}
