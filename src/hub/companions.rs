//! The companions of a checkpoint's file: the files that an index names, the configuration of an adapter.

use std::path::Path;

use super::address::HubPath;
use crate::checkpoint::choose;
use crate::checkpoint::shards::{self, Index};
use crate::error::{Error, Result};
use crate::mmap::read_small;

/// The names of the files that are read together with the one at `local`, which lie beside it.
pub(super) fn names(local: &Path) -> Result<Vec<String>> {
    let name = local.file_name().and_then(|name| name.to_str()).unwrap_or("");
    if shards::is_index_name(name) {
        let bytes = read_small(local, shards::MAX_INDEX, "an index")?;
        return Ok(Index::parse(&bytes, local)?.files().into_iter().map(str::to_owned).collect());
    }
    Ok(if choose::ADAPTERS.contains(&name) { vec![choose::ADAPTER_CONFIG.to_owned()] } else { Vec::new() })
}

/// Whether the cache has everything that is read together with the file at `local`.
pub(super) fn is_whole(local: &Path) -> bool {
    names(local).is_ok_and(|names| names.iter().all(|name| local.with_file_name(name).is_file()))
}

/// Refuses one part of a checkpoint, before it is downloaded.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), naming the index.
pub(super) fn check_whole(address: &HubPath) -> Result<()> {
    let (folder, name) = address.path().rsplit_once('/').unwrap_or(("", address.path()));
    let Some(part) = shards::shard_name(name) else { return Ok(()) };
    let index = if folder.is_empty() { part.index } else { format!("{folder}/{}", part.index) };
    let index = address.with_path(&index)?;
    Err(Error::unsupported(format!("part {} of {} of a checkpoint", part.number, part.of))
        .at(address.to_string())
        .hint(format!("Name the index, through which all parts are read: {index}")))
}
