//! `hf://owner/repo@revision/path`, taken apart and checked.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::did_you_mean::is_hub_name;
use crate::error::{Error, Result};

/// What the addresses begin with.
const SCHEME: &str = "hf://";
/// The branch that is meant where none is named.
const MAIN: &str = "main";
const FORM: &str = "hf://owner/repo/path or hf://owner/repo@revision/path";

/// A file or a folder of a model repository on the Hugging Face Hub: `hf://owner/repo[@revision][/path]`.
///
/// A revision is a branch, a tag, a commit or `refs/pr/N`; a slash in a branch's name is written `%2F`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HubPath {
    repo: String,
    revision: String,
    path: String,
}

/// The kind of thing that a path of the Hub is to lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The file or folder that it names.
    Path,
    /// A checkpoint: of a folder, the one model file that is in it, as [`crate::checkpoint::choose`] decides; with an
    /// index come the files that it names, with an adapter its configuration.
    Checkpoint,
    /// A checkpoint as for [`Wanted::Checkpoint`], together with the configurations beside it.
    Base,
}

impl HubPath {
    /// Whether `path` is meant to be one: it begins with `hf://`.
    pub fn is_meant(path: impl AsRef<Path>) -> bool {
        path.as_ref().as_os_str().as_encoded_bytes().starts_with(SCHEME.as_bytes())
    }

    /// `path` of `repo` (`owner/name`) at `revision`; an empty path is the repository's root, no revision its `main`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for names that the Hub could not have, and for
    /// paths that lead out of the repository.
    pub fn new(repo: &str, revision: Option<&str>, path: &str) -> Result<Self> {
        let revision = revision.unwrap_or(MAIN);
        let refused = |what: &str, text: &str| Error::invalid(format!("`{text}` is no {what}"));
        match repo.split_once('/') {
            Some(("datasets" | "spaces", _)) => {
                return Err(Error::unsupported(format!("`{repo}`: only model repositories hold what runs here")));
            }
            Some((owner, name)) if is_hub_name(owner) && is_hub_name(name) => {}
            _ => return Err(refused("repository", repo).expected("OWNER/REPO")),
        }
        if !is_relative(revision) {
            return Err(refused("revision", revision).expected(FORM));
        }
        let path = path.trim_matches('/');
        let path = if path == "." { "" } else { path };
        if !path.is_empty() && !is_relative(path) {
            return Err(refused("path within a repository", path).expected(FORM));
        }
        Ok(Self { repo: repo.into(), revision: revision.into(), path: path.into() })
    }

    /// `owner/name`.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// The branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The file or folder, from the repository's root; empty for the root itself.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The address of another file or folder of the same revision.
    ///
    /// # Errors
    /// As [`HubPath::new`].
    pub fn with_path(&self, path: &str) -> Result<Self> {
        Self::new(&self.repo, Some(&self.revision), path)
    }
}

impl FromStr for HubPath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let rest = text.strip_prefix(SCHEME).unwrap_or(text);
        // Neither owners nor names have an `@`, so the first one ends them; folders may have some.
        let mut slashes = rest.match_indices('/').map(|(at, _)| at).skip(1);
        let end = slashes.next().unwrap_or(rest.len());
        let (repo, path) = (&rest[..end], &rest[end..]);
        match rest.split_once('@').filter(|(repo, _)| repo.len() < end) {
            None => Self::new(repo, None, path),
            Some((repo, rest)) => {
                // `refs/pr/3` is one name.
                let parts = if rest.starts_with("refs/") { 3 } else { 1 };
                let end = rest.match_indices('/').map(|(at, _)| at).nth(parts - 1).unwrap_or(rest.len());
                let revision = rest[..end].replace("%2F", "/").replace("%2f", "/");
                Self::new(repo, Some(&revision), &rest[end..])
            }
        }
    }
}

impl fmt::Display for HubPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.repo)?;
        if self.revision != MAIN {
            let encoded = match self.revision.starts_with("refs/") && self.revision.split('/').count() == 3 {
                true => self.revision.clone(),
                false => self.revision.replace('/', "%2F"),
            };
            write!(f, "@{encoded}")?;
        }
        if !self.path.is_empty() {
            write!(f, "/{}", self.path)?;
        }
        Ok(())
    }
}

/// Whether `path` stays below where it begins, on every system: no root, no drive, no step up, nothing empty.
pub(super) fn is_relative(path: &str) -> bool {
    path.len() <= 4096
        && path.split('/').all(|part| {
            !matches!(part, "" | "." | "..") && !part.contains(['\\', ':']) && !part.chars().any(char::is_control)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, String, String) {
        let HubPath { repo, revision, path } = text.parse().unwrap();
        (repo, revision, path)
    }

    #[test]
    fn every_form_is_understood() {
        let of = |repo: &str, revision: &str, path: &str| (repo.to_owned(), revision.to_owned(), path.to_owned());
        assert_eq!(parts("hf://o/r"), of("o/r", "main", ""));
        assert_eq!(parts("o/r/"), of("o/r", "main", ""));
        assert_eq!(parts("hf://o/r/a/b.pt"), of("o/r", "main", "a/b.pt"));
        assert_eq!(parts("hf://o/r@v1.0/a/b@2"), of("o/r", "v1.0", "a/b@2"));
        assert_eq!(parts("hf://o/r/a@2/b"), of("o/r", "main", "a@2/b"));
        assert_eq!(parts("hf://o/r@refs/pr/3/a"), of("o/r", "refs/pr/3", "a"));
        assert_eq!(parts("hf://o/r@refs/pr/3"), of("o/r", "refs/pr/3", ""));
        assert_eq!(parts("hf://o/r@feature%2Fx/a"), of("o/r", "feature/x", "a"));
        for text in ["hf://o/r", "hf://o/r@v1/a", "hf://o/r@refs/pr/3/a", "hf://o/r@feature%2Fx/a/b"] {
            assert_eq!(text.parse::<HubPath>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn nothing_leads_out() {
        for text in [
            "hf://",
            "hf://o",
            "hf://o/",
            "hf:///r",
            "hf://../r",
            "hf://o/..",
            "hf://o/r/../x",
            "hf://o/r/a//b",
            "hf://o/r/a/./b",
            "hf://o/r/a\\b",
            "hf://o/r/C:x",
            "hf://o/r@/a",
            "hf://o/r@../a",
            "hf://o/r@a%2F..%2Fb/c",
            "hf://o/a--b",
            "hf://o/r\n/a",
            "hf://o/.git",
            "hf://datasets/o/r",
        ] {
            assert!(text.parse::<HubPath>().is_err(), "{text:?}");
        }
    }
}
