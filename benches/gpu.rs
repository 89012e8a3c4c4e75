//! Reconstruction on a GPU, at full size, beside copies in its memory.
//!
//! `cargo bench --bench gpu [-- MODEL T M FOLDER FORMATS]`; ViT-B-32, 8, 4, a temporary folder and
//! f32,q8,q4,q3,q2 by default; what is in FOLDER already is used again. Values are random.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use support::full_size::{FullSize, pack};
use taskbasis::weights::{LaidOut, Layout, View};
use taskbasis::{
    Basis, Bundle, Checkpoint, Cuda, DType, DeviceModel, DeviceOptions, Model, ModelOptions, Result, TaskExpr,
    TaskWeights,
};

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
    let [queued, computed] = times(&device, &tasks)?;
    let copies = cuda.copy_bandwidth(written)?;
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
    drop(device);
    for dtype in [DType::F32, DType::F16] {
        let layout = turned(model, dtype)?;
        let tasks: Vec<TaskWeights> = tasks.iter().map(|task| task.laid_out(&layout)).collect();
        let device = DeviceModel::for_layout(model, cuda, &DeviceOptions::default(), &layout)?;
        let weights = device.get(&tasks[0])?.nbytes();
        let stats = device.stats();
        drop(device);
        let budget = stats.resident_bytes + stats.layout_bytes + 2 * weights;
        let device = DeviceModel::for_layout(model, cuda, &DeviceOptions { budget: Some(budget) }, &layout)?;
        let [_, in_layout] = times(&device, &tasks)?;
        // What the second kernel reads and writes, in the time by which a switch is longer.
        let more = in_layout[0].saturating_sub(computed[0]).as_secs_f64();
        let speed = (written + weights) as f64 / more;
        println!(
            "{name}, matrices transposed, in {dtype}: computed after {:.3} ms (p99 {:.3}), {:.3} ms more: {:.0} GB/s, \
             ratio {:.2}",
            1e3 * in_layout[0].as_secs_f64(),
            1e3 * in_layout[1].as_secs_f64(),
            1e3 * more,
            speed / 1e9,
            speed / copies
        );
    }
    Ok(())
}

/// The tower as a graph of `MatMul`s wants it.
fn turned(model: &Model, dtype: DType) -> Result<Arc<Layout>> {
    let tower = model.base().iter().filter(|(name, tensor)| name.starts_with("visual.") && tensor.dtype().is_float());
    let tensors = tower.map(|(name, tensor)| {
        let (shape, permute) = match *tensor.shape() {
            [rows, columns] => (vec![columns, rows], Some(vec![1, 0])),
            ref shape => (shape.to_vec(), None),
        };
        LaidOut { name: name.to_owned(), dtype, shape, parts: vec![View { permute, ..View::whole(name) }] }
    });
    Layout::new(tensors.collect(), &[], model.base())
}

/// Of switches by turns between tasks, with room for two: median and 99th percentile until one is in the queue, and until
/// it is computed.
fn times(device: &DeviceModel, tasks: &[TaskWeights]) -> Result<[[Duration; 2]; 2]> {
    const SWITCHES: usize = 200;

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
    Ok([percentiles(queued), percentiles(computed)])
}

/// The median and the 99th.
fn percentiles(mut times: Vec<Duration>) -> [Duration; 2] {
    times.sort_unstable();
    [times[times.len() / 2], times[times.len() * 99 / 100]]
}
