//! The errors of JPEG files.

use crate::error::Error;

pub(super) fn invalid(why: impl Into<String>) -> Error {
    Error::format("not a valid JPEG image").because(why.into())
}

pub(super) fn truncated() -> Error {
    Error::format("the JPEG image is truncated").expected("an end marker").got("the end of the file")
}

pub(super) fn unsupported(what: &str) -> Error {
    Error::unsupported(format!("a JPEG image with {what}")).hint("Convert it to an ordinary JPEG or PNG file")
}
