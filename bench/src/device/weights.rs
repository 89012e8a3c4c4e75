//! A basis in one format on the device: how long it takes to get there, how fast tasks are reconstructed, and how much
//! memory that is.

use std::cell::RefCell;
use std::path::Path;

use serde::Serialize;
use taskbasis::basis::Parameter;
use taskbasis::tensor::Source;
use taskbasis::{Cuda, DeviceModel, DeviceOptions, Error, ErrorKind, Grouping, Result, TaskWeights};

use super::super::Setup;
use super::super::family::{Fresh, basis_of};
use super::super::grouped::Grouped;
use super::super::reconstruct::bytes_moved;
use super::super::samples::{Ratio, Samples, Variant, digits, repeat, take_turns, time};
use super::with_tail;
use crate::output;

#[derive(Serialize)]
pub struct InFormat {
    pub format: String,
    /// Bytes of the image tower, as the files have them.
    pub base_bytes: usize,
    pub basis_bytes: usize,
    /// Bytes of base and basis that stay on the device.
    pub resident_bytes: usize,
    /// Bytes of the slots that the rest is streamed through; 0 where everything stays.
    pub slot_bytes: usize,
    /// Bytes of one task's weights on the device.
    pub weights_bytes: usize,
    /// The largest fall of the device's free memory, with two tasks' weights.
    pub peak_bytes: usize,
    /// Time until what stays is on the device, the files being in the page cache.
    pub upload_ms: Samples,
    /// The rate at which `resident_bytes` were uploaded.
    pub upload_gb_s: f64,
    /// Bytes that one reconstruction must move: base and vectors read once, weights written once.
    pub bytes: u64,
    /// Bytes that come from the host for one reconstruction.
    pub streamed_bytes: u64,
    /// Time from naming a task that is not on the device until its reconstruction is in the queue.
    pub queued_ms: Samples,
    /// Time from naming a task that is not on the device until its weights are computed.
    pub computed_ms: Samples,
    /// The time that moving `bytes` takes at the speed of copies in the device's memory, in turns with it.
    pub copy_ms: Samples,
    /// Bytes that the copy moves, half of them read and half written: as many as `bytes`, if there is room.
    pub copy_bytes: usize,
    pub gb_s: f64,
    pub copy_gb_s: f64,
    /// `gb_s` over `copy_gb_s`.
    pub ratio: f64,
    /// Each parameter with coefficients of its own, in turns with the others: as `computed_ms`.
    pub grouped: Grouped,
}

pub fn measure(setup: &Setup<'_>, cuda: &Cuda, format: &str, path: &Path) -> Result<InFormat> {
    let free = || cuda.memory().map(|(free, _)| free);
    let (before, mut least) = (free()?, usize::MAX);
    // On the device alone: nothing is reconstructed in the host's memory.
    let model = setup.family.open_format(path, setup.threads, 0)?;
    let basis = basis_of(&model)?;
    let (mut fresh, mut fresh_grouped) = (Fresh::of(&model), Fresh::of(&model));
    let grouping = Grouping::per_parameter(basis);
    let asked_for = DeviceOptions { budget: setup.encoder.device_budget };

    let upload = |options: &DeviceOptions| {
        let device = DeviceModel::new(&model, cuda, options)?;
        device.synchronize()?;
        Ok(device)
    };
    let upload_ms = repeat(if setup.quick { 1 } else { 5 }, || upload(&asked_for))?;
    let mut device = upload(&asked_for)?;
    let weights_bytes = device.get(&fresh.next()?)?.nbytes();
    let stats = device.stats();
    if stats.slot_bytes == 0 {
        // Room for two tasks, as for one that runs and one that comes: from the third on, memory is used again.
        drop(device);
        device = upload(&DeviceOptions { budget: Some(stats.resident_bytes + 2 * weights_bytes) })?;
    }
    for _ in 0..2 {
        device.get(&fresh.next()?)?.synchronize()?;
        least = least.min(free()?);
    }

    let bytes = bytes_moved(model.base(), basis, basis.vectors());
    let copy_bytes = room_for_copies(cuda, bytes as usize)?;
    let queued = RefCell::new(Vec::new());
    let given = fresh.given;
    let before_all = device.stats();
    let compute = |task: TaskWeights| {
        time(|| {
            let (in_queue, weights) = time(|| device.get(&task))?;
            weights.synchronize()?;
            Ok((in_queue, weights))
        })
    };
    let mut variants: Vec<Variant<'_>> = vec![
        Box::new(|| {
            let (computed, (in_queue, _weights)) = compute(fresh.next()?)?;
            queued.borrow_mut().push(in_queue);
            Ok(computed)
        }),
        Box::new(|| Ok(bytes as f64 / cuda.copy_bandwidth(copy_bytes / 2)? * 1e3)),
        Box::new(|| Ok(compute(fresh_grouped.next_grouped(&grouping)?)?.0)),
    ];
    let mut samples = take_turns(if setup.quick { 10 } else { 200 }, &mut variants)?;
    drop(variants);
    let (grouped_ms, copy_ms, computed_ms) = (samples.remove(2), samples.remove(1), samples.remove(0));
    let after_all = device.stats();
    let reconstructed = after_all.cache.misses - before_all.cache.misses;
    if reconstructed != (fresh.given - given + fresh_grouped.given) as u64 {
        return Err(Error::new(ErrorKind::Internal, "some weights were on the device already, and not reconstructed"));
    }

    let gb_s = |bytes: f64, ms: &Samples| bytes / ms.median / 1e6;
    let changed = model.base().image_tower().filter_map(|(name, _)| basis.parameter(name));
    let vectors = changed.filter(|parameter| parameter.is_changed()).flat_map(Parameter::sources);
    Ok(InFormat {
        format: format.to_owned(),
        base_bytes: model.base().image_tower().map(|(_, tensor)| tensor.nbytes()).sum(),
        basis_bytes: vectors.map(Source::nbytes).sum(),
        resident_bytes: after_all.resident_bytes,
        slot_bytes: after_all.slot_bytes,
        weights_bytes,
        peak_bytes: before.saturating_sub(least),
        upload_gb_s: gb_s(after_all.resident_bytes as f64, &upload_ms),
        upload_ms,
        bytes,
        streamed_bytes: (after_all.streamed - before_all.streamed) / reconstructed,
        // The round that is not counted came first.
        queued_ms: Samples::of(queued.into_inner().split_off(1)),
        gb_s: gb_s(bytes as f64, &computed_ms),
        copy_gb_s: gb_s(bytes as f64, &copy_ms),
        ratio: copy_ms.median / computed_ms.median,
        grouped: Grouped {
            grouping: "parameter".to_owned(),
            groups: grouping.len(),
            ratio: Ratio::of(&grouped_ms, &computed_ms),
            ms: grouped_ms,
        },
        computed_ms,
        copy_ms,
        copy_bytes,
    })
}

