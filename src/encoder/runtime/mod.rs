//! ONNX Runtime, found and loaded once per process.

// With the feature `linked-onnxruntime` nothing is searched.
#[cfg_attr(feature = "linked-onnxruntime", allow(dead_code))]
pub(super) mod elf;
mod gate;
#[cfg_attr(feature = "linked-onnxruntime", allow(dead_code))]
mod library;
#[cfg_attr(feature = "linked-onnxruntime", allow(dead_code))]
mod search;
pub(super) mod shutdown;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ort::environment::{Environment, EnvironmentBuilder};
use ort::logging::LogLevel;
use parking_lot::Mutex;

use self::library::Usable;
pub use self::library::{MINIMUM_MINOR, Version};
pub use self::search::{Origin, PATH_VARIABLE};
#[cfg(not(feature = "linked-onnxruntime"))]
use self::search::{SearchPlace, Surroundings};
use self::shutdown::ShutdownGuard;
use super::operator;
use super::ort_error::failed;
use crate::error::{Error, ErrorKind, Result};

/// ONNX Runtime, loaded, with the one environment that all sessions share. It stays until the process ends.
#[derive(Debug)]
pub struct Runtime {
    path: PathBuf,
    version: Version,
    origin: Origin,
    providers: Vec<String>,
    environment: Environment,
}

/// The ONNX Runtime that would be used, and why that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The library's file.
    pub path: PathBuf,
    /// The version of ONNX Runtime.
    pub version: Version,
    /// The part of the search that found it.
    pub origin: Origin,
    /// The execution providers that it was built with, as [`Runtime::providers`].
    pub providers: Vec<String>,
}

static LOADED: Mutex<Option<&'static Runtime>> = Mutex::new(None);

impl Runtime {
    /// Loads ONNX Runtime, or gives the one that is loaded already.
    ///
    /// The search goes, in this order, through: `path`; the environment variable `ORT_DYLIB_PATH`; beside the program,
    /// and beside the shared library that holds this code, each also in `../lib`; the system's loader. The first two
    /// are orders: where one does not hold a usable library, nothing else takes its place. Either may be a folder; then
    /// it is the newest usable library in it. After such a failure another path can be tried. With the feature
    /// `linked-onnxruntime` nothing is searched or loaded: it is the one that is linked into the program.
    ///
    /// # Errors
    /// [`ErrorKind::RuntimeMissing`] when no usable library is found, with every place, what was found there, and
    /// what to do; [`ErrorKind::InvalidArgument`] when another file than `path` is loaded already (a process can have
    /// only one); [`ErrorKind::Runtime`] when ONNX Runtime cannot start.
    pub fn load(path: Option<&Path>) -> Result<&'static Self> {
        let mut loaded = LOADED.lock();
        if let Some(runtime) = *loaded {
            return runtime.agrees_with(path).map(|()| runtime);
        }
        // The lock may be waited for; from here on ONNX Runtime is at work.
        let _at_work = ShutdownGuard::for_session()?;
        let (origin, usable) = find(path)?;
        let runtime: &'static Self = Box::leak(Box::new(Self::start(origin, usable)?));
        *loaded = Some(runtime);
        tracing::info!(path = %runtime.path.display(), version = %runtime.version, "ONNX Runtime");
        Ok(runtime)
    }

    /// Sets `ORT_DISABLE_TELEMETRY=1` in the environment, once, unless that variable is there: to be called before ONNX
    /// Runtime is loaded. Builds of 1.31 and later for Linux collect what runs where and send it, from the moment they
    /// are loaded on, and what they start for it lets a forked child hang at its end. Their own switch comes too late.
    ///
    /// The program and the C ABI call this; a Rust program calls it at the start of `main`, or sets the variable.
    ///
    /// # Safety
    /// As for [`std::env::set_var`]: no other thread reads or writes the environment meanwhile, but through
    /// [`mod@std::env`].
    pub unsafe fn switch_off_telemetry() {
        // SAFETY: the caller's promise.
        unsafe { library::switch_off_telemetry() };
    }

    /// Finds the library that [`Runtime::load`] would use, without starting it. (Its code is mapped, and stays so.)
    ///
    /// # Errors
    /// As for [`Runtime::load`], except that nothing is started.
    pub fn probe(path: Option<&Path>) -> Result<Probe> {
        if let Some(runtime) = *LOADED.lock() {
            runtime.agrees_with(path)?;
            let Self { path, version, origin, providers, .. } = runtime;
            return Ok(Probe {
                path: path.clone(),
                version: version.clone(),
                origin: *origin,
                providers: providers.clone(),
            });
        }
        let _at_work = ShutdownGuard::for_session()?;
        let (origin, Usable { path, version, providers, .. }) = find(path)?;
        Ok(Probe { path, version, origin, providers })
    }

    /// The library's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The library's version, as it reports it: `1.31.1`.
    pub fn version(&self) -> &str {
        self.version.as_str()
    }

    /// The part of the search that found the library.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The execution providers that this build of ONNX Runtime has, most preferred first. Having one does not mean
    /// that the machine has its device.
    pub fn providers(&self) -> &[String] {
        &self.providers
    }

    /// Sets how much ONNX Runtime says to `tracing` from now on, in the whole process; at first, warnings and errors.
    /// Its "info" is debug here, its "verbose" trace.
    pub fn set_log_level(&self, level: tracing::Level) {
        // Nothing is said any more in a process that is ending.
        let Ok(_at_work) = ShutdownGuard::for_session() else { return };
        self.environment.set_log_level(match level {
            tracing::Level::ERROR => LogLevel::Error,
            tracing::Level::WARN | tracing::Level::INFO => LogLevel::Warning,
            tracing::Level::DEBUG => LogLevel::Info,
            tracing::Level::TRACE => LogLevel::Verbose,
        });
    }

    pub(in crate::encoder) fn environment(&self) -> &Environment {
        &self.environment
    }

    fn start(origin: Origin, Usable { path, version, api, providers }: Usable) -> Result<Self> {
        let builder = hand_over(&path, api)?;
        let environment = builder
            .with_name("taskbasis")
            .with_telemetry(false)
            // A library must not write to its host's standard error.
            .with_logger(Arc::new(log))
            .build()
            .map_err(failed("cannot start ONNX Runtime"))
            .map_err(|e| e.at(&path))?;
        environment.set_log_level(LogLevel::Warning);
        operator::announce(&environment).map_err(|e| e.at(&path))?;
        Ok(Self { path, version, origin, providers, environment })
    }

    /// Whether a caller who asks for `path` can be given this one.
    fn agrees_with(&self, path: Option<&Path>) -> Result<()> {
        let Some(path) = path else { return Ok(()) };
        let same = match (path.canonicalize(), self.path.canonicalize()) {
            (Ok(asked), Ok(loaded)) => asked == loaded || loaded.parent() == Some(&*asked),
            _ => path == self.path,
        };
        if same {
            return Ok(());
        }
        Err(Error::invalid("another ONNX Runtime is loaded already, and a process can have only one")
            .at(path)
            .got(format_args!("version {} from {}", self.version, self.path.display())))
    }
}

