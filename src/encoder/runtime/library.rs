//! Looking at a library before anything relies on it: is it ONNX Runtime, and of which version?
//!
//! The `ort` crate loads a library too, but panics where it finds none by itself, and names neither the reason nor
//! the place in a way that helps. So a path is handed to it only after it was found good here.

use std::ffi::{CStr, c_char};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Once;

use super::elf;

/// The entry point that makes a library ONNX Runtime.
type GetApiBase = unsafe extern "C" fn() -> *const ort::sys::OrtApiBase;

/// The oldest minor version of ONNX Runtime 1.x that has every function used here.
pub const MINIMUM_MINOR: u32 = ort::MINOR_VERSION;

/// The version of an ONNX Runtime, as it reports it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(String);

impl Version {
    /// `1.31.1`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    #[cfg(test)]
    pub(super) fn for_test(text: &str) -> Self {
        Self(text.into())
    }

    /// Whether it is new enough. A future 2.x may have another interface and is not trusted.
    fn is_supported(&self) -> bool {
        let mut parts = self.0.split('.').map(str::parse::<u32>);
        matches!((parts.next(), parts.next()), (Some(Ok(1)), Some(Ok(minor))) if minor >= MINIMUM_MINOR)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A library that was opened, asked, and found to be an ONNX Runtime that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Usable {
    /// The file, as an absolute path where the system tells it.
    pub(super) path: PathBuf,
    pub(super) version: Version,
    /// The library's table of functions: two libraries never share one. Null only in tests.
    pub(super) api: *const ort::sys::OrtApi,
    /// The execution providers that it was built with, by its names.
    pub(super) providers: Vec<String>,
}

/// Why a place holds no ONNX Runtime that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unusable {
    /// A clause.
    pub(super) why: String,
    /// The loader could not load the file that is there: the rest of the search is not what is wrong.
    pub(super) is_unloadable: bool,
    /// The file cannot be read, so that nothing is known of it.
    pub(super) is_unread: bool,
    /// The file of what was opened, where the system tells it.
    pub(super) path: Option<PathBuf>,
}

impl<T: Into<String>> From<T> for Unusable {
    fn from(why: T) -> Self {
        Self { why: why.into(), is_unloadable: false, is_unread: false, path: None }
    }
}

/// Looks at the file at `path`.
pub(super) fn examine_file(path: &Path) -> Result<Usable, Unusable> {
    let path = std::path::absolute(path).map_err(|e| format!("not a path ({e})"))?;
    match elf::objection(&path) {
        Ok(Some(objection)) => Err(objection.into()),
        Ok(None) => examine(&path),
        Err(why) => Err(Unusable { is_unread: true, ..why.into() }),
    }
}

/// Looks at what the system's loader finds under `name`.
pub(super) fn examine_by_name(name: &Path) -> Result<Usable, Unusable> {
    examine(name)
}

/// Switches off the telemetry, for [`Runtime::switch_off_telemetry`](super::Runtime::switch_off_telemetry).
///
/// # Safety
/// No other thread reads or writes the environment meanwhile, but through [`mod@std::env`].
pub(super) unsafe fn switch_off_telemetry() {
    const VARIABLE: &str = "ORT_DISABLE_TELEMETRY";

    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if std::env::var_os(VARIABLE).is_none() {
            // SAFETY: the caller's promise: no other thread is in the environment now.
            unsafe { std::env::set_var(VARIABLE, "1") };
        }
    });
}

fn examine(target: &Path) -> Result<Usable, Unusable> {
    // SAFETY: opening a library runs its constructors, and nothing can be known of them before. The caller, the
    // environment or the place beside the program vouches for the file; its headers were checked where it is a file.
    let library = unsafe { libloading::Library::new(target) }.map_err(|e| reason(&e, target))?;
    let get_api_base = {
        // SAFETY: a library that exports this name does so with ONNX Runtime's stable signature.
        let symbol = unsafe { library.get::<GetApiBase>(b"OrtGetApiBase\0") };
        *symbol.map_err(|_| "a library, but not ONNX Runtime: it does not export `OrtGetApiBase`".to_string())?
    };
    // An ONNX Runtime stays open for good: unloading a C++ library that size is not safe, whatever is decided on it.
    std::mem::forget(library);
    let path = containing(get_api_base as *const ());
    ask(get_api_base, path.clone().unwrap_or_else(|| target.to_path_buf()))
        .map_err(|why| Unusable { path, ..why.into() })
}

/// Looks at the ONNX Runtime that is linked into this program.
#[cfg(feature = "linked-onnxruntime")]
pub(super) fn examine_linked() -> Result<Usable, Unusable> {
    unsafe extern "C" {
        fn OrtGetApiBase() -> *const ort::sys::OrtApiBase;
    }
    let path = containing(OrtGetApiBase as *const ()).or_else(|| std::env::current_exe().ok()).unwrap_or_default();
    ask(OrtGetApiBase, path).map_err(Unusable::from)
}

