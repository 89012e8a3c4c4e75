//! The encoder over weights of a device, without a GPU: its streams on the tests' device, which does things in any
//! order, and all of it on the driver that keeps device memory in the host's, where a session of the CPU can read it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::*;
use crate::basis::Basis;
use crate::checkpoint::Checkpoint;
use crate::clip::arch::ArchHints;
use crate::error::ErrorKind;
use crate::kernel::Cuda;
use crate::kernel::cuda::{HostDevice, Queue};
use crate::weights::{DeviceOptions, Model, ModelOptions};

fn digits(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/digits").join(relative)
}

fn digits_model() -> (Arch, Arc<Model>) {
    let base = Checkpoint::open(digits("base/pickled_module.pt")).unwrap();
    let basis = Basis::open(digits("bases/ViT-D-8_AE_M4_8task")).unwrap();
    let arch = Arch::of(&base, ArchHints::default()).unwrap();
    (arch, Model::new(base, Some(basis), &ModelOptions { threads: 1, ..ModelOptions::default() }).unwrap())
}

fn tasks(model: &Arc<Model>) -> Vec<TaskWeights> {
    let names = model.basis().unwrap().tasks().iter().map(|name| format!("\"{name}\""));
    let exprs = names.chain(["base", "merged@0.4", "all@0.3"].map(str::to_owned));
    exprs.map(|expr| model.weights(&expr.parse().unwrap()).unwrap()).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Numbers below `below`, in no order.
fn random(state: &mut u64, below: usize) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 40) as usize % below
}

/// A budget for everything and the weights of `arenas` tasks.
fn with_room(model: &Arc<Model>, cuda: &Cuda, arenas: usize) -> Arc<DeviceModel> {
    let all = DeviceModel::new(model, cuda, &DeviceOptions { budget: Some(1 << 30) }).unwrap();
    let weights = all.get(&tasks(model)[0]).unwrap().nbytes();
    let options = DeviceOptions { budget: Some(all.stats().resident_bytes + arenas * weights) };
    drop(all);
    DeviceModel::new(model, cuda, &options).unwrap()
}

/// What is read in the stream, late, is the task's, though the memory is used for another task at once.
#[test]
fn a_run_in_the_stream_sees_the_weights_of_its_task() {
    const NAME: &str = "visual.transformer.resblocks.0.ln_1.weight";

    let (_, model) = digits_model();
    let tasks = tasks(&model);
    for seed in 1..4 {
        let host = Arc::new(HostDevice::new(1 << 30, seed));
        let cuda = Cuda::of(Arc::clone(&host));
        let device = with_room(&model, &cuda, 1);
        let stream = cuda.stream().unwrap();
        let mut state = seed;
        let mut seen = Vec::new();
        for run in 0..40 {
            let task = &tasks[random(&mut state, tasks.len())];
            let weights = device.get(task).unwrap();
            let tensor = weights.get(NAME).unwrap();
            let (queue, bytes) = (Queue::Foreign(stream.as_raw()), 4 * tensor.numel());
            let mut read = None;
            let done = in_stream(&weights, stream.as_raw(), || {
                read = Some(host.read(queue, tensor.address, bytes));
                if run % 5 == 0 { Err(Error::invalid("a run that fails")) } else { Ok(()) }
            });
            assert_eq!(done.is_err(), run % 5 == 0);
            seen.push((task, read.unwrap()));
        }
        host.finish();
        for (task, bytes) in seen {
            let expected: Vec<u8> =
                task.get().unwrap().get(NAME).unwrap().iter().flat_map(|value| value.to_le_bytes()).collect();
            assert!(*bytes.lock().unwrap() == expected, "{}", task.name());
        }
        assert!(device.stats().cache.evictions > 20);
    }
}

