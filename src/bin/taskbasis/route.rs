//! `taskbasis route`

use std::path::Path;
use std::str::FromStr;

use clap::Args;
use serde_json::{Value, json};
use taskbasis::{
    BundleUpdate, Dataset, Encoder, Error, ErrorKind, FeatureKind, FitReport, Preprocess, Result, Router, RouterFit,
    Routing, TaskExpr, TaskWeights, check_output,
};

use crate::args::{EncoderArgs, ModelArgs, Session};
use crate::classify::AUTO;
use crate::conflicts::{Given, Refused};
use crate::eval::{DataArg, open_data};
use crate::output;
use crate::paths::{InPath, OutFile};

/// Make a router: what tells by an image alone which of the tasks it belongs to.
///
/// A few images per task are run with the base's weights; a small subspace of their features per task goes into the
/// file. `classify --task auto --router FILE` and `eval --router FILE` then send each image to its own task, at the
/// cost of one more run, of the base:
///
///     taskbasis route --basis model.taskbasis --data images.safetensors --shots 32 -o router.safetensors
///
/// With --keep it becomes a part of the bundle, some kB per task.
#[derive(Args)]
pub struct Route {
    #[command(flatten)]
    model: ModelArgs,

    /// Images by task, as `eval` takes them: a safetensors file, a folder with a folder per task, or TASK=FOLDER.
    #[arg(long, value_name = "DATA", required = true)]
    data: Vec<DataArg>,

    /// The part of the data to make the router of.
    #[arg(long, default_value = "val")]
    split: String,

    /// Only this task; may be given several times. By default all that have images.
    #[arg(long = "task", value_name = "TASK")]
    tasks: Vec<String>,

    /// Images per task, spread evenly over the split; at least 8.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(8..=100_000))]
    shots: u32,

    /// The most dimensions of a task's subspace. As many are taken as are best on images that are held out in turn.
    #[arg(long, value_name = "K", default_value_t = 8, value_parser = clap::value_parser!(u32).range(0..=64))]
    components: u32,

    /// Tell tasks apart by hidden features instead of embeddings: the class token before the projection, and the mean
    /// of the patches. They tell more, above all given some hundred images per task. Costs: the features' run computes
    /// the last block for all tokens (a fifteenth more in a tower of twelve blocks); the router grows by 8·width² bytes
    /// (of ViT-B 4.7 MB, whatever the number of tasks); it takes the CPU, the built graph, whole weights, and a tower
    /// that pools by its class token.
    #[arg(long)]
    hidden: bool,

    /// The weights whose features tell the tasks apart.
    #[arg(long, value_name = "EXPR", default_value = "base", allow_hyphen_values = true)]
    features: TaskExpr,

    #[command(flatten)]
    below: BelowArgs,

    /// Keep the router in the bundle that --basis names, where `--task auto` finds it: in its place, or with -o in a
    /// changed copy.
    #[arg(long)]
    keep: bool,

    /// The file to write.
    #[arg(short, long, value_name = "FILE", required_unless_present = "keep")]
    output: Option<OutFile>,

    #[command(flatten)]
    encoder: EncoderArgs,
}

/// What becomes of images that the router is not sure of.
#[derive(Args)]
struct BelowArgs {
    /// The confidence, 0 to 1, below which the fallback answers.
    #[arg(long, value_name = "P", default_value_t = taskbasis::router::THRESHOLD)]
    threshold: f64,

    /// The weights that answer for an image below the threshold; `none` for no answer.
    #[arg(long, value_name = "EXPR|none", default_value = "all@0.3", allow_hyphen_values = true)]
    fallback: Fallback,
}

/// The weights that answer for what a router is not sure of.
#[derive(Clone, Debug)]
pub struct Fallback(pub Option<TaskExpr>);

impl FromStr for Fallback {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "none" { Ok(Self(None)) } else { text.parse().map(|expr| Self(Some(expr))) }
    }
}

/// The router that images are sent to their tasks by.
#[derive(Args)]
pub struct RouterArgs {
    /// A router, as `taskbasis route` makes it, or a bundle that keeps one. `--task auto` without it takes the one that
    /// the bundle of --basis keeps.
    #[arg(long, value_name = "FILE")]
    pub router: Option<InPath>,

    /// The confidence, 0 to 1, below which the fallback answers, instead of the router's.
    #[arg(long, value_name = "P")]
    threshold: Option<f64>,

