//! The tasks that are counted, wait to be promoted, are being promoted, or cannot be.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use lru::LruCache;

use crate::background::{JobId, Priority, Worker};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::weights::Key;

/// Tasks that are counted. Programs may make up any number of expressions; those that were not run for longest are
/// forgotten, and count from the beginning when they come again.
const MAX_SEEN: usize = 4096;

/// The stage of a task's promotion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromotionState {
    /// Runs with its weights as inputs; this many runs so far.
    Inputs(u32),
    /// A session that is being built, or waits for its turn.
    Building,
    /// Runs in its own session.
    Promoted,
    /// A session that could not be built; the task goes on with its weights as inputs. Asking again tries again.
    Failed(String),
    /// No session, for it would gain nothing: the encoder takes weights packed.
    Unneeded,
}

/// The promotion of a task.
pub(in crate::encoder) trait PromotionJob: Send {
    /// Builds the session, and keeps it where runs find it.
    ///
    /// # Errors
    /// Kept for those who ask.
    fn build(&self) -> Result<()>;

    /// Drops the session that was built: it is wanted no more.
    fn discard(&self);

    /// The task, for messages.
    fn name(&self) -> &str;
}

/// Builds one session after another, on a thread of low priority.
pub(in crate::encoder) struct PromotionQueue {
    worker: Worker,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    table: Mutex<PromotionTable>,
    /// Some session is ready, or has failed, or is wanted no more.
    ended: Condvar,
}

struct PromotionTable {
    /// The tasks that were run last.
    seen: LruCache<Key, Progress>,
    building: HashMap<Key, Build>,
}

impl Default for PromotionTable {
    fn default() -> Self {
        Self { seen: LruCache::unbounded(), building: HashMap::new() }
    }
}

/// The progress of a task whose session is not being built. A promoted one has none.
enum Progress {
    Counting(u32),
    Failed(ErrorKind, String),
}

/// A session that is being built, or waits for its turn.
struct Build {
    job: JobId,
    /// Demoted meanwhile.
    is_unwanted: bool,
}

impl PromotionQueue {
    pub(in crate::encoder) fn new() -> Self {
        Self { worker: Worker::new("taskbasis-promote", Priority::Low), shared: Arc::default() }
    }

    /// Counts a run of a task, and queues the job that `make` makes when there were `runs` of them.
    ///
    /// # Errors
    /// As [`PromotionQueue::start`].
    pub(in crate::encoder) fn count<J: PromotionJob + 'static>(
        &self,
        key: &Key,
        runs: u32,
        make: impl FnOnce() -> Result<J>,
    ) -> Result<()> {
        let mut table = self.shared.table.lock();
        if table.building.contains_key(key) {
            return Ok(());
        }
        let count = match table.seen.get(key) {
            Some(Progress::Failed(..)) => return Ok(()),
            Some(Progress::Counting(count)) => count.saturating_add(1),
            None => 1,
        };
        table.see(key, Progress::Counting(count));
        if count >= runs { self.enqueue(table, key, make) } else { Ok(()) }
    }

    /// Queues the job that `make` makes, unless the task's session is being built or about to be.
    ///
    /// # Errors
    /// Those of `make`, and when the operating system gives no thread. The failure is kept for those who ask.
    pub(in crate::encoder) fn start<J: PromotionJob + 'static>(
        &self,
        key: &Key,
        make: impl FnOnce() -> Result<J>,
    ) -> Result<()> {
        let mut table = self.shared.table.lock();
        match table.building.get_mut(key) {
            Some(build) => {
                build.is_unwanted = false;
                Ok(())
            }
            None => self.enqueue(table, key, make),
        }
    }

    /// Waits until the task's session is no longer being built.
    ///
    /// # Errors
    /// What its building said.
    pub(in crate::encoder) fn wait(&self, key: &Key) -> Result<()> {
        let mut table = self.shared.table.lock();
        while table.building.contains_key(key) {
            self.shared.ended.wait(&mut table);
        }
        match table.seen.peek(key) {
            Some(Progress::Failed(kind, message)) => Err(Error::new(*kind, message.clone())),
            Some(Progress::Counting(_)) | None => Ok(()),
        }
    }

    /// Forgets the task: a session that is being built is discarded as soon as it is there. Whether there was one.
    pub(in crate::encoder) fn forget(&self, key: &Key) -> bool {
        let mut table = self.shared.table.lock();
        table.seen.pop(key);
        let build = table.building.remove(key);
        let was_building = build.is_some();
        if let Some(Build { job, .. }) = build
            && !self.worker.cancel(job)
        {
            table.building.insert(key.clone(), Build { job, is_unwanted: true });
        }
        drop(table);
        self.shared.ended.notify_all();
        was_building
    }

    /// The stage of a task that has no session.
    pub(in crate::encoder) fn state(&self, key: &Key) -> PromotionState {
        let table = self.shared.table.lock();
        if table.building.contains_key(key) {
            return PromotionState::Building;
        }
        match table.seen.peek(key) {
            None => PromotionState::Inputs(0),
            Some(Progress::Counting(runs)) => PromotionState::Inputs(*runs),
            Some(Progress::Failed(_, why)) => PromotionState::Failed(why.clone()),
        }
    }

    /// Drops what has not begun, and waits for the session that is being built.
    pub(in crate::encoder) fn finish(&self) {
        self.worker.finish();
    }

    fn enqueue<J: PromotionJob + 'static>(
        &self,
        mut table: MutexGuard<'_, PromotionTable>,
        key: &Key,
        make: impl FnOnce() -> Result<J>,
    ) -> Result<()> {
        let job = make().and_then(|job| {
            let (shared, key) = (Arc::clone(&self.shared), key.clone());
            self.worker.submit(move || shared.promote(&key, &job))
        });
        match job {
            Ok(job) => {
                table.seen.pop(key);
                table.building.insert(key.clone(), Build { job, is_unwanted: false });
                Ok(())
            }
            Err(error) => {
                table.see(key, Progress::Failed(error.kind(), error.to_string()));
                Err(error)
            }
        }
    }
}

impl Shared {
    /// Builds a session and notes how that went.
    fn promote(&self, key: &Key, job: &impl PromotionJob) {
        let built = catch_unwind(AssertUnwindSafe(|| job.build()))
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "building a session panicked")));
        if let Err(error) = &built {
            tracing::warn!(task = job.name(), %error, "not promoted");
        }
        let mut table = self.table.lock();
        let is_unwanted = table.building.remove(key).is_some_and(|build| build.is_unwanted);
        if let (Err(error), false) = (built, is_unwanted) {
            table.see(key, Progress::Failed(error.kind(), error.to_string()));
        }
        drop(table);
        if is_unwanted {
            job.discard();
        }
        self.ended.notify_all();
    }
}

impl PromotionTable {
    fn see(&mut self, key: &Key, progress: Progress) {
        self.seen.put(key.clone(), progress);
        if self.seen.len() > MAX_SEEN {
            self.seen.pop_lru();
        }
    }
}
