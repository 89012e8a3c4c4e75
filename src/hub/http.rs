//! Requests: redirects followed without telling other hosts who asks, failures told apart.
//!
//! Redirects are followed here and not by `ureq`, which would send the token to another port of the same host, and
//! would go past the answer whose headers tell commit, size and hash of a file that is kept elsewhere.

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::http::{HeaderMap, Uri, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, BodyReader, Proxy};

use super::address::HubPath;
use super::event::Listener;
use super::options::HubOptions;
use super::retry::{Again, Failure, Retries};
use crate::error::{Error, ErrorKind, Result};
use crate::mmap::read_small;

/// The largest file of certificates that is read.
const MAX_CERTIFICATES: usize = 64 << 20;
/// The redirects of a request, at most: more lead nowhere.
const MAX_REDIRECTS: usize = 10;
/// A page of a listing is far smaller.
const MAX_PAGE_BYTES: u64 = 64 << 20;
/// The characters that are quoted of an answer's own message, at most.
const MAX_QUOTED: usize = 300;
/// Variables that name a proxy, the first that does being heeded.
const PROXIES: [&str; 6] = ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];
/// Answers of servers that do not know what is asked of them.
const UNKNOWN: [u16; 4] = [404, 405, 410, 501];
/// What stays as it is in a URL's path.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    origin: Origin,
    token: Option<String>,
    retries: u32,
    retry_delay: Duration,
    /// A variable that names a proxy of no known kind: going past it would not be what is meant.
    bad_proxy: Option<&'static str>,
}

/// The part of a file that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// What the headers tell of a file (HEAD).
    Headers,
    /// What the headers tell, of servers that answer GET alone.
    HeadersByGet,
    /// The content from this byte on.
    Bytes(u64),
}

impl Ask {
    fn method(self) -> &'static str {
        if self == Self::Headers { "HEAD" } else { "GET" }
    }
}

/// The server that a request goes to, and with it the token.
#[derive(Clone, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

/// An answer of success.
pub(super) struct Answer {
    /// Method and URL, for messages.
    pub(super) request: String,
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    body: Body,
}

/// Bytes of a connection's buffers. Where larger ones are refused, the process would end: see
/// [`WRITE_BUFFER`](crate::tensor::WRITE_BUFFER).
const HTTP_BUFFER: usize = 63 << 10;

impl Client {
    pub(super) fn new(options: &HubOptions) -> Result<Self> {
        let refused = || {
            Error::invalid("the Hub's endpoint").expected("an http or https URL").got(format!("`{}`", options.endpoint))
        };
        let origin = options.endpoint.parse().ok().and_then(|uri| Origin::of(&uri)).ok_or_else(refused)?;
        let roots = match &options.certificates {
            Some(file) => RootCerts::new_with_certs(&certificates(file)?),
            None => RootCerts::WebPki,
        };
        let agent = Agent::config_builder()
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .max_redirects(0)
            .http_status_as_error(false)
            .input_buffer_size(HTTP_BUFFER)
            .output_buffer_size(HTTP_BUFFER)
            .user_agent(concat!("taskbasis/", env!("CARGO_PKG_VERSION")))
            // Ranges are of the bytes as they are in the repository.
            .accept_encoding("identity")
            .timeout_connect(Some(options.timeout))
            .timeout_per_read(Some(options.timeout))
            .timeout_per_write(Some(options.timeout))
            .build()
            .new_agent();
        let HubOptions { endpoint, token, retries, retry_delay, .. } = options.clone();
        Ok(Self { agent, endpoint, origin, token, retries, retry_delay, bad_proxy: bad_proxy() })
    }

    /// The URL where the API tells of `address`: `what` is `revision` or `tree`.
    pub(super) fn api(&self, address: &HubPath, what: &str, revision: &str, path: &str) -> String {
        let slash = if path.is_empty() { "" } else { "/" };
        format!(
            "{}/api/models/{}/{what}/{}{slash}{}",
            self.endpoint,
            address.repo(),
            utf8_percent_encode(revision, ENCODED),
            encode_path(path)
        )
    }

    /// The URL of a file's bytes.
    pub(super) fn file(&self, address: &HubPath, revision: &str, path: &str) -> String {
        let revision = utf8_percent_encode(revision, ENCODED);
        format!("{}/{}/resolve/{revision}/{}", self.endpoint, address.repo(), encode_path(path))
    }

