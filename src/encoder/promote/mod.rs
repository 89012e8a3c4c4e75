//! Hot tasks get sessions of their own.
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

use parking_lot::{Condvar, Mutex, MutexGuard};

use self::spawner::{Spawner, Spawning};
use super::engine::feed::Feed;
use super::engine::promoted::PromotedSession;
use super::memory;
use super::options::Promotion;
use super::pool::Turns;
use super::runtime::shutdown::ShutdownGuard;
use super::session::SessionSetup;
use crate::background::{JobId, Priority, Worker};
use crate::error::{Error, ErrorKind, Result};
use crate::weights::{CacheLease, Derived, Holder, Key, Owner, TaskWeights};

/// How far a task has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromotionState {
    /// Runs with its weights as inputs; this many runs so far.
    Inputs(u32),
    /// Its session is being built, or waits for its turn.
    Building,
    /// Runs in its own session.
    Promoted,
    /// Its session could not be built; it goes on with its weights as inputs. Asking again tries again.
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
    state: Mutex<State>,
    /// Some session is ready, or has failed.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    tasks: HashMap<Key, Task>,
    /// Lives as long as a session that uses it, or a job that will.
    spawner: Weak<Spawner>,
}

struct Task {
    progress: Progress,
    /// Demoted while its session is being built.
    is_unwanted: bool,
}

enum Progress {
    Counting(u32),
    Building(JobId),
    /// The cache has it, unless it has been evicted since.
    Built,
    Failed(ErrorKind, String),
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
            state: Mutex::default(),
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
        let progress = &mut state.task(task).progress;
        match progress {
            // Evicted: it starts from the beginning.
            Progress::Built => *progress = Progress::Counting(1),
            Progress::Counting(count) => *count = count.saturating_add(1),
            Progress::Building(_) | Progress::Failed(..) => return,
        }
        if matches!(progress, Progress::Counting(count) if *count >= runs) {
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
        let known = state.task(task);
        match known.progress {
            Progress::Building(_) => {
                known.is_unwanted = false;
                Ok(())
            }
            _ => self.enqueue(state, task),
        }
    }

    /// Waits until the task is promoted, or cannot be.
    pub(super) fn wait(&self, task: &TaskWeights) -> Result<()> {
        let mut state = self.shared.state.lock();
        loop {
            match &state.task(task).progress {
                Progress::Building(_) => {
                    self.shared.ended.wait(&mut state);
                }
                Progress::Built | Progress::Counting(_) => return Ok(()),
                Progress::Failed(kind, message) => return Err(Error::new(*kind, message.clone())),
            }
        }
    }

    /// Drops the task's session, also one that is being built, as soon as it is there; it counts from the beginning.
    /// Whether there was one, or would have been.
    pub(super) fn demote(&self, task: &TaskWeights) -> bool {
        let mut state = self.shared.state.lock();
        let (mut is_queued, mut is_building) = (false, false);
        if let Some(known) = state.tasks.get_mut(task.key()) {
            if let Progress::Building(job) = known.progress {
                is_queued = self.worker.cancel(job);
                is_building = !is_queued;
            }
            known.is_unwanted = is_building;
            if !is_building {
                known.progress = Progress::Counting(0);
            }
        }
        drop(state);
        self.shared.ended.notify_all();
        task.model().cache().drop_derived(self.shared.owner, task.key()) || is_queued || is_building
    }

    pub(super) fn state(&self, task: &TaskWeights) -> PromotionState {
        if self.shared.contains(task) {
            return PromotionState::Promoted;
        }
        match self.shared.state.lock().tasks.get(task.key()).map(|task| &task.progress) {
            None | Some(Progress::Built) => PromotionState::Inputs(0),
            Some(Progress::Counting(runs)) => PromotionState::Inputs(*runs),
            Some(Progress::Building(_)) => PromotionState::Building,
            Some(Progress::Failed(_, why)) => PromotionState::Failed(why.clone()),
        }
    }
}

impl Promotions {
    /// Has the task's session built after those that were wanted before it.
    fn enqueue(&self, mut state: MutexGuard<'_, State>, task: &TaskWeights) -> Result<()> {
        let job = state.spawner().and_then(|spawner| {
            let (shared, task) = (Arc::clone(&self.shared), task.clone());
            self.worker.submit(move || shared.promote(&task, spawner))
        });
        let (progress, result) = match job {
            Ok(job) => (Progress::Building(job), Ok(())),
            Err(error) => (Progress::Failed(error.kind(), error.to_string()), Err(error)),
        };
        state.task(task).progress = progress;
        result
    }
}

impl Drop for Promotions {
    /// Waits for a session that is being built: what it is built of goes with the encoder.
    fn drop(&mut self) {
        self.worker.finish();
    }
}

impl State {
    /// The spawner of the sessions that live, or a new one.
    fn spawner(&mut self) -> Result<Arc<Spawner>> {
        if let Some(spawner) = self.spawner.upgrade() {
            return Ok(spawner);
        }
        let spawner = Arc::new(Spawner::new().map_err(Error::no_thread)?);
        self.spawner = Arc::downgrade(&spawner);
        Ok(spawner)
    }

    fn task(&mut self, task: &TaskWeights) -> &mut Task {
        /// Tasks that are counted. Programs may make up any number of expressions; those that were seen least are
        /// forgotten, and count from the beginning when they come again.
        const MOST: usize = 4096;

        if self.tasks.len() >= MOST && !self.tasks.contains_key(task.key()) {
            let mut counts: Vec<u32> = self.tasks.values().map(|task| task.progress.runs()).collect();
            let (_, median, _) = counts.select_nth_unstable(MOST / 2);
            let median = *median;
            // A caller that waits for a session must find it again, and so must the end of the encoder.
            let stays = |progress: &Progress| matches!(progress, Progress::Building(_) | Progress::Built);
            self.tasks.retain(|_, task| stays(&task.progress) || task.progress.runs() > median);
        }
        let unknown = || Task { progress: Progress::Counting(0), is_unwanted: false };
        self.tasks.entry(task.key().clone()).or_insert_with(unknown)
    }
}

impl Progress {
    /// Runs counted so far; what is more than counting counts as more than any.
    fn runs(&self) -> u32 {
        match self {
            Self::Counting(runs) => *runs,
            Self::Building(_) | Self::Built | Self::Failed(..) => u32::MAX,
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
        let known = state.task(task);
        let is_unwanted = std::mem::take(&mut known.is_unwanted);
        known.progress = match built {
            _ if is_unwanted => Progress::Counting(0),
            Ok(()) => Progress::Built,
            Err(error) => Progress::Failed(error.kind(), error.to_string()),
        };
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
        // Before anything of ONNX Runtime; until the session is kept, or dropped.
        let _at_work = ShutdownGuard::begin()?;
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
