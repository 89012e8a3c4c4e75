//! Writing files so that nothing is ever lost: a file is replaced whole or not at all.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Result};

/// The prefix of files and folders that are being written, until they take their places.
const PREFIX: &str = ".taskbasis-";
const SUFFIX: &str = ".partial";
/// The age of the last write after which a file or folder without a lock counts as left behind.
const ABANDONED_AFTER: Duration = Duration::from_secs(600);

/// Writes a file through a sibling that takes its place when it is complete and on the disk.
///
/// Whatever happens on the way, `path` holds its old content or all of the new, and a mapping of the old file stays
/// valid. Where `path` is a symbolic link, the file that it names is replaced. `inputs` are what the content comes
/// from: a `path` that is one of them, or lies in one that is a folder and exists already, is refused. `write` is given
/// the sibling's path; the file exists and is empty.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for an output that is an input,
/// [`ErrorKind::Io`](crate::ErrorKind::Io) from the file system, and whatever `write` says.
pub fn replace_file(path: &Path, inputs: &[&Path], write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    check_output(path, inputs)?;
    // What a link names is replaced, not the link.
    let resolved = path.canonicalize();
    let path = resolved.as_deref().unwrap_or(path);
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let failed = |doing: &str, e: std::io::Error| Error::io(doing, path, e);
    sweep(folder);
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Temporary files are their owner's alone by default; this one is to be as any file (the umask applies).
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let sibling = builder.tempfile_in(folder).map_err(|e| failed("cannot create a file beside it", e))?;
    // Where locks are mandatory, `write` could not open it; elsewhere a failure costs no more than an early `sweep`.
    #[cfg(unix)]
    let _ = sibling.as_file().try_lock();
    let permissions = sibling.as_file().metadata().map_err(|e| failed("cannot read its metadata", e))?.permissions();
    // From here on an early return removes the sibling.
    write(sibling.path())?;
    // `write` may have put another file in the sibling's place.
    std::fs::set_permissions(sibling.path(), permissions).map_err(|e| failed("cannot set its permissions", e))?;
    let written = std::fs::OpenOptions::new().write(true).open(sibling.path());
    written.and_then(|file| file.sync_all()).map_err(|e| failed("cannot write it to the disk", e))?;
    sibling.persist(path).map_err(|e| failed("cannot take its place", e.error))?;
    // The new name is on the disk only with its folder; a file system that cannot say so has nothing to sync.
    let _ = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

/// A folder in the making, beside the place that it or what is made in it will take. Dropped, it is gone; one whose
/// process was killed is removed by the next that writes there.
#[derive(Debug)]
pub struct PartialFolder {
    folder: tempfile::TempDir,
    /// The folder itself, locked while it is written. Released with the process, however that ends.
    #[cfg(unix)]
    _lock: File,
}

impl PartialFolder {
    /// A new one in `around`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) from the file system.
    pub fn in_folder(around: &Path) -> Result<Self> {
        let failed = |e| Error::io("cannot create a folder in it", around, e);
        sweep(around);
        let folder = tempfile::Builder::new().prefix(PREFIX).suffix(SUFFIX).tempdir_in(around).map_err(failed)?;
        // Locked before anything is in it: until then `sweep` leaves it alone.
        #[cfg(unix)]
        let _lock = File::open(folder.path()).map_err(failed)?;
        #[cfg(unix)]
        _lock.lock().map_err(failed)?;
        Ok(Self {
            folder,
            #[cfg(unix)]
            _lock,
        })
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Gives it its place. Where that fails, it is gone.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) from the file system.
    pub fn take_place(self, place: &Path) -> Result<()> {
        fs::rename(self.path(), place).map_err(|e| Error::io("cannot take its place", place, e))?;
        // It is not where it would be removed from.
        let _ = self.folder.keep();
        Ok(())
    }
}

/// Removes what killed processes left in `folder`: partial folders and files without a lock. What cannot be removed
/// stays, and takes nothing but room on the disk.
fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX)) {
            continue;
        }
        let path = entry.path();
        let Ok(about) = entry.metadata() else { continue };
        if !about.is_dir() && !about.is_file() {
            continue;
        }
        // Locked while it is removed, so that of two one does it.
        let Ok(held) = File::open(&path) else { continue };
        if held.try_lock().is_err() {
            continue;
        }
        let age = about.modified().ok().and_then(|modified| modified.elapsed().ok());
        let is_old = age.is_some_and(|age| age > ABANDONED_AFTER);
        // An empty folder may belong to a process that has not locked it yet.
        let is_empty = fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none());
        if about.is_dir() && (is_old || !is_empty) {
            let _ = fs::remove_dir_all(&path);
        } else if about.is_file() && is_old {
            let _ = fs::remove_file(&path);
        }
    }
}

