//! Minimising a smooth function of a few hundred variables: L-BFGS (Liu and Nocedal 1989), with step lengths that are
//! halved until the function falls as far as its slope promises (Armijo) and that leave curvature to learn from.

/// Pairs of steps and gradient differences that are remembered.
const MAX_PAIRS: usize = 20;
/// The share of the fall that the slope promises that is enough.
const MIN_FALL: f64 = 1e-4;

/// The end of a descent.
pub(crate) struct Minimum {
    pub(crate) at: Vec<f64>,
    #[cfg_attr(not(feature = "build"), allow(dead_code))] // As the next.
    pub(crate) value: f64,
    #[cfg_attr(not(feature = "build"), allow(dead_code))] // Told by `build` alone.
    pub(crate) iterations: usize,
}

/// Descends from `start`. `function` gives value and gradient; it ends when `function` falls no more, its value is at
/// most `enough`, or after `iterations`.
pub(crate) fn minimise(
    start: Vec<f64>,
    enough: f64,
    iterations: usize,
    function: impl Fn(&[f64]) -> (f64, Vec<f64>),
) -> Minimum {
    let mut at = start;
    let (mut value, mut gradient) = function(&at);
    let mut pairs: Vec<(Vec<f64>, Vec<f64>, f64)> = Vec::new();
    for iteration in 0..iterations {
        if value <= enough || norm(&gradient) <= f64::MIN_POSITIVE {
            return Minimum { at, value, iterations: iteration };
        }
        let mut direction = quasi_newton(&gradient, &pairs);
        let mut slope = dot(&gradient, &direction);
        if slope >= 0.0 || !slope.is_finite() {
            pairs.clear();
            direction = gradient.iter().map(|g| -g).collect();
            slope = -dot(&gradient, &gradient);
        }
        // Without memory the gradient's length says nothing about a good step's.
        let first = if pairs.is_empty() { 0.1 / norm(&direction) } else { 1.0 };
        let steps = std::iter::successors(Some(first), |step| Some(step / 2.0)).take(60);
        let found = steps.map(|step| (step, along(&at, &direction, step))).find_map(|(step, next)| {
            let (next_value, next_gradient) = function(&next);
            (next_value <= value + MIN_FALL * step * slope && next_value < value).then_some((
                next,
                next_value,
                next_gradient,
            ))
        });
        match found {
            Some((next, next_value, next_gradient)) => {
                let step: Vec<f64> = next.iter().zip(&at).map(|(a, b)| a - b).collect();
                let change: Vec<f64> = next_gradient.iter().zip(&gradient).map(|(a, b)| a - b).collect();
                let curvature = dot(&step, &change);
                if curvature > 1e-12 * norm(&step) * norm(&change) {
                    if pairs.len() == MAX_PAIRS {
                        pairs.remove(0);
                    }
                    pairs.push((step, change, 1.0 / curvature));
                }
                (at, value, gradient) = (next, next_value, next_gradient);
            }
            // What is remembered may mislead; without it, the end is the end.
            None if !pairs.is_empty() => pairs.clear(),
            None => return Minimum { at, value, iterations: iteration },
        }
    }
    Minimum { at, value, iterations }
}

/// `−H·gradient`, H being the inverse Hessian that the pairs tell of.
fn quasi_newton(gradient: &[f64], pairs: &[(Vec<f64>, Vec<f64>, f64)]) -> Vec<f64> {
    let mut q = gradient.to_vec();
    let mut alphas = Vec::with_capacity(pairs.len());
    for (step, change, rho) in pairs.iter().rev() {
        let alpha = rho * dot(step, &q);
        q.iter_mut().zip(change).for_each(|(q, y)| *q -= alpha * y);
        alphas.push(alpha);
    }
    if let Some((_, change, rho)) = pairs.last() {
        let scale = 1.0 / (rho * dot(change, change));
        q.iter_mut().for_each(|q| *q *= scale);
    }
    for ((step, change, rho), alpha) in pairs.iter().zip(alphas.into_iter().rev()) {
        let beta = rho * dot(change, &q);
        q.iter_mut().zip(step).for_each(|(q, s)| *q += (alpha - beta) * s);
    }
    q.iter().map(|q| -q).collect()
}

fn along(at: &[f64], direction: &[f64], step: f64) -> Vec<f64> {
    at.iter().zip(direction).map(|(x, d)| x + step * d).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bent_valley_is_followed_to_its_end() {
        // Rosenbrock's function in six variables; its minimum is 0, at all ones.
        let rosenbrock = |x: &[f64]| {
            let mut gradient = vec![0.0; x.len()];
            let mut value = 0.0;
            for i in 0..x.len() - 1 {
                let (a, b) = (x[i + 1] - x[i] * x[i], 1.0 - x[i]);
                value += 100.0 * a * a + b * b;
                gradient[i] += -400.0 * a * x[i] - 2.0 * b;
                gradient[i + 1] += 200.0 * a;
            }
            (value, gradient)
        };
        let found = minimise(vec![-1.0, 1.2, 0.5, -0.5, 0.3, 2.0], 0.0, 2000, rosenbrock);
        assert!(found.at.iter().all(|x| (x - 1.0).abs() < 1e-6), "{:?}", found.at);
        assert!(found.iterations < 500);
    }
}
