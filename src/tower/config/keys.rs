//! Keys of a JSON object, read as what they must be.

use serde_json::Value;

use crate::error::{Error, Result};

/// The largest number that is an extent of a model.
const MAX_NUMBER: u64 = 1 << 24;

/// An object within a configuration. Keys that nothing asks for are ignored; `null` is as good as absent.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a>(pub(super) &'a Value);

impl<'a> Keys<'a> {
    pub(super) fn get(self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// An object.
    pub(super) fn object(self, key: &str) -> Result<Option<Keys<'a>>> {
        self.read(key, "an object", |value| value.is_object().then_some(Keys(value)))
    }

    /// A number above 0.
    pub(super) fn number(self, key: &str) -> Result<Option<usize>> {
        self.read(key, "a whole number above 0", whole)
    }

    /// A number above 0, or as many as an image has sides, which must be equal.
    pub(super) fn side(self, key: &str) -> Result<Option<usize>> {
        match self.get(key) {
            Some(Value::Array(sides)) => match sides.iter().map(whole).collect::<Option<Vec<_>>>().as_deref() {
                Some([a, b]) if a == b => Ok(Some(*a)),
                Some([_, _]) => Err(Error::unsupported(format!("`{key}` is not square")).got(&self.0[key])),
                _ => Err(wrong(key, "one or two whole numbers above 0", &self.0[key])),
            },
            _ => self.number(key),
        }
    }

    pub(super) fn float(self, key: &str) -> Result<Option<f32>> {
        self.read(key, "a number", float)
    }

    pub(super) fn flag(self, key: &str) -> Result<Option<bool>> {
        self.read(key, "true or false", Value::as_bool)
    }

    pub(super) fn text(self, key: &str) -> Result<Option<&'a str>> {
        self.read(key, "a text", Value::as_str)
    }

    /// Texts.
    pub(super) fn texts(self, key: &str) -> Result<Vec<&'a str>> {
        let texts = |value: &'a Value| value.as_array()?.iter().map(Value::as_str).collect::<Option<Vec<_>>>();
        // Absent is as good as empty.
        Ok(self.read(key, "a list of texts", texts)?.unwrap_or_default())
    }

    /// Three numbers, one per channel, or one for all of them.
    pub(super) fn channels(self, key: &str) -> Result<Option<[f32; 3]>> {
        self.read(key, "three numbers", |value| match value {
            Value::Array(values) => values.iter().map(float).collect::<Option<Vec<_>>>()?.try_into().ok(),
            _ => float(value).map(|value| [value; 3]),
        })
    }

    /// Whether a key is there and says something else than false, 0 or nothing.
    pub(super) fn is_set(self, key: &str) -> bool {
        match self.get(key) {
            None | Some(Value::Bool(false)) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Number(number)) => number.as_f64() != Some(0.0),
            Some(_) => true,
        }
    }

    fn read<T>(self, key: &str, what: &str, of: impl FnOnce(&'a Value) -> Option<T>) -> Result<Option<T>> {
        self.get(key).map(|value| of(value).ok_or_else(|| wrong(key, what, value))).transpose()
    }
}

fn whole(value: &Value) -> Option<usize> {
    value.as_u64().filter(|n| (1..=MAX_NUMBER).contains(n)).and_then(|n| usize::try_from(n).ok())
}

fn float(value: &Value) -> Option<f32> {
    value.as_f64().map(|value| value as f32).filter(|value| value.is_finite())
}

fn wrong(key: &str, what: &str, got: &Value) -> Error {
    let mut got = got.to_string();
    if got.len() > 80 {
        got = got.chars().take(80).chain("…".chars()).collect();
    }
    Error::format(format!("`{key}` of the configuration is not what it must be")).expected(what).got(got)
}