/// Whether a file may be written to `path`: what [`replace_file`] checks first. For work that takes long, and whose
/// result should not be refused at its end.
///
/// # Errors
/// As [`replace_file`], before anything is written.
pub fn check_output(path: &Path, inputs: &[&Path]) -> Result<()> {
    let refused = |why: &str| Err(Error::new(crate::ErrorKind::Io, why).at(path));
    if path.is_dir() {
        return refused("is a folder: give the name of a file to write");
    }
    if path.is_symlink() && !path.exists() {
        return refused("is a link to a file that is not there");
    }
    if path.exists() && !path.is_file() {
        // A device or a pipe would be gone, a file in its place.
        return refused("is no regular file, and cannot be replaced by one");
    }
    if path.parent().is_some_and(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
        return refused("cannot create a file there: its folder does not exist");
    }
    if let Some(input) = inputs.iter().find(|input| overlaps(path, input)) {
        let what = if input.is_dir() { "a file of the input folder" } else { "the input" };
        return Err(Error::invalid(format!("would overwrite {what} {}", input.display()))
            .at(path)
            .hint("Choose another name for the output"));
    }
    Ok(())
}

fn overlaps(output: &Path, input: &Path) -> bool {
    match (output.canonicalize(), input.canonicalize()) {
        (Ok(output), Ok(input)) => output.starts_with(input),
        _ => false, // An output that does not exist yet overwrites nothing.
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn entries(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn all_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        fs::write(&path, "old").unwrap();
        let failed = replace_file(&path, &[], |sibling| {
            fs::write(sibling, "half").unwrap();
            Err(Error::invalid("stopped half-way"))
        });
        assert!(failed.unwrap_err().to_string().contains("stopped half-way"));
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), entries(folder.path())), ("old", 1));

        replace_file(&path, &[], |sibling| {
            fs::write(sibling, "new").map_err(|e| Error::io("cannot write", sibling, e))
        })
        .unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), entries(folder.path())), ("new", 1));
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_and_devices_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let write = |sibling: &Path| fs::write(sibling, "new").map_err(|e| Error::io("cannot write", sibling, e));
        replace_file(&link, &[], write).unwrap();
        assert!(link.is_symlink() && fs::read_to_string(&file).unwrap() == "new");
        let mode = |path: &Path| std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions());
        fs::write(folder.path().join("usual"), "").unwrap();
        assert_eq!(mode(&file), mode(&folder.path().join("usual")), "as any file that is made");
        assert!(replace_file(&link, &[&file], |_| unreachable!("the link names an input")).is_err());

        let dangling = folder.path().join("dangling");
        std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
        assert!(replace_file(&dangling, &[], |_| unreachable!("it names nothing")).is_err());

        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let error = replace_file(&socket, &[], |_| unreachable!("it is no file")).unwrap_err();
        assert!(error.to_string().contains("no regular file"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn what_others_left_is_removed_and_what_they_write_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let old = std::time::SystemTime::now() - 2 * ABANDONED_AFTER;
        let file = |name: &str| {
            let file = File::create(at(name)).unwrap();
            file.set_modified(old).unwrap();
            file
        };
        let (_, locked) = (file(".taskbasis-left.partial"), file(".taskbasis-locked.partial"));
        locked.lock().unwrap();
        file("theirs.partial");
        file(".taskbasis-other");
        File::create(at(".taskbasis-new.partial")).unwrap();
        for name in ["a", "b", "c", "d"] {
            fs::create_dir(at(&format!(".taskbasis-{name}.partial"))).unwrap();
        }
        for name in ["a", "b"] {
            File::create(at(&format!(".taskbasis-{name}.partial")).join("half")).unwrap();
        }
        let busy = File::open(at(".taskbasis-b.partial")).unwrap();
        busy.lock().unwrap();
        File::open(at(".taskbasis-d.partial")).unwrap().set_modified(old).unwrap();
        sweep(folder.path());
        let mut names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        // `c` may belong to a process that has not locked it yet.
        let stay =
            ["b.partial", "c.partial", "locked.partial", "new.partial", "other"].map(|n| format!(".taskbasis-{n}"));
        assert_eq!(names, [&stay[..], &["theirs.partial".into()]].concat());
    }

    #[test]
    fn inputs_are_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("basis");
        fs::create_dir(&input).unwrap();
        let inside = input.join("basis_vectors.pt");
        fs::write(&inside, "precious").unwrap();
        let spelled_differently = input.join("..").join("basis").join("basis_vectors.pt");
        for (output, input) in [(&inside, &inside), (&inside, &input), (&spelled_differently, &inside)] {
            let error = replace_file(output, &[input], |_| unreachable!("it must not come to writing")).unwrap_err();
            let folder = if input.is_dir() { "a file of the input folder" } else { "the input" };
            assert!(error.to_string().contains(&format!("would overwrite {folder} ")), "{error}");
        }
        assert!(replace_file(&input, &[], |_| unreachable!()).is_err(), "a folder");
        assert!(replace_file(&input.join("new"), &[&input], |_| Ok(())).is_ok(), "a new name overwrites nothing");
        assert!(replace_file(Path::new("no/such/folder/x"), &[], |_| unreachable!()).is_err());
        assert_eq!(fs::read_to_string(inside).unwrap(), "precious");
    }
}
