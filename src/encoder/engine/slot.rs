//! A session, and on a device the stream that it runs in: what one run at a time has for itself.

use ort::session::Session;

use super::cuda::{Device, DeviceSlot};
use crate::encoder::provider::target::Target;
use crate::encoder::runtime::Runtime;
use crate::encoder::session;
use crate::encoder::signature::Signature;
use crate::error::Result;

/// What one run at a time has for itself.
pub(in crate::encoder) struct SessionSlot {
    /// Before the stream: dropped first.
    pub(in crate::encoder) session: Session,
    /// Where weights are on a device.
    pub(in crate::encoder) device: Option<DeviceSlot>,
}

impl SessionSlot {
    /// A session over the graph without weights.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub(in crate::encoder) fn open(
        runtime: &Runtime,
        signature: &Signature,
        threads: usize,
        target: &Target,
        device: Option<&Device>,
    ) -> Result<Self> {
        let create = |target: &Target| {
            session::create(runtime, &signature.model, threads, session::level(signature.is_users()), target)
        };
        let Some(device) = device else { return Ok(Self { session: create(target)?, device: None }) };
        let lane = DeviceSlot::new(device)?;
        // SAFETY: the stream is kept beside the session, and dropped after it.
        let target = unsafe { target.in_stream(lane.stream().as_raw(), lane.has_graphs()) };
        Ok(Self { session: create(&target)?, device: Some(lane) })
    }
}
