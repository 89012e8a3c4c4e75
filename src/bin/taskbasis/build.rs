//! `taskbasis build`

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

use clap::Args;
use clap::builder::TypedValueParser;
use serde_json::{Map, Value, json};
use taskbasis::build::{Activation, AutoencoderForm, Family, Fit, Gram, WriteOptions};
use taskbasis::{BlockFormat, Error, Method, PartialFolder, Result, StoredFormat};

use crate::args::EncoderArgs;
use crate::choice::{choice, value};
use crate::conflicts::{Given, Refused, option, options};
use crate::family::{FamilyArgs, SEED_OF_PCA, all_methods};
use crate::output;
use crate::pack::{Built, BundleArgs, Merges, NamedMerge};
use crate::paths::{self, OutPath};

/// Make a basis of fine-tuned checkpoints: a folder in the published layout, or a bundle (-o model.taskbasis).
///
/// Reads the checkpoints twice, mapped, whatever their number: once for the Gram matrix of the task vectors, from which
/// everything is chosen, and once for the vectors that are written. A bundle is packed, as `pack` would, from a folder
/// that stands beside it meanwhile and needs room for the vectors in f32.
#[derive(Args)]
pub struct Build {
    #[command(flatten)]
    family: FamilyArgs,

    /// The folder to make; or the bundle, where the name ends in `.taskbasis`.
    #[arg(short, long, value_name = "FOLDER|model.taskbasis")]
    output: OutPath,

    /// How the tasks are compressed.
    #[arg(long, default_value = "ae", value_parser = all_methods())]
    method: Method,

    /// How many basis vectors; `auto` for the fewest that keep enough of the spectrum.
    #[arg(long, value_name = "M|auto", default_value = "auto")]
    vectors: Vectors,

    /// What share of the spectrum (of the task vectors' energy) `--vectors auto` keeps.
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, default_value_t = 0.95)]
    keep: f64,

    /// The Autoencoder's encoder: basis vectors as convex combinations of tasks, or any.
    #[arg(long = "encoder", value_name = "softmax|linear", default_value = "softmax", value_parser = activations())]
    ae_encoder: Activation,

    /// The Autoencoder's W: tasks as any combinations of basis vectors, or convex ones.
    #[arg(long, value_name = "linear|softmax", default_value = "linear", value_parser = activations())]
    w_activation: Activation,

    /// Another seed gives another of the Autoencoder's equally good bases, other tasks selected, or other random
    /// vectors.
    #[arg(long, default_value_t = 0)]
    seed: u32,

    /// The model's name, for a folder's `method_info.json`.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,

    /// A merged vector of the tasks to keep in the bundle, a task of this name from then on: magmax, ties, dare, stock,
    /// tall, consensus, tsv, iso-c, iso-cts or wudi, with options as in `ties:keep=0.2,by=sum`. May be given several
    /// times.
    #[arg(long = "merge", value_name = "NAME=METHOD[:KEY=VALUE,…]")]
    merges: Vec<NamedMerge>,

    /// How to store merged vectors, where not as --format says.
    #[arg(long, value_name = "FORMAT", requires = "merges")]
    merge_format: Option<StoredFormat>,

    #[command(flatten, next_help_heading = "For a bundle, and threads")]
    bundle: BundleArgs,
}

fn activations() -> impl TypedValueParser<Value = Activation> {
    choice([Activation::Softmax, Activation::Linear].map(|of| (value(of.name()), of)))
}

#[derive(Clone, Copy)]
enum Vectors {
    Auto,
    Exactly(usize),
}

impl FromStr for Vectors {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Self::Auto),
            (_, Ok(count)) if count > 0 => Ok(Self::Exactly(count)),
            _ => Err("expected a number of vectors, or `auto`".into()),
        }
    }
}

/// What is written.
struct Fitted {
    family: Family,
    gram: Gram,
    fit: Fit,
    began: Instant,
}

