//! `--tasks-dir`: which of a folder's files and folders are fine-tuned checkpoints, of which tasks, and what the others
//! are.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use taskbasis::checkpoint::{choose, folder, shards};
use taskbasis::{Error, ErrorKind, Result, present};

use crate::output;

/// The names of a checkpoint in a task's folder, in the layouts of Task Arithmetic and of TALL-masks.
const TUNED: [&str; 2] = ["finetuned.pt", "nonlinear_finetuned.pt"];
/// The linearised model of Tangent Task Arithmetic, taken where there is no other.
const LINEAR: &str = "linear_finetuned.pt";
/// The beginnings of names of base models in those layouts.
const BASES: [&str; 2] = ["zeroshot", "linear_zeroshot"];
/// The most notes on what was left out.
const MAX_NOTES: usize = 10;

/// A fine-tuned checkpoint and its task's name.
pub struct NamedFile {
    pub name: String,
    pub path: PathBuf,
}

/// The content of a folder of fine-tuned checkpoints.
pub struct TasksDir {
    /// The files by the names of their tasks.
    pub found: Vec<NamedFile>,
    /// The files that are no task, and why.
    left_out: Vec<(PathBuf, String)>,
}

/// A checkpoint's file, or why there is none.
type FoundOr<Why> = std::result::Result<PathBuf, Why>;

impl TasksDir {
    /// Looks at everything in `folder`; `base` is no task where it lies there.
    pub fn read(folder: &Path, base: Option<&Path>) -> Result<Self> {
        let failed = |e| Error::io("cannot list the folder", folder, e);
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            paths.push(entry.map_err(failed)?.path());
        }
        paths.sort();
        let mut this = Self { found: Vec::new(), left_out: Vec::new() };
        for path in paths {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let (task, file) = if present::is_folder(&path)? {
                (name.strip_suffix("Val").unwrap_or(&name).to_owned(), this.in_task_folder(&path, &name)?)
            } else {
                (stem(&name), flat(&path, &name)?)
            };
            match file {
                Ok(file) if base.is_some_and(|base| same_file(&path, base) || same_file(&file, base)) => {
                    this.left_out.push((path, "the base".into()));
                }
                Ok(file) => this.add(folder, NamedFile { name: task, path: file })?,
                Err(reason) => this.left_out.push((path, reason)),
            }
        }
        if this.found.is_empty() {
            return Err(this.nothing(folder));
        }
        this.found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(this)
    }

    /// The checkpoint in a task's folder, or why there is none.
    fn in_task_folder(&mut self, folder: &Path, name: &str) -> Result<FoundOr<String>> {
        if name.starts_with('.') {
            return Ok(Err("hidden".into()));
        }
        if is_base(name) {
            return Ok(Err("a base, by its name".into()));
        }
        let tuned = present::files(TUNED.iter().map(|name| folder.join(name)))?;
        let linear = folder.join(LINEAR);
        let has_linear = present::is_file(&linear)?;
        Ok(match &tuned[..] {
            [one] => {
                if has_linear {
                    self.left_out.push((linear, format!("the linearised model beside {}", one.display())));
                }
                Ok(one.clone())
            }
            [] if has_linear => Ok(linear),
            [] => match folder::chosen(folder, true, |name| !is_base(name)) {
                // What could not be looked at is not left out.
                Err(error) if error.kind() == ErrorKind::Io => return Err(error),
                chosen => chosen.map_err(|error| reason(&error, folder)),
            },
            _ => Err(format!("two checkpoints: {}", TUNED.join(", "))),
        })
    }

    fn add(&mut self, folder: &Path, new: NamedFile) -> Result<()> {
        match self.found.iter().find(|known| known.name == new.name) {
            None => {
                self.found.push(new);
                Ok(())
            }
            Some(known) => Err(Error::invalid(format!("two checkpoints for task `{}`", new.name))
                .at(folder)
                .got(format_args!("{} and {}", known.path.display(), new.path.display()))
                .hint("Move one elsewhere, or name the files with --task")),
        }
    }

    fn nothing(&self, folder: &Path) -> Error {
        let error = Error::not_found("the folder holds no fine-tuned checkpoint").at(folder).expected(
            "NAME/ or NAMEVal/ with finetuned.pt or another checkpoint, or NAME.pt, NAME.safetensors and their like",
        );
        match &self.left_out[..] {
            [] => error,
            left_out => {
                let all: Vec<_> =
                    left_out.iter().take(MAX_NOTES).map(|(path, why)| format!("{}: {why}", shown(path))).collect();
                error.got(all.join("; "))
            }
        }
    }

    /// Notes what was left out, a line each.
    pub fn tell(&self) {
        for (path, why) in self.left_out.iter().take(MAX_NOTES) {
            output::note(&format!("{}: left out: {why}", path.display()));
        }
        if self.left_out.len() > MAX_NOTES {
            output::note(&format!("{} more are left out; --json lists them", self.left_out.len() - MAX_NOTES));
        }
    }

    /// What was left out, for `--json`.
    pub fn left_out_json(&self) -> Value {
        self.left_out.iter().map(|(path, why)| json!({ "path": path, "reason": why })).collect()
    }
}

/// The checkpoint that a file in the folder itself is, or why it is none.
fn flat(path: &Path, name: &str) -> Result<FoundOr<String>> {
    let part = shards::shard_name(name);
    let is_index = shards::is_index_name(name);
    let why = if name.starts_with('.') {
        "hidden".into()
    } else if let Some(part) = part {
        match present::is_file(&path.with_file_name(&part.index))? {
            true => format!("a part, read through {}", part.index),
            false => format!("part {} of {}, without its index {}", part.number, part.of, part.index),
        }
    } else if choose::ADAPTERS.contains(&name) || name == choose::ADAPTER_CONFIG {
        "an adapter that is not in a folder of its task".into()
    } else if name.starts_with("head_") {
        "a head".into()
    } else if is_base(name) {
        "a base, by its name".into()
    } else if choose::is_checkpoint(name) || is_index {
        return Ok(Ok(path.to_path_buf()));
    } else {
        "no checkpoint, by its name".into()
    };
    Ok(Err(why))
}

/// The task of a file: its name without what says that it is a checkpoint.
fn stem(name: &str) -> String {
    let name = name.strip_suffix(shards::INDEX).or(name.strip_suffix(".tar")).unwrap_or(name);
    name.rsplit_once('.').map_or(name, |(stem, _)| stem).to_owned()
}

fn is_base(name: &str) -> bool {
    BASES.iter().any(|base| name.starts_with(base))
}

/// The error, without the path that the reader knows.
fn reason(error: &Error, folder: &Path) -> String {
    let text = error.to_string();
    text.strip_prefix(&format!("{}: ", folder.display())).unwrap_or(&text).to_owned()
}

fn shown(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
