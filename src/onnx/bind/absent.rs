//! Parameters that a graph is allowed to lack: what that costs, and where it would be wrong without a word.

use super::super::constant::Constant;
use super::super::file::OnnxFile;
use super::complete::outside;
use super::map::GraphMap;
use super::order::slot;
use crate::basis::Basis;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::weights::{BatchNorm, View};

/// The parameters that a graph lacks, as its map allows.
#[derive(Debug, Default)]
pub(crate) struct Absent {
    /// No task changes them: whatever the graph has in their place stays right.
    pub(crate) unchanged: Vec<String>,
    /// Tasks change them, but the graph ends before they are used.
    pub(crate) beyond: Vec<String>,
}

impl Absent {
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming it, for a parameter that tasks change and that the
    /// graph may have all the same: as the base has it, in a form that is not known.
    pub(crate) fn of(file: &OnnxFile, map: &GraphMap, base: &Checkpoint, basis: Option<&Basis>) -> Result<Self> {
        let mut absent = Self::default();
        for name in &map.missing {
            let Some(tensor) = base.get(name).filter(|tensor| tensor.dtype().is_float()) else { continue };
            let rows = rows(map, name, tensor.shape());
            if rows == Rows::All {
                continue;
            }
            if !changes(basis, name) {
                absent.unchanged.push(name.clone());
                continue;
            }
            let held = match rows {
                Rows::Some => Some("some of its rows are in the graph".to_owned()),
                _ => held_by(file, map, base, name),
            };
            if let Some(held) = held {
                return Err(Error::mismatch(
                    "tasks change this parameter, so the graph may lack it only where it ends before its use",
                )
                .tensor(name)
                .got(held)
                .hint("Every task would run with the base's values of it: without an error, and wrong"));
            }
            absent.beyond.push(name.clone());
        }
        let outside = outside(file, map, base)?.into_iter();
        absent.beyond.extend(outside.filter(|name| changes(basis, name) && basis.is_some()).map(str::to_owned));
        Ok(absent)
    }

    /// Those that the map of a graph in a bundle lists, which were checked when it was packed.
    pub(crate) fn listed(map: &GraphMap, base: &Checkpoint, basis: Option<&Basis>) -> Self {
        let parts = || map.tensors.values().flat_map(|mapped| &mapped.sum);
        let is_absent = |name: &&String| {
            base.get(name).is_some_and(|tensor| tensor.dtype().is_float())
                && !parts().any(|part| part.parameter == **name)
        };
        let listed = map.missing.iter().filter(is_absent);
        let (changed, unchanged) = listed.cloned().partition(|name| basis.is_some() && changes(basis, name));
        Self { unchanged, beyond: changed }
    }
}

/// Whether tasks can change a parameter.
pub(crate) fn changes(basis: Option<&Basis>, parameter: &str) -> bool {
    basis.is_none_or(|basis| basis.parameter(parameter).is_some_and(|parameter| parameter.is_changed()))
}

/// The part of a parameter that a map has.
#[derive(PartialEq)]
enum Rows {
    All,
    Some,
    None,
}

fn rows(map: &GraphMap, name: &str, shape: &[usize]) -> Rows {
    let count = shape.first().copied().unwrap_or(1);
    let of_norms = map.tensors.values().flat_map(|mapped| &mapped.sum).filter_map(|part| part.norm.as_ref());
    if of_norms.flat_map(BatchNorm::parameters).any(|factor| factor == name) {
        return Rows::All;
    }
    let parts = map.tensors.values().flat_map(|mapped| &mapped.sum).filter(|part| part.parameter == name);
    let mut pieces: Vec<[usize; 2]> = parts.map(|part| part.rows.unwrap_or([0, count])).collect();
    pieces.sort_unstable();
    let covered =
        pieces.iter().fold(0, |covered, [start, end]| if *start > covered { covered } else { covered.max(*end) });
    match (covered >= count, pieces.is_empty()) {
        (true, _) => Rows::All,
        (false, true) => Rows::None,
        (false, false) => Rows::Some,
    }
}

/// What in the graph may be the parameter, or need it; nothing where the graph ends before its use for certain.
fn held_by(file: &OnnxFile, map: &GraphMap, base: &Checkpoint, name: &str) -> Option<String> {
    let shape = |name: &str| base.get(name).map(|tensor| tensor.shape().to_vec()).unwrap_or_default();
    let place = |name: &str| slot(&View::whole(name), &shape(name));
    let Some(own) = place(name) else { return Some("a parameter that not every CLIP encoder has".into()) };
    let parts = map.tensors.values().flat_map(|mapped| &mapped.sum);
    let later = parts.map(|part| part.parameter.as_str()).find(|other| place(other).is_none_or(|at| !own.is_after(at)));
    if let Some(later) = later {
        return Some(format!("`{later}`, which is used later, is in the graph"));
    }
    // Rounded to a few bits it takes an eighth of its elements in bytes, and in a product with another matrix about as
    // much as that.
    let least = shape(name).iter().product::<usize>() / 8;
    let is_bound = |constant: &Constant| {
        let names = map.tensors.iter().map(|(name, mapped)| mapped.constant.as_ref().unwrap_or(name));
        names.clone().any(|name| *name == constant.name)
    };
    let needed = file.needed(&map.output);
    let unknown = file.constants.iter().find(|constant| {
        constant.numel() >= least.max(2)
            && !constant.is_indices()
            && needed.reads(&constant.name)
            && !is_bound(constant)
    })?;
    Some(format!("the constant `{}` {:?}, which may be it in another form", unknown.name, unknown.shape))
}
