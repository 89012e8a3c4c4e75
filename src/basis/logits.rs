//! An Autoencoder's W that was trained through a softmax (`w_activation` = `softmax`) and is stored without it.
//!
//! The reference applies the activation before it saves where `softmax_w` is set. Where `w_activation` alone is, it
//! trains through the softmax and saves the logits, whose temperature it does not save; but A and B tell it:
//! B = softmax(A/τ), or A/τ.

use std::path::Path;

use crate::error::Error;

/// How far a column's sum may be from 1, and B from what A and τ make of it.
const TOLERANCE: f64 = 1e-3;

/// Whether the columns of W, M rows of T, are softmaxes already.
pub(super) fn is_softmax(w: &[f64], [vectors, tasks]: [usize; 2]) -> bool {
    let sum = |t: usize| (0..vectors).map(|m| w[m * tasks + t]).sum::<f64>();
    w.iter().all(|value| *value >= 0.0) && (0..tasks).all(|t| (sum(t) - 1.0).abs() < TOLERANCE)
}

/// τ of `B = softmax(A/τ)` by columns, or of `B = A/τ`; both are T rows of M. `None` where there is none.
pub(super) fn temperature(a: &[f64], b: &[f64], vectors: usize, has_softmax: bool) -> Option<f64> {
    let rows = a.len() / vectors;
    let (mut square, mut product) = (0.0, 0.0);
    for m in 0..vectors {
        let column = (0..rows).map(|t| (a[t * vectors + m], b[t * vectors + m]));
        // What has underflowed tells nothing.
        let mut pairs: Vec<(f64, f64)> = column.filter(|(_, b)| !has_softmax || *b > 1e-30).collect();
        if has_softmax {
            pairs.iter_mut().for_each(|(_, b)| *b = b.ln());
            let mean = |of: &dyn Fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / pairs.len().max(1) as f64;
            let (mean_a, mean_b) = (mean(&|pair| pair.0), mean(&|pair| pair.1));
            pairs.iter_mut().for_each(|pair| *pair = (pair.0 - mean_a, pair.1 - mean_b));
        }
        square += pairs.iter().map(|(a, _)| a * a).sum::<f64>();
        product += pairs.iter().map(|(a, b)| a * b).sum::<f64>();
    }
    let tau = square / product;
    let mut again: Vec<f64> = a.iter().map(|a| a / tau).collect();
    if has_softmax {
        softmax(&mut again, [rows, vectors]);
    }
    let largest = b.iter().fold(0.0, |largest: f64, b| largest.max(b.abs()));
    let fits = again.iter().zip(b).all(|(again, b)| (again - b).abs() <= TOLERANCE * largest);
    (tau.is_finite() && tau > 0.0 && fits).then_some(tau)
}

/// The softmax of every column of W/τ.
pub(super) fn activate(w: &mut [f64], shape: [usize; 2], tau: f64) {
    w.iter_mut().for_each(|value| *value /= tau);
    softmax(w, shape);
}

/// The softmax of every column of a row-major matrix.
fn softmax(values: &mut [f64], [rows, columns]: [usize; 2]) {
    for column in 0..columns {
        let at = |row: usize| row * columns + column;
        let largest = (0..rows).map(|row| values[at(row)]).fold(f64::NEG_INFINITY, f64::max);
        (0..rows).for_each(|row| values[at(row)] = (values[at(row)] - largest).exp());
        let sum: f64 = (0..rows).map(|row| values[at(row)]).sum();
        (0..rows).for_each(|row| values[at(row)] /= sum);
    }
}

/// The error where the temperature cannot be told.
pub(super) fn untold(path: &Path) -> Error {
    Error::format("`W` holds the logits of a softmax (`w_activation`), and A and B do not tell its temperature")
        .at(path)
        .tensor("W")
        .expected("B = softmax(A/τ), or A/τ where `encoder` is `linear`")
        .hint("Store `W` activated, with `softmax_w` true in method_info.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_and_b_tell_the_temperature() {
        let a: Vec<f64> = (0..12).map(|i| (f64::from(i) * 2.3).sin() * 4.0).collect();
        let linear: Vec<f64> = a.iter().map(|a| a / 1.7).collect();
        let mut soft = linear.clone();
        softmax(&mut soft, [4, 3]);
        let close = |tau: Option<f64>| assert!((tau.unwrap() - 1.7).abs() < 1e-9, "{tau:?}");
        close(temperature(&a, &linear, 3, false));
        close(temperature(&a, &soft, 3, true));
        assert_eq!(temperature(&a, &soft, 3, false), None, "B is not what A and any τ make");
        assert_eq!(temperature(&a, &linear, 3, true), None);
        assert_eq!(temperature(&[0.0; 12], &[0.0; 12], 3, false), None);
    }
}
