//! Listings of a repository: its commits, folders and files, as the Hub's API lists them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::address::{HubPath, is_relative};
use super::event::Listener;
use super::http::{Client, text_of};
use super::retry::Failure;
use crate::error::{Error, ErrorKind, Result};

/// Pages of a listing, of up to 1,000 entries each; a repository with more is none of ours.
const MAX_PAGES: usize = 2_000;
/// Files and folders of a listing, over all of its pages.
const MAX_ENTRIES: usize = 500_000;
/// Bytes of a listing, over all of its pages; some 200 for each file.
const MAX_BYTES: usize = 256 << 20;

/// A file as the repository lists it.
#[derive(Clone, Debug)]
pub(super) struct ListedFile {
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) digest: Digest,
}

impl ListedFile {
    /// A file of a snapshot that links to a blob, which is called by its hash; `None` for any other.
    pub(super) fn of_blob(snapshot: &Path, path: &str) -> Option<Self> {
        let place = snapshot.join(path);
        let blob = fs::read_link(&place).ok()?;
        let name = blob.file_name()?.to_str()?.to_owned();
        let digest = match name.len() {
            64 if is_hex(&name, 64) => Digest::Sha256(name),
            // Small files of servers that pass the Hub's answers on may be called by either.
            40 if is_hex(&name, 40) => Digest::Sha1(name),
            _ => return None,
        };
        Some(Self { path: path.to_owned(), size: fs::metadata(&place).ok()?.len(), digest })
    }

    /// A file of a snapshot, whose hash is not asked for.
    pub(super) fn local(path: String, size: u64) -> Self {
        Self { path, size, digest: Digest::Git(String::new()) }
    }
}

/// The digest that a file's content is known by; also its name in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Digest {
    /// SHA-256 of the content of a large file, in 64 digits.
    Sha256(String),
    /// SHA-1 of git's header and the content of a small file, in 40 digits.
    Git(String),
    /// SHA-1 of the content of a file whose server passes the Hub's answers on with ETags of its own, with git's
    /// header or without.
    Sha1(String),
    /// A name for a file whose hash nothing tells, and that no other file and no other commit has.
    Unchecked(String),
}

impl Digest {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Sha256(text) | Self::Git(text) | Self::Sha1(text) | Self::Unchecked(text) => text,
        }
    }
}

/// A folder with files in it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HubFolder {
    /// The path from the repository's root; empty for the root itself.
    pub path: String,
    /// Files that lie in it, not counting its folders'.
    pub files: usize,
    /// Bytes of those files.
    pub bytes: u64,
    /// Whether the cache has all of them.
    pub cached: bool,
}

/// The files that an address names at a commit.
pub(super) struct Listing {
    pub(super) commit: String,
    /// The revision by which the files' content is asked for.
    pub(super) at: String,
    pub(super) entries: Vec<ListedFile>,
    pub(super) is_folder: bool,
}

#[derive(Deserialize)]
struct RevisionAnswer {
    sha: String,
}

#[derive(Deserialize)]
struct TreeItem {
    r#type: String,
    path: String,
    oid: Option<String>,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

/// Files and folders.
#[derive(Default)]
pub(super) struct Tree {
    pub(super) files: Vec<ListedFile>,
    pub(super) folders: Vec<String>,
}

impl Tree {
    /// The folders that the error for a missing one names: those with files in them, and those above these.
    pub(super) fn all_folders(&self) -> Vec<&str> {
        let mut all: Vec<&str> = self.folders.iter().map(String::as_str).collect();
        all.extend(self.files.iter().filter_map(|file| Some(file.path.rsplit_once('/')?.0)));
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Folders that have files of their own.
    pub(super) fn with_files(&self, is_cached: impl Fn(&ListedFile) -> bool) -> Vec<HubFolder> {
        let mut folders: BTreeMap<&str, HubFolder> = BTreeMap::new();
        for file in &self.files {
            let path = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
            let folder = folders.entry(path).or_insert_with(|| HubFolder {
                path: path.into(),
                files: 0,
                bytes: 0,
                cached: true,
            });
            folder.files += 1;
            folder.bytes = folder.bytes.saturating_add(file.size);
            folder.cached &= is_cached(file);
        }
        folders.into_values().collect()
    }
}

impl Client {
    /// The commit that the revision is at now.
    pub(super) fn commit(&self, address: &HubPath, listener: Listener<'_>) -> Result<String, Failure> {
        let url = self.api(address, "revision", address.revision(), "");
        let root = address.with_path("")?;
        let (_, text) = self.text(&url, &root, listener)?;
        let info: RevisionAnswer = serde_json::from_str(&text).map_err(|e| not_the_hub(&root).because(e))?;
        match is_hex(&info.sha, 40) {
            true => Ok(info.sha),
            false => Err(not_the_hub(&root).expected("a commit's 40 digits").got(format!("`{}`", info.sha)).into()),
        }
    }

