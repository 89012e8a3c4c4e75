//! The one error type: what kind of failure, in which file, at which tensor or place, what was expected, what was
//! there.

use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::visible::Visible;

/// `std::result::Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of a failure. The numbers are stable: they are the C ABI's `tb_status`, and are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(i32)]
pub enum ErrorKind {
    /// An argument is out of its range or contradicts another (a λ that is not finite, an image without pixels).
    InvalidArgument = 1,
    /// A file could not be found, opened, read or written.
    Io = 2,
    /// A file is not in the format it should be in: truncated, corrupt, hostile, or of an unsupported version.
    Format = 3,
    /// A name is not known: a task, a tensor, a class.
    NotFound = 4,
    /// Two valid things do not belong together: a basis and the base of another model, an encoder and other weights.
    Mismatch = 5,
    /// Valid, but not something this build or this method can do.
    Unsupported = 6,
    /// A task's vector cannot be recovered from this basis.
    NotRecoverable = 7,
    /// ONNX Runtime, or the driver that a GPU needs, is missing, unusable or too old.
    RuntimeMissing = 8,
    /// ONNX Runtime or a GPU's driver reported a failure.
    Runtime = 9,
    /// An allocation that the work needs was refused.
    OutOfMemory = 10,
    /// A buffer is too small; the size that is needed has been reported.
    BufferTooSmall = 11,
    /// The work was called off by its caller; nothing is wrong.
    Cancelled = 12,
    /// A defect in taskbasis itself; please report it.
    Internal = 99,
}

impl ErrorKind {
    /// The stable name, as the C ABI and `--json` spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::Io => "io",
            Self::Format => "format",
            Self::NotFound => "not_found",
            Self::Mismatch => "mismatch",
            Self::Unsupported => "unsupported",
            Self::NotRecoverable => "not_recoverable",
            Self::RuntimeMissing => "runtime_missing",
            Self::Runtime => "runtime",
            Self::OutOfMemory => "out_of_memory",
            Self::BufferTooSmall => "buffer_too_small",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }
}

/// A failure, with everything that is known of its place.
///
/// Reads as one paragraph: `FILE: tensor `NAME`: what went wrong: expected X, got Y. What to do.`
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    path: Option<PathBuf>,
    tensor: Option<String>,
    expected: Option<String>,
    got: Option<String>,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A failure of `kind`; `message` is a clause without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            path: None,
            tensor: None,
            expected: None,
            got: None,
            hint: None,
            source: None,
        }))
    }

    /// An error of the kind [`ErrorKind::InvalidArgument`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// An error of the kind [`ErrorKind::Format`].
    pub fn format(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Format, message)
    }

    /// An error of the kind [`ErrorKind::Mismatch`].
    pub fn mismatch(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Mismatch, message)
    }

    /// An error of the kind [`ErrorKind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// An error of the kind [`ErrorKind::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// An error of the kind [`ErrorKind::OutOfMemory`] for an allocation of `bytes` bytes.
    pub fn out_of_memory(bytes: usize) -> Self {
        Self::new(ErrorKind::OutOfMemory, format!("cannot allocate {bytes} bytes"))
    }

    /// An error of the kind [`ErrorKind::OutOfMemory`] for a thread that the operating system refuses.
    pub fn no_thread(source: std::io::Error) -> Self {
        Self::new(ErrorKind::OutOfMemory, "cannot start a thread").because(source)
    }

    /// An error of the kind [`ErrorKind::Io`] from an operating system error; `doing` is a clause such as `cannot
    /// open`.
    pub fn io(doing: impl Into<String>, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::new(ErrorKind::Io, doing).at(path).because(source)
    }

    /// Names the file, unless a file is named already (the innermost place is the most exact one).
    #[must_use]
    pub fn at(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path.get_or_insert_with(|| path.as_ref().to_path_buf());
        self
    }

    /// Names the tensor, unless one is named already.
    #[must_use]
    pub fn tensor(mut self, name: impl Into<String>) -> Self {
        self.0.tensor.get_or_insert_with(|| name.into());
        self
    }

    /// The error without file and tensor, which are then named later.
    #[must_use]
    pub(crate) fn without_place(mut self) -> Self {
        (self.0.path, self.0.tensor) = (None, None);
        self
    }

    /// Names `path` where the error names `partial`, which stood for it, or a file in that.
    #[must_use]
    pub fn about(mut self, partial: &Path, path: &Path) -> Self {
        match &mut self.0.path {
            Some(named) if named.starts_with(partial) => path.clone_into(named),
            _ => {}
        }
        self
    }

    /// Says which element of a list it is about, before the message: `images[17]: …`.
    #[must_use]
    pub(crate) fn in_element(mut self, list: &str, index: usize) -> Self {
        self.0.message = format!("{list}[{index}]: {}", self.0.message);
        self
    }

    /// Says what was wanted; shown as `expected …`.
    #[must_use]
    pub fn expected(mut self, what: impl fmt::Display) -> Self {
        self.0.expected = Some(what.to_string());
        self
    }

    /// Says what was there; shown as `got …`.
    #[must_use]
    pub fn got(mut self, what: impl fmt::Display) -> Self {
        self.0.got = Some(what.to_string());
        self
    }

    /// Says what to do about it, as a sentence without its full stop.
    #[must_use]
    pub fn hint(mut self, what: impl Into<String>) -> Self {
        self.0.hint = Some(what.into());
        self
    }

    /// Says what to do about it, unless that is said already.
    #[must_use]
    pub fn or_hint(mut self, what: impl Into<String>) -> Self {
        self.0.hint.get_or_insert_with(|| what.into());
        self
    }

    /// Says what else to do about it, after what is said already.
    #[must_use]
    pub fn also_hint(mut self, what: &str) -> Self {
        self.0.hint = Some(match self.0.hint.take() {
            Some(hint) if hint.ends_with('?') => format!("{hint} {what}"),
            Some(hint) => format!("{hint}. {what}"),
            None => what.to_owned(),
        });
        self
    }

    /// Adds the error underneath.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What went wrong, without the file that it is about and without the hint: for those who show these apart, or
    /// must not show where files lie.
    pub fn message(&self) -> String {
        let Inner { message, tensor, expected, got, source, .. } = &*self.0;
        Visible(What { message, tensor, expected, got, source }).to_string()
    }

    /// What to do about it, where that is known.
    pub fn hint_text(&self) -> Option<String> {
        self.0.hint.as_ref().map(|hint| Visible(hint).to_string())
    }

    /// The file that the failure is about, where one is.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The tensor that the failure is about, where one is.
    pub fn tensor_name(&self) -> Option<&str> {
        self.0.tensor.as_deref()
    }
}

