//! Parameters for which the device has no room: what they are computed from comes through two slots by turns. While the
//! kernel works on one, the other is filled.

use std::ops::Range;

use super::added::Added;
use super::inputs::{ChangedParameter, Inputs};
use super::upload::pack;
use crate::error::Result;
use crate::kernel::cuda::{AddedTerms, Event, Launch, Memory, Queue, Segment, Staging, Table, row_bytes, tiles};
use crate::tensor::VectorFormat;

/// The two slots on the device, and what fills them.
#[derive(Debug)]
pub(super) struct Stream {
    staging: Staging,
    slots: [DeviceSlot; 2],
    next: usize,
    threads: usize,
    /// Bytes that came from the host so far.
    pub(super) copied: u64,
}

#[derive(Debug)]
struct DeviceSlot {
    memory: Memory,
    /// The event after which the kernel needs it no more.
    combined: Option<Event>,
}

impl Drop for DeviceSlot {
    fn drop(&mut self) {
        if let Some(combined) = self.combined.take() {
            // A failure has ended the work as well.
            let _ = combined.synchronize();
        }
    }
}

/// Tiles of one parameter that are still to be streamed, or are now.
struct PendingTiles<'a> {
    of: &'a ChangedParameter,
    tiles: Range<usize>,
}

impl Stream {
    /// Slots of `bytes` bytes, which `threads` threads fill.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub(super) fn new(inputs: &Inputs, staging: Staging, bytes: usize, threads: usize) -> Result<Self> {
        let slot = || Ok(DeviceSlot { memory: Memory::new(&inputs.device, bytes)?, combined: None });
        Ok(Self { slots: [slot()?, slot()?], staging, next: 0, threads, copied: 0 })
    }

    /// Computes the parameters that do not stay on the device into the memory at `out`. Inputs whose coefficient is
    /// zero are not brought there.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub(super) fn combine(&mut self, inputs: &Inputs, out: u64, added: &Added<'_>) -> Result<()> {
        let mut left = inputs.streamed.iter().map(|of| PendingTiles { of, tiles: 0..of.tiles }).collect::<Vec<_>>();
        left.reverse();
        // In a slot there are only terms that are added.
        let place = |row: &Vec<(u32, f32)>| (0u32..).zip(row).map(|(place, &(_, a))| (place, a)).collect();
        let here: Vec<Vec<(u32, f32)>> = added.rows.iter().map(place).collect();
        while !left.is_empty() {
            let wave = next_wave(&mut left, self.slots[0].memory.nbytes(), added);
            self.send(inputs, &wave, out, added, &here)?;
        }
        Ok(())
    }

    fn send(
        &mut self,
        inputs: &Inputs,
        wave: &[PendingTiles<'_>],
        out: u64,
        added: &Added<'_>,
        here: &[Vec<(u32, f32)>],
    ) -> Result<()> {
        let slot = &mut self.slots[self.next];
        self.next = 1 - self.next;
        let (mut table, mut places, mut end) = (Table::default(), Vec::new(), slot.memory.address());
        for PendingTiles { of, tiles } in wave {
            let mut put = Vec::new();
            for input in of.inputs(added) {
                let format = tiles::format(input);
                put.push((format, end));
                places.push((input, tiles.clone()));
                end += (tiles.len() * tiles::tile_bytes(format)) as u64;
            }
            let (base, terms) = put.split_at(1);
            let out = of.out + (tiles.start * tiles::tile_bytes(VectorFormat::F32)) as u64;
            table.push(&Segment { base: base.first().copied(), terms, out, tiles: tiles.len() })?;
        }
        let row_of: Vec<usize> = wave.iter().map(|part| added.row_of(part.of.index)).collect();
        let added = AddedTerms { rows: here, row_of: &row_of };
        let (launch, rows) = Launch::combine(&table, end, out, &added, inputs.device.info().multiprocessors)?;
        let tables = [table.to_bytes(), rows.unwrap_or_default()].concat();
        let start = slot.memory.address();
        let (data, all) = ((end - start) as usize, (end - start) as usize + tables.len());
        // What was in the slot is needed until the kernel has read it.
        if let Some(combined) = slot.combined.take() {
            combined.wait_on(Queue::Copy)?;
        }
        let threads = self.threads;
        let copied = self.staging.send(start, |bytes| {
            pack(&places, &mut bytes[..data], threads)?;
            bytes[data..all].copy_from_slice(&tables);
            Ok(all)
        })?;
        copied.wait_on(Queue::Combine)?;
        inputs.device.launch(&launch)?;
        slot.combined = Some(Event::record(&inputs.device, Queue::Combine)?);
        self.copied += all as u64;
        Ok(())
    }
}

/// Takes as many tiles as a slot of `bytes` bytes holds, inputs and tables, from the end of `left`; at least one.
fn next_wave<'a>(left: &mut Vec<PendingTiles<'a>>, bytes: usize, added: &Added<'_>) -> Vec<PendingTiles<'a>> {
    let (mut wave, mut room) = (Vec::new(), bytes);
    while let Some(PendingTiles { of, tiles }) = left.last_mut() {
        let inputs = of.inputs(added);
        let tile_bytes: usize = inputs.map(|input| tiles::tile_bytes(tiles::format(input))).sum();
        let terms = added.to(of.index).len();
        let entry = Table::segment_bytes(terms) + row_bytes(terms);
        let count = (room.saturating_sub(entry) / tile_bytes).min(tiles.len());
        if count == 0 {
            break;
        }
        room -= entry + count * tile_bytes;
        wave.push(PendingTiles { of, tiles: tiles.start..tiles.start + count });
        tiles.start += count;
        if tiles.start < tiles.end {
            break;
        }
        left.pop();
    }
    wave
}
