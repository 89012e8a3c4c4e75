//! The configurations that lie beside a checkpoint on the Hub: small files that say what its shapes do not.

use std::path::{Component, Path};

use super::address::HubPath;
use super::event::HubEvent;
use super::pull::Hub;
use crate::checkpoint::choose::CONFIGS;
use crate::error::ErrorKind;

impl Hub {
    /// Brings the configurations ([`CONFIGS`]) beside the checkpoint at `local`, a file in a snapshot of the cache, of
    /// the same commit. Those that the cache has, or is known to lack, cost no request; where the Hub cannot be asked,
    /// the checkpoint is used without them, and what they would have told is said to be assumed.
    pub fn bring_configs(&self, local: &Path, listener: &dyn Fn(HubEvent<'_>)) {
        self.bring_beside(local, &CONFIGS, listener);
    }

    /// [`Hub::bring_configs`] for other files of these names.
    pub fn bring_beside(&self, local: &Path, names: &[&str], listener: &dyn Fn(HubEvent<'_>)) {
        let Some((repo, commit, folder)) = self.place(local) else { return };
        for name in names {
            let path = if folder.is_empty() { (*name).to_owned() } else { format!("{folder}/{name}") };
            let Ok(address) = HubPath::new(&repo, Some(&commit), &path) else { return };
            let cache = self.cache(&address);
            if local.with_file_name(name).is_file() || cache.is_absent(&commit, &path) || self.is_offline() {
                continue;
            }
            match self.pull(&address, listener) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    // A cache that may not be written is asked again the next time.
                    let _ = cache.mark_absent(&commit, &path);
                }
                Err(error) => {
                    tracing::warn!("{}: `{name}` beside it cannot be had: {error}", local.display());
                    return;
                }
            }
        }
    }

    /// Repository, commit, and folder within the repository of a file in a snapshot of this cache.
    fn place(&self, local: &Path) -> Option<(String, String, String)> {
        let inner = local.strip_prefix(self.cache_folder()).ok()?;
        let parts: Option<Vec<&str>> = inner
            .components()
            .map(|part| match part {
                Component::Normal(name) => name.to_str(),
                _ => None,
            })
            .collect();
        match parts?.as_slice() {
            [repo, "snapshots", commit, folders @ .., _] => {
                let repo = repo.strip_prefix("models--")?.replacen("--", "/", 1);
                Some((repo, (*commit).to_owned(), folders.join("/")))
            }
            _ => None,
        }
    }
}
