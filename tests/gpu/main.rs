//! Weights reconstructed on a GPU, against those of the CPU: `make test-gpu`. Skipped, aloud, where there is no GPU or
//! the library was built without the feature `cuda`. It runs on a driver without a GPU too
//! (`tests/cuda_host/driver.cpp`): our calls of the driver, and the kernel's source, but for the GPU.

#[path = "../cuda_host/driver.rs"]
mod driver;
#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use support::{Need, need, skip};

use crate::driver::on_the_hosts_driver;
use crate::support::bundle::{format, pack_digits};
use taskbasis::weights::{Layout, TensorSpec, View};
use taskbasis::{
    Arch, ArchHints, BaseFormat, Bundle, Checkpoint, Cuda, DType, DeviceModel, DeviceOptions, Encoder, EncoderOptions,
    ErrorKind, Model, ModelOptions, Provider, Runtime, TaskWeights, Values, WeightsOn,
};

/// The first GPU, for one test at a time: they look at how much memory is free.
fn gpu() -> Option<(MutexGuard<'static, ()>, Cuda)> {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    match Cuda::open(0) {
        Ok(cuda) => {
            let (major, minor) = cuda.compute_capability();
            eprintln!("on {}, compute capability {major}.{minor}", cuda.name());
            Some((guard, cuda))
        }
        Err(error) if matches!(error.kind(), ErrorKind::RuntimeMissing | ErrorKind::Unsupported) => {
            skip(Need::Gpu, &error);
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// The digits family from a bundle.
fn model(vectors: &str, base: BaseFormat) -> Option<(tempfile::TempDir, Arc<Model>)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("digits.taskbasis");
    pack_digits("AE", format(vectors), base, &path)?;
    let model = Bundle::open(&path).unwrap().model(None, &ModelOptions::default()).unwrap();
    Some((folder, model))
}

fn tasks(model: &Arc<Model>) -> Vec<TaskWeights> {
    let names = model.basis().unwrap().tasks().to_vec();
    let by_group = ["merged@{attn: 0.4, blocks.0: 0, *: -0.2}", "all@{mlp: 0.3, *: 0}"];
    let sums = ["base", "merged@0.4", "all@0.3"].into_iter().chain(by_group).map(str::to_owned);
    let exprs =
        names.iter().map(|name| format!("\"{name}\"")).chain(names.iter().map(|name| format!("-\"{name}\"@0.5")));
    exprs.chain(sums).map(|expr| model.weights(&expr.parse().unwrap()).unwrap()).collect()
}

fn assert_same(device: &DeviceModel, task: &TaskWeights, what: &str) {
    let (cpu, gpu) = (task.get().unwrap(), device.get(task).unwrap());
    assert_eq!(gpu.iter().len(), cpu.len());
    for (tensor, (name, shape, values)) in gpu.iter().zip(cpu.iter()) {
        assert_eq!((tensor.name, tensor.shape, tensor.address % 256), (name, shape, 0));
        let (dtype, want) = match values {
            Values::F32(values) => (DType::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
            Values::Cast(dtype, bytes) => (dtype, bytes.to_vec()),
            Values::Carried(_) | Values::Packed(..) => panic!("{name} is no float"),
        };
        assert_eq!(tensor.dtype, dtype, "{name}");
        assert!(gpu.bytes_to_host(name).unwrap() == want, "{name} of {}, {what}", task.name());
    }
}

#[test]
fn the_bits_are_those_of_the_cpu_in_every_format() {
    let Some((_one, cuda)) = gpu() else { return };
    for vectors in ["f32", "f16", "bf16", "q8", "q6", "q4", "q3", "q2"] {
        for base in [BaseFormat::F32, BaseFormat::F16, BaseFormat::BF16] {
            let Some((_folder, model)) = model(vectors, base) else { return };
            let device = DeviceModel::new(&model, &cuda, &DeviceOptions::default()).unwrap();
            tasks(&model).iter().for_each(|task| assert_same(&device, task, vectors));
        }
    }
}

/// The published folder too, whose tensors lie at any alignment.
#[test]
fn a_folder_has_the_bits_of_the_cpu() {
    let Some((_one, cuda)) = gpu() else { return };
    for method in support::bundle::METHODS {
        let Some((folder, base)) = support::bundle::digits_files(method) else { return };
        let (base, basis) = (Checkpoint::open(base).unwrap(), taskbasis::Basis::open(folder).unwrap());
        let model = Model::new(base, Some(basis), &ModelOptions::default()).unwrap();
        let device = DeviceModel::new(&model, &cuda, &DeviceOptions::default()).unwrap();
        for expr in ["base", "merged@0.4"] {
            assert_same(&device, &model.weights(&expr.parse().unwrap()).unwrap(), method);
        }
    }
}

/// Bytes of a device with everything of the model, and of one task's weights.
fn sizes(model: &Arc<Model>, cuda: &Cuda) -> (usize, usize) {
    let device = DeviceModel::new(model, cuda, &DeviceOptions::default()).unwrap();
    let weights = device.get(&tasks(model)[0]).unwrap().nbytes();
    (device.stats().resident_bytes, weights)
}

#[test]
fn a_basis_that_does_not_fit_is_streamed() {
    let Some((_one, cuda)) = gpu() else { return };
    for vectors in ["f32", "q4"] {
        let Some((_folder, model)) = model(vectors, BaseFormat::F32) else { return };
        let (resident, weights) = sizes(&model, &cuda);
        let options = DeviceOptions { budget: Some(resident / 2 + 2 * weights) };
        let device = DeviceModel::new(&model, &cuda, &options).unwrap();
        tasks(&model).iter().for_each(|task| assert_same(&device, task, vectors));
        assert!(device.stats().slot_bytes > 0 && device.stats().streamed > 0);
    }
}

/// A layout as a graph may want the model: matrices transposed, convolutions with the channels last, queries scaled and
/// in heads, half of the rows, positions with the class embedding added, every type. Parameters that no vector changes
/// are partly held by the graph itself.
fn layout(model: &Model) -> Arc<Layout> {
    const DTYPES: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::F64];
    let (basis, mut tensors, mut kept) = (model.basis().unwrap(), Vec::new(), Vec::new());
    let tower = model.base().iter().filter(|(name, tensor)| name.starts_with("visual.") && tensor.dtype().is_float());
    for (i, (name, tensor)) in tower.enumerate() {
        let shape = tensor.shape();
        let is_changed = basis.parameter(name).is_some_and(|parameter| parameter.is_changed());
        if !is_changed && i % 3 == 0 {
            kept.push(name);
            continue;
        }
        let mut add = |what: &str, shape: &[usize], view: View| {
            let dtype = DTYPES[tensors.len() % DTYPES.len()];
            let name = format!("{name}.{what}");
            tensors.push(TensorSpec { name, dtype, shape: shape.to_vec(), parts: vec![view], packed: None });
        };
        let whole = View::whole(name);
        add("whole", shape, whole.clone());
        match *shape {
            [rows, columns] => {
                add("turned", &[columns, rows], View { permute: Some(vec![1, 0]), ..whole.clone() });
                let half = View { rows: Some([rows / 2, rows]), permute: Some(vec![1, 0]), ..whole.clone() };
                add("half", &[columns, rows - rows / 2], half);
                if rows.is_multiple_of(3) {
                    let heads = View { shape: Some(vec![3, rows / 3, columns]), scale: Some(0.125), ..whole };
                    let heads = View { permute: Some(vec![0, 2, 1]), ..heads };
                    add("heads", &[3, columns, rows / 3], heads);
                }
            }
            [out, channels, height, width] => {
                add("last", &[out, height, width, channels], View { permute: Some(vec![0, 2, 3, 1]), ..whole.clone() });
                add("first", &[height, width, channels, out], View { permute: Some(vec![2, 3, 1, 0]), ..whole });
            }
            _ => add("scaled", shape, View { scale: Some(-1.5), ..whole }),
        }
    }
    let embedding = model.base().require("visual.class_embedding").unwrap().shape().to_vec();
    let first = View { rows: Some([0, 1]), ..View::whole("visual.positional_embedding") };
    let parts = vec![View::whole("visual.class_embedding"), first];
    tensors.push(TensorSpec { name: "class".into(), dtype: DType::F16, shape: embedding, parts, packed: None });
    Layout::new(tensors, &kept, model.base()).unwrap()
}

#[test]
fn layouts_have_the_bits_of_the_cpu() {
    let Some((_one, cuda)) = gpu() else { return };
    for (vectors, base) in [("f32", BaseFormat::F32), ("q4", BaseFormat::F16), ("q3", BaseFormat::BF16)] {
        let Some((_folder, model)) = model(vectors, base) else { return };
        let device = DeviceModel::new(&model, &cuda, &DeviceOptions::default()).unwrap();
        let layout = layout(&model);
        for task in tasks(&model) {
            assert_same(&device, &task.in_layout(&layout), vectors);
            assert_same(&device, &task, vectors);
        }
        let stats = device.stats();
        assert!(stats.layout_bytes > 0);

        // With half of the basis on the host.
        let weights = device.get(&tasks(&model)[0].in_layout(&layout)).unwrap().nbytes();
        let budget = stats.layout_bytes + stats.resident_bytes / 2 + 2 * weights;
        let options = DeviceOptions { budget: Some(budget) };
        let device = DeviceModel::for_layout(&model, &cuda, &options, &layout).unwrap();
        tasks(&model).iter().for_each(|task| assert_same(&device, &task.in_layout(&layout), "streamed"));
        assert!(device.stats().slot_bytes > 0 && device.stats().streamed > 0);
    }
}

#[test]
fn layouts_that_come_and_go_leave_memory_flat() {
    const SLACK: usize = 4 << 20;

    let Some((_one, cuda)) = gpu() else { return };
    let Some((_folder, model)) = model("q4", BaseFormat::F16) else { return };
    let device = DeviceModel::new(&model, &cuda, &DeviceOptions::default()).unwrap();
    let tasks = tasks(&model);
    device.get(&tasks[0]).unwrap();
    let stream = cuda.stream().unwrap();
    let before = (cuda.memory().unwrap().0, device.stats().cache);
    for switch in 0..60 {
        let layout = layout(&model);
        for task in [&tasks[switch % tasks.len()], &tasks[(switch + 1) % tasks.len()]] {
            let weights = device.get(&task.in_layout(&layout)).unwrap();
            weights.wait_in(&stream).unwrap();
            weights.used_in(&stream).unwrap();
        }
        if switch % 20 == 0 {
            assert_same(&device, &tasks[1].in_layout(&layout), "a layout of many");
            model.cache().trim(0);
        }
    }
    let stats = device.stats();
    assert_eq!((stats.layout_bytes, stats.cache.entries), (0, before.1.entries), "of layouts that are gone");
    device.trim(stats.cache.bytes);
    let after = cuda.memory().unwrap().0;
    assert!(after + SLACK >= before.0, "{} bytes were free before, {after} after", before.0);
}

#[test]
fn a_thousand_switches_leave_memory_flat() {
    const SLACK: usize = 4 << 20;

    let Some((_one, cuda)) = gpu() else { return };
    let Some((_folder, model)) = model("q4", BaseFormat::F16) else { return };
    let (resident, weights) = sizes(&model, &cuda);
    assert!(cuda.copy_bandwidth(8 << 20).unwrap() > 0.0);
    let stream = cuda.stream().unwrap();
    let before = cuda.memory().unwrap().0;
    let options = DeviceOptions { budget: Some(resident + 3 * weights) };
    let device = DeviceModel::new(&model, &cuda, &options).unwrap();
    let tasks = tasks(&model);
    let (mut random, mut settled) = (1u64, 0);
    for switch in 0..1000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let task = &tasks[(random >> 40) as usize % tasks.len()];
        if switch % 50 == 0 {
            assert_same(&device, task, "a switch");
        } else {
            let weights = device.get(task).unwrap();
            weights.wait_in(&stream).unwrap();
            weights.used_in(&stream).unwrap();
        }
        if switch == 100 {
            settled = cuda.memory().unwrap().0;
        }
    }
    let after = cuda.memory().unwrap().0;
    assert!(after + SLACK >= settled, "{settled} bytes were free after 100 switches, {after} after 1000");
    assert!(device.stats().weights_bytes <= 3 * weights);
    stream.synchronize().unwrap();
    drop(device);
    let end = cuda.memory().unwrap().0;
    assert!(end + SLACK >= before, "{before} bytes were free before, {end} after");
}

