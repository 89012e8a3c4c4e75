//! The threads of promoted sessions.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

use ort::environment::ThreadManager;

/// Starts threads from a thread of its own, which has the priority that the program's threads have.
///
/// A thread starts with the priority of the one that starts it, and raising it again takes privileges. The
/// thread that builds has a low one; those that will run what it builds must not inherit that.
pub(super) struct Spawner {
    orders: Sender<Order>,
}

type Work = Box<dyn FnOnce() + Send>;
type Order = (Work, Sender<std::io::Result<JoinHandle<()>>>);

impl Spawner {
    /// A spawner whose threads have the priority of the caller's. It ends when it is dropped.
    pub(super) fn new() -> std::io::Result<Self> {
        let (orders, inbox): (_, Receiver<Order>) = channel();
        Builder::new().name("taskbasis-spawn".into()).spawn(move || {
            for (work, reply) in inbox {
                // The thread that ordered it waits, so the reply arrives.
                let _ = reply.send(Builder::new().name("taskbasis-run".into()).spawn(work));
            }
        })?;
        Ok(Self { orders })
    }
}

/// The spawner, as sessions hold it.
pub(super) struct Spawning(pub(super) Arc<Spawner>);

impl ThreadManager for Spawning {
    type Thread = JoinHandle<()>;

    fn create(&self, work: impl FnOnce() + Send + 'static) -> ort::Result<Self::Thread> {
        let (reply, answer) = channel();
        let refused = |e: String| ort::Error::new(format!("cannot start a thread: {e}"));
        self.0.orders.send((Box::new(work), reply)).map_err(|e| refused(e.to_string()))?;
        answer.recv().map_err(|e| refused(e.to_string()))?.map_err(|e| refused(e.to_string()))
    }

    fn join(thread: Self::Thread) -> ort::Result<()> {
        // A panic in it has been reported by then, and nothing can be done about it here.
        let _ = thread.join();
        Ok(())
    }
}
