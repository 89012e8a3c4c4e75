//! Methods, numbers of vectors and formats, with what each takes and what it loses.

use serde::Serialize;
use taskbasis::build::{Family, Fit, Gram};
use taskbasis::{BlockFormat, Result, VectorFormat};

/// A basis that could be made.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Choice {
    pub(super) method: String,
    pub(super) vectors: usize,
    pub(super) format: &'static str,
    /// Bytes of the vectors.
    pub(super) bytes: u64,
    /// What is missing of all task vectors together, stored in this format: 0 to 1.
    pub(super) error: f64,
}

/// All choices that give every task back.
pub(super) fn choices(family: &Family, gram: &Gram, fits: &[Fit], threads: usize) -> Result<Vec<Choice>> {
    let blocks = BlockFormat::ALL.map(VectorFormat::Blocks);
    let formats: Vec<VectorFormat> = std::iter::once(VectorFormat::F16).chain(blocks).collect();
    let rounding = family.rounding(&formats, threads)?;
    let parameters = family.changed_parameter_count();
    let mut choices = Vec::new();
    for fit in fits {
        for (&format, &rounding) in formats.iter().zip(&rounding) {
            let Some(error) = fit.error_as_stored(gram, rounding) else { continue };
            let bytes = fit.stored_bytes(parameters, format);
            let (method, format) = (fit.method().to_string(), format.name());
            choices.push(Choice { method, vectors: fit.vectors(), format, bytes, error });
        }
    }
    // Lines of one method and format stay together, each from few vectors to many.
    choices.sort_by(|a, b| {
        let place = |of: &Choice| formats.iter().position(|format| format.name() == of.format);
        (&a.method, place(a), a.vectors).cmp(&(&b.method, place(b), b.vectors))
    });
    Ok(choices)
}

/// The choices that none beats in both bytes and error, from the smallest on.
pub(super) fn front(choices: &[Choice]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..choices.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (&choices[a], &choices[b]);
        a.bytes.cmp(&b.bytes).then(a.error.total_cmp(&b.error))
    });
    let mut least = f64::INFINITY;
    order.retain(|&at| {
        let is_better = choices[at].error < least;
        least = least.min(choices[at].error);
        is_better
    });
    order
}

/// The knee of the front: the choice that lies furthest below the straight line between its ends, over the logarithm
/// of the bytes, both axes scaled to 0 to 1 (Satopää and others, 2011, Kneedle). `None` for fewer than three.
pub(super) fn knee(choices: &[Choice]) -> Option<usize> {
    let front = front(choices);
    let (&first, &last) = (front.first()?, front.last()?);
    if front.len() < 3 {
        return None;
    }
    let x = |at: usize| (choices[at].bytes as f64).ln();
    let (left, right) = (x(first), x(last));
    let (top, bottom) = (choices[first].error, choices[last].error);
    let below = |at: usize| 1.0 - (x(at) - left) / (right - left) - (choices[at].error - bottom) / (top - bottom);
    front.into_iter().max_by(|&a, &b| below(a).total_cmp(&below(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(vectors: usize, bytes: u64, error: f64) -> Choice {
        Choice { method: "x".into(), vectors, format: "q4", bytes, error }
    }

    #[test]
    fn the_knee_is_where_more_bytes_stop_paying() {
        // 10, 100, 1000, 10000 bytes: one step of the logarithm each. The second takes most of the error away.
        let all = [
            choice(1, 10, 1.0),
            choice(2, 100, 0.3),
            choice(9, 150, 0.6),
            choice(3, 1000, 0.2),
            choice(4, 10_000, 0.1),
        ];
        assert_eq!(front(&all), [0, 1, 3, 4], "what takes more and loses more is no choice");
        assert_eq!(knee(&all), Some(1));
        // On the line itself there is none but the ends; of two there is none at all.
        assert_eq!(knee(&all[..2]), None);
        assert_eq!(knee(&[]), None);
    }
}
