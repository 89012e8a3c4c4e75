//! Protocol buffers at the level of the wire: fields as places in the bytes, so that what is not looked at can be
//! copied as it is; and fields appended. A file is taken to be hostile: every length is checked against what is left.

use std::ops::Range;

use super::byte_chain::ByteChain;
use crate::error::{Error, Result};

/// One field of a message.
#[derive(Clone, Debug)]
pub(super) struct Field {
    /// The field's number in the schema.
    pub(super) number: u32,
    /// The content of the field.
    pub(super) value: FieldValue,
    /// Tag, length and content together, in bytes of the file.
    pub(super) whole: Range<usize>,
}

/// The content of a field.
#[derive(Clone, Debug)]
pub(super) enum FieldValue {
    /// An integer, a boolean or an enumeration.
    Varint(u64),
    /// Eight bytes: a double.
    Fixed64([u8; 8]),
    /// Four bytes: a float.
    Fixed32([u8; 4]),
    /// Text, bytes, a message or packed numbers: where in the file.
    Bytes(Range<usize>),
}

/// The fields of the message that fills `range` of `file`, in their order.
pub(super) struct Fields<'a> {
    file: &'a [u8],
    at: usize,
    end: usize,
}

/// The fields of a message.
///
/// # Panics
/// When the range leaves the file.
pub(super) fn fields(file: &[u8], range: Range<usize>) -> Fields<'_> {
    assert!(range.start <= range.end && range.end <= file.len(), "range outside the file");
    Fields { file, at: range.start, end: range.end }
}

/// The last field at the end of a path of field numbers, each but the last of a message in the one before; small
/// messages only.
pub(super) fn last(file: &[u8], message: Range<usize>, path: &[u32]) -> Result<Option<Field>> {
    let [number, rest @ ..] = path else { return Ok(None) };
    let mut found = None;
    for field in fields(file, message) {
        let field = field?;
        if field.number == *number {
            found = if rest.is_empty() { Some(field) } else { last(file, field.range()?, rest)?.or(found) };
        }
    }
    Ok(found)
}

impl Iterator for Fields<'_> {
    type Item = Result<Field>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.at < self.end).then(|| {
            let field = self.read();
            if field.is_err() {
                self.at = self.end; // Nothing after a damaged field can be trusted.
            }
            field
        })
    }
}

impl Fields<'_> {
    fn read(&mut self) -> Result<Field> {
        let start = self.at;
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| (1..1 << 29).contains(number));
        let number = number.ok_or_else(|| damaged("a field with an impossible number", start))?;
        let value = match tag & 7 {
            0 => FieldValue::Varint(self.varint()?),
            1 => FieldValue::Fixed64(self.fixed()?),
            2 => {
                let length = self.varint()?;
                let length = usize::try_from(length).ok().filter(|length| *length <= self.end - self.at);
                let length = length.ok_or_else(|| damaged("a field that is longer than what is left", start))?;
                self.at += length;
                FieldValue::Bytes(self.at - length..self.at)
            }
            5 => FieldValue::Fixed32(self.fixed()?),
            _ => return Err(damaged("a field of a kind that ONNX does not use", start)),
        };
        Ok(Field { number, value, whole: start..self.at })
    }

    fn varint(&mut self) -> Result<u64> {
        let (value, length) =
            varint(&self.file[self.at..self.end]).ok_or_else(|| damaged("a number that does not end", self.at))?;
        self.at += length;
        Ok(value)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes =
            self.file[self.at..self.end].first_chunk().ok_or_else(|| damaged("a number that does not end", self.at))?;
        self.at += N;
        Ok(*bytes)
    }
}

/// The number at the beginning of `bytes`, and how many bytes it takes.
pub(super) fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().take(10).enumerate() {
        if i == 9 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Some((value, i + 1));
        }
    }
    None
}

fn damaged(what: &str, at: usize) -> Error {
    Error::format(format!("not an ONNX model, or cut off: {what} at byte {at}"))
}

impl Field {
    /// The content of a length-delimited field.
    pub(super) fn range(&self) -> Result<Range<usize>> {
        match &self.value {
            FieldValue::Bytes(range) => Ok(range.clone()),
            _ => Err(damaged("a number where text or a message belongs", self.whole.start)),
        }
    }

