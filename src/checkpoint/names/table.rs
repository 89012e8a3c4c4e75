//! Tables of the names that a library has for a tower, and the way through them.

use super::place::{Part, Place};

/// The form of a tensor under another name.
#[derive(Clone, Copy, Debug)]
pub(super) enum As {
    /// The same tensor. Where both names end with a dot or an underscore, `weight` and `bias` alike.
    Same(&'static str),
    /// The same values, without leading extents of 1, down to this number of extents.
    Squeezed(&'static str, usize),
    /// A part of a tensor; with a dot or an underscore as above.
    Part(&'static str, Part),
    /// No weight of the tower's: it keeps its name.
    Kept,
}

/// The names of one kind of tower in one library.
pub(super) struct Table {
    /// The names outside the blocks. One that ends with a dot stands for a module's `weight` and `bias`.
    pub(super) outside: &'static [(&'static str, As)],
    /// The prefixes of blocks' names, in the spellings that there are.
    pub(super) blocks: &'static [&'static str],
    /// The prefix of blocks' canonical names.
    pub(super) canonical_blocks: &'static str,
    /// The names within a block, behind its number, as those outside.
    pub(super) block: &'static [(&'static str, As)],
}

impl Table {
    /// The place of the tensor that is called `name` within the tower; `full` is what it is called in the model. `None`
    /// for a name that is not in the table.
    pub(super) fn place(&self, name: &str, full: &str) -> Option<Place> {
        if let Some(place) = find(self.outside, name, "", full) {
            return Some(place);
        }
        let rest = self.blocks.iter().find_map(|prefix| name.strip_prefix(prefix))?;
        let (index, rest) = rest.split_once('.')?;
        // The digits alone, so that `+1` or `01` is not taken for a second layer 1.
        if index.parse::<u32>().ok()?.to_string() != index {
            return None;
        }
        find(self.block, rest, &format!("{}{index}.", self.canonical_blocks), full)
    }
}

fn find(entries: &[(&str, As)], name: &str, prefix: &str, full: &str) -> Option<Place> {
    entries.iter().find_map(|(theirs, form)| {
        let kind = match name.strip_prefix(theirs)? {
            "" => "",
            kind @ ("weight" | "bias") if theirs.ends_with('.') => kind,
            _ => return None,
        };
        let named = |ours: &str| format!("{prefix}{ours}{kind}");
        Some(match *form {
            As::Same(ours) => Place::Whole(named(ours)),
            As::Squeezed(ours, left) => Place::Squeezed(named(ours), left),
            As::Part(ours, part) => Place::Part(named(ours), part),
            As::Kept => Place::Whole(full.to_owned()),
        })
    })
}
