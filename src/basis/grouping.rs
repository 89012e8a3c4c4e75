//! Groupings: every parameter of a basis in one group, and a name for each group.

use std::sync::Arc;

use indexmap::IndexMap;

use super::coefficients::Coefficients;
use super::expr::{LambdaByGroup, Selector};
use super::matrix::CoefficientMatrix;
use super::place::{Kind, Place};
use super::vectors::Basis;
use crate::error::{Error, Result};

/// The parameters of a basis in groups, each of which gets coefficients of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grouping {
    selectors: Vec<Selector>,
    /// The group of each parameter, in the order of [`Basis::parameters`].
    pub(super) group_of: Arc<[u32]>,
}

impl Grouping {
    /// The groups that these selectors make: of several that match a parameter, the most specific has it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) where a parameter is in none of them or in two
    /// that are equally specific, and for a selector that matches nothing.
    pub fn new(basis: &Basis, selectors: Vec<Selector>) -> Result<Self> {
        let groups: Vec<(Selector, f64)> = selectors.into_iter().map(|selector| (selector, 0.0)).collect();
        let names: Vec<&str> = basis.parameters().map(|(name, _)| name).collect();
        let chosen = LambdaByGroup(&groups).resolve(&names).map_err(|e| e.at(basis.path()))?;
        let group_of = chosen.into_iter().map(|group| group as u32).collect();
        Ok(Self { selectors: groups.into_iter().map(|(selector, _)| selector).collect(), group_of })
    }

    /// One group of all parameters.
    pub fn whole(basis: &Basis) -> Self {
        Self::by(basis, |_| Selector::rest())
    }

    /// A group for each parameter.
    pub fn per_parameter(basis: &Basis) -> Self {
        Self::by(basis, |name| Selector::of_names(name))
    }

    /// A group for each layer: its weight and its bias, whose names are alike up to their last word.
    pub fn per_layer(basis: &Basis) -> Self {
        let layer = |name: &str| {
            let cut = [".weight", ".bias", "_weight", "_bias"].iter().find_map(|end| name.strip_suffix(end));
            cut.map_or_else(|| name.to_owned(), |cut| format!("{cut}{}", &name[cut.len()..=cut.len()]))
        };
        let mut members: IndexMap<String, usize> = IndexMap::new();
        basis.parameters().for_each(|(name, _)| *members.entry(layer(name)).or_default() += 1);
        Self::by(basis, |name| match layer(name) {
            layer if members.get(&layer).is_some_and(|&n| n > 1) => Selector::of_names(format!("{layer}*")),
            _ => Selector::of_names(name),
        })
    }

    /// A group for each block; what is in none is grouped by its kind, and what has no kind is the rest.
    pub fn per_block(basis: &Basis) -> Self {
        Self::by(basis, Selector::of_block)
    }

    /// A group for each [`Kind`]; what has none is the rest.
    pub fn per_kind(basis: &Basis) -> Self {
        Self::by(basis, Selector::of_kind)
    }

    /// The grouping of this name: `whole`, `kind`, `block`, `layer` or `parameter`.
    pub fn named(basis: &Basis, name: &str) -> Option<Self> {
        match name {
            "whole" => Some(Self::whole(basis)),
            "kind" => Some(Self::per_kind(basis)),
            "block" => Some(Self::per_block(basis)),
            "layer" => Some(Self::per_layer(basis)),
            "parameter" => Some(Self::per_parameter(basis)),
            _ => None,
        }
    }

    /// The names that [`Grouping::named`] knows, from few groups to many.
    pub const NAMES: [&'static str; 5] = ["whole", "kind", "block", "layer", "parameter"];

    fn by(basis: &Basis, selector: impl Fn(&str) -> Selector) -> Self {
        let mut groups: IndexMap<Selector, ()> = IndexMap::new();
        let group_of = basis.parameters().map(|(name, _)| groups.insert_full(selector(name), ()).0 as u32).collect();
        Self { selectors: groups.into_keys().collect(), group_of }
    }

    /// The groups, in order.
    pub fn selectors(&self) -> &[Selector] {
        &self.selectors
    }

    /// The number of groups.
    pub fn len(&self) -> usize {
        self.selectors.len()
    }

    /// Whether there is no group: of a basis without parameters.
    pub fn is_empty(&self) -> bool {
        self.selectors.is_empty()
    }

    /// The group of each parameter, in the order of [`Basis::parameters`].
    pub fn groups(&self) -> &[u32] {
        &self.group_of
    }

    /// A row of coefficients for each group, as a matrix for every parameter.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) where there are not as many rows as groups.
    pub fn coefficients(&self, rows: Vec<Coefficients>) -> Result<CoefficientMatrix> {
        if rows.len() != self.len() {
            return Err(Error::invalid("there must be one row of coefficients per group")
                .expected(self.len())
                .got(rows.len()));
        }
        Ok(CoefficientMatrix::of_rows(rows, self.groups()))
    }

    /// The kinds of layer that the basis has.
    pub fn kinds(basis: &Basis) -> Vec<Kind> {
        let has = |kind: &Kind| basis.parameters().any(|(name, _)| Place::of(name).kind == Some(*kind));
        Kind::ALL.into_iter().filter(has).collect()
    }

    /// The number of blocks that the towers of the basis have at most; 0 where none is known by its names.
    pub fn blocks(basis: &Basis) -> usize {
        let last = basis.parameters().filter_map(|(name, _)| Place::of(name).block).max();
        last.map_or(0, |last| last + 1)
    }
}