impl Build {
    pub fn conflict(&self, given: &Given<'_>) -> Refused {
        let kept = match self.vectors {
            Vectors::Auto if self.method == Method::Random => Some((
                option!(Self, method),
                "random needs '--vectors M': such vectors keep nothing of a spectrum".into(),
            )),
            Vectors::Auto => None,
            Vectors::Exactly(_) => given.first([option!(Self, keep)], "is for '--vectors auto'"),
        };
        let is_pca = self.method == Method::Pca;
        let seeded = || is_pca.then(|| given.first([option!(Self, seed)], SEED_OF_PCA)).flatten();
        let is_ae = self.method == Method::Autoencoder;
        let forms = [option!(Self, ae_encoder), option!(Self, w_activation)];
        let formed = || (!is_ae).then(|| given.first(forms, "is for '--method ae'")).flatten();
        kept.or_else(seeded)
            .or_else(formed)
            .or_else(|| if self.makes_bundle() { self.of_bundle(given) } else { self.of_folder(given) })
    }

    fn of_bundle(&self, given: &Given<'_>) -> Refused {
        let of_folders = "is for a folder's method_info.json, and the output is a bundle";
        given.first([option!(Self, model)], of_folders).or_else(|| self.bundle.conflict(given))
    }

    fn of_folder(&self, given: &Given<'_>) -> Refused {
        let merged = [option!(Self, merges), option!(Self, merge_format)];
        let alone = "is of bundles, and the output is a folder: 'taskbasis merge' writes a merged checkpoint";
        // Of `--built-graph` `BundleArgs::check` has more to say.
        let of_both = [option!(EncoderArgs, threads), option!(EncoderArgs, built_graph)];
        let of_bundles = options::<BundleArgs>().into_iter().filter(|id| !of_both.contains(id));
        given
            .first(merged, alone)
            .or_else(|| given.first(of_bundles, "is of bundles, and the output is a folder: name it `model.taskbasis`"))
    }

    /// Whether it writes a bundle, and not a folder.
    fn makes_bundle(&self) -> bool {
        self.output.extension().is_some_and(|extension| extension == "taskbasis")
    }

    pub fn run(self, as_json: bool) -> Result<()> {
        self.bundle.check()?;
        // A result that could not be written is found out before the work, not after.
        if self.makes_bundle() {
            return self.bundle(as_json);
        }
        Family::check_output(&self.output)?;
        if !self.output.is_dir() {
            // The name without what marks it as a folder's.
            paths::lock_file(&self.output.components().collect::<PathBuf>())?;
        }
        let (text, json) = self.write(&self.fitted()?, &self.output, &self.output)?;
        let told = if as_json { output::json(&json) } else { output::text(&text) };
        told.map_err(output::after_writing(&self.output))
    }

    /// A folder beside the bundle, then the bundle.
    fn bundle(self, as_json: bool) -> Result<()> {
        paths::lock_file(&self.output)?;
        let finetuned: Vec<_> = self.family.files()?.into_iter().map(|file| (file.name, file.path)).collect();
        self.check_merges(finetuned.iter().map(|(name, _)| name.as_str()).collect())?;
        let around = self.output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let partial = PartialFolder::in_folder(around)?;
        let folder = partial.path().join("basis");
        let output = self.output.clone();
        let fitted = self.fitted().map_err(|e| e.about(partial.path(), &output))?;
        let built = self.write(&fitted, &folder, &self.output).and_then(|(text, json)| {
            let q4 = StoredFormat::from(BlockFormat::Q4);
            let format = self.merge_format.or(self.bundle.format).unwrap_or(q4);
            let Fitted { family, gram, .. } = fitted;
            let merges = (!self.merges.is_empty()).then_some(Merges { family, gram, named: self.merges, format });
            let built = Built { text, json, finetuned, merges };
            self.bundle.packing(&folder, self.family.base, self.output.into(), built).run(as_json)
        });
        built.map_err(|e| e.about(partial.path(), &output))
    }

