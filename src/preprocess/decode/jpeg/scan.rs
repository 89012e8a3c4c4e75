//! The entropy-coded data of a scan.

use super::errors::invalid;
use super::frame::{Component, Frame, Scan};
use super::huffman::{Bits, HuffmanTable};
use super::transform::{NATURAL, inverse};
use crate::error::Result;

/// The DC and the AC table of a channel.
type Tables = (Option<HuffmanTable>, Option<HuffmanTable>);

/// The state between one block and the next.
struct ScanState {
    /// The last DC coefficient of each channel of the scan.
    last: Vec<i32>,
    /// The number of blocks to come that have no more coefficients of this scan.
    empty: u32,
}

/// Reads a scan's data into the frame.
pub(super) fn decode(
    frame: &mut Frame,
    scan: &Scan,
    tables: &[Tables],
    restart: usize,
    bits: &mut Bits<'_>,
) -> Result<()> {
    let mut state = ScanState { last: vec![0; scan.components.len()], empty: 0 };
    // A scan of one channel holds the blocks of its own size, another one minimal units of all its channels.
    let (across, down) = match *scan.components {
        [index] => {
            let component = &frame.components[index];
            (component.width.div_ceil(8), component.height.div_ceil(8))
        }
        _ => (frame.width.div_ceil(8 * frame.max_factors.0), frame.height.div_ceil(8 * frame.max_factors.1)),
    };
    for unit in 0..across * down {
        if restart > 0 && unit > 0 && unit % restart == 0 {
            bits.restart((unit / restart - 1) as u8 % 8)?;
            state.last.fill(0);
            state.empty = 0;
        }
        let (x, y) = (unit % across, unit / across);
        for (place, &index) in scan.components.iter().enumerate() {
            let component = &mut frame.components[index];
            let (h, v) = if scan.components.len() == 1 { (1, 1) } else { component.factors };
            for at in 0..h * v {
                let (x, y) = (x * h + at % h, y * v + at / h);
                if frame.progressive {
                    let block = &mut component.coefficients[y * component.across + x];
                    progressive_block(block, scan, &tables[place], place, &mut state, bits)?;
                } else {
                    let block = sequential_block(&tables[place], &mut state.last[place], bits)?;
                    put(component, x, y, &block)?;
                }
            }
        }
    }
    for &index in &scan.components {
        frame.components[index].known[scan.band.0..=scan.band.1].fill(Some(scan.bits.1));
    }
    Ok(())
}

/// Turns a block's coefficients into samples.
fn put(component: &mut Component, x: usize, y: usize, block: &[i16; 64]) -> Result<()> {
    let table = component.quantisation.as_ref().ok_or_else(|| invalid("a channel without a quantisation table"))?;
    let stride = component.across * 8;
    inverse(block, table, &mut component.samples[y * 8 * stride + x * 8..], stride);
    Ok(())
}

/// Turns the coefficients of a progressive image's channel into samples.
pub(super) fn finish(component: &mut Component) -> Result<()> {
    let coefficients = std::mem::take(&mut component.coefficients);
    if !coefficients.is_empty() {
        component.samples = crate::tensor::try_zeroed(coefficients.len() * 64)?;
    }
    for (at, block) in coefficients.iter().enumerate() {
        put(component, at % component.across, at / component.across, block)?;
    }
    Ok(())
}

fn dc(tables: &Tables) -> Result<&HuffmanTable> {
    tables.0.as_ref().ok_or_else(|| invalid("a scan without its Huffman table"))
}

fn ac(tables: &Tables) -> Result<&HuffmanTable> {
    tables.1.as_ref().ok_or_else(|| invalid("a scan without its Huffman table"))
}

fn difference(table: &HuffmanTable, last: &mut i32, bits: &mut Bits<'_>) -> Result<i32> {
    let length = bits.value(table)?;
    *last = last.wrapping_add(bits.number(length.into())?);
    Ok(*last)
}

