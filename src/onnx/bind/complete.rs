//! Whether a map has every parameter, once. Of an encoder that is known all have to be there; of another those that
//! the graph uses: whole modules may be left out, as a classifier behind the features that a graph gives, where nothing
//! in the graph can be them.

use std::collections::{HashMap, HashSet};

use super::super::file::OnnxFile;
use super::candidates::is_uniform;
use super::map::{GraphMap, Mapped};
use super::modules;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use crate::weights::BatchNorm;

/// The parameter that only encoders of a known architecture have.
const PATCHES: &str = "visual.conv1.weight";

/// Whether every parameter of the encoder is there, once.
///
/// # Errors
/// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming the parameter.
pub(crate) fn check(file: &OnnxFile, map: &GraphMap, base: &Checkpoint) -> Result<()> {
    let outside = outside(file, map, base)?.into_iter().collect();
    check_but(&outside, map, base)
}

/// Whether every parameter of the encoder is there, once, or listed as missing. No value is looked at.
///
/// # Errors
/// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming the parameter.
pub(crate) fn check_listed(map: &GraphMap, base: &Checkpoint) -> Result<()> {
    check_but(&HashSet::new(), map, base)
}

/// Whether the encoder in `base` is one that is known, all of whose parameters have to be in a graph.
pub(crate) fn is_known(base: &Checkpoint) -> bool {
    base.get(PATCHES).is_some()
}

fn check_but(outside: &HashSet<&str>, map: &GraphMap, base: &Checkpoint) -> Result<()> {
    let mut rows: HashMap<&str, Vec<([usize; 2], &str)>> = HashMap::new();
    // A batch normalisation that is folded multiplies weight and bias: its factors are there whenever these are.
    let mut factors: HashSet<&str> = HashSet::new();
    for (name, mapped) in &map.tensors {
        for part in &mapped.sum {
            factors.extend(part.norm.iter().flat_map(BatchNorm::parameters));
            let count = base.require(&part.parameter)?.shape().first().copied().unwrap_or(1);
            let range = part.rows.unwrap_or([0, count]);
            rows.entry(part.parameter.as_str()).or_default().push((range, name));
        }
    }
    let is_wanted = |name: &str| !outside.contains(name) && !factors.contains(name);
    for (name, tensor) in base.encoder().filter(|(name, tensor)| tensor.dtype().is_float() && is_wanted(name)) {
        let (count, mut covered) = (tensor.shape().first().copied().unwrap_or(1), 0);
        let mut pieces = rows.remove(name).unwrap_or_default();
        pieces.sort_unstable();
        let mut last: Option<&str> = None;
        for ([start, end], holder) in pieces {
            if start < covered && !map.repeated.iter().any(|allowed| allowed == name) {
                return Err(Error::mismatch("the graph holds this parameter more than once")
                    .tensor(name)
                    .got(format_args!("`{}` and `{holder}`", last.unwrap_or_default()))
                    .hint("Where each is meant to be the task's, --allow-repeated allows it by name"));
            }
            if start > covered {
                break;
            }
            (covered, last) = (covered.max(end), Some(holder));
        }
        if covered < count && !map.missing.iter().any(|allowed| allowed == name) {
            let error = Error::mismatch("the graph lacks this parameter").tensor(name);
            return Err(if covered == 0 { error } else { error.got(format_args!("rows 0 to {covered} of {count}")) });
        }
    }
    Ok(())
}

/// The parameters that are certainly no part of the graph, of a base whose encoder is not known: those of whole modules
/// of which nothing is there, whose values would have been recognised, and that no constant which was not recognised
/// is large enough for.
///
/// # Errors
/// When values cannot be read.
pub(crate) fn outside<'a>(file: &OnnxFile, map: &GraphMap, base: &'a Checkpoint) -> Result<Vec<&'a str>> {
    if is_known(base) {
        return Ok(Vec::new());
    }
    let bound: Vec<&str> = map.tensors.values().flat_map(Mapped::parameters).collect();
    let mut absent: HashMap<&str, Vec<(&'a str, &Tensor)>> = HashMap::new();
    for (name, tensor) in base.encoder().filter(|(_, tensor)| tensor.dtype().is_float()) {
        let module = modules::stem(name);
        let is_within =
            |bound: &&str| module.is_empty() || bound.strip_prefix(module).is_some_and(|r| r.starts_with('.'));
        if !bound.iter().any(is_within) {
            absent.entry(module).or_default().push((name, tensor));
        }
    }
    let largest_unknown = unknown(file, map).max().unwrap_or(0);
    let mut outside = Vec::new();
    for parameters in absent.into_values() {
        let Some((_, largest)) = parameters.iter().max_by_key(|(_, tensor)| tensor.numel()) else { continue };
        // Rounded to a few bits it takes an eighth of its elements in bytes, and in a product with another matrix about
        // as much as that. What consists of one value may have been left out as changing nothing.
        let least = (largest.numel() / 8).max(2);
        if largest.numel() > 1 && largest_unknown < least && !is_uniform(largest)? {
            outside.extend(parameters.iter().map(|(name, _)| *name));
        }
    }
    Ok(outside)
}

/// The elements of each constant that takes part and was not recognised.
fn unknown<'a>(file: &'a OnnxFile, map: &'a GraphMap) -> impl Iterator<Item = usize> + 'a {
    let needed = file.needed(&map.output);
    let known: HashSet<&str> =
        map.tensors.iter().map(|(name, mapped)| mapped.constant.as_deref().unwrap_or(name)).collect();
    file.constants
        .iter()
        .filter(move |constant| {
            needed.reads(&constant.name) && !constant.is_indices() && !known.contains(constant.name.as_str())
        })
        .map(|constant| constant.numel())
}
