//! What may be tried again, when, and how often.

use std::thread;
use std::time::Duration;

use super::pull::{HubEvent, Listener};
use crate::error::{Error, Result};

/// A server that asks for more patience than this is not waited for.
const LONGEST: Duration = Duration::from_secs(300);

/// A request that failed.
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) again: Again,
}

/// Whether it may be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    Never,
    /// After a pause that grows.
    Later,
    /// After as long as the server said.
    After(Duration),
}

impl Failure {
    pub(super) fn never(error: Error) -> Self {
        Self { error, again: Again::Never }
    }

    pub(super) fn later(error: Error) -> Self {
        Self { error, again: Again::Later }
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

    /// Waits as long as is right after `failure`, or gives up with its error.
    pub(super) fn wait(&mut self, Failure { error, again }: Failure) -> Result<()> {
        let pause = match again {
            Again::Never => return Err(error),
            Again::After(pause) if pause > LONGEST => {
                return Err(error.hint(format!("The Hub asks to come back in {} seconds", pause.as_secs())));
            }
            Again::After(pause) => pause,
            Again::Later => self.first.saturating_mul(1 << self.made.min(16)).min(LONGEST),
        };
        if self.made >= self.most {
            return Err(error);
        }
        self.made += 1;
        (self.listener)(HubEvent::Retry { pause, why: &error });
        thread::sleep(pause);
        Ok(())
    }
}
