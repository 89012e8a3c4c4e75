//! Selectors: the groups of parameters that an expression gives a λ of their own, and which of them counts for which.

use std::cmp::Ordering;
use std::fmt;
use std::ops::RangeInclusive;

use crate::basis::place::{Kind, Place};
use crate::basis::spelling::{Number, quoted};
use crate::did_you_mean::{clipped, nearest};
use crate::error::{Error, Result};

const BIAS: &str = "bias";

/// A group of parameters. Displayed as expressions spell it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selector(Form);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Form {
    /// Every parameter that nothing else matches: `*`.
    Rest,
    /// Places in the towers; what is `None` may be any.
    Place { blocks: Option<RangeInclusive<usize>>, kind: Option<Kind>, bias: bool },
    /// Names with `*` for any characters and `?` for any one.
    Glob(String),
    /// The parameter of this name.
    Name(String),
}

impl Selector {
    /// All that no other selector of the term matches: `*`.
    pub fn rest() -> Self {
        Self(Form::Rest)
    }

    /// The parameters of a kind.
    pub fn kind(kind: Kind) -> Self {
        Self(Form::Place { blocks: None, kind: Some(kind), bias: false })
    }

    /// The parameters of the blocks of these numbers, from 0 on.
    pub fn blocks(blocks: RangeInclusive<usize>) -> Self {
        Self(Form::Place { blocks: Some(blocks), kind: None, bias: false })
    }

    /// The parameter of this name; with `*` or `?` in it, those whose names fit.
    pub fn of_names(pattern: impl Into<String>) -> Self {
        let pattern = pattern.into();
        Self(if pattern.contains(['*', '?']) { Form::Glob(pattern) } else { Form::Name(pattern) })
    }

    /// The block that the parameter of this name is in; outside of blocks its kind, and the rest without one.
    pub fn of_block(name: &str) -> Self {
        match Place::of(name).block {
            Some(block) => Self::blocks(block..=block),
            None => Self::of_kind(name),
        }
    }

    /// The kind of the parameter of this name; the rest where it has none.
    pub fn of_kind(name: &str) -> Self {
        Place::of(name).kind.map_or_else(Self::rest, Self::kind)
    }

    /// What is written without quotes; else what is wrong with it.
    pub(super) fn of_words(text: &str) -> std::result::Result<Self, String> {
        if text == "*" {
            return Ok(Self::rest());
        }
        let unknown = || {
            let kinds: Vec<_> = Kind::ALL.map(Kind::word).into_iter().chain([BIAS]).collect();
            format!(
                "`{}` is no group: expected `*`, `blocks.0-5`, one of {}, these joined with `.`, or a parameter's name in \
                 double quotes",
                clipped(text),
                kinds.join(", ")
            )
        };
        let (mut blocks, mut kind, mut bias) = (None, None, false);
        let mut words = text.split('.');
        while let Some(word) = words.next() {
            if word == "blocks" && blocks.is_none() {
                let range = words.next().and_then(block_range).ok_or_else(unknown)?;
                if range.is_empty() {
                    return Err(format!("`{}` ends before it begins", clipped(text)));
                }
                blocks = Some(range);
            } else if word == BIAS && !bias {
                bias = true;
            } else {
                let named = Kind::ALL.into_iter().find(|kind| kind.word() == word);
                if kind.is_some() || named.is_none() {
                    return Err(unknown());
                }
                kind = named;
            }
        }
        Ok(Self(Form::Place { blocks, kind, bias }))
    }

    fn matches(&self, name: &str, place: Place) -> bool {
        match &self.0 {
            Form::Rest => true,
            Form::Place { blocks, kind, bias } => {
                blocks.as_ref().is_none_or(|blocks| place.block.is_some_and(|block| blocks.contains(&block)))
                    && kind.is_none_or(|kind| place.kind == Some(kind))
                    && (!bias || place.is_bias)
            }
            Form::Glob(pattern) => fits(pattern, name),
            Form::Name(own) => own == name,
        }
    }

    /// How specific it is: of several that match, the greatest counts.
    fn rank(&self) -> (u8, usize) {
        match &self.0 {
            Form::Rest => (0, 0),
            Form::Place { blocks, kind, bias } => {
                let kinds = usize::from(kind.is_some()) + usize::from(*bias);
                match (blocks, kinds) {
                    (None, _) => (1, kinds),
                    (Some(_), 0) => (2, 0),
                    (Some(_), _) => (3, kinds),
                }
            }
            Form::Glob(_) => (4, 0),
            Form::Name(_) => (5, 0),
        }
    }

