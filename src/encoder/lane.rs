//! A session, and on a device the stream that it runs in: what one run at a time has for itself.

use ort::session::Session;

use super::device::{Device, DeviceLane};
use super::graph::EncoderGraph;
use super::provider::Target;
use super::runtime::Runtime;
use super::session;
use crate::error::Result;

/// What one run at a time has for itself.
pub(super) struct Lane {
    /// Before the stream: dropped first.
    pub(super) session: Session,
    /// Where weights are on a device.
    pub(super) device: Option<DeviceLane>,
}

impl Lane {
    /// A session over the graph without weights.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub(super) fn open(
        runtime: &Runtime,
        signature: &EncoderGraph,
        threads: usize,
        target: &Target,
        device: Option<&Device>,
    ) -> Result<Self> {
        let create = |target: &Target| {
            session::create(runtime, &signature.model, threads, session::level(signature.is_users()), target)
        };
        let Some(device) = device else { return Ok(Self { session: create(target)?, device: None }) };
        let lane = DeviceLane::new(device)?;
        // SAFETY: the stream is kept beside the session, and dropped after it.
        let target = unsafe { target.in_stream(lane.stream().as_raw(), lane.has_graphs()) };
        Ok(Self { session: create(&target)?, device: Some(lane) })
    }
}
