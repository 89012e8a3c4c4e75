//! One named file of a server without the Hub's API: proxies such as Artifactory and Nexus pass on single files, with
//! the headers by which the Hub tells commit, size and hash.

use sha1::{Digest as _, Sha1};
use ureq::http::HeaderMap;

use super::address::HubPath;
use super::download::hex;
use super::event::Listener;
use super::http::{Answer, Ask, Client, text_of};
use super::listing::{Digest, ListedFile, Listing, is_hex};
use super::retry::Failure;
use crate::error::{Error, Result};

impl Client {
    /// The file that `address` names, by its headers, where `failure` is of a server that does not know the API.
    ///
    /// # Errors
    /// `failure` itself for the Hub and for an address without a path; else what the server says of the file.
    pub(super) fn by_name(&self, address: &HubPath, failure: Failure, listener: Listener<'_>) -> Result<Listing> {
        if !failure.is_unknown || address.path().is_empty() {
            return Err(name_a_file(failure));
        }
        let listing = failure.error;
        self.describe(address, listener)
            .map_err(|failure| failure.error.or_hint(format!("Nor does the server list what it has: {listing}")))
    }

    fn describe(&self, address: &HubPath, listener: Listener<'_>) -> Result<Listing, Failure> {
        let url = self.file(address, address.revision(), address.path());
        let answer = self.headers(&url, address, listener)?;
        let commit = match text_of(&answer.headers, "x-repo-commit") {
            Some(commit) => commit.to_owned(),
            None if is_hex(address.revision(), 40) => address.revision().to_owned(),
            None => self.commit(address, listener)?,
        };
        let untold = |what: &str| {
            let message = format!("the answer to {} does not tell the file's {what}", answer.request);
            Error::format(message).at(address.to_string())
        };
        if !is_hex(&commit, 40) {
            return Err(untold("commit").expected("X-Repo-Commit with 40 digits").got(format!("`{commit}`")).into());
        }
        let size = size(&answer).ok_or_else(|| untold("size").expected("Content-Length or X-Linked-Size"))?;
        let entry = ListedFile { path: address.path().into(), size, digest: digest(&answer.headers, &commit, address) };
        Ok(Listing { commit, at: address.revision().to_owned(), entries: vec![entry], is_folder: false })
    }

    /// What the server tells of the file at `url`, by HEAD, or by GET where it knows no HEAD.
    fn headers(&self, url: &str, address: &HubPath, listener: Listener<'_>) -> Result<Answer, Failure> {
        let mut retries = self.retries(listener);
        let mut ask = Ask::Headers;
        loop {
            match self.send(ask, url, address) {
                Ok(answer) => return Ok(answer),
                Err(failure) if failure.is_unknown && ask == Ask::Headers => ask = Ask::HeadersByGet,
                Err(failure) => retries.wait(failure)?,
            }
        }
    }
}

/// The error of a server that lists nothing, for an address that names no file.
pub(super) fn name_a_file(failure: Failure) -> Error {
    match failure.is_unknown {
        true => failure.error.or_hint("A server that lists nothing may have single files: name one, with its folder"),
        false => failure.error,
    }
}

/// Bytes of the file.
fn size(answer: &Answer) -> Option<u64> {
    match text_of(&answer.headers, "x-linked-size") {
        Some(size) => size.trim().parse().ok(),
        None => text_of(&answer.headers, "content-length")?.trim().parse().ok(),
    }
}

/// What the file's content is to be known by. An ETag is a hash of the content where the Hub says so, be it through
/// others; any other ETag may be the same for two files.
fn digest(headers: &HeaderMap, commit: &str, address: &HubPath) -> Digest {
    let tag = |name: &str| {
        let tag = text_of(headers, name)?.trim();
        Some(tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"').to_owned())
    };
    let is_passed_on = headers.contains_key("x-repo-commit");
    match (tag("x-linked-etag"), tag("etag").filter(|_| is_passed_on)) {
        (Some(tag), _) if is_hex(&tag, 64) => Digest::Sha256(tag),
        (Some(tag), _) if is_hex(&tag, 40) => Digest::Git(tag),
        (None, Some(tag)) if is_hex(&tag, 64) => Digest::Sha256(tag),
        (None, Some(tag)) if is_hex(&tag, 40) => Digest::Sha1(tag),
        _ => Digest::Unchecked(format!("unchecked-{}", hex(&Sha1::digest(format!("{commit}/{}", address.path()))))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_a_hash_where_the_hub_says_so() {
        let address: HubPath = "hf://o/r/folder/file".parse().unwrap();
        let (short, long) = ("a".repeat(40), "b".repeat(64));
        let of = |told: &[(&'static str, String)]| {
            let headers = told.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            digest(&headers, &"c".repeat(40), &address)
        };
        let passed_on = || ("x-repo-commit", "c".repeat(40));
        assert_eq!(
            of(&[("x-linked-etag", format!("\"{long}\"")), ("etag", short.clone())]),
            Digest::Sha256(long.clone())
        );
        assert_eq!(of(&[("x-linked-etag", short.clone())]), Digest::Git(short.clone()));
        assert_eq!(of(&[("etag", format!("W/\"{short}\"")), passed_on()]), Digest::Sha1(short.clone()));
        assert_eq!(of(&[("etag", long.clone()), passed_on()]), Digest::Sha256(long.clone()));
        // A web server's own: nothing is known of it.
        let unchecked = of(&[]);
        assert!(matches!(&unchecked, Digest::Unchecked(name) if name.starts_with("unchecked-")));
        for told in [("etag", short), ("etag", long), ("etag", "\"5f-61\"".into()), ("x-linked-etag", "../../x".into())]
        {
            assert_eq!(of(&[told]), unchecked);
        }
    }
}