    /// The error where it matches nothing, with what there is.
    fn matches_nothing(&self, names: &[&str]) -> Error {
        let error = Error::invalid(format!("the group `{self}` has no parameter"));
        match &self.0 {
            Form::Rest => error,
            Form::Place { .. } => {
                let places: Vec<Place> = names.iter().map(|name| Place::of(name)).collect();
                let kinds = Kind::ALL.into_iter().filter(|kind| places.iter().any(|place| place.kind == Some(*kind)));
                let kinds: Vec<&str> = kinds.map(Kind::word).collect();
                match (places.iter().filter_map(|place| place.block).max(), kinds.is_empty()) {
                    (_, true) => error.hint(
                        "No kinds or blocks are known of this model's names: select by names, \
                         as in \"stages.0.*\"",
                    ),
                    (None, false) => error.hint(format!("There are no blocks, and the kinds {}", kinds.join(", "))),
                    (Some(last), false) => {
                        error.hint(format!("There are blocks 0 to {last}, and the kinds {}", kinds.join(", ")))
                    }
                }
            }
            Form::Glob(pattern) | Form::Name(pattern) => match nearest(pattern, names.iter().copied()) {
                Some(name) => error.hint(format!("Did you mean `{}`?", quoted(name))),
                None => {
                    let some: Vec<&str> = names.iter().copied().take(3).collect();
                    error.hint(format!("Names are like `{}`", some.join("`, `")))
                }
            },
        }
    }
}

fn block_range(text: &str) -> Option<RangeInclusive<usize>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

/// Whether the name fits the pattern, in which `*` stands for any characters and `?` for any one.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last star was, and how far what it stands for has been taken to reach.
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => (p, n) = (p + 1, n + 1),
            _ => {
                let Some((at, reach)) = star else { return false };
                star = Some((at, reach + 1));
                (p, n) = (at + 1, reach + 1);
            }
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Rest => f.write_str("*"),
            Form::Place { blocks, kind, bias } => {
                let blocks = blocks.as_ref().map(|blocks| match (blocks.start(), blocks.end()) {
                    (first, last) if first == last => format!("blocks.{first}"),
                    (first, last) => format!("blocks.{first}-{last}"),
                });
                let kind = kind.map(|kind| kind.word().to_owned());
                let bias = bias.then(|| BIAS.to_owned());
                f.write_str(&blocks.into_iter().chain(kind).chain(bias).collect::<Vec<_>>().join("."))
            }
            Form::Glob(pattern) | Form::Name(pattern) => f.write_str(&quoted(pattern)),
        }
    }
}

/// The λ of each parameter, which the most specific selector that matches it gives.
pub(in crate::basis) struct LambdaByGroup<'a>(pub(in crate::basis) &'a [(Selector, f64)]);

impl LambdaByGroup<'_> {
    /// The index of the selector that counts, for each of the parameters called `names`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a parameter that none matches, or two that
    /// are equally specific, and for a selector that matches no parameter.
    pub(in crate::basis) fn resolve(&self, names: &[&str]) -> Result<Vec<usize>> {
        let Self(groups) = self;
        let mut matched = vec![false; groups.len()];
        let mut chosen = Vec::with_capacity(names.len());
        let mut left_out: Vec<&str> = Vec::new();
        let mut tied = None;
        for name in names {
            let place = Place::of(name);
            let mut best: Option<usize> = None;
            let mut tie = None;
            for (i, (selector, _)) in groups.iter().enumerate().filter(|(_, (s, _))| s.matches(name, place)) {
                matched[i] = true;
                match best.map(|best| selector.rank().cmp(&groups[best].0.rank())) {
                    None | Some(Ordering::Greater) => (best, tie) = (Some(i), None),
                    Some(Ordering::Equal) => tie = tie.or(Some(i)),
                    Some(Ordering::Less) => {}
                }
            }
            match (best, tie) {
                (None, _) => left_out.push(name),
                (Some(a), Some(b)) => tied = tied.or(Some((*name, a, b))),
                (Some(_), None) => {}
            }
            chosen.extend(best);
        }
        if let Some(i) = matched.iter().position(|&matched| !matched).filter(|_| !names.is_empty()) {
            let selector = &groups[i].0;
            // A `*` that nothing is left for says what happens to nothing.
            if *selector != Selector::rest() {
                return Err(selector.matches_nothing(names));
            }
        }
        if let Some((name, a, b)) = tied {
            let ((a, of_a), (b, of_b)) = (&groups[a], &groups[b]);
            return Err(Error::invalid(format!("the groups `{a}` and `{b}` are equally specific"))
                .tensor(name)
                .expected("one λ")
                .got(format_args!("{} and {}", Number(*of_a), Number(*of_b)))
                .hint("Name what they share in a group of its own: both joined with `.`, or the parameter in quotes"));
        }
        if let Some(name) = left_out.first() {
            let more = match left_out.len() - 1 {
                0 => String::new(),
                more => format!(", nor do {more} others"),
            };
            return Err(Error::invalid(format!("no group has this parameter{more}"))
                .tensor(*name)
                .hint("Give the rest a λ with `*`, as in `*: 0`"));
        }
        Ok(chosen)
    }
}
