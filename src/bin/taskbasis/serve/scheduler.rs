//! From admission to answer: what is asked for is counted, waits, is run with others of its task, and is answered.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use taskbasis::{Choice, Error, Result, Route, Routed};
use tokio::sync::oneshot;

use super::failure::Failure;
use super::metrics::Metrics;
use super::model::{Asked, Served};
use super::queue::{Next, Part, Queue, Waiting};

/// What the scheduler is told once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Images in a run.
    pub batch: usize,
    /// How long a request waits for others of its task.
    pub wait: Duration,
    /// Images that may be asked for and not answered yet.
    pub queue: usize,
}

/// What runs have found for a request.
#[derive(Debug, Default)]
pub struct Answer {
    /// f32 `[n, e]`.
    pub embeds: Vec<f32>,
    /// Per image what the router chose; empty where it was not asked.
    pub routes: Vec<(Route, Choice)>,
    pub queue: Duration,
    pub weights: Duration,
    pub run: Duration,
    /// Whether every run found its weights ready.
    pub is_cached: bool,
}

/// A request in the queue or in a run.
struct Request {
    weights: Arc<Asked>,
    /// f32 `[n, 3, S, S]`.
    pixels: Vec<f32>,
    n: usize,
    since: Instant,
    deadline: Instant,
    progress: Mutex<Progress>,
}

struct Progress {
    answer: Answer,
    has_begun: bool,
    /// Images that no run has given an embedding for.
    left: usize,
    reply: Option<oneshot::Sender<Result<Answer, Failure>>>,
    admission: Option<Admission>,
}

impl Waiting for Request {
    fn images(&self) -> usize {
        self.n
    }

    fn since(&self) -> Instant {
        self.since
    }

    fn is_over(&self, now: Instant) -> bool {
        self.deadline <= now || self.progress.lock().reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

impl Request {
    fn reply(&self, answer: Result<Answer, Failure>) {
        // Taken out first: the lock is not held while others are taken or the client's task is woken.
        let (reply, admission) = {
            let mut progress = self.progress.lock();
            (progress.reply.take(), progress.admission.take())
        };
        // A client that has its answer finds room for its next request.
        drop(admission);
        if let Some(reply) = reply {
            // A client that has gone away is no one's error.
            let _ = reply.send(answer);
        }
    }
}

/// Images that count against the bound, until it is dropped.
pub struct Admission {
    scheduler: Arc<Scheduler>,
    images: usize,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.scheduler.state.lock().admitted -= self.images;
        self.scheduler.metrics.waiting.dec_by(self.images as i64);
    }
}

struct State {
    queue: Queue<Request>,
    admitted: usize,
    /// No request waits for others any more.
    is_hurried: bool,
    /// Once nothing is left the workers end.
    is_closing: bool,
}

/// The queue and its workers.
pub struct Scheduler {
    served: Arc<Served>,
    metrics: Arc<Metrics>,
    limits: Limits,
    state: Mutex<State>,
    changed: Condvar,
    /// Microseconds that an image took of late, for clients that ask when to come back.
    per_image: AtomicU64,
}

impl Scheduler {
    pub fn new(served: Arc<Served>, metrics: Arc<Metrics>, limits: Limits) -> Arc<Self> {
        let queue = Queue::new(limits.batch, limits.wait);
        let state = Mutex::new(State { queue, admitted: 0, is_hurried: false, is_closing: false });
        Arc::new(Self { served, metrics, limits, state, changed: Condvar::new(), per_image: AtomicU64::new(0) })
    }

    /// Starts `workers` threads, which run until [`Scheduler::close`].
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(self: &Arc<Self>, workers: usize) -> Result<Vec<JoinHandle<()>>> {
        let worker = |_| {
            let scheduler = Arc::clone(self);
            let builder = std::thread::Builder::new().name("taskbasis-serve".into());
            builder.spawn(move || scheduler.work()).map_err(Error::no_thread)
        };
        (0..workers).map(worker).collect()
    }

