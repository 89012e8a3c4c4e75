//! Device weights on the tests' device, which does things in any order that it may.

mod groups;
mod layouts;

use std::sync::Arc;

use indexmap::IndexMap;

use super::{DeviceModel, DeviceOptions, DeviceWeights};
use crate::basis::{Basis, BasisContents, Coefficients, Method, Parameter};
use crate::checkpoint::{Checkpoint, Format};
use crate::kernel::Cuda;
use crate::kernel::cuda::{Queue, SimulatedDevice};
use crate::tensor::{BlockFormat, Blocks, DType, Rounding, Source, Tensor};
use crate::weights::{Model, ModelOptions, TaskWeights, Values};
use crate::{ErrorKind, Mapping, Result};

/// Numbers of the size of weights.
fn values(numel: usize, seed: usize) -> Vec<f32> {
    let mut state = seed as u64 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..numel).map(|_| next() * 0.1).collect()
}

fn tensor(dtype: DType, shape: &[usize], seed: usize) -> Tensor {
    let mut bytes = vec![0; shape.iter().product::<usize>() * dtype.size()];
    crate::kernel::cast(&values(shape.iter().product(), seed), dtype, &mut bytes);
    let length = bytes.len();
    Tensor::contiguous(&Arc::new(Mapping::from_vec(bytes, "test")), 0..length, dtype, shape).unwrap()
}

fn blocks(format: BlockFormat, shape: &[usize], seed: usize) -> Source {
    let bytes = format.quantize(&values(shape.iter().product(), seed), Rounding::Nearest).unwrap();
    let length = bytes.len();
    Blocks::new(&Arc::new(Mapping::from_vec(bytes, "test")), 0..length, format, shape).unwrap().into()
}

