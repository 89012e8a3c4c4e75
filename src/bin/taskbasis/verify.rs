//! `taskbasis verify`

use clap::Args;
use serde_json::{Value, json};
use taskbasis::{
    Agreement, Bundle, Checkpoint, EncoderOptions, Error, ErrorKind, Result, Router, Runtime, Verified, verify,
};

use crate::args::threads;
use crate::command_line::GlobalArgs;
use crate::conflicts::{Given, Refused, option, options};
use crate::output;
use crate::paths::{BasePath, InPath};
use crate::provider::ProviderArgs;

/// Read a whole bundle, basis folder, checkpoint (or its index, or adapter), file or folder of heads, or .onnx graph,
/// and check it: that the disk gives every byte, structure, checksums, shapes, numbers that are not finite. Of a bundle
/// also the padding and, where ONNX Runtime is found, whether an encoder on this machine gives the golden embedding
/// that the bundle was packed with.
#[derive(Args)]
pub struct Verify {
    /// The file or folder.
    #[arg(value_name = "FILE|FOLDER")]
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
        let of_bundles = [option!(Self, base), option!(Self, onnxruntime)].into_iter().chain(options::<ProviderArgs>());
        // What is on the Hub is not known yet.
        let may_be_bundle = self.file.is_unsettled() || !self.file.exists() || Bundle::is_bundle(&self.file);
        let unrun = || if may_be_bundle { None } else { given.first(of_bundles, "is for a bundle's golden embedding") };
        prefix.or_else(unrun).or_else(|| self.provider.conflict(given))
    }

    pub fn run(self, as_json: bool) -> Result<()> {
        let total = std::fs::metadata(&self.file).map_or(0, |metadata| metadata.len());
        let bar = output::progress(total as usize, "verifying");
        let verified = verify(&self.file, self.threads, &|bytes| bar.inc(bytes));
        bar.finish_and_clear();
        let Verified { kind, files, bytes, tensors, notes, .. } = match verified {
            Ok(verified) => verified,
            Err(mut errors) => {
                let last = errors.pop();
                // All of them are told; the last one is what the program fails with.
                errors.iter().for_each(output::error);
                return last.map_or(Ok(()), Err);
            }
        };
        notes.iter().for_each(|note| output::note(note));
        let golden = if kind == "bundle" {
            let bundle = Bundle::open(&self.file)?;
            if let Some(router) = Router::of_bundle(&bundle)? {
                router.check_base(bundle.fingerprint())?;
            }
            Some(self.golden(&bundle)?)
        } else {
            None
        };
        if as_json {
            let mut told = json!({
                "file": &*self.file, "kind": kind, "files": files, "bytes": bytes, "tensors": tensors, "ok": true,
                "notes": notes,
            });
            if let Some(golden) = golden {
                told["golden"] = golden.json();
            }
            return output::json(&told);
        }
        let (size, file) = (output::bytes(bytes), self.file.display());
        output::text(&match golden {
            Some(golden) => {
                format!("{file}: {size} in {tensors} tensors, all as they were written\n{}\n", golden.text())
            }
            None => format!(
                "{file}: {kind}, {} in {} with {}, all readable and finite\n",
                size,
                output::counted(files.len(), "file"),
                output::counted(tensors, "tensor"),
            ),
        })
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
