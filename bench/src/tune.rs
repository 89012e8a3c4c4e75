//! Which hints for the caches help this processor: every combination in turns, from vectors of every format.

use serde::Serialize;
use taskbasis::kernel::{self, HINTS_VARIABLE, Hints};
use taskbasis::{Kernel, Result};

use super::Setup;
use super::family::InTurn;
use super::samples::{Ratio, Samples, Variant, digits, take_turns};

#[derive(Serialize)]
pub struct Tune {
    /// The kernel that reconstructs.
    pub kernel: String,
    /// The hints that it takes by itself.
    pub own: String,
    /// The value of `TASKBASIS_HINTS` that was fastest over all cases; the kernel's own where no other is better by
    /// more than the runs differ among themselves.
    pub best: String,
    /// The time with `best` over that with the kernel's own hints, the geometric mean of all cases.
    pub over_own: f64,
    pub cases: Vec<Case>,
}

/// A combination of hints, beside the kernel's own ones.
#[derive(Serialize)]
pub struct Case {
    /// The format of the vectors.
    pub format: String,
    pub threads: usize,
    pub hints: String,
    /// All vectors.
    pub ms: Samples,
    pub over_own: Ratio,
}

pub fn measure(setup: &Setup<'_>) -> Result<Tune> {
    let kernel = kernel::active()?;
    let mut cases = Vec::new();
    for threads in setup.thread_counts() {
        for (format, path) in setup.family.bases() {
            let model = setup.family.open_format(path, threads, setup.about.weights_bytes)?;
            let of_format = with_hints(setup, kernel, &mut InTurn::new(&model, setup.about.vectors, None)?);
            Hints::set(None);
            let case = |(hints, ms, over_own): (Hints, _, _)| Case {
                format: format.clone(),
                threads,
                hints: hints.to_string(),
                ms,
                over_own,
            };
            cases.extend(of_format?.into_iter().map(case));
        }
    }
    let own = kernel.hints();
    let (best, over_own) = best(own, &cases);
    Ok(Tune { kernel: kernel.to_string(), own: own.to_string(), best: best.to_string(), over_own, cases })
}

/// Every combination in turns.
fn with_hints(setup: &Setup<'_>, kernel: Kernel, in_turn: &mut InTurn) -> Result<Vec<(Hints, Samples, Ratio)>> {
    let in_turn = std::cell::RefCell::new(in_turn);
    let mut variants: Vec<Variant<'_>> = Vec::new();
    for hints in Hints::ALL {
        let in_turn = &in_turn;
        variants.push(Box::new(move || {
            Hints::set(Some(hints));
            in_turn.borrow_mut().reconstruct()
        }));
    }
    let samples = take_turns(if setup.quick { 5 } else { 25 }, &mut variants)?;
    let own = Hints::ALL.iter().position(|&hints| hints == kernel.hints()).unwrap_or(0);
    let beside = |ms: &Samples| Ratio::of(ms, &samples[own]);
    Ok(Hints::ALL.into_iter().zip(&samples).map(|(hints, ms)| (hints, ms.clone(), beside(ms))).collect())
}

/// The combination with the least geometric mean of the cases' ratios, and that mean. Another than the kernel's own has
/// to be better by the mean of their upper quartiles too, or it is chance.
fn best(own: Hints, cases: &[Case]) -> (Hints, f64) {
    let of = |hints: Hints| cases.iter().filter(move |case| case.hints == hints.to_string());
    let mean = |hints: Hints, ratio: fn(&Ratio) -> f64| {
        let logs: Vec<f64> = of(hints).map(|case| ratio(&case.over_own).ln()).collect();
        (logs.iter().sum::<f64>() / logs.len() as f64).exp()
    };
    let others = Hints::ALL.into_iter().filter(|&hints| hints != own && mean(hints, |ratio| ratio.p75) < 1.0);
    let means = others.map(|hints| (hints, mean(hints, |ratio| ratio.median)));
    means.min_by(|(_, a), (_, b)| a.total_cmp(b)).unwrap_or((own, 1.0))
}

impl Tune {
    pub fn table(&self) -> Vec<Vec<String>> {
        let header = ["vectors", "threads", "hints", "ms", "half of the runs", "of the kernel's own"];
        let mut rows = vec![header.map(String::from).to_vec()];
        for Case { format, threads, hints, ms, over_own } in &self.cases {
            let half = format!("{}–{}", digits(ms.p25), digits(ms.p75));
            let (ms, ratio) = (digits(ms.median), over_own.text());
            rows.push(vec![format.clone(), threads.to_string(), hints.clone(), ms, half, ratio]);
        }
        rows
    }

    pub fn rows(&self) -> Vec<[String; 2]> {
        let Self { kernel, own, best, over_own, .. } = self;
        let told = if best == own {
            "none is better by more than the runs differ".to_owned()
        } else {
            format!("{HINTS_VARIABLE}={best}, {} of the time", digits(*over_own))
        };
        vec![[format!("hints of the {kernel} kernel"), own.clone()], ["best here".into(), told]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(hints: &str, [p25, median, p75]: [f64; 3]) -> Case {
        let over_own = Ratio { median, p25, p75, rounds: 9 };
        Case { format: "f16".into(), threads: 1, hints: hints.into(), ms: Samples::of(vec![1.0]), over_own }
    }

    #[test]
    fn chance_does_not_make_a_best() {
        let own: Hints = "none".parse().unwrap();
        let same = [1.0; 3];
        let noisy = [case("none", same), case("prefetch", [0.8, 0.95, 1.1]), case("stream", [1.0, 1.1, 1.2])];
        let noisy: Vec<Case> = noisy.into_iter().chain([case("prefetch,stream", [0.9, 0.99, 1.02])]).collect();
        assert_eq!(best(own, &noisy), (own, 1.0));

        let clear = [case("none", same), case("prefetch", [0.8, 0.85, 0.9]), case("stream", [0.7, 0.75, 0.9])];
        let clear: Vec<Case> = clear.into_iter().chain([case("prefetch,stream", [0.5, 0.6, 1.3])]).collect();
        let (found, over_own) = best(own, &clear);
        assert_eq!(found.to_string(), "stream");
        assert!((over_own - 0.75).abs() < 1e-12, "{over_own}");
    }
}
