//! Equal values told apart by the module: a bias of zeros that is added behind a matrix is that matrix's. And, where
//! nothing else tells, by the name that the graph gives to a constant among the parameters of its values.

use std::collections::HashMap;

use super::candidates::{Candidates, Match};
use super::uses::Sites;
use crate::onnx::file::OnnxFile;

/// The module that a parameter is of: its name without the last word.
pub(super) fn stem(parameter: &str) -> &str {
    parameter.rsplit_once('.').map_or("", |(module, _)| module)
}

/// Settles those uses of which several parameters are left. One of an encoder that is known is left to its order.
pub(super) fn settle(file: &OnnxFile, sites: &Sites, candidates: &Candidates, domains: &mut [Vec<Match>]) {
    let is_open = |domain: &Vec<Match>| {
        domain.len() > 1 && domain.iter().all(|found| candidates.all[found.candidate].slot.is_none())
    };
    let beside = beside(file, sites);
    loop {
        let mut settled = Vec::new();
        for (site, domain) in domains.iter().enumerate().filter(|(_, domain)| is_open(domain)) {
            let modules: Vec<&str> = beside[site]
                .iter()
                .filter_map(|other| match domains[*other].as_slice() {
                    [one] => Some(stem(candidates.all[one.candidate].parameter())),
                    _ => None,
                })
                .collect();
            let is_theirs = |found: &&Match| modules.contains(&stem(candidates.all[found.candidate].parameter()));
            let mut theirs = domain.iter().filter(is_theirs);
            if let (Some(one), None) = (theirs.next(), theirs.next()) {
                settled.push((site, *one));
            }
        }
        if settled.is_empty() {
            break;
        }
        settled.into_iter().for_each(|(site, one)| domains[site] = vec![one]);
    }
    for (site, domain) in domains.iter_mut().enumerate().filter(|(_, domain)| is_open(domain)) {
        let name = &file.constants[sites.sites[site].constant].name;
        if let Some(one) = domain.iter().find(|found| candidates.all[found.candidate].parameter() == name).copied() {
            *domain = vec![one];
        }
    }
}

/// For every site those at the same node, and at the nodes right before and behind it.
fn beside(file: &OnnxFile, sites: &Sites) -> Vec<Vec<usize>> {
    let mut at_node: HashMap<usize, Vec<usize>> = HashMap::new();
    for (site, found) in sites.sites.iter().enumerate() {
        found.nodes().for_each(|node| at_node.entry(node).or_default().push(site));
    }
    let mut producers: HashMap<&str, usize> = HashMap::new();
    for (i, node) in file.nodes.iter().enumerate() {
        producers.extend(node.outputs.iter().filter(|name| !name.is_empty()).map(|name| (name.as_str(), i)));
    }
    let mut pairs: Vec<(usize, usize)> = Vec::new();
    for (i, node) in file.nodes.iter().enumerate() {
        pairs.push((i, i));
        for above in node.inputs.iter().filter_map(|name| producers.get(name.as_str())) {
            pairs.extend([(i, *above), (*above, i)]);
        }
    }
    let mut beside = vec![Vec::new(); sites.sites.len()];
    for (a, b) in pairs {
        let (Some(mine), Some(theirs)) = (at_node.get(&a), at_node.get(&b)) else { continue };
        for site in mine {
            beside[*site].extend(theirs.iter().copied().filter(|other| other != site));
        }
    }
    beside
}
