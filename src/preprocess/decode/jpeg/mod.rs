//! JPEG files, decoded to the pixels that Pillow (libjpeg-turbo) decodes them to, in every bit.
//!
//! The standard leaves the inverse transform's rounding and the enlarging of subsampled channels to the decoder, and
//! models were trained and evaluated with libjpeg-turbo's. No crate gives its pixels for every file: `zune-jpeg`
//! 0.5.15 rounds otherwise, and gives other colours without an error where a sequential file has several scans or
//! luma is sampled less than chroma; `jpeg-decoder` 0.3.2 rounds otherwise too; `libjpeg-turbo-rs` 0.9.0 gives the
//! same pixels, but panics on unusual sampling and promises no memory safety. Hence our own, for what Pillow reads:
//! 8 bits per sample, Huffman coding, sequential or progressive, 1, 3 or 4 channels.
//!
//! Source: ITU-T T.81; libjpeg-turbo's `jidctint.c` (the transform), `jdsample.c` (enlarging), `jdcolor.c`.

mod errors;
mod frame;
mod huffman;
mod output;
mod scan;
mod transform;

use super::decoded::{Decoded, check_pixels};
use crate::error::Result;
use errors::{invalid, truncated, unsupported};
use frame::{Frame, Scan};
use huffman::{Bits, HuffmanTable, standard};

/// The most scans: each visits every block again, so that a small file of more could take hours.
const MAX_SCANS: usize = 500;

/// The four places that a file has for tables of one kind.
type Places<T> = [Option<T>; 4];

/// A file that is being read.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    quantisation: Places<[u16; 64]>,
    dc: Places<HuffmanTable>,
    ac: Places<HuffmanTable>,
    /// Minimal units between restart markers; 0: there are none.
    restart: usize,
    jfif: bool,
    /// The colour transform that an Adobe segment names.
    adobe: Option<u8>,
    frame: Option<Frame>,
    scans: usize,
}

/// Decodes the content of a JPEG file.
pub(super) fn decode(bytes: &[u8], max_pixels: usize) -> Result<Decoded> {
    let mut reader = Reader {
        bytes,
        at: 2,
        quantisation: [None; 4],
        dc: Places::default(),
        ac: Places::default(),
        restart: 0,
        jfif: false,
        adobe: None,
        frame: None,
        scans: 0,
    };
    while reader.segment(max_pixels)? {}
    let Some(frame) = reader.frame else { return Err(invalid("it ends before its image")) };
    frame.check_complete()?;
    output::assemble(frame, reader.jfif, reader.adobe)
}

impl<'a> Reader<'a> {
    /// Reads the next marker and its segment; false at the end of the image.
    fn segment(&mut self, max_pixels: usize) -> Result<bool> {
        match self.marker()? {
            0xd9 => return Ok(false),
            // Restart markers and TEM have no segment.
            0x01 | 0xd0..=0xd7 => {}
            0xd8 => return Err(invalid("a second image starts within it")),
            0xc0..=0xc2 => {
                let progressive = self.bytes[self.at - 1] == 0xc2;
                let segment = self.payload()?;
                if self.frame.is_some() {
                    return Err(invalid("it has two frames"));
                }
                let frame = Frame::read(segment, progressive)?;
                check_pixels(frame.width, frame.height, max_pixels)?;
                self.frame = Some(frame.allocated(self.bytes.len())?);
            }
            0xc3 => return Err(unsupported("lossless coding")),
            0xc5..=0xc7 | 0xde => return Err(unsupported("hierarchical coding")),
            0xc9..=0xcb | 0xcd..=0xcf => return Err(unsupported("arithmetic coding")),
            0xc4 => self.huffman_tables()?,
            0xdb => self.quantisation_tables()?,
            0xdd => {
                let [high, low] = *self.payload()? else { return Err(invalid("a restart interval of another length")) };
                self.restart = usize::from(u16::from_be_bytes([high, low]));
            }
            0xda => self.scan()?,
            0xe0 => self.jfif |= self.payload()?.starts_with(b"JFIF\0"),
            0xee => {
                let segment = self.payload()?;
                if segment.starts_with(b"Adobe") && segment.len() >= 12 {
                    self.adobe = Some(segment[11]);
                }
            }
            _ => _ = self.payload()?,
        }
        Ok(true)
    }