/// Gives `ort` the library that was examined.
#[cfg(not(feature = "linked-onnxruntime"))]
fn hand_over(path: &Path, api: *const ort::sys::OrtApi) -> Result<EnvironmentBuilder> {
    let builder = ort::init_from(path).map_err(|e| {
        // Not reached as long as `ort` asks for no more than `library` has checked.
        Error::new(ErrorKind::RuntimeMissing, "the `ort` crate refuses this ONNX Runtime").at(path).because(e)
    })?;
    // `ort` keeps the first library it was given: the host's, should the host use `ort` too.
    if std::ptr::eq(ort::api(), api) { Ok(builder) } else { Err(used_by_the_host(path)) }
}

/// Gives `ort` a copy of the table of the library that is linked in.
#[cfg(feature = "linked-onnxruntime")]
fn hand_over(path: &Path, api: *const ort::sys::OrtApi) -> Result<EnvironmentBuilder> {
    // SAFETY: the table that the library gave when it was examined: a static of functions, of which copies are as good.
    let copy = unsafe { std::ptr::read(api) };
    if ort::set_api(copy) { Ok(ort::init()) } else { Err(used_by_the_host(path)) }
}

fn used_by_the_host(path: &Path) -> Error {
    Error::invalid("another ONNX Runtime is in use already through the `ort` crate").at(path)
}

/// The library that is linked in. A path that is given names no other.
#[cfg(feature = "linked-onnxruntime")]
fn find(path: Option<&Path>) -> Result<(Origin, Usable)> {
    if let Some(path) = path {
        return Err(Error::invalid("ONNX Runtime is linked into this program, and no other can be loaded").at(path));
    }
    library::examine_linked().map(|usable| (Origin::Linked, usable)).map_err(|unusable| {
        Error::new(ErrorKind::RuntimeMissing, format!("what is linked in as ONNX Runtime is {}", unusable.why))
            .expected(format!("version 1.{MINIMUM_MINOR} or newer"))
    })
}

/// The library that the search ends at.
#[cfg(not(feature = "linked-onnxruntime"))]
fn find(path: Option<&Path>) -> Result<(Origin, Usable)> {
    let around = Surroundings {
        variable: std::env::var_os(PATH_VARIABLE),
        executable: std::env::current_exe().ok(),
        library: library::containing(find as *const ()),
    };
    search::search(&search::places(path, &around), |SearchPlace { origin, target }| match origin {
        Origin::System => library::examine_by_name(target),
        _ => library::examine_file(target),
    })
}

/// Passes ONNX Runtime's messages on to the subscribers of `tracing`.
fn log(level: LogLevel, category: &str, id: &str, place: &str, message: &str) {
    shutdown::in_callback(|| match level {
        LogLevel::Verbose => tracing::trace!(category, id, place, "{message}"),
        LogLevel::Info => tracing::debug!(category, id, place, "{message}"),
        LogLevel::Warning => tracing::warn!(category, id, place, "{message}"),
        LogLevel::Error | LogLevel::Fatal => tracing::error!(category, id, place, "{message}"),
    });
}
