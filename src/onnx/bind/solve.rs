//! Equal values told apart by where the graph uses them.
//!
//! Every use of a constant begins with all the parameters that have its values. A parameter is ruled out for a use when
//! some other use cannot be any of its own parameters then: in CLIP's encoder the two would come one before the other,
//! and in the graph they do not. Uses of values that are not all alike are weights for certain, so they are believed
//! first; uses of zeros or ones may also be plain constants of the graph.

use super::candidates::{Candidates, Match};
use super::order::{self, EncoderPlace};
use super::uses::Sites;

/// The candidates that are left for every use.
pub(super) struct Solution {
    pub(super) domains: Vec<Vec<Match>>,
    /// Uses for which nothing is left because equal values contradict each other.
    pub(super) contradicted: Vec<bool>,
}

/// Rules out what the graph's structure excludes. `uniform` says of every use whether its values are all alike.
pub(super) fn solve(
    sites: &Sites,
    candidates: &Candidates,
    mut domains: Vec<Vec<Match>>,
    uniform: &[bool],
) -> Solution {
    // Whatever survives among the weights, the constants have no say in it.
    let contradicted_weights = reduce(sites, candidates, &mut domains, |site| !uniform[site]);
    let mut contradicted: Vec<bool> =
        contradicted_weights.iter().zip(uniform).map(|(gone, uniform)| *gone && !uniform).collect();
    let gone = reduce(sites, candidates, &mut domains, |_| true);
    contradicted.iter_mut().zip(gone).for_each(|(all, gone)| *all |= gone);
    Solution { domains, contradicted }
}

/// Rules out until nothing changes, and says which uses lost their last possibility. Each round judges by what was left
/// after the one before, so that no order of the uses favours one of two that exclude each other.
fn reduce(
    sites: &Sites,
    candidates: &Candidates,
    domains: &mut [Vec<Match>],
    judges: impl Fn(usize) -> bool,
) -> Vec<bool> {
    let slot = |m: &Match| candidates.all[m.candidate].slot;
    let before: Vec<bool> = domains.iter().map(|domain| !domain.is_empty()).collect();
    let slots = |domains: &[Vec<Match>]| -> Vec<Vec<Option<EncoderPlace>>> {
        domains.iter().map(|domain| domain.iter().map(slot).collect()).collect()
    };
    loop {
        let known = slots(domains);
        let mut changed = false;
        for (u, domain) in domains.iter_mut().enumerate() {
            let count = domain.len();
            domain.retain(|m| {
                let mine = slot(m);
                (0..known.len()).filter(|v| *v != u && judges(*v) && !known[*v].is_empty()).all(|v| {
                    let relation = sites.relation(u, v);
                    known[v].iter().any(|theirs| match (mine, theirs) {
                        (Some(mine), Some(theirs)) => order::allows(mine, *theirs, relation),
                        // Nothing is known of where it belongs.
                        _ => true,
                    })
                })
            });
            changed |= domain.len() != count;
        }
        if !changed {
            return before.iter().zip(domains.iter()).map(|(had, domain)| *had && domain.is_empty()).collect();
        }
    }
}
