//! Who may ask: tokens, and what a page of another origin may not do.

use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;

use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use taskbasis::{Error, Result};

use super::failure::Failure;

/// Bytes of a file with tokens, at most.
const MOST: u64 = 64 << 10;
/// What is answered without a token: it tells nothing of the model. A browser sends none for the page.
const OPEN: [&str; 3] = ["/", "/healthz", "/readyz"];

/// The rule by which requests are let in.
#[derive(Clone, Debug)]
pub enum Access {
    /// Those with one of these tokens, of which only the hashes are kept.
    Tokens(Vec<[u8; 32]>),
    /// All that reach this machine's own address by one of its own names: no page of another site does.
    Loopback,
    /// All.
    All,
}

impl Access {
    /// The rule for this address and these options.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](taskbasis::ErrorKind::InvalidArgument) for an address that others reach without
    /// a token, unless that is what is wanted; those of the file.
    pub fn new(bind: SocketAddr, token_file: Option<&Path>, is_insecure: bool) -> Result<Self> {
        match token_file {
            Some(path) => Self::read(path),
            None if is_insecure => Ok(Self::All),
            None if bind.ip().is_loopback() => Ok(Self::Loopback),
            None => Err(Error::invalid("other machines can reach this address, and there is no token that they need")
                .got(format_args!("--bind {bind}"))
                .hint("Give --token-file, bind 127.0.0.1, or say --insecure where something else guards it")),
        }
    }

    fn read(path: &Path) -> Result<Self> {
        let failed = |e| Error::io("cannot read", path, e);
        let mut text = String::new();
        std::fs::File::open(path).map_err(failed)?.take(MOST + 1).read_to_string(&mut text).map_err(failed)?;
        let tokens: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let is_usable = |token: &&str| token.len() >= 16 && token.bytes().all(|byte| byte.is_ascii_graphic());
        if text.len() as u64 > MOST || tokens.is_empty() || !tokens.iter().all(is_usable) {
            return Err(Error::format("no usable tokens")
                .at(path)
                .expected("one per line, of at least 16 visible ASCII characters")
                .hint("`openssl rand -hex 32` makes one"));
        }
        Ok(Self::Tokens(tokens.into_iter().map(hash).collect()))
    }

    /// Whether a request may be answered.
    ///
    /// # Errors
    /// The answer that it gets instead.
    pub fn check(&self, request: &Parts) -> Result<(), Failure> {
        match self {
            Self::All => Ok(()),
            _ if matches!(self, Self::Tokens(_)) && OPEN.contains(&request.uri.path()) => Ok(()),
            Self::Tokens(tokens) => match bearer(&request.headers) {
                Some(token) if is_one_of(&hash(token), tokens) => Ok(()),
                Some(_) => Err(unauthorized("the token is not known")),
                None => Err(unauthorized("a token is needed").hint("Send it as `Authorization: Bearer TOKEN`")),
            },
            Self::Loopback => of_this_machine(request),
        }
    }
}

fn unauthorized(message: &str) -> Failure {
    Failure::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
}

/// Of tokens only hashes are compared: how long one is, or how much of it is right, takes no other time.
fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn is_one_of(given: &[u8; 32], tokens: &[[u8; 32]]) -> bool {
    // All of them, whichever it is.
    tokens.iter().fold(Choice::from(0), |found, token| found | token.ct_eq(given)).into()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Refuses what a page of another site can make a browser send here: by a name of its own that leads to this address
/// (DNS rebinding), or as a form.
fn of_this_machine(request: &Parts) -> Result<(), Failure> {
    let is_foreign = match request.headers.get(HOST) {
        Some(host) => !host.to_str().ok().and_then(host_of).is_some_and(|host| is_local(&host)),
        // That of HTTP/2. HTTP/1.0 has none, and no browser speaks it.
        None => request.uri.host().is_some_and(|host| !is_local(host)),
    };
    if is_foreign {
        return Err(forbidden("the request is for another host than this machine"));
    }
    let Some(origin) = request.headers.get(ORIGIN) else { return Ok(()) };
    match origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok()) {
        Some(origin) if origin.host().is_some_and(is_local) => Ok(()),
        _ => Err(forbidden("the request comes from a page of another site")),
    }
}

fn forbidden(message: &str) -> Failure {
    Failure::new(StatusCode::FORBIDDEN, "forbidden", message)
        .hint("Behind a proxy that guards it, start the server with --token-file, or with --insecure")
}

fn host_of(host: &str) -> Option<String> {
    let uri: Uri = format!("http://{host}/").parse().ok()?;
    uri.host().map(str::to_owned)
}

fn is_local(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn check(access: &Access, path: &str, headers: &[(&str, &str)]) -> u16 {
        let request = headers.iter().fold(Request::get(path), |request, (name, value)| request.header(*name, *value));
        let (parts, ()) = request.body(()).unwrap().into_parts();
        access.check(&parts).map_or_else(|failure| failure.status.as_u16(), |()| 200)
    }

    #[test]
    fn addresses_that_others_reach_need_a_token() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens");
        let bind = |text: &str| text.parse::<SocketAddr>().unwrap();
        for address in ["0.0.0.0:80", "[::]:80", "192.168.1.2:80"] {
            let error = Access::new(bind(address), None, false).unwrap_err().to_string();
            assert!(error.contains("--token-file"), "{error}");
            assert!(matches!(Access::new(bind(address), None, true), Ok(Access::All)));
        }
        for address in ["127.0.0.1:0", "[::1]:80"] {
            assert!(matches!(Access::new(bind(address), None, false), Ok(Access::Loopback)));
        }
        for unusable in ["", "\n\n", "short", "0123456789abcdef\nshort", "0123456789 abcdef"] {
            std::fs::write(&file, unusable).unwrap();
            assert!(Access::new(bind("0.0.0.0:80"), Some(&file), false).is_err(), "{unusable:?}");
        }
        std::fs::write(&file, "0123456789abcdef\n\nfedcba9876543210\n").unwrap();
        let access = Access::new(bind("0.0.0.0:80"), Some(&file), false).unwrap();
        let with = |token: &str| check(&access, "/v1/tasks", &[("authorization", token)]);
        assert_eq!(with("Bearer 0123456789abcdef"), 200);
        assert_eq!(with("bearer fedcba9876543210"), 200);
        for wrong in ["Bearer 0123456789abcde", "Bearer 0123456789abcdef0", "Basic 0123456789abcdef", "Bearer", ""] {
            assert_eq!(with(wrong), 401, "{wrong}");
        }
        assert_eq!(check(&access, "/v1/tasks", &[]), 401);
        assert_eq!(check(&access, "/metrics", &[]), 401);
        OPEN.iter().for_each(|path| assert_eq!(check(&access, path, &[]), 200));
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let asks = |headers: &[(&str, &str)]| check(&Access::Loopback, "/v1/tasks", headers);
        for host in ["localhost:8080", "LOCALHOST", "127.0.0.1:1", "[::1]:8080", "127.8.8.8"] {
            assert_eq!(asks(&[("host", host)]), 200, "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:80", "10.0.0.1", "", "a b"] {
            assert_eq!(asks(&[("host", host)]), 403, "{host}");
        }
        assert_eq!(asks(&[("host", "localhost"), ("origin", "http://localhost:8080")]), 200);
        for origin in ["https://evil.example", "null", "http://localhost.evil.example"] {
            assert_eq!(asks(&[("host", "localhost"), ("origin", origin)]), 403, "{origin}");
        }
    }
}
