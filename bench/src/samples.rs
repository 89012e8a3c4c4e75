//! Repeated timings: variants take turns within one process, and medians are compared.

pub use crate::output::digits;
use std::time::{Duration, Instant};

use serde::Serialize;
use taskbasis::Result;

/// Milliseconds of repeated runs, and what they come to.
#[derive(Clone, Debug, Serialize)]
pub struct Samples {
    pub median: f64,
    pub p25: f64,
    pub p75: f64,
    pub p95: f64,
    pub p99: f64,
    pub min: f64,
    pub max: f64,
    pub runs: usize,
    /// Every run, in the order of time.
    #[serde(skip)]
    pub each: Vec<f64>,
}

impl Samples {
    /// The samples of at least one run.
    pub fn of(each: Vec<f64>) -> Self {
        let mut sorted = each.clone();
        sorted.sort_by(f64::total_cmp);
        Self {
            median: quantile(&sorted, 0.5),
            p25: quantile(&sorted, 0.25),
            p75: quantile(&sorted, 0.75),
            p95: quantile(&sorted, 0.95),
            p99: quantile(&sorted, 0.99),
            min: quantile(&sorted, 0.0),
            max: quantile(&sorted, 1.0),
            runs: sorted.len(),
            each,
        }
    }

    /// `53.2 ms (52.9–54.0)`: the median, and between which values half of the runs lie.
    pub fn text(&self) -> String {
        format!("{} ms ({}–{})", digits(self.median), digits(self.p25), digits(self.p75))
    }
}

/// How long one thing takes over another that took turns with it. A round's ratio is of two runs that followed each
/// other closely, so that what else the machine did then is in both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// The median of the rounds' ratios.
    pub median: f64,
    pub p25: f64,
    pub p75: f64,
    pub rounds: usize,
}

impl Ratio {
    /// `these` over `those`, round by round.
    pub fn of(these: &Samples, those: &Samples) -> Self {
        let mut ratios: Vec<f64> = these.each.iter().zip(&those.each).map(|(a, b)| a / b).collect();
        ratios.sort_by(f64::total_cmp);
        let at = |q| quantile(&ratios, q);
        Self { median: at(0.5), p25: at(0.25), p75: at(0.75), rounds: ratios.len() }
    }

    /// `0.33 (0.32–0.35)`: the median, and between which values half of the rounds lie.
    pub fn text(&self) -> String {
        format!("{} ({}–{})", digits(self.median), digits(self.p25), digits(self.p75))
    }
}

/// The quantile by the nearest rank, so that it is always a value that was measured; 0 where there is none.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0.0)
}

/// The median of paired differences, and between which values it lies with 95 % confidence (by order statistics, which
/// assume no distribution).
pub fn paired_difference(more: &[f64], less: &[f64]) -> (f64, [f64; 2]) {
    let mut differences: Vec<f64> = more.iter().zip(less).map(|(a, b)| a - b).collect();
    differences.sort_by(f64::total_cmp);
    let n = differences.len() as f64;
    let reach = 0.98 / n.max(1.0).sqrt();
    let at = |q: f64| quantile(&differences, q.clamp(0.0, 1.0));
    (at(0.5), [at(0.5 - reach), at(0.5 + reach)])
}

/// Milliseconds that `run` takes, with what it gives.
pub fn time<T>(run: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let began = Instant::now();
    let value = run()?;
    Ok((began.elapsed().as_secs_f64() * 1e3, value))
}

/// `runs` timings of one thing, after one that is not counted. What it gives is dropped outside the timing.
pub fn repeat<T>(runs: usize, mut run: impl FnMut() -> Result<T>) -> Result<Samples> {
    let run: Variant<'_> = Box::new(move || time(&mut run).map(|(ms, _)| ms));
    take_turns(runs, &mut [run]).map(|mut samples| samples.swap_remove(0))
}

/// One way to do something; gives the milliseconds that count.
pub type Variant<'a> = Box<dyn FnMut() -> Result<f64> + 'a>;

/// What is quick is done this many times as often as was asked for, as long as all of it takes no longer than this.
const QUICK: (usize, Duration) = (20, Duration::from_millis(500));