    pub(super) fn retries<'a>(&self, listener: Listener<'a>) -> Retries<'a> {
        Retries::new(self.retries, self.retry_delay, listener)
    }

    /// A whole answer as text, and its headers; tried again where that may help.
    pub(super) fn text(
        &self,
        url: &str,
        address: &HubPath,
        listener: Listener<'_>,
    ) -> Result<(HeaderMap, String), Failure> {
        let mut retries = self.retries(listener);
        loop {
            let text = self.send(Ask::Bytes(0), url, address).and_then(|answer| {
                let Answer { request, headers, body, .. } = answer;
                let text = body.into_with_config().limit(MAX_PAGE_BYTES).read_to_string();
                let text = text.map_err(|e| self.of_transport(e, &request, None, address))?;
                Ok((headers, text))
            });
            match text {
                Ok(text) => return Ok(text),
                Err(failure) => retries.wait(failure)?,
            }
        }
    }

    /// One request for `url` with its redirects. Every status but success is a failure, and so called by `address`,
    /// except 416 (no such range). Headers alone are not sought beyond the answer that tells of a file kept elsewhere.
    pub(super) fn send(&self, ask: Ask, url: &str, address: &HubPath) -> Result<Answer, Failure> {
        if let Some(variable) = self.bad_proxy {
            let error = Error::invalid(format!("the variable {variable} names no proxy"));
            return Err(error.expected("http://HOST:PORT, https://… or socks5h://…").into());
        }
        let mut url = url.to_owned();
        let mut is_secret = false;
        for _ in 0..=MAX_REDIRECTS {
            let bad =
                || Error::format(format!("a redirect to `{url}`, which is no web address")).at(address.to_string());
            let request = format!("{} {}", ask.method(), shown(&url));
            let uri: Uri = url.parse().map_err(|_| bad())?;
            let origin = Origin::of(&uri).ok_or_else(bad)?;
            if is_secret && origin.scheme != "https" {
                let error = Error::format("a redirect from https to http").at(address.to_string());
                return Err(error.got(origin.host).into());
            }
            is_secret = origin.scheme == "https";
            let mut call = if ask == Ask::Headers { self.agent.head(uri.clone()) } else { self.agent.get(uri.clone()) };
            if let Ask::Bytes(from @ 1..) = ask {
                call = call.header(header::RANGE, format!("bytes={from}-"));
            }
            if let Some(token) = self.token.as_ref().filter(|_| origin == self.origin) {
                call = call.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let answer = call.call().map_err(|e| self.of_transport(e, &request, Some(&uri), address))?;
            let (parts, body) = answer.into_parts();
            let answer = Answer { request, status: parts.status.as_u16(), headers: parts.headers, body };
            if let Some(location) = answer.location() {
                if !matches!(ask, Ask::Bytes(_)) && answer.tells_of_a_file_elsewhere() {
                    return Ok(answer);
                }
                url = join(&uri, location);
                continue;
            }
            return match answer.status {
                200..=299 | 416 => Ok(answer),
                _ => Err(self.of_status(answer, address, &origin)),
            };
        }
        Err(Error::format(format!("more than {MAX_REDIRECTS} redirects")).at(address.to_string()).into())
    }

    /// What an answer that is no success means, and what to do about it.
    fn of_status(&self, mut answer: Answer, address: &HubPath, from: &Origin) -> Failure {
        let status = answer.status;
        let is_hub = *from == self.origin;
        let who = if is_hub { "the Hub" } else { &*from.host };
        let code = text_of(&answer.headers, "x-error-code").unwrap_or_default().to_owned();
        let said = text_of(&answer.headers, "x-error-message").map(str::to_owned);
        let said = said.or_else(|| json_message(&mut answer.body));
        // It may say anything: one line of it is enough, and nothing that a terminal would obey.
        let said: String =
            said.unwrap_or_default().trim().chars().take(MAX_QUOTED).filter(|c| !c.is_control()).collect();
        let message = match said.as_str() {
            "" => format!("{who} answers {status} to {}", answer.request),
            said => format!("{who} answers {status} to {}: {said}", answer.request),
        };
        // What is not where the Hub redirects to is not missing from the repository.
        let kind = if status == 404 && is_hub { ErrorKind::NotFound } else { ErrorKind::Io };
        let error = Error::new(kind, message).at(address.to_string());
        let page = format!("{}/{}", self.endpoint, address.repo());
        let error = match (status, code.as_str()) {
            _ if !is_hub => error.hint(format!("The Hub redirects there, from {page}")),
            (401, _) if self.token.is_none() => error.hint(
                "Check the repository's name. If it is private or gated, a token is needed: set HF_TOKEN, or run \
                 `hf auth login`",
            ),
            (401, _) => {
                error.hint("The token (HF_TOKEN, or the file of `hf auth login`) is not accepted: is it expired?")
            }
            (403, _) => error.hint(format!("The token has no access: ask for it at {page}")),
            (404, "RevisionNotFound") => {
                error.hint(format!("`{}` is no branch, tag or commit of it", address.revision()))
            }
            (404, "RepoNotFound") => error.hint("Check the repository's name; a private one needs a token (HF_TOKEN)"),
            _ => error,
        };
        let after = text_of(&answer.headers, "retry-after").and_then(|seconds| seconds.trim().parse().ok());
        let again = match (status, after) {
            (408 | 429 | 500 | 502..=504, Some(seconds)) => Again::After(Duration::from_secs(seconds)),
            (408 | 429 | 500 | 502..=504, None) => Again::Later,
            _ => Again::Never,
        };
        // The Hub says what it lacks by a code; a proxy without the Hub's API has none.
        let is_unknown = code.is_empty() && UNKNOWN.contains(&status);
        Failure { error, again, is_unknown }
    }

    /// A `request` for `uri` that was not answered.
    fn of_transport(&self, error: ureq::Error, request: &str, uri: Option<&Uri>, address: &HubPath) -> Failure {
        let proxy = self.agent.config().proxy().filter(|proxy| uri.is_some_and(|uri| !proxy.is_no_proxy(uri)));
        let kind = |proxy: &Proxy| proxy.uri().scheme_str().unwrap_or("http").to_owned();
        let proxy = proxy.map(|proxy| format!("{}://{}:{}", kind(proxy), proxy.host(), proxy.port()));
        let way = proxy.as_ref().map(|proxy| format!(" through the proxy {proxy}")).unwrap_or_default();
        let story = Error::new(ErrorKind::Io, format!("the Hub cannot be reached{way}: {request}"));
        let story = story.at(address.to_string());
        let hint = match proxy {
            None => "Without a network, HF_HUB_OFFLINE=1 takes what the cache has",
            Some(_) => {
                "ALL_PROXY, HTTPS_PROXY or HTTP_PROXY names the proxy, which has to allow CONNECT; NO_PROXY names hosts \
                 that are reached without it; HF_HUB_OFFLINE=1 takes what the cache has"
            }
        };
        match error {
            // What TLS refuses (a certificate, say), it will refuse again.
            ureq::Error::Io(e) if e.kind() == io::ErrorKind::InvalidData => Failure::never(story.because(e)),
            ureq::Error::Io(e) => Failure::later(story.because(e).hint(hint)),
            ureq::Error::Timeout(e) => Failure::later(story.because(format!("timeout: {e}")).hint(hint)),
            e @ (ureq::Error::ConnectionFailed | ureq::Error::Protocol(_) | ureq::Error::BodyStalled) => {
                Failure::later(story.because(e).hint(hint))
            }
            e => Failure::never(story.because(e).hint(hint)),
        }
    }
}

