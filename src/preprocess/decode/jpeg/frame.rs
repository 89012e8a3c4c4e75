//! The headers of a JPEG file's image: its size, its channels, and what each scan holds of them.

use super::super::decoded::check_data;
use super::errors::{invalid, unsupported};
use crate::error::{Error, Result};
use crate::tensor::try_zeroed;

/// The coefficients of a progressive image that must be known exactly, in the order of their frequency: where one is
/// not, libjpeg guesses the missing ones.
const MIN_KNOWN: usize = 10;

/// The image that the scans fill in.
pub(super) struct Frame {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) progressive: bool,
    /// The largest sampling factors.
    pub(super) max_factors: (usize, usize),
    pub(super) components: Vec<Component>,
}

/// A channel.
pub(super) struct Component {
    pub(super) id: u8,
    /// Its sampling factors: how often it is sampled where the most sampled channel is so [`Frame::max_factors`] times.
    pub(super) factors: (usize, usize),
    /// The place of its quantisation table.
    pub(super) table: usize,
    pub(super) quantisation: Option<[u16; 64]>,
    /// In samples.
    pub(super) width: usize,
    /// In samples.
    pub(super) height: usize,
    /// Blocks in a row, filled up to whole minimal units.
    pub(super) across: usize,
    /// Blocks in a column, filled up to whole minimal units.
    pub(super) down: usize,
    /// The samples of a sequential image, rows of `across`·8.
    pub(super) samples: Vec<u8>,
    /// The coefficients of a progressive image, block after block.
    pub(super) coefficients: Vec<[i16; 64]>,
    /// The lowest bit that is known of each coefficient.
    pub(super) known: [Option<u8>; 64],
}

/// The header of a scan.
pub(super) struct Scan {
    /// Indices of channels.
    pub(super) components: Vec<usize>,
    /// The places of each channel's Huffman tables.
    pub(super) tables: Vec<(usize, usize)>,
    /// The first and the last coefficient.
    pub(super) band: (usize, usize),
    /// The lowest bit that is known already, and the lowest that this scan tells.
    pub(super) bits: (u8, u8),
}

impl Frame {
    /// Reads a frame's header; nothing is allocated for its image.
    pub(super) fn read(segment: &[u8], progressive: bool) -> Result<Self> {
        let [precision, h1, h0, w1, w0, count, rest @ ..] = segment else { return Err(invalid("a frame is cut off")) };
        let [width, height] = [[*w1, *w0], [*h1, *h0]].map(|side| usize::from(u16::from_be_bytes(side)));
        if *precision != 8 {
            return Err(unsupported(&format!("{precision} bits per sample")));
        }
        if width == 0 || height == 0 {
            return Err(invalid(format!("{width} × {height} pixels")));
        }
        if ![1, 3, 4].contains(count) {
            return Err(unsupported(&format!("{count} channels")));
        }
        if rest.len() != 3 * usize::from(*count) {
            return Err(invalid("a frame's length disagrees with its channels"));
        }
        let factors: Vec<_> = rest.chunks_exact(3).map(|c| (usize::from(c[1] >> 4), usize::from(c[1] & 15))).collect();
        if factors.iter().any(|&(h, v)| !(1..=4).contains(&h) || !(1..=4).contains(&v)) {
            return Err(invalid("sampling factors beyond 1 to 4"));
        }
        let most = factors.iter().fold((1, 1), |most, factor| (most.0.max(factor.0), most.1.max(factor.1)));
        if factors.iter().any(|&(h, v)| most.0 % h != 0 || most.1 % v != 0) {
            return Err(unsupported("sampling factors that do not divide each other"));
        }
        let components = rest.chunks_exact(3).zip(factors).map(|(c, factors)| Component {
            id: c[0],
            factors,
            table: usize::from(c[2]),
            quantisation: None,
            width: (width * factors.0).div_ceil(most.0),
            height: (height * factors.1).div_ceil(most.1),
            across: width.div_ceil(8 * most.0) * factors.0,
            down: height.div_ceil(8 * most.1) * factors.1,
            samples: Vec::new(),
            coefficients: Vec::new(),
            known: [None; 64],
        });
        Ok(Self { width, height, progressive, max_factors: most, components: components.collect() })
    }

    /// The frame with room for its image, which is in a file of `file` bytes.
    pub(super) fn allocated(mut self, file: usize) -> Result<Self> {
        // Every block has a bit at least, that of its first coefficient; what only fills up the last ones has not.
        let blocks = self.components.iter().map(|of| of.width.div_ceil(8) * of.height.div_ceil(8)).sum::<usize>();
        check_data(blocks * 64, file, 8 * 64)?;
        for component in &mut self.components {
            let blocks = component.across * component.down;
            if self.progressive {
                component.coefficients = try_zeroed(blocks)?;
            } else {
                component.samples = try_zeroed(blocks * 64)?;
            }
        }
        Ok(self)
    }

    /// Every channel has its data: where some are missing, a decoder would have to invent pixels.
    pub(super) fn check_complete(&self) -> Result<()> {
        for component in &self.components {
            let needed = if self.progressive { MIN_KNOWN } else { 1 };
            if component.known[..needed].iter().any(|&bit| bit != Some(0)) {
                return Err(Error::format("the JPEG image is incomplete")
                    .expected("scans of every channel, to the last bit")
                    .got(format_args!("an end before those of channel {}", component.id)));
            }
        }
        Ok(())
    }
}

impl Scan {
    pub(super) fn read(segment: &[u8], frame: &Frame) -> Result<Self> {
        let broken = || invalid("a broken scan header");
        let (&count, rest) = segment.split_first().ok_or_else(broken)?;
        let (channels, rest) = rest.split_at_checked(2 * usize::from(count)).ok_or_else(broken)?;
        let [first, last, bits] = *rest else { return Err(broken()) };
        let mut scan = Self {
            components: Vec::new(),
            tables: Vec::new(),
            band: (usize::from(first), usize::from(last)),
            bits: (bits >> 4, bits & 15),
        };
        for channel in channels.chunks_exact(2) {
            let index = frame.components.iter().position(|component| component.id == channel[0]).ok_or_else(broken)?;
            if scan.components.contains(&index) {
                return Err(broken());
            }
            scan.components.push(index);
            scan.tables.push((usize::from(channel[1] >> 4), usize::from(channel[1] & 15)));
        }
        let blocks: usize = scan.components.iter().map(|&i| frame.components[i].factors).map(|(h, v)| h * v).sum();
        if scan.components.is_empty() || scan.components.len() > 1 && blocks > 10 {
            return Err(broken());
        }
        if frame.progressive {
            scan.check_progressive().ok_or_else(broken)?;
        } else {
            (scan.band, scan.bits) = ((0, 63), (0, 0));
        }
        Ok(scan)
    }

    fn check_progressive(&self) -> Option<()> {
        let ((first, last), (high, low)) = (self.band, self.bits);
        let band = if first == 0 { last == 0 } else { first <= last && last < 64 && self.components.len() == 1 };
        (band && low <= 13 && (high == 0 || high == low + 1)).then_some(())
    }
}
