//! The worker: no job is stranded, and none is done twice or after it was taken back.

use std::sync::Arc;

use crate::Model;
use crate::background::{Priority, Worker};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, thread};

pub const MODELS: &[Model] = &[
    ("worker: no job is stranded", no_job_is_stranded),
    ("worker: what was taken back is not done", what_was_taken_back_is_not_done),
    ("worker: finishing waits for the job that runs", finishing_waits),
];

/// Counts, and wakes those who wait for a number.
#[derive(Default)]
struct Done {
    jobs: Mutex<usize>,
    more: Condvar,
}

impl Done {
    fn add(&self) {
        *self.jobs.lock() += 1;
        self.more.notify_all();
    }

    fn wait_for(&self, number: usize) {
        let mut jobs = self.jobs.lock();
        while *jobs < number {
            self.more.wait(&mut jobs);
        }
        assert_eq!(*jobs, number);
    }
}

/// A deadlock here is a job that nothing does: its thread saw an empty queue and ended as it came.
fn no_job_is_stranded() {
    let (worker, done) = (Arc::new(Worker::new("model", Priority::Inherited)), Arc::new(Done::default()));
    let submitters: Vec<_> = (0..2)
        .map(|_| {
            let (worker, done) = (Arc::clone(&worker), Arc::clone(&done));
            thread::spawn(move || {
                for _ in 0..2 {
                    let done = Arc::clone(&done);
                    worker.submit(move || done.add()).unwrap();
                }
            })
        })
        .collect();
    done.wait_for(4);
    submitters.into_iter().for_each(|thread| thread.join().unwrap());
    worker.finish();
}

fn what_was_taken_back_is_not_done() {
    let (worker, done) = (Worker::new("model", Priority::Inherited), Arc::new(Done::default()));
    let (taken_back, was_done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let other = Arc::clone(&done);
    worker.submit(move || other.add()).unwrap();
    let job = Arc::clone(&was_done);
    let id = worker.submit(move || _ = job.fetch_add(1, Ordering::SeqCst)).unwrap();
    if worker.cancel(id) {
        taken_back.fetch_add(1, Ordering::SeqCst);
    }
    let other = Arc::clone(&done);
    worker.submit(move || other.add()).unwrap();
    done.wait_for(2);
    // First come, first served: what was not taken back is done before the third.
    assert_eq!(taken_back.load(Ordering::SeqCst) + was_done.load(Ordering::SeqCst), 1);
    worker.finish();
}

fn finishing_waits() {
    let worker = Worker::new("model", Priority::Inherited);
    let (begun, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    for _ in 0..2 {
        let (begun, ended) = (Arc::clone(&begun), Arc::clone(&ended));
        let job = move || {
            begun.fetch_add(1, Ordering::SeqCst);
            thread::yield_now();
            ended.fetch_add(1, Ordering::SeqCst);
        };
        worker.submit(job).unwrap();
    }
    thread::yield_now();
    worker.finish();
    let ended = ended.load(Ordering::SeqCst);
    assert_eq!(begun.load(Ordering::SeqCst), ended, "a job is under way");
}
