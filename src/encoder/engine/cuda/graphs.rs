//! CUDA graphs: a run is recorded once, and then put into the stream as a whole, which spares the host the launches.
//!
//! ONNX Runtime records and replays them (`enable_cuda_graph`), a graph for every number that a run is given
//! (`gpu_graph_id`). What is recorded are addresses. So the number here stands for all addresses of a run and its
//! number of images: memory that is given to another task holds other values at the same addresses, which is what is
//! wanted. ONNX Runtime keeps what it has recorded by thread, so all runs of a session are made by one.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crate::encoder::session::RunSettings;
use crate::error::{Error, ErrorKind, Result};

/// Graphs of one session. ONNX Runtime lets go of none before the session ends; what comes later runs without.
const MAX_GRAPHS: usize = 64;

/// The graphs of a session, and the thread that runs it.
pub(super) struct Graphs {
    numbers: HashMap<Vec<u64>, usize>,
    worker: Worker,
}

/// The way to make a run.
pub(super) enum Way {
    /// Plainly.
    Plain(RunSettings),
    /// Plainly, then as a graph, which is recorded on the way, and both have to give the same.
    First(RunSettings, RunSettings),
    /// A run as a graph that is known.
    Graph(RunSettings),
}

impl Graphs {
    /// # Errors
    /// When the operating system gives no thread.
    pub(super) fn new() -> Result<Self> {
        Ok(Self { numbers: HashMap::new(), worker: Worker::new()? })
    }

    /// How to run with these addresses and images, which `addresses` are all there is to know of a run.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`].
    pub(super) fn way(&self, addresses: &[u64]) -> Result<Way> {
        match self.numbers.get(addresses) {
            Some(number) => Ok(Way::Graph(RunSettings::graph(*number, false)?)),
            None if self.numbers.len() >= MAX_GRAPHS => Ok(Way::Plain(RunSettings::plain()?)),
            // ONNX Runtime takes 0 where none is named.
            None => Ok(Way::First(RunSettings::plain()?, RunSettings::graph(self.numbers.len() + 1, true)?)),
        }
    }

    /// What [`Way::First`] said has been done.
    pub(super) fn is_recorded(&mut self, addresses: Vec<u64>) {
        let number = self.numbers.len() + 1;
        self.numbers.entry(addresses).or_insert(number);
    }

    /// Does it on the session's thread, and waits.
    ///
    /// # Errors
    /// Those of `work`; [`ErrorKind::Internal`] where it panics.
    pub(super) fn on_thread<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.worker.run(work)
    }
}

/// Whether a run that was recorded gave the embeddings of one that was not.
///
/// # Errors
/// [`ErrorKind::Runtime`] where one is off by more than a thousandth of the largest.
pub(super) fn check(recorded: &[f32], expected: &[f32]) -> Result<()> {
    let largest = expected.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    let apart = recorded.iter().zip(expected).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
    // Maxima pass over NaNs.
    let numbers = |values: &[f32]| values.iter().all(|value| value.is_finite());
    if apart <= 1e-3 * largest && numbers(recorded) == numbers(expected) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Runtime, "recorded as a CUDA graph, the encoder gives other embeddings")
        .expected(format_args!("within {:e}", 1e-3 * largest))
        .got(format_args!("{apart:e} apart"))
        .hint("Run without CUDA graphs"))
}

/// A thread that does what it is given, one thing after another.
struct Worker {
    /// `None` only in `drop`.
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

type Job = Box<dyn FnOnce() + Send>;

impl Worker {
    fn new() -> Result<Self> {
        let (jobs, inbox): (_, Receiver<Job>) = channel();
        let body = move || inbox.into_iter().for_each(|job| job());
        let thread = std::thread::Builder::new().name("taskbasis-graph".into()).spawn(body);
        let thread = thread.map_err(Error::no_thread)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let lost = || Error::new(ErrorKind::Internal, "the thread of a session is gone");
        let (reply, answer) = channel();
        let job: Box<dyn FnOnce() + Send + '_> = Box::new(move || {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            let panicked = |_| Err(Error::new(ErrorKind::Internal, "a run panicked"));
            // The thread that asked waits for the reply.
            let _ = reply.send(done.unwrap_or_else(panicked));
        });
        // SAFETY: what the job borrows outlives it: `recv` below returns when the job has sent its result, its last act
        // with anything borrowed, or when it was dropped unrun with its sender.
        let job: Job = unsafe { std::mem::transmute::<Box<dyn FnOnce() + Send + '_>, Job>(job) };
        self.jobs.as_ref().ok_or_else(lost)?.send(job).map_err(|_| lost())?;
        answer.recv().map_err(|_| lost())?
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // It catches the panics of its work.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_does_it_all_and_outlives_panics() {
        let worker = Worker::new().unwrap();
        let mut numbers = vec![1, 2, 3];
        let here = std::thread::current().id();
        let first = worker.run(|| Ok(std::thread::current().id())).unwrap();
        worker
            .run(|| {
                numbers.push(4);
                Ok(())
            })
            .unwrap();
        let error = worker.run(|| -> Result<()> { panic!("as asked for") }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert_eq!(
            worker.run(|| -> Result<()> { Err(Error::invalid("no")) }).unwrap_err().kind(),
            ErrorKind::InvalidArgument
        );
        assert!(first != here && worker.run(|| Ok(std::thread::current().id())).unwrap() == first);
        assert_eq!(numbers, [1, 2, 3, 4]);
    }

    #[test]
    fn what_was_recorded_is_the_whole_run() {
        let expected = [1.0, -2.0, 0.5];
        check(&expected, &expected).unwrap();
        check(&[1.001, -2.0, 0.5], &expected).unwrap();
        for wrong in [[1.01, -2.0, 0.5], [0.0; 3], [f32::NAN, -2.0, 0.5]] {
            assert_eq!(check(&wrong, &expected).unwrap_err().kind(), ErrorKind::Runtime);
        }
    }

    #[test]
    fn a_graph_for_all_addresses_alike() {
        if !crate::need::runtime() {
            return;
        }
        crate::encoder::Runtime::load(None).unwrap();
        let mut graphs = Graphs::new().unwrap();
        let number = |way: Way| match way {
            Way::First(plain, graph) => {
                assert_eq!(plain.told(), (Some("-1".to_owned()), false));
                let (number, may_record) = graph.told();
                assert!(may_record);
                format!("first {}", number.unwrap())
            }
            Way::Graph(settings) | Way::Plain(settings) => {
                let (number, may_record) = settings.told();
                assert!(!may_record);
                number.unwrap()
            }
        };
        let addresses = |i: u64| vec![2, 4096, 8192 + i];
        for i in 0..MAX_GRAPHS as u64 {
            assert_eq!(number(graphs.way(&addresses(i)).unwrap()), format!("first {}", i + 1));
            // One that failed on the way is tried again.
            assert_eq!(number(graphs.way(&addresses(i)).unwrap()), format!("first {}", i + 1));
            graphs.is_recorded(addresses(i));
            assert_eq!(number(graphs.way(&addresses(i)).unwrap()), (i + 1).to_string());
        }
        assert_eq!(number(graphs.way(&addresses(MAX_GRAPHS as u64)).unwrap()), "-1");
        assert_eq!(number(graphs.way(&addresses(7)).unwrap()), "8");
    }
}
