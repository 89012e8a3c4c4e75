//! DARE (Yu et al. 2023, arXiv 2311.03099): each element of each task vector is dropped with probability p, and those
//! that stay are divided by 1 − p, which keeps their expectation. What is left is summed, as task arithmetic does, or
//! merged by TIES.
//!
//! The paper leaves the random numbers open. Here element i of a parameter of a task is kept where the i-th number of
//! SplitMix64 (Steele et al. 2014), begun at XXH3(TASK, 0, PARAMETER; seed), is p or more, as a number of [0, 1) with
//! 53 bits. So a mask depends on the names and the seed alone: not on threads, on the order of the tasks, or on what
//! other tasks and parameters there are.

use twox_hash::XxHash3_64;

use super::elementwise;
use super::rule::Rule;
use crate::build::family::Family;
use crate::build::tile::TunedParameter;
use crate::error::Result;

/// The options of DARE.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dare {
    /// The share of elements that is dropped, p: at least 0 and below 1.
    pub drop: f64,
    /// Another seed drops others.
    pub seed: u64,
}

impl Default for Dare {
    /// p = 0.9, of the paper's examples; seed 0.
    fn default() -> Self {
        Self { drop: 0.9, seed: 0 }
    }
}

/// The masks of one parameter.
pub(super) struct Masks {
    /// Where each task's numbers begin.
    begins: Vec<u64>,
    drop: f64,
}

impl Dare {
    pub(super) fn masks(self, tasks: &[String], parameter: &str) -> Masks {
        let begin = |task: &String| {
            let name = [task.as_bytes(), &[0], parameter.as_bytes()].concat();
            XxHash3_64::oneshot_with_seed(self.seed, &name)
        };
        Masks { begins: tasks.iter().map(begin).collect(), drop: self.drop }
    }
}

impl Masks {
    /// Whether element `i` of the parameter stays in the vector of task `t`.
    pub(super) fn keeps(&self, t: usize, i: usize) -> bool {
        let number = split_mix(self.begins[t], i as u64);
        (number >> 11) as f64 * (1.0 / (1u64 << 53) as f64) >= self.drop
    }

    /// What those that stay are multiplied by.
    pub(super) fn scale(&self) -> f64 {
        1.0 / (1.0 - self.drop)
    }
}

/// Number `i` of SplitMix64 begun at `begin`.
fn split_mix(begin: u64, i: u64) -> u64 {
    let state = begin.wrapping_add(i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The sum of what is left.
pub(super) struct Dropped {
    dare: Dare,
    tasks: Vec<String>,
}

impl Dropped {
    pub(super) fn new(family: &Family, dare: Dare) -> Self {
        Self { dare, tasks: family.tasks().map(str::to_owned).collect() }
    }
}

impl Rule for Dropped {
    fn merge(&self, parameter: &TunedParameter, threads: usize) -> Result<Vec<f32>> {
        let masks = self.dare.masks(&self.tasks, &parameter.name);
        elementwise::merge(parameter, threads, |vectors, range, out| {
            for ((i, out), column) in range.zip(out).zip(vectors.columns()) {
                let kept = column.iter().enumerate().filter(|(t, _)| masks.keeps(*t, i));
                *out = (masks.scale() * kept.map(|(_, value)| value).sum::<f64>()) as f32;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first numbers of SplitMix64 from 1234567, as its authors' program gives them.
    #[test]
    fn the_numbers_are_split_mix_s() {
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([0, 1, 2].map(|i| split_mix(1_234_567, i)), expected);
    }

    #[test]
    fn the_share_that_is_dropped_is_the_one_asked_for() {
        let tasks = ["a".to_owned(), "b".to_owned()];
        let masks = Dare { drop: 0.7, seed: 3 }.masks(&tasks, "w");
        let kept = |t| (0..100_000).filter(|&i| masks.keeps(t, i)).count();
        assert!([0, 1].into_iter().all(|t| kept(t).abs_diff(30_000) < 700), "{} {}", kept(0), kept(1));
        let same = (0..100_000).filter(|&i| masks.keeps(0, i) == masks.keeps(1, i)).count();
        assert!(same.abs_diff(58_000) < 800, "the tasks' masks are independent: {same}");
        let other = Dare { drop: 0.7, seed: 4 }.masks(&tasks, "w");
        assert!((0..1000).any(|i| other.keeps(0, i) != masks.keeps(0, i)));
    }
}
