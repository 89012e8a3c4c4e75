//! Which tasks a seed selects: `sorted(random.sample(range(T), M))` after `random.seed(seed)`, number for number, so
//! that a basis made here and one made by the reference hold the same tasks.
//!
//! What the Python documentation promises: the Mersenne Twister MT19937, seeded with the integer's 32-bit words as its
//! key; the algorithm of `random.sample` has been the same since Python 2.3.

use rand_mt::Mt;

/// `vectors` of `tasks` indices, ascending. With as many vectors as tasks, all of them.
pub(super) fn selected(tasks: usize, vectors: usize, seed: u32) -> Vec<usize> {
    if vectors >= tasks {
        return (0..tasks).collect();
    }
    let mut random = Mt::new_with_key([seed]);
    let mut below = |n: usize| loop {
        // As many bits as n has; what is not below n is drawn again.
        let bits = usize::BITS - n.leading_zeros();
        let drawn = (random.next_u32() >> (32 - bits)) as usize;
        if drawn < n {
            return drawn;
        }
    };
    let mut chosen: Vec<usize> = if tasks <= pool_limit(vectors) {
        // A shrinking pool: what was drawn is replaced by the pool's last.
        let mut pool: Vec<usize> = (0..tasks).collect();
        (0..vectors)
            .map(|_| {
                let at = below(pool.len());
                pool.swap_remove(at)
            })
            .collect()
    } else {
        let mut seen = Vec::with_capacity(vectors);
        while seen.len() < vectors {
            let drawn = below(tasks);
            if !seen.contains(&drawn) {
                seen.push(drawn);
            }
        }
        seen
    };
    chosen.sort_unstable();
    chosen
}

/// Up to how many elements Python draws from a pool; of more it remembers what it drew.
fn pool_limit(vectors: usize) -> usize {
    let mut limit = 21;
    if vectors > 5 {
        let mut power = 1;
        while power < 3 * vectors {
            power *= 4;
        }
        limit += power;
    }
    limit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_selects_the_same() {
        // python3 -c 'import random; random.seed(S); print(sorted(random.sample(range(T), M)))'
        assert_eq!(selected(8, 4, 0), [0, 3, 6, 7]);
        assert_eq!(selected(8, 4, 1), [0, 2, 4, 7]);
        assert_eq!(selected(20, 10, 0), [1, 4, 5, 6, 7, 8, 12, 13, 15, 19]);
        assert_eq!(selected(14, 7, 123456789), [4, 6, 7, 8, 9, 10, 12]);
        assert_eq!(selected(100, 5, 42), [3, 14, 35, 81, 94]);
        assert_eq!(selected(200, 9, 7), [12, 18, 24, 38, 82, 93, 101, 137, 166]);
        assert_eq!(selected(3, 3, 9), [0, 1, 2]);
    }
}
