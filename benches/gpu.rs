//! Reconstruction on a GPU, at full size, beside copies in its memory.
//!
//! `cargo bench --bench gpu [-- MODEL T M FOLDER FORMATS]`; ViT-B-32, 8, 4, a temporary folder and
//! f32,q8,q4,q3,q2 by default; what is in FOLDER already is used again. Values are random.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use support::full_size::{FullSize, pack};
use taskbasis::{Basis, Bundle, Checkpoint, Cuda, DeviceModel, DeviceOptions, Model, ModelOptions, Result, TaskExpr};

fn main() {
    let command = "cargo bench --bench gpu";
    let Some(size) = FullSize::of_arguments(command, [8, 4], "f32,q8,q4,q3,q2") else { return };
    let cuda = match Cuda::open(0) {
        Ok(cuda) => cuda,
        Err(error) => return println!("skipped: {error}"),
    };
    if let Err(error) = measure(&cuda, &size) {
        println!("error: {error}");
    }
}

fn measure(cuda: &Cuda, size: &FullSize) -> Result<()> {
    let (_, base_path, basis_path) = size.family()?;
    let (model, tasks, vectors) = (&size.model, size.tasks, size.vectors);
    let (major, minor) = cuda.compute_capability();
    println!("{}, compute capability {major}.{minor}; {model}, T = {tasks}, M = {vectors}", cuda.name());
    for name in &size.formats {
        let (base, basis) = (Checkpoint::open(&base_path)?, Basis::open(&basis_path)?);
        let model = if name == "f32" {
            Model::new(base, Some(basis), &ModelOptions::default())?
        } else {
            let path = size.bundle(name);
            if !path.is_file() {
                pack(&base, &basis, name.parse()?, &path)?;
            }
            Bundle::open(&path)?.model(None, &ModelOptions::default())?
        };
        switches(cuda, name, &model)?;
    }
    Ok(())
}

/// Bytes that reconstruction reads and writes, and those that it writes.
fn traffic(model: &Model) -> (usize, usize) {
    let basis = model.basis().into_iter().flat_map(Basis::parameters);
    let (mut all, mut written) = (0, 0);
    for (name, parameter) in basis.filter(|(name, parameter)| name.starts_with("visual.") && parameter.is_changed()) {
        let base = model.base().get(name).map_or(0, |base| base.nbytes());
        let out = parameter.numel() * size_of::<f32>();
        all += parameter.sources().iter().map(|source| source.nbytes()).sum::<usize>() + base + out;
        written += out;
    }
    (all, written)
}

fn switches(cuda: &Cuda, name: &str, model: &Arc<Model>) -> Result<()> {
    const SWITCHES: usize = 200;

    let tasks = [0, 1, 2].map(|t| model.weights(&TaskExpr::task(format!("Task{t}"))));
    let tasks = tasks.into_iter().collect::<Result<Vec<_>>>()?;
    let began = Instant::now();
    let device = DeviceModel::new(model, cuda, &DeviceOptions::default())?;
    let weights = device.get(&tasks[0])?;
    weights.synchronize()?;
    let upload = began.elapsed();
    // Room for two: every switch below takes over the memory of the task before the last.
    let budget = device.stats().resident_bytes + 2 * weights.nbytes();
    drop((weights, device));
    let device = DeviceModel::new(model, cuda, &DeviceOptions { budget: Some(budget) })?;
    let (bytes, written) = traffic(model);
    let (mut queued, mut computed) = (Vec::new(), Vec::new());
    // The first two allocate.
    for switch in 0..SWITCHES + 2 {
        let began = Instant::now();
        let weights = device.get(&tasks[switch % tasks.len()])?;
        let in_queue = began.elapsed();
        weights.synchronize()?;
        if switch >= 2 {
            queued.push(in_queue);
            computed.push(began.elapsed());
        }
    }
    let copies = cuda.copy_bandwidth(written)?;
    let (queued, computed) = (percentiles(queued), percentiles(computed));
    let speed = bytes as f64 / computed[0].as_secs_f64();
    println!(
        "{name}: upload {:.2} s, {:.2} GB on the device; in the queue after {:.3} ms (p99 {:.3}); \
         computed after {:.3} ms (p99 {:.3}): {:.0} GB/s, copies {:.0} GB/s, ratio {:.2}",
        upload.as_secs_f64(),
        device.stats().resident_bytes as f64 / 1e9,
        1e3 * queued[0].as_secs_f64(),
        1e3 * queued[1].as_secs_f64(),
        1e3 * computed[0].as_secs_f64(),
        1e3 * computed[1].as_secs_f64(),
        speed / 1e9,
        copies / 1e9,
        speed / copies
    );
    Ok(())
}

/// The median and the 99th.
fn percentiles(mut times: Vec<Duration>) -> [Duration; 2] {
    times.sort_unstable();
    [times[times.len() / 2], times[times.len() * 99 / 100]]
}