/// Parameters of every type that a base may have, and one without elements.
fn bases() -> [(&'static str, DType, Vec<usize>); 8] {
    [
        ("visual.a", DType::F32, vec![70, 90]),
        ("visual.unchanged", DType::F32, vec![33, 64]),
        ("visual.b", DType::F16, vec![5000]),
        ("visual.c", DType::F64, vec![3, 7]),
        ("visual.half", DType::F16, vec![100]),
        ("visual.d", DType::BF16, vec![2, 2048]),
        ("visual.e", DType::F32, vec![9, 999]),
        ("visual.empty", DType::F32, vec![0, 3]),
    ]
}

fn base() -> Checkpoint {
    seeded(0)
}

/// A base of the same parameters for every seed, with other values.
fn seeded(seed: usize) -> Checkpoint {
    let tensors = bases()
        .into_iter()
        .enumerate()
        .map(|(i, (name, dtype, shape))| (name.into(), tensor(dtype, &shape, i + 1000 * seed)));
    Checkpoint::from_tensors("base", Format::Safetensors, tensors.collect()).unwrap()
}

/// A model of M vectors, of every format.
fn model(vectors: usize) -> Arc<Model> {
    let mut parameters = IndexMap::new();
    for (i, (name, _, shape)) in bases().iter().enumerate() {
        let source = |m: usize| -> Source {
            let seed = 100 * (i + 1) + m;
            match (i + m) % 7 {
                0 => tensor(DType::F32, shape, seed).into(),
                1 => tensor(DType::BF16, shape, seed).into(),
                k => blocks(BlockFormat::ALL[k - 2], shape, seed),
            }
        };
        let parameter = match *name {
            "visual.unchanged" | "visual.half" => Parameter::unchanged(shape),
            _ => Parameter::changed((0..vectors).map(source).collect()),
        };
        parameters.insert((*name).to_owned(), parameter);
    }
    let basis = Basis::from_contents(BasisContents {
        path: "basis".into(),
        method: Method::Autoencoder,
        tasks: (0..vectors).map(|t| format!("T{t}")).collect(),
        vectors,
        has_mean: false,
        // Every task is a vector.
        table: (0..vectors * vectors).map(|i| f64::from(u8::from(i / vectors == i % vectors))).collect(),
        residual_tasks: Vec::new(),
        parameters,
        file_bytes: 0,
        files: Vec::new(),
    });
    Model::new(base(), Some(basis), &ModelOptions { threads: 2, ..ModelOptions::default() }).unwrap()
}

fn task(model: &Arc<Model>, coefficients: &[f64]) -> TaskWeights {
    model.weights_from(Coefficients { vectors: coefficients.to_vec(), ..Coefficients::zero(0) }).unwrap()
}

/// Coefficients that differ from those of every other number, some of them zero.
fn coefficients(vectors: usize, number: usize) -> Vec<f64> {
    (0..vectors)
        .map(|m| if (number + m).is_multiple_of(3) { 0.0 } else { (number * 7 + m) as f64 / 10.0 - 1.0 })
        .collect()
}

fn on(device: &Arc<SimulatedDevice>, model: &Arc<Model>, budget: usize) -> Result<Arc<DeviceModel>> {
    DeviceModel::new(model, &Cuda::of(Arc::clone(device)), &DeviceOptions { budget: Some(budget) })
}

/// Whether they are the bits that the CPU computes.
fn assert_same(device: &DeviceWeights, task: &TaskWeights) {
    let cpu = task.get().unwrap();
    assert_eq!(device.iter().len(), cpu.len());
    for (tensor, (name, shape, values)) in device.iter().zip(cpu.iter()) {
        assert_eq!((tensor.name, tensor.shape), (name, shape));
        assert!(tensor.address.is_multiple_of(256), "{name}");
        let (dtype, want) = bytes(values);
        assert_eq!(tensor.dtype, dtype, "{name}");
        assert!(device.bytes_to_host(name).unwrap() == want, "{name} of {}", task.name());
        assert_eq!(device.get(name), Some(tensor));
    }
}

fn bytes(values: Values<'_>) -> (DType, &[u8]) {
    match values {
        Values::F32(values) => (DType::F32, crate::tensor::f32_bytes(values)),
        Values::Cast(dtype, bytes) => (dtype, bytes),
        Values::Carried(_) | Values::Packed(..) => unreachable!("a float"),
    }
}

const ROOM: usize = 1 << 30;

/// Bytes that a model takes with everything on the device, without weights; and those of one task's weights.
fn sizes(model: &Arc<Model>) -> (usize, usize) {
    let device = on(&Arc::new(SimulatedDevice::new(ROOM, 1)), model, ROOM).unwrap();
    (device.stats().resident_bytes, device.inputs.arena_bytes)
}

#[test]
fn the_bits_are_those_of_the_cpu_whatever_the_budget() {
    for vectors in [1, 7] {
        let model = model(vectors);
        let (resident, arena) = sizes(&model);
        let least = {
            let error = on(&Arc::new(SimulatedDevice::new(ROOM, 1)), &model, 0).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            let text = error.to_string();
            text.split("at least ").nth(1).unwrap().split(' ').next().unwrap().parse::<usize>().unwrap()
        };
        assert!(on(&Arc::new(SimulatedDevice::new(ROOM, 1)), &model, least - 1).is_err());
        let all = resident + 2 * arena;
        for (seed, budget) in
            [least, least + (all - least) / 3, least + (all - least) / 2, all - 1, all].into_iter().enumerate()
        {
            let host = Arc::new(SimulatedDevice::new(ROOM, seed as u64 + 7));
            let device = on(&host, &model, budget).unwrap();
            // In between it may be the second task's weights that there is no room for.
            if budget == least || budget == all {
                assert_eq!(device.stats().slot_bytes > 0, budget == least, "{:?}", device.stats());
            }
            for number in 0..6 {
                let task = task(&model, &coefficients(vectors, number));
                assert_same(&device.get(&task).unwrap(), &task);
            }
            let base = task(&model, &vec![0.0; vectors]);
            assert_same(&device.get(&base).unwrap(), &base);
            assert!(host.tally().peak <= budget, "{:?} of {budget}", host.tally());
            drop((device, base));
            assert_eq!(host.tally().bytes, 0);
        }
    }
}

#[test]
fn an_upload_can_be_waited_for() {
    let model = model(2);
    let (resident, arena) = sizes(&model);
    let host = Arc::new(SimulatedDevice::new(ROOM, 1));
    // Where all of it stays, the pinned memory that it came through has been waited for, and is gone.
    let device = on(&host, &model, resident * 2 / 3 + 2 * arena).unwrap();
    let begun = host.tally().copied;
    device.synchronize().unwrap();
    let copied = host.tally().copied;
    assert!(begun < copied, "the last of it was on its way");
    host.finish();
    assert_eq!(host.tally().copied, copied, "nothing of it was left");
}

fn wait_in(weights: &DeviceWeights, stream: u64) {
    // SAFETY: the device is in memory; to it a stream is a number that it looks up.
    unsafe { weights.wait_in_raw(stream) }.unwrap();
}

fn used_in(weights: &DeviceWeights, stream: u64) {
    // SAFETY: the device is in memory; to it a stream is a number that it looks up.
    unsafe { weights.used_in_raw(stream) }.unwrap();
}

/// A thousand switches, each to be used in a stream; one of every `compared` is compared with the CPU's weights.
fn switch_at_random(device: &DeviceModel, tasks: &[TaskWeights], compared: usize) {
    let mut random = 1u64;
    for switch in 0..1000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let task = &tasks[(random >> 40) as usize % tasks.len()];
        let weights = device.get(task).unwrap();
        wait_in(&weights, 9);
        used_in(&weights, 9);
        if switch % compared == 0 {
            assert_same(&weights, task);
        }
    }
}

