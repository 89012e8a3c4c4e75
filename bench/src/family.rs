//! The family that is measured: a basis and a base, given or made.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use taskbasis::weights::Layout;
use taskbasis::{
    Arch, ArchHints, BaseFormat, Basis, BasisFile, Checkpoint, Coefficients, Error, ErrorKind, Grouping, MapMode,
    Model, ModelOptions, OpenModel, Packer, Result, StoredFormat, TaskExpr, TaskWeights, WeightsCache,
};

use super::machine;
use super::samples::time;
use super::synthetic::Synthetic;
use crate::args::{EncoderArgs, Session};
use crate::{checkpoints, output};

/// The files of one family, and bundles of it with its vectors in other formats.
pub struct Family {
    pub name: String,
    /// A bundle may hold it.
    base: Option<PathBuf>,
    /// The basis as it was given first, then others by the name of their format.
    bases: Vec<(String, PathBuf)>,
    /// The folder for what is made.
    root: PathBuf,
    /// The root, where it is temporary: its files go with it.
    _folder: Option<tempfile::TempDir>,
}

/// The family that the figures are of.
#[derive(Debug, Serialize)]
pub struct About {
    pub name: String,
    pub tasks: usize,
    pub vectors: usize,
    pub has_mean: bool,
    /// The type of the vectors.
    pub format: String,
    /// Parameters of the image tower.
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
    /// Opens the user's files.
    pub fn given(basis: &Path, base: Option<&Path>) -> Result<Self> {
        let format = format_of(&BasisFile::open(basis, MapMode::Map)?.into_basis()?);
        let name = basis.file_name().map_or_else(|| basis.to_string_lossy(), |name| name.to_string_lossy());
        let (root, folder) = root(None)?;
        let (name, base) = (name.into_owned(), base.map(Path::to_owned));
        Ok(Self { name, base, bases: vec![(format, basis.to_owned())], root, _folder: folder })
    }

    /// Random values in the published layout, with f32 vectors; written into `keep` unless they are there from the last
    /// time, or into a temporary folder.
    pub fn synthetic(wanted: &Synthetic, name: &str, keep: Option<&Path>) -> Result<Self> {
        let (root, folder) = root(keep)?;
        let base = root.join(format!("{name}.pt"));
        let basis = root.join(format!("{name}_M{}_T{}", wanted.vectors, wanted.tasks));
        let bar = output::progress(2, "writing a synthetic family");
        make(&base, |path| wanted.write_base(path))?;
        bar.inc(1);
        make(&basis, |path| wanted.write_basis(path))?;
        bar.finish_and_clear();
        let bases = vec![(wanted.dtype.to_string(), basis)];
        Ok(Self { name: format!("{name}, synthetic"), base: Some(base), bases, root, _folder: folder })
    }

