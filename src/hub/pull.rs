//! Listing and pulling: a folder, a file, a base, from the Hub or from what the cache has.

use std::fs;
use std::path::{Path, PathBuf};

use super::address::{HubPath, Wanted};
use super::cache::{RepoCache, Whole};
use super::companions;
use super::download::{Download, look};
use super::event::{HubEvent, Listener};
use super::http::Client;
use super::listing::{HubFolder, ListedFile, Listing, Tree};
use super::options::HubOptions;
use super::resolve;
use super::retry::Failure;
use crate::checkpoint::choose;
use crate::did_you_mean;
use crate::error::{Error, ErrorKind, Result};

/// A file that a basis folder always has.
const BASIS: &str = "method_info.json";

/// The files that [`Hub::pull`] brought.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Pulled {
    /// The address that was asked for.
    pub address: HubPath,
    /// The commit that its revision is at.
    pub commit: String,
    /// The file or folder on the disk.
    pub local: PathBuf,
    /// The files in it.
    pub files: Vec<PulledFile>,
}

/// One file of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PulledFile {
    /// The path from the repository's root.
    pub path: String,
    /// The file's size in bytes.
    pub bytes: u64,
    /// Whether it came from the Hub just now; else the cache had it.
    pub downloaded: bool,
    /// Whether the cache had something else in its place, which [`HubOptions::verify`] found.
    pub damaged: bool,
}

/// The Hugging Face Hub, and its cache on this machine.
pub struct Hub {
    options: HubOptions,
    client: Client,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("options", &self.options).finish()
    }
}

impl Hub {
    /// Makes a client; nothing is asked for yet.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for an endpoint that is no web address.
    pub fn new(options: HubOptions) -> Result<Self> {
        let client = Client::new(&options)?;
        Ok(Self { options, client })
    }

