//! Checking a file of any kind that is opened anywhere: all of its bytes, checksums, shapes and numbers.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::BasisFile;
use crate::basis::Basis;
use crate::bundle::Bundle;
use crate::checkpoint::integrity::{raw, verify_file};
use crate::error::{Error, ErrorKind, Result};
use crate::heads::{self, Head};
use crate::hub::{Wanted, local};
use crate::kernel::share;
use crate::mmap::{MapMode, Mapping};
use crate::onnx::OnnxFile;
use crate::tensor::Tensor;

/// What [`verify`] has checked and found to be right.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Verified {
    /// The kind of file: `bundle`, `basis`, `checkpoint`, `heads` or `graph`.
    pub kind: &'static str,
    /// Every file that was read.
    pub files: Vec<PathBuf>,
    /// Bytes of them.
    pub bytes: u64,
    /// Tensors in them.
    pub tensors: usize,
    /// What could not be checked, and what is as it should be and still worth knowing: a sentence each.
    pub notes: Vec<String>,
}

/// Reads every byte of what lies at `path` (a bundle, a basis folder, a checkpoint in any form, an adapter, heads, a
/// graph) from the disk and checks all that the files say of themselves: checksums, structure, shapes, and that every
/// number is finite. Nothing is touched through a mapping before it was read, so that a failing disk is an error with
/// file and byte. `progress` is called with bytes as they are done, [`Verified::bytes`] altogether. Threads: 0 means
/// one per processor.
///
/// Of masks, −∞ is a number (`…mask` in a checkpoint, any tensor of a graph).
///
/// # Errors
/// Everything that is wrong, each naming file and tensor or byte.
pub fn verify(path: &Path, threads: usize, progress: &(dyn Fn(u64) + Sync)) -> Result<Verified, Vec<Error>> {
    let path = local(path, Wanted::Path).map_err(|e| vec![e])?;
    let ends = |end: &str| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(end));
    // A damaged beginning makes no other file of a bundle.
    if Bundle::is_bundle(&path) || ends("taskbasis") && !path.is_dir() {
        of_bundle(&path, threads, progress)
    } else if BasisFile::is_folder(&path) || path.file_name().is_some_and(|name| name == "basis_vectors.pt") {
        of_basis(&path, threads, progress)
    } else if ends("onnx") {
        of_graph(&path, threads, progress)
    } else {
        of_tensors(&path, threads, progress)
    }
}

impl Verified {
    fn new(kind: &'static str, files: Vec<PathBuf>) -> Result<Self> {
        let size = |file: &PathBuf| Ok(std::fs::metadata(file).map_err(|e| Error::io("cannot open", file, e))?.len());
        let bytes = files.iter().map(size).sum::<Result<u64>>()?;
        Ok(Self { kind, files, bytes, tensors: 0, notes: Vec::new() })
    }

    /// Reads the files, and notes which checksums were not compared.
    fn read(&mut self, threads: usize, progress: &(dyn Fn(u64) + Sync)) -> Result<(), Vec<Error>> {
        let notes = Mutex::new(Vec::new());
        all(threads, self.files.iter().collect(), |file| {
            let packed = verify_file(file, progress)?;
            if packed > 0 {
                notes.lock().push(format!(
                    "{}: {packed} compressed entries, which hold no weights, are read and not unpacked",
                    file.display()
                ));
            }
            Ok(())
        })?;
        self.notes.append(&mut notes.into_inner());
        Ok(())
    }
}

fn of_bundle(path: &Path, threads: usize, progress: &(dyn Fn(u64) + Sync)) -> Result<Verified, Vec<Error>> {
    let one = |e| vec![e];
    let mut verified = Verified::new("bundle", vec![path.to_path_buf()]).map_err(one)?;
    let bundle = Bundle::open(path).map_err(one)?;
    let errors = bundle.verify(threads, progress);
    verified.tensors = bundle.sections().iter().map(|section| section.tensors).sum();
    if errors.is_empty() { Ok(verified) } else { Err(errors) }
}

fn of_basis(path: &Path, threads: usize, progress: &(dyn Fn(u64) + Sync)) -> Result<Verified, Vec<Error>> {
    let one = |e| vec![e];
    // Nothing but headers and tables is looked at.
    let basis = Basis::open(path).map_err(one)?;
    let mut verified = Verified::new("basis", basis.files().to_vec()).map_err(one)?;
    verified.read(threads, progress)?;
    let sources: Vec<_> = basis
        .parameters()
        .flat_map(|(name, parameter)| parameter.sources().iter().map(move |source| (name, source)))
        .collect();
    verified.tensors = sources.len();
    all(threads, sources, |(name, source)| {
        let finite = source.in_memory().and_then(|source| source.verify_finite());
        finite.map_err(|e| e.at(source.mapping().path()).tensor(name))
    })?;
    Ok(verified)
}