/// ONNX Runtime with the providers of GPUs.
fn runtime_for_gpus() -> Option<PathBuf> {
    // The driver without a GPU is none for the provider.
    if std::env::var_os("ON_THE_HOSTS_DRIVER").is_some() {
        return None;
    }
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join(".onnxruntime-gpu/libonnxruntime.so");
    let named = std::env::var_os("TASKBASIS_ONNXRUNTIME_GPU").map(PathBuf::from);
    let library = named.or_else(|| fetched.is_file().then_some(fetched));
    if library.is_none() {
        skip(Need::Gpu, "there is no ONNX Runtime for GPUs (`scripts/fetch-onnxruntime --gpu` fetches it)");
    }
    library
}

/// The golden embeddings, from weights that lie on the GPU, by ONNX Runtime's CUDA provider and by TensorRT's:
/// `TASKBASIS_ONNXRUNTIME_GPU` names its library, or `scripts/fetch-onnxruntime --gpu` has fetched it. Without a GPU,
/// `encoder::engine::cuda::tests` of the library.
#[test]
fn the_encoder_reads_the_weights_where_they_are() {
    let Some(library) = runtime_for_gpus() else { return };
    let Some((_one, cuda)) = gpu() else { return };
    let Some(((folder, base), golden)) = support::bundle::digits_files("AE").zip(support::digits("golden.safetensors"))
    else {
        return;
    };
    let (base, basis) = (Checkpoint::open(base).unwrap(), taskbasis::Basis::open(folder).unwrap());
    let arch = Arch::of(&base, ArchHints::default()).unwrap();
    let model = Model::new(base, Some(basis), &ModelOptions::default()).unwrap();
    let golden = Checkpoint::open(golden).unwrap();
    let values = |name: &str| golden.require(name).unwrap().to_f32().unwrap().into_owned();
    let pixels = values("pixel_values");
    let of = |expr: &str| model.weights(&expr.parse().unwrap()).unwrap();
    let cases: Vec<(TaskWeights, Vec<f32>)> = ["base", "MNIST", "Loops", "Rotated", "merged@0.4"]
        .into_iter()
        .map(|expr| match expr {
            "base" => (of(expr), values("zeroshot/embeds")),
            "merged@0.4" => (of(expr), values("AE/merged@0.4/embeds")),
            task => (of(task), values(&format!("AE/task/{task}@1.0/embeds"))),
        })
        .collect();
    let (resident, weights) = sizes(&model, &cuda);

    // In f32, with TF32, which would give 1e-3, off. TensorRT has it on.
    for (provider, within) in [(Provider::Cuda, 2e-5), (Provider::TensorRt, 5e-3)] {
        let usable = Runtime::load(Some(&library)).and_then(|runtime| runtime.check_provider(provider, 0));
        if let Err(error) = usable {
            skip(Need::Gpu, &error);
            continue;
        }
        let options = EncoderOptions {
            runtime: Some(library.clone()),
            concurrency: 2,
            provider,
            weights_on: WeightsOn::Device,
            device_budget: Some(resident + 2 * weights),
            ..EncoderOptions::default()
        };
        let encoder = Encoder::new(&arch, &options).unwrap();
        assert_eq!((encoder.execution().provider, encoder.execution().weights_on), (provider, WeightsOn::Device));
        let check = |(task, expected): &(TaskWeights, Vec<f32>)| {
            let error = support::relative_l2(&encoder.encode_task(task, &pixels, 32).unwrap(), expected);
            assert!(error <= within, "{} by {provider}: {error:.2e}", task.name());
        };
        (0..1000).for_each(|switch| check(&cases[switch * 7 % cases.len()]));
        std::thread::scope(|scope| {
            for first in 0..3 {
                let (cases, check) = (&cases, &check);
                scope.spawn(move || (0..50).for_each(|switch| check(&cases[(first + switch) % cases.len()])));
            }
        });
        if provider == Provider::Cuda {
            let encoder = Encoder::new(&arch, &EncoderOptions { cuda_graphs: true, ..options.clone() }).unwrap();
            for switch in 0..200 {
                let ((task, expected), n) = (&cases[switch * 7 % cases.len()], [32, 1][switch / 50 % 2]);
                let embeds = encoder.encode_task(task, &pixels[..n * arch.pixels()], n).unwrap();
                let error = support::relative_l2(&embeds, &expected[..embeds.len()]);
                assert!(error <= within, "{} as a CUDA graph: {error:.2e}", task.name());
            }
        }
        // The same from weights of the host's, and promoted.
        let host = EncoderOptions { weights_on: WeightsOn::Host, ..options };
        let host = Encoder::new(&arch, &host).unwrap();
        for (task, expected) in &cases {
            assert!(support::relative_l2(&host.encode_task(task, &pixels, 32).unwrap(), expected) <= within);
            host.promote(task).unwrap();
            assert!(support::relative_l2(&host.encode_task(task, &pixels, 32).unwrap(), expected) <= within);
        }
    }
}

