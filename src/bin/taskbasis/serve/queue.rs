//! The requests that wait: a lane per task, and the lanes take turns.
//!
//! What is run next, and what is run never, is decided here and nowhere else; no thread and no clock is in it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A request in the queue.
pub trait Waiting {
    /// Its images.
    fn images(&self) -> usize;

    /// The moment since which it waits.
    fn since(&self) -> Instant;

    /// Whether no one wants an answer any more.
    fn is_over(&self, now: Instant) -> bool;
}

/// Some images of a request.
#[derive(Debug)]
pub struct Part<R> {
    pub request: Arc<R>,
    pub first: usize,
    pub count: usize,
}

/// What to do now.
#[derive(Debug)]
pub enum Next<R> {
    /// Run these, which are of one task.
    Run(Vec<Part<R>>),
    /// Wait for others of a task until then.
    Wait(Instant),
    /// Nothing waits.
    Nothing,
}

/// Requests that have images which no run has been given yet, by task.
#[derive(Debug)]
pub struct Queue<R> {
    batch: usize,
    wait: Duration,
    lanes: HashMap<Arc<str>, VecDeque<Part<R>>>,
    /// The tasks that have a lane, the next one first.
    turns: VecDeque<Arc<str>>,
}

impl<R: Waiting> Queue<R> {
    /// `batch` images at most are run at once; a request waits for others of its task for `wait` at most.
    pub fn new(batch: usize, wait: Duration) -> Self {
        Self { batch, wait, lanes: HashMap::new(), turns: VecDeque::new() }
    }

    pub fn push(&mut self, task: &Arc<str>, request: Arc<R>) {
        let count = request.images();
        let part = Part { request, first: 0, count };
        if let Some(lane) = self.lanes.get_mut(task) {
            lane.push_back(part);
        } else {
            self.lanes.insert(Arc::clone(task), VecDeque::from([part]));
            self.turns.push_back(Arc::clone(task));
        }
    }

    /// Takes out what is left of a request.
    pub fn remove(&mut self, task: &str, request: &Arc<R>) {
        self.clear(task, |part| Arc::ptr_eq(&part.request, request));
        self.turns.retain(|turn| self.lanes.contains_key(turn));
    }

    /// The first task whose turn it is, and whose images are enough for a run or have waited long enough; all of them
    /// have, where `at_once`. A task that has more left gets its next turn after all others.
    pub fn next(&mut self, now: Instant, at_once: bool) -> Next<R> {
        let mut earliest = None;
        let mut at = 0;
        while let Some(task) = self.turns.get(at).cloned() {
            self.clear(&task, |part| part.request.is_over(now));
            let Some(lane) = self.lanes.get(&task) else {
                self.turns.remove(at);
                continue;
            };
            let ripe = lane.iter().map(|part| part.request.since()).min().map(|since| since + self.wait);
            let is_full = lane.iter().map(|part| part.count).sum::<usize>() >= self.batch;
            if at_once || is_full || ripe.is_none_or(|ripe| ripe <= now) {
                self.turns.remove(at);
                return Next::Run(self.take(&task));
            }
            earliest = earliest.min(ripe).or(ripe);
            at += 1;
        }
        earliest.map_or(Next::Nothing, Next::Wait)
    }

    fn take(&mut self, task: &Arc<str>) -> Vec<Part<R>> {
        let mut taken = Vec::new();
        let Some(mut lane) = self.lanes.remove(task) else { return taken };
        let mut room = self.batch;
        while room > 0 {
            let Some(mut part) = lane.pop_front() else { break };
            let count = part.count.min(room);
            taken.push(Part { request: Arc::clone(&part.request), first: part.first, count });
            room -= count;
            if count < part.count {
                (part.first, part.count) = (part.first + count, part.count - count);
                lane.push_front(part);
            }
        }
        if !lane.is_empty() {
            self.lanes.insert(Arc::clone(task), lane);
            self.turns.push_back(Arc::clone(task));
        }
        taken
    }

