//! Fine-tuned checkpoints, as commands are given them.

use std::str::FromStr;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{ArgGroup, Args};
use serde_json::{Value, json};
use taskbasis::build::{Family, Gram};
use taskbasis::hub::Wanted;
use taskbasis::{Method, Result, Scope, TowerConfig, TowerOptions};

use crate::choice::{choice, value};
use crate::paths::{BasePath, InPath};
use crate::tasks_dir::{NamedFile, TasksDir};
use crate::{checkpoints, output};

/// The reason why a seed has no effect.
pub const SEED_OF_PCA: &str = "cannot be used with '--method pca', which chooses nothing at random";
/// The parameter that image features are multiplied by last.
const PROJECTION: &str = "visual.proj";

#[derive(Args)]
#[command(group = ArgGroup::new("finetuned checkpoints").args(["tasks", "tasks_dir"]).required(true).multiple(false))]
pub struct FamilyArgs {
    /// Base checkpoint (the zero-shot weights): PyTorch or safetensors, a file, the index of several, or a folder with
    /// one.
    #[arg(long, value_name = "FILE")]
    pub base: BasePath,

    /// A fine-tuned checkpoint and its task's name, a LoRA adapter of PEFT among others; once per task, in the order
    /// that the basis is to have.
    #[arg(long = "task", value_name = "NAME=FILE")]
    tasks: Vec<NamedPath>,

    /// A folder of fine-tuned checkpoints, taken in the order of their names: `NAMEVal/` or `NAME/` with `finetuned.pt`
    /// or the only checkpoint, adapter or index in it, and files such as `NAME.pt`. What is left out is said.
    #[arg(long, value_name = "FOLDER")]
    tasks_dir: Option<InPath>,

    /// The image towers alone, where some of the checkpoints hold nothing else.
    #[arg(long)]
    image_tower: bool,
}

/// `NAME=FILE`: a task's name and its fine-tuned checkpoint.
#[derive(Clone)]
pub struct NamedPath {
    pub name: String,
    pub path: InPath,
}

impl FromStr for NamedPath {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => {
                Ok(Self { name: name.into(), path: InPath::new(path, Wanted::Checkpoint) })
            }
            _ => Err("expected NAME=FILE".into()),
        }
    }
}

/// The methods that choose by what the tasks are, and so can be told from their Gram matrix.
pub const METHODS: [Method; 3] = [Method::Autoencoder, Method::Pca, Method::RandomSample];

/// All methods that bases can be made by.
pub fn all_methods() -> impl TypedValueParser<Value = Method> {
    let [ae, pca, sample] = named_methods();
    let random = "Random orthonormal vectors, those that the reference draws from the same seed, and the projections on \
        them";
    choice([ae, pca, sample, (value("random").help(random), Method::Random)])
}

/// Those of [`METHODS`].
pub fn methods() -> impl TypedValueParser<Value = Method> {
    choice(named_methods())
}

fn named_methods() -> [(PossibleValue, Method); 3] {
    let ae = "Convex combinations of the tasks, and the linear decoder that is best for them";
    let sample = "Some of the task vectors themselves; the other tasks cannot be recovered";
    [
        (value("ae").help(ae), Method::Autoencoder),
        (value("pca").help("Principal components and a mean"), Method::Pca),
        (value("random-sample").help(sample), Method::RandomSample),
    ]
}

impl FamilyArgs {
    /// The fine-tuned checkpoints, by the names of their tasks.
    pub fn files(&self) -> Result<Vec<NamedFile>> {
        Ok(self.scan()?.map_or_else(|| self.named(), |scan| scan.found))
    }

    fn named(&self) -> Vec<NamedFile> {
        let file = |task: &NamedPath| NamedFile { name: task.name.clone(), path: task.path.to_path_buf() };
        self.tasks.iter().map(file).collect()
    }

    fn scan(&self) -> Result<Option<TasksDir>> {
        self.tasks_dir.as_ref().map(|folder| TasksDir::read(folder, Some(&self.base))).transpose()
    }

    /// What `--tasks-dir` leaves out, for `--json`: a list of `path` and `reason`.
    pub fn left_out_json(&self) -> Result<Value> {
        Ok(self.scan()?.map_or_else(|| json!([]), |scan| scan.left_out_json()))
    }

    /// Opens all of them and checks that they are of one model.
    pub fn open(&self) -> Result<Family> {
        let base = checkpoints::open(&self.base)?;
        let files = match self.scan()? {
            Some(scan) => {
                scan.tell();
                scan.found
            }
            None => self.named(),
        };
        let open = |NamedFile { name, path }| Ok((name, checkpoints::open_tuned(path, &base)?));
        let tasks = files.into_iter().map(open).collect::<Result<Vec<_>>>()?;
        let scope = if self.image_tower { Scope::ImageTower } else { Scope::All };
        let family = Family::new(base, tasks, scope)?;
        note_differences(&family);
        Ok(family)
    }

    /// `threads` of 0 means one per processor.
    pub fn gram(&self, family: &Family, threads: usize) -> Result<Gram> {
        let bar = output::progress(family.bytes() as usize, "reading the checkpoints");
        let gram = family.gram(threads, &|bytes| bar.inc(bytes));
        bar.finish_and_clear();
        gram.inspect(|gram| gram.doubts().iter().for_each(|doubt| output::note(doubt)))
    }
}

/// Tells what the checkpoints do not have in common.
fn note_differences(family: &Family) {
    let has_other_form = || {
        let base = family.base();
        TowerConfig::needs_graph(base) || TowerConfig::read(base, &TowerOptions::default()).is_ok()
    };
    if family.base().get(PROJECTION).is_none() && !has_other_form() {
        let path = family.base().path().display();
        output::note(&format!("{path}: has no projection (`{PROJECTION}`): encoders need a base that has one"));
    }
    for (tuned, difference) in family.tuned().zip(family.differences()) {
        checkpoints::note_unchanged(tuned.path(), &difference.unchanged);
        if !difference.left_out.is_empty() {
            let names = checkpoints::listed(&difference.left_out);
            output::note(&format!(
                "{}: left out, as the base has none of that name and shape: {names}",
                tuned.path().display()
            ));
        }
    }
}
