//! The paths of a command line. Their types say what becomes of them: what is read may be on the Hugging Face Hub, and
//! what is written never takes the place of anything that is read.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use clap::builder::{MapValueParser, PathBufValueParser, TypedValueParser, ValueParserFactory};
use parking_lot::Mutex;
use taskbasis::hub::{Hub, HubOptions, HubPath, Wanted};
use taskbasis::{Error, OutputLock, Result, check_output, lock_output};

use super::hub::Watch;
use super::output;

/// Every path of the command line that is read, in its order.
static INPUTS: Mutex<Vec<InPath>> = Mutex::new(Vec::new());
/// Every path of the command line that is written.
static OUTPUTS: Mutex<Vec<OutPath>> = Mutex::new(Vec::new());
/// Those of them that are files which are replaced whole.
static FILES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
/// The locks on these.
static LOCKS: Mutex<Vec<OutputLock>> = Mutex::new(Vec::new());

/// How clap makes a path of this type of what was given: refusing what is empty, as it refuses every empty path.
type Parser<P> = MapValueParser<PathBufValueParser, fn(PathBuf) -> P>;

/// The path of what is read: one of this machine, or `hf://owner/repo[@revision]/path`, which [`settle`] makes one.
#[derive(Clone, Debug)]
pub struct InPath(Arc<Input>);

#[derive(Debug)]
struct Input {
    given: PathBuf,
    wanted: Wanted,
    /// The local copy of what is on the Hub.
    local: OnceLock<PathBuf>,
}

impl InPath {
    pub fn new(given: impl Into<PathBuf>, wanted: Wanted) -> Self {
        let path = Self(Arc::new(Input { given: given.into(), wanted, local: OnceLock::new() }));
        INPUTS.lock().push(path.clone());
        path
    }

    /// Whether it is on the Hub, whatever has been downloaded.
    pub fn is_address(&self) -> bool {
        HubPath::is_meant(&self.0.given)
    }

    /// Counts a bundle as one that is changed: in its place, or where the command names another file with -o, there.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](taskbasis::ErrorKind::Unsupported), with `hint`, for one of the Hub that would be
    /// changed where it is: in the Hub's cache, whose files all programs share.
    pub fn is_changed(&self, has_output: bool, hint: &'static str) -> Result<()> {
        if !self.is_address() {
            self.is_replaced();
            return Ok(());
        }
        if has_output {
            return Ok(());
        }
        Err(Error::unsupported("nothing can be written to the Hub").at(self).hint(hint))
    }

    /// Counts the file as one that is written: it is to be replaced by what is made of it.
    fn is_replaced(&self) {
        INPUTS.lock().retain(|input| !Arc::ptr_eq(&input.0, &self.0));
        OUTPUTS.lock().push(OutPath(self.0.given.clone()));
        // One that is not there has no better error than that of opening it.
        if self.0.given.is_file() {
            FILES.lock().push(self.0.given.clone());
        }
    }

    /// Whether it stays as it is: [`InPath::is_changed`] was not said of it.
    pub fn is_kept(&self) -> bool {
        INPUTS.lock().iter().any(|input| Arc::ptr_eq(&input.0, &self.0))
    }

    /// Whether what it is of is not known yet.
    pub fn is_unsettled(&self) -> bool {
        self.is_address() && self.0.local.get().is_none()
    }
}

impl Deref for InPath {
    type Target = Path;

    fn deref(&self) -> &Path {
        self.0.local.get().unwrap_or(&self.0.given)
    }
}

impl AsRef<Path> for InPath {
    fn as_ref(&self) -> &Path {
        self
    }
}

impl ValueParserFactory for InPath {
    type Parser = Parser<Self>;

    fn value_parser() -> Parser<Self> {
        PathBufValueParser::new().map(|given| Self::new(given, Wanted::Path))
    }
}

/// The path of a base, which comes from the Hub with the configurations beside it.
#[derive(Clone, Debug)]
pub struct BasePath(InPath);

impl Deref for BasePath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for BasePath {
    fn as_ref(&self) -> &Path {
        self
    }
}

impl ValueParserFactory for BasePath {
    type Parser = Parser<Self>;

