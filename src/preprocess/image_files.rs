//! The image files of a folder: which files count, and what is told of the others.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::present;

/// The endings of files that hold images, in small letters; what they really hold is told by their content.
const ENDINGS: [&str; 16] = [
    "png", "apng", "jpg", "jpeg", "jpe", "jfif", "webp", "gif", "bmp", "dib", "tif", "tiff", "ppm", "pgm", "pbm", "pnm",
];

/// Whether a file's name ends as those of image files do that are read, in letters of either case.
pub fn is_image_name(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    ending.is_some_and(|ending| ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known)))
}

/// The names of what systems leave in folders.
const LEFT_BY_SYSTEMS: [&str; 3] = ["thumbs.db", "desktop.ini", "__macosx"];

/// The most folders inside each other that are looked into.
const MAX_DEPTH: usize = 32;

/// The image files of one folder, in the order of their paths.
///
/// Hidden files and folders (`.DS_Store`, the `._*` files of a Mac) and those that systems make (`Thumbs.db`) are
/// passed over.
#[derive(Debug, Default)]
pub struct ImageFiles {
    files: Vec<PathBuf>,
    hidden: Vec<PathBuf>,
    others: Vec<PathBuf>,
    below: usize,
}

impl ImageFiles {
    /// The images in `folder`; with `recursive` also those in its subfolders, each folder once, whatever links there
    /// are.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when a folder cannot be listed, or folders are nested more than 32
    /// deep.
    pub fn of(folder: impl AsRef<Path>, recursive: bool) -> Result<Self> {
        let mut found = Self::default();
        found.look_into(folder.as_ref(), recursive, &mut Vec::new())?;
        found.files.sort();
        Ok(found)
    }

    /// The paths of the images.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The paths of the images, owned.
    pub fn into_files(self) -> Vec<PathBuf> {
        self.files
    }

    /// The hidden files whose names are those of images, which were passed over: a Mac's `._photo.jpg` is none.
    pub fn hidden(&self) -> &[PathBuf] {
        &self.hidden
    }

    /// The other files, whose names are not those of images.
    pub fn others(&self) -> &[PathBuf] {
        &self.others
    }

    /// The number of images in subfolders that were not taken, as `recursive` was not asked for.
    pub fn below(&self) -> usize {
        self.below
    }

    /// `above`: the folders that lead here, by their true paths, among which a link may lead back.
    fn look_into(&mut self, folder: &Path, recursive: bool, above: &mut Vec<PathBuf>) -> Result<()> {
        let here = folder.canonicalize().map_err(|e| Error::io("cannot list the folder", folder, e))?;
        if above.contains(&here) {
            return Ok(());
        }
        if above.len() == MAX_DEPTH {
            let error = Error::new(crate::ErrorKind::Io, "the folders are nested too deeply").at(folder);
            return Err(error.expected(format_args!("at most {MAX_DEPTH} folders in each other")));
        }
        let is_top = above.is_empty();
        above.push(here);
        let depth = above.len();
        for path in entries(folder)? {
            if is_hidden(&path) {
                let counts = (is_top || recursive) && is_image_name(&path) && !present::is_folder(&path)?;
                self.hidden.extend(counts.then_some(path));
            } else if present::is_folder(&path)? {
                match self.look_into(&path, recursive, above) {
                    // Only counted: a folder that cannot be listed (`lost+found`) is no reason to fail.
                    Err(_) if !recursive => above.truncate(depth),
                    looked => looked?,
                }
            } else if !is_image_name(&path) {
                self.others.extend((is_top || recursive).then_some(path));
            } else if is_top || recursive {
                self.files.push(path);
            } else {
                self.below += 1;
            }
        }
        above.pop();
        Ok(())
    }
}

/// Everything in `folder` that people put there, in the order of the names.
pub(crate) fn visible(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = entries(folder)?;
    paths.retain(|path| !is_hidden(path));
    Ok(paths)
}

/// Whether a file or folder is hidden, or one that systems make by themselves.
fn is_hidden(path: &Path) -> bool {
    let name = name_of(path);
    name.starts_with('.') || LEFT_BY_SYSTEMS.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Everything in `folder`, in the order of the paths.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io("cannot list the folder", folder, e);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        paths.push(entry.map_err(failed)?.path());
    }
    paths.sort();
    Ok(paths)
}

/// The folders in `folder` with their names, in the order of the names.
pub(crate) fn subfolders(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut folders = Vec::new();
    for path in visible(folder)? {
        if present::is_folder(&path)? {
            folders.push((name_of(&path), path));
        }
    }
    Ok(folders)
}

/// The last part of a path. What is not Unicode in it shows as such, and is never left out.
pub(crate) fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn hidden_files_are_passed_over_and_what_is_left_out_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for name in ["b.PNG", "a.jpg", "._a.jpg", ".DS_Store", "Thumbs.db", "notes.txt", "more/c.jpeg", ".git/d.png"] {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found = ImageFiles::of(root, false).unwrap();
        assert_eq!(found.files(), [root.join("a.jpg"), root.join("b.PNG")]);
        assert_eq!((found.others().len(), found.below()), (1, 1));
        assert_eq!(found.hidden(), [root.join("._a.jpg")]);
        let found = ImageFiles::of(root, true).unwrap();
        assert_eq!(found.files(), [root.join("a.jpg"), root.join("b.PNG"), root.join("more/c.jpeg")]);
        assert_eq!((found.others().len(), found.below()), (1, 0));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_back_ends() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(folder.path().join("sub/a.png"), "").unwrap();
        std::os::unix::fs::symlink(folder.path(), folder.path().join("sub/back")).unwrap();
        assert_eq!(ImageFiles::of(folder.path(), true).unwrap().files().len(), 1);
        assert_eq!(ImageFiles::of(folder.path(), false).unwrap().below(), 1);
    }
}
