//! Files and folders in the making, beside the places that they will take. Each is locked while it is written: one
//! without a lock was left by a process that was killed, and goes when the next one writes there.

use std::fs::{self, File};
use std::io::{self, ErrorKind as IoKind};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use tempfile::{NamedTempFile, TempPath};

use super::attributes::Attributes;
use super::durable::sync_folder;
#[cfg(unix)]
use super::unfinished::Unfinished;
use super::version::is_same;
use crate::error::{Error, Result};

/// The prefix of what is ours beside outputs.
pub(super) const PREFIX: &str = ".taskbasis-";
const SUFFIX: &str = ".partial";
pub(super) const LOCK_SUFFIX: &str = ".lock";
/// The times that a new file or folder is taken for one left behind, before it is given up.
const MAX_TRIES: usize = 100;

/// The files that this process is writing, with their locks. A file that takes the place of one of these brings its
/// lock along.
static OWN: Mutex<Vec<(PathBuf, File)>> = Mutex::new(Vec::new());

/// A file in the making. Dropped, it is gone.
#[derive(Debug)]
pub(super) struct PartialFile {
    // Windows removes nothing that is held open like this.
    #[cfg(windows)]
    _own: Own,
    path: TempPath,
    #[cfg(not(windows))]
    _own: Own,
    #[cfg(unix)]
    _unfinished: Unfinished,
}

/// A line of [`OWN`], until it is dropped.
#[derive(Debug)]
struct Own(PathBuf);

impl Drop for Own {
    fn drop(&mut self) {
        OWN.lock().retain(|(path, _)| *path != self.0);
    }
}

/// Whether this process is writing the file.
pub(super) fn is_own(path: &Path) -> bool {
    OWN.lock().iter().any(|(own, _)| own == path)
}

impl PartialFile {
    /// A new one in `folder`; its owner's alone if `is_private`, else as any file (the umask applies).
    pub(super) fn in_folder(folder: &Path, is_private: bool) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX).suffix(SUFFIX);
        for _ in 0..MAX_TRIES {
            let made = builder.make_in(folder, |path| {
                #[cfg(unix)]
                let unfinished = Unfinished::file(path);
                let mut options = File::options();
                options.read(true).write(true).create_new(true);
                #[cfg(windows)]
                std::os::windows::fs::OpenOptionsExt::share_mode(&mut options, SHARED);
                #[cfg(unix)]
                std::os::unix::fs::OpenOptionsExt::mode(&mut options, if is_private { 0o600 } else { 0o666 });
                #[cfg(not(unix))]
                let _ = is_private;
                let file = options.open(path)?;
                #[cfg(unix)]
                return Ok((file, unfinished));
                #[cfg(not(unix))]
                Ok((file, ()))
            });
            let made: NamedTempFile<_> = made?;
            let ((file, _unfinished), path) = made.into_parts();
            if is_locked(&file, &path)? {
                let own = path.to_path_buf();
                OWN.lock().push((own.clone(), file));
                return Ok(Self {
                    path,
                    _own: Own(own),
                    #[cfg(unix)]
                    _unfinished,
                });
            }
        }
        Err(IoKind::ResourceBusy.into())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its place. Where that fails, it is gone.
    pub(super) fn take_place(mut self, place: &Path) -> io::Result<()> {
        #[cfg(windows)]
        let _again = let_go(&self.path, place);
        fs::rename(&self.path, place)?;
        // It is not where it would be removed from.
        self.path.disable_cleanup(true);
        let mut own = OWN.lock();
        let lock = own.iter().position(|(path, _)| **path == *self.path).map(|i| own.swap_remove(i).1);
        if let (Some(lock), Some((_, replaced))) = (lock, own.iter_mut().find(|(path, _)| *path == *place)) {
            *replaced = lock;
        }
        Ok(())
    }
}

/// What others may do with a file in the making on Windows: read and write it, but not remove it, which is what a lock
/// is for elsewhere. There a lock would keep its writer out as well.
#[cfg(windows)]
const SHARED: u32 = 3;

/// Lets go of a file in the making and of one whose place it takes, since Windows gives no place to and of what is held
/// open. The latter is held again when this is dropped.
#[cfg(windows)]
fn let_go(path: &Path, place: &Path) -> impl Drop + use<> {
    struct Again(Option<PathBuf>);

    impl Drop for Again {
        fn drop(&mut self) {
            let Some(place) = self.0.take() else { return };
            let mut options = File::options();
            std::os::windows::fs::OpenOptionsExt::share_mode(options.read(true).write(true), SHARED);
            // Where that fails, it can be removed by another that sweeps, as long as nothing has it open.
            if let Ok(file) = options.open(&place) {
                OWN.lock().push((place, file));
            }
        }
    }

    let mut own = OWN.lock();
    own.retain(|(own, _)| own != path);
    let replaced = own.iter().position(|(own, _)| own == place);
    Again(replaced.map(|i| own.swap_remove(i).0))
}