    /// The content as text.
    pub(super) fn text(&self, file: &[u8]) -> Result<String> {
        let text = std::str::from_utf8(&file[self.range()?]);
        text.map(str::to_owned).map_err(|e| damaged("text that is no UTF-8", self.whole.start).because(e))
    }

    /// The content as an integer.
    pub(super) fn integer(&self) -> Result<i64> {
        match self.value {
            FieldValue::Varint(value) => Ok(value.cast_signed()),
            _ => Err(damaged("no integer where one belongs", self.whole.start)),
        }
    }

    /// One integer, or several packed into one field: both are legal for a repeated field.
    pub(super) fn integers(&self, file: &[u8], mut take: impl FnMut(i64) -> Result<()>) -> Result<()> {
        let FieldValue::Bytes(range) = &self.value else { return take(self.integer()?) };
        let mut rest = &file[range.clone()];
        while !rest.is_empty() {
            let (value, length) = varint(rest).ok_or_else(|| damaged("a packed number", self.whole.start))?;
            take(value.cast_signed())?;
            rest = &rest[length..];
        }
        Ok(())
    }
}

/// Fields as a schema numbers them, appended.
impl<'a> ByteChain<'a> {
    /// A bare number.
    fn varint(&mut self, mut value: u64) {
        let mut bytes = Vec::with_capacity(10);
        while value >= 0x80 {
            bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        self.own(&bytes);
    }

    /// An integer, a boolean or an enumeration.
    pub(super) fn integer(&mut self, number: u32, value: i64) {
        self.varint(u64::from(number) << 3);
        self.varint(value.cast_unsigned());
    }

    /// A float.
    pub(super) fn float(&mut self, number: u32, value: f32) {
        self.varint(u64::from(number) << 3 | 5);
        self.own(&value.to_le_bytes());
    }

    /// Text.
    pub(super) fn text(&mut self, number: u32, text: &str) {
        self.head(number, text.len());
        self.own(text.as_bytes());
    }

    /// Text, bytes or a message that stay where they are.
    pub(super) fn borrowed(&mut self, number: u32, content: &'a [u8]) {
        self.head(number, content.len());
        self.borrow(content);
    }

    /// Text, bytes or a message.
    pub(super) fn message(&mut self, number: u32, content: Self) {
        self.head(number, content.len());
        self.append(content);
    }

    /// What stands before a field of `length` bytes.
    fn head(&mut self, number: u32, length: usize) {
        self.varint(u64::from(number) << 3 | 2);
        self.varint(length as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut chain = ByteChain::default();
            chain.varint(value);
            assert_eq!(varint(&chain.to_vec().unwrap()), Some((value, chain.len())));
        }
        let mut chain = ByteChain::default();
        chain.text(7, "text");
        chain.borrowed(1 << 20, &[3, 0x80, 1]);
        chain.integer(2, -1);
        chain.float(3, 1.5);
        let mut outer = ByteChain::default();
        outer.message(9, chain.clone());
        let bytes = outer.to_vec().unwrap();
        let inner = fields(&bytes, 0..bytes.len()).next().unwrap().unwrap();
        assert_eq!((inner.number, inner.whole.len()), (9, outer.len()));
        assert_eq!(bytes[inner.range().unwrap()], chain.to_vec().unwrap());
        let bytes = chain.to_vec().unwrap();
        let read: Vec<_> = fields(&bytes, 0..bytes.len()).collect::<Result<_>>().unwrap();
        assert_eq!((read[0].number, read[0].text(&bytes).unwrap().as_str()), (7, "text"));
        let mut packed = Vec::new();
        read[1]
            .integers(&bytes, |value| {
                packed.push(value);
                Ok(())
            })
            .unwrap();
        assert_eq!((read[1].number, packed), (1 << 20, vec![3, 128]));
        assert_eq!((read[2].number, read[2].integer().unwrap()), (2, -1));
        assert!(matches!(read[3].value, FieldValue::Fixed32(value) if value == 1.5f32.to_le_bytes()));
    }

    #[test]
    fn nothing_reaches_outside() {
        for bytes in [
            &[0x0a][..],
            &[0x0a, 5, 1],
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            &[0x00, 1],
            &[0x0b],
            &[0x0d, 1, 2, 3],
            &[0x09, 1],
            &[0xff; 11],
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
        ] {
            let read: Vec<_> = fields(bytes, 0..bytes.len()).collect();
            assert!(read.len() == 1 && read[0].is_err(), "{bytes:?}");
        }
    }
}