/// Asks an open library, which stays open, what it is.
fn ask(get_api_base: GetApiBase, path: PathBuf) -> Result<Usable, String> {
    // SAFETY: the function takes nothing and returns a static; the library is never closed.
    let base = unsafe { get_api_base() };
    if base.is_null() {
        return Err("a library whose `OrtGetApiBase` returns nothing".into());
    }
    // SAFETY: not null (checked above), and a static of a library that is never closed.
    let base = unsafe { &*base };
    // SAFETY: the function takes nothing and returns a static string.
    let text = unsafe { (base.GetVersionString)() };
    if text.is_null() {
        return Err("an ONNX Runtime that reports no version".into());
    }
    // SAFETY: not null (checked above), and NUL-terminated by ONNX Runtime's contract.
    let text = unsafe { CStr::from_ptr(text) };
    let version = Version(text.to_string_lossy().into_owned());
    if !version.is_supported() {
        return Err(format!("version {version}, which is not supported"));
    }
    // SAFETY: any version number may be asked for; the answer is null or a static. `ort` would panic on null.
    let api = unsafe { (base.GetApi)(MINIMUM_MINOR) };
    if api.is_null() {
        return Err(format!("version {version}, which does not offer the interface of 1.{MINIMUM_MINOR}"));
    }
    // SAFETY: not null (checked above), and a static of a library that is never closed.
    let providers = providers(unsafe { &*api });
    Ok(Usable { path, version, api, providers })
}

/// The execution providers that the library was built with, most preferred first. (`ort` can only be asked for one at a
/// time, by its type, once it has a library.)
fn providers(api: &ort::sys::OrtApi) -> Vec<String> {
    let mut names: *mut *mut c_char = std::ptr::null_mut();
    let mut count = 0;
    // SAFETY: both pointers are to locals, which the function fills with an array and its length.
    let status = unsafe { (api.GetAvailableProviders)(&mut names, &mut count) };
    if !status.0.is_null() {
        // It reports want of memory alone.
        // SAFETY: a status that is not null is the caller's to release, once.
        unsafe { (api.ReleaseStatus)(status.0) };
        return Vec::new();
    }
    let providers = (0..usize::try_from(count).unwrap_or(0))
        // SAFETY: the array holds `count` pointers to NUL-terminated strings, until it is released below.
        .map(|i| unsafe { CStr::from_ptr(*names.add(i)) }.to_string_lossy().into_owned())
        .collect();
    // SAFETY: what the function above gave, once, and not used after. Its own status says nothing that could be acted
    // on.
    let _ = unsafe { (api.ReleaseAvailableProviders)(names, count) };
    providers
}

/// The loader's own words, which name the missing file or dependency, without the path that is shown anyway.
fn reason(error: &libloading::Error, target: &Path) -> Unusable {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    let text = cause.unwrap_or_else(|| error.to_string());
    why_not(text.trim_matches('"'), target)
}

fn why_not(text: &str, target: &Path) -> Unusable {
    match text.strip_prefix(&format!("{}: ", target.display())).unwrap_or(text) {
        "cannot open shared object file: No such file or directory" => "not found".into(),
        text => Unusable { is_unloadable: true, ..format!("found, but could not be loaded: {text}").into() },
    }
}

/// The file that the code at `address` was loaded from.
#[cfg(unix)]
pub(super) fn containing(address: *const ()) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;

    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: `dladdr` takes any address and writes to the struct that it is given.
    let found = unsafe { libc::dladdr(address.cast(), info.as_mut_ptr()) };
    // SAFETY: all bytes zero is a valid `Dl_info` (null pointers), and `dladdr` leaves a valid one.
    let info = unsafe { info.assume_init() };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: not null (checked above); the loader's own NUL-terminated string, which lives as long as the library.
    let name = unsafe { CStr::from_ptr(info.dli_fname) }.to_bytes();
    // A program that the shell found has its name alone here, which says nothing of where it lies.
    if !name.contains(&b'/') {
        return None;
    }
    std::path::absolute(std::ffi::OsStr::from_bytes(name)).ok()
}

/// The file that the code at `address` was loaded from; not known on this system.
#[cfg(not(unix))]
pub(super) fn containing(_: *const ()) -> Option<PathBuf> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the loader of glibc says.
    #[test]
    fn a_library_that_is_there_is_not_said_to_be_missing() {
        let target = Path::new("libonnxruntime.so.1");
        let missing = why_not("libonnxruntime.so.1: cannot open shared object file: No such file or directory", target);
        assert_eq!(missing, "not found".into());
        for text in [
            "libonnxruntime.so.1: failed to map segment from shared object",
            "libonnxruntime.so.1: cannot create shared object descriptor: Cannot allocate memory",
            "libgomp.so.1: cannot open shared object file: No such file or directory",
        ] {
            let found = why_not(text, target);
            let said = text.strip_prefix("libonnxruntime.so.1: ").unwrap_or(text);
            assert_eq!(found.why, format!("found, but could not be loaded: {said}"));
            assert!(found.is_unloadable, "{text}");
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        for (version, supported) in [
            ("1.24.0", true),
            ("1.31.1", true),
            ("1.100", true),
            ("1.24.1-dev+abc", true),
            ("1.23.9", false),
            ("1.3.1", false),
            ("2.24.0", false),
            ("0.30.0", false),
            ("1", false),
            ("", false),
            ("one.two", false),
        ] {
            assert_eq!(Version(version.into()).is_supported(), supported, "{version}");
        }
    }
}