    /// Counts `images` in, before any work is done for them.
    ///
    /// # Errors
    /// 413 for more than may ever wait; 429 where there is no room for them now.
    pub fn admit(self: &Arc<Self>, images: usize) -> Result<Admission, Failure> {
        let most = self.limits.queue;
        if images > most {
            return Err(Failure::too_large(format!("too many images in a request: at most {most}, got {images}"))
                .hint("Send them in several requests, or start the server with a larger --queue"));
        }
        let mut state = self.state.lock();
        if images > most - state.admitted {
            let waiting = state.admitted as u64;
            drop(state);
            self.metrics.dropped("full");
            let seconds = (waiting * self.per_image.load(Ordering::Relaxed)).div_ceil(1_000_000).clamp(1, 60);
            let message = format!("the queue is full: {waiting} of {most} images wait");
            return Err(Failure::new(axum::http::StatusCode::TOO_MANY_REQUESTS, "queue_full", message).retry(seconds));
        }
        state.admitted += images;
        self.metrics.waiting.inc_by(images as i64);
        drop(state);
        Ok(Admission { scheduler: Arc::clone(self), images })
    }

    /// Has `n` images run with these weights. Where the caller stops waiting, what has not begun never does.
    ///
    /// # Errors
    /// Those of the run; 504 after the deadline.
    pub async fn run(
        self: &Arc<Self>,
        admission: Admission,
        weights: Arc<Asked>,
        pixels: Vec<f32>,
        n: usize,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let (reply, answer) = oneshot::channel();
        let mut empty = Answer { is_cached: true, ..Answer::default() };
        empty.embeds = vec![0.0; n * self.served.encoder.arch().embed_dim];
        let (reply, admission) = (Some(reply), Some(admission));
        let progress = Progress { answer: empty, has_begun: false, left: n, reply, admission };
        let request =
            Arc::new(Request { weights, pixels, n, since: Instant::now(), deadline, progress: Mutex::new(progress) });
        let task: Arc<str> = request.weights.name().into();
        let waiter = Waiter { scheduler: self, task: Arc::clone(&task), request: Arc::clone(&request) };
        self.state.lock().queue.push(&task, request);
        self.changed.notify_one();
        let answer = tokio::time::timeout_at(deadline.into(), answer).await;
        drop(waiter);
        match answer {
            Ok(answer) => answer.unwrap_or_else(|_| Err(Failure::internal("a request was forgotten"))),
            Err(_) => Err(Failure::deadline()),
        }
    }

    /// From now on runs what there is, without waiting for more.
    pub fn hurry(&self) {
        self.state.lock().is_hurried = true;
        self.changed.notify_all();
    }

    /// Ends the workers, after what is left.
    pub fn close(&self) {
        self.state.lock().is_closing = true;
        self.changed.notify_all();
    }

    fn work(&self) {
        while let Some(parts) = self.next() {
            let run = catch_unwind(AssertUnwindSafe(|| self.run_parts(&parts)));
            let failure = match run {
                Ok(Ok(())) => continue,
                Ok(Err(failure)) => failure,
                Err(_) => Failure::internal("a defect in taskbasis, please report it"),
            };
            parts.iter().for_each(|part| part.request.reply(Err(failure.clone())));
        }
    }

    fn next(&self) -> Option<Vec<Part<Request>>> {
        let mut state = self.state.lock();
        loop {
            let (is_hurried, is_closing) = (state.is_hurried, state.is_closing);
            match state.queue.next(Instant::now(), is_hurried || is_closing) {
                Next::Run(parts) => return Some(parts),
                Next::Wait(until) => drop(self.changed.wait_until(&mut state, until)),
                Next::Nothing if is_closing => return None,
                Next::Nothing => self.changed.wait(&mut state),
            }
        }
    }

