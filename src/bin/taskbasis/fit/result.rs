//! What is written: one JSON that other commands take, and which files it is of.

use serde_json::{Value, json};
use taskbasis::{Basis, Checkpoint, Error, Fingerprint, Result};

use crate::output;
use crate::paths::OutFile;

/// The files that coefficients are of: an expression means something else with other vectors.
pub(super) struct Identity;

impl Identity {
    /// The basis, and the base where it was open.
    pub(super) fn of(basis: &Basis, base: Option<&Checkpoint>) -> Result<Value> {
        let mut files = json!({
            "basis": {
                "path": basis.path().display().to_string(), "bytes": basis.file_bytes(), "method": basis.method().to_string(),
                "tasks": basis.tasks(), "vectors": basis.vectors(),
            },
        });
        if let Some(base) = base {
            files["base"] = json!({
                "path": base.path().display().to_string(), "bytes": base.file_bytes(),
                "fingerprint": Fingerprint::of(base, 0)?.to_string(),
            });
        }
        Ok(files)
    }
}

/// Writes the result where that is asked for.
pub(super) fn write(path: Option<&OutFile>, json: &Value) -> Result<()> {
    path.map_or(Ok(()), |path| output::text_file(path, &format!("{json:#}\n")))
}

pub(super) fn no_basis() -> Error {
    Error::invalid("there is no basis whose coefficients could be found").hint("Give it with --basis")
}