/// Every variant once a round, after a round that is not counted. What else the machine does changes from second to
/// second, so only variants that took turns can be compared; and who begins changes from round to round, so that none
/// always has the same one before it.
pub fn take_turns(rounds: usize, variants: &mut [Variant<'_>]) -> Result<Vec<Samples>> {
    let mut each = vec![Vec::with_capacity(rounds); variants.len()];
    let began = Instant::now();
    for round in 0..=rounds.max(1) * QUICK.0 {
        if round > rounds.max(1) && began.elapsed() > QUICK.1 {
            break;
        }
        for turn in 0..variants.len() {
            let v = (turn + round) % variants.len();
            let ms = variants[v]()?;
            if round > 0 {
                each[v].push(ms);
            }
        }
    }
    Ok(each.into_iter().map(Samples::of).collect())
}

/// A line through points.
#[derive(Clone, Copy, Serialize)]
pub struct Line {
    pub intercept: f64,
    pub slope: f64,
    /// The share of the variance that the line explains.
    pub r2: f64,
}

/// The line through points by least squares.
pub fn line(points: &[(f64, f64)]) -> Line {
    let n = points.len().max(1) as f64;
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(&|p| p.0), mean(&|p| p.1));
    let (xx, xy, yy) = (mean(&|p| (p.0 - x).powi(2)), mean(&|p| (p.0 - x) * (p.1 - y)), mean(&|p| (p.1 - y).powi(2)));
    let slope = if xx > 0.0 { xy / xx } else { 0.0 };
    Line { intercept: y - slope * x, slope, r2: if xx * yy > 0.0 { xy * xy / (xx * yy) } else { 1.0 } }
}

impl Line {
    pub fn at(&self, x: f64) -> f64 {
        self.intercept + self.slope * x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_ranks() {
        let samples = Samples::of((1..=100).rev().map(f64::from).collect());
        assert_eq!((samples.min, samples.p25, samples.median, samples.p75), (1.0, 25.0, 50.0, 75.0));
        assert_eq!((samples.p95, samples.p99, samples.max, samples.runs), (95.0, 99.0, 100.0, 100));
        let one = Samples::of(vec![7.0]);
        assert_eq!((one.min, one.median, one.p99), (7.0, 7.0, 7.0));
    }

    /// What slows both down in one round leaves that round's ratio as it is.
    #[test]
    fn a_ratio_is_of_rounds_not_of_medians() {
        let those = Samples::of(vec![10.0, 100.0, 20.0, 40.0, 1000.0]);
        let these = Samples::of(those.each.iter().map(|ms| ms / 4.0).collect());
        assert_eq!(Ratio::of(&these, &those), Ratio { median: 0.25, p25: 0.25, p75: 0.25, rounds: 5 });
        let these = Samples::of(vec![1.0, 20.0, 6.0, 16.0, 500.0]);
        let ratio = Ratio::of(&these, &those);
        assert_eq!(ratio, Ratio { median: 0.3, p25: 0.2, p75: 0.4, rounds: 5 });
        assert_eq!(ratio.text(), "0.300 (0.200–0.400)");
        assert!(ratio.median != these.median / those.median);
    }

    #[test]
    fn a_difference_shows_through_noise_that_both_share() {
        let less: Vec<f64> = (0..100).map(|i| f64::from(i % 10)).collect();
        let more: Vec<f64> = less.iter().map(|v| v + 0.5).collect();
        assert_eq!(paired_difference(&more, &less), (0.5, [0.5, 0.5]));
        let (median, [low, high]) = paired_difference(&less, &more.iter().rev().copied().collect::<Vec<_>>());
        assert!(low <= median && median <= high && low < high);
    }

    #[test]
    fn each_has_one_turn_per_round() {
        let counts = std::cell::RefCell::new([0; 3]);
        let mut variants: Vec<Variant<'_>> = (0..3)
            .map(|v| {
                let counts = &counts;
                Box::new(move || {
                    counts.borrow_mut()[v] += 1;
                    std::thread::sleep(QUICK.1 / 10);
                    Ok(v as f64)
                }) as Variant<'_>
            })
            .collect();
        let samples = take_turns(4, &mut variants).unwrap();
        assert_eq!(*counts.borrow(), [5; 3], "four rounds, and one to warm up");
        assert_eq!((samples[2].median, samples[2].runs), (2.0, 4));
        assert_eq!(repeat(3, || Ok(())).unwrap().runs, 60, "what is quick is done more often");
    }

    #[test]
    fn a_line_is_found() {
        let points: Vec<(f64, f64)> = (0..10).map(|x| (f64::from(x), 3.0 + 0.5 * f64::from(x))).collect();
        let Line { intercept, slope, r2 } = line(&points);
        assert!((intercept - 3.0).abs() < 1e-9 && (slope - 0.5).abs() < 1e-9 && (r2 - 1.0).abs() < 1e-9);
        let bent: Vec<(f64, f64)> = (0..10).map(|x| (f64::from(x), f64::from(x * x))).collect();
        assert!(line(&bent).r2 < 0.95);
    }
}
