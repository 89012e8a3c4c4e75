//! Huffman codes, and the bits of a scan.

use std::sync::LazyLock;

use super::errors::{invalid, truncated};
use crate::error::Result;

/// Codes of at most this many bits are looked up at once.
const AHEAD: u32 = 9;

/// A Huffman table.
#[derive(Clone)]
pub(super) struct HuffmanTable {
    /// Indexed by the next [`AHEAD`] bits: the length and the value of the code that they start with; a length of 0:
    /// longer.
    ahead: Box<[(u8, u8)]>,
    /// Indexed by length: the first code beyond those of this length (filled up to 16 bits), and what to add to a code
    /// to get the place of its value.
    beyond: [u32; 17],
    offsets: [i32; 17],
    values: Vec<u8>,
}

impl HuffmanTable {
    /// Reads a table: how many codes there are of each length, then their values. Gives how many bytes that was too.
    pub(super) fn read(bytes: &[u8], dc: bool) -> Option<(Self, usize)> {
        let (counts, rest) = bytes.split_first_chunk::<16>()?;
        let total = counts.iter().map(|&count| usize::from(count)).sum();
        let values =
            rest.get(..total).filter(|values| values.len() <= 256 && !(dc && values.iter().any(|&v| v > 15)))?;
        Some((Self::new(counts, values)?, 16 + total))
    }

    fn new(counts: &[u8; 16], values: &[u8]) -> Option<Self> {
        let mut table =
            Self { ahead: vec![(0, 0); 1 << AHEAD].into(), beyond: [0; 17], offsets: [0; 17], values: values.to_vec() };
        let (mut code, mut place) = (0u32, 0usize);
        for length in 1..=16 {
            let count = usize::from(counts[length - 1]);
            table.offsets[length] = place as i32 - code as i32;
            for &value in values.get(place..place + count)? {
                if code >> length != 0 {
                    return None;
                }
                if length as u32 <= AHEAD {
                    let free = AHEAD as usize - length;
                    table.ahead[(code as usize) << free..][..1 << free].fill((length as u8, value));
                }
                code += 1;
            }
            place += count;
            table.beyond[length] = code << (16 - length);
            code <<= 1;
        }
        Some(table)
    }
}

/// The bits of a scan, up to the marker that ends it.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The next bits, the first in the highest.
    next: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, next: 0, count: 0 }
    }

    /// The place of the byte after the last one read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    fn fill(&mut self) {
        while self.count <= 56 {
            let Some(&byte) = self.bytes.get(self.at) else { return };
            if byte == 0xff {
                // Zero bytes are stuffed after data; any other byte makes a marker.
                let after = self.bytes[self.at..].iter().position(|&byte| byte != 0xff);
                match after.map(|after| (after, self.bytes[self.at + after])) {
                    Some((after, 0)) => self.at += after,
                    _ => return,
                }
            }
            self.at += 1;
            self.next |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    fn take(&mut self, count: u32) -> Result<()> {
        if count > self.count {
            return Err(if self.bytes[self.at..].contains(&0xff) { invalid("a scan ends early") } else { truncated() });
        }
        self.next <<= count;
        self.count -= count;
        Ok(())
    }

    /// The next `count` bits, at most 16.
    pub(super) fn bits(&mut self, count: u32) -> Result<u32> {
        if count == 0 {
            return Ok(0);
        }
        if self.count < count {
            self.fill();
        }
        let value = (self.next >> (64 - count)) as u32;
        self.take(count)?;
        Ok(value)
    }

    /// A number of `count` bits (at most 15): one whose first bit is 0 is negative.
    pub(super) fn number(&mut self, count: u32) -> Result<i32> {
        let value = self.bits(count)? as i32;
        Ok(if count > 0 && value < 1 << (count - 1) { value - (1 << count) + 1 } else { value })
    }

    pub(super) fn value(&mut self, table: &HuffmanTable) -> Result<u8> {
        if self.count < 16 {
            self.fill();
        }
        let (length, value) = table.ahead[(self.next >> (64 - AHEAD)) as usize];
        if length > 0 {
            self.take(length.into())?;
            return Ok(value);
        }
        let code = (self.next >> 48) as u32;
        let length = (AHEAD as usize + 1..=16).find(|&length| code < table.beyond[length]);
        let length = length.ok_or_else(|| invalid("an unknown Huffman code"))?;
        self.take(length as u32)?;
        let place = (code >> (16 - length)) as i32 + table.offsets[length];
        let value = usize::try_from(place).ok().and_then(|place| table.values.get(place));
        value.copied().ok_or_else(|| invalid("an unknown Huffman code"))
    }

    /// Passes over the restart marker of this number.
    pub(super) fn restart(&mut self, number: u8) -> Result<()> {
        (self.next, self.count) = (0, 0);
        let from = &self.bytes[self.at..];
        let marker = from.windows(2).position(|pair| pair[0] == 0xff && pair[1] != 0xff && pair[1] != 0);
        let marker = marker.ok_or_else(truncated)?;
        if from[marker + 1] != 0xd0 + number {
            return Err(invalid("a restart marker is missing"));
        }
        self.at += marker + 2;
        Ok(())
    }
}

/// The standard's tables for luma and chroma (annex K.3): for DC and for AC coefficients.
pub(super) fn standard() -> (&'static [HuffmanTable], &'static [HuffmanTable]) {
    static TABLES: LazyLock<(Vec<HuffmanTable>, Vec<HuffmanTable>)> = LazyLock::new(|| {
        let tables =
            |all: [(&[u8; 16], &[u8]); 2]| all.into_iter().filter_map(|(c, v)| HuffmanTable::new(c, v)).collect();
        let dc: [u8; 12] = std::array::from_fn(|i| i as u8);
        (tables([(&DC_LUMA, &dc), (&DC_CHROMA, &dc)]), tables([(&AC_LUMA.0, &AC_LUMA.1), (&AC_CHROMA.0, &AC_CHROMA.1)]))
    });
    (&TABLES.0, &TABLES.1)
}

const DC_LUMA: [u8; 16] = [0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0];
const DC_CHROMA: [u8; 16] = [0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0];
const AC_LUMA: ([u8; 16], [u8; 162]) = (
    [0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125],
    [
        0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07, 0x22, 0x71,
        0x14, 0x32, 0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52, 0xd1, 0xf0, 0x24, 0x33, 0x62, 0x72,
        0x82, 0x09, 0x0a, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x34, 0x35, 0x36, 0x37,
        0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59,
        0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x83,
        0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3,
        0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3,
        0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe1, 0xe2,
        0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa,
    ],
);
const AC_CHROMA: ([u8; 16], [u8; 162]) = (
    [0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119],
    [
        0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71, 0x13, 0x22,
        0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xa1, 0xb1, 0xc1, 0x09, 0x23, 0x33, 0x52, 0xf0, 0x15, 0x62, 0x72, 0xd1,
        0x0a, 0x16, 0x24, 0x34, 0xe1, 0x25, 0xf1, 0x17, 0x18, 0x19, 0x1a, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x35, 0x36,
        0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58,
        0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a,
        0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a,
        0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba,
        0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda,
        0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa,
    ],
);
