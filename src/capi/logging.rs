//! Log messages, handed to a function of C's.

use std::ffi::{c_char, c_void};
use std::fmt::{self, Write};
use std::sync::OnceLock;

use parking_lot::RwLock;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::handle::c_text;
use super::handle::infallible;
use crate::error::{Error, Result};
use crate::visible::Visible;

/// Failures.
pub const TB_LOG_ERROR: u32 = 1;
/// Warnings: something is not as it should be.
pub const TB_LOG_WARN: u32 = 2;
/// Choices that were made: a library, a kernel.
pub const TB_LOG_INFO: u32 = 3;
/// Messages for the search of a fault.
pub const TB_LOG_DEBUG: u32 = 4;
/// All messages.
pub const TB_LOG_TRACE: u32 = 5;

/// Receives a message: its level (a TB_LOG_ constant), a text in UTF-8 that is gone when the function returns, and the
/// caller's pointer. May be called from any thread, also from several at once. It must not call taskbasis, and not
/// throw.
pub type tb_log_callback = Option<unsafe extern "C" fn(level: u32, message: *const c_char, user_data: *mut c_void)>;

#[derive(Clone, Copy)]
struct LogTarget {
    callback: unsafe extern "C" fn(u32, *const c_char, *mut c_void),
    user_data: *mut c_void,
    level: u32,
}

// SAFETY: C was told that the callback is called from any thread; the pointer is handed back to it and not used here.
unsafe impl Send for LogTarget {}
// SAFETY: threads share nothing but the values; the callback may be called from any thread, as C was told.
unsafe impl Sync for LogTarget {}

static TARGET: RwLock<Option<LogTarget>> = RwLock::new(None);
static INSTALLED: OnceLock<()> = OnceLock::new();

/// Sets who receives the library's messages and those of ONNX Runtime, for the whole process.
///
/// When this returns, the function that was set before is no longer running and will not be called again, so its
/// `user_data` can be freed. In a Rust program that has a `tracing` subscriber of its own, the messages go there
/// instead.
///
/// @param callback   NULL: none, which is how it begins
/// @param user_data  handed to every call; may be NULL
/// @param level      the most that is handed over: TB_LOG_WARN means errors and warnings
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_log_set_callback(callback: tb_log_callback, user_data: *mut c_void, level: u32) {
    infallible((), || {
        // A subscriber that the host set before stays in charge; remarks then go there.
        INSTALLED.get_or_init(|| drop(tracing::subscriber::set_global_default(ToC)));
        *TARGET.write() = callback.map(|callback| LogTarget { callback, user_data, level });
        tracing::callsite::rebuild_interest_cache();
    });
}

/// Hands events on; spans, of which the library makes none, are let pass.
struct ToC;

impl Subscriber for ToC {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = *TARGET.read();
        target.is_some_and(|target| number(*metadata.level()) <= target.level)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let message = c_text(&Visible(&text.0).to_string());
        let level = number(*event.metadata().level());
        // The lock is held during the call, so that the caller that sets another callback knows when this one is done.
        let target = TARGET.read();
        if let Some(LogTarget { callback, user_data, .. }) = target.filter(|target| level <= target.level) {
            // SAFETY: C's function, with what C was told that it gets.
            unsafe { callback(level, message.as_ptr(), user_data) };
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn number(level: Level) -> u32 {
    match level {
        Level::ERROR => TB_LOG_ERROR,
        Level::WARN => TB_LOG_WARN,
        Level::INFO => TB_LOG_INFO,
        Level::DEBUG => TB_LOG_DEBUG,
        Level::TRACE => TB_LOG_TRACE,
    }
}

/// The level that C means.
pub(super) fn log_level(level: u32) -> Result<Level> {
    match level {
        TB_LOG_ERROR => Ok(Level::ERROR),
        TB_LOG_WARN => Ok(Level::WARN),
        TB_LOG_INFO => Ok(Level::INFO),
        TB_LOG_DEBUG => Ok(Level::DEBUG),
        TB_LOG_TRACE => Ok(Level::TRACE),
        _ => Err(Error::invalid("no such log level").expected("one of TB_LOG_…").got(level)),
    }
}

/// The message, and the other fields after it as `name=value`.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a `String` cannot fail.
        let _ = if field.name() == "message" {
            let rest = std::mem::take(&mut self.0);
            write!(self.0, "{value:?}{rest}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
    }
}