    /// One run of images of one task.
    fn run_parts(&self, parts: &[Part<Request>]) -> Result<(), Failure> {
        let (encoder, began) = (&self.served.encoder, Instant::now());
        let Some(Part { request, .. }) = parts.first() else { return Ok(()) };
        let n: usize = parts.iter().map(|part| part.count).sum();
        let gathered;
        let pixels = match parts {
            [part] if part.count == part.request.n => &part.request.pixels,
            parts => {
                gathered = gather(parts, encoder.arch().pixels());
                &gathered
            }
        };
        let (embeds, routes, is_cached, ready) = match &*request.weights {
            Asked::Task(task) => {
                let is_cached = encoder.is_prepared(task);
                // Held until the run: a cache without room for them would have them reconstructed twice.
                let _held = if self.served.is_on_host() {
                    Some(task.in_layout(encoder.layout()).get()?)
                } else {
                    encoder.prepare(task)?;
                    None
                };
                let ready = Instant::now();
                (encoder.encode_task(task, pixels, n)?, Vec::new(), is_cached, ready)
            }
            Asked::Auto => {
                let routing = self.served.routing.as_ref().ok_or_else(|| Failure::internal("the router is gone"))?;
                let is_cached = encoder.is_prepared(routing.features());
                let Routed { embeds, routes, choices } = routing.encode(encoder, pixels, n)?;
                (embeds, routes.into_iter().zip(choices).collect(), is_cached, began)
            }
        };
        let (weights, run) = (ready - began, ready.elapsed());
        self.note(n, weights, run);
        let width = encoder.arch().embed_dim;
        let mut at = 0;
        for part in parts {
            let found = at..at + part.count;
            at += part.count;
            let mut progress = part.request.progress.lock();
            let Progress { answer, has_begun, left, .. } = &mut *progress;
            if !std::mem::replace(has_begun, true) {
                answer.queue = began - part.request.since;
                self.metrics.queue.observe(answer.queue.as_secs_f64());
            }
            let into = part.first * width..(part.first + part.count) * width;
            answer.embeds[into].copy_from_slice(&embeds[found.start * width..found.end * width]);
            // The parts of a request are run in their order, or, by several workers, in any.
            if !routes.is_empty() {
                answer.routes.resize(part.request.n, routes[found.start]);
                answer.routes[part.first..part.first + part.count].copy_from_slice(&routes[found]);
            }
            answer.weights += weights;
            answer.run += run;
            answer.is_cached &= is_cached;
            *left -= part.count;
            let done = (*left == 0).then(|| std::mem::take(answer));
            drop(progress);
            if let Some(answer) = done {
                part.request.reply(Ok(answer));
            }
        }
        Ok(())
    }

    fn note(&self, n: usize, weights: Duration, run: Duration) {
        self.metrics.images.inc_by(n as u64);
        self.metrics.batch.observe(n as f64);
        self.metrics.weights.observe(weights.as_secs_f64());
        self.metrics.run.observe(run.as_secs_f64());
        let now = ((weights + run).as_micros() / n.max(1) as u128) as u64;
        let before = self.per_image.load(Ordering::Relaxed);
        let smooth = if before == 0 { now } else { (7 * before + now) / 8 };
        self.per_image.store(smooth, Ordering::Relaxed);
    }
}

/// The images of several requests, one after the other.
fn gather(parts: &[Part<Request>], image: usize) -> Vec<f32> {
    let n: usize = parts.iter().map(|part| part.count).sum();
    let mut pixels = Vec::with_capacity(n * image);
    for part in parts {
        pixels.extend_from_slice(&part.request.pixels[part.first * image..][..part.count * image]);
    }
    pixels
}

/// A client that waits; what it asked for leaves the queue with it.
struct Waiter<'a> {
    scheduler: &'a Scheduler,
    task: Arc<str>,
    request: Arc<Request>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let is_open = self.request.progress.lock().reply.take().is_some();
        // In any case, as one part of it may have failed before the next has begun. The queue must not be the last to
        // hold a request, whose admission takes the same lock in the end.
        self.scheduler.state.lock().queue.remove(&self.task, &self.request);
        if is_open {
            let is_late = self.request.deadline <= Instant::now();
            self.scheduler.metrics.dropped(if is_late { "deadline" } else { "gone" });
        }
    }
}