    /// Refuses merges that could not be kept, or not be computed, before any work.
    fn check_merges<'a>(&'a self, mut names: Vec<&'a str>) -> Result<()> {
        let tasks = names.clone();
        for NamedMerge { name, merge } in &self.merges {
            merge.check(&tasks)?;
            if names.contains(&name.as_str()) {
                return Err(Error::invalid(format!("a task or another merge is called `{name}` already"))
                    .hint("Give the merged vector another name"));
            }
            names.push(name);
        }
        Ok(())
    }

    /// About what share of its length a vector loses by being stored: nothing in a folder.
    fn rounding(&self) -> f64 {
        let q4 = StoredFormat::from(BlockFormat::Q4);
        if self.makes_bundle() { self.bundle.format.unwrap_or(q4).usual_loss() } else { 0.0 }
    }

    fn fitted(&self) -> Result<Fitted> {
        let threads = self.bundle.encoder.threads;
        let began = Instant::now();
        let family = self.family.open()?;
        let gram = self.family.gram(&family, threads)?;
        let vectors = match self.vectors {
            Vectors::Exactly(vectors) => vectors,
            Vectors::Auto => gram.vectors_for(self.keep, self.method == Method::Pca)?,
        };
        let fit = match self.method {
            Method::Random => {
                let bar = output::progress(family.parameter_count(), "drawing the vectors");
                let fit = Fit::random(&family, &gram, vectors, self.seed, threads, &|done| bar.inc(done));
                bar.finish_and_clear();
                fit?
            }
            Method::Autoencoder => {
                let form = AutoencoderForm { encoder: self.ae_encoder, w: self.w_activation };
                Fit::autoencoder_as_stored(&gram, vectors, self.seed, form, self.rounding())?
            }
            _ => Fit::of(self.method, &gram, vectors, self.seed)?,
        };
        Ok(Fitted { family, gram, fit, began })
    }

    /// Writes the basis as `folder`, and tells of it under the name `shown`.
    fn write(&self, fitted: &Fitted, folder: &Path, shown: &Path) -> Result<(String, Value)> {
        let Fitted { family, gram, fit, began } = fitted;
        let (method, vectors) = (self.method, fit.vectors());
        let threads = self.bundle.encoder.threads;
        let left_out = self.family.left_out_json()?;
        let bar = output::progress(family.output_bytes(fit) as usize, "writing the vectors");
        let advance = |bytes| bar.inc(bytes);
        let options = WriteOptions { threads, model: self.model.as_deref(), progress: Some(&advance) };
        family.write_basis(fit, folder, &options)?;
        bar.finish_and_clear();
        let seconds = began.elapsed().as_secs_f64();

        let tasks: Vec<&str> = family.tasks().collect();
        let errors: Map<String, Value> =
            tasks.iter().zip(fit.errors()).map(|(task, error)| ((*task).into(), json!(error))).collect();
        let selected: Vec<&str> = fit.selected().iter().map(|&t| tasks[t]).collect();
        let json = json!({
            "output": shown, "method": method.to_string(), "tasks": tasks, "vectors": vectors,
            "parameters": family.parameter_count(), "bytes": family.output_bytes(fit), "seconds": seconds,
            "loss": fit.loss(), "spectral_lower_bound": fit.bound(), "relative_errors": errors,
            "left_out": left_out, "differences": family.differences(),
            "doubts": gram.doubts(),
            "selected": if method == Method::RandomSample { json!(selected) } else { Value::Null },
        });
        let mut rows = vec![vec!["task".to_owned(), "what is missing of it".into()]];
        rows.extend(tasks.iter().zip(fit.errors()).map(|(task, error)| vec![(*task).into(), percent(*error)]));
        let loss = match (fit.loss(), fit.bound()) {
            (Some(loss), Some(bound)) => format!("loss {loss:.6e}, at least {bound:.6e} with as many vectors\n"),
            _ => String::new(),
        };
        let text = format!(
            "{}: {method}, {} for {}, {} in {seconds:.1} s\n{loss}\n{}",
            shown.display(),
            output::counted(vectors, "vector"),
            output::counted(tasks.len(), "task"),
            output::bytes(family.output_bytes(fit)),
            output::table(&rows),
        );
        Ok((text, json))
    }
}

/// A relative error, or the sign for a task that cannot be recovered.
pub fn percent(error: Option<f64>) -> String {
    error.map_or_else(|| "—".into(), |error| format!("{:.2} %", 100.0 * error))
}