    /// The content of the folder `path` at `commit`. `None` where there is no such folder.
    pub(super) fn tree(
        &self,
        address: &HubPath,
        commit: &str,
        path: &str,
        recursive: bool,
        listener: Listener<'_>,
    ) -> Result<Option<Tree>, Failure> {
        let mut url = format!("{}?recursive={recursive}", self.api(address, "tree", commit, path));
        let folder = address.with_path(path)?;
        let mut tree = Tree::default();
        let mut bytes = 0;
        for _ in 0..MAX_PAGES {
            let (headers, text) = match self.text(&url, &folder, listener) {
                Ok(page) => page,
                // Revision and repository are there, so it is the folder that is not.
                Err(e) if e.error.kind() == ErrorKind::NotFound && !path.is_empty() => return Ok(None),
                Err(e) => return Err(e),
            };
            bytes += text.len();
            let items: Vec<TreeItem> = serde_json::from_str(&text).map_err(|e| not_the_hub(&folder).because(e))?;
            check_bounds(tree.files.len() + tree.folders.len() + items.len(), bytes, &folder)?;
            for item in items {
                tree.add(item, address, path)?;
            }
            match text_of(&headers, "link").and_then(next_page) {
                Some(next) => url = next.to_owned(),
                None => return Ok(Some(tree)),
            }
        }
        Err(not_the_hub(&folder).expected(format!("at most {MAX_PAGES} pages")).into())
    }
}

/// Refuses a listing that takes more memory than that of any repository would.
fn check_bounds(entries: usize, bytes: usize, folder: &HubPath) -> Result<()> {
    let too_long = |most: String, got: String| {
        Err(Error::format("the listing is longer than that of any repository that holds bases")
            .at(folder.to_string())
            .expected(most)
            .got(got)
            .hint("Name a folder or a file of it"))
    };
    if entries > MAX_ENTRIES {
        return too_long(format!("at most {MAX_ENTRIES} files and folders"), format!("{entries} or more"));
    }
    if bytes > MAX_BYTES {
        return too_long(format!("at most {MAX_BYTES} bytes"), format!("{bytes} or more"));
    }
    Ok(())
}

impl Tree {
    /// Takes one line of a listing of `folder`, which cannot be trusted: what it names becomes a path on the disk.
    fn add(&mut self, item: TreeItem, address: &HubPath, folder: &str) -> Result<()> {
        let broken = |what: &str| not_the_hub(address).got(format!("{what} of `{}`", item.path.escape_debug()));
        let inside = folder.is_empty()
            || item.path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if !is_relative(&item.path) || !inside {
            return Err(broken("the path"));
        }
        match (item.r#type.as_str(), item.lfs, item.oid, item.size) {
            ("directory", ..) => self.folders.push(item.path),
            ("file", Some(Lfs { oid, size }), ..) if is_hex(&oid, 64) => {
                self.files.push(ListedFile { path: item.path, size, digest: Digest::Sha256(oid) });
            }
            ("file", None, Some(oid), Some(size)) if is_hex(&oid, 40) => {
                self.files.push(ListedFile { path: item.path, size, digest: Digest::Git(oid) });
            }
            ("file", ..) => return Err(broken("no size and hash")),
            // Submodules and whatever else git has hold no files of this repository.
            _ => {}
        }
        Ok(())
    }
}

fn not_the_hub(address: &HubPath) -> Error {
    Error::format("the answer is not what the Hub would say").at(address.to_string())
}

/// Lower-case hexadecimal digits: also a safe name for a file.
pub(super) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The address of `<https://…>; rel="next"` among others.
fn next_page(mut link: &str) -> Option<&str> {
    loop {
        let (address, rest) = link.split_once('<')?.1.split_once('>')?;
        let (parameters, others) = rest.split_at(rest.find('<').unwrap_or(rest.len()));
        if parameters.contains("rel=\"next\"") {
            return Some(address);
        }
        link = others;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_others() {
        assert_eq!(next_page("<https://hub.test/a?cursor=b>; rel=\"next\""), Some("https://hub.test/a?cursor=b"));
        assert_eq!(next_page("<https://a>; rel=\"prev\", <https://b>; rel=\"next\""), Some("https://b"));
        assert_eq!(next_page("<https://a>; rel=\"prev\""), None);
    }

    #[test]
    fn a_listing_has_bounds_over_all_its_pages() {
        let folder: HubPath = "hf://o/r/folder".parse().unwrap();
        check_bounds(MAX_ENTRIES, MAX_BYTES, &folder).unwrap();
        for (entries, bytes, why) in [(MAX_ENTRIES + 1, 0, "500000 files"), (0, MAX_BYTES + 1, "268435456 bytes")] {
            let error = check_bounds(entries, bytes, &folder).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Format);
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn a_listing_cannot_lead_out_of_the_cache() {
        let address: HubPath = "hf://o/r/folder".parse().unwrap();
        let item = |path: &str, oid: &str| TreeItem {
            r#type: "file".into(),
            path: path.into(),
            oid: Some(oid.into()),
            size: Some(1),
            lfs: None,
        };
        let hash = "a".repeat(40);
        let add = |path: &str, oid: &str| Tree::default().add(item(path, oid), &address, "folder");
        assert!(add("folder/a", &hash).is_ok());
        for path in ["../a", "/etc/passwd", "folder/../../a", "folder//a", "folder/a\\b", "other/a", "folderx/a", "C:a"]
        {
            assert!(add(path, &hash).is_err(), "{path}");
        }
        for oid in ["", "../../a", &"A".repeat(40), &"a".repeat(39), &"a".repeat(64)] {
            assert!(add("folder/a", oid).is_err(), "{oid}");
        }
    }
}
