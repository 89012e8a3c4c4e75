//! Fine-tuned checkpoints, as commands are given them.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{ArgGroup, Args, ValueEnum, ValueHint};
use taskbasis::build::{Family, Gram};
use taskbasis::{Error, Method, Result, Scope};

use crate::{checkpoints, output};

/// What image features are multiplied by last.
const PROJECTION: &str = "visual.proj";
/// Names that `--tasks-dir` finds a folder's checkpoint under.
const TUNED: &str = "finetuned.pt";

#[derive(Args)]
#[command(group = ArgGroup::new("finetuned checkpoints").args(["tasks", "tasks_dir"]).required(true).multiple(false))]
pub struct FamilyArgs {
    /// Base checkpoint (the zero-shot weights): PyTorch or safetensors.
    #[arg(long, value_name = "FILE")]
    pub base: PathBuf,

    /// A fine-tuned checkpoint and its task's name; once a task, in the order that the basis is to have.
    #[arg(long = "task", value_name = "NAME=FILE", value_hint = ValueHint::AnyPath)]
    tasks: Vec<NamedFile>,

    /// A folder of fine-tuned checkpoints: `NAMEVal/finetuned.pt` or `NAME/finetuned.pt`, else `NAME.pt` and
    /// `NAME.safetensors`; taken in the order of their names.
    #[arg(long, value_name = "FOLDER")]
    tasks_dir: Option<PathBuf>,

    /// The image towers alone, where some of the checkpoints hold nothing else.
    #[arg(long)]
    image_tower: bool,
}

#[derive(Clone)]
pub struct NamedFile {
    pub name: String,
    pub path: PathBuf,
}

impl FromStr for NamedFile {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => {
                Ok(Self { name: name.into(), path: path.into() })
            }
            _ => Err("expected NAME=FILE".into()),
        }
    }
}

/// The methods that bases can be made by.
#[derive(Clone, Copy, Default, PartialEq, ValueEnum)]
pub enum MethodArg {
    /// Convex combinations of the tasks, and the linear decoder that is best for them.
    #[default]
    Ae,
    /// Principal components and a mean.
    Pca,
    /// Some of the task vectors themselves; the other tasks cannot be recovered.
    RandomSample,
}

impl MethodArg {
    pub const ALL: [Self; 3] = [Self::Ae, Self::Pca, Self::RandomSample];

    pub fn method(self) -> Method {
        match self {
            Self::Ae => Method::Autoencoder,
            Self::Pca => Method::Pca,
            Self::RandomSample => Method::RandomSample,
        }
    }
}

impl FamilyArgs {
    /// The fine-tuned checkpoints, by the names of their tasks.
    pub fn files(&self) -> Result<Vec<NamedFile>> {
        match &self.tasks_dir {
            Some(folder) => files_in(folder, Some(&self.base)),
            None => Ok(self.tasks.clone()),
        }
    }

    /// Opens all of them and checks that they are of one model.
    pub fn open(&self) -> Result<Family> {
        let open = |NamedFile { name, path }| Ok((name, checkpoints::open(path)?));
        let tasks = self.files()?.into_iter().map(open).collect::<Result<Vec<_>>>()?;
        let scope = if self.image_tower { Scope::ImageTower } else { Scope::All };
        let family = Family::new(checkpoints::open(&self.base)?, tasks, scope)?;
        note_differences(&family);
        Ok(family)
    }

    /// `threads` of 0 means one a processor.
    pub fn gram(&self, family: &Family, threads: usize) -> Result<Gram> {
        let bar = output::progress(family.bytes() as usize, "reading the checkpoints");
        let gram = family.gram(threads, &|bytes| bar.inc(bytes));
        bar.finish_and_clear();
        gram
    }
}

/// Tells what the checkpoints do not have in common.
fn note_differences(family: &Family) {
    if family.base().get(PROJECTION).is_none() {
        let path = family.base().path().display();
        output::note(&format!("{path}: has no projection (`{PROJECTION}`): encoders need a base that has one"));
    }
    for (tuned, difference) in family.tuned().zip(family.differences()) {
        checkpoints::note_unchanged(tuned.path(), &difference.unchanged);
        if !difference.left_out.is_empty() {
            let names = checkpoints::listed(&difference.left_out);
            output::note(&format!("{}: left out, as the base has no such tensor: {names}", tuned.path().display()));
        }
    }
}

/// The checkpoints in `folder`, by the names of their tasks. A base that lies among them is none of them.
pub fn files_in(folder: &Path, base: Option<&Path>) -> Result<Vec<NamedFile>> {
    let failed = |e| Error::io("cannot list the folder", folder, e);
    let (mut folders, mut files) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let stem = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            // A folder's name may have dots, which would end its stem.
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let name = name.strip_suffix("Val").unwrap_or(&name).to_owned();
            let path = path.join(TUNED);
            if path.is_file() {
                folders.push(NamedFile { name, path });
            }
        } else if path.extension().is_some_and(|extension| extension == "pt" || extension == "safetensors")
            && !base.is_some_and(|base| same_file(&path, base))
        {
            files.push(NamedFile { name: stem(&path), path });
        }
    }
    let mut found = if folders.is_empty() { files } else { folders };
    if found.is_empty() {
        return Err(Error::not_found("the folder holds no fine-tuned checkpoint")
            .at(folder)
            .expected("NAMEVal/finetuned.pt, NAME/finetuned.pt, NAME.pt or NAME.safetensors"));
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