fn sequential_block(tables: &Tables, last: &mut i32, bits: &mut Bits<'_>) -> Result<[i16; 64]> {
    let mut block = [0; 64];
    block[0] = difference(dc(tables)?, last, bits)? as i16;
    let table = ac(tables)?;
    let mut k = 1;
    while k < 64 {
        let value = bits.value(table)?;
        let (run, length) = (usize::from(value >> 4), u32::from(value & 15));
        if length == 0 {
            if run < 15 {
                break;
            }
            k += 16;
            continue;
        }
        k += run;
        *coefficient(&mut block, k)? = bits.number(length)? as i16;
        k += 1;
    }
    Ok(block)
}

/// The coefficient of the `k`-th frequency.
fn coefficient(block: &mut [i16; 64], k: usize) -> Result<&mut i16> {
    let place = NATURAL.get(k).ok_or_else(|| invalid("a block with more than 64 coefficients"))?;
    Ok(&mut block[usize::from(*place)])
}

fn progressive_block(
    block: &mut [i16; 64],
    scan: &Scan,
    tables: &Tables,
    place: usize,
    state: &mut ScanState,
    bits: &mut Bits<'_>,
) -> Result<()> {
    let low = scan.bits.1;
    match (scan.band.0, scan.bits.0) {
        (0, 0) => block[0] = (difference(dc(tables)?, &mut state.last[place], bits)? << low) as i16,
        (0, _) => block[0] |= (bits.bits(1)? << low) as i16,
        (_, 0) => first_bits(block, scan, ac(tables)?, state, bits)?,
        _ => next_bit(block, scan, ac(tables)?, state, bits)?,
    }
    Ok(())
}

/// The upper bits of a band of coefficients.
fn first_bits(
    block: &mut [i16; 64],
    scan: &Scan,
    table: &HuffmanTable,
    state: &mut ScanState,
    bits: &mut Bits<'_>,
) -> Result<()> {
    if state.empty > 0 {
        state.empty -= 1;
        return Ok(());
    }
    let (mut k, last) = scan.band;
    while k <= last {
        let value = bits.value(table)?;
        let (run, length) = (usize::from(value >> 4), u32::from(value & 15));
        if length == 0 {
            if run < 15 {
                state.empty = (1 << run) - 1 + bits.bits(run as u32)?;
                break;
            }
            k += 16;
            continue;
        }
        k += run;
        *coefficient(block, k)? = (bits.number(length)? << scan.bits.1) as i16;
        k += 1;
    }
    Ok(())
}

/// Reads one more bit of a band of coefficients, and those that are not zero any more.
fn next_bit(
    block: &mut [i16; 64],
    scan: &Scan,
    table: &HuffmanTable,
    state: &mut ScanState,
    bits: &mut Bits<'_>,
) -> Result<()> {
    let (mut k, last) = scan.band;
    let one = 1i16 << scan.bits.1;
    while state.empty == 0 && k <= last {
        let value = bits.value(table)?;
        let (mut run, length) = (value >> 4, value & 15);
        let new = match length {
            0 if run < 15 => {
                state.empty = (1 << run) + bits.bits(run.into())?;
                break;
            }
            0 => 0,
            1 if bits.bits(1)? == 1 => one,
            1 => -one,
            _ => return Err(invalid("a coefficient with two new bits")),
        };
        // Zeros are counted; what is not zero gets its bit in passing.
        while k <= last {
            let value = coefficient(block, k)?;
            k += 1;
            if *value != 0 {
                refine(value, one, bits)?;
            } else if run == 0 {
                *value = new;
                break;
            } else {
                run -= 1;
            }
        }
    }
    if state.empty > 0 {
        while k <= last {
            let value = coefficient(block, k)?;
            if *value != 0 {
                refine(value, one, bits)?;
            }
            k += 1;
        }
        state.empty -= 1;
    }
    Ok(())
}

fn refine(value: &mut i16, one: i16, bits: &mut Bits<'_>) -> Result<()> {
    if bits.bits(1)? == 1 && *value & one == 0 {
        *value = value.wrapping_add(if *value > 0 { one } else { -one });
    }
    Ok(())
}
