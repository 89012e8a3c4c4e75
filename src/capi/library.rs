//! The library itself: its version, and what it would compute with.

use std::collections::BTreeSet;
use std::ffi::{CString, c_char};
use std::path::Path;

use parking_lot::Mutex;

use super::error::{tb_error, tb_status};
use super::guard::call;
use super::handle::{self, StructOut, Versioned};
use crate::encoder::{Provider, Runtime};
use crate::error::Result;
use crate::kernel;

/// Properties of the library, from tb_library_info(). All texts stay valid as long as the process lives.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tb_library_properties {
    /// sizeof(tb_library_properties), set by the caller.
    pub struct_size: usize,
    /// The kernel that reconstructs: `scalar`, `avx2`, `avx512`, `neon`.
    pub kernel: *const c_char,
    /// Processors that this process may use: what 0 threads means.
    pub threads: usize,
    /// The file of the ONNX Runtime that is loaded or would be; NULL where none is found.
    pub onnxruntime_path: *const c_char,
    /// The version of ONNX Runtime; NULL where none is found.
    pub onnxruntime_version: *const c_char,
    /// The reason why none is found, with every place that was searched; NULL where one is.
    pub onnxruntime_error: *const c_char,
    /// The execution providers that this ONNX Runtime was built with, comma-separated: `cpu`, or
    /// `cpu,cuda,tensorrt`. Whether the machine has what they need is found out by tb_encoder_create(). NULL where
    /// no ONNX Runtime is found.
    pub providers: *const c_char,
}

// SAFETY: repr(C), the size first, and every field may be zero.
unsafe impl Versioned for tb_library_properties {}

/// The library's version as a number: major*1,000,000 + minor*1,000 + patch. Compare it with TB_VERSION_NUMBER, that of
/// the header: the library's must have the same major (below 1.0: and minor), and be no smaller.
#[unsafe(no_mangle)]
pub extern "C" fn tb_version_number() -> u32 {
    version_number()
}

/// The library's version as a text: `0.1.0`.
#[unsafe(no_mangle)]
pub extern "C" fn tb_version_string() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

pub(super) const fn version_number() -> u32 {
    decimal(env!("CARGO_PKG_VERSION_MAJOR")) * 1_000_000
        + decimal(env!("CARGO_PKG_VERSION_MINOR")) * 1_000
        + decimal(env!("CARGO_PKG_VERSION_PATCH"))
}

const fn decimal(digits: &str) -> u32 {
    let (digits, mut value, mut i) = (digits.as_bytes(), 0, 0);
    while i < digits.len() {
        value = value * 10 + (digits[i] - b'0') as u32;
        i += 1;
    }
    value
}

/// Tells what the library would compute with. Looks for ONNX Runtime as tb_encoder_create() does, without starting it;
/// its absence is no failure of this call.
///
/// @param onnxruntime  the file of ONNX Runtime's library, UTF-8; NULL to search for it
/// @param info         `struct_size` set by the caller; the rest is zero on failure
/// @return TB_OK; TB_ERR_UNSUPPORTED or TB_ERR_INVALID_ARGUMENT where the environment variable TASKBASIS_KERNEL names a
///         kernel that this machine or this version does not have
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_library_info(
    onnxruntime: *const c_char,
    info: *mut tb_library_properties,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = StructOut::new(info, "info")?;
        let path = handle::optional_text(onnxruntime, "onnxruntime")?;
        Runtime::switch_off_telemetry();
        out.set(library_info(path)?);
        Ok(())
    })
}

fn library_info(path: Option<&str>) -> Result<tb_library_properties> {
    let mut providers = std::ptr::null();
    let (mut found, mut version, mut error) = (std::ptr::null(), std::ptr::null(), std::ptr::null());
    match Runtime::probe(path.map(Path::new)) {
        Ok(probe) => {
            found = forever(&probe.path.to_string_lossy());
            version = forever(probe.version.as_str());
            let known: Vec<_> = Provider::known_among(&probe.providers).into_iter().map(Provider::name).collect();
            providers = forever(&known.join(","));
        }
        Err(failure) => error = forever(&failure.to_string()),
    }
    Ok(tb_library_properties {
        struct_size: 0,
        kernel: forever(kernel::active()?.name()),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        onnxruntime_path: found,
        onnxruntime_version: version,
        onnxruntime_error: error,
        providers,
    })
}

/// A C text that is never freed. The same text is kept once, so asking again and again costs no memory.
fn forever(text: &str) -> *const c_char {
    static TEXTS: Mutex<BTreeSet<CString>> = Mutex::new(BTreeSet::new());
    let text = handle::c_text(text);
    let mut texts = TEXTS.lock();
    if !texts.contains(&text) {
        texts.insert(text.clone());
    }
    // A `CString`'s bytes stay where they are when the set moves it about, and it is never taken out again.
    texts.get(&text).map_or(c"".as_ptr(), |kept| kept.as_ptr())
}
