//! The needs of tests of the machine: where it is missing, the test passes, says so, and is counted; where
//! `TASKBASIS_REQUIRE` names it, the test fails.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::Once;

/// The needs that may be missing, by the names that `TASKBASIS_REQUIRE` lists (`ort,cc,python,nvrtc`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// ONNX Runtime's library.
    Ort,
    /// Compilers of C and C++, make, and the tools around them.
    Cc,
    /// Python with the packages that the test names.
    Python,
    /// Python with PyTorch.
    Torch,
    /// NVIDIA's compiler of kernels.
    Nvrtc,
    /// A build, and a system, that the driver without a GPU stands in on.
    Driver,
    /// A GPU, its driver, and ONNX Runtime for it.
    Gpu,
    /// The whole digits family, which a clone has a part of.
    Digits,
}

impl Need {
    fn name(self) -> &'static str {
        match self {
            Self::Ort => "ort",
            Self::Cc => "cc",
            Self::Python => "python",
            Self::Torch => "torch",
            Self::Nvrtc => "nvrtc",
            Self::Driver => "driver",
            Self::Gpu => "gpu",
            Self::Digits => "digits",
        }
    }

    fn is_required(self) -> bool {
        let required = std::env::var("TASKBASIS_REQUIRE").unwrap_or_default();
        required.split(',').any(|name| name.trim() == self.name())
    }
}

/// The root of the sources: where this package is, or the folder around it.
pub fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().find(|folder| folder.join("tests/support").is_dir()).unwrap_or(package)
}

static SKIPPED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Tells that a test is skipped, and counts it for the line at the end of the program.
///
/// # Panics
/// Where `TASKBASIS_REQUIRE` names what is missing.
#[track_caller]
pub fn skip(need: Need, why: impl Display) {
    assert!(!need.is_required(), "TASKBASIS_REQUIRE names `{}`, and {why}", need.name());
    eprintln!("skipped: {why}");
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    SKIPPED.lock().unwrap().push(format!("{test}: {why}"));
    count_at_the_end();
}

#[cfg(unix)]
fn count_at_the_end() {
    extern "C" fn tell() {
        use std::io::Write;
        let Ok(mut skipped) = SKIPPED.lock() else { return };
        skipped.sort();
        skipped.dedup();
        // Not by a macro: those write into what the test runner keeps of each test.
        let mut out = std::io::stderr().lock();
        let _ = writeln!(out, "skips, for what this machine lacks: {}", skipped.len());
        skipped.iter().for_each(|line| drop(writeln!(out, "  {line}")));
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: `tell` is a function that takes nothing, and touches only statics, which outlive the program.
        unsafe { libc::atexit(tell) };
    });
}

#[cfg(not(unix))]
fn count_at_the_end() {}

/// The path of ONNX Runtime's library, by `ORT_DYLIB_PATH`. `None`, counted as a skip, where nothing was fetched.
///
/// # Panics
/// Where the variable was set by hand and names no file.
#[track_caller]
pub fn onnxruntime() -> Option<PathBuf> {
    let fetched = root().join(".onnxruntime/libonnxruntime.so");
    let named = std::env::var_os("ORT_DYLIB_PATH").map_or_else(|| fetched.clone(), PathBuf::from);
    if named.is_file() {
        return Some(named);
    }
    assert!(named == fetched, "ORT_DYLIB_PATH names {}, and there is no such file", named.display());
    skip(Need::Ort, "there is no ONNX Runtime (`make onnxruntime` fetches it)");
    None
}

/// Whether ONNX Runtime is there: [`onnxruntime`].
#[track_caller]
pub fn runtime() -> bool {
    onnxruntime().is_some()
}

/// The path of a file (or folder) of the digits family: the part of it in `examples/digits`, or the whole in
/// `../shared/digits` where that exists. `None`, counted as a skip, where neither has it.
pub fn digits(relative: &str) -> Option<PathBuf> {
    let found = ["examples/digits", "../shared/digits"].map(|family| root().join(family).join(relative));
    let found = found.into_iter().find(|path| path.exists());
    if found.is_none() {
        skip(Need::Digits, format_args!("{relative} is not part of examples/digits, and there is no ../shared/digits"));
    }
    found
}

/// A file of the digits family, of the whole family before its part, for files that the part abridges. `None`, counted
/// as a skip, where neither has it.
pub fn whole_digits(relative: &str) -> Option<PathBuf> {
    let whole = root().join("../shared/digits").join(relative);
    if whole.exists() { Some(whole) } else { digits(relative) }
}
