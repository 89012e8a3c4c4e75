//! A session with the weights of one task frozen into it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::feed::Feed;
use super::{Engine, Images, RunWeights};
use crate::encoder::memory::ReleaseAfter;
use crate::encoder::pool::Turns;
use crate::encoder::session::Session;
use crate::error::Result;

/// The session of a promoted task.
pub(in crate::encoder) struct PromotedSession {
    session: Session,
    feed: Arc<Feed>,
    turns: Arc<Turns>,
    /// Half floats have given the CPU's embeddings.
    pub(in crate::encoder) is_precise: AtomicBool,
    /// Dropped after the session.
    _release: ReleaseAfter,
}

impl PromotedSession {
    pub(in crate::encoder) fn new(session: Session, feed: &Arc<Feed>, turns: &Arc<Turns>) -> Self {
        let (feed, turns) = (Arc::clone(feed), Arc::clone(turns));
        Self { session, feed, turns, is_precise: AtomicBool::new(false), _release: ReleaseAfter }
    }
}

impl Engine for PromotedSession {
    /// Runs with the weights that are in the session, which are those of the task that the run is asked for.
    fn run(&self, images: Images<'_>, _: RunWeights<'_>, out: &mut [f32]) -> Result<()> {
        let _turn = self.turns.take();
        self.feed.run(&self.session, &[], None, images, out)
    }

    fn sessions(&self) -> usize {
        1
    }

    fn trim(&self) {}
}
