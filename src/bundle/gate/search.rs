//! The search for the fastest precisions that pass: int8 in as many kinds of layers as possible.

use std::collections::BTreeMap;

use super::record::Trial;
use crate::error::Result;
use crate::kernel::linear::Precision;
use crate::tower::{LayerKind, LayerPrecisions};

/// What can be asked of precisions.
pub(super) trait Trials {
    /// Measures them on everything.
    ///
    /// # Errors
    /// Those of a run.
    fn try_out(&mut self, precisions: LayerPrecisions) -> Result<Trial>;

    /// One minus the least cosine with them, on a few images of every task.
    ///
    /// # Errors
    /// Those of a run.
    fn error(&mut self, precisions: LayerPrecisions) -> Result<f64>;
}

/// What the search came to.
pub(super) struct Found {
    pub(super) precisions: LayerPrecisions,
    pub(super) trials: Vec<Trial>,
    /// The error of a kind of layer with all others in f32, by `kind=precision`.
    pub(super) alone: BTreeMap<String, f64>,
}

/// Finds the fastest precisions that pass.
///
/// All int8 first. Where that fails, the kinds that err most alone go to bf16, one after another, until it passes;
/// where all of bf16 fails, they go on to f32 likewise. Those that went without need come back in the end, to int8 at
/// last: a kind's error alone is no proof.
///
/// # Errors
/// Those of the trials.
pub(super) fn fastest(on: &mut impl Trials) -> Result<Found> {
    let mut found = Found { precisions: Precision::Int8.into(), trials: Vec::new(), alone: BTreeMap::new() };
    if found.passes(Precision::Int8.into(), on)? {
        return Ok(found);
    }
    let by_int8 = found.by_error(Precision::Int8, on)?;
    if found.raise(&by_int8, Precision::Int8, Precision::Bf16, on)? {
        return Ok(found);
    }
    let by_bf16 = found.by_error(Precision::Bf16, on)?;
    if found.raise(&by_bf16, Precision::Bf16, Precision::F32, on)? {
        let is_bf16 = |kind: &&LayerKind| found.precisions.get(**kind) == Precision::Bf16;
        let kinds: Vec<LayerKind> = by_int8.iter().filter(is_bf16).copied().collect();
        found.lower(&kinds, Precision::Int8, on)?;
        return Ok(found);
    }
    // Nothing but f32 is left, which is what everything was compared with.
    found.precisions = LayerPrecisions::default();
    Ok(found)
}

impl Found {
    /// Tries `precisions`, and takes them where they pass.
    fn passes(&mut self, precisions: LayerPrecisions, on: &mut impl Trials) -> Result<bool> {
        let trial = on.try_out(precisions)?;
        let passed = trial.passed;
        self.trials.push(trial);
        if passed {
            self.precisions = precisions;
        }
        Ok(passed)
    }

    /// The kinds that have this precision where all layers do, those that err most alone first.
    fn by_error(&mut self, precision: Precision, on: &mut impl Trials) -> Result<Vec<LayerKind>> {
        let mut kinds = Vec::new();
        let all = LayerPrecisions::of(precision);
        for kind in LayerKind::ALL.into_iter().filter(|kind| all.get(*kind) == precision) {
            let error = on.error(LayerPrecisions::default().with(kind, precision))?;
            self.alone.insert(format!("{kind}={precision}"), error);
            kinds.push((kind, error));
        }
        kinds.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        Ok(kinds.into_iter().map(|(kind, _)| kind).collect())
    }

