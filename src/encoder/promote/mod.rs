//! Promotion: hot tasks get sessions of their own.
//!
//! Weights as inputs cost ONNX Runtime its prepacking: a matrix that is a constant is laid out once as the kernels like
//! it best, one that is an input is laid out anew in every run. So a task that is run again and again is *promoted*: a
//! session with its weights frozen into it is built in the background and takes over from one run to the next. It lives
//! in the cache of the model's weights, within that budget, and is dropped when it has not been used for longest.
//!
//! That is so on a GPU too, where ONNX Runtime has the weights in the device's memory: no other budget knows of these
//! sessions, and something has to bound their number. What it keeps of the weights in the host's memory is its own
//! affair, and not known.

mod spawner;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use lru::LruCache;
use parking_lot::{Condvar, Mutex, MutexGuard};

use self::spawner::{Spawner, Spawning};
use super::engine::feed::Feed;
use super::engine::promoted::PromotedSession;
use super::memory;
use super::options::Promotion;
use super::pool::Turns;
use super::session::SessionSetup;
use crate::background::{JobId, Priority, Worker};
use crate::error::{Error, ErrorKind, Result};
use crate::weights::{CacheLease, Derived, Holder, Key, Owner, TaskWeights};

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
}

/// The promotions of one encoder.
pub(super) struct Promotions {
    policy: Promotion,
    worker: Worker,
    shared: Arc<Shared>,
}

/// What the building thread needs; it must not keep the encoder alive.
struct Shared {
    owner: Owner,
    /// Takes the sessions out of the caches with it.
    lease: CacheLease,
    feed: Arc<Feed>,
    setup: SessionSetup,
    turns: Arc<Turns>,
    /// The graph with constants without values; made when first needed.
    stub: Mutex<Option<Arc<[u8]>>>,
    state: Mutex<PromotionTable>,
    /// Some session is ready, or has failed.
    ended: Condvar,
}

struct PromotionTable {
    /// The tasks that were run last.
    seen: LruCache<Key, Progress>,
    building: HashMap<Key, Build>,
    /// The spawner, which lives as long as a session that uses it, or a job that will.
    spawner: Weak<Spawner>,
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

impl Promotions {
    pub(super) fn new(policy: Promotion, feed: &Arc<Feed>, setup: &SessionSetup, turns: &Arc<Turns>) -> Self {
        let owner = Owner::new();
        let shared = Shared {
            owner,
            lease: CacheLease::new(Holder::Encoder(owner)),
            feed: Arc::clone(feed),
            setup: setup.clone(),
            turns: Arc::clone(turns),
            stub: Mutex::default(),
            state: Mutex::new(PromotionTable {
                seen: LruCache::unbounded(),
                building: HashMap::new(),
                spawner: Weak::new(),
            }),
            ended: Condvar::new(),
        };
        let worker = Worker::new("taskbasis-promote", Priority::Low);
        Self { policy, worker, shared: Arc::new(shared) }
    }

    pub(super) fn policy(&self) -> Promotion {
        self.policy
    }

    /// The session of a promoted task.
    pub(super) fn find(&self, task: &TaskWeights) -> Option<Arc<PromotedSession>> {
        if self.policy == Promotion::Off {
            return None;
        }
        self.shared.find(task)
    }

    /// Counts a run with weights as inputs, and promotes the task when it has had enough of them.
    pub(super) fn count(&self, task: &TaskWeights) {
        let Promotion::After(runs) = self.policy else { return };
        let mut state = self.shared.state.lock();
        if state.building.contains_key(task.key()) {
            return;
        }
        let count = match state.seen.get(task.key()) {
            Some(Progress::Failed(..)) => return,
            Some(Progress::Counting(count)) => count.saturating_add(1),
            None => 1,
        };
        state.see(task, Progress::Counting(count));
        if count >= runs {
            // The failure is kept, to be asked for; the runs go on as they did.
            if let Err(error) = self.enqueue(state, task) {
                tracing::warn!(task = task.name(), %error, "not promoted");
            }
        }
    }

    /// Starts building in the background, unless the task is promoted or about to be.
    pub(super) fn start(&self, task: &TaskWeights) -> Result<()> {
        if self.policy == Promotion::Off {
            return Err(Error::invalid("promotion is off for this encoder"));
        }
        if self.shared.contains(task) {
            return Ok(());
        }
        let mut state = self.shared.state.lock();
        match state.building.get_mut(task.key()) {
            Some(build) => {
                build.is_unwanted = false;
                Ok(())
            }
            None => self.enqueue(state, task),
        }
    }

    /// Waits until the task is promoted, or cannot be.
    pub(super) fn wait(&self, task: &TaskWeights) -> Result<()> {
        let mut state = self.shared.state.lock();
        while state.building.contains_key(task.key()) {
            self.shared.ended.wait(&mut state);
        }
        match state.seen.peek(task.key()) {
            Some(Progress::Failed(kind, message)) => Err(Error::new(*kind, message.clone())),
            Some(Progress::Counting(_)) | None => Ok(()),
        }
    }

