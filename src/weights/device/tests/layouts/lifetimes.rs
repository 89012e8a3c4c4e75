//! How long layouts stay on a device, and what those who hold something keep.

use super::super::{used_in, wait_in};
use super::*;
use crate::weights::DeviceLease;

#[test]
fn layouts_come_and_go() {
    let model = model(2);
    let host = Arc::new(SimulatedDevice::new(ROOM, 5));
    let device = on(&host, &model, ROOM).unwrap();
    let canonical = task(&model, &[0.5, -1.0]);
    drop(device.get(&canonical).unwrap());
    let (nothing, budget) = (host.tally().bytes, device.stats().cache.budget);
    assert_eq!(device.stats().layout_bytes, 0);

    for round in 0..40 {
        let layout = simple(&model, [DType::F32, DType::F16, DType::BF16][round % 3], round % 2 == 0);
        let task = canonical.in_layout(&layout);
        let pinned = device.pin(&task).unwrap();
        assert_same(&device.get(&task).unwrap(), &task);
        let stats = device.stats();
        assert!(stats.layout_bytes > device.inputs.arena_bytes, "with what all tasks share: {stats:?}");
        assert_eq!(stats.cache.budget + stats.layout_bytes, budget);
        assert_eq!(stats.cache.entries, 2);

        // The weights of the CPU in this layout, which the model's own cache has, do not hold it.
        drop((layout, task, pinned));
        match round % 3 {
            0 => device.trim(usize::MAX),
            1 => drop(device.get(&canonical).unwrap()),
            _ => {}
        }
        let stats = device.stats();
        assert_eq!((stats.layout_bytes, stats.cache.entries, stats.cache.budget), (0, 1, budget), "round {round}");
    }
    device.trim(device.stats().cache.bytes);
    assert_eq!(host.tally().bytes, nothing, "nothing is left of them");

    // Or when it is told to; weights that are in use keep what they need.
    let layout = simple(&model, DType::F16, true);
    let task = canonical.in_layout(&layout);
    let (pinned, first) = (device.pin(&task).unwrap(), device.stats());
    device.forget(&simple(&model, DType::F16, true));
    assert_eq!(device.stats(), first, "another layout");
    device.forget(&layout);
    assert!(!device.unpin(&task));
    assert_eq!(device.stats().layout_bytes, first.layout_bytes);
    assert_same(&pinned, &task);
    drop(pinned);
    device.trim(0);
    assert_eq!(device.stats().layout_bytes, 0);
    assert_same(&device.get(&task).unwrap(), &task);
}

/// Leases as encoders take them: each has a lease of the model in its own layout.
#[test]
fn a_layout_goes_with_the_last_encoder_that_runs_tasks_in_it() {
    let model = model(2);
    let host = Arc::new(SimulatedDevice::new(ROOM, 5));
    let (cuda, options) = (Cuda::of(Arc::clone(&host)), DeviceOptions { budget: Some(ROOM) });
    let (stays, leaves) = (simple(&model, DType::F32, true), simple(&model, DType::F16, true));
    let task = task(&model, &[0.5, -1.0]);
    let lease = |layout: &Arc<Layout>| DeviceLease::new(&model, &cuda, &options, layout).unwrap();
    let (in_leaves, in_stays) = (task.in_layout(&leaves), task.in_layout(&stays));

    let (canonical, third) = (lease(task.layout()), lease(&stays));
    let device = canonical.device().unwrap();
    assert!(Arc::ptr_eq(&device, &third.device().unwrap()) && device.is_of(&model));
    drop((device.get(&task).unwrap(), device.get(&in_stays).unwrap()));
    let (others, on_device) = (device.stats(), host.tally().bytes);
    assert!(others.layout_bytes > 0 && others.cache.entries == 2);

    // One of two goes: the other finds all as it was.
    let (first, second) = (lease(&leaves), lease(&leaves));
    drop((device.get(&in_leaves).unwrap(), device.get(&in_leaves).unwrap()));
    assert_eq!(device.stats().cache.misses, others.cache.misses + 1);
    let with_both = device.stats();
    drop(first);
    assert_eq!(device.stats(), with_both);
    assert!(device.is_ready(&in_leaves));
    // The last goes, though the graph stays: what the others have is as it was, and no byte is left of this one.
    drop(second);
    let left = device.stats();
    assert_eq!((left.layout_bytes, left.weights_bytes), (others.layout_bytes, others.weights_bytes));
    assert_eq!((left.cache.entries, left.cache.budget), (2, others.cache.budget));
    assert_eq!(host.tally().bytes, on_device);
    assert!(device.is_ready(&in_stays) && device.is_ready(&task) && !device.is_ready(&in_leaves));
    // An encoder that comes later with the graph finds it made again.
    let first = lease(&leaves);
    assert_same(&device.get(&in_leaves).unwrap(), &in_leaves);

    // What is in use or pinned keeps what it needs.
    let held = device.get(&in_leaves).unwrap();
    drop(first);
    assert_same(&held, &in_leaves);
    drop(held);
    assert!(!device.is_ready(&in_leaves));
    assert_eq!(device.stats().layout_bytes, others.layout_bytes);
    let (first, second) = (lease(&leaves), lease(&leaves));
    drop((device.pin(&in_leaves).unwrap(), device.pin(&task.in_layout(&leaves)).unwrap()));
    let other = super::task(&model, &[0.0, 2.0]).in_layout(&leaves);
    drop(device.pin(&other).unwrap());
    drop((first, second));
    assert!(device.is_ready(&in_leaves) && device.unpin(&other) && !device.unpin(&other));
    assert!(device.is_ready(&in_leaves) && device.stats().layout_bytes > others.layout_bytes);
    // Another encoder comes for it meanwhile.
    let first = lease(&leaves);
    drop(device.get(&in_leaves).unwrap());
    assert!(device.unpin(&in_leaves) && device.is_ready(&in_leaves));
    drop(device.pin(&in_leaves).unwrap());
    drop(first);
    assert!(device.unpin(&in_leaves) && !device.is_ready(&in_leaves));
    assert_eq!(device.stats().layout_bytes, others.layout_bytes);

    drop(third);
    assert_eq!((device.stats().layout_bytes, device.stats().cache.entries), (0, 1));
    assert_same(&device.get(&task).unwrap(), &task);
    drop((device, canonical));
    assert_eq!(host.tally().bytes, 0);
}

