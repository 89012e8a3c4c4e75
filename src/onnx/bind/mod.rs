//! Binding: which constants of a graph are which parameters of a base.
//!
//! Values decide, never names: a constant is a parameter when it has the parameter's values, in some form that
//! exporters give them (`candidates.rs`). Where several parameters have the same values, the places where the graph
//! uses them decide (`uses.rs`, `order.rs`, `solve.rs`). Where neither tells, binding fails: a weight in the wrong
//! place would give plausible, wrong embeddings.

mod absent;
mod branches;
mod candidates;
mod complete;
mod folded;
mod graph_io;
mod map;
mod modules;
mod order;
mod pixels;
mod solve;
mod uses;
mod why;

use std::collections::{HashMap, HashSet};

use indexmap::IndexMap;
use parking_lot::Mutex;

pub(super) use self::absent::{Absent, changes};
use self::candidates::{Candidates, Match};
pub(super) use self::complete::{check as check_complete, check_listed, is_known, outside};
pub use self::map::{GraphMap, Mapped};
pub(super) use self::pixels::{check as check_pixels, moved as moved_pixels};
use self::uses::{Site, Sites};
use super::file::OnnxFile;
use super::rewrite::Needed;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::kernel::threads;
use crate::tensor::{Tensor, checked_numel, try_zeroed};
use crate::weights::View;

/// The options of [`bind`], for what the caller knows beforehand; `default()` finds everything.
#[derive(Clone, Debug, Default)]
pub struct BindOptions {
    /// The input that takes the images, where there are several.
    pub pixels: Option<String>,
    /// The output that gives the embeddings, where there are several.
    pub output: Option<String>,
    /// Parameters that the graph may lack.
    pub missing: Vec<String>,
    /// Parameters that the graph may hold several times.
    pub repeated: Vec<String>,
}

/// Finds the parameters of a base among the constants of a graph: all of its image tower; where it holds no vision
/// transformer, whatever of it the graph uses.
///
/// # Errors
/// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming it, for a parameter that the graph lacks or holds more
/// than once, unless the options allow that, and for constants of equal values that nothing tells apart;
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) where inputs or outputs have to be named.
pub fn bind(file: &OnnxFile, base: &Checkpoint, options: &BindOptions) -> Result<GraphMap> {
    let named = |error: Error| error.at(file.path());
    if base.parameters() == 0 {
        return Err(
            Error::mismatch("the base holds no weights, so nothing in the graph can be recognised").at(base.path())
        );
    }
    let output = graph_io::output(file, base, options.output.as_deref()).map_err(named)?;
    let needed = file.needed(&output);
    let pixels = graph_io::pixels(file, &needed, options.pixels.as_deref()).map_err(named)?;

    let mut candidates = Candidates::of(base)?;
    let matches = match_all(file, &needed, &candidates)?;
    let folds = folded::find(file, &needed, base, &mut candidates, &matches).map_err(named)?;
    let is_known = |constant: usize| !matches[constant].is_empty() || folds.constants.contains(&constant);
    let mut sites = Sites::find(file, &needed, is_known).map_err(named)?;
    let mut uniform = Vec::with_capacity(sites.sites.len());
    for site in &sites.sites {
        uniform.push(file.constants[site.constant].tensor.as_ref().map_or(Ok(true), candidates::is_uniform)?);
    }
    let domain =
        |site: &Site| folds.at.get(&site.at).map_or_else(|| matches[site.constant].clone(), |fold| vec![*fold]);
    let domains: Vec<Vec<Match>> = sites.sites.iter().map(domain).collect();
    sites.find_branches(&branches::certain(&domains, &candidates, &uniform));
    let mut solution = solve::solve(&sites, &candidates, domains, &uniform);
    modules::settle(file, &sites, &candidates, &mut solution.domains);

    let mut map = GraphMap {
        pixels,
        output,
        tensors: IndexMap::new(),
        missing: options.missing.clone(),
        repeated: options.repeated.clone(),
    };
    map.repeated.extend(branches::repeated(&sites, &solution.domains, &candidates));
    let mut found: HashMap<usize, Vec<(usize, Match)>> = HashMap::new();
    for (at, domain) in solution.domains.iter().enumerate() {
        match domain.as_slice() {
            [] => {}
            [one] => found.entry(sites.sites[at].constant).or_default().push((at, *one)),
            several => return Err(named(ambiguous(file, &sites, at, several, &candidates))),
        }
    }
    enter(&mut map, file, &sites, &solution, &candidates, found);
    if map.tensors.is_empty() && base.image_tower().next().is_none() {
        return Err(named(
            Error::mismatch("the base holds no image encoder, and nothing in the graph has values of what it holds")
                .expected(format_args!("constants that are parameters of {}", base.path().display()))
                .hint("Export the graph with the base's weights in it"),
        ));
    }
    check_complete(file, &map, base).map_err(|error| match error.tensor_name() {
        Some(name) => {
            let (sites, solution, folds) = (&sites, &solution, &folds);
            let found = why::Evidence { file, needed: &needed, base, map: &map, sites, solution, folds };
            let hint = found.why_missing(name);
            named(error).or_hint(hint)
        }
        None => named(error),
    })?;
    Ok(map)
}

