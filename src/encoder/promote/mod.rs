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

mod queue;
mod spawner;

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

pub use self::queue::PromotionState;
use self::queue::{PromotionJob, PromotionQueue};
use self::spawner::{Spawner, Spawning};
use super::engine::feed::Feed;
use super::engine::promoted::PromotedSession;
use super::memory;
use super::options::Promotion;
use super::pool::Turns;
use super::session::SessionSetup;
use crate::error::{Error, ErrorKind, Result};
use crate::weights::{CacheLease, Derived, Holder, Owner, TaskWeights};

/// The promotions of one encoder.
pub(super) struct Promotions {
    policy: Promotion,
    queue: PromotionQueue,
    shared: Arc<Shared>,
    /// The spawner, which lives as long as a session that uses it, or a job that will.
    spawner: Mutex<Weak<Spawner>>,
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
}

/// The promotion of a task.
struct Job {
    shared: Arc<Shared>,
    task: TaskWeights,
    spawner: Arc<Spawner>,
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
        };
        Self { policy, queue: PromotionQueue::new(), shared: Arc::new(shared), spawner: Mutex::new(Weak::new()) }
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
        // The failure is kept, to be asked for; the runs go on as they did.
        if let Err(error) = self.queue.count(task.key(), runs, || self.job(task)) {
            tracing::warn!(task = task.name(), %error, "not promoted");
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
        self.queue.start(task.key(), || self.job(task))
    }

    /// Waits until the task is promoted, or cannot be.
    pub(super) fn wait(&self, task: &TaskWeights) -> Result<()> {
        self.queue.wait(task.key())
    }

    /// Drops the task's session, also one that is being built, as soon as it is there; it counts from the beginning.
    /// Whether there was one, or would have been.
    pub(super) fn demote(&self, task: &TaskWeights) -> bool {
        let was_building = self.queue.forget(task.key());
        task.model().cache().drop_derived(self.shared.owner, task.key()) || was_building
    }

    pub(super) fn state(&self, task: &TaskWeights) -> PromotionState {
        if self.shared.contains(task) { PromotionState::Promoted } else { self.queue.state(task.key()) }
    }

    fn job(&self, task: &TaskWeights) -> Result<Job> {
        Ok(Job { shared: Arc::clone(&self.shared), task: task.clone(), spawner: self.spawner()? })
    }

    /// The spawner of the sessions that live, or a new one.
    fn spawner(&self) -> Result<Arc<Spawner>> {
        let mut known = self.spawner.lock();
        if let Some(spawner) = known.upgrade() {
            return Ok(spawner);
        }
        let spawner = Arc::new(Spawner::new().map_err(Error::no_thread)?);
        *known = Arc::downgrade(&spawner);
        Ok(spawner)
    }
}

impl Drop for Promotions {
    /// Waits for a session that is being built: what it is built of goes with the encoder.
    fn drop(&mut self) {
        self.queue.finish();
    }
}

impl PromotionJob for Job {
    fn build(&self) -> Result<()> {
        self.shared.build(&self.task, Arc::clone(&self.spawner))
    }

    fn discard(&self) {
        self.task.model().cache().drop_derived(self.shared.owner, self.task.key());
    }

    fn name(&self) -> &str {
        self.task.name()
    }
}

impl Shared {
    fn find(&self, task: &TaskWeights) -> Option<Arc<PromotedSession>> {
        task.model().cache().find_derived(self.owner, task.key())?.downcast().ok()
    }

    fn contains(&self, task: &TaskWeights) -> bool {
        task.model().cache().contains_derived(self.owner, task.key())
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