    /// Takes parts out of a lane, and the lane if that leaves nothing in it; its turn stays.
    fn clear(&mut self, task: &str, is_out: impl Fn(&Part<R>) -> bool) {
        let Some(lane) = self.lanes.get_mut(task) else { return };
        lane.retain(|part| !is_out(part));
        if lane.is_empty() {
            self.lanes.remove(task);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    struct Request {
        images: usize,
        since: Instant,
        is_over: AtomicBool,
    }

    impl Waiting for Request {
        fn images(&self) -> usize {
            self.images
        }

        fn since(&self) -> Instant {
            self.since
        }

        fn is_over(&self, _: Instant) -> bool {
            self.is_over.load(Ordering::Relaxed)
        }
    }

    fn request(images: usize, since: Instant) -> Arc<Request> {
        Arc::new(Request { images, since, is_over: AtomicBool::new(false) })
    }

    fn counts(next: Next<Request>) -> Vec<(usize, usize)> {
        match next {
            Next::Run(parts) => parts.iter().map(|part| (part.first, part.count)).collect(),
            Next::Wait(_) => panic!("it waits"),
            Next::Nothing => Vec::new(),
        }
    }

    #[test]
    fn tasks_take_turns_however_much_one_wants() {
        let now = Instant::now();
        let mut queue = Queue::new(4, Duration::ZERO);
        let (greedy, modest): (Arc<str>, Arc<str>) = ("A".into(), "B".into());
        (0..3).for_each(|_| queue.push(&greedy, request(6, now)));
        queue.push(&modest, request(1, now));
        assert_eq!(counts(queue.next(now, false)), [(0, 4)]);
        assert_eq!(counts(queue.next(now, false)), [(0, 1)]);
        // The rest of one request and the beginning of the next are one run.
        assert_eq!(counts(queue.next(now, false)), [(4, 2), (0, 2)]);
        queue.push(&modest, request(2, now));
        assert_eq!(counts(queue.next(now, false)), [(2, 4)]);
        assert_eq!(counts(queue.next(now, false)), [(0, 2)]);
        assert_eq!(counts(queue.next(now, false)), [(0, 4)]);
        assert_eq!(counts(queue.next(now, false)), [(4, 2)]);
        assert!(matches!(queue.next(now, false), Next::Nothing) && queue.lanes.is_empty());
    }

    #[test]
    fn a_request_waits_for_others_of_its_task_and_not_longer() {
        let now = Instant::now();
        let wait = Duration::from_millis(5);
        let mut queue = Queue::new(4, wait);
        let (early, late): (Arc<str>, Arc<str>) = ("A".into(), "B".into());
        queue.push(&early, request(1, now));
        queue.push(&late, request(1, now + wait / 2));
        assert!(matches!(queue.next(now, false), Next::Wait(until) if until == now + wait));
        queue.push(&early, request(1, now + wait / 2));
        assert_eq!(counts(queue.next(now + wait, false)), [(0, 1), (0, 1)]);
        assert!(matches!(queue.next(now + wait, false), Next::Wait(until) if until == now + wait / 2 + wait));
        // Full runs wait for nothing, and keep no other task from its turn.
        queue.push(&early, request(4, now + wait));
        assert_eq!(counts(queue.next(now + wait, false)), [(0, 4)]);
        assert_eq!(counts(queue.next(now + wait, true)), [(0, 1)]);
    }

    #[test]
    fn what_is_over_or_removed_is_never_run() {
        let now = Instant::now();
        let mut queue = Queue::new(4, Duration::ZERO);
        let task: Arc<str> = "A".into();
        let all: Vec<_> = (1..=3).map(|images| request(images, now)).collect();
        all.iter().for_each(|one| queue.push(&task, Arc::clone(one)));
        all[0].is_over.store(true, Ordering::Relaxed);
        queue.remove("A", &all[2]);
        assert_eq!(counts(queue.next(now, false)), [(0, 2)]);
        assert!(matches!(queue.next(now, false), Next::Nothing));
        queue.push(&task, Arc::clone(&all[1]));
        queue.remove("A", &all[1]);
        assert!(matches!(queue.next(now, false), Next::Nothing) && queue.turns.is_empty());
    }
}
