//! Retries: what may be tried again, when, and how often.

use std::thread;
use std::time::Duration;

use super::event::{HubEvent, Listener};
use crate::error::Error;

/// A server that asks for more patience than this is not waited for.
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// A request that failed.
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) again: Again,
    /// The server does not know what it was asked for, and does not say so in the Hub's words.
    pub(super) is_unknown: bool,
}

/// Whether a request may be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    Never,
    /// Again after a pause that grows.
    Later,
    /// Again after as long as the server said.
    After(Duration),
}

impl Failure {
    pub(super) fn never(error: Error) -> Self {
        Self { error, again: Again::Never, is_unknown: false }
    }

    pub(super) fn later(error: Error) -> Self {
        Self { error, again: Again::Later, is_unknown: false }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::never(error)
    }
}

/// Counts attempts that came to nothing, and waits between them.
pub(super) struct Retries<'a> {
    most: u32,
    first: Duration,
    made: u32,
    listener: Listener<'a>,
}

impl<'a> Retries<'a> {
    pub(super) fn new(most: u32, first: Duration, listener: Listener<'a>) -> Self {
        Self { most, first, made: 0, listener }
    }

    /// Bytes came: what fails from here on is a new trouble.
    pub(super) fn progressed(&mut self) {
        self.made = 0;
    }

    /// Waits as long as is right after `failure`, or gives up with it.
    pub(super) fn wait(&mut self, failure: Failure) -> Result<(), Failure> {
        let pause = match failure.again {
            Again::Never => return Err(failure),
            Again::After(pause) if pause > MAX_PAUSE => {
                let error = failure.error.hint(format!("The Hub asks to come back in {} seconds", pause.as_secs()));
                return Err(Failure { error, ..failure });
            }
            Again::After(pause) => pause,
            Again::Later => self.first.saturating_mul(1 << self.made.min(16)).min(MAX_PAUSE),
        };
        if self.made >= self.most {
            return Err(failure);
        }
        self.made += 1;
        (self.listener)(HubEvent::Retry { pause, why: &failure.error });
        thread::sleep(pause);
        Ok(())
    }
}
