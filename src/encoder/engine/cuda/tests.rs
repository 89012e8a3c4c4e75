//! The encoder over weights of a device, without a GPU: its streams on the tests' device, which does things in any
//! order, and all of it on the driver that keeps device memory in the host's, where a session of the CPU can read it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ort::memory::MemoryInfo;
use parking_lot::Mutex;

use super::device::{Device, in_stream};
use super::*;
use crate::basis::Basis;
use crate::checkpoint::Checkpoint;
use crate::encoder::graph::EncoderGraph;
use crate::encoder::options::{EncoderOptions, Provider, WeightsOn};
use crate::encoder::provider::target::Target;
use crate::encoder::{Encoder, PromotionState, Runtime};
use crate::error::{Error, ErrorKind};
use crate::kernel::Cuda;
use crate::kernel::cuda::{Queue, SimulatedDevice};
use crate::need::{Need, runtime, skip};
use crate::onnx::{BindOptions, BoundGraph};
use crate::tower::arch::{Arch, ArchHints};
use crate::weights::{DeviceLease, DeviceOptions, DeviceStats, ModelOptions};

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
        let host = Arc::new(SimulatedDevice::new(1 << 30, seed));
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
            let done = in_stream(&weights, &stream, || {
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
            assert!(*bytes.lock() == expected, "{}", task.name());
        }
        assert!(device.stats().cache.evictions > 20);
    }
}

