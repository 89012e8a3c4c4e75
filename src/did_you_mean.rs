//! "Did you mean …?": the known name that looks most like an unknown one, the repository that a path may mean.

use std::borrow::Cow;
use std::path::Path;

use crate::error::Error;

/// The least likeness (0 to 1) of a misspelt name to the right one.
const MIN_LIKENESS: f64 = 0.5;

/// Comparing takes time in the product of the lengths; names longer than this are not typed by hand.
const MAX_LENGTH: usize = 256;

/// The name of `known` that is most like `name`, whatever the case of its letters, if any is alike at all.
/// Of equally alike names the first.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > MAX_LENGTH {
        return None;
    }
    let name = name.to_lowercase();
    let mut best = None;
    let mut best_likeness = MIN_LIKENESS;
    for candidate in known.filter(|candidate| candidate.len() <= MAX_LENGTH) {
        let likeness = strsim::normalized_damerau_levenshtein(&name, &candidate.to_lowercase());
        if likeness > best_likeness || (best.is_none() && likeness >= MIN_LIKENESS) {
            (best, best_likeness) = (Some(candidate), likeness);
        }
    }
    best
}

/// A name for a message: as it is, or the beginning of one that is too long to read.
pub(crate) fn clipped(name: &str) -> Cow<'_, str> {
    const MAX_CHARACTERS: usize = 200;
    match name.char_indices().nth(MAX_CHARACTERS) {
        Some((end, _)) => Cow::Owned(format!("{}…", &name[..end])),
        None => Cow::Borrowed(name),
    }
}

/// The error for a `what` that is not called `name`: lists the known names and suggests the nearest.
pub(crate) fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> Error {
    /// The most names that help a reader.
    const MAX_LISTED: usize = 40;
    let mut list = known.clone().take(MAX_LISTED).map(clipped).collect::<Vec<_>>().join(", ");
    match known.clone().count() {
        0 => list.push_str("none"),
        count if count > MAX_LISTED => list.push_str(&format!(" and {} more", count - MAX_LISTED)),
        _ => {}
    }
    let error = Error::not_found(format!("no {what} `{}`; known: {list}", clipped(name)));
    match nearest(name, known) {
        Some(nearest) => error.hint(format!("Did you mean `{nearest}`?")),
        None => error,
    }
}

/// The suggestion for a local `path` that is not there and reads like a model repository of the Hugging Face Hub,
/// `owner/name[/path]`.
pub(crate) fn hub_path(path: &Path) -> Option<String> {
    /// The extensions of local files, which names of repositories hardly ever have.
    const FILES: [&str; 9] = ["pt", "pth", "bin", "ckpt", "safetensors", "onnx", "taskbasis", "json", "npy"];
    let text = path.to_str()?.trim_end_matches('/');
    let (owner, rest) = text.split_once('/')?;
    let mut below = rest.split('/');
    let name = below.next()?;
    let is_file = name == rest && rest.rsplit_once('.').is_some_and(|(_, kind)| FILES.contains(&kind));
    let is_repository = !matches!(owner, "datasets" | "spaces") && is_hub_name(owner) && is_hub_name(name);
    let is_below = below.all(|part| !matches!(part, "" | "." | "..") && !part.contains(['\\', ':']));
    (is_repository && is_below && !is_file && !Path::new(owner).exists())
        .then(|| format!("Did you mean hf://{text}, on the Hugging Face Hub?"))
}

/// Whether the Hub allows `name` for an owner or a repository; such a name is also safe for a folder.
pub(crate) fn is_hub_name(name: &str) -> bool {
    (1..=96).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && !name.starts_with(['.', '-'])
        && !name.contains("..")
        && !name.contains("--")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reads_like_a_repository() {
        let hint = |path: &str| hub_path(Path::new(path));
        let meant = |path: &str| Some(format!("Did you mean hf://{path}, on the Hugging Face Hub?"));
        for path in ["openai/clip-vit-base-patch32", "timm/vit_base_patch32_clip_224.openai", "o/r/folder/file.pt"] {
            assert_eq!(hint(path), meant(path));
        }
        // A folder that is there, files of this machine, and what no repository is called.
        for path in
            ["src/nowhere", "models/base.pt", "base", "/o/r", "./o/r", "../o/r", "o//r", "o/r\\a", "hf://o/r", ""]
        {
            assert_eq!(hint(path), None, "{path}");
        }
    }

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