/// Encoders that come and go, over one graph, while tasks run.
#[test]
fn a_layout_is_there_for_what_runs_while_others_leave() {
    let model = model(3);
    let host = Arc::new(SimulatedDevice::new(ROOM, 11));
    let (cuda, options) = (Cuda::of(Arc::clone(&host)), DeviceOptions { budget: Some(ROOM) });
    let layouts = [simple(&model, DType::F16, true), simple(&model, DType::F32, false)];
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (cuda, options, model, layouts) = (&cuda, &options, &model, &layouts);
            scope.spawn(move || {
                for round in 0..20 {
                    let layout = &layouts[(thread + round / 3) % 2];
                    let lease = DeviceLease::new(model, cuda, options, layout).unwrap();
                    for number in 0..2 {
                        let task = task(model, &coefficients(3, thread + round + number)).in_layout(layout);
                        assert_same(&lease.device().unwrap().get(&task).unwrap(), &task);
                    }
                }
            });
        }
    });
    assert!(DeviceLease::find(&model, &cuda).is_none());
    assert_eq!(host.tally().bytes, 0);
}

/// Reads the weights of one task in a stream of its own while their memory is wanted for others, whose layouts are
/// dropped. Whether what was read are the bits of that task.
fn read_while_others_come(seed: u64) -> bool {
    let model = model(1);
    let host = Arc::new(SimulatedDevice::new(ROOM, seed));
    let budget = least(&for_layout(&host, &model, 0, &simple(&model, DType::F32, true)).unwrap_err());
    let device = for_layout(&host, &model, budget, &simple(&model, DType::F32, true)).unwrap();
    let (stream, mut reads) = (77, Vec::new());
    for t in 0..3 {
        let layout = simple(&model, DType::F32, true);
        let task = task(&model, &[f64::from(t) + 1.0]).in_layout(&layout);
        let weights = device.get(&task).unwrap();
        wait_in(&weights, stream);
        let cpu = task.get().unwrap();
        for (tensor, (_, _, values)) in weights.iter().zip(cpu.iter()) {
            let read = host.read(Queue::Foreign(stream), tensor.address, tensor.nbytes());
            reads.push((bytes(values).1.to_vec(), read));
        }
        used_in(&weights, stream);
        drop((cpu, task, layout));
    }
    host.finish();
    reads.iter().all(|(want, read)| *read.lock() == *want)
}

/// This device takes a use of memory that is freed for a fault.
#[test]
fn runs_in_flight_keep_their_weights_and_layouts() {
    assert!((1..40).all(read_while_others_come));
}

/// Weights keep what they need, whatever is let go of.
#[test]
fn weights_outlive_model_and_layout() {
    let model = model(3);
    for seed in 1..20 {
        let host = Arc::new(SimulatedDevice::new(ROOM, seed));
        let layout = layout_of(&model, everything());
        let device = on(&host, &model, ROOM).unwrap();
        let task = task(&model, &[0.5, -1.0, 0.25]).in_layout(&layout);
        let weights = device.get(&task).unwrap();
        drop(layout);
        drop(device);
        assert_same(&weights, &task);
        drop(weights);
        assert_eq!(host.tally().bytes, 0);
    }
}

/// A lease does not keep the model: what is on the device goes with the model.
#[test]
fn a_model_takes_its_devices_with_it() {
    let host = Arc::new(SimulatedDevice::new(ROOM, 5));
    let (cuda, options) = (Cuda::of(Arc::clone(&host)), DeviceOptions { budget: Some(ROOM) });
    let model = model(2);
    let leases = [0, 1].map(|_| DeviceLease::new(&model, &cuda, &options, &simple(&model, DType::F16, true)).unwrap());
    let weights = leases[0].device().unwrap().get(&task(&model, &[0.5, -1.0])).unwrap();
    assert!(DeviceLease::find(&model, &cuda).is_some());
    drop((model, weights));
    assert!(leases.iter().all(|lease| lease.device().is_none()));
    assert_eq!(host.tally().bytes, 0);
}
