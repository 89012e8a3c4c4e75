//! Files on the Hugging Face Hub: `hf://owner/repo[@revision]/path`, found in its cache or downloaded into it.
//!
//! [`local`] exchanges such a path for one on the disk; [`Hub`] lists and pulls. The cache is the one that every client
//! of the Hub uses (`models--owner--repo/{blobs,refs,snapshots}`), so what Python has downloaded is found here, and the
//! other way round. A file gets its place there when its size and its hash are those that the repository lists: SHA-256
//! of large files, git's SHA-1 of small ones. Of a server that lists nothing (a proxy of the Hub without its API) one
//! named file can be had, checked by what its headers tell. A download that was interrupted goes on where it stopped.
//!
//! The requests are made here, over `ureq`: of the crates named hf-hub, 1.0 neither resumes nor compares hashes nor
//! heeds `Retry-After`, and brings an asynchronous runtime; 0.5 lists no folders and keeps partial files by names of
//! its own.
//!
//! Without the feature `hub`, [`local`] knows such paths and refuses them.

mod address;
#[cfg(feature = "hub")]
mod cache;
#[cfg(feature = "hub")]
mod companions;
#[cfg(feature = "hub")]
mod configs;
#[cfg(feature = "hub")]
mod download;
#[cfg(feature = "hub")]
mod event;
#[cfg(feature = "hub")]
mod expand;
#[cfg(feature = "hub")]
mod http;
#[cfg(feature = "hub")]
mod listing;
#[cfg(feature = "hub")]
mod options;
#[cfg(feature = "hub")]
mod pull;
#[cfg(feature = "hub")]
mod resolve;
#[cfg(feature = "hub")]
mod retry;

use std::borrow::Cow;
use std::path::Path;

pub use self::address::{HubPath, Wanted};
#[cfg(feature = "hub")]
pub use self::event::HubEvent;
#[cfg(feature = "hub")]
pub use self::listing::HubFolder;
#[cfg(feature = "hub")]
pub use self::options::HubOptions;
#[cfg(feature = "hub")]
pub use self::pull::{Hub, Pulled, PulledFile};

use crate::error::Result;

/// `path` itself, or, where it begins with `hf://`, the local copy of what it names: the cached one, which costs no
/// request, else one that is downloaded now. [`HubOptions::from_env`] tells what the environment has to say.
///
/// # Errors
/// As [`Hub::resolve`]; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a path of the Hub where the
/// feature `hub` is not built in.
pub fn local(path: &Path, wanted: Wanted) -> Result<Cow<'_, Path>> {
    if !HubPath::is_meant(path) {
        return Ok(Cow::Borrowed(path));
    }
    #[cfg(feature = "hub")]
    {
        let address: HubPath = path.to_string_lossy().parse()?;
        Ok(Cow::Owned(Hub::new(HubOptions::from_env()?)?.resolve(&address, wanted, &|_| {})?))
    }
    #[cfg(not(feature = "hub"))]
    {
        let _ = wanted;
        Err(crate::error::Error::unsupported("this build cannot open paths of the Hugging Face Hub")
            .at(path)
            .hint("Fetch it with `taskbasis pull`, and give the path that it prints; or build with the feature `hub`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_paths_are_left_alone() {
        for path in ["basis", "/a/b", "hf:/owner/repo", "folder/hf://owner/repo"] {
            assert_eq!(local(Path::new(path), Wanted::Path).unwrap(), Path::new(path));
        }
    }

    #[cfg(not(feature = "hub"))]
    #[test]
    fn without_the_feature_they_are_refused() {
        let error = local(Path::new("hf://owner/repo/folder"), Wanted::Path).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Unsupported);
        assert!(error.to_string().contains("taskbasis pull"), "{error}");
    }
}