    /// The next marker's second byte. Bytes between segments are passed over.
    fn marker(&mut self) -> Result<u8> {
        loop {
            let from = self.bytes.get(self.at..).unwrap_or(&[]);
            let ff = from.iter().position(|&byte| byte == 0xff).ok_or_else(truncated)?;
            let fill = from[ff..].iter().position(|&byte| byte != 0xff).ok_or_else(truncated)?;
            self.at += ff + fill + 1;
            match from[ff + fill] {
                0 => {}
                marker => return Ok(marker),
            }
        }
    }

    /// The bytes after a segment's length.
    fn payload(&mut self) -> Result<&'a [u8]> {
        let from = self.bytes.get(self.at..).unwrap_or(&[]);
        let length = from.first_chunk().map(|&length| usize::from(u16::from_be_bytes(length))).ok_or_else(truncated)?;
        if length < 2 {
            return Err(invalid("a segment is shorter than its length"));
        }
        self.at += length;
        from.get(2..length).ok_or_else(truncated)
    }

    fn quantisation_tables(&mut self) -> Result<()> {
        let mut rest = self.payload()?;
        while let Some((&head, values)) = rest.split_first() {
            let (wide, place) = (head >> 4, usize::from(head & 15));
            let size = if wide == 0 { 64 } else { 128 };
            let (Some(values), Some(table)) = (values.get(..size), self.quantisation.get_mut(place)) else {
                return Err(invalid("a quantisation table is cut off, or numbered above 3"));
            };
            let mut read = [0; 64];
            for (k, value) in read.iter_mut().enumerate() {
                *value = match wide {
                    0 => u16::from(values[k]),
                    _ => u16::from_be_bytes([values[2 * k], values[2 * k + 1]]),
                };
            }
            *table = Some(read);
            rest = &rest[1 + size..];
        }
        Ok(())
    }

    fn huffman_tables(&mut self) -> Result<()> {
        let mut rest = self.payload()?;
        while let Some((&head, values)) = rest.split_first() {
            let (table, used) =
                HuffmanTable::read(values, head >> 4 == 0).ok_or_else(|| invalid("a broken Huffman table"))?;
            let places = if head >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            let place = places.get_mut(usize::from(head & 15));
            *place.ok_or_else(|| invalid("a Huffman table is numbered above 3"))? = Some(table);
            rest = &rest[1 + used..];
        }
        Ok(())
    }

    fn scan(&mut self) -> Result<()> {
        let segment = self.payload()?;
        self.scans += 1;
        if self.scans > MAX_SCANS {
            return Err(unsupported("more than 500 scans"));
        }
        let Some(frame) = &mut self.frame else { return Err(invalid("a scan before its frame")) };
        let scan = Scan::read(segment, frame)?;
        for &index in &scan.components {
            let component = &mut frame.components[index];
            // The table of a channel's first scan counts.
            if component.quantisation.is_none() {
                component.quantisation = self.quantisation.get(component.table).copied().flatten();
            }
            if component.quantisation.is_none() {
                return Err(invalid("a channel without a quantisation table"));
            }
        }
        // Frames of Motion JPEG leave the standard's tables out.
        let usual = if frame.progressive { None } else { Some(standard()) };
        let (usual_dc, usual_ac) = usual.map_or((&[][..], &[][..]), |(dc, ac)| (dc, ac));
        let tables =
            |own: &'_ Places<HuffmanTable>, place: usize, usual: &'static [HuffmanTable]| -> Option<HuffmanTable> {
                own.get(place).and_then(Clone::clone).or_else(|| usual.get(place).cloned())
            };
        let tables: Vec<_> = scan
            .tables
            .iter()
            .map(|&(dc, ac)| (tables(&self.dc, dc, usual_dc), tables(&self.ac, ac, usual_ac)))
            .collect();
        let mut bits = Bits::new(self.bytes, self.at);
        scan::decode(frame, &scan, &tables, self.restart, &mut bits)?;
        self.at = bits.at();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
