//! What computes: a provider is had, or there is an error that says what is missing; only `auto` falls back, and says
//! so.
//!
//! Without a GPU, most of it is about not having one. With the libraries of `onnxruntime-gpu`
//! (`scripts/fetch-onnxruntime --gpu`, or `TASKBASIS_ONNXRUNTIME_GPU` naming libonnxruntime.so), its real errors too.

use crate::support;
use crate::support::{Need, onnxruntime, skip};
use std::path::{Path, PathBuf};

use crate::support::digits;
use crate::support::program::run;
use serde_json::Value;
use taskbasis::{
    Arch, ArchHints, Checkpoint, Encoder, EncoderOptions, ErrorKind, Provider, Residency, Runtime, TensorRtOptions,
};

/// The digits' base and an image, where ONNX Runtime is there and has no provider but the CPU's.
fn without_gpu() -> Option<(Checkpoint, Arch)> {
    onnxruntime()?;
    if Runtime::load(None).unwrap().providers().iter().any(|name| name == "CUDAExecutionProvider") {
        skip(Need::Ort, "this ONNX Runtime is one for GPUs");
        return None;
    }
    let base = Checkpoint::open(digits("base/pickled_module.pt")?).unwrap();
    let arch = Arch::of(&base, ArchHints::default()).unwrap();
    Some((base, arch))
}

fn options(provider: Provider) -> EncoderOptions {
    EncoderOptions { provider, threads: 1, ..EncoderOptions::default() }
}

fn blockwise(options: EncoderOptions) -> EncoderOptions {
    EncoderOptions { residency: Residency::Blockwise, ..options }
}

#[test]
fn a_provider_that_cannot_be_had_is_an_error() {
    let Some((_, arch)) = without_gpu() else { return };
    for (provider, title) in [(Provider::Cuda, "CUDA"), (Provider::TensorRt, "TensorRT")] {
        for error in [
            Encoder::new(&arch, &options(provider)).map(drop).unwrap_err(),
            Encoder::new(&arch, &blockwise(options(provider))).map(drop).unwrap_err(),
            Runtime::load(None).unwrap().check_provider(provider, 0).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            let text = error.to_string();
            assert!(text.contains(&format!("built without {title}")) && text.contains("onnxruntime-gpu"), "{text}");
        }
    }
    let second = EncoderOptions { device: 1, ..options(Provider::Cpu) };
    assert_eq!(Encoder::new(&arch, &second).unwrap_err().kind(), ErrorKind::Unsupported);
    let fp16 = TensorRtOptions { fp16: true, ..TensorRtOptions::default() };
    let error =
        Encoder::new(&arch, &blockwise(EncoderOptions { tensorrt: fp16, ..options(Provider::Cpu) })).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "its half floats would not be compared");
}

#[test]
fn auto_takes_the_cpu_and_tells_why() {
    let Some((base, arch)) = without_gpu() else { return };
    let model = taskbasis::Model::new(base, None, &taskbasis::ModelOptions::default()).unwrap();
    let task = model.weights(&"base".parse().unwrap()).unwrap();
    let pixels = vec![0.25; arch.pixels()];
    let (cpu, auto) = (options(Provider::Cpu), EncoderOptions { device: 3, ..options(Provider::Auto) });
    let (cpu, auto) = (Encoder::new(&arch, &cpu).unwrap(), Encoder::new(&arch, &auto).unwrap());
    assert_eq!((cpu.execution().provider, &cpu.execution().fallback), (Provider::Cpu, &None));
    assert_eq!((auto.execution().provider, auto.execution().device), (Provider::Cpu, 0));
    let why = auto.execution().fallback.as_deref().unwrap();
    assert!(why.contains("built without CUDA"), "{why}");
    let embeds = |encoder: &Encoder| support::bits(&encoder.encode_task(&task, &pixels, 1).unwrap());
    assert_eq!(embeds(&cpu), embeds(&auto));
    let probe = Runtime::probe(None).unwrap();
    assert_eq!(Provider::known_among(&probe.providers), [Provider::Cpu]);
}

/// `embed` of the digits with these arguments: its output, and its errors.
fn embed(arguments: &[&str]) -> Option<(bool, Value, String)> {
    let (basis, base) = (digits("bases/ViT-D-8_AE_M4_8task")?, digits("base/pickled_module.pt")?);
    let images = digits("images.safetensors").and(digits("golden.safetensors"))?;
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("y.safetensors");
    let [basis, base, images, output] = [&basis, &base, &images, &output].map(|path| path.to_str().unwrap());
    let all = ["embed", "--basis", basis, "--base", base, "--weights", "MNIST", "-i", images, "-o", output, "--json"];
    // With everything said that the shapes do not tell, the notes are those of the provider.
    let tower = ["--heads-count", "1", "--activation", "quick_gelu", "--norm-eps", "1e-5", "--pooling", "class_token"];
    let done = run(&[&all[..], &tower, arguments].concat());
    let told = serde_json::from_slice(&done.stdout).unwrap_or_default();
    Some((done.status.success(), told, String::from_utf8(done.stderr).unwrap()))
}