/// The candidates that each constant is.
fn match_all(file: &OnnxFile, needed: &Needed, candidates: &Candidates) -> Result<Vec<Vec<Match>>> {
    let used: HashSet<&str> = file
        .nodes
        .iter()
        .zip(&needed.nodes)
        .filter(|(_, needed)| **needed)
        .flat_map(|(node, _)| node.inputs.iter().map(String::as_str))
        .collect();
    let wanted: Vec<(usize, &Tensor)> = file
        .constants
        .iter()
        .enumerate()
        .filter(|(_, constant)| used.contains(constant.name.as_str()))
        .filter_map(|(i, constant)| Some((i, constant.tensor.as_ref().filter(|tensor| tensor.numel() > 1)?)))
        .collect();
    // Comparing reads base and graph once: seconds for a large model, so all processors do it.
    let results = Mutex::new(vec![Vec::new(); file.constants.len()]);
    threads::share(0, wanted, |(constant, tensor), (): &mut ()| {
        let found = candidates.matching(tensor)?;
        results.lock()[constant] = found;
        Ok(())
    })?;
    Ok(results.into_inner())
}

/// Writes what was found into the map: a constant that is one parameter wherever it is used keeps its name; one that
/// was merged from equal parameters becomes several inputs.
fn enter(
    map: &mut GraphMap,
    file: &OnnxFile,
    sites: &Sites,
    solution: &solve::Solution,
    candidates: &Candidates,
    mut found: HashMap<usize, Vec<(usize, Match)>>,
) {
    let mut taken: HashSet<String> = file
        .nodes
        .iter()
        .flat_map(|node| node.inputs.iter().chain(&node.outputs).chain(&node.captured).cloned())
        .collect();
    for (i, constant) in file.constants.iter().enumerate() {
        let Some(bound) = found.remove(&i) else { continue };
        let uses = (0..sites.sites.len()).filter(|site| sites.sites[*site].constant == i);
        let everywhere = uses.clone().all(|site| !solution.domains[site].is_empty());
        // A constant has one form of a parameter, so sites of one candidate have one scale and one repetition.
        let mut kinds: IndexMap<usize, (Match, Vec<usize>)> = IndexMap::new();
        for (site, m) in bound {
            kinds.entry(m.candidate).or_insert_with(|| (m, Vec::new())).1.push(site);
        }
        let alone = everywhere && kinds.len() == 1 && !file.nodes.iter().any(|n| n.captured.contains(&constant.name));
        for (found, sites_of_it) in kinds.into_values() {
            let candidate = &candidates.all[found.candidate];
            let sum = candidate.parts_of(&found);
            let mapped = Mapped { constant: None, uses: Vec::new(), sum, unchecked: false };
            if alone {
                map.tensors.insert(constant.name.clone(), mapped);
                continue;
            }
            let (mut name, mut n) = (candidate.parameter().to_owned(), 1);
            while taken.contains(&name) {
                n += 1;
                name = format!("{}#{n}", candidate.parameter());
            }
            taken.insert(name.clone());
            let uses = sites_of_it.iter().map(|site| sites.sites[*site].at).collect();
            map.tensors.insert(name, Mapped { constant: Some(constant.name.clone()), uses, ..mapped });
        }
    }
}

/// Whether a constant has the values of the sum of these views.
pub(super) fn is_sum(sum: &[View], base: &Checkpoint, constant: &Tensor) -> Result<bool> {
    for view in sum {
        // Before anything is as large as a map says.
        let strided = view.strided(base.require(&view.parameter)?.shape())?;
        if checked_numel(&strided.shape) != Some(constant.numel()) {
            return Ok(false);
        }
    }
    if sum.iter().any(|view| view.norm.is_some()) {
        return folded::is_sum(sum, base, constant);
    }
    let of = |view: &View| view.of(base.require(&view.parameter)?);
    if let [one] = sum {
        return candidates::same(&of(one)?, one.scale.unwrap_or(1.0), constant, false);
    }
    let mut total = try_zeroed::<f32>(constant.numel())?;
    for view in sum {
        let scale = view.scale.unwrap_or(1.0);
        total.iter_mut().zip(&*of(view)?.to_f32()?).for_each(|(total, value)| *total += value * scale);
    }
    candidates::same(&Tensor::from_f32(&total, constant.shape(), "sum")?, 1.0, constant, false)
}

fn ambiguous(file: &OnnxFile, sites: &Sites, site: usize, several: &[Match], candidates: &Candidates) -> Error {
    let site = &sites.sites[site];
    let describe = |m: &Match| candidates.all[m.candidate].parts.iter().map(describe).collect::<Vec<_>>().join(" + ");
    let candidates: Vec<String> = several.iter().take(8).map(describe).collect();
    Error::mismatch("these values are several parameters', and the graph does not tell which")
        .tensor(&file.constants[site.constant].name)
        .got(format_args!("at input {} of node {}: {}", site.at.1, site.at.0, candidates.join(", or ")))
        .hint("Say it in a map")
}

/// `visual.proj`, or `visual.x rows 0 to 64, transposed, ×0.125`, or `conv1.weight × bn1`.
pub fn describe(view: &View) -> String {
    let mut text = view.parameter.clone();
    if let Some(norm) = &view.norm {
        text += &format!(" × {}", modules::stem(&norm.variance));
    }
    if let Some([start, end]) = view.rows {
        text += &format!(" rows {start} to {end}");
    }
    if let Some(shape) = &view.shape {
        text += &format!(" as {shape:?}");
    }
    match view.permute.as_deref() {
        None => {}
        Some([1, 0]) => text += ", transposed",
        Some(order) => text += &format!(", permuted {order:?}"),
    }
    if let Some(count) = view.repeat {
        text += &format!(", {count} times");
    }
    if let Some(scale) = view.scale {
        text += &format!(", ×{scale}");
    }
    text
}