    /// Packs bundles of the basis with its vectors in these formats, the base left out. The basis's own format is
    /// passed over, and so are all where it cannot be packed, which is said.
    pub fn add_formats(&mut self, formats: &[StoredFormat], hints: ArchHints) -> Result<()> {
        let (base, basis) = BasisFile::open(self.basis(), MapMode::Map)?.base_and_basis(self.open_base()?)?;
        let mut packer = match Packer::new(&base, &basis, hints) {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                output::note(&error.to_string());
                return Ok(());
            }
            packer => packer?,
        };
        packer.base_format(BaseFormat::LeftOut);
        let bar = output::progress(formats.len(), "packing other formats");
        let stem = self.basis().file_stem().map_or("basis".into(), |stem| stem.to_string_lossy().into_owned());
        let mut packed = Vec::new();
        for format in formats.iter().filter(|format| format.to_string() != self.bases[0].0) {
            let path = self.root.join(format!("{stem}_{format}.taskbasis"));
            make(&path, |path| packer.write(path, &packer.uniform(*format), &[], &|_| ()).map(drop))?;
            packed.push((format.to_string().to_owned(), path));
            bar.inc(1);
        }
        bar.finish_and_clear();
        self.bases.extend(packed);
        Ok(())
    }

    /// Packs the family as one bundle that holds its base, f32. For image towers whose shapes tell everything.
    pub fn packed(&self, format: StoredFormat) -> Result<Self> {
        let (base, basis) = BasisFile::open(self.basis(), MapMode::Map)?.base_and_basis(self.open_base()?)?;
        let mut packer = Packer::new(&base, &basis, ArchHints::default())?;
        packer.base_format(BaseFormat::F32);
        let (root, folder) = root(None)?;
        let path = root.join("model.taskbasis");
        packer.write(&path, &packer.uniform(format), &[], &|_| ())?;
        let bases = vec![(format.to_string().to_owned(), path)];
        Ok(Self { name: self.name.clone(), base: None, bases, root, _folder: folder })
    }

    /// The basis as it was given.
    pub fn basis(&self) -> &Path {
        &self.bases[0].1
    }

    /// The base's own file, where it has one.
    pub fn base(&self) -> Option<&Path> {
        self.base.as_deref()
    }

    /// The basis in every format: names and files.
    pub fn bases(&self) -> &[(String, PathBuf)] {
        &self.bases
    }

    /// The base, where it has a file of its own.
    pub fn open_base(&self) -> Result<Option<Checkpoint>> {
        self.base.as_deref().map(checkpoints::open).transpose()
    }

    /// The basis alone.
    pub fn open_basis(&self) -> Result<Basis> {
        BasisFile::open(self.basis(), MapMode::Map)?.into_basis()
    }

    /// Base and basis, opened.
    pub fn open(&self, threads: usize, cache_bytes: usize) -> Result<Arc<Model>> {
        self.open_format(self.basis(), threads, cache_bytes)
    }

    /// Opens the base with one of [`Family::bases`].
    pub fn open_format(&self, basis: &Path, threads: usize, cache_bytes: usize) -> Result<Arc<Model>> {
        self.session(basis, threads, cache_bytes).map(|session| Arc::clone(session.model()))
    }

    /// Opens the base with one of [`Family::bases`], its weights in a cache that others use too.
    pub fn open_sharing(&self, basis: &Path, threads: usize, cache: &Arc<WeightsCache>) -> Result<Arc<Model>> {
        let options = ModelOptions { threads, cache: Some(Arc::clone(cache)), ..ModelOptions::default() };
        let opened = OpenModel::of(BasisFile::open(basis, MapMode::Map)?, self.open_base()?, &options)?;
        Ok(Arc::clone(opened.model()))
    }

    /// One of [`Family::bases`], with the bundle where it is one.
    pub fn session(&self, basis: &Path, threads: usize, cache_bytes: usize) -> Result<Session> {
        let options = ModelOptions { threads, cache_bytes: Some(cache_bytes), ..ModelOptions::default() };
        let file = BasisFile::open(basis, MapMode::Map)?;
        OpenModel::of(file, self.open_base()?, &options).map(Session::new)
    }

    /// Describes the family.
    pub fn about(&self, args: &EncoderArgs) -> Result<About> {
        let session = self.session(self.basis(), 0, 0)?;
        let (arch, basis) = (args.arch(&session)?, basis_of(session.model())?);
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

    /// Bytes of memory that one task's weights take, as plain arrays.
    pub fn weights_bytes(&self) -> Result<usize> {
        self.weights_bytes_in(None)
    }

    /// Bytes of memory that one task's weights take in a layout, plain without.
    pub fn weights_bytes_in(&self, layout: Option<&Arc<Layout>>) -> Result<usize> {
        let model = self.open(0, 0)?;
        let basis = basis_of(&model)?;
        let weights = model.weights_from(first_vectors(basis, basis.vectors(), 0))?;
        layout.map_or_else(|| weights.get(), |layout| weights.in_layout(layout).get()).map(|weights| weights.nbytes())
    }

    /// The base's file and those of the basis that was given.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files: Vec<PathBuf> = self.base.iter().cloned().collect();
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

/// `keep`, or a folder that goes with what is given back beside it.
fn root(keep: Option<&Path>) -> Result<(PathBuf, Option<tempfile::TempDir>)> {
    let Some(keep) = keep else {
        let folder = tempfile::tempdir().map_err(|e| Error::io("cannot make a folder", std::env::temp_dir(), e))?;
        return Ok((folder.path().to_owned(), Some(folder)));
    };
    std::fs::create_dir_all(keep).map_err(|e| Error::io("cannot make the folder", keep, e))?;
    Ok((keep.to_owned(), None))
}

/// Makes a file or folder unless it is there. Under another name first: what was interrupted must not be taken for
/// whole the next time. And waits until it is on storage, so that nothing is written back while something is measured.
fn make(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    if part.is_dir() {
        std::fs::remove_dir_all(part).map_err(|e| Error::io("cannot remove", part, e))?;
    }
    write(part)?;
    for file in files_of(part)? {
        let synced = std::fs::File::open(&file).and_then(|file| file.sync_all());
        synced.map_err(|e| Error::io("cannot write back", &file, e))?;
    }
    std::fs::rename(part, path).map_err(|e| Error::io("cannot rename", part, e))
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

/// Coefficients for the first `m` vectors; the others are left out. Each `n` makes them other ones.
pub fn first_vectors(basis: &Basis, m: usize, n: usize) -> Coefficients {
    let value = |i: usize| if i < m { 0.3 + 0.01 * ((i + 3 * n) % 17) as f64 + 1e-6 * n as f64 } else { 0.0 };
    let vectors = (0..basis.vectors()).map(value).collect();
    Coefficients { vectors, ..Coefficients::zero(basis.vectors()) }
}

/// Two tasks that need the first `m` vectors, reconstructed in turn: as each is asked for, the other one is dropped,
/// and its memory used again. That is how a model works whose cache has room for one.
pub struct InTurn {
    tasks: [TaskWeights; 2],
    turn: usize,
}

impl InTurn {
    /// `model` must have room for one task, in this layout; plain without.
    pub fn new(model: &Arc<Model>, m: usize, layout: Option<&Arc<Layout>>) -> Result<Self> {
        let basis = basis_of(model)?;
        let task = |n| {
            let task = model.weights_from(first_vectors(basis, m, n))?;
            Ok::<_, Error>(layout.map_or_else(|| task.clone(), |layout| task.in_layout(layout)))
        };
        Ok(Self::of([task(0)?, task(1)?]))
    }

    /// These two, of a model that has room for one.
    pub fn of(tasks: [TaskWeights; 2]) -> Self {
        Self { tasks, turn: 0 }
    }

    /// Milliseconds for the next one. What it gives is dropped outside the timing.
    pub fn reconstruct(&mut self) -> Result<f64> {
        self.turn = 1 - self.turn;
        time(|| self.tasks[self.turn].get()).map(|(ms, _)| ms)
    }
}

/// Tasks of all vectors, none of which was asked for before: no cache has their weights.
pub struct Fresh {
    model: Arc<Model>,
    pub given: usize,
}

impl Fresh {
    pub fn of(model: &Arc<Model>) -> Self {
        Self { model: Arc::clone(model), given: 0 }
    }

    pub fn next(&mut self) -> Result<TaskWeights> {
        let basis = basis_of(&self.model)?;
        self.given += 1;
        self.model.weights_from(first_vectors(basis, basis.vectors(), self.given))
    }

    /// A task in which each of these groups has coefficients of its own.
    pub fn next_grouped(&mut self, grouping: &Grouping) -> Result<TaskWeights> {
        let basis = basis_of(&self.model)?;
        self.given += 1;
        let row = |group| first_vectors(basis, basis.vectors(), self.given + 2 * group);
        self.model.weights_from_matrix(grouping.coefficients((0..grouping.len()).map(row).collect())?)
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

    /// A number below `n`, by splitmix64 (Steele, Lea, Flood 2014).
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