/// Has this program run the test below on the driver without a GPU.
#[test]
fn on_a_driver_without_a_gpu_it_has_the_bits_of_the_cpu() {
    if !cfg!(all(feature = "cuda", target_os = "linux")) {
        return skip(Need::Driver, "built without the feature `cuda`, or not for Linux");
    }
    if !runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let driver = folder.path().join("libcuda.so");
    if !crate::kernel::cuda::cuda_host::compile("driver.cpp", &driver) {
        return;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--nocapture", "--exact", "encoder::engine::cuda::tests::in_memory_of_the_host"])
        .env("LD_LIBRARY_PATH", folder.path())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// A budget for everything and the weights of `arenas` tasks, or for less than everything.
fn options(budget: usize) -> EncoderOptions {
    EncoderOptions { threads: 2, concurrency: 2, device_budget: Some(budget), ..EncoderOptions::default() }
}

/// An encoder whose sessions are the CPU's, with its weights on the driver's device.
fn encoder(arch: &Arch, cuda: &Cuda, options: &EncoderOptions) -> Encoder {
    let device = |_: &Target| Ok((Some(Device::on(cuda.clone(), MemoryInfo::default(), options)), None));
    Encoder::over_with(arch.clone(), options, |_| EncoderGraph::built(arch), device).unwrap()
}

/// An encoder of the CPU over the graph that a GPU runs.
fn standard(arch: &Arch, options: &EncoderOptions) -> Encoder {
    Encoder::over_with(arch.clone(), options, |_| EncoderGraph::built(arch), |_| Ok((None, None))).unwrap()
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
    let pixels: Vec<f32> = (0..2 * arch.pixels()).map(|i| (i % 17) as f32 / 17.0 - 0.4).collect();
    let cpu = standard(&arch, &EncoderOptions { device_budget: None, ..options(0) });
    let expected: Vec<_> =
        tasks.iter().map(|task| bits(&cpu.encode(&*task.get().unwrap(), &pixels, 2).unwrap())).collect();
    assert!((1..tasks.len()).all(|i| expected[i] != expected[0]), "the tasks are to differ");
    let (resident, arena) = {
        let all = DeviceModel::new(&model, &cuda, &DeviceOptions { budget: Some(1 << 30) }).unwrap();
        (all.stats().resident_bytes, all.get(&tasks[0]).unwrap().nbytes())
    };

    let run = options(resident + 2 * arena);
    let own = encoder(&arch, &cuda, &run);
    // Only what runs there brings it there.
    assert!(!own.is_prepared(&tasks[0]) && own.device_stats(&model) == DeviceStats::default());
    assert!(DeviceLease::find(&model, &cuda).is_none());
    assert_eq!((own.execution().weights_on, &own.execution().weights_fallback), (WeightsOn::Device, &None));
    let mut state = 1;
    for _ in 0..1000 {
        let i = random(&mut state, tasks.len());
        assert!(bits(&own.encode_task(&tasks[i], &pixels, 2).unwrap()) == expected[i], "{}", tasks[i].name());
    }
    let device = own.device_model(&model).unwrap().unwrap();
    let stats = device.stats();
    assert_eq!(own.device_stats(&model), stats);
    assert!(stats.cache.evictions > 500 && stats.cache.hits > 50, "{stats:?}");
    assert!(stats.weights_bytes <= 2 * arena, "{stats:?}");
    assert_eq!(own.sessions(), 1);
    let on_host = model.cache().stats();
    own.prepare(&tasks[0]).unwrap();
    assert!(own.is_prepared(&tasks[0]));
    assert_eq!(model.cache().stats().misses, on_host.misses, "nothing is reconstructed on the host");
    assert_eq!(own.promotion(&tasks[0]), PromotionState::Inputs(0), "a thousand runs promote nothing here");

    // Larger runs, and smaller ones again; embeddings of one image do not depend on the others.
    let many: Vec<f32> = pixels.iter().copied().cycle().take(7 * arch.pixels()).collect();
    for n in [1, 7, 3, 7, 1] {
        let some = &many[..n * arch.pixels()];
        let expected = cpu.encode(&*tasks[2].get().unwrap(), some, n).unwrap();
        assert!(bits(&own.encode_task(&tasks[2], some, n).unwrap()) == bits(&expected), "{n} images");
    }
    // Weights of the caller's go the other way.
    let by_hand = own.encode(&*tasks[1].get().unwrap(), &pixels, 2).unwrap();
    assert!(bits(&by_hand) == expected[1]);
    own.promote(&tasks[1]).unwrap();
    assert!(own.is_promoted(&tasks[1]));
    let promoted = own.encode_task(&tasks[1], &pixels, 2).unwrap();
    assert!(promoted.iter().zip(&by_hand).all(|(a, b)| (a - b).abs() <= 1e-4));
    assert!(own.demote(&tasks[1]));

    // Two at once, each in a stream of its own; a third waits, and holds no weights meanwhile.
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (own, tasks, expected, pixels, failed) = (&own, &tasks, &expected, &pixels, &failed);
            scope.spawn(move || {
                let mut state = 10 + thread;
                for _ in 0..100 {
                    let i = random(&mut state, tasks.len());
                    match own.encode_task(&tasks[i], pixels, 2) {
                        Ok(embeds) if bits(&embeds) == expected[i] => {}
                        other => failed.lock().push(format!("{}: {:?}", tasks[i].name(), other.err())),
                    }
                }
            });
        }
    });
    assert_eq!(failed.into_inner(), Vec::<String>::new());
    assert!(own.sessions() <= 2);

    // Recorded where a provider can, each by its addresses; here that is to run plainly and once more.
    let recording = encoder(&arch, &cuda, &EncoderOptions { cuda_graphs: true, ..run.clone() });
    for i in 0..60 {
        let (task, n) = (random(&mut state, tasks.len()), 1 + i % 2);
        let embeds = recording.encode_task(&tasks[task], &pixels[..n * arch.pixels()], n).unwrap();
        assert!(n == 1 || bits(&embeds) == expected[task]);
    }
    assert!(bits(&recording.encode(&*tasks[1].get().unwrap(), &pixels, 2).unwrap()) == expected[1]);
    drop(recording);

    a_users_graph(&arch, &cuda, &pixels, 1 << 30);
    // So small a budget that the layout has room only where it was counted before the basis.
    a_users_graph(&arch, &cuda, &pixels, 2 * arena);
    a_graph_that_is_left(&arch, &cuda, &pixels);

    // What is wrong is said, and harms nothing.
    let mut out = vec![7.0; 2 * arch.embed_dim];
    let error = own.encode_task_into(&tasks[0], &pixels[1..], 2, &mut out).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(own.encode_task(&tasks[0], &[], 0).unwrap().is_empty());
    let taller = encoder(&Arch { layers: arch.layers + 1, ..arch.clone() }, &cuda, &run);
    let error = taller.encode_task_into(&tasks[0], &pixels, 2, &mut out).unwrap_err();
    let lacks = format!("visual.transformer.resblocks.{}.", arch.layers);
    assert!(error.kind() == ErrorKind::Mismatch && error.to_string().contains(&lacks), "{error}");
    let wider = encoder(&Arch { mlp_width: 2 * arch.mlp_width, ..arch.clone() }, &cuda, &run);
    assert_eq!(wider.encode_task_into(&tasks[0], &pixels, 2, &mut out).unwrap_err().kind(), ErrorKind::Mismatch);
    assert!(out.iter().all(|value| *value == 7.0), "nothing is written");
    assert!(bits(&own.encode_task(&tasks[3], &pixels, 2).unwrap()) == expected[3]);
    drop((taller, wider));

    // Another encoder finds the model there; it goes with the last of them, though the model stays.
    let other = encoder(&arch, &cuda, &options(1 << 30));
    assert!(Arc::ptr_eq(&device, &other.device_model(&model).unwrap().unwrap()));
    drop(own);
    assert!(bits(&other.encode_task(&tasks[4], &pixels, 2).unwrap()) == expected[4]);
    let gone = Arc::downgrade(&device);
    drop(device);
    assert!(gone.upgrade().is_some());
    drop(other);
    assert!(gone.upgrade().is_none());

    // A basis that does not fit is streamed.
    let own = encoder(&arch, &cuda, &options(resident / 2 + 2 * arena));
    for (task, expected) in tasks.iter().zip(&expected) {
        assert!(bits(&own.encode_task(task, &pixels, 2).unwrap()) == *expected, "{}", task.name());
    }
    let device = own.device_model(&model).unwrap().unwrap();
    assert!(device.stats().streamed > 0);
    // A model that no handle holds any more goes from the device too, though the encoder stays.
    let gone = Arc::downgrade(&device);
    drop((device, tasks, model));
    assert!(gone.upgrade().is_none());
}