/// Has this program run the test below on the driver without a GPU.
#[test]
#[allow(clippy::print_stdout)]
fn on_a_driver_without_a_gpu_it_has_the_bits_of_the_cpu() {
    if !cfg!(all(feature = "cuda", target_os = "linux")) || Runtime::load(None).is_err() {
        return println!("skipped: built without the feature `cuda`, not for Linux, or no ONNX Runtime");
    }
    let folder = tempfile::tempdir().unwrap();
    let driver = folder.path().join("libcuda.so");
    if !crate::kernel::cuda::tests::cuda_host::compile("driver.cpp", &driver) {
        return;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--nocapture", "--exact", "encoder::device::tests::in_memory_of_the_host"])
        .env("LD_LIBRARY_PATH", folder.path())
        .env("TASKBASIS_NVRTC", &driver)
        .env("TASKBASIS_KERNEL_CACHE", folder.path())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// Sessions of the CPU over weights that a launch has written, by the address.
#[test]
#[ignore = "run by `on_a_driver_without_a_gpu_it_has_the_bits_of_the_cpu`"]
fn in_memory_of_the_host() {
    let cuda = Cuda::open(0).unwrap();
    assert_eq!((cuda.name(), cuda.ordinal()), ("none at all", 0));
    Runtime::load(None).unwrap();
    let (arch, model) = digits_model();
    let tasks = tasks(&model);
    let options = EncoderOptions { threads: 2, concurrency: 2, ..EncoderOptions::default() };
    let pixels: Vec<f32> = (0..2 * arch.pixels()).map(|i| (i % 17) as f32 / 17.0 - 0.4).collect();
    let cpu = crate::encoder::Encoder::new(&arch, &options).unwrap();
    let expected: Vec<_> =
        tasks.iter().map(|task| bits(&cpu.encode(&*task.get().unwrap(), &pixels, 2).unwrap())).collect();
    assert!((1..tasks.len()).all(|i| expected[i] != expected[0]), "the tasks are to differ");

    let device = with_room(&model, &cuda, 2);
    let place = || Place { target: Target::cpu(), memory: MemoryInfo::default() };
    let encoder = DeviceEncoder::at(place(), &arch, &device, &options).unwrap();
    let mut state = 1;
    for _ in 0..1000 {
        let i = random(&mut state, tasks.len());
        assert!(bits(&encoder.encode(&tasks[i], &pixels, 2).unwrap()) == expected[i], "{}", tasks[i].name());
    }
    let stats = device.stats();
    assert!(stats.cache.evictions > 500 && stats.cache.hits > 50, "{stats:?}");
    assert!(stats.weights_bytes <= 2 * device.get(&tasks[0]).unwrap().nbytes(), "{stats:?}");
    assert_eq!(encoder.sessions(), 1);

    // Two at once, each in a stream of its own; a third waits, and holds no weights meanwhile.
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (encoder, tasks, expected, pixels, failed) = (&encoder, &tasks, &expected, &pixels, &failed);
            scope.spawn(move || {
                let mut state = 10 + thread;
                for _ in 0..100 {
                    let i = random(&mut state, tasks.len());
                    match encoder.encode(&tasks[i], pixels, 2) {
                        Ok(embeds) if bits(&embeds) == expected[i] => {}
                        other => failed.lock().unwrap().push(format!("{}: {:?}", tasks[i].name(), other.err())),
                    }
                }
            });
        }
    });
    assert_eq!(failed.into_inner().unwrap(), Vec::<String>::new());
    assert!(encoder.sessions() <= 2);

    // What is wrong is said, and harms nothing.
    assert_eq!(encoder.encode(&tasks[0], &pixels[1..], 2).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert!(encoder.encode(&tasks[0], &[], 0).unwrap().is_empty());
    let stranger = digits_model().1.weights(&"base".parse().unwrap()).unwrap();
    assert_eq!(encoder.encode(&stranger, &pixels, 2).unwrap_err().kind(), ErrorKind::InvalidArgument);
    let taller = Arch { layers: arch.layers + 1, ..arch.clone() };
    let taller = DeviceEncoder::at(place(), &taller, &device, &options).unwrap();
    let error = taller.encode(&tasks[0], &pixels, 2).unwrap_err();
    let lacks = format!("visual.transformer.resblocks.{}.", arch.layers);
    assert!(error.kind() == ErrorKind::Mismatch && error.to_string().contains(&lacks), "{error}");
    let wider = Arch { mlp_width: 2 * arch.mlp_width, ..arch.clone() };
    let wider = DeviceEncoder::at(place(), &wider, &device, &options).unwrap();
    assert_eq!(wider.encode(&tasks[0], &pixels, 2).unwrap_err().kind(), ErrorKind::Mismatch);
    assert!(bits(&encoder.encode(&tasks[3], &pixels, 2).unwrap()) == expected[3]);

    // A basis that does not fit is streamed.
    let everything = DeviceModel::new(&model, &cuda, &DeviceOptions { budget: Some(1 << 30) }).unwrap();
    let (resident, weights) = (everything.stats().resident_bytes, everything.get(&tasks[0]).unwrap().nbytes());
    let streamed =
        DeviceModel::new(&model, &cuda, &DeviceOptions { budget: Some(resident / 2 + 2 * weights) }).unwrap();
    let encoder = DeviceEncoder::at(place(), &arch, &streamed, &options).unwrap();
    for (task, expected) in tasks.iter().zip(&expected) {
        assert!(bits(&encoder.encode(task, &pixels, 2).unwrap()) == *expected, "{}", task.name());
    }
    assert!(streamed.stats().streamed > 0);

    // The provider itself, where this ONNX Runtime has it, would take this driver for a real one.
    if Runtime::load(None).unwrap().providers().iter().any(|name| name == "CUDAExecutionProvider") {
        return;
    }
    let asked = DeviceEncoder::new(&arch, &device, &options);
    assert!(asked.map(drop).is_err_and(|error| error.kind() == ErrorKind::Unsupported));
}
