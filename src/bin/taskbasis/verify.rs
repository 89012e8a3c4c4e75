//! `taskbasis verify`

use clap::Args;
use serde_json::{Value, json};
use taskbasis::{Agreement, Bundle, Checkpoint, EncoderOptions, Error, ErrorKind, Result, Runtime};

use crate::args::threads;
use crate::command_line::GlobalArgs;
use crate::conflicts::{Given, Refused, option};
use crate::output;
use crate::paths::{BasePath, InPath};
use crate::provider::ProviderArgs;

/// Read a whole bundle and check it: structure, checksums, padding, numbers that are not finite; and, where ONNX
/// Runtime is found, whether an encoder on this machine gives the golden embedding that the bundle was packed with.
#[derive(Args)]
pub struct Verify {
    /// The bundle.
    file: InPath,

    /// Threads, as many as there are processors, or 64, at most; 0 means one per processor.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = threads())]
    threads: usize,

    /// The base, for a bundle that leaves it out: without it, the golden embedding is not compared.
    #[arg(long, value_name = "FILE")]
    base: Option<BasePath>,

    /// ONNX Runtime's shared library, instead of the one that would be found.
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<InPath>,

    #[command(flatten)]
    provider: ProviderArgs,
}

/// The outcome of the comparison with the golden embedding.
enum Golden {
    /// Compared, and it is the same.
    Agrees(Agreement),
    /// The reason why it was not compared.
    Untested(String),
}

impl Verify {
    pub fn conflict(&self, given: &Given<'_>) -> Refused {
        let prefix = given.first([option!(GlobalArgs, prefix)], "is for commands that read checkpoints");
        prefix.or_else(|| self.provider.conflict(given))
    }

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
        let golden = self.golden(&bundle)?;
        let tensors: usize = bundle.sections().iter().map(|section| section.tensors).sum();
        if as_json {
            return output::json(&json!({
                "file": &*self.file, "bytes": bundle.file_bytes(), "tensors": tensors, "ok": true,
                "golden": golden.json(),
            }));
        }
        output::text(&format!(
            "{}: {} in {tensors} tensors, all as they were written\n{}\n",
            self.file.display(),
            output::bytes(bundle.file_bytes()),
            golden.text(),
        ))
    }

    fn golden(&self, bundle: &Bundle) -> Result<Golden> {
        let options = EncoderOptions {
            threads: self.threads,
            runtime: self.onnxruntime.as_deref().map(Into::into),
            ..self.provider.applied_to(EncoderOptions::default())
        };
        let untested = |why: &str| Ok(Golden::Untested(why.to_owned()));
        if bundle.golden().is_none() {
            return untested("the bundle has none");
        }
        if !bundle.holds_base() && self.base.is_none() {
            return untested("the bundle leaves its base out; --base gives it");
        }
        match Runtime::load(self.onnxruntime.as_deref()) {
            Err(error) if error.kind() == ErrorKind::RuntimeMissing && self.onnxruntime.is_none() => {
                return untested(&format!("there is no ONNX Runtime ({error})"));
            }
            loaded => loaded?,
        };
        let base = self.base.as_deref().map(Checkpoint::open).transpose()?;
        match bundle.check_golden(base, &options)? {
            Some(agreement) => Ok(Golden::Agrees(agreement)),
            None => untested("the bundle has none"),
        }
    }
}

impl Golden {
    fn json(&self) -> Value {
        match self {
            Self::Agrees(Agreement { relative, cosine, .. }) => {
                json!({ "compared": true, "relative": relative, "cosine": cosine })
            }
            Self::Untested(why) => json!({ "compared": false, "why": why }),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Agrees(agreement) => {
                format!("golden embedding: the same on this machine, but for {:.1e} of its length", agreement.relative)
            }
            Self::Untested(why) => format!("golden embedding: not compared, {why}"),
        }
    }
}

/// `NAME=VALUE`.
pub fn pair(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Error::invalid("not of the form NAME=VALUE").got(format_args!("`{text}`"))),
    }
}