    /// Moves kinds, in this order, from all of one precision to another until that passes, and back those that need
    /// not have gone.
    fn raise(&mut self, kinds: &[LayerKind], from: Precision, to: Precision, on: &mut impl Trials) -> Result<bool> {
        let mut precisions = LayerPrecisions::of(from);
        for (moved, kind) in kinds.iter().enumerate() {
            precisions = precisions.with(*kind, to);
            // All of f32 is what everything was compared with.
            if !precisions.is_f32() && self.passes(precisions, on)? {
                // Without the last one it did not pass.
                self.lower(&kinds[..moved], from, on)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Moves those of the kinds to `precision` with which it still passes, the least harmful, which are last, first.
    fn lower(&mut self, kinds: &[LayerKind], precision: Precision, on: &mut impl Trials) -> Result<()> {
        for kind in kinds.iter().rev() {
            self.passes(self.precisions.with(*kind, precision), on)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::gate::TaskMeasure;

    /// Every kind adds its own error, and more than `most` in all does not pass.
    struct Sum {
        int8: [f64; 5],
        bf16: [f64; 5],
        most: f64,
        tried: Vec<String>,
    }

    impl Trials for Sum {
        fn try_out(&mut self, precisions: LayerPrecisions) -> Result<Trial> {
            self.tried.push(precisions.to_string());
            let error = self.error(precisions)?;
            let tasks = vec![TaskMeasure { task: "A".into(), cosine: 1.0 - error, accuracy: None }];
            Ok(Trial { precisions: precisions.to_string(), passed: error <= self.most, tasks })
        }

        fn error(&mut self, precisions: LayerPrecisions) -> Result<f64> {
            let of = |(i, kind)| match precisions.get(kind) {
                Precision::Int8 => self.int8[i],
                Precision::Bf16 => self.bf16[i],
                Precision::F32 => 0.0,
            };
            Ok(LayerKind::ALL.into_iter().enumerate().map(of).sum())
        }
    }

    fn search(int8: [f64; 5], bf16: [f64; 5], most: f64) -> (String, usize) {
        let mut trials = Sum { int8, bf16, most, tried: Vec::new() };
        let found = fastest(&mut trials).unwrap();
        assert_eq!(found.trials.len(), trials.tried.len());
        assert!(trials.tried.iter().enumerate().all(|(i, tried)| !trials.tried[..i].contains(tried)), "tried twice");
        (found.precisions.to_string(), found.trials.len())
    }

    #[test]
    fn the_fastest_that_passes_is_found() {
        // Patches are never int8: their error as such does not count.
        let int8 = [9.0, 0.1, 0.2, 0.9, 0.3];
        assert_eq!(search(int8, [0.0; 5], 2.0), ("int8".into(), 1));
        let mixed = "patches=bf16,qkv=int8,out=int8,fc=bf16,proj=int8";
        assert_eq!(search(int8, [0.0; 5], 0.7), (mixed.into(), 2));
        // fc, proj, then out: of which proj comes back.
        let mixed = "patches=bf16,qkv=int8,out=bf16,fc=bf16,proj=bf16";
        assert_eq!(search(int8, [0.0; 5], 0.15), (mixed.into(), 6));
        assert_eq!(search(int8, [0.0; 5], 0.0), ("bf16".into(), 8));
        // All of bf16 fails: what hurts most there goes to f32, and what may be int8 is.
        let mixed = "patches=f32,qkv=int8,out=bf16,fc=bf16,proj=bf16";
        assert_eq!(search(int8, [0.5, 0.01, 0.01, 0.01, 0.01], 0.14).0, mixed);
        assert_eq!(search(int8, [0.5; 5], 0.1).0, "f32");
    }

    #[test]
    fn what_went_without_need_comes_back() {
        // qkv hurts most alone, but only without fc does it pass.
        struct Odd;
        impl Trials for Odd {
            fn try_out(&mut self, precisions: LayerPrecisions) -> Result<Trial> {
                let passed = precisions.get(LayerKind::Fc) != Precision::Int8;
                Ok(Trial { precisions: precisions.to_string(), passed, tasks: Vec::new() })
            }
            fn error(&mut self, precisions: LayerPrecisions) -> Result<f64> {
                let is_int8 = |kind| precisions.get(kind) == Precision::Int8;
                Ok(if is_int8(LayerKind::Qkv) {
                    0.2
                } else if is_int8(LayerKind::Fc) {
                    0.1
                } else {
                    0.0
                })
            }
        }
        let found = fastest(&mut Odd).unwrap().precisions;
        assert_eq!(found, LayerPrecisions::of(Precision::Int8).with(LayerKind::Fc, Precision::Bf16));
    }
}