impl fmt::Display for Error {
    /// Names of files and tensors, and what else comes from files, cannot act on a terminal: see [`Visible`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Visible(&*self.0))
    }
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { message, path, tensor, expected, got, hint, source, .. } = self;
        if let Some(path) = path {
            write!(f, "{}: ", path.display())?;
        }
        write!(f, "{}", What { message, tensor, expected, got, source })?;
        if let Some(hint) = hint {
            write!(f, ". {hint}")?;
        }
        Ok(())
    }
}

/// The part of an error between the file and the hint.
struct What<'a> {
    message: &'a String,
    tensor: &'a Option<String>,
    expected: &'a Option<String>,
    got: &'a Option<String>,
    source: &'a Option<Box<dyn StdError + Send + Sync>>,
}

impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { message, tensor, expected, got, source } = self;
        if let Some(tensor) = tensor {
            write!(f, "tensor `{tensor}`: ")?;
        }
        f.write_str(message)?;
        match (expected, got) {
            (Some(expected), Some(got)) => write!(f, ": expected {expected}, got {got}")?,
            (Some(expected), None) => write!(f, ": expected {expected}")?,
            (None, Some(got)) => write!(f, ": got {got}")?,
            (None, None) => {}
        }
        match source {
            Some(source) => write!(f, " ({source})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {self}", self.0.kind.name())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_one_paragraph() {
        let error = Error::mismatch("shape differs from the base's")
            .at("a/basis_vectors.pt")
            .tensor("visual.proj")
            .expected("[768, 512]")
            .got("[1024, 768]")
            .hint("Is this the base of another model?");
        assert_eq!(
            error.to_string(),
            "a/basis_vectors.pt: tensor `visual.proj`: shape differs from the base's: \
             expected [768, 512], got [1024, 768]. Is this the base of another model?"
        );
        assert_eq!(
            error.message(),
            "tensor `visual.proj`: shape differs from the base's: expected [768, 512], got [1024, 768]"
        );
        assert_eq!(error.hint_text().as_deref(), Some("Is this the base of another model?"));
    }

    #[test]
    fn no_name_acts_on_a_terminal() {
        let error = Error::not_found("no task `\x1b]0;owned\x07`").at("a\nb").tensor("c\u{202e}d").because("x\u{9b}y");
        let shown = error.to_string();
        assert_eq!(shown, r"a\nb: tensor `c\u{202e}d`: no task `\u{1b}]0;owned\u{7}` (x\u{9b}y)");
        assert!(!format!("{error:?}").contains('\x1b'));
    }

    #[test]
    fn the_innermost_place_stays() {
        let error = Error::format("truncated").at("inner").at("outer").tensor("a").tensor("b");
        assert_eq!(error.path(), Some(Path::new("inner")));
        assert_eq!(error.tensor_name(), Some("a"));
    }
}
