//! Checkpoints as commands open them: with what `--prefix` says, and remarks on what was chosen.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::OnceLock;

use parking_lot::Mutex;
use taskbasis::{Checkpoint, ErrorKind, MapMode, Result};

use super::{output, paths};

/// `--prefix`, for all checkpoints that the command reads.
static PREFIX: OnceLock<String> = OnceLock::new();
/// Remarks that were made already: some commands open a file again and again.
static NOTED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Chooses, of several image towers in a file, the one under `prefix`.
pub fn prefer(prefix: Option<String>) {
    if let Some(prefix) = prefix {
        // There is one command line, and it is understood once.
        let _ = PREFIX.set(prefix);
    }
}

/// The value of `--prefix`.
pub fn prefix() -> Option<&'static str> {
    PREFIX.get().map(String::as_str)
}

/// Opens the checkpoint at `path`. One with a single image tower needs no prefix, and is taken with a note where the
/// prefix is not its own.
pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint> {
    let path = path.as_ref();
    opened(path, |prefix| match prefix {
        Some(prefix) => Checkpoint::open_under(path, MapMode::Map, prefix),
        None => Checkpoint::open(path),
    })
}

/// Opens the fine-tuned checkpoint at `path`, which may be an adapter of `base`, as [`open`] does.
pub fn open_tuned(path: impl AsRef<Path>, base: &Checkpoint) -> Result<Checkpoint> {
    let path = path.as_ref();
    opened(path, |prefix| Checkpoint::open_tuned(path, base, prefix))
}

/// What `open` gives for `--prefix`, with remarks on what was chosen.
fn opened(path: &Path, open: impl Fn(Option<&str>) -> Result<Checkpoint>) -> Result<Checkpoint> {
    let checkpoint = match prefix() {
        Some(prefix) => under(path, prefix, open)?,
        None => open(None)?,
    };
    // However it was named, no file of it is written over.
    paths::protect(checkpoint.parts())?;
    if let Some(remark) = checkpoint.naming().remark() {
        note(format!("{}: {remark}", path.display()));
    }
    Ok(checkpoint)
}

fn under(path: &Path, prefix: &str, open: impl Fn(Option<&str>) -> Result<Checkpoint>) -> Result<Checkpoint> {
    let error = match open(Some(prefix)) {
        Err(error) if error.kind() == ErrorKind::NotFound => error,
        opened => return opened,
    };
    let Ok(only) = open(None) else { return Err(error) };
    let names = only.naming().told().unwrap_or_else(|| "by open_clip's names, under no prefix".into());
    note(format!("{}: nothing under `{prefix}`, as its only model is {names}", path.display()));
    Ok(only)
}

fn note(text: String) {
    if NOTED.lock().insert(text.clone()) {
        output::note(&text);
    }
}

/// Opens a fine-tuned checkpoint, with what training left alone taken from `base`.
pub fn open_finetuned(path: &Path, base: &Checkpoint) -> Result<Checkpoint> {
    let (checkpoint, unchanged) = open_tuned(path, base)?.completed_from(base)?;
    note_unchanged(path, &unchanged);
    Ok(checkpoint)
}

/// Tells which parameters a fine-tuned checkpoint does not hold.
pub fn note_unchanged(path: &Path, unchanged: &[String]) {
    if !unchanged.is_empty() {
        output::note(&format!("{}: does not hold {}: taken as unchanged", path.display(), listed(unchanged)));
    }
}

/// The first of `names`, and how many more there are.
pub fn listed(names: &[String]) -> String {
    const MAX_SHOWN: usize = 4;
    let first = names.iter().take(MAX_SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(MAX_SHOWN) {
        Some(more @ 1..) => format!("{first} and {more} more"),
        _ => first,
    }
}
