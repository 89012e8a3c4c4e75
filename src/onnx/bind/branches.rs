//! Branches of a graph that runs the encoder several times side by side, for an image and its mirror image. They share
//! their constants, or each has copies.

use indexmap::IndexMap;

use super::candidates::{Candidates, Match};
use super::order::EncoderPlace;
use super::uses::{Relation, Sites};
use crate::weights::View;

/// The sites of each parameter that values alone tell, and that a CLIP encoder uses once, by parameter.
pub(super) fn certain(domains: &[Vec<Match>], candidates: &Candidates, uniform: &[bool]) -> Vec<Vec<usize>> {
    let mut groups: IndexMap<usize, Vec<usize>> = IndexMap::new();
    for (site, domain) in domains.iter().enumerate().filter(|(site, _)| !uniform[*site]) {
        if let [one] = domain.as_slice()
            && candidates.all[one.candidate].slot.is_some_and(EncoderPlace::is_in_line)
        {
            groups.entry(one.candidate).or_default().push(site);
        }
    }
    groups.into_values().collect()
}

/// The parameters of which branches have copies: constants that are the same rows, all of them in different branches.
pub(super) fn repeated(sites: &Sites, domains: &[Vec<Match>], candidates: &Candidates) -> Vec<String> {
    let mut holders: IndexMap<&str, Vec<(usize, &View)>> = IndexMap::new();
    for (site, domain) in domains.iter().enumerate() {
        let [one] = domain.as_slice() else { continue };
        for part in &candidates.all[one.candidate].parts {
            holders.entry(&part.parameter).or_default().push((site, part));
        }
    }
    let overlap = |a: &View, b: &View| match (a.rows, b.rows) {
        (Some(a), Some(b)) => a[0] < b[1] && b[0] < a[1],
        _ => true,
    };
    let is_repeated = |holders: &Vec<(usize, &View)>| {
        let mut apart = 0;
        for (i, (a, mine)) in holders.iter().enumerate() {
            for (b, theirs) in &holders[i + 1..] {
                if sites.sites[*a].constant == sites.sites[*b].constant || !overlap(mine, theirs) {
                    continue;
                }
                if sites.relation(*a, *b) != Relation::Apart {
                    return false;
                }
                apart += 1;
            }
        }
        apart > 0
    };
    holders.into_iter().filter(|(_, holders)| is_repeated(holders)).map(|(name, _)| name.to_owned()).collect()
}
