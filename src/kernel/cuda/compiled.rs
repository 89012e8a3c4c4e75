//! The compiled kernel, kept on the disk: compiling takes a third of a second, loading what was compiled nothing.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use twox_hash::XxHash3_128;

use super::device::Architecture;
use super::nvrtc::OPTIONS;
use crate::atomic_file::replace_file;
use crate::error::{Error, Result};

/// The environment variable that names the folder; set to nothing, nothing is kept.
pub(crate) const VARIABLE: &str = "TASKBASIS_KERNEL_CACHE";

/// What such a file begins with.
const MAGIC: [u8; 8] = *b"tbcuda01";

/// The folder: what [`VARIABLE`] says, else `taskbasis` in the user's folder for caches. `None` where there is none, or
/// none is wanted. `variable` looks up the environment.
pub(crate) fn folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(folder) = variable(VARIABLE) {
        return (!folder.is_empty()).then(|| folder.into());
    }
    let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // A relative path is no valid XDG_CACHE_HOME.
    let caches = path("XDG_CACHE_HOME").filter(|folder| folder.is_absolute());
    let caches = caches.or_else(|| path("HOME").map(|home| home.join(".cache"))).or_else(|| path("LOCALAPPDATA"));
    caches.map(|caches| caches.join("taskbasis"))
}

/// What `load` makes of the code of `source` for a device: from `folder` where it is there, else made by `compile`
/// and left there for the next time. A file that is damaged is written anew, and so is one that `load` refuses: a
/// folder that machines share may have code that is too new for the driver of one of them. A folder that cannot be
/// written to only costs the time.
///
/// # Errors
/// Those of `compile`, and those of `load` for what was just compiled.
pub(crate) fn load_or<T>(
    folder: Option<&Path>,
    source: &str,
    device: Architecture,
    compile: impl FnOnce() -> Result<Vec<u8>>,
    load: impl Fn(&[u8]) -> Result<T>,
) -> Result<T> {
    let path = folder.map(|folder| folder.join(file_name(source, device)));
    if let Some(image) = path.as_deref().and_then(read) {
        match load(&image) {
            Ok(loaded) => return Ok(loaded),
            Err(error) => tracing::warn!(%error, "the kernel that was kept is compiled anew"),
        }
    }
    let image = compile()?;
    let loaded = load(&image)?;
    if let Some(path) = path
        && let Err(error) = write(&path, &image)
    {
        tracing::warn!(%error, "the compiled kernel was not kept");
    }
    Ok(loaded)
}

/// Of everything that the code depends on.
fn file_name(source: &str, device: Architecture) -> String {
    let hash = XxHash3_128::oneshot(format!("{}\0{source}", OPTIONS.join("\0")).as_bytes());
    format!("combine-{hash:032x}-sm_{device}.bin")
}

/// `None` where there is none, or it is not what was written: the magic number, the hash of the image, the image.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = std::fs::read(path).ok()?;
    let (head, image) = bytes.split_at_checked(MAGIC.len() + 16)?;
    let hash = XxHash3_128::oneshot(image).to_le_bytes();
    if head != [MAGIC.as_slice(), &hash].concat() {
        return None;
    }
    bytes.drain(..MAGIC.len() + 16);
    Some(bytes)
}

fn write(path: &Path, image: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("cannot create the folder", folder, e))?;
    }
    let hash = XxHash3_128::oneshot(image).to_le_bytes();
    replace_file(path, &[], |to| {
        std::fs::write(to, [MAGIC.as_slice(), &hash, image].concat()).map_err(|e| Error::io("cannot write", to, e))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_compiled_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("of/caches");
        let load = |source: &str, device, compiled: Option<&[u8]>| {
            let compile = || compiled.map(<[u8]>::to_vec).ok_or_else(|| Error::invalid("compiled again"));
            load_or(Some(&folder), source, device, compile, |image| Ok(image.to_vec()))
        };
        assert!(load("source", 90, None).is_err(), "a failure leaves nothing");
        assert_eq!(load("source", 90, Some(b"image")).unwrap(), b"image");
        assert_eq!(load("source", 90, None).unwrap(), b"image");
        assert!(load("source", 80, None).is_err() && load("source.", 90, None).is_err());
        let files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        let [file] = files.as_slice() else { panic!("{files:?}") };

        // Cut, or with any byte changed.
        let whole = std::fs::read(file).unwrap();
        for damaged in (0..whole.len()).map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        }) {
            std::fs::write(file, &damaged).unwrap();
            assert!(load("source", 90, None).is_err());
            std::fs::write(file, &whole[..damaged.len() / 2]).unwrap();
            assert!(load("source", 90, None).is_err());
        }
        assert_eq!(load("source", 90, Some(b"anew")).unwrap(), b"anew");
        assert_eq!(load("source", 90, None).unwrap(), b"anew");
    }

    #[test]
    fn the_folder_is_the_users() {
        let folder = |set: &[(&str, &str)]| {
            folder(|name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into()))
        };
        let home = ("HOME", "/home/me");
        assert_eq!(folder(&[home]), Some("/home/me/.cache/taskbasis".into()));
        assert_eq!(folder(&[home, ("XDG_CACHE_HOME", "/caches")]), Some("/caches/taskbasis".into()));
        assert_eq!(folder(&[home, ("XDG_CACHE_HOME", "caches")]), Some("/home/me/.cache/taskbasis".into()));
        assert_eq!(folder(&[home, (VARIABLE, "here")]), Some("here".into()));
        assert_eq!(folder(&[home, (VARIABLE, "")]), None);
        assert_eq!(folder(&[]), None);
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_is_no_failure() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for folder in [Some(file.path()), None] {
            let load = |image: &[u8]| Ok(image.to_vec());
            assert_eq!(load_or(folder, "source", 90, || Ok(vec![1]), load).unwrap(), [1]);
            assert!(load_or(folder, "source", 90, || Err(Error::invalid("compiled again")), load).is_err());
        }
    }

    #[test]
    fn code_that_is_refused_is_compiled_anew() {
        let folder = tempfile::tempdir().unwrap();
        let load = |compiled: &[u8], wanted: &[u8]| {
            load_or(
                Some(folder.path()),
                "source",
                90,
                || Ok(compiled.to_vec()),
                |image| {
                    if image == wanted { Ok(()) } else { Err(Error::invalid("of another driver")) }
                },
            )
        };
        assert!(load(b"new", b"old").is_err(), "compiled, and refused: not kept");
        load(b"new", b"new").unwrap();
        load(b"old", b"old").unwrap();
        load(b"neither", b"old").unwrap();
    }
}