fn of_graph(path: &Path, threads: usize, progress: &(dyn Fn(u64) + Sync)) -> Result<Verified, Vec<Error>> {
    let one = |e| vec![e];
    // What it consists of is read through the mapping: the bytes first.
    let readable = |path: &Path| Mapping::open(path, MapMode::Map)?.verify_readable(&|_| ());
    readable(path).map_err(one)?;
    let graph = OnnxFile::open(path).map_err(one)?;
    let mut verified = Verified::new("graph", graph.files().map(Path::to_path_buf).collect()).map_err(one)?;
    verified.read(threads, progress)?;
    let (masks, floats) = (Mutex::new(Vec::new()), graph.floats().collect::<Vec<_>>());
    verified.tensors = floats.len();
    all(threads, floats, |(name, tensor)| {
        // Bounds, not weights.
        if tensor.numel() < 2 {
            return Ok(());
        }
        check(name, tensor, path, true, &masks)
    })?;
    verified.notes.append(&mut masks.into_inner());
    Ok(verified)
}

/// A checkpoint, heads, or a folder of either.
fn of_tensors(path: &Path, threads: usize, progress: &(dyn Fn(u64) + Sync)) -> Result<Verified, Vec<Error>> {
    let one = |e| vec![e];
    let heads = heads::head_places(path).map_err(one)?;
    let places: Vec<PathBuf> = if heads.is_empty() { vec![path.to_path_buf()] } else { heads };
    let contents = places.iter().map(|place| raw(place)).collect::<Result<Vec<_>>>().map_err(one)?;
    let files = contents.iter().flat_map(|content| content.files.clone()).collect();
    let mut verified = Verified::new("checkpoint", files).map_err(one)?;
    verified.read(threads, progress)?;
    let (masks, mut tensors) = (Mutex::new(Vec::new()), Vec::new());
    for content in &contents {
        for (name, stored) in &content.tensors {
            match stored {
                Ok(tensor) => tensors.push((name.as_str(), tensor, &content.files[0])),
                Err(unread) => verified.notes.push(format!(
                    "{}: the numbers of tensor `{name}` are not looked at: {}",
                    content.files[0].display(),
                    unread.reason()
                )),
            }
        }
    }
    verified.tensors = contents.iter().map(|content| content.tensors.len()).sum();
    let has_weight = |(name, ..): &(&str, &Tensor, &PathBuf)| *name == "weight" || name.ends_with("/weight");
    let may_be_heads = tensors.iter().any(has_weight);
    all(threads, tensors, |(name, tensor, file)| {
        let may_be_mask = name.rsplit('.').next().is_some_and(|last| last.contains("mask"));
        check(name, tensor, file, may_be_mask, &masks)
    })?;
    verified.notes.append(&mut masks.into_inner());
    if may_be_heads {
        let tasks = heads::head_tasks(path).map_err(one)?;
        let opened = match tasks.is_empty() {
            true => Head::open(path, None).map(drop),
            false => tasks.iter().try_for_each(|task| Head::open(path, Some(task)).map(drop)),
        };
        opened.map_err(one)?;
        verified.kind = "heads";
    }
    Ok(verified)
}

/// Checks that a tensor's numbers are finite; in a mask, that the others are −∞, which is noted.
fn check(name: &str, tensor: &Tensor, file: &Path, may_be_mask: bool, masks: &Mutex<Vec<String>>) -> Result<()> {
    let read = tensor.in_memory().map_err(|e| e.tensor(name))?;
    let Err(error) = read.verify_finite() else { return Ok(()) };
    let is_mask = || {
        let fine = |value: &f32| value.is_finite() || *value == f32::NEG_INFINITY;
        error.kind() == ErrorKind::Format && read.to_f32().is_ok_and(|values| values.iter().all(fine))
    };
    if may_be_mask && is_mask() {
        masks.lock().push(format!("{}: tensor `{name}` holds −∞, as masks do", file.display()));
        return Ok(());
    }
    Err(error.at(file).tensor(name))
}

/// Does `work` on every piece, and gives every error, in the order of the pieces.
fn all<T: Send>(threads: usize, pieces: Vec<T>, work: impl Fn(T) -> Result<()> + Sync) -> Result<(), Vec<Error>> {
    let found = Mutex::new(Vec::new());
    let pieces: Vec<_> = pieces.into_iter().enumerate().collect();
    // `share` ends at the first error, and every one is wanted: they go into the list instead.
    let done = share(threads, pieces, |(place, piece), (): &mut ()| {
        if let Err(error) = work(piece) {
            found.lock().push((place, error));
        }
        Ok(())
    });
    let mut found = found.into_inner();
    found.sort_by_key(|(place, _)| *place);
    let errors: Vec<Error> = found.into_iter().map(|(_, error)| error).chain(done.err()).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}
