//! Diagnoses of ONNX Runtime's messages about a provider: what is missing, and what to do.
//!
//! The messages are those of ONNX Runtime 1.31, of the system's loader and of the CUDA runtime; the tests hold real
//! ones.

use std::path::Path;

use super::needs;
use crate::encoder::options::Provider;
use crate::encoder::runtime::Runtime;
use crate::error::{Error, ErrorKind};

/// What was found to be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trouble {
    /// An ONNX Runtime that was built without the provider.
    NotBuiltIn,
    /// The loader does not find a library of this name.
    Library(String),
    /// ONNX Runtime could not load the provider, and its message does not say why.
    Provider,
    /// The driver is older than the CUDA runtime wants.
    DriverTooOld,
    /// A driver that finds no GPU, or cannot use what it finds.
    NoDevice,
    /// A device with a number that there is not.
    NoSuchDevice,
    /// The libraries have no code for this GPU.
    OtherDevice,
    /// The GPU's memory is full.
    OutOfMemory,
}

/// How ONNX Runtime names its libraries of providers.
const LIBRARIES: [(Provider, &str); 2] = [
    (Provider::Cuda, "libonnxruntime_providers_cuda.so"),
    (Provider::TensorRt, "libonnxruntime_providers_tensorrt.so"),
];

/// Numbers of the CUDA runtime's errors (`cudaError_t`), and parts of what it says of them.
const CUDA: [(&[u32], &str, Trouble); 6] = [
    (&[2], "out of memory", Trouble::OutOfMemory),
    (&[35], "driver version is insufficient", Trouble::DriverTooOld),
    // 803: the kernel's part of the driver is of another version than its library; 804: a compatible library, on a GPU
    // that takes none.
    (&[803, 804], "unsupported display driver / cuda driver combination", Trouble::DriverTooOld),
    (&[100, 46, 999], "no CUDA-capable device", Trouble::NoDevice),
    (&[101], "invalid device ordinal", Trouble::NoSuchDevice),
    (&[209], "no kernel image is available", Trouble::OtherDevice),
];

/// What the message is understood to mean.
fn recognise(message: &str) -> Option<Trouble> {
    if message.contains("is not enabled in this build") {
        return Some(Trouble::NotBuiltIn);
    }
    if let Some(name) = missing_library(message) {
        return Some(Trouble::Library(name.to_owned()));
    }
    if message.contains("Invalid device ID") {
        return Some(Trouble::NoSuchDevice);
    }
    // A function of the driver's, all of whose begin like this, which a newer driver has.
    let symbol = message.split_once("undefined symbol: cu").and_then(|(_, rest)| rest.chars().next());
    if symbol.is_some_and(|letter| letter.is_ascii_uppercase()) {
        return Some(Trouble::DriverTooOld);
    }
    // CUDA's provider opens cuDNN itself, late.
    if message.contains("Unable to find symbol cudnn") {
        return Some(Trouble::Library("libcudnn.so.9".to_owned()));
    }
    let number = ["CUDA failure ", "CUDA error "].iter().find_map(|before| {
        let digits = message.split_once(before)?.1;
        digits.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok()
    });
    let of_cuda = CUDA
        .iter()
        .find(|(numbers, says, _)| number.map_or_else(|| message.contains(says), |number| numbers.contains(&number)));
    if let Some((.., trouble)) = of_cuda {
        return Some(trouble.clone());
    }
    let fails_to_load = ["Failed to load shared library", "Failed to load library", "Provider not available"];
    fails_to_load.iter().any(|says| message.contains(says)).then_some(Trouble::Provider)
}

/// The name before the loader's `cannot open shared object file`.
fn missing_library(message: &str) -> Option<&str> {
    let before = message.split_once(": cannot open shared object file")?.0;
    let name = before.rsplit(|c: char| c.is_whitespace() || c == '"' || c == '\'').next()?;
    let name = name.rsplit('/').next()?;
    (!name.is_empty()).then_some(name)
}

