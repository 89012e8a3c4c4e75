//! The events that a pull tells its listener.

use std::time::Duration;

use crate::error::Error;

/// A function that is told of a pull's progress.
pub(super) type Listener<'a> = &'a dyn Fn(HubEvent<'_>);

/// A step of a pull, for those who watch it.
#[derive(Debug)]
#[non_exhaustive]
pub enum HubEvent<'a> {
    /// Bytes that have come, of those that were missing; fewer than before where a download starts anew.
    Progress {
        /// Bytes that are there.
        done: u64,
        /// Bytes that were missing.
        total: u64,
    },
    /// A wait for another process that downloads this file.
    Waiting {
        /// The file, from the repository's root.
        path: &'a str,
    },
    /// A request failed and will be made again.
    Retry {
        /// The pause before the next try.
        pause: Duration,
        /// The error of the failed try.
        why: &'a Error,
    },
    /// A file of the cache that is not what the repository lists, found because [`HubOptions::verify`] asked.
    ///
    /// [`HubOptions::verify`]: super::HubOptions::verify
    Damaged {
        /// The file, from the repository's root.
        path: &'a str,
        /// The hash that is listed.
        expected: &'a str,
        /// The hash that it has, or its length, or why it could not be read.
        got: &'a str,
    },
}
