//! Reading from the disk ahead of the computation, where the page cache does not hold the inputs.
//!
//! Base and M vectors are read side by side, at M + 1 places of one or two files. Page faults alone make requests of
//! that one after the other, and short ones where the operating system takes it for random access. So each job's
//! inputs are asked for as long stretches, some time before their turn.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::tensor::Source;

/// Bytes on their way from the disk while others are computed.
const WINDOW: usize = 64 << 20;

/// Smaller inputs do not tell whether anything must be read.
const MIN_PROBED_BYTES: usize = 1 << 20;

/// Questions that are asked, about; each takes a microsecond or two.
const QUESTIONS: usize = 100;

/// The inputs that are still to be asked for.
pub(super) struct ReadAhead<'a> {
    /// The inputs of every job, and the bytes in all jobs before it. Empty where everything is in memory.
    jobs: Vec<(usize, Vec<&'a Source>)>,
    /// The first job that was not asked for.
    next: AtomicUsize,
}

impl<'a> ReadAhead<'a> {
    /// Takes the inputs of each job, and looks at those of some of them, from the first on, whether they are in
    /// memory.
    pub(super) fn new(jobs: Vec<Vec<&'a Source>>) -> Self {
        let resident = |input: &&Source| input.range().is_none_or(|range| input.mapping().is_resident(range));
        let large: Vec<_> =
            jobs.iter().filter(|inputs| inputs.iter().any(|i| i.nbytes() >= MIN_PROBED_BYTES)).collect();
        let inputs = large.iter().map(|inputs| inputs.len()).sum::<usize>();
        // Whole jobs: one input of each would always be the same vector's.
        let mut some = large.iter().step_by(inputs.div_ceil(QUESTIONS).max(1));
        let jobs = if some.all(|inputs| inputs.iter().all(resident)) { Vec::new() } else { jobs };
        let jobs = jobs.into_iter().scan(0, |at, inputs| {
            let before = *at;
            *at += inputs.iter().map(|input| input.nbytes()).sum::<usize>();
            Some((before, inputs))
        });
        Self { jobs: jobs.collect(), next: AtomicUsize::new(0) }
    }

    /// A work item of that job begins: asks for what comes within [`WINDOW`] bytes after it.
    pub(super) fn arrived_at(&self, job: usize) {
        let Some((_, after)) = self.jobs[..].split_at_checked(job + 1) else { return };
        let end = after.first().map_or(usize::MAX, |&(before, _)| before.saturating_add(WINDOW));
        let due = |next: usize| self.jobs.get(next).filter(|&&(before, _)| before < end);
        // The thread that moves `next` on asks for the job that it passed; others go on with the one after.
        while let Ok(next) =
            self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| due(next).map(|_| next + 1))
        {
            for input in &self.jobs[next].1 {
                if let Some(range) = input.range() {
                    input.mapping().read_ahead(range);
                }
            }
        }
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::mmap::{MapMode, Mapping};
    use crate::tensor::{DType, Tensor};

    /// A file that the page cache let go of comes back by being asked for, all that lies in the window and no more.
    #[test]
    fn what_is_on_the_disk_is_asked_for() {
        const SIZE: usize = 2 << 20;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![1; 2 * SIZE]).unwrap();
        file.as_file().sync_all().unwrap();
        // SAFETY: plain numbers; the descriptor is open.
        unsafe { libc::posix_fadvise(file.as_file().as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        let mapping = Arc::new(Mapping::open(file.path(), MapMode::Map).unwrap());
        let tensor = |at| Tensor::contiguous(&mapping, at..at + SIZE, DType::F32, &[SIZE / 4]).unwrap();
        let tensors = [tensor(0), tensor(SIZE)].map(Source::from);
        let inputs = || tensors.iter().map(|tensor| vec![tensor]).collect::<Vec<_>>();
        if mapping.is_resident(0..2 * SIZE) {
            // A file system in memory, or one that cannot say.
            assert!(ReadAhead::new(inputs()).jobs.is_empty());
            return;
        }
        let ahead = ReadAhead::new(inputs());
        assert_eq!(ahead.jobs.iter().map(|(before, _)| *before).collect::<Vec<_>>(), [0, SIZE]);
        ahead.arrived_at(0);
        assert_eq!(ahead.next.load(Ordering::Relaxed), 2, "both lie in the window");
        ahead.arrived_at(1);
        assert_eq!(ahead.next.load(Ordering::Relaxed), 2);
        // It is only advice, so that nothing can be asserted but that the bytes are the file's.
        let asked = Instant::now();
        while !mapping.is_resident(0..2 * SIZE) && asked.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(mapping.iter().all(|&byte| byte == 1));
        assert!(ReadAhead::new(inputs()).jobs.is_empty(), "all of it is in memory now");
    }

    #[test]
    fn no_more_than_the_window_is_asked_for() {
        let tensor = Source::from(Tensor::from_f32(&[0.0; 4], &[4], "test").unwrap());
        let of = |bytes: usize| (bytes, vec![&tensor]);
        let next = AtomicUsize::new(0);
        let ahead = ReadAhead { jobs: (0..8).map(|i| of(i * WINDOW / 2)).collect(), next };
        for (job, next) in [(0, 3), (1, 4), (0, 4), (4, 7), (7, 8)] {
            ahead.arrived_at(job);
            assert_eq!(ahead.next.load(Ordering::Relaxed), next, "at job {job}");
        }
    }
}
