//! The spelling of numbers and names, in expressions and messages.

use std::fmt;

/// A number as expressions and messages spell it: with an exponent where there would be many zeros. It reads back as
/// the same number.
pub(crate) struct Number(pub(crate) f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(value) = self;
        match value.abs() {
            0.0 | 1e-5..1e16 => write!(f, "{value}"),
            _ => write!(f, "{value:e}"),
        }
    }
}

/// A name in double quotes.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
}