#[test]
fn a_thousand_switches_stay_within_the_budget() {
    let model = model(2);
    let (resident, arena) = sizes(&model);
    for (budget, streams) in [(resident + 3 * arena, false), (resident * 2 / 3 + 2 * arena, true)] {
        let host = Arc::new(SimulatedDevice::new(budget, 5));
        let device = on(&host, &model, budget).unwrap();
        assert_eq!(device.stats().slot_bytes > 0, streams);
        let tasks: Vec<TaskWeights> = (0..8).map(|t| task(&model, &coefficients(2, t))).collect();
        switch_at_random(&device, &tasks, 97);
        let stats = device.stats();
        assert_eq!(stats.cache.hits + stats.cache.misses, 1000);
        assert!(stats.cache.evictions > 100 && stats.cache.hits > 100, "{stats:?}");
        // A device of exactly the budget was enough.
        assert!(stats.weights_bytes <= 3 * arena && host.tally().peak <= budget);
        drop(device);
        assert_eq!(host.tally().bytes, 0);
    }
}

#[test]
fn what_is_used_last_stays_and_what_is_pinned_too() {
    let model = model(2);
    let (resident, arena) = sizes(&model);
    let host = Arc::new(SimulatedDevice::new(ROOM, 3));
    let device = on(&host, &model, resident + 2 * arena).unwrap();
    let tasks: Vec<TaskWeights> = (0..4).map(|t| task(&model, &coefficients(2, t))).collect();
    let [a, b, c, d] = tasks.as_slice() else { unreachable!() };

    let first = Arc::as_ptr(&device.get(a).unwrap());
    device.get(b).unwrap();
    assert_eq!(Arc::as_ptr(&device.get(a).unwrap()), first, "kept");
    device.get(c).unwrap();
    host.finish();
    assert_eq!(host.tally().combined, 3, "one each");
    assert!(device.is_ready(a) && !device.is_ready(b) && device.is_ready(c));

    let pinned = device.pin(a).unwrap();
    device.get(c).unwrap();
    device.get(b).unwrap();
    device.get(c).unwrap();
    drop(pinned);
    assert!(Arc::ptr_eq(&device.get(a).unwrap(), &device.pin(a).unwrap()), "found again though it was evicted");
    let held = device.get(b).unwrap();
    let error = device.get(d).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    assert!(error.to_string().contains("in use"), "{error}");
    assert_same(&held, b);
    assert!(device.unpin(a) && !device.unpin(a));
    assert_same(&device.get(d).unwrap(), d);
    drop(held);
    device.trim(0);
    let stats = device.stats();
    assert_eq!((stats.weights_bytes, stats.cache.bytes, stats.cache.spare_bytes), (0, 0, 0));
}

/// Reads the weights of one task in a stream of its own, while their memory is wanted for others. Whether what was read
/// are the bits of that task.
fn read_while_others_come(seed: u64, says_so: bool) -> bool {
    let model = model(1);
    let (resident, arena) = sizes(&model);
    let host = Arc::new(SimulatedDevice::new(ROOM, seed));
    let device = on(&host, &model, resident + arena).unwrap();
    let tasks: Vec<TaskWeights> = (0..3).map(|t| task(&model, &[f64::from(t) + 1.0])).collect();
    let (stream, mut reads) = (77, Vec::new());
    for task in &tasks {
        let weights = device.get(task).unwrap();
        wait_in(&weights, stream);
        for tensor in weights.iter() {
            reads.push((
                task,
                tensor.name.to_owned(),
                host.read(Queue::Foreign(stream), tensor.address, 4 * tensor.numel()),
            ));
        }
        if says_so {
            used_in(&weights, stream);
        }
    }
    host.finish();
    reads.iter().all(|(task, name, read)| {
        let cpu = task.get().unwrap();
        *read.lock() == crate::tensor::f32_bytes(cpu.get(name).unwrap())
    })
}

