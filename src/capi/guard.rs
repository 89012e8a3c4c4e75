//! The guard around every function of the C ABI: no panic crosses it, and every failure is a status and a message.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::error::{tb_error, tb_status};
use crate::background::panic_message;
use crate::error::{Error, ErrorKind, Result};

/// The body of a function of the C ABI, with what stands around it.
macro_rules! call {
    ($err:ident, $body:expr) => {
        // SAFETY: pointers are what the header demands of C: NULL, or valid for the call and of the types that it
        // declares; handles are this library's and not freed.
        unsafe { $crate::capi::guard::guard($err, || $body) }
    };
}
pub(super) use call;

/// Runs the body of a function. A failure is returned as its status and, where C wants it, as an error object.
///
/// # Safety
/// `err` is NULL or a place that C may have a pointer written to.
pub(super) unsafe fn guard(err: *mut *mut tb_error, body: impl FnOnce() -> Result<()>) -> tb_status {
    if !err.is_null() {
        // SAFETY: the caller's promise.
        unsafe { err.write(std::ptr::null_mut()) };
    }
    // A panic is a defect. Nothing of ours is left half changed by one: outputs are written last.
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return tb_status::TB_OK,
        Ok(Err(error)) => error,
        Err(panic) => Error::new(ErrorKind::Internal, format!("taskbasis panicked: {}", panic_message(&*panic)))
            .hint("This is a defect; please report it"),
    };
    let status = tb_status::from(failure.kind());
    if !err.is_null() {
        // SAFETY: the caller's promise.
        unsafe { err.write(tb_error::new(failure)) };
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_internal_error() {
        let mut err = std::ptr::null_mut();
        // SAFETY: `err` is a place for a pointer.
        let status = unsafe { guard(&raw mut err, || panic!("at the {}", "disco")) };
        assert_eq!(status, tb_status::TB_ERR_INTERNAL);
        // SAFETY: `guard` made it.
        let text = unsafe { std::ffi::CStr::from_ptr(super::super::error::tb_error_message(err)) };
        assert!(text.to_str().unwrap().contains("at the disco"));
        // SAFETY: made by `guard`, used no more.
        unsafe { super::super::error::tb_error_free(err) };
        assert_eq!(super::super::handle::infallible(7, || panic!()), 7);
    }
}
