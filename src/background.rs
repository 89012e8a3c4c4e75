//! Work in the background: a [`Worker`] does one job after another, on a thread that is there while there are jobs.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::sync::Mutex;
use crate::sync::thread::{Builder, JoinHandle};

/// The priority of a worker's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    /// The priority of the thread which submits the first job.
    Inherited,
    /// A tenth of what other threads get, where they want the processor. On Linux alone: elsewhere priority is a matter
    /// of the whole process.
    Low,
}

/// A job of a worker's that can be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct JobId(u64);

/// A queue of jobs and the thread that does them, first come, first served.
///
/// The thread starts with the first job and ends with the last one. Dropping the worker drops the jobs that have not
/// begun, and leaves the running one to its end.
#[derive(Debug)]
pub(crate) struct Worker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The thread's.
    name: &'static str,
    priority: Priority,
    queue: Mutex<Queue>,
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    waiting: BTreeMap<JobId, Job>,
    submitted: u64,
    /// The thread looks into the queue again before it ends.
    is_served: bool,
    thread: Option<JoinHandle<()>>,
    #[cfg(test)]
    refuses_threads: bool,
}

impl Worker {
    pub(crate) fn new(name: &'static str, priority: Priority) -> Self {
        Self { shared: Arc::new(Shared { name, priority, queue: Mutex::default() }) }
    }

    /// Runs the job once those before it are done. A panic in it is logged, and the jobs after it are done all the
    /// same.
    ///
    /// # Errors
    /// When the operating system gives no thread; the job is dropped then.
    pub(crate) fn submit(&self, job: impl FnOnce() + Send + 'static) -> Result<JobId> {
        let mut queue = self.shared.queue.lock();
        // Started under the lock: the next to submit must not rely on a thread that then does not start.
        if !queue.is_served {
            // The last one has left its loop, and may take its time to end: no caller waits for that.
            queue.thread = Some(self.start(&queue).map_err(Error::no_thread)?);
            queue.is_served = true;
        }
        let id = JobId(queue.submitted);
        queue.submitted += 1;
        queue.waiting.insert(id, Box::new(job));
        Ok(id)
    }

    /// Drops a job that has not begun; whether there was one.
    pub(crate) fn cancel(&self, id: JobId) -> bool {
        let job = self.shared.queue.lock().waiting.remove(&id);
        job.is_some()
    }

    /// Drops the jobs that have not begun, and waits for the one that runs.
    pub(crate) fn finish(&self) {
        self.clear();
        let thread = self.shared.queue.lock().thread.take();
        if let Some(thread) = thread {
            // Its panics have been caught.
            let _ = thread.join();
        }
    }

    fn start(&self, _queue: &Queue) -> std::io::Result<JoinHandle<()>> {
        #[cfg(test)]
        if _queue.refuses_threads {
            return Err(std::io::ErrorKind::WouldBlock.into());
        }
        let shared = Arc::clone(&self.shared);
        Builder::new().name(self.shared.name.into()).spawn(move || shared.work())
    }

    fn clear(&self) {
        let jobs = std::mem::take(&mut self.shared.queue.lock().waiting);
        // With the lock open: what a job holds may submit others when it is dropped.
        drop(jobs);
    }

    /// Whether no thread is at work, nor will be before the next job comes.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        !self.shared.queue.lock().is_served
    }

    /// Makes threads start, or fail to, from now on.
    #[cfg(test)]
    pub(crate) fn refuse_threads(&self, refuses: bool) {
        self.shared.queue.lock().refuses_threads = refuses;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Shared {
    fn work(&self) {
        if self.priority == Priority::Low {
            lower_priority();
        }
        while let Some(job) = self.next() {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
                tracing::error!(thread = self.name, "a job panicked: {}", panic_message(&*panic));
            }
        }
    }

    /// `None` where the thread is to end.
    fn next(&self) -> Option<Job> {
        let mut queue = self.queue.lock();
        let job = queue.waiting.pop_first().map(|(_, job)| job);
        queue.is_served = job.is_some();
        job
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.waiting.len()).field("is_served", &self.is_served).finish()
    }
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "no message",
    }
}

/// Lowers the priority of the calling thread for good.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    {
        const NICE: i32 = 10;
        // `None` is the calling thread. Failing leaves its priority as it is.
        let _ = rustix::process::setpriority_process(None, NICE);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn jobs_are_done_in_turn_by_one_thread_that_ends() {
        let worker = Worker::new("taskbasis-test", Priority::Low);
        let (done, results) = channel();
        for n in 0..64 {
            let done = done.clone();
            worker.submit(move || done.send((n, std::thread::current().id())).unwrap()).unwrap();
        }
        let results: Vec<_> = (0..64).map(|_| results.recv_timeout(PATIENCE).unwrap()).collect();
        assert!(results.iter().zip(0..).all(|((n, thread), expected)| *n == expected && *thread == results[0].1));
        let began = Instant::now();
        while !worker.is_idle() {
            assert!(began.elapsed() < PATIENCE, "the thread never ends");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_job_is_taken_back_before_it_begins_and_not_after() {
        let worker = Worker::new("taskbasis-test", Priority::Inherited);
        let ((tell, told), (begins, begun)) = (channel::<()>(), channel());
        let first = move || {
            begins.send(()).unwrap();
            let _ = told.recv_timeout(PATIENCE);
        };
        let first = worker.submit(first).unwrap();
        begun.recv_timeout(PATIENCE).unwrap();
        let second = worker.submit(|| panic!("it was taken back")).unwrap();
        assert!(worker.cancel(second) && !worker.cancel(second) && !worker.cancel(first));
        let (dropped, is_dropped) = channel::<()>();
        worker.submit(move || dropped.send(()).unwrap()).unwrap();
        drop(worker);
        assert!(is_dropped.recv_timeout(PATIENCE).is_err(), "dropping the worker drops what has not begun");
        drop(tell);
    }

    #[test]
    fn finishing_waits_for_the_job_that_runs() {
        let worker = Worker::new("taskbasis-test", Priority::Inherited);
        let (begins, begun) = channel();
        let has_ended = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&has_ended);
        let slow = move || {
            begins.send(()).unwrap();
            std::thread::sleep(Duration::from_millis(30));
            ends.store(true, Ordering::SeqCst);
        };
        worker.submit(slow).unwrap();
        begun.recv_timeout(PATIENCE).unwrap();
        worker.submit(|| panic!("it was dropped")).unwrap();
        worker.finish();
        assert!(has_ended.load(Ordering::SeqCst) && worker.is_idle());
    }

    #[test]
    fn a_panic_ends_no_thread_and_a_refused_thread_leaves_no_job() {
        let worker = Worker::new("taskbasis-test", Priority::Inherited);
        worker.refuse_threads(true);
        assert!(worker.submit(|| panic!("nothing runs it")).is_err());
        worker.refuse_threads(false);
        let (done, results) = channel();
        worker.submit(|| panic!("as the test wants it")).unwrap();
        worker.submit(move || done.send(()).unwrap()).unwrap();
        results.recv_timeout(PATIENCE).unwrap();
    }
}
