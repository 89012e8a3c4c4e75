//! `taskbasis verify`

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use taskbasis::{Bundle, Error, Result};

use crate::args::threads;
use crate::output;

/// Read a whole bundle and check it: structure, checksums, padding, numbers that are not finite.
#[derive(Args)]
pub struct Verify {
    /// The bundle.
    file: PathBuf,

    /// Threads; 0 means one a processor.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = threads())]
    threads: usize,
}

impl Verify {
    pub fn run(self, as_json: bool) -> Result<()> {
        let bundle = Bundle::open(&self.file)?;
        let bar = output::progress(bundle.file_bytes() as usize, "verifying");
        let mut errors = bundle.verify(self.threads, &|bytes| bar.inc(bytes));
        bar.finish_and_clear();
        if let Some(last) = errors.pop() {
            // All of them are told; the last one is what the program fails with.
            errors.iter().for_each(output::error);
            return Err(last);
        }
        let tensors: usize = bundle.sections().iter().map(|section| section.tensors).sum();
        if as_json {
            return output::json(&json!({
                "file": self.file, "bytes": bundle.file_bytes(), "tensors": tensors, "ok": true,
            }));
        }
        output::text(&format!(
            "{}: {} in {tensors} tensors, all as they were written\n",
            self.file.display(),
            output::bytes(bundle.file_bytes())
        ))
    }
}

/// `NAME=VALUE`.
pub fn pair(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Error::invalid("not of the form NAME=VALUE").got(format_args!("`{text}`"))),
    }
}