/// The variable that names a proxy of no known kind, and would be passed over.
fn bad_proxy() -> Option<&'static str> {
    PROXIES
        .into_iter()
        .find(|name| std::env::var(name).is_ok_and(|text| !text.is_empty() && Proxy::new(&text).is_err()))
}

/// A URL as messages show it: without what may be secret in it, which are names, passwords and signatures.
fn shown(url: &str) -> String {
    let Ok(uri) = url.parse::<Uri>() else { return "an address that is none".to_owned() };
    let port = uri.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    let (scheme, host) = (uri.scheme_str().unwrap_or("https"), uri.host().unwrap_or_default());
    format!("{scheme}://{host}{port}{}", uri.path())
}

/// All certificates of a PEM file.
fn certificates(file: &Path) -> Result<Vec<Certificate<'static>>> {
    let hint = "SSL_CERT_FILE names a PEM file";
    let text = read_small(file, MAX_CERTIFICATES, "certificates").map_err(|e| e.or_hint(hint))?;
    let mut all = Vec::new();
    for item in parse_pem(&text) {
        if let PemItem::Certificate(certificate) = item.map_err(|e| Error::format("no PEM").at(file).because(e))? {
            all.push(certificate);
        }
    }
    match all.is_empty() {
        true => Err(Error::format("there is no certificate in it").at(file).hint(hint)),
        false => Ok(all),
    }
}

