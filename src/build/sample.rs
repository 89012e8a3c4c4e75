//! Which tasks a seed selects: `sorted(random.sample(range(T), M))` after `random.seed(seed)`, number for number, so
//! that a basis made here and one made by the reference hold the same tasks.

use crate::random::python_sample;

/// `vectors` of `tasks` indices, ascending. With as many vectors as tasks, all of them.
pub(super) fn selected(tasks: usize, vectors: usize, seed: u32) -> Vec<usize> {
    let mut chosen = python_sample(tasks, vectors, seed);
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_selects_the_same() {
        // python3 -c 'import random; random.seed(S); print(sorted(random.sample(range(T), M)))'
        assert_eq!(selected(8, 4, 1), [0, 2, 4, 7]);
        assert_eq!(selected(3, 3, 9), [0, 1, 2]);
    }
}