    /// Drops the task's session, also one that is being built, as soon as it is there; it counts from the beginning.
    /// Whether there was one, or would have been.
    pub(super) fn demote(&self, task: &TaskWeights) -> bool {
        let mut state = self.shared.state.lock();
        state.seen.pop(task.key());
        let build = state.building.remove(task.key());
        let was_building = build.is_some();
        if let Some(Build { job, .. }) = build
            && !self.worker.cancel(job)
        {
            state.building.insert(task.key().clone(), Build { job, is_unwanted: true });
        }
        drop(state);
        self.shared.ended.notify_all();
        task.model().cache().drop_derived(self.shared.owner, task.key()) || was_building
    }

    pub(super) fn state(&self, task: &TaskWeights) -> PromotionState {
        if self.shared.contains(task) {
            return PromotionState::Promoted;
        }
        let state = self.shared.state.lock();
        if state.building.contains_key(task.key()) {
            return PromotionState::Building;
        }
        match state.seen.peek(task.key()) {
            None => PromotionState::Inputs(0),
            Some(Progress::Counting(runs)) => PromotionState::Inputs(*runs),
            Some(Progress::Failed(_, why)) => PromotionState::Failed(why.clone()),
        }
    }

    /// Queues the task's session to be built after those that were wanted before it.
    fn enqueue(&self, mut state: MutexGuard<'_, PromotionTable>, task: &TaskWeights) -> Result<()> {
        let job = state.spawner().and_then(|spawner| {
            let (shared, task) = (Arc::clone(&self.shared), task.clone());
            self.worker.submit(move || shared.promote(&task, spawner))
        });
        match job {
            Ok(job) => {
                state.seen.pop(task.key());
                state.building.insert(task.key().clone(), Build { job, is_unwanted: false });
                Ok(())
            }
            Err(error) => {
                state.see(task, Progress::Failed(error.kind(), error.to_string()));
                Err(error)
            }
        }
    }
}

impl Drop for Promotions {
    /// Waits for a session that is being built: what it is built of goes with the encoder.
    fn drop(&mut self) {
        self.worker.finish();
    }
}

impl PromotionTable {
    /// The spawner of the sessions that live, or a new one.
    fn spawner(&mut self) -> Result<Arc<Spawner>> {
        if let Some(spawner) = self.spawner.upgrade() {
            return Ok(spawner);
        }
        let spawner = Arc::new(Spawner::new().map_err(Error::no_thread)?);
        self.spawner = Arc::downgrade(&spawner);
        Ok(spawner)
    }

    fn see(&mut self, task: &TaskWeights, progress: Progress) {
        self.seen.put(task.key().clone(), progress);
        if self.seen.len() > MAX_SEEN {
            self.seen.pop_lru();
        }
    }
}

impl Shared {
    fn find(&self, task: &TaskWeights) -> Option<Arc<PromotedSession>> {
        task.model().cache().find_derived(self.owner, task.key())?.downcast().ok()
    }

    fn contains(&self, task: &TaskWeights) -> bool {
        task.model().cache().contains_derived(self.owner, task.key())
    }

    /// Builds the task's session and says how that went.
    fn promote(&self, task: &TaskWeights, spawner: Arc<Spawner>) {
        let built = catch_unwind(AssertUnwindSafe(|| self.build(task, spawner)))
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "building a session panicked")));
        if let Err(error) = &built {
            tracing::warn!(task = task.name(), %error, "not promoted");
        }
        let mut state = self.state.lock();
        let is_unwanted = state.building.remove(task.key()).is_some_and(|build| build.is_unwanted);
        if let (Err(error), false) = (built, is_unwanted) {
            state.see(task, Progress::Failed(error.kind(), error.to_string()));
        }
        drop(state);
        if is_unwanted {
            task.model().cache().drop_derived(self.owner, task.key());
        }
        self.ended.notify_all();
    }

    fn build(&self, task: &TaskWeights, spawner: Arc<Spawner>) -> Result<()> {
        let cache = task.model().cache();
        let budget = cache.stats().budget;
        let bytes = self.feed.graph.nbytes();
        let no_room = || {
            Error::new(ErrorKind::OutOfMemory, "the cache's budget has no room for a promoted session")
                .expected(format_args!("at least {bytes} bytes"))
                .got(budget)
        };
        if bytes > budget {
            return Err(no_room());
        }
        let weights = task.get()?;
        let stub = self.stub()?;
        let mut converted = None;
        let inputs = self.feed.graph.inputs(&*weights, &mut converted)?;
        let has_halves = self.feed.graph.has_halves;
        let session = self.setup.open_frozen(&stub, has_halves, inputs.into_iter(), Spawning(spawner))?;
        // Before room is made for the session: memory in use cannot be given up.
        drop(weights);
        let session: Derived = Arc::new(PromotedSession::new(session, &self.feed, &self.turns));
        memory::release();
        self.lease.register_cache(cache);
        if cache.keep_derived(self.owner, task.key(), session, bytes) { Ok(()) } else { Err(no_room()) }
    }

    fn stub(&self) -> Result<Arc<[u8]>> {
        let mut stub = self.stub.lock();
        match &*stub {
            Some(stub) => Ok(Arc::clone(stub)),
            None => {
                let made: Arc<[u8]> = self.feed.graph.with_placeholders()?.into();
                *stub = Some(Arc::clone(&made));
                Ok(made)
            }
        }
    }
}
