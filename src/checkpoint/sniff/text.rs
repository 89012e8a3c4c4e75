//! Text in the place of weights: pages, error messages of servers, configurations.

use serde_json::Value;

use crate::did_you_mean;
use crate::error::Error;

/// The longest text that is shown or parsed: messages of servers are short.
const MAX_TEXT: usize = 64 << 10;

/// The error for `bytes` that are text; `None` where they are none.
pub(super) fn refused(bytes: &[u8]) -> Option<Error> {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let begins = |start: &[u8]| text.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start));
    if begins(b"<!doctype html") || begins(b"<html") {
        return Some(
            Error::format("a web page, no weights").hint("Was it downloaded from the page of the file, not the file?"),
        );
    }
    if is_openvino(text) {
        return Some(Error::format("an OpenVINO model, no checkpoint").hint("Give the checkpoint it was made from"));
    }
    if begins(b"<?xml") || begins(b"<error") {
        return Some(
            Error::format("XML, no weights").got(quoted(text)).hint("It may be a server's answer to a failed download"),
        );
    }
    if begins(b"{") || begins(b"[") {
        return json(text);
    }
    let is_text = |&byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    (bytes.len() <= 4096 && text.iter().all(is_text)).then(|| {
        Error::format("text, no weights").got(quoted(text)).hint("It may be a server's answer to a failed download")
    })
}

/// Whether `bytes` begin as OpenVINO's description of a model does.
pub(super) fn is_openvino(bytes: &[u8]) -> bool {
    let begin = &bytes[..bytes.len().min(512)];
    begin.starts_with(b"<?xml") && begin.windows(5).any(|window| window == b"<net ")
}

/// The error for JSON: what a server says went wrong, a configuration, or anything else.
fn json(text: &[u8]) -> Option<Error> {
    let parsed: Option<Value> = serde_json::from_slice(text.get(..text.len().min(MAX_TEXT))?).ok();
    let Some(value) = parsed else {
        // A larger one, or one that only begins so.
        return text
            .get(..2)
            .is_some_and(|begin| matches!(begin, b"{\"" | b"{\n" | b"[{"))
            .then(|| Error::format("JSON, no weights").got(quoted(text)).hint("Name the file of the weights"));
    };
    let message = ["error", "message", "detail"].iter().find_map(|key| value.get(*key)?.as_str());
    Some(match message {
        Some(message) => Error::format("a server's error message, no weights")
            .got(format_args!("\"{}\"", did_you_mean::clipped(message).escape_debug()))
            .hint("The download failed: is the address right, and may you read it?"),
        None if value.get("model_type").is_some() || value.get("model_cfg").is_some() => {
            Error::format("a model's configuration, no weights").hint("Give its folder, or the weights beside it")
        }
        None => Error::format("JSON, no weights").got(quoted(text)).hint("Name the file of the weights"),
    })
}

/// The first line, for a message.
fn quoted(text: &[u8]) -> String {
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(&line[..line.len().min(80)]);
    format!("\"{}\"", line.trim_end().escape_debug())
}