    /// The weights that answer for an image below the threshold, instead of the router's; `none` for no answer.
    #[arg(long, value_name = "EXPR|none", allow_hyphen_values = true)]
    fallback: Option<Fallback>,
}

impl RouterArgs {
    /// The router over the model, where one is given; else, where `or_kept`, the one that the model's bundle keeps.
    pub fn open(&self, session: &Session, or_kept: bool) -> Result<Option<Routing>> {
        let router = match (&self.router, session.bundle()) {
            (Some(path), _) => Some(Router::open(path)?),
            (None, Some(bundle)) if or_kept => Router::of_bundle(bundle)?,
            (None, _) => None,
        };
        let Some(mut router) = router else {
            let stray = [("--threshold", self.threshold.is_some()), ("--fallback", self.fallback.is_some())];
            return match stray.into_iter().find(|(_, is_given)| *is_given) {
                Some((option, _)) => {
                    Err(Error::invalid(format!("{option} is of a router, and there is none"))
                        .hint("--router names one"))
                }
                None => Ok(None),
            };
        };
        if let Some(threshold) = self.threshold {
            router = router.with_threshold(threshold)?;
        }
        if let Some(Fallback(fallback)) = &self.fallback {
            router = router.with_fallback(fallback.clone());
        }
        Routing::new(router, session).map(Some)
    }
}

/// Whether this task leaves the choice to a router: `auto`, unless a task is called so.
pub fn leaves_choice(task: &str, session: &Session) -> bool {
    let is_task = || session.model().basis().is_some_and(|basis| basis.tasks().iter().any(|known| known == task));
    task == AUTO && !is_task()
}

/// What a router is made of.
struct Making<'a> {
    encoder: Encoder,
    features: TaskWeights,
    kind: FeatureKind,
    preprocess: Preprocess,
    data: &'a Dataset,
    split: &'a str,
    shots: usize,
    batch: usize,
    threads: usize,
}

impl Route {
    pub fn conflict(&self, given: &Given<'_>) -> Refused {
        self.encoder.conflict(Some(&self.model), given)
    }

    /// Says that the bundle is changed, where it is to keep the router in its place.
    ///
    /// # Errors
    /// As [`InPath::is_changed`].
    pub fn check_place(&self) -> Result<()> {
        match &self.model.basis {
            Some(bundle) if self.keep && self.output.is_none() => {
                bundle.is_changed(false, "-o names the file for the changed bundle")
            }
            _ => Ok(()),
        }
    }

    /// The file that is written.
    fn written(&self) -> Result<&Path> {
        let path = self.output.as_deref().or(self.model.basis.as_deref());
        path.ok_or_else(|| Error::invalid("--keep needs a bundle").expected("--basis BUNDLE"))
    }

    pub fn run(self, as_json: bool) -> Result<()> {
        let output_path = self.written()?;
        let session = self.model.open(self.encoder.threads)?;
        if self.keep && session.bundle().is_none() {
            let error = Error::invalid("only a bundle keeps a router").expected("--basis BUNDLE");
            return Err(error.hint("Without --keep, -o names a file for the router alone"));
        }
        let data = open_data(&self.data)?;
        let tasks = self.tasks(&data, &session)?;
        if let Some(fallback) = &self.below.fallback.0 {
            session.weights(fallback).map_err(|error| match error.kind() {
                ErrorKind::NotRecoverable => error.also_hint("--fallback takes other weights, or `none`"),
                _ => error,
            })?;
        }
        let making = Making {
            encoder: self.encoder.encoder(&session)?,
            features: session.weights(&self.features)?,
            kind: if self.hidden { FeatureKind::Hidden } else { FeatureKind::Embedding },
            preprocess: self.encoder.preprocess(&session)?,
            data: &data,
            split: &self.split,
            shots: self.shots as usize,
            batch: self.encoder.batch as usize,
            threads: self.encoder.threads,
        };
        self.encoder.tell_images(&session, true)?;
        check_output(output_path, &[])?;
        let bar = output::progress(tasks.len() * making.shots, "images");
        let mut features = Vec::with_capacity(tasks.len());
        for task in tasks {
            let of_task = making.features_of(&task, &mut |done| bar.inc(done as u64))?;
            features.push((task, of_task));
        }
        bar.finish_and_clear();
        let fit = RouterFit {
            kind: making.kind,
            max_components: self.components as usize,
            threshold: self.below.threshold,
            features: self.features.clone(),
            fallback: self.below.fallback.0.clone(),
        };
        let arch = making.encoder.arch();
        let (router, report) =
            fit.fit(session.fingerprint()?, arch.variant.pooling, making.kind.extent(arch), &features)?;
        match session.bundle().filter(|_| self.keep) {
            Some(bundle) => {
                let mut update = BundleUpdate::of_names(bundle);
                router.keep_in(&mut update)?;
                update.write(output_path, &[], &|_| {})?;
            }
            None => router.save(output_path, &[])?,
        }
        let told = if as_json {
            output::json(&json_of(output_path, &router, &report))
        } else {
            output::text(&text_of(output_path, &router, &report))
        };
        told.map_err(output::after_writing(output_path))
    }

