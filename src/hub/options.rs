//! The options of the Hub: its address, its cache, and who asks: as every other program that uses the Hub finds it.

use std::env;
use std::fs;
use std::io::ErrorKind as IoKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::expand::expand;
use crate::error::{Error, Result};
use crate::mmap::read_small_text;

/// The largest file of a token that is read.
const MAX_TOKEN: usize = 64 << 10;

/// The options of the Hub; [`HubOptions::from_env`] takes them from the environment.
#[derive(Clone)]
#[non_exhaustive]
pub struct HubOptions {
    /// The Hub's address: `HF_ENDPOINT`, else `https://huggingface.co`.
    pub endpoint: String,
    /// The cache's folder, which holds `models--owner--repo`: `HF_HUB_CACHE`, else `hub` in `HF_HOME`, else
    /// `~/.cache/huggingface/hub`. `~`, `~user`, `$NAME` and `${NAME}` in these, in `XDG_CACHE_HOME` and in
    /// `HF_TOKEN_PATH` mean what Python's `expanduser` and `expandvars` take them for.
    pub cache: PathBuf,
    /// The token of the user: `HF_TOKEN`, else the file that `hf auth login` wrote. Sent to the endpoint alone.
    pub token: Option<String>,
    /// Certificates (PEM) of those who may vouch for the endpoint and for where it redirects to, instead of Mozilla's
    /// list: `SSL_CERT_FILE`, `REQUESTS_CA_BUNDLE` or `CURL_CA_BUNDLE`, for networks whose proxy reads what passes.
    pub certificates: Option<PathBuf>,
    /// Whether to take only what the cache has: `HF_HUB_OFFLINE`.
    pub offline: bool,
    /// Whether to hash what the cache has of a file that is pulled, and to download anew what is not what the
    /// repository lists. `false`: a disk that damages what it holds is rare, and hashing takes as long as reading.
    pub verify: bool,
    /// The number of times that a request is made again, one after the other without a byte of progress. 5.
    pub retries: u32,
    /// The pause before the first of them, doubled each time: half a second, or `TASKBASIS_HUB_RETRY_MS`. Where the
    /// server says how long to wait, that is done.
    pub retry_delay: Duration,
    /// The time that nothing may come on an open connection: `HF_HUB_DOWNLOAD_TIMEOUT` in seconds, else 30.
    pub timeout: Duration,
}

impl std::fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A token is a secret.
        f.debug_struct("HubOptions")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

impl HubOptions {
    /// The options of the environment, by the variables that all clients of the Hub know.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for values that cannot be understood, or where
    /// nothing tells where the cache is; [`ErrorKind::Io`](crate::ErrorKind::Io) for a token file that cannot be read.
    pub fn from_env() -> Result<Self> {
        let home = match (first(&["HF_HOME"])?, first(&["XDG_CACHE_HOME"])?) {
            (Some(home), _) => Some(expand(&home)),
            (None, Some(caches)) => Some(expand(&caches).join("huggingface")),
            (None, None) => env::home_dir().map(|home| home.join(".cache/huggingface")),
        };
        let cache = match (first(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"])?, &home) {
            (Some(cache), _) => expand(&cache),
            (None, Some(home)) => home.join("hub"),
            (None, None) => return Err(Error::invalid("nothing tells where the Hub's cache is").hint("Set HF_HOME")),
        };
        let endpoint = first(&["HF_ENDPOINT"])?.unwrap_or_else(|| "https://huggingface.co".into());
        let certificates = first(&["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])?;
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache,
            token: token(home.as_deref())?,
            certificates: certificates.map(|file| expand(&file)),
            offline: is_set(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])?,
            verify: false,
            retries: 5,
            retry_delay: number("TASKBASIS_HUB_RETRY_MS")?.map_or(Duration::from_millis(500), Duration::from_millis),
            timeout: number("HF_HUB_DOWNLOAD_TIMEOUT")?
                .map_or(Duration::from_secs(30), |s| Duration::from_secs(s.max(1))),
        })
    }
}

/// The first of the variables that says anything.
fn first(names: &[&str]) -> Result<Option<String>> {
    for name in names {
        match env::var(name) {
            Ok(value) if !value.trim().is_empty() => return Ok(Some(value)),
            Ok(_) | Err(env::VarError::NotPresent) => {}
            Err(e @ env::VarError::NotUnicode(_)) => {
                return Err(Error::invalid(format!("the variable {name}")).because(e));
            }
        }
    }
    Ok(None)
}

/// Whether the first of the variables that says anything says yes.
fn is_set(names: &[&str]) -> Result<bool> {
    let value = first(names)?;
    Ok(value.is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true")))
}

fn number(name: &str) -> Result<Option<u64>> {
    let Some(text) = first(&[name])? else { return Ok(None) };
    match text.trim().parse() {
        Ok(number) if number <= 86_400_000 => Ok(Some(number)),
        _ => Err(Error::invalid(format!("the variable {name}")).expected("a whole number").got(format!("`{text}`"))),
    }
}

fn token(home: Option<&Path>) -> Result<Option<String>> {
    let (found, place) = match first(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])? {
        Some(token) => (token, PathBuf::from("HF_TOKEN")),
        None if is_set(&["HF_HUB_DISABLE_IMPLICIT_TOKEN"])? => return Ok(None),
        None => {
            let file = first(&["HF_TOKEN_PATH"])?.map(|path| expand(&path));
            let Some(file) = file.or_else(|| home.map(|home| home.join("token"))) else { return Ok(None) };
            match fs::metadata(&file) {
                Ok(_) => (read_small_text(&file, MAX_TOKEN, "a token of the Hub")?, file),
                Err(e) if matches!(e.kind(), IoKind::NotFound | IoKind::NotADirectory) => return Ok(None),
                Err(e) => return Err(Error::io("cannot read the Hub's token", &file, e)),
            }
        }
    };
    match found.trim() {
        "" => Ok(None),
        token if token.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Some(token.to_owned())),
        // Its text is kept out of messages.
        _ => Err(Error::invalid("is no token of the Hub: it has characters that no token has").at(place)),
    }
}