    /// The local copy of what `address` names. Where the cache has all of it, nothing is asked for; a branch is then
    /// where it was when it was pulled.
    ///
    /// # Errors
    /// As [`Hub::pull`] and, but for [`Wanted::Path`], [`Hub::checkpoint`].
    pub fn resolve(&self, address: &HubPath, wanted: Wanted, listener: &dyn Fn(HubEvent<'_>)) -> Result<PathBuf> {
        if wanted == Wanted::Base {
            let local = self.resolve(address, Wanted::Checkpoint, listener)?;
            self.bring_configs(&local, listener);
            return Ok(local);
        }
        if let Some(local) = self.cached(address, wanted) {
            return Ok(local);
        }
        if wanted == Wanted::Path {
            return Ok(self.pull(address, listener)?.local);
        }
        companions::check_whole(address)?;
        let pulled = self.pull(&self.checkpoint(address, listener)?, listener)?;
        self.pull_beside(&pulled, listener)?;
        Ok(pulled.local)
    }

    pub(super) fn cache_folder(&self) -> &Path {
        &self.options.cache
    }

    pub(super) fn is_offline(&self) -> bool {
        self.options.offline
    }

    /// Brings the file or folder that `address` names, as it is now, into the cache: what is missing of it, and nothing
    /// else of the repository. A repository without a path is its own basis folder, if it is one.
    ///
    /// `listener` is told how it goes. A download that was interrupted goes on; of processes that pull the same at once
    /// one downloads and the others wait.
    ///
    /// # Errors
    /// Each names the address and what to do. [`ErrorKind::NotFound`] for a repository, revision, file or folder that
    /// is not there (it lists the folders that are), or that the cache lacks where only that may be used;
    /// [`ErrorKind::Format`] for content of another size or hash than the repository lists, of which nothing is kept;
    /// [`ErrorKind::Io`] for a Hub that cannot be reached or refuses, and for a full disk.
    pub fn pull(&self, address: &HubPath, listener: &dyn Fn(HubEvent<'_>)) -> Result<Pulled> {
        let cache = self.cache(address);
        if self.options.offline {
            return self.pull_offline(address, &cache, listener);
        }
        let found = self.look_up(address, listener);
        let Listing { commit, at, entries, is_folder } =
            found.or_else(|failure| self.client.by_name(address, failure, listener))?;
        let missing: Vec<&ListedFile> = entries.iter().filter(|entry| !cache.has(&commit, entry)).collect();
        if !missing.is_empty() || self.options.verify {
            cache.create().map_err(|e| cache.unwritable(e, &missing, entries.len()))?;
        }
        let mut total = 0_u64;
        for entry in &missing {
            let come = fs::metadata(cache.incomplete(&entry.digest)).map_or(0, |part| part.len());
            total = total.saturating_add(entry.size.saturating_sub(come));
        }
        if let Some(free) = cache.free().filter(|&free| free < total) {
            return Err(Error::new(ErrorKind::Io, format!("no room for {address} on the disk"))
                .at(&self.options.cache)
                .expected(format!("{total} bytes free"))
                .got(free)
                .hint("Nothing was downloaded. Make room, or set HF_HOME to a folder on another disk"));
        }
        let wanted: Vec<&ListedFile> = match self.options.verify {
            true => entries.iter().collect(),
            false => missing,
        };
        let total = wanted.iter().map(|entry| entry.size).sum();
        let mut before = 0;
        let (mut downloaded, mut damaged) = (Vec::new(), Vec::new());
        for entry in wanted {
            let address = address.with_path(&entry.path)?;
            let progress = |done| listener(HubEvent::Progress { done: before + done, total });
            let download = Download {
                client: &self.client,
                cache: &cache,
                address: &address,
                commit: &commit,
                at: &at,
                entry,
                verify: self.options.verify,
                progress: &progress,
                listener,
            };
            let done = download.run().map_err(|e| cache.unwritable(e, &[entry], entries.len()))?;
            downloaded.extend(done.downloaded.then_some(&entry.path));
            damaged.extend(done.damaged.then_some(&entry.path));
            before += entry.size;
        }
        // Told first, so that a folder of which links are missing, whatever ended their making, is not taken for whole.
        let noted = if is_folder { cache.mark(&commit, address.path(), &entries) } else { Ok(()) };
        // The snapshot shows a folder when all of it is there.
        for entry in &entries {
            cache.link(&commit, entry)?;
        }
        // Everything is there: what cannot be noted of it is asked for once more another time.
        if let Err(e) = noted.and_then(|()| cache.set_ref(address.revision(), &commit)) {
            tracing::debug!("{address} is all there, and the cache takes no note of it: {e}");
        }
        let file = |entry: &ListedFile| PulledFile {
            path: entry.path.clone(),
            bytes: entry.size,
            downloaded: downloaded.contains(&&entry.path),
            damaged: damaged.contains(&&entry.path),
        };
        let files = entries.iter().map(file).collect();
        let local = cache.snapshot(&commit).join(address.path());
        Ok(Pulled { address: address.clone(), commit, local, files })
    }

    /// Brings what is read together with a checkpoint's file that was pulled: the parts that an index names, an
    /// adapter's configuration; of the same commit.
    ///
    /// # Errors
    /// As [`Hub::pull`]; [`ErrorKind::Format`](crate::ErrorKind::Format) for an index that cannot be read.
    pub fn pull_beside(&self, pulled: &Pulled, listener: &dyn Fn(HubEvent<'_>)) -> Result<Vec<PulledFile>> {
        let listener: Listener<'_> = listener;
        let address = &pulled.address;
        let folder = address.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut files = Vec::new();
        for name in companions::names(&pulled.local)? {
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            let beside = HubPath::new(address.repo(), Some(&pulled.commit), &path)?;
            files.extend(self.pull(&beside, listener)?.files);
        }
        Ok(files)
    }

    /// The address of the one checkpoint in the folder that `address` names, as [`choose::choose`] decides. A file is
    /// itself.
    ///
    /// # Errors
    /// As [`Hub::pull`]; [`ErrorKind::NotFound`] where no file is that one, naming those that could be.
    pub fn checkpoint(&self, address: &HubPath, listener: &dyn Fn(HubEvent<'_>)) -> Result<HubPath> {
        let cache = self.cache(address);
        let files = if self.options.offline {
            let commit = self.commit_offline(address, &cache)?;
            match cache.snapshot(&commit).join(address.path()) {
                local if local.is_dir() => files_in(&local, address.path()),
                _ => return Ok(address.clone()),
            }
        } else {
            let commit = self.client.commit(address, listener);
            let tree = commit.and_then(|commit| self.client.tree(address, &commit, address.path(), false, listener));
            match tree {
                Ok(Some(tree)) => tree.files.into_iter().map(|file| file.path).collect(),
                Ok(None) => return Ok(address.clone()),
                // A server that lists nothing may have the file that is named.
                Err(failure) if failure.is_unknown && !address.path().is_empty() => return Ok(address.clone()),
                Err(failure) => return Err(resolve::name_a_file(failure)),
            }
        };
        if files.iter().any(|file| file == address.path()) {
            return Ok(address.clone());
        }
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let at = |file: &str| address.with_path(file).map_or_else(|_| file.to_owned(), |at| at.to_string());
        let chosen = choose::choose(&files, at).map_err(|e| e.at(address.to_string()))?;
        address.with_path(chosen)
    }

    /// The commit that the revision of `address` is at, and the folders of the repository that have files, below the
    /// path of `address`.
    ///
    /// # Errors
    /// As [`Hub::pull`].
    pub fn folders(&self, address: &HubPath, listener: &dyn Fn(HubEvent<'_>)) -> Result<(String, Vec<HubFolder>)> {
        let cache = self.cache(address);
        if self.options.offline {
            let commit = self.commit_offline(address, &cache)?;
            let mut tree = Tree::default();
            walk(&cache.snapshot(&commit), address.path(), &mut tree);
            return Ok((commit, tree.with_files(|_| true)));
        }
        let (commit, tree) = self.list(address, listener).map_err(resolve::name_a_file)?;
        let folders = tree.with_files(|file| cache.has(&commit, file));
        Ok((commit, folders))
    }

    fn list(&self, address: &HubPath, listener: Listener<'_>) -> Result<(String, Tree), Failure> {
        let commit = self.client.commit(address, listener)?;
        match self.client.tree(address, &commit, address.path(), true, listener)? {
            Some(tree) => Ok((commit, tree)),
            None => Err(self.no_such(address, &commit, listener)?.into()),
        }
    }

    pub(super) fn cache(&self, address: &HubPath) -> RepoCache {
        RepoCache::new(&self.options.cache, address)
    }

    /// What the cache has for certain.
    fn cached(&self, address: &HubPath, wanted: Wanted) -> Option<PathBuf> {
        let cache = self.cache(address);
        let commit = cache.commit(address.revision())?;
        let local = cache.snapshot(&commit).join(address.path());
        if local.is_file() {
            return Some(local).filter(|local| wanted == Wanted::Path || companions::is_whole(local));
        }
        match wanted {
            Wanted::Path => (local.is_dir() && cache.whole(&commit, address.path()) == Whole::Yes).then_some(local),
            // The Hub may have a better one than the cache, except than the best.
            Wanted::Checkpoint | Wanted::Base => Some(local.join(choose::PUBLISHED[0])).filter(|best| best.is_file()),
        }
    }

    fn commit_offline(&self, address: &HubPath, cache: &RepoCache) -> Result<String> {
        cache.commit(address.revision()).filter(|commit| cache.snapshot(commit).is_dir()).ok_or_else(|| {
            self.not_cached("nothing of it is in the cache", address).hint(format!(
                "The cache is {}. With a network, unset HF_HUB_OFFLINE and leave --offline out",
                self.options.cache.display()
            ))
        })
    }

    fn not_cached(&self, what: &str, address: &HubPath) -> Error {
        Error::not_found(format!("{what}, and the Hub may not be asked (offline)")).at(address.to_string())
    }

    /// Hashes files of a snapshot that are links to blobs, whose names are their hashes, where that is asked for.
    fn verify_offline<'a>(
        &self,
        address: &HubPath,
        snapshot: &Path,
        files: impl IntoIterator<Item = &'a str>,
        listener: Listener<'_>,
    ) -> Result<()> {
        let mut damaged = Vec::new();
        for path in files.into_iter().filter(|_| self.options.verify) {
            let Some(listed) = ListedFile::of_blob(snapshot, path) else { continue };
            let found = match look(&snapshot.join(path), &listed) {
                Ok(None) => continue,
                Ok(Some(found)) => found,
                Err(e) => e.to_string(),
            };
            listener(HubEvent::Damaged { path, expected: listed.digest.text(), got: &found });
            damaged.push(path);
        }
        if damaged.is_empty() {
            return Ok(());
        }
        Err(Error::format(format!("the cache's copy is damaged of {}", damaged.join(", ")))
            .at(address.to_string())
            .hint("Pull it with --verify and with a network: it is fetched anew"))
    }

    fn pull_offline(&self, address: &HubPath, cache: &RepoCache, listener: Listener<'_>) -> Result<Pulled> {
        let commit = self.commit_offline(address, cache)?;
        let snapshot = cache.snapshot(&commit);
        let local = snapshot.join(address.path());
        if let Whole::No(file) = cache.whole(&commit, address.path()) {
            return Err(self.not_cached(&format!("the cache has lost {file} of it"), address));
        }
        let mut tree = Tree::default();
        if local.is_file() {
            self.verify_offline(address, &snapshot, [address.path()], listener)?;
            let bytes = fs::metadata(&local).map_or(0, |found| found.len());
            let file = PulledFile { path: address.path().into(), bytes, downloaded: false, damaged: false };
            return Ok(Pulled { address: address.clone(), commit, local, files: vec![file] });
        }
        walk(&snapshot, address.path(), &mut tree);
        if address.path().is_empty() && !local.join(BASIS).is_file() || tree.files.is_empty() {
            let mut all = Tree::default();
            walk(&snapshot, "", &mut all);
            return Err(match address.path() {
                "" => unnamed(address, &all),
                _ => missing(address, &all, "cached folder"),
            });
        }
        let file =
            |entry: ListedFile| PulledFile { path: entry.path, bytes: entry.size, downloaded: false, damaged: false };
        let is_meant = |file: &ListedFile| !address.path().is_empty() || !file.path.contains('/');
        tree.files.retain(is_meant);
        self.verify_offline(address, &snapshot, tree.files.iter().map(|file| file.path.as_str()), listener)?;
        let files = tree.files.into_iter();
        Ok(Pulled { address: address.clone(), commit, local, files: files.map(file).collect() })
    }

    /// The files that `address` names, as the Hub lists them.
    fn look_up(&self, address: &HubPath, listener: Listener<'_>) -> Result<Listing, Failure> {
        let commit = self.client.commit(address, listener)?;
        let (entries, is_folder) = self.find(address, &commit, listener)?;
        Ok(Listing { at: commit.clone(), commit, entries, is_folder })
    }

    /// The files that `address` names at `commit`, and whether they are a folder.
    fn find(
        &self,
        address: &HubPath,
        commit: &str,
        listener: Listener<'_>,
    ) -> Result<(Vec<ListedFile>, bool), Failure> {
        let path = address.path();
        let is_folder = !path.is_empty();
        let tree = self.client.tree(address, commit, path, is_folder, listener)?;
        match tree {
            // All of a repository is never meant.
            Some(tree) if path.is_empty() => match tree.files.iter().any(|file| file.path == BASIS) {
                true => Ok((tree.files, true)),
                false => Err(unnamed(address, &tree).into()),
            },
            Some(tree) if !tree.files.is_empty() => {
                let is_folder = tree.files[0].path != path;
                Ok((tree.files, is_folder))
            }
            _ => {
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                let around = self.client.tree(address, commit, folder, false, listener)?.unwrap_or_default();
                match around.files.into_iter().find(|file| file.path == path) {
                    Some(file) => Ok((vec![file], false)),
                    None => Err(self.no_such(address, commit, listener)?.into()),
                }
            }
        }
    }

    /// The error for a path that the repository lacks.
    fn no_such(&self, address: &HubPath, commit: &str, listener: Listener<'_>) -> Result<Error, Failure> {
        let all = self.client.tree(address, commit, "", true, listener)?.unwrap_or_default();
        Ok(missing(address, &all, "folder"))
    }
}

/// The error for a path that is not among `tree`'s: names the folders, and what was probably meant.
fn missing(address: &HubPath, tree: &Tree, what: &str) -> Error {
    let folders = tree.all_folders();
    let error = did_you_mean::unknown(what, address.path(), folders.iter().copied());
    let files = tree.files.iter().map(|file| file.path.as_str());
    let nearest = did_you_mean::nearest(address.path(), folders.iter().copied().chain(files));
    let error = match nearest {
        Some(nearest) => error.hint(format!("Did you mean `{nearest}`?")),
        None => error,
    };
    error.at(address.to_string())
}

/// The error for an address without a path, where one is needed.
fn unnamed(address: &HubPath, tree: &Tree) -> Error {
    let mut known = tree.all_folders();
    known.truncate(40);
    let files = tree.files.iter().map(|file| file.path.as_str()).filter(|path| !path.contains('/')).take(10);
    Error::invalid("a folder or a file of the repository has to be named")
        .at(address.to_string())
        .expected(format!("one of {}", known.into_iter().chain(files).collect::<Vec<_>>().join(", ")))
        .hint("`taskbasis pull --list` shows them all, `--base` takes the checkpoint")
}

/// The files in a folder of a snapshot, by their paths in the repository.
fn files_in(folder: &Path, path: &str) -> Vec<String> {
    let mut tree = Tree::default();
    walk_one(folder, path, &mut tree);
    tree.files.into_iter().map(|file| file.path).collect()
}

/// What a snapshot has below `path`.
fn walk(snapshot: &Path, path: &str, tree: &mut Tree) {
    let mut next = tree.folders.len();
    walk_one(&snapshot.join(path), path, tree);
    while let Some(folder) = tree.folders.get(next).cloned() {
        walk_one(&snapshot.join(&folder), &folder, tree);
        next += 1;
    }
}

fn walk_one(folder: &Path, path: &str, tree: &mut Tree) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    for name in names {
        let inner = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
        // Links are followed: files are links to blobs, and a dangling one is no file.
        match fs::metadata(folder.join(&name)) {
            Ok(found) if found.is_dir() => tree.folders.push(inner),
            Ok(found) => tree.files.push(ListedFile::local(inner, found.len())),
            Err(_) => {}
        }
    }
}