/// The error that says what `message` means, where that is understood.
pub(super) fn diagnose(provider: Provider, device: u32, runtime: &Runtime, message: &str) -> Option<Error> {
    let trouble = recognise(message)?;
    if trouble == Trouble::NotBuiltIn {
        return Some(not_built_in(provider, runtime));
    }
    let folder = runtime.path().parent().unwrap_or(Path::new("."));
    // Of all that it needs, for the loader names the first alone.
    let mut missing = match &trouble {
        Trouble::Library(_) | Trouble::Provider => missing(provider, folder),
        _ => Vec::new(),
    };
    if let Trouble::Library(name) = &trouble
        && !missing.contains(name)
    {
        missing.push(name.clone());
    }
    Some(error(provider, device, &trouble, &missing, said(message)))
}

/// A message without the place in ONNX Runtime's source that it came from.
fn said(message: &str) -> &str {
    let start = message.rfind("[ONNXRuntimeError]").and_then(|at| {
        // `[ONNXRuntimeError] : 1 : FAIL : what happened`
        message[at..].match_indices(" : ").nth(2).map(|(behind, between)| at + behind + between.len())
    });
    let message = &message[start.unwrap_or(0)..];
    // Before and after what CUDA says are the option that was looked at, device, host, file and line.
    let message = message.find("CUDA failure ").map_or(message, |at| &message[at..]);
    message.split(" ; GPU=").next().unwrap_or(message).trim()
}

/// The libraries that the provider's own needs and that are not there; or that one, if it is not there itself.
fn missing(provider: Provider, folder: &Path) -> Vec<String> {
    // TensorRT's provider works with CUDA's, for the nodes that TensorRT does not take.
    let wanted = LIBRARIES.iter().filter(|(of, _)| *of == provider || provider == Provider::TensorRt);
    let mut all = Vec::new();
    for (_, name) in wanted {
        let path = folder.join(name);
        let found = if path.is_file() { needs::missing(&path) } else { vec![(*name).to_owned()] };
        found.into_iter().for_each(|name| {
            if !all.contains(&name) {
                all.push(name);
            }
        });
    }
    all
}

/// The error for an ONNX Runtime that does not have the provider.
pub(super) fn not_built_in(provider: Provider, runtime: &Runtime) -> Error {
    lacking(provider, runtime.path(), runtime.version(), runtime.providers())
}

fn lacking(provider: Provider, path: &Path, version: &str, providers: &[String]) -> Error {
    Error::unsupported(format!("this ONNX Runtime ({version}) was built without {}", provider.title()))
        .at(path)
        .expected(provider.onnx_name())
        .got(providers.join(", "))
        .hint(
            "PyPI's package `onnxruntime-gpu` has it: `scripts/fetch-onnxruntime --gpu` fetches its libraries; then name \
             its libonnxruntime with --onnxruntime, ORT_DYLIB_PATH or the encoder's options",
        )
}

fn error(provider: Provider, device: u32, trouble: &Trouble, missing: &[String], message: &str) -> Error {
    let title = provider.title();
    let plain = |kind, what: String| Error::new(kind, what).because(message.to_owned());
    match trouble {
        Trouble::Library(_) | Trouble::Provider => {
            if missing.is_empty() {
                return plain(ErrorKind::Unsupported, format!("{title}: ONNX Runtime cannot load its provider"))
                    .hint("All libraries that it names are there, so one of them may be of another version");
            }
            let quoted: Vec<_> = missing.iter().map(|name| format!("`{name}`")).collect();
            let what = format!("{title}: not found: {}", quoted.join(", "));
            plain(ErrorKind::Unsupported, what).hint(advice(missing))
        }
        Trouble::DriverTooOld => plain(
            ErrorKind::Unsupported,
            format!("{title}: NVIDIA's driver is older than this ONNX Runtime's CUDA, or does not fit its kernel module"),
        )
        .hint("`nvidia-smi` tells the newest CUDA that the driver knows; update it, or take an ONNX Runtime for that CUDA"),
        Trouble::NoDevice => plain(ErrorKind::Unsupported, format!("{title}: no NVIDIA GPU that can be used"))
            .hint("`nvidia-smi` lists those that the driver finds; CUDA_VISIBLE_DEVICES and containers may hide them"),
        Trouble::NoSuchDevice => plain(ErrorKind::InvalidArgument, format!("{title}: there is no device {device}"))
            .hint("`nvidia-smi` lists the devices, counted from 0; CUDA_VISIBLE_DEVICES may hide some"),
        Trouble::OtherDevice => plain(
            ErrorKind::Unsupported,
            format!("{title}: this ONNX Runtime has no code for device {device}, which is of another generation"),
        ),
        Trouble::OutOfMemory => plain(ErrorKind::OutOfMemory, format!("{title}: the memory of device {device} is full")),
        Trouble::NotBuiltIn => plain(ErrorKind::Unsupported, format!("this ONNX Runtime was built without {title}")),
    }
}