    fn value_parser() -> Parser<Self> {
        PathBufValueParser::new().map(|given| Self(InPath::new(given, Wanted::Base)))
    }
}

/// The path of what is written, never one of the Hub's.
#[derive(Clone, Debug)]
pub struct OutPath(PathBuf);

impl Deref for OutPath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for OutPath {
    fn as_ref(&self) -> &Path {
        self
    }
}

impl ValueParserFactory for OutPath {
    type Parser = Parser<Self>;

    fn value_parser() -> Parser<Self> {
        PathBufValueParser::new().map(Self::given)
    }
}

impl OutPath {
    /// One of the command line, noted for [`settle`].
    fn given(path: PathBuf) -> Self {
        let path = Self(path);
        OUTPUTS.lock().push(path.clone());
        path
    }
}

/// The path of a file that is written whole, or replaced: other programs that write it wait for this one, or are waited
/// for.
#[derive(Clone, Debug)]
pub struct OutFile(OutPath);

impl Deref for OutFile {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for OutFile {
    fn as_ref(&self) -> &Path {
        self
    }
}

impl ValueParserFactory for OutFile {
    type Parser = Parser<Self>;

    fn value_parser() -> Parser<Self> {
        PathBufValueParser::new().map(|given| {
            FILES.lock().push(given.clone());
            Self(OutPath::given(given))
        })
    }
}

/// One that is known to be a file only when more is: locked by [`lock_file`].
impl From<OutPath> for OutFile {
    fn from(path: OutPath) -> Self {
        Self(path)
    }
}

/// Checks the files that will be written, before any work, and locks them until [`release`].
fn lock_files() -> Result<()> {
    let mut files = FILES.lock().clone();
    // All programs in one order, that none waits for one that waits for it.
    files.sort();
    files.dedup();
    files.iter().try_for_each(|file| lock_file(file))
}

/// Checks a file that will be written, and locks it until [`release`].
///
/// # Errors
/// As [`check_output`].
pub fn lock_file(file: &Path) -> Result<()> {
    check_output(file, &[])?;
    let waiting = || output::note(&format!("waiting for another program that writes {}", file.display()));
    let lock = lock_output(file, &waiting)?;
    LOCKS.lock().push(lock);
    Ok(())
}

/// Lets others write the files that [`settle`] has locked.
pub fn release() {
    LOCKS.lock().clear();
}

/// Brings what is on the Hub to this machine; whether anything was there. Refuses an output that is on the Hub, or that
/// is one of the files that the command line names to be read, or lies in a folder that it names and is there already.
/// Files that will be written are checked first, and locked until [`release`].
///
/// # Errors
/// As [`Hub::resolve`] and [`check_output`]; [`ErrorKind::Unsupported`](taskbasis::ErrorKind::Unsupported) for what is
/// to be written to the Hub.
pub fn settle() -> Result<bool> {
    if let Some(OutPath(path)) = OUTPUTS.lock().iter().find(|OutPath(path)| HubPath::is_meant(path)) {
        return Err(Error::unsupported("nothing can be written to the Hub").at(path));
    }
    lock_files()?;
    let inputs = INPUTS.lock().clone();
    let mut hub = None;
    for InPath(input) in inputs.iter().filter(|input| input.is_unsettled()) {
        let address: HubPath = input.given.to_string_lossy().parse()?;
        let hub = match &hub {
            Some(hub) => hub,
            None => hub.insert(Hub::new(HubOptions::from_env()?)?),
        };
        let watch = Watch::new();
        let local = hub.resolve(&address, input.wanted, &watch.listener())?;
        watch.finish();
        input.local.get_or_init(|| local);
    }
    protect(inputs.iter().map(|input| &**input))?;
    Ok(hub.is_some())
}

/// Refuses an output that is one of `inputs`: files that the command line does not name, but leads to.
///
/// # Errors
/// As [`check_output`].
pub fn protect<'a>(inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let inputs: Vec<&Path> = inputs.into_iter().collect();
    // What is not there yet overwrites nothing, and a folder is never replaced.
    let outputs = OUTPUTS.lock();
    outputs.iter().filter(|output| output.is_file()).try_for_each(|output| check_output(output, &inputs))
}