/// What `taskbasis bench` does with an encoder. Without a GPU: `device` of `taskbasis-bench`, and its tests.
#[test]
fn the_bench_encodes_with_weights_on_the_gpu() {
    let Some(library) = runtime_for_gpus() else { return };
    let Some((_one, _cuda)) = gpu() else { return };
    let usable = Runtime::load(Some(&library)).and_then(|runtime| runtime.check_provider(Provider::Cuda, 0));
    if let Err(error) = usable {
        skip(Need::Gpu, &error);
        return;
    }
    let Some((folder, base)) = support::bundle::digits_files("AE") else { return };
    let mut bench = Command::new(env!("CARGO_BIN_EXE_taskbasis"));
    bench.args(["bench", "--only", "device", "--quick", "--json", "--provider", "cuda", "--batch", "64", "--formats"]);
    let output = bench.arg("--basis").arg(folder).arg("--base").arg(base).arg("--onnxruntime").arg(&library).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let measured: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let encode = &measured["device"]["encode"];
    assert!(encode["execution"].as_str().unwrap().contains("weights on the device"), "{measured:#}");
    for difference in ["steady_difference", "host_difference"] {
        assert!(encode[difference].as_f64().unwrap() < 2e-5, "{difference}: {encode:#}");
    }
    assert_eq!(encode["batches"].as_array().unwrap().len(), 5, "1, 2, 8, 32, 64");
    assert!(encode["encoder_bytes"].as_u64().unwrap() > 0);
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_that_says_so() {
    // Whatever this machine has: never a panic.
    let error = Cuda::open(4096).map(drop).unwrap_err();
    let kinds = [ErrorKind::NotFound, ErrorKind::RuntimeMissing, ErrorKind::Unsupported];
    assert!(kinds.contains(&error.kind()), "{error:?}");
}

/// Runs a test of this program, or all of them, on the driver without a GPU. `None`, said aloud, where there is none.
fn tests_on_the_hosts_driver(test: &[&str], settings: &[(&str, &str)]) -> Option<Output> {
    let mut tests = Command::new(std::env::current_exe().unwrap());
    tests.args(["--test-threads=1", "--nocapture"]).args(test).env("ON_THE_HOSTS_DRIVER", "1");
    on_the_hosts_driver(&mut tests, settings)
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn all_of_it_on_a_driver_without_a_gpu() {
    if std::env::var_os("ON_THE_HOSTS_DRIVER").is_some() {
        return;
    }
    let Some(output) = tests_on_the_hosts_driver(&[], &[]) else { return };
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert_eq!(text.matches("on none at all, compute capability 9.0").count(), 6, "{text}");
}

/// Opens the GPU, brings a model there, reconstructs, and prints what went wrong.
#[test]
#[ignore = "run by `what_is_wrong_is_said`"]
fn try_it() {
    let Some((_folder, model)) = model("q4", BaseFormat::F16) else { return };
    let attempt = || {
        let device = DeviceModel::new(&model, &Cuda::open(0)?, &DeviceOptions::default())?;
        let task = &tasks(&model)[0];
        let weights = device.get(task)?;
        // SAFETY: 0 is the default stream, which is always there.
        unsafe {
            weights.wait_in_raw(0)?;
            weights.used_in_raw(0)?;
            weights.used_in_raw(0)?;
        }
        weights.synchronize()?;
        weights.to_host("visual.proj")?;
        device.pin(task)
    };
    match attempt() {
        Ok(_) => eprintln!("nothing is wrong"),
        Err(error) => eprintln!("{error:?}"),
    }
}

#[test]
fn what_is_wrong_is_said() {
    const NO_DRIVER: (&str, &str) = ("LD_LIBRARY_PATH", "/nowhere");

    if std::env::var_os("ON_THE_HOSTS_DRIVER").is_some() {
        return;
    }
    let cases = [
        (("FAKE_DEVICES", "1"), "nothing is wrong"),
        (("FAKE_DEVICES", "0"), "[runtime_missing] the CUDA driver finds no GPU that it can use"),
        (("FAKE_VERSION", "11030"), "[runtime_missing] the CUDA driver is too old: expected one for CUDA 11.4"),
        (NO_DRIVER, "[runtime_missing] the library of the CUDA driver was not found"),
        (("FAKE_VERSION", "11040"), "nothing is wrong"),
        (("FAKE_CAPABILITY", "75"), "nothing is wrong"),
        (("FAKE_CAPABILITY", "72"), "[unsupported] none at all is too old for the kernels"),
        (("FAKE_REFUSED", "cuModuleLoadData"), "[runtime] the driver, one for CUDA 12.8, refuses the kernels"),
        (("FAKE_MEMORY", "100000"), "[invalid_argument] the budget of device memory is too small"),
        (("FAKE_REFUSED", "cuMemHostAlloc"), "[runtime] cannot allocate pinned memory (FAKE_ERROR_1: as asked for)"),
        (("FAKE_REFUSED", "cuMemAlloc_v2"), "[runtime] cannot allocate memory of the GPU"),
        (("FAKE_REFUSED", "cuMemcpyHtoDAsync_v2"), "[runtime] cannot copy to the GPU"),
        (("FAKE_REFUSED", "cuMemcpyDtoHAsync_v2"), "[runtime] cannot copy from the GPU"),
        (("FAKE_REFUSED", "cuLaunchKernel"), "[runtime] cannot launch the kernel"),
        (("FAKE_REFUSED", "cuEventCreate"), "[runtime] cannot make an event"),
        (("FAKE_REFUSED", "cuEventRecord"), "[runtime] cannot record an event"),
        (("FAKE_REFUSED", "cuEventSynchronize"), "[runtime] work on the GPU failed"),
        (("FAKE_REFUSED", "cuStreamCreate"), "[runtime] cannot make a stream"),
        (("FAKE_REFUSED", "cuStreamWaitEvent"), "[runtime] cannot wait for an event"),
        (("FAKE_REFUSED", "cuCtxPushCurrent_v2"), "[runtime] cannot use the GPU"),
        (("FAKE_REFUSED", "cuDevicePrimaryCtxRetain"), "[runtime] cannot use the GPU"),
        (("FAKE_REFUSED", "cuDeviceGetAttribute"), "[runtime] cannot ask the GPU what it is"),
        (("FAKE_REFUSED", "cuMemGetInfo_v2"), "[runtime] cannot ask how much memory is free"),
        // Asked only to forget what has ended.
        (("FAKE_REFUSED", "cuEventQuery"), "nothing is wrong"),
        // What another thread captures meanwhile is no business of ours.
        (("FAKE_CAPTURING", "1"), "nothing is wrong"),
    ];
    // The loader finds a driver of the system's whatever the variable says.
    let there_is_one = !Cuda::open(4096).unwrap_err().to_string().contains("was not found");
    for (setting, said) in cases {
        if setting == NO_DRIVER && there_is_one {
            eprintln!("skipped: this machine has a driver");
            continue;
        }
        let Some(output) = tests_on_the_hosts_driver(&["--ignored", "--exact", "try_it"], &[setting]) else { return };
        let text = text(&output);
        assert!(output.status.success() && text.contains(said), "{setting:?}, expected {said}: {text}");
    }
}
