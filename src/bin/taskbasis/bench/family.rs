//! What is measured: a basis and a base, given or made.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use taskbasis::synthetic::Synthetic;
use taskbasis::{
    Arch, ArchHints, Basis, Checkpoint, Coefficients, DType, Error, ErrorKind, Model, ModelOptions, ReconstructOptions,
    Result, TaskExpr, TaskWeights, Weights,
};

use super::machine;
use super::samples::time;
use crate::output;

/// The files of one family, and of the same family with its vectors in other formats.
pub struct Family {
    pub name: String,
    pub base: PathBuf,
    /// The basis as it was given first, then other formats of it.
    pub bases: Vec<(String, PathBuf)>,
    /// What temporary files lie in; they go with it.
    _folder: Option<tempfile::TempDir>,
}

/// What the figures are of.
#[derive(Debug, Serialize)]
pub struct About {
    pub name: String,
    pub tasks: usize,
    pub vectors: usize,
    pub has_mean: bool,
    /// Of the vectors.
    pub format: String,
    /// Of the image tower.
    pub parameters: usize,
    /// Bytes of the image tower as f32.
    pub model_bytes: usize,
    /// Bytes of memory that one task's weights take.
    pub weights_bytes: usize,
    pub arch: Arch,
}

impl About {
    /// One line.
    pub fn text(&self) -> String {
        format!(
            "{}: T = {}, M = {}{}, {}, {}; image tower {} parameters, {}\n",
            self.name,
            self.tasks,
            self.vectors,
            if self.has_mean { " and a mean" } else { "" },
            self.format,
            self.arch,
            output::grouped(self.parameters as u64),
            output::bytes(self.model_bytes as u64)
        )
    }
}

impl Family {
    /// Files that somebody has.
    pub fn given(basis: &Path, base: &Path) -> Result<Self> {
        let format = format_of(&Basis::open(basis)?);
        let name = basis.file_name().map_or_else(|| basis.to_string_lossy(), |name| name.to_string_lossy());
        let bases = vec![(format, basis.to_owned())];
        Ok(Self { name: name.into_owned(), base: base.to_owned(), bases, _folder: None })
    }

    /// Random values in the published layout, with f32 vectors and those of `formats`; written into `keep` unless
    /// they are there from the last time, or into a temporary folder.
    pub fn synthetic(wanted: &Synthetic, name: &str, formats: &[DType], keep: Option<&Path>) -> Result<Self> {
        let folder = match keep {
            Some(_) => None,
            None => Some(tempfile::tempdir().map_err(|e| Error::io("cannot make", std::env::temp_dir(), e))?),
        };
        let root = keep.or(folder.as_ref().map(|folder| folder.path())).unwrap_or(Path::new("."));
        std::fs::create_dir_all(root).map_err(|e| Error::io("cannot make the folder", root, e))?;

        let base = root.join(format!("{name}.pt"));
        let bar = output::progress(2 + formats.len(), "writing a synthetic family");
        // Written under another name first: what was interrupted must not be taken for whole the next time.
        let whole = |path: &Path, write: &dyn Fn(&Path) -> Result<()>| -> Result<()> {
            if !path.exists() {
                let part = path.with_extension("part");
                if part.is_dir() {
                    std::fs::remove_dir_all(&part).map_err(|e| Error::io("cannot remove", &part, e))?;
                }
                write(&part)?;
                std::fs::rename(&part, path).map_err(|e| Error::io("cannot rename", &part, e))?;
            }
            bar.inc(1);
            Ok(())
        };
        whole(&base, &|path| wanted.write_base(path))?;
        let mut bases = Vec::new();
        for &dtype in [DType::F32].iter().chain(formats) {
            let of_format = Synthetic {
                dtype,
                // Only the image tower is combined: the zeros of the text tower are in one of the files, as published.
                text: if dtype == DType::F32 { wanted.text.clone() } else { Vec::new() },
                ..wanted.clone()
            };
            let path = root.join(format!("{name}_M{}_T{}_{dtype}", wanted.vectors, wanted.tasks));
            whole(&path, &|path| of_format.write_basis(path))?;
            bases.push((dtype.to_string(), path));
        }
        bar.finish_and_clear();
        let family = Self { name: format!("{name}, synthetic"), base, bases, _folder: folder };
        // What is still to be written to disk would be written while something is measured.
        for file in family.files()? {
            let file = std::fs::File::open(&file).and_then(|open| open.sync_all()).map_err(|e| (file, e));
            file.map_err(|(file, e)| Error::io("cannot write back", file, e))?;
        }
        Ok(family)
    }

    /// The basis in the format that it was given in.
    pub fn basis(&self) -> &Path {
        &self.bases[0].1
    }

    /// Base and basis, opened.
    pub fn open(&self, threads: usize, cache_bytes: usize) -> Result<Arc<Model>> {
        self.open_format(self.basis(), threads, cache_bytes)
    }

