//! Image files that cannot be read: the first one ends the command, or each is left out and named.

use std::path::{Path, PathBuf};

use clap::Args;
use parking_lot::Mutex;
use serde_json::{Value, json};
use taskbasis::Error;

use crate::output;

/// Whether to go on.
#[derive(Args, Clone, Copy)]
pub struct SkipArgs {
    /// Leave out image files that cannot be read, and name them, instead of ending at the first one.
    #[arg(long)]
    pub skip_bad: bool,
}

impl SkipArgs {
    /// The error of an image file, with what lets the others be read.
    pub fn explained(error: Error, files: &[PathBuf]) -> Error {
        let is_of_file = error.path().is_some_and(|path| files.iter().any(|file| file == path));
        if is_of_file {
            error.also_hint("With --skip-bad the other images are read, and this one is named")
        } else {
            error
        }
    }
}

/// The files that were left out, each once, in the order in which they were met.
#[derive(Default)]
pub struct Skipped(Mutex<Vec<(PathBuf, String)>>);

impl Skipped {
    pub fn add(&self, file: &Path, error: &Error) {
        let mut files = self.0.lock();
        if files.iter().all(|(known, _)| known != file) {
            files.push((file.to_path_buf(), error.to_string()));
        }
    }

    fn files(&self) -> Vec<(PathBuf, String)> {
        self.0.lock().clone()
    }

    pub fn len(&self) -> usize {
        self.files().len()
    }

    /// Says on stderr what was left out, a line each.
    pub fn tell(&self) {
        let files = self.files();
        for (_, error) in &files {
            output::note(&format!("left out: {error}"));
        }
        if !files.is_empty() {
            output::note(&format!("{} left out that could not be read", output::counted(files.len(), "image")));
        }
    }

    /// `[{"file": …, "error": …}, …]`.
    pub fn json(&self) -> Value {
        self.files().iter().map(|(file, error)| json!({ "file": file, "error": error })).collect()
    }

    /// The error where nothing could be read; `what` is a clause that says so.
    pub fn first_error(&self, what: String) -> Error {
        match self.files().first() {
            Some((_, first)) => Error::format(format!("{what}: {first}")),
            None => Error::format(what),
        }
    }
}
