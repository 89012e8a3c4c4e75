//! Reading from the disk ahead of the computation, where the page cache does not hold the inputs.
//!
//! Base and M vectors are read side by side, at M + 1 places of one or two files. Page faults alone make short requests
//! of that, one after the other: 1.8 GB took 21 s on a disk that reads them in a few. So each segment's inputs are asked
//! for as long stretches, some time before their turn.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::input::Input;

/// So many bytes are on their way from the disk while others are computed.
const WINDOW: usize = 64 << 20;

/// Inputs of fewer bytes do not tell whether anything must be read: there are many, and each question takes time.
const WORTH_ASKING: usize = 1 << 20;

/// What is still to be asked for.
pub(super) struct ReadAhead<'a> {
    /// The inputs of every segment, and the bytes in all segments before it. Empty where everything is in memory.
    segments: Vec<(usize, Vec<Input<'a>>)>,
    /// The first segment that was not asked for.
    next: AtomicUsize,
}

impl<'a> ReadAhead<'a> {
    /// Takes the inputs of each segment, and looks whether they are in memory: a question for every 8 MiB.
    pub(super) fn new(segments: Vec<Vec<Input<'a>>>) -> Self {
        let resident = |input: &Input<'_>| input.range().is_none_or(|range| input.mapping().is_resident(range));
        let mut large = segments.iter().flatten().filter(|input| input.nbytes() >= WORTH_ASKING);
        let segments = if large.all(resident) { Vec::new() } else { segments };
        let segments = segments.into_iter().scan(0, |at, inputs| {
            let before = *at;
            *at += inputs.iter().map(|input| input.nbytes()).sum::<usize>();
            Some((before, inputs))
        });
        Self { segments: segments.collect(), next: AtomicUsize::new(0) }
    }

    /// Somebody begins a piece of that segment: asks for what comes within [`WINDOW`] bytes after it.
    pub(super) fn arrived_at(&self, segment: usize) {
        let Some((_, after)) = self.segments[..].split_at_checked(segment + 1) else { return };
        let end = after.first().map_or(usize::MAX, |&(before, _)| before.saturating_add(WINDOW));
        let due = |next: usize| self.segments.get(next).filter(|&&(before, _)| before < end);
        // Whoever moves `next` on asks for the segment that it passed; others go on with the one after.
        while let Ok(next) =
            self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| due(next).map(|_| next + 1))
        {
            for input in &self.segments[next].1 {
                if let Some(range) = input.range() {
                    input.mapping().read_ahead(range);
                }
            }
        }
    }
}
