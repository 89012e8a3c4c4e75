//! The division of device memory: what lies there all the time, and what comes from the host again for every task.

use crate::error::{Error, Result};

/// A streamed part of this size or more is copied at a speed that more would not raise.
const SLOT: usize = 32 << 20;

/// Bytes that a layout takes on a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayoutBytes {
    /// What serves all tasks.
    pub(super) shared: usize,
    /// One task's weights.
    pub(super) arena: usize,
}

/// The demand for room on a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand<'a> {
    /// Bytes that may be used for everything.
    pub(super) budget: usize,
    /// What is always there: the parameters that no vector changes, and what serves a layout.
    pub(super) unchanged: usize,
    /// One task's weights.
    pub(super) arena: usize,
    /// What each of the other parameters is computed from.
    pub(super) inputs: &'a [usize],
    /// The bytes that a slot has to hold at least.
    pub(super) smallest_slot: usize,
}

/// The division of the room.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// Whether each of the inputs stays on the device.
    pub(super) resident: Vec<bool>,
    /// Bytes of each of the two slots that the others are streamed through; 0 where there are none.
    pub(super) slot: usize,
    /// Bytes left for weights.
    pub(super) arenas: usize,
}

impl Demand<'_> {
    /// Everything stays on the device if that leaves room for two tasks' weights, one that runs and one that comes.
    /// Otherwise as many parameters stay as there is room for, beside two slots and two tasks' weights, or one's.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a budget that is too small even then.
    pub(super) fn split(&self) -> Result<Split> {
        let all: usize = self.inputs.iter().sum();
        for tasks in [2, 1] {
            let Some(room) = self.budget.checked_sub(self.unchanged + tasks * self.arena) else { continue };
            if all <= room {
                let resident = vec![true; self.inputs.len()];
                return Ok(Split { resident, slot: 0, arenas: self.budget - self.unchanged - all });
            }
            // A quarter for both, where room is scarce: what stays need not come.
            let slot = (room / 8).min(SLOT).max(self.smallest_slot);
            let Some(mut room) = room.checked_sub(2 * slot) else { continue };
            let take = |&bytes: &usize| match room.checked_sub(bytes) {
                Some(left) => {
                    room = left;
                    true
                }
                None => false,
            };
            let resident = self.inputs.iter().map(take).collect();
            return Ok(Split { resident, slot, arenas: tasks * self.arena + room });
        }
        let least = self.unchanged + self.arena + all.min(2 * self.smallest_slot);
        Err(Error::invalid("the budget of device memory is too small for this model")
            .expected(format_args!("at least {least} bytes"))
            .got(self.budget))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMAND: Demand<'_> =
        Demand { budget: 0, unchanged: 1000, arena: 5000, inputs: &[4000, 300, 8000], smallest_slot: 100 };

    #[test]
    fn as_much_stays_as_there_is_room_for() {
        let split = |budget| Demand { budget, ..DEMAND }.split().unwrap();
        let all = split(23_300);
        assert_eq!(all, Split { resident: vec![true; 3], slot: 0, arenas: 10_000 });
        assert_eq!(split(1 << 30).arenas, (1 << 30) - 13_300);
        // One byte less, and the largest goes; what is left over is the weights'.
        let some = split(23_299);
        assert_eq!(some.resident, [true, true, false]);
        assert_eq!((some.slot, some.arenas), (12_299 / 8, 10_000 + 12_299 - 2 * (12_299 / 8) - 4300));
        assert_eq!(split(11_200), Split { resident: vec![false; 3], slot: 100, arenas: 10_000 });
        // No room for two tasks' weights, so that more stays.
        assert_eq!(split(11_199).resident, [false, true, false]);
        assert_eq!(split(6200), Split { resident: vec![false; 3], slot: 100, arenas: 5000 });
    }

    #[test]
    fn no_more_is_given_than_there_is() {
        for budget in (6200..40_000).step_by(7) {
            let split = Demand { budget, ..DEMAND }.split().unwrap();
            let staying = split.resident.iter().zip(DEMAND.inputs).filter(|(stays, _)| **stays);
            let staying: usize = staying.map(|(_, bytes)| bytes).sum();
            assert!(DEMAND.unchanged + staying + 2 * split.slot + split.arenas <= budget);
            assert!(split.arenas >= DEMAND.arena && (split.slot > 0) == split.resident.contains(&false));
        }
        let error = Demand { budget: 6199, ..DEMAND }.split().unwrap_err().to_string();
        assert!(error.contains("at least 6200 bytes"), "{error}");
    }
}
