//! Statuses and error objects.

use std::ffi::{CString, c_char};

use super::handle::{c_text, infallible};
use crate::error::{Error, ErrorKind};

/// The outcome of a call. The numbers are stable and never reused; a newer library may return ones that are not
/// listed here.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub enum tb_status {
    /// Done.
    TB_OK = 0,
    /// An argument is NULL, out of its range, or contradicts another.
    TB_ERR_INVALID_ARGUMENT = 1,
    /// A file could not be found, opened, read or written.
    TB_ERR_IO = 2,
    /// A file is not in the format it should be in: truncated, corrupt, or of an unsupported version.
    TB_ERR_FORMAT = 3,
    /// A name is not known: a task, a tensor, a class.
    TB_ERR_NOT_FOUND = 4,
    /// Two valid things do not belong together: a basis and the base of another model, an encoder and other weights.
    TB_ERR_MISMATCH = 5,
    /// Valid, but not something that this build or this method can do.
    TB_ERR_UNSUPPORTED = 6,
    /// A task's vector cannot be recovered from this basis.
    TB_ERR_NOT_RECOVERABLE = 7,
    /// ONNX Runtime, or the driver that a GPU needs, is missing, unusable or too old.
    TB_ERR_RUNTIME_MISSING = 8,
    /// ONNX Runtime or a GPU's driver reported a failure.
    TB_ERR_RUNTIME = 9,
    /// An allocation that the work needs was refused.
    TB_ERR_OUT_OF_MEMORY = 10,
    /// A buffer is too small; the size that is needed has been reported.
    TB_ERR_BUFFER_TOO_SMALL = 11,
    /// The work was called off before it was done. No function returns it yet.
    TB_ERR_CANCELLED = 12,
    /// A defect in taskbasis itself; please report it.
    TB_ERR_INTERNAL = 99,
}

impl From<ErrorKind> for tb_status {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidArgument => Self::TB_ERR_INVALID_ARGUMENT,
            ErrorKind::Io => Self::TB_ERR_IO,
            ErrorKind::Format => Self::TB_ERR_FORMAT,
            ErrorKind::NotFound => Self::TB_ERR_NOT_FOUND,
            ErrorKind::Mismatch => Self::TB_ERR_MISMATCH,
            ErrorKind::Unsupported => Self::TB_ERR_UNSUPPORTED,
            ErrorKind::NotRecoverable => Self::TB_ERR_NOT_RECOVERABLE,
            ErrorKind::RuntimeMissing => Self::TB_ERR_RUNTIME_MISSING,
            ErrorKind::Runtime => Self::TB_ERR_RUNTIME,
            ErrorKind::OutOfMemory => Self::TB_ERR_OUT_OF_MEMORY,
            ErrorKind::BufferTooSmall => Self::TB_ERR_BUFFER_TOO_SMALL,
            ErrorKind::Cancelled => Self::TB_ERR_CANCELLED,
            ErrorKind::Internal => Self::TB_ERR_INTERNAL,
        }
    }
}

/// The full story of a failure. Belongs to the caller, who frees it with tb_error_free().
#[allow(non_camel_case_types)]
pub struct tb_error {
    status: tb_status,
    message: CString,
}

impl tb_error {
    pub(super) fn new(error: Error) -> *mut Self {
        let status = error.kind().into();
        // A path or a name may hold a NUL; the text must not end there.
        let message = c_text(&error.to_string());
        Box::into_raw(Box::new(Self { status, message }))
    }
}

/// The status that the failing call returned. TB_OK for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_error_status(error: *const tb_error) -> tb_status {
    // SAFETY: the caller's promise.
    unsafe { error.as_ref() }.map_or(tb_status::TB_OK, |error| error.status)
}

/// One readable paragraph, UTF-8: which file, which tensor, what was expected, what was there, what to do. It belongs
/// to the error and lives as long. The empty string for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_error_message(error: *const tb_error) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { error.as_ref() }.map_or(c"".as_ptr(), |error| error.message.as_ptr())
}

/// Frees an error. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_error_free(error: *mut tb_error) {
    if !error.is_null() {
        // SAFETY: the caller's promise; `tb_error::new` made it.
        infallible((), || drop(unsafe { Box::from_raw(error) }));
    }
}

/// The stable name of a status: `ok`, `invalid_argument`, ...; `unknown` for a number that this version does not know.
/// Takes an int so that any number may be asked for.
#[unsafe(no_mangle)]
pub extern "C" fn tb_status_name(status: i32) -> *const c_char {
    let name = match status {
        0 => c"ok",
        1 => c"invalid_argument",
        2 => c"io",
        3 => c"format",
        4 => c"not_found",
        5 => c"mismatch",
        6 => c"unsupported",
        7 => c"not_recoverable",
        8 => c"runtime_missing",
        9 => c"runtime",
        10 => c"out_of_memory",
        11 => c"buffer_too_small",
        12 => c"cancelled",
        99 => c"internal",
        _ => c"unknown",
    };
    name.as_ptr()
}