    /// The tasks that are asked for: those given, or all that have images and weights.
    fn tasks(&self, data: &Dataset, session: &Session) -> Result<Vec<String>> {
        if !self.tasks.is_empty() {
            self.tasks.iter().try_for_each(|task| session.weights(&TaskExpr::task(task)).map(drop))?;
            return Ok(self.tasks.clone());
        }
        let mut tasks = Vec::new();
        for task in data.tasks_with(&self.split)? {
            match session.weights(&TaskExpr::task(task)) {
                Ok(_) => tasks.push(task.to_owned()),
                // A basis of selected tasks has no weights for the others, and nothing can be sent to them.
                Err(error) if error.kind() == ErrorKind::NotRecoverable => {
                    output::note(&format!("{task} left out: {error}"));
                }
                Err(error) => return Err(error.also_hint("--task chooses the tasks that the router is to know")),
            }
        }
        Ok(tasks)
    }
}

fn json_of(output_path: &Path, router: &Router, report: &FitReport) -> Value {
    let task = |(at, name): (usize, &String)| {
        json!({
            "task": name, "images": report.images[at], "own": report.own[at], "confident": report.confident[at],
        })
    };
    json!({
        "output": output_path, "tasks": router.tasks().iter().enumerate().map(task).collect::<Vec<_>>(),
        "components": report.components, "temperature": report.temperature, "loss": report.loss,
        "own": mean(&report.own), "confident": mean(&report.confident), "threshold": router.threshold(),
        "fallback": router.fallback().map(ToString::to_string), "features": router.features().to_string(),
        "kind": router.kind().name(), "bytes_per_task": router.bytes_per_task(),
        "shared_bytes": router.shared_bytes(), "base": router.base().to_string(),
    })
}

fn text_of(output_path: &Path, router: &Router, report: &FitReport) -> String {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let mut rows = vec![["task", "images", "sent to it", "sure of it"].map(String::from).to_vec()];
    for (at, task) in router.tasks().iter().enumerate() {
        let (own, confident) = (percent(report.own[at]), percent(report.confident[at]));
        rows.push(vec![task.clone(), report.images[at].to_string(), own, confident]);
    }
    let shared = match router.shared_bytes() {
        0 => String::new(),
        shared => format!(" and {} for all", output::bytes(shared as u64)),
    };
    rows.push(vec!["mean".into(), String::new(), percent(mean(&report.own)), percent(mean(&report.confident))]);
    format!(
        "{}{}: {}, {} per task{shared}, subspaces of {} dimensions, of images that were held out in turn\n",
        output::table(&rows),
        output_path.display(),
        output::counted(router.tasks().len(), "task"),
        output::bytes(router.bytes_per_task() as u64),
        report.components,
    )
}

impl Making<'_> {
    /// The features, `[n, e]` or `[n, 2·width]`, of at most `shots` images of `task`, spread evenly over the split.
    fn features_of(&self, task: &str, done: &mut dyn FnMut(usize)) -> Result<Vec<f32>> {
        let split = self.data.split(task, self.split)?;
        let count = self.shots.min(split.len());
        let places: Vec<usize> = (0..count).map(|i| i * split.len() / count).collect();
        let mut features = Vec::new();
        for places in places.chunks(self.batch) {
            let mut pixels = Vec::new();
            for &at in places {
                pixels.extend(split.preprocess(&self.preprocess, at..at + 1, self.threads)?);
            }
            features.extend(match self.kind {
                FeatureKind::Embedding => self.encoder.encode_task(&self.features, &pixels, places.len())?,
                FeatureKind::Hidden => self.encoder.encode_hidden(&self.features, &pixels, places.len())?.features,
            });
            done(places.len());
        }
        Ok(features)
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