/// A user's graph, bound to a model of its own.
fn bound(arch: &Arch) -> (Arc<Model>, BoundGraph) {
    let (folder, (_, model)) = (tempfile::tempdir().unwrap(), digits_model());
    let path = folder.path().join("exported.onnx");
    let base = model.weights(&"base".parse().unwrap()).unwrap();
    crate::encoder::write_onnx(arch, &*base.get().unwrap(), &path, &[]).unwrap();
    let graph = BoundGraph::open(&path, model.base(), model.basis(), &BindOptions::default()).unwrap();
    (model, graph)
}

/// An encoder over a user's graph.
fn over(arch: &Arch, graph: &BoundGraph, cuda: &Cuda, options: &EncoderOptions) -> Encoder {
    let there = |_: &Target| Ok((Some(Device::on(cuda.clone(), MemoryInfo::default(), options)), None));
    Encoder::over_with(arch.clone(), options, |_| EncoderGraph::new(graph), there).unwrap()
}

/// A user's graph gets its weights in its layout on the device too, with the bits of the host's.
fn a_users_graph(arch: &Arch, cuda: &Cuda, pixels: &[f32], budget: usize) {
    let ((model, graph), run) = (bound(arch), options(budget));
    let host = EncoderOptions { device_budget: None, ..run.clone() };
    let graph_of = |_: &Target| EncoderGraph::new(&graph);
    let on_host = Encoder::over_with(arch.clone(), &host, graph_of, |_| Ok((None, None))).unwrap();
    let theirs = over(arch, &graph, cuda, &run);
    for task in &tasks(&model) {
        let expected = on_host.encode(&*task.in_layout(on_host.layout()).get().unwrap(), pixels, 2).unwrap();
        assert!(bits(&theirs.encode_task(task, pixels, 2).unwrap()) == bits(&expected), "{}", task.name());
    }
}

/// What serves a graph on the device goes with its last encoder, while others go on and the graph stays.
fn a_graph_that_is_left(arch: &Arch, cuda: &Cuda, pixels: &[f32]) {
    let ((model, graph), run) = (bound(arch), options(1 << 30));
    let task = &tasks(&model)[0];
    let built = encoder(arch, cuda, &run);
    let embeds = bits(&built.encode_task(task, pixels, 2).unwrap());
    let before = built.device_stats(&model);
    let [one, other] = [(); 2].map(|()| over(arch, &graph, cuda, &run));
    one.encode_task(task, pixels, 2).unwrap();
    other.prepare(task).unwrap();
    drop(one);
    assert!(built.device_stats(&model).layout_bytes > 0 && other.is_prepared(task));
    other.encode_task(task, pixels, 2).unwrap();
    drop(other);
    let after = built.device_stats(&model);
    assert_eq!((after.layout_bytes, after.weights_bytes), (0, before.weights_bytes));
    assert!(built.is_prepared(task) && bits(&built.encode_task(task, pixels, 2).unwrap()) == embeds);
}

#[test]
fn weights_on_a_device_need_one_that_computes() {
    let (arch, _) = digits_model();
    let asked = EncoderOptions { weights_on: WeightsOn::Device, ..EncoderOptions::default() };
    let error = Device::choose(&Target::cpu(), &asked).map(drop).unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("cuda"), "{error}");
    // `auto` that has fallen back to the CPU has said why.
    for (provider, weights_on) in [(Provider::Auto, WeightsOn::Device), (Provider::Cpu, WeightsOn::Auto)] {
        let options = EncoderOptions { provider, weights_on, ..EncoderOptions::default() };
        assert!(matches!(Device::choose(&Target::cpu(), &options), Ok((None, None))));
    }
    // A GPU computes, but weights cannot be there: no driver, no such GPU, or built without it.
    let gpu = Target::cuda(4096);
    let wanted = |weights_on| EncoderOptions { provider: Provider::Cuda, weights_on, ..EncoderOptions::default() };
    assert!(matches!(Device::choose(&gpu, &wanted(WeightsOn::Auto)), Ok((None, Some(why))) if !why.is_empty()));
    assert!(matches!(Device::choose(&gpu, &wanted(WeightsOn::Host)), Ok((None, None))));
    assert!(Device::choose(&gpu, &wanted(WeightsOn::Device)).is_err());
    assert!(Runtime::load(None).is_err() || Encoder::new(&arch, &asked).is_err());
    for (provider, weights_on) in
        [(Provider::Cpu, WeightsOn::Auto), (Provider::TensorRt, WeightsOn::Device), (Provider::Cuda, WeightsOn::Host)]
    {
        let options = EncoderOptions { provider, weights_on, cuda_graphs: true, ..EncoderOptions::default() };
        let error = Device::choose(&gpu, &options).map(drop).unwrap_err();
        assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("CUDA graphs"), "{error}");
    }
    for place in [WeightsOn::Auto, WeightsOn::Host, WeightsOn::Device] {
        assert_eq!(place.to_string().parse::<WeightsOn>().unwrap(), place);
    }
}