#[test]
fn runs_in_flight_keep_their_weights() {
    assert!((1..40).all(|seed| read_while_others_come(seed, true)));
    // The order that this test's device works in does show whether a reader waits.
    assert!((1..40).any(|seed| !read_while_others_come(seed, false)));
}

/// Weights keep what they need, at whatever point the model is let go of.
#[test]
fn weights_outlive_their_model() {
    let model = model(3);
    let (resident, arena) = sizes(&model);
    for (seed, budget) in (1..20).flat_map(|seed| [(seed, resident + arena), (seed, resident / 2 + arena)]) {
        let host = Arc::new(SimulatedDevice::new(ROOM, seed));
        let device = on(&host, &model, budget).unwrap();
        let task = task(&model, &[0.5, -1.0, 0.25]);
        let weights = device.get(&task).unwrap();
        drop(device);
        assert_same(&weights, &task);
        drop(weights);
        assert_eq!(host.tally().bytes, 0);
    }
}

#[test]
fn a_base_alone_takes_no_memory_per_task() {
    let model = Model::new(base(), None, &ModelOptions::default()).unwrap();
    let host = Arc::new(SimulatedDevice::new(ROOM, 2));
    let device = on(&host, &model, ROOM).unwrap();
    let base = model.weights(&"base".parse().unwrap()).unwrap();
    let weights = device.get(&base).unwrap();
    assert_same(&weights, &base);
    assert_eq!((weights.nbytes(), device.stats().weights_bytes), (0, 0));
    assert!(device.stats().resident_bytes > 0);
}

#[test]
fn only_what_is_added_is_streamed() {
    let model = model(4);
    let (resident, arena) = sizes(&model);
    let device = on(&Arc::new(SimulatedDevice::new(ROOM, 4)), &model, resident / 2 + arena).unwrap();
    let streamed = |coefficients: &[f64]| {
        let before = device.stats().streamed;
        drop(device.get(&task(&model, coefficients)).unwrap());
        device.trim(0);
        device.stats().streamed - before
    };
    let (none, one, all) = (streamed(&[0.0; 4]), streamed(&[0.0, 0.5, 0.0, 0.0]), streamed(&[0.5; 4]));
    assert!(0 < none && none < one && one < all, "{none}, {one}, {all}");
}

#[test]
fn many_threads_share_one_device() {
    let model = model(3);
    let (resident, arena) = sizes(&model);
    for budget in [resident + 9 * arena, resident / 2 + 9 * arena] {
        let host = Arc::new(SimulatedDevice::new(ROOM, 11));
        let device = on(&host, &model, budget).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (device, model) = (&device, &model);
                scope.spawn(move || {
                    for round in 0..10 {
                        let task = task(model, &coefficients(3, (thread + round) % 6));
                        assert_same(&device.get(&task).unwrap(), &task);
                    }
                });
            }
        });
        assert!(host.tally().peak <= budget);
    }
}

#[test]
fn what_cannot_be_done_is_refused() {
    let (model, other) = (model(2), model(2));
    let host = Arc::new(SimulatedDevice::new(ROOM, 1));
    let device = on(&host, &model, ROOM).unwrap();
    let error = device.get(&task(&other, &[1.0, 0.0])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(device.get(&task(&model, &[1.0, 0.0])).unwrap().to_host("visual.z").is_err());

    // A device that has less than it is to use, found out at the upload or later.
    let (resident, arena) = sizes(&model);
    for capacity in [resident - 1, resident + arena - 1] {
        let host = Arc::new(SimulatedDevice::new(capacity, 1));
        let failed = on(&host, &model, ROOM).and_then(|device| device.get(&task(&model, &[1.0, 0.0])));
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::OutOfMemory);
        assert_eq!(host.tally().bytes, 0);
    }
}

#[test]
fn there_may_be_more_terms_than_a_launch_can_name() {
    let many = 505;
    let model = model(many);
    let (resident, arena) = sizes(&model);
    for budget in [ROOM, resident / 2 + arena] {
        let host = Arc::new(SimulatedDevice::new(ROOM, 1));
        let device = on(&host, &model, budget).unwrap();
        let mut fewer = vec![0.1; many];
        fewer[17] = 0.0;
        for (coefficients, by_rows) in [(vec![0.1; many], true), (fewer, false)] {
            let before = host.tally().by_rows;
            let task = task(&model, &coefficients);
            assert_same(&device.get(&task).unwrap(), &task);
            assert_eq!(host.tally().by_rows > before, by_rows);
        }
    }
}
