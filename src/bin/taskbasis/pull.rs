//! `taskbasis pull`

use std::ffi::OsString;

use clap::Args;
use serde_json::json;
use taskbasis::hub::{Hub, HubFolder, HubOptions, HubPath, Pulled};
use taskbasis::{Error, Result};

use crate::command_line::GlobalArgs;
use crate::conflicts::{Given, Refused, option};
use crate::hub::Watch;
use crate::output;

/// Download published bases and checkpoints from the Hugging Face Hub, into its cache.
///
/// Only the folders or files that are named come, what the cache has is not downloaded again, and what was interrupted
/// goes on. Sizes and hashes are compared with those that the repository lists. Prints where each is on this machine, a
/// line each. Every other command takes hf://owner/repo[@revision]/path where it takes a path: the cached copy, or a
/// download.
///
/// The environment has the say that it has with every client of the Hub: HF_HOME and HF_HUB_CACHE (where the cache is),
/// HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE, HF_HUB_DOWNLOAD_TIMEOUT.
#[derive(Args)]
pub struct Pull {
    /// Repository: owner/name.
    #[arg(value_name = "OWNER/REPO", required_unless_present = "base")]
    repo: Option<HubPath>,

    /// Folders or files of it.
    #[arg(value_name = "FOLDER")]
    paths: Vec<String>,

    /// Bring a base instead: the checkpoint that this repository has, open_clip's own file before others; or the file
    /// that is named, as owner/name/FILE.
    #[arg(long, value_name = "OWNER/REPO", conflicts_with_all = ["repo", "list"])]
    base: Option<HubPath>,

    /// Branch, tag or commit; main by default.
    #[arg(long, value_name = "R")]
    revision: Option<String>,

    /// Show the folders that the repository has, and download nothing.
    #[arg(long)]
    list: bool,

    /// Hash what the cache has already too, and fetch anew what is damaged; with --offline, say what is.
    #[arg(long, conflicts_with = "list")]
    verify: bool,

    /// Make no request: say where the cache has it.
    #[arg(long)]
    offline: bool,
}

impl Pull {
    pub fn conflict(&self, given: &Given<'_>) -> Refused {
        given.first([option!(GlobalArgs, prefix)], "is for commands that read checkpoints")
    }

    pub fn run(self, as_json: bool) -> Result<()> {
        let mut options = HubOptions::from_env()?;
        options.offline |= self.offline;
        options.verify = self.verify;
        let hub = Hub::new(options)?;
        let watch = Watch::new();
        if let Some(base) = &self.base {
            let address = hub.checkpoint(&self.revised(base)?, &watch.listener())?;
            let mut pulled = hub.pull(&address, &watch.listener())?;
            pulled.files.extend(hub.pull_beside(&pulled, &watch.listener())?);
            // What its shapes do not tell is in them.
            hub.bring_configs(&pulled.local, &watch.listener());
            watch.finish();
            return show(&[pulled], as_json);
        }
        let repo = self.repo.as_ref().ok_or_else(|| Error::invalid("no repository is named"))?;
        let repo = self.revised(repo)?;
        if self.list {
            return self.list(&hub, &repo, &watch, as_json);
        }
        let addresses = match self.paths.is_empty() {
            true => vec![repo],
            false => self.paths.iter().map(|path| within(&repo, path)).collect::<Result<_>>()?,
        };
        let mut all = Vec::with_capacity(addresses.len());
        for address in &addresses {
            all.push(hub.pull(address, &watch.listener())?);
            watch.finish();
        }
        show(&all, as_json)
    }

    fn revised(&self, address: &HubPath) -> Result<HubPath> {
        match &self.revision {
            None => Ok(address.clone()),
            revision => HubPath::new(address.repo(), revision.as_deref(), address.path()),
        }
    }

    fn list(&self, hub: &Hub, repo: &HubPath, watch: &Watch, as_json: bool) -> Result<()> {
        let (commit, mut folders) = hub.folders(repo, &watch.listener())?;
        if !self.paths.is_empty() {
            let below = |folder: &HubFolder, path: &str| {
                let path = path.trim_matches('/');
                folder.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            folders.retain(|folder| self.paths.iter().any(|path| below(folder, path)));
        }
        if as_json {
            let folder = |folder: &HubFolder| json!({ "path": folder.path, "files": folder.files, "bytes": folder.bytes, "cached": folder.cached });
            return output::json(&json!({
                "repo": repo.repo(), "revision": repo.revision(), "commit": commit,
                "folders": folders.iter().map(folder).collect::<Vec<_>>(),
            }));
        }
        let mut rows = vec![["folder", "files", "size", ""].map(String::from).to_vec()];
        rows.extend(folders.iter().map(|folder| {
            let name = if folder.path.is_empty() { "." } else { &folder.path };
            let cached = if folder.cached { "cached" } else { "" };
            vec![name.to_owned(), folder.files.to_string(), output::bytes(folder.bytes), cached.to_owned()]
        }));
        output::text(&output::table(&rows))
    }
}

/// `path` of `repo`, which may name a folder itself.
fn within(repo: &HubPath, path: &str) -> Result<HubPath> {
    match repo.path() {
        "" => repo.with_path(path),
        folder => repo.with_path(&format!("{folder}/{path}")),
    }
}

/// Prints a line for each: `$(taskbasis pull …)` is a path.
fn show(all: &[Pulled], as_json: bool) -> Result<()> {
    if as_json {
        let pulled = |pulled: &Pulled| {
            let downloaded: u64 = pulled.files.iter().filter(|file| file.downloaded).map(|file| file.bytes).sum();
            let files = pulled.files.iter().map(|file| {
                json!({
                    "path": file.path, "bytes": file.bytes, "downloaded": file.downloaded, "damaged": file.damaged,
                })
            });
            json!({
                "repo": pulled.address.repo(), "revision": pulled.address.revision(), "commit": pulled.commit,
                "path": pulled.address.path(), "local": pulled.local,
                "bytes": pulled.files.iter().map(|file| file.bytes).sum::<u64>(), "downloaded_bytes": downloaded,
                "files": files.collect::<Vec<_>>(),
            })
        };
        return output::json(&json!({ "pulled": all.iter().map(pulled).collect::<Vec<_>>() }));
    }
    let mut lines = Vec::new();
    for pulled in all {
        lines.extend_from_slice(OsString::from(&pulled.local).as_encoded_bytes());
        lines.push(b'\n');
    }
    output::text(&String::from_utf8_lossy(&lines))
}
