//! "Did you mean …?": the known name that looks most like an unknown one.

use std::borrow::Cow;

use crate::error::Error;

/// Below this likeness (0 to 1) a name is another name, not a misspelt one.
const ALIKE: f64 = 0.5;

/// Comparing takes time in the product of the lengths; nobody misspells a name this long by hand.
const LONGEST: usize = 256;

/// The name of `known` that is most like `name`, whatever the case of its letters, if any is alike at all.
/// Of equally alike names the first.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > LONGEST {
        return None;
    }
    let name = name.to_lowercase();
    let mut best = None;
    let mut best_likeness = ALIKE;
    for candidate in known.filter(|candidate| candidate.len() <= LONGEST) {
        let likeness = strsim::normalized_damerau_levenshtein(&name, &candidate.to_lowercase());
        if likeness > best_likeness || (best.is_none() && likeness >= ALIKE) {
            (best, best_likeness) = (Some(candidate), likeness);
        }
    }
    best
}

/// A name for a message: as it is, or the beginning of one that is too long to read.
pub(crate) fn clipped(name: &str) -> Cow<'_, str> {
    /// Characters.
    const SHOWN: usize = 200;
    match name.char_indices().nth(SHOWN) {
        Some((end, _)) => Cow::Owned(format!("{}…", &name[..end])),
        None => Cow::Borrowed(name),
    }
}

/// The error for a `what` that is not called `name`: lists the known names and suggests the nearest.
pub(crate) fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> Error {
    /// More names than this do not help a reader.
    const LISTED: usize = 40;
    let mut list = known.clone().take(LISTED).map(clipped).collect::<Vec<_>>().join(", ");
    match known.clone().count() {
        0 => list.push_str("none"),
        count if count > LISTED => list.push_str(&format!(" and {} more", count - LISTED)),
        _ => {}
    }
    let error = Error::not_found(format!("no {what} `{}`; known: {list}", clipped(name)));
    match nearest(name, known) {
        Some(nearest) => error.hint(format!("Did you mean `{nearest}`?")),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASKS: [&str; 5] = ["MNIST", "SVHN", "Cars", "EuroSAT", "RESISC45"];

    #[test]
    fn a_slip_finds_its_name() {
        for (slip, meant) in [("mnist", "MNIST"), ("MNSIT", "MNIST"), ("Car", "Cars"), ("eurosta", "EuroSAT")] {
            assert_eq!(nearest(slip, TASKS.into_iter()), Some(meant), "{slip}");
        }
    }

    #[test]
    fn another_name_finds_none() {
        assert_eq!(nearest("ImageNet", TASKS.into_iter()), None);
        assert_eq!(nearest("", TASKS.into_iter()), None);
        assert_eq!(nearest("MNIST", [].into_iter()), None);
        assert_eq!(nearest(&"MNIST".repeat(1000), TASKS.into_iter()), None);
    }

    #[test]
    fn the_error_lists_and_suggests() {
        let error = unknown("task", "Mnist", TASKS.into_iter());
        assert_eq!(error.kind(), crate::ErrorKind::NotFound);
        assert_eq!(
            error.to_string(),
            "no task `Mnist`; known: MNIST, SVHN, Cars, EuroSAT, RESISC45. Did you mean `MNIST`?"
        );
        let long = unknown("task", &"λ".repeat(10_000_000), TASKS.into_iter()).to_string();
        assert!(long.chars().count() < 300 && long.contains("λ…`; known: MNIST"), "{}", long.len());
        let numbers: Vec<String> = (0..50).map(|i| i.to_string()).collect();
        assert!(unknown("task", "x", numbers.iter().map(String::as_str)).to_string().ends_with("39 and 10 more"));
        assert!(unknown("task", "x", [].into_iter()).to_string().ends_with("known: none"));
    }
}
