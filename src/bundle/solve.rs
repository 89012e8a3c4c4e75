//! Least squares from normal equations: a Cholesky factorisation with pivoting, which sees when vectors depend on each
//! other.

/// Pivots below this share of the largest are taken for zero: what f64 sums over millions of products cannot tell from
/// dependence.
const RANK_TOLERANCE: f64 = 1e-10;

/// The x of the least ‖Σ_k x_k·s_k − y‖, from G[i][j] = s_i·s_j (symmetric, row-major, `size`²) and b[k] = s_k·y; and
/// the rank. Vectors that depend on others get 0.
///
/// Rows and columns are scaled to a diagonal of ones first, so that only directions count.
pub(super) fn least_squares(gram: &[f64], b: &[f64]) -> (Vec<f64>, usize) {
    let n = b.len();
    let scale: Vec<f64> =
        (0..n).map(|i| gram[i * n + i].max(0.0).sqrt()).map(|s| if s > 0.0 { 1.0 / s } else { 0.0 }).collect();
    let mut a: Vec<f64> = (0..n * n).map(|k| gram[k] * scale[k / n] * scale[k % n]).collect();
    let original = a.clone();
    let mut order: Vec<usize> = (0..n).collect();
    let mut rank = 0;
    // Row-major lower triangle of L in `a`, rows and columns in the order of `order`.
    while rank < n {
        let pivot = (rank..n).fold(rank, |best, i| if a[i * n + i] > a[best * n + best] { i } else { best });
        // A NaN ends it too.
        let large_enough = a[pivot * n + pivot] > RANK_TOLERANCE;
        if !large_enough {
            break;
        }
        order.swap(rank, pivot);
        for k in 0..n {
            a.swap(rank * n + k, pivot * n + k);
        }
        for k in 0..n {
            a.swap(k * n + rank, k * n + pivot);
        }
        let root = a[rank * n + rank].sqrt();
        a[rank * n + rank] = root;
        for i in rank + 1..n {
            a[i * n + rank] /= root;
        }
        for i in rank + 1..n {
            for j in rank + 1..=i {
                a[i * n + j] -= a[i * n + rank] * a[j * n + rank];
                a[j * n + i] = a[i * n + j];
            }
        }
        rank += 1;
    }
    let solve = |b: &[f64]| -> Vec<f64> {
        let mut y: Vec<f64> = (0..rank).map(|i| b[order[i]]).collect();
        for i in 0..rank {
            let known: f64 = (0..i).map(|j| a[i * n + j] * y[j]).sum();
            y[i] = (y[i] - known) / a[i * n + i];
        }
        for i in (0..rank).rev() {
            let known: f64 = (i + 1..rank).map(|j| a[j * n + i] * y[j]).sum();
            y[i] = (y[i] - known) / a[i * n + i];
        }
        let mut x = vec![0.0; n];
        (0..rank).for_each(|i| x[order[i]] = y[i]);
        x
    };
    let scaled: Vec<f64> = b.iter().zip(&scale).map(|(b, scale)| b * scale).collect();
    let mut x = solve(&scaled);
    // One step of refinement wins back what the factorisation lost.
    let rest: Vec<f64> = (0..n).map(|i| scaled[i] - (0..n).map(|j| original[i * n + j] * x[j]).sum::<f64>()).collect();
    x.iter_mut().zip(solve(&rest)).for_each(|(x, step)| *x += step);
    (x.iter().zip(&scale).map(|(x, scale)| x * scale).collect(), rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gram(rows: &[&[f64]], y: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let g = rows.iter().flat_map(|a| rows.iter().map(move |b| dot(a, b))).collect();
        (g, rows.iter().map(|a| dot(a, y)).collect())
    }

    #[test]
    fn what_lies_in_the_span_is_found() {
        let rows: [&[f64]; 3] = [&[1., 2., 0., 1e-3], &[0., 1e-6, 2e-6, 0.], &[300., 0., 100., 7.]];
        let truth = [0.5, -2e5, 0.01];
        let y: Vec<f64> = (0..4).map(|i| truth.iter().zip(rows).map(|(a, row)| a * row[i]).sum()).collect();
        let (g, b) = gram(&rows, &y);
        let (x, rank) = least_squares(&g, &b);
        assert_eq!(rank, 3);
        for (x, truth) in x.iter().zip(truth) {
            assert!((x / truth - 1.0).abs() < 1e-10, "{x} {truth}");
        }
    }

    #[test]
    fn what_does_not_is_projected() {
        let (g, b) = gram(&[&[1., 0., 0.], &[1., 1., 0.]], &[3., 4., 5.]);
        let (x, _) = least_squares(&g, &b);
        assert!((x[0] + 1.0).abs() < 1e-12 && (x[1] - 4.0).abs() < 1e-12, "{x:?}");
    }

    #[test]
    fn dependent_vectors_are_seen() {
        let (g, b) = gram(&[&[1., 2., 3.], &[2., 4., 6.], &[0., 0., 0.], &[1., 0., 0.]], &[1., 2., 3.]);
        let (x, rank) = least_squares(&g, &b);
        assert_eq!((rank, x[2]), (2, 0.0));
        assert!((x[0] + 2.0 * x[1] - 1.0).abs() < 1e-9 && x[3].abs() < 1e-9, "{x:?}");
        assert_eq!(least_squares(&[], &[]), (vec![], 0));
    }
}