    /// The same with one of [`Family::bases`].
    pub fn open_format(&self, basis: &Path, threads: usize, cache_bytes: usize) -> Result<Arc<Model>> {
        let options = ModelOptions { threads, cache_bytes: Some(cache_bytes), ..ModelOptions::default() };
        Model::new(Checkpoint::open(&self.base)?, Some(Basis::open(basis)?), &options)
    }

    /// What it is.
    pub fn about(&self, hints: ArchHints) -> Result<About> {
        let (base, basis) = (Checkpoint::open(&self.base)?, Basis::open(self.basis())?);
        let arch = Arch::of(&base, hints)?;
        Ok(About {
            name: self.name.clone(),
            tasks: basis.tasks().len(),
            vectors: basis.vectors(),
            has_mean: basis.has_mean(),
            format: self.bases[0].0.clone(),
            parameters: arch.parameter_count(),
            model_bytes: arch.parameter_count() * size_of::<f32>(),
            weights_bytes: self.weights_bytes()?,
            arch,
        })
    }

    /// Bytes of memory that one task's weights take.
    pub fn weights_bytes(&self) -> Result<usize> {
        let (base, basis) = (Checkpoint::open(&self.base)?, Basis::open(self.basis())?);
        let coefficients = first_vectors(&basis, basis.vectors(), 0);
        Weights::from_coefficients(&base, &basis, &coefficients, &ReconstructOptions::default()).map(|w| w.nbytes())
    }

    /// The base's file and those of the basis that was given.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = vec![self.base.clone()];
        files.extend(files_of(self.basis())?);
        Ok(files)
    }

    /// Drops [`Family::files`] from the page cache. No mapping of them may be open in this process.
    pub fn evict(&self) -> Result<bool> {
        self.files()?.iter().try_fold(true, |all, file| {
            machine::evict(file).map(|one| all && one).map_err(|e| Error::io("cannot evict", file, e))
        })
    }
}

/// A folder's files, or the file itself.
pub fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let failed = |e| Error::io("cannot list the folder", path, e);
    let entries = std::fs::read_dir(path).map_err(failed)?.collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
    Ok(entries.into_iter().map(|entry| entry.path()).filter(|path| path.is_file()).collect())
}

/// The type that the image tower's vectors have.
pub fn format_of(basis: &Basis) -> String {
    let source = basis.parameters().find(|(name, _)| taskbasis::checkpoint::is_image_tower(name));
    source.map_or_else(|| "none".into(), |(_, parameter)| parameter.sources()[0].format_name().to_owned())
}

/// The tasks that the basis can give back; never none.
pub fn recoverable(basis: &Basis) -> Result<Vec<TaskExpr>> {
    let tasks = basis.tasks().iter().enumerate().filter(|(t, _)| basis.recovery().is_recoverable(*t));
    let tasks: Vec<TaskExpr> = tasks.map(|(_, task)| TaskExpr::task(task)).collect();
    if tasks.is_empty() {
        return Err(Error::new(ErrorKind::NotRecoverable, "the basis gives no task back").at(basis.path()));
    }
    Ok(tasks)
}

/// Coefficients for the first `m` vectors; the others are left out. `n` makes them other ones.
pub fn first_vectors(basis: &Basis, m: usize, n: usize) -> Coefficients {
    let value = |i: usize| if i < m { 0.3 + 0.01 * ((i + 3 * n) % 17) as f64 } else { 0.0 };
    Coefficients { vectors: (0..basis.vectors()).map(value).collect(), mean: 0.0, residuals: Vec::new() }
}

/// Two tasks that need the first `m` vectors, reconstructed in turn: as each is asked for, the other one is dropped, and
/// its memory used again. That is how a model works whose cache has room for one.
pub struct InTurn {
    tasks: [TaskWeights; 2],
    turn: usize,
}

impl InTurn {
    /// `model` must have room for one task.
    pub fn new(model: &Arc<Model>, m: usize) -> Result<Self> {
        let basis = basis_of(model)?;
        let task = |n| model.weights_from(first_vectors(basis, m, n));
        Ok(Self { tasks: [task(0)?, task(1)?], turn: 0 })
    }

    /// Milliseconds for the next one. What it gives is dropped outside the timing.
    pub fn reconstruct(&mut self) -> Result<f64> {
        self.turn = 1 - self.turn;
        time(|| self.tasks[self.turn].get()).map(|(ms, _)| ms)
    }
}

/// The basis that a family's model was opened with.
pub fn basis_of(model: &Model) -> Result<&Basis> {
    model.basis().ok_or_else(|| Error::new(ErrorKind::Internal, "the model has lost its basis"))
}

/// A sequence of numbers that is random enough to choose tasks by, and the same every time.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Below `n`. splitmix64 (Steele, Lea, Flood 2014).
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }

    /// Pixels as preprocessed images have them.
    pub fn pixels(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.below(4096) as f32 / 1024.0 - 2.0).collect()
    }
}