/// What to install, and where it is looked for.
fn advice(missing: &[String]) -> String {
    let mut parts: Vec<String> = Vec::new();
    for name in missing {
        let part = match owner_of(name) {
            LibraryOwner::OnnxRuntime => {
                "libraries of `onnxruntime-gpu`, beside libonnxruntime itself (not a link to it)".into()
            }
            LibraryOwner::Driver => "NVIDIA's driver, of the system".into(),
            LibraryOwner::Cuda(Some(major)) => format!("CUDA {major} (the toolkit, or NVIDIA's packages on PyPI)"),
            LibraryOwner::Cuda(None) => "CUDA (the toolkit, or NVIDIA's packages on PyPI)".into(),
            LibraryOwner::CuDnn(major) => format!("cuDNN {major}"),
            LibraryOwner::TensorRt(major) => format!("TensorRT {major}"),
            LibraryOwner::Other => format!("`{name}`"),
        };
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    // CUDA's libraries are of one version, which two of their names tell.
    if parts.iter().any(|part| part.starts_with("CUDA ") && !part.starts_with("CUDA (")) {
        parts.retain(|part| !part.starts_with("CUDA ("));
    }
    let advice = format!("Needed: {}", parts.join("; "));
    if missing.iter().all(|name| matches!(owner_of(name), LibraryOwner::Driver | LibraryOwner::OnnxRuntime)) {
        return advice;
    }
    advice + ". LD_LIBRARY_PATH names folders of libraries that the system does not know"
}

/// Whose a library is, and of which major version.
#[derive(Debug, PartialEq, Eq)]
enum LibraryOwner {
    OnnxRuntime,
    Driver,
    /// The version of CUDA, where the library's is the same.
    Cuda(Option<u32>),
    CuDnn(u32),
    TensorRt(u32),
    Other,
}

fn owner_of(library: &str) -> LibraryOwner {
    let (stem, version) = library.split_once(".so").unwrap_or((library, ""));
    let major = version.trim_start_matches('.').split('.').next().and_then(|major| major.parse().ok());
    match (stem, major) {
        ("libcuda", _) => LibraryOwner::Driver,
        ("libcudart" | "libcublas" | "libcublasLt" | "libnvrtc", major) => LibraryOwner::Cuda(major),
        ("libcurand" | "libcufft", _) => LibraryOwner::Cuda(None),
        (stem, Some(major)) if stem.starts_with("libcudnn") => LibraryOwner::CuDnn(major),
        (stem, Some(major)) if stem.starts_with("libnvinfer") || stem.starts_with("libnvonnxparser") => {
            LibraryOwner::TensorRt(major)
        }
        (stem, _) if stem.starts_with("libonnxruntime") => LibraryOwner::OnnxRuntime,
        _ => LibraryOwner::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // What ONNX Runtime 1.31.1 of the package `onnxruntime-gpu` really said, on a machine without a GPU: without CUDA's
    // libraries; with them, but without a driver; and with a driver that has no GPU, is of CUDA 12, of another version
    // than its kernel module, fails for no reason that it tells, or lacks a function.
    const NOT_BUILT_IN: &str = "CUDA execution provider is not enabled in this build. ";
    const NO_CUBLAS: &str = "/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:2043 onnxruntime::Provider& \
        onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library \
        /opt/ort/libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open shared object file: No such file \
        or directory";
    const NO_DRIVER: &str = "/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:2043 onnxruntime::Provider& \
        onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library \
        /opt/ort/libonnxruntime_providers_cuda.so with error: libcuda.so.1: cannot open shared object file: No such file or \
        directory";
    const NO_TENSORRT: &str = "/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:2043 onnxruntime::Provider& \
        onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library \
        /opt/ort/libonnxruntime_providers_tensorrt.so with error: libnvinfer.so.10: cannot open shared object file: No such \
        file or directory";
    const OLD_DRIVER: &str = "/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:2043 onnxruntime::Provider& \
        onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library \
        /opt/ort/libonnxruntime_providers_cuda.so with error: /opt/ort/libonnxruntime_providers_cuda.so: undefined symbol: \
        cuTensorMapEncodeTiled";

    /// What all messages of the CUDA runtime look like.
    fn of_cuda(what: &str) -> String {
        format!(
            "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_execution_provider_info.cc:63 static \
             onnxruntime::CUDAExecutionProviderInfo onnxruntime::CUDAExecutionProviderInfo::FromProviderOptions(const \
             onnxruntime::ProviderOptions&) [ONNXRuntimeError] : 1 : FAIL : provider_options_utils.h:187 Parse Failed to \
             parse provider option \"device_id\": {what} ; GPU=-1 ; hostname=vm ; \
             file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_execution_provider_info.cc ; line=70 ; \
             expr=cudaGetDeviceCount(&num_devices);"
        )
    }

    #[test]
    fn real_messages_are_understood() {
        let library = |name: &str| Some(Trouble::Library(name.to_owned()));
        for (message, trouble) in [
            (NOT_BUILT_IN.to_owned(), Some(Trouble::NotBuiltIn)),
            (NO_CUBLAS.to_owned(), library("libcublasLt.so.13")),
            (NO_DRIVER.to_owned(), library("libcuda.so.1")),
            (NO_TENSORRT.to_owned(), library("libnvinfer.so.10")),
            (OLD_DRIVER.to_owned(), Some(Trouble::DriverTooOld)),
            (of_cuda("CUDA failure 100: no CUDA-capable device is detected"), Some(Trouble::NoDevice)),
            (of_cuda("CUDA failure 999: unknown error"), Some(Trouble::NoDevice)),
            (
                of_cuda("CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version"),
                Some(Trouble::DriverTooOld),
            ),
            (
                of_cuda("CUDA failure 803: system has unsupported display driver / cuda driver combination"),
                Some(Trouble::DriverTooOld),
            ),
        ] {
            assert_eq!(recognise(&message), trouble, "{message}");
        }
    }

    /// The messages as the sources and libraries have them; they were not seen to be said.
    #[test]
    fn messages_that_only_a_gpu_would_give() {
        let number = "Invalid device ID: 7, must be between 0 (inclusive) and 2 (exclusive).";
        for (message, trouble) in [
            (of_cuda(number), Some(Trouble::NoSuchDevice)),
            (of_cuda("CUDA failure 101: invalid device ordinal"), Some(Trouble::NoSuchDevice)),
            (of_cuda("CUDA failure 2: out of memory"), Some(Trouble::OutOfMemory)),
            (of_cuda("CUDA failure 209: no kernel image is available for execution"), Some(Trouble::OtherDevice)),
            ("CUDA error out of memory".to_owned(), Some(Trouble::OutOfMemory)),
            ("Unable to find symbol cudnnGetVersion".to_owned(), Some(Trouble::Library("libcudnn.so.9".into()))),
            ("Failed to load shared library".to_owned(), Some(Trouble::Provider)),
            // Not of the machine.
            (of_cuda("CUDA failure 700: an illegal memory access was encountered"), None),
            ("Invalid Feed Input Name:stranger".to_owned(), None),
            ("undefined symbol: custom_function".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(recognise(&message), trouble, "{message}");
        }
    }

    #[test]
    fn errors_say_what_is_missing_and_what_to_do() {
        let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let all =
            strings(&["libcublasLt.so.13", "libcurand.so.10", "libcudart.so.13", "libcuda.so.1", "libnvinfer.so.10"]);
        let trouble = recognise(NO_CUBLAS).unwrap();
        let text = error(Provider::TensorRt, 0, &trouble, &all, said(NO_CUBLAS)).to_string();
        assert_eq!(
            text,
            "TensorRT: not found: `libcublasLt.so.13`, `libcurand.so.10`, `libcudart.so.13`, `libcuda.so.1`, \
             `libnvinfer.so.10` (Failed to load library /opt/ort/libonnxruntime_providers_cuda.so with error: \
             libcublasLt.so.13: cannot open shared object file: No such file or directory). Needed: CUDA 13 (the toolkit, or \
             NVIDIA's packages on PyPI); NVIDIA's driver, of the system; TensorRT 10. LD_LIBRARY_PATH names folders of \
             libraries that the system does not know"
        );
        let driver = strings(&["libcuda.so.1"]);
        let text = error(Provider::Cuda, 0, &recognise(NO_DRIVER).unwrap(), &driver, said(NO_DRIVER)).to_string();
        assert!(text.ends_with("Needed: NVIDIA's driver, of the system"), "{text}");

        for (message, kind, says) in [
            (of_cuda("CUDA failure 100: x"), ErrorKind::Unsupported, "no NVIDIA GPU"),
            (of_cuda("CUDA failure 35: x"), ErrorKind::Unsupported, "driver is older"),
            (of_cuda("CUDA failure 101: x"), ErrorKind::InvalidArgument, "no device 3"),
            (of_cuda("CUDA failure 209: x"), ErrorKind::Unsupported, "no code for device 3"),
            (of_cuda("CUDA failure 2: x"), ErrorKind::OutOfMemory, "memory of device 3 is full"),
            ("Failed to load shared library".to_owned(), ErrorKind::Unsupported, "cannot load its provider"),
        ] {
            let error = error(Provider::Cuda, 3, &recognise(&message).unwrap(), &[], said(&message));
            let text = error.to_string();
            assert!(error.kind() == kind && text.contains(says) && text.starts_with("CUDA: "), "{text}");
            // The message itself is there, without its place in ONNX Runtime's sources, and without the host's name.
            assert!(!text.contains("onnxruntime_src") && !text.contains("hostname"), "{text}");
        }
    }

    #[test]
    fn a_build_without_the_provider_names_the_package() {
        let providers = ["CPUExecutionProvider".to_owned()];
        let error = lacking(Provider::TensorRt, Path::new("/opt/libonnxruntime.so"), "1.31.1", &providers);
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let text = error.to_string();
        for part in
            ["/opt/", "1.31.1", "without TensorRT", "onnxruntime-gpu", "fetch-onnxruntime --gpu", "CPUExecution"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn whose_a_library_is() {
        for (name, part) in [
            ("libcuda.so.1", LibraryOwner::Driver),
            ("libcudart.so.12", LibraryOwner::Cuda(Some(12))),
            ("libcublasLt.so.13", LibraryOwner::Cuda(Some(13))),
            ("libcufft.so.12", LibraryOwner::Cuda(None)),
            ("libcudnn_graph.so.9", LibraryOwner::CuDnn(9)),
            ("libnvonnxparser.so.10", LibraryOwner::TensorRt(10)),
            ("libonnxruntime_providers_shared.so", LibraryOwner::OnnxRuntime),
            ("libzstd.so.1", LibraryOwner::Other),
        ] {
            assert_eq!(owner_of(name), part, "{name}");
        }
        let text = advice(&["libonnxruntime_providers_cuda.so".to_owned()]);
        assert!(text.contains("beside libonnxruntime itself") && !text.contains("LD_LIBRARY_PATH"), "{text}");
    }
}