/// Locks what this process has just made. `false` where another took it for something left behind and removed it.
fn is_locked(file: &File, path: &Path) -> io::Result<bool> {
    // Waits for one who looks whether it is left behind. Where there are no locks, none removes it.
    #[cfg(not(windows))]
    let _ = file.lock();
    is_same(file, path)
}

/// A folder in the making, beside the place that it or what is made in it will take. Dropped, it is gone; one whose
/// process was killed is removed by the next that writes there.
#[derive(Debug)]
pub struct PartialFolder {
    folder: Folder,
    /// The folder itself, locked while it is written. Released with the process, however that ends.
    #[cfg(unix)]
    _lock: File,
    #[cfg(unix)]
    _unfinished: Option<Unfinished>,
}

/// The folder, which goes with this unless it has taken its place.
#[derive(Debug)]
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            // What cannot be removed is left to the next writer.
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// A folder that is its owner's alone.
fn create_private(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::DirBuilderExt::mode(&mut fs::DirBuilder::new(), 0o700).create(path);
    #[cfg(not(unix))]
    fs::create_dir(path)
}

impl PartialFolder {
    /// A new one in `around`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) from the file system.
    pub fn in_folder(around: &Path) -> Result<Self> {
        let failed = |e| Error::io("cannot create a folder in it", around, e);
        sweep(around);
        for _ in 0..MAX_TRIES {
            #[cfg(unix)]
            let mut unfinished = None;
            let made = tempfile::Builder::new().prefix(PREFIX).suffix(SUFFIX).make_in(around, |path| {
                // Kept before it is there: no signal comes in between.
                #[cfg(unix)]
                let _ = unfinished.insert(Unfinished::folder(path));
                create_private(path)
            });
            let path = made.and_then(|made| made.into_temp_path().keep().map_err(|e| e.error)).map_err(failed)?;
            let folder = Folder(path);
            #[cfg(not(unix))]
            return Ok(Self { folder });
            #[cfg(unix)]
            {
                let lock = match File::open(&folder.0) {
                    Err(e) if e.kind() == IoKind::NotFound => continue,
                    opened => opened.map_err(failed)?,
                };
                if is_locked(&lock, &folder.0).map_err(failed)? {
                    return Ok(Self { folder, _lock: lock, _unfinished: unfinished });
                }
            }
        }
        Err(failed(IoKind::ResourceBusy.into()))
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.folder.0
    }

    /// Gives it its place, which nothing or an empty folder may have, whose mode, owner and extended attributes it then
    /// keeps; else it is as any folder that is made. Where that fails, it is gone.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) from the file system.
    pub fn take_place(mut self, place: &Path) -> Result<()> {
        let failed = |doing: &str, e| Error::io(doing, place, e);
        match Attributes::of(place).map_err(|e| failed("cannot read its permissions", e))? {
            Some(kept) => kept.give(self.path()),
            None => share_permissions(self.path()),
        }
        .map_err(|e| failed("cannot set its permissions", e))?;
        sync_folder(self.path()).map_err(|e| failed("cannot write it to the disk", e))?;
        fs::rename(self.path(), place).map_err(|e| failed("cannot take its place", e))?;
        // It is not where it would be removed from.
        self.folder.0.clear();
        sync_folder(super::place::parent(place))
            .map_err(|e| failed("it is written, but its name may not be on the disk", e))
    }
}

/// Temporary folders are their owner's alone; this one is to be as any other.
#[cfg(unix)]
fn share_permissions(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;

    // What the umask makes of a new folder can only be seen on one.
    let probe = folder.join(".permissions");
    fs::create_dir(&probe)?;
    let mode = fs::metadata(&probe)?.permissions().mode();
    fs::remove_dir(&probe)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
fn share_permissions(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Removes what killed processes left in `folder`: partial folders and files without a lock, and the files of locks
/// that none holds. What cannot be removed stays, and takes nothing but room on the disk; so does all of it where the
/// file system knows no locks.
pub(super) fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_ours = |name: &str| name.starts_with(PREFIX) && [SUFFIX, LOCK_SUFFIX].iter().any(|s| name.ends_with(s));
        if name.to_str().is_some_and(is_ours) {
            remove_unlocked(&entry.path());
        }
    }
}

/// Removes a file or folder whose writer is gone. Locked while that is done: of two one does it, and who has just made
/// it, and not locked it yet, finds it gone and makes another.
fn remove_unlocked(path: &Path) {
    let Ok(about) = fs::symlink_metadata(path) else { return };
    if !about.is_dir() && !about.is_file() {
        return;
    }
    // Some file systems lock only what is open for writing.
    let opened = if about.is_file() { File::options().read(true).write(true).open(path) } else { File::open(path) };
    let Ok(held) = opened.or_else(|_| File::open(path)) else { return };
    if held.try_lock().is_err() || !is_same(&held, path).unwrap_or(false) {
        return;
    }
    let _ = if about.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}