impl Answer {
    /// The URL that a redirect leads to.
    fn location(&self) -> Option<&str> {
        text_of(&self.headers, "location").filter(|_| matches!(self.status, 301 | 302 | 303 | 307 | 308))
    }

    /// Whether the Hub tells of a file that it keeps elsewhere.
    fn tells_of_a_file_elsewhere(&self) -> bool {
        self.headers.contains_key("x-linked-size")
    }

    /// What the server says of the body's length.
    pub(super) fn length(&self) -> Option<u64> {
        self.body.content_length()
    }

    /// The range of `Content-Range: bytes 5-9/10`: 5 and, where it is told, 10.
    pub(super) fn range(&self) -> Option<(u64, Option<u64>)> {
        let (range, total) = text_of(&self.headers, "content-range")?.strip_prefix("bytes ")?.split_once('/')?;
        Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()))
    }

    pub(super) fn into_reader(self) -> BodyReader<'static> {
        self.body.into_reader()
    }
}

impl Origin {
    fn of(uri: &Uri) -> Option<Self> {
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let usual = match scheme.as_str() {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        let host = uri.host().filter(|host| !host.is_empty())?.to_ascii_lowercase();
        Some(Self { host, port: uri.port_u16().unwrap_or(usual), scheme })
    }
}

/// A header's text.
pub(super) fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The address that `location` means in an answer from `base`.
fn join(base: &Uri, location: &str) -> String {
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = base.authority().map_or("", |authority| authority.as_str());
    match location {
        _ if location.contains("://") => location.to_owned(),
        _ if location.starts_with("//") => format!("{scheme}:{location}"),
        _ if location.starts_with('/') => format!("{scheme}://{authority}{location}"),
        _ => {
            let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{scheme}://{authority}{folder}/{location}")
        }
    }
}

fn encode_path(path: &str) -> String {
    path.split('/').map(|part| utf8_percent_encode(part, ENCODED).to_string()).collect::<Vec<_>>().join("/")
}

/// `{"error": "…"}`, as the Hub explains itself.
fn json_message(body: &mut Body) -> Option<String> {
    let mut text = String::new();
    body.as_reader().take(1 << 16).read_to_string(&mut text).ok()?;
    Some(serde_json::from_str::<serde_json::Value>(&text).ok()?.get("error")?.as_str()?.to_owned())
}

/// A body that broke off.
pub(super) fn of_body(error: io::Error, request: &str, address: &HubPath) -> Failure {
    let lost = Error::new(ErrorKind::Io, format!("the connection was lost: {request}"));
    Failure::later(lost.at(address.to_string()).because(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_joined() {
        let base: Uri = "https://hub.test:8443/o/r/resolve/main/a?b=c".parse().unwrap();
        for (location, meant) in [
            ("https://cdn.test/x?y=z", "https://cdn.test/x?y=z"),
            ("//cdn.test/x", "https://cdn.test/x"),
            ("/o/new/resolve/main/a", "https://hub.test:8443/o/new/resolve/main/a"),
            ("b", "https://hub.test:8443/o/r/resolve/main/b"),
        ] {
            assert_eq!(join(&base, location), meant);
        }
    }

    #[test]
    fn messages_show_no_secret_of_an_address() {
        for (url, text) in [
            ("https://me:secret@hub.test:8443/o/r?signature=secret", "https://hub.test:8443/o/r"),
            (
                "http://127.0.0.1:1/api/models/o/r/tree/main?recursive=true",
                "http://127.0.0.1:1/api/models/o/r/tree/main",
            ),
            ("not an address", "an address that is none"),
        ] {
            assert_eq!(shown(url), text);
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let origin = |url: &str| Origin::of(&url.parse().unwrap());
        assert!(origin("https://Hub.test/a") == origin("https://hub.test:443/b"));
        for other in ["http://hub.test/", "https://hub.test:8443/", "https://hub.test.evil/", "https://cdn.hub.test/"] {
            assert!(origin(other) != origin("https://hub.test/"), "{other}");
        }
        assert!(origin("ftp://hub.test/").is_none());
    }

    #[test]
    fn paths_are_encoded_part_by_part() {
        assert_eq!(encode_path("a b/c#d?/ü%"), "a%20b/c%23d%3F/%C3%BC%25");
    }
}
