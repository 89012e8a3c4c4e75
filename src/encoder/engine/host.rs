//! All weights of a task in the host's memory, as inputs of the graph.

use std::sync::Arc;

use super::feed::Feed;
use super::{Engine, Images, RunWeights};
use crate::encoder::pool::{Pool, Turns};
use crate::encoder::session::{Session, SessionSetup};
use crate::error::Result;

/// Runs the graph with weights that are read where they lie in the host's memory.
pub(in crate::encoder) struct HostEngine {
    feed: Arc<Feed>,
    setup: SessionSetup,
    sessions: Pool<HostSessions>,
}

/// The sessions of one run at a time.
struct HostSessions {
    /// Over the graph.
    first: Session,
    /// Over the one that takes weights as they are, once there are such.
    unpacked: Option<Session>,
}

impl HostEngine {
    /// An engine with its first session.
    ///
    /// # Errors
    /// As [`SessionSetup::open`].
    pub(in crate::encoder) fn new(feed: &Arc<Feed>, setup: &SessionSetup, turns: &Arc<Turns>) -> Result<Self> {
        let sessions = Pool::new(HostSessions::open(feed, setup)?, Arc::clone(turns));
        Ok(Self { feed: Arc::clone(feed), setup: setup.clone(), sessions })
    }
}

impl HostSessions {
    fn open(feed: &Feed, setup: &SessionSetup) -> Result<Self> {
        Ok(Self { first: open(feed, setup)?, unpacked: None })
    }
}

impl Engine for HostEngine {
    fn run(&self, images: Images<'_>, weights: RunWeights<'_>, out: &mut [f32]) -> Result<()> {
        let graph = &self.feed.graph;
        weights.on_host(|weights| {
            let mut converted = None;
            let inputs = graph.inputs(weights, &mut converted)?;
            let sessions = &mut *self.sessions.lend(|| HostSessions::open(&self.feed, &self.setup))?;
            let session = match (graph.is_unpacked(weights), &mut sessions.unpacked) {
                (false, _) => &sessions.first,
                (true, Some(session)) => session,
                (true, none) => none.insert(self.setup.open(&graph.unpacked_model()?, graph.kind)?),
            };
            self.feed.run(session, &inputs, None, images, out)
        })
    }

    fn nodes(&self) -> Result<Vec<(String, usize)>> {
        self.sessions.lend(|| HostSessions::open(&self.feed, &self.setup))?.first.nodes()
    }

    fn sessions(&self) -> usize {
        self.sessions.made()
    }

    fn trim(&self) {
        self.sessions.trim();
    }
}

/// One run on the CPU, whatever the target of `setup`, in a session that is made for it alone.
///
/// # Errors
/// As [`Engine::run`].
pub(in crate::encoder) fn run_on_cpu(
    feed: &Feed,
    setup: &SessionSetup,
    images: Images<'_>,
    weights: RunWeights<'_>,
    out: &mut [f32],
) -> Result<()> {
    let session = open(feed, &setup.on_cpu())?;
    weights.on_host(|weights| feed.run(&session, &feed.graph.inputs(weights, &mut None)?, None, images, out))
}

fn open(feed: &Feed, setup: &SessionSetup) -> Result<Session> {
    setup.open(&feed.graph.model, feed.graph.kind)
}