/// The bytes that a copy, which reads half of them and writes the others, has room for: `bytes`, or half of that, or
/// a quarter …
fn room_for_copies(cuda: &Cuda, mut bytes: usize) -> Result<usize> {
    bytes = (bytes / 2).max(1) * 2;
    loop {
        match cuda.copy_bandwidth(bytes / 2) {
            Err(error) if error.kind() == ErrorKind::OutOfMemory && bytes >= 4 => bytes = bytes / 4 * 2,
            copied => return copied.map(|_| bytes),
        }
    }
}

impl InFormat {
    /// Bytes of device memory for it and the weights of this many tasks; what the user allows, where that is less or
    /// has to do. `None` leaves it to the library.
    pub fn budget(&self, setup: &Setup<'_>, tasks: usize) -> Option<usize> {
        let asked_for = setup.encoder.device_budget;
        if self.slot_bytes > 0 {
            return asked_for;
        }
        let enough = self.resident_bytes + tasks * self.weights_bytes;
        Some(asked_for.map_or(enough, |most| most.min(enough)))
    }
}

pub fn memory_rows(formats: &[InFormat]) -> Vec<Vec<String>> {
    let header = ["on the device", "base", "basis", "stays there", "a task", "peak with two", "upload, ms", "GB/s"];
    let mut rows = vec![header.map(String::from).to_vec()];
    for format in formats {
        let bytes = |bytes: usize| output::bytes(bytes as u64);
        let streamed =
            if format.slot_bytes > 0 { format!(", slots {}", bytes(format.slot_bytes)) } else { String::new() };
        rows.push(vec![
            format.format.clone(),
            bytes(format.base_bytes),
            bytes(format.basis_bytes),
            bytes(format.resident_bytes) + &streamed,
            bytes(format.weights_bytes),
            bytes(format.peak_bytes),
            digits(format.upload_ms.median),
            digits(format.upload_gb_s),
        ]);
    }
    rows
}

pub fn reconstruction_rows(formats: &[InFormat]) -> Vec<Vec<String>> {
    let header = [
        "reconstruct there",
        "in the queue, ms",
        "computed, ms",
        "GB/s",
        "copies, GB/s",
        "of the copy",
        "by parameter, of plain",
    ];
    let mut rows = vec![header.map(String::from).to_vec()];
    for format in formats {
        rows.push(vec![
            format.format.clone(),
            with_tail(&format.queued_ms),
            with_tail(&format.computed_ms),
            digits(format.gb_s),
            digits(format.copy_gb_s),
            digits(format.ratio),
            format.grouped.ratio.text(),
        ]);
    }
    rows
}