#[test]
fn the_program_says_what_computes() {
    let Some(_) = without_gpu() else { return };
    let Some((done, told, errors)) = embed(&[]) else { return };
    assert!(done && told["provider"] == "cpu" && told["device"] == 0 && errors.is_empty(), "{told} {errors}");
    let (done, told, errors) = embed(&["--provider", "auto"]).unwrap();
    assert!(done && told["provider"] == "cpu", "{told} {errors}");
    assert!(errors.matches("note: ").count() == 1 && errors.contains("built without CUDA"), "{errors}");
    for provider in ["cuda", "tensorrt"] {
        for streamed in [&[][..], &["--streamed"]] {
            let (done, _, errors) = embed(&[&["--provider", provider], streamed].concat()).unwrap();
            assert!(!done && errors.starts_with("error: ") && errors.contains("onnxruntime-gpu"), "{errors}");
        }
    }
    let (done, _, errors) = embed(&["--device", "1"]).unwrap();
    assert!(!done && errors.contains("the CPU is one device"), "{errors}");
    let (done, _, errors) = embed(&["--tensorrt-cosine", "0.9"]).unwrap();
    assert!(!done && errors.contains("--tensorrt-fp16"), "{errors}");
}

#[test]
fn inspect_tells_what_can_be_used() {
    let Some(_) = without_gpu() else { return };
    let Some(basis) = digits("bases/ViT-D-8_AE_M4_8task") else { return };
    let told = support::program::json(&["inspect", basis.to_str().unwrap()]);
    let runtime = &told["onnxruntime"];
    assert!(runtime["providers"].as_array().unwrap().iter().any(|name| name == "CPUExecutionProvider"), "{told}");
    assert_eq!(runtime["usable"], serde_json::json!(["cpu"]));
    assert_eq!(runtime["not_usable"], serde_json::json!({}));
    let text = run(&["inspect", basis.to_str().unwrap()]).stdout;
    assert!(String::from_utf8(text).unwrap().contains("providers     cpu\n"));
}

/// The library of `onnxruntime-gpu`.
fn gpu_library() -> Option<PathBuf> {
    let named = std::env::var_os("TASKBASIS_ONNXRUNTIME_GPU").map(PathBuf::from);
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join(".onnxruntime-gpu/libonnxruntime.so");
    let found = named.or_else(|| fetched.is_file().then_some(fetched));
    if found.is_none() {
        skip(Need::Gpu, "there is no ONNX Runtime for GPUs (`scripts/fetch-onnxruntime --gpu` fetches it)");
    }
    found
}

/// Whatever the machine has: CUDA computes what the CPU does, or the error names what is missing.
#[test]
fn a_library_for_gpus_says_what_the_machine_lacks() {
    let Some(library) = gpu_library() else { return };
    let Some(basis) = digits("bases/ViT-D-8_AE_M4_8task") else { return };
    let library = library.to_str().unwrap();
    let told = support::program::json(&["inspect", basis.to_str().unwrap(), "--onnxruntime", library]);
    let runtime = &told["onnxruntime"];
    let usable = |provider: &str| runtime["usable"].as_array().unwrap().iter().any(|name| name == provider);
    assert!(usable("cpu"), "{told}");
    for provider in ["cuda", "tensorrt"] {
        let why = runtime["not_usable"][provider].as_str();
        assert_ne!(usable(provider), why.is_some(), "{told}");
        let (done, told, errors) = embed(&["--provider", provider, "--onnxruntime", library]).unwrap();
        match why {
            Some(why) => {
                println!("{provider}: {why}");
                assert!(!done && errors.contains(why.split(" (").next().unwrap()), "{errors}");
                // One of what `diagnosis` knows: never ONNX Runtime's message alone.
                let known = ["not found: `lib", "driver is older", "no NVIDIA GPU", "no code for", "cannot load its"];
                assert!(known.iter().any(|says| why.contains(says)), "{why}");
            }
            None => assert!(done && told["provider"] == provider, "{errors}"),
        }
    }
    let (done, told, errors) = embed(&["--provider", "auto", "--onnxruntime", library]).unwrap();
    assert!(done, "{errors}");
    assert_eq!(told["provider"], if usable("cuda") { "cuda" } else { "cpu" });
    assert_eq!(errors.matches("note: ").count(), usize::from(!usable("cuda")), "{errors}");
}

/// ONNX Runtime looks for its providers' libraries beside itself, where they may not be.
#[test]
#[cfg(unix)]
fn a_library_without_its_providers_beside_it() {
    let Some(library) = gpu_library() else { return };
    let Some(basis) = digits("bases/ViT-D-8_AE_M4_8task") else { return };
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("libonnxruntime.so");
    std::os::unix::fs::symlink(&library, &link).unwrap();
    let arguments = ["inspect", basis.to_str().unwrap(), "--onnxruntime", link.to_str().unwrap()];
    let told = support::program::json(&arguments);
    let why = told["onnxruntime"]["not_usable"]["cuda"].as_str().unwrap();
    assert!(why.contains("`libonnxruntime_providers_"), "{why}");
    assert!(why.contains("beside libonnxruntime itself"), "{why}");
}
