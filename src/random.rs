//! Random numbers as other programs draw them, number for number, from MT19937 and a seed: Python's `random.sample`,
//! PyTorch's `randperm` and `randn`.
//!
//! What Python's documentation promises: the key is the integer's 32-bit words; `random.sample` has been the same since
//! Python 2.3. What PyTorch does on the CPU (1.13 to 2.15, compared): the generator is seeded with the seed itself. A
//! permutation is Fisher and Yates' shuffle from the front, of one 32-bit number per place. Normal numbers, where there
//! are 16 or more, are Box and Muller's of 16 uniform numbers of 24 bits: 8 radii, then 8 angles.

use std::collections::HashSet;
use std::f32::consts::TAU;
use std::ops::Range;

use rand_mt::Mt;

/// Numbers that are drawn, and become normal, together.
pub(crate) const BLOCK: usize = 16;

/// `random.sample(range(n), count)` after `random.seed(seed)`, in the order that they are drawn in; all of them, in
/// order, where `count` is not below `n`.
pub(crate) fn python_sample(n: usize, count: usize, seed: u32) -> Vec<usize> {
    if count >= n {
        return (0..n).collect();
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
    if n <= pool_limit(count) {
        // A shrinking pool: what was drawn is replaced by the pool's last.
        let mut pool: Vec<usize> = (0..n).collect();
        return (0..count)
            .map(|_| {
                let at = below(pool.len());
                pool.swap_remove(at)
            })
            .collect();
    }
    let (mut drawn, mut seen) = (Vec::with_capacity(count), HashSet::new());
    while drawn.len() < count {
        let next = below(n);
        if seen.insert(next) {
            drawn.push(next);
        }
    }
    drawn
}

/// Up to how many elements Python draws from a pool; of more it remembers what it drew.
fn pool_limit(count: usize) -> usize {
    let mut limit = 21;
    if count > 5 {
        let mut power = 1;
        while power < 3 * count {
            power *= 4;
        }
        limit += power;
    }
    limit
}

/// `torch.randperm(n, generator=torch.Generator().manual_seed(seed))`, for `n` that 32 bits hold.
pub(crate) fn torch_permutation(n: usize, seed: u32) -> Vec<usize> {
    let mut random = Mt::new(seed);
    let mut order: Vec<usize> = (0..n).collect();
    for i in 0..n.saturating_sub(1) {
        order.swap(i, i + random.next_u32() as usize % (n - i));
    }
    order
}

/// `torch.randn(total, generator=torch.Generator().manual_seed(seed))`, f32, from the first to the last; the last bits
/// differ between one build of PyTorch and the next, and from these.
#[derive(Clone)]
pub(crate) struct TorchNormals {
    random: Mt,
    total: usize,
    at: usize,
}

/// What was drawn for some of the numbers, to be made normal by any thread.
#[derive(Clone, Default)]
pub(crate) struct Drawn {
    raw: Vec<u32>,
    /// What the last [`BLOCK`] of all numbers are made of, where they are no multiple of that: PyTorch draws these
    /// anew.
    last: Option<[u32; BLOCK]>,
}

impl TorchNormals {
    /// `total` of them, at least [`BLOCK`]: of fewer PyTorch makes others.
    pub(crate) fn new(total: usize, seed: u32) -> Self {
        Self { random: Mt::new(seed), total, at: 0 }
    }

    /// Draws for the next `count` numbers: a multiple of [`BLOCK`] that leaves at least as many, or all the rest.
    pub(crate) fn draw(&mut self, count: usize) -> Drawn {
        debug_assert!(
            self.at + count == self.total || (count.is_multiple_of(BLOCK) && self.at + count + BLOCK <= self.total)
        );
        let raw = (0..count).map(|_| self.random.next_u32()).collect();
        self.at += count;
        let has_rest = self.at == self.total && !self.total.is_multiple_of(BLOCK);
        let last = has_rest.then(|| std::array::from_fn(|_| self.random.next_u32()));
        Drawn { raw, last }
    }
}

impl Drawn {
    /// The pieces of at most `length`, a multiple of [`BLOCK`], that threads can share.
    pub(crate) fn pieces(&self, length: usize) -> impl Iterator<Item = Range<usize>> {
        (0..self.raw.len()).step_by(length).map(move |start| start..self.raw.len().min(start + length))
    }

    /// The number of them.
    pub(crate) fn len(&self) -> usize {
        self.raw.len()
    }

    /// The normal numbers of a piece; those that PyTorch draws anew at the end are not among them.
    pub(crate) fn normals(&self, piece: Range<usize>, out: &mut [f32]) {
        for (raw, out) in self.raw[piece].chunks_exact(BLOCK).zip(out.chunks_exact_mut(BLOCK)) {
            block(raw, out);
        }
    }

    /// Puts what PyTorch draws anew to the end of all these numbers.
    pub(crate) fn finish(&self, all: &mut [f32]) {
        if let (Some(last), Some(start)) = (&self.last, all.len().checked_sub(BLOCK)) {
            block(last, &mut all[start..]);
        }
    }
}

/// Box and Muller's transformation of 16 numbers.
fn block(raw: &[u32], out: &mut [f32]) {
    let uniform = |raw: u32| (raw & 0x00ff_ffff) as f32 / 16_777_216.0;
    let (radii, angles) = raw.split_at(BLOCK / 2);
    let (cosines, sines) = out.split_at_mut(BLOCK / 2);
    for (((&radius, &angle), cosine), sine) in radii.iter().zip(angles).zip(cosines).zip(sines) {
        // Above 0: the uniform number is below 1.
        let radius = (-2.0 * (1.0 - uniform(radius)).ln()).sqrt();
        let (sin, cos) = (TAU * uniform(angle)).sin_cos();
        *cosine = radius * cos;
        *sine = radius * sin;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_selects_the_same() {
        // python3 -c 'import random; random.seed(S); print(random.sample(range(N), COUNT))'
        let sorted = |n, count, seed| {
            let mut drawn = python_sample(n, count, seed);
            drawn.sort_unstable();
            drawn
        };
        assert_eq!(sorted(8, 4, 0), [0, 3, 6, 7]);
        assert_eq!(sorted(20, 10, 0), [1, 4, 5, 6, 7, 8, 12, 13, 15, 19]);
        assert_eq!(sorted(14, 7, 123456789), [4, 6, 7, 8, 9, 10, 12]);
        assert_eq!(sorted(3, 3, 9), [0, 1, 2]);
        // From a pool, and beyond it.
        assert_eq!(python_sample(10, 4, 42), [1, 0, 4, 9]);
        assert_eq!(python_sample(100, 5, 42), [81, 14, 3, 94, 35]);
        assert_eq!(sorted(200, 9, 7), [12, 18, 24, 38, 82, 93, 101, 137, 166]);
        let many = python_sample(60_000, 2_500, 42);
        assert_eq!((many[0], many[1], many[2_499], many.iter().sum::<usize>()), (41_905, 7_296, 54_467, 75_631_776));
    }

    #[test]
    fn torch_permutes_the_same() {
        // torch.randperm(n, generator=torch.Generator().manual_seed(seed)), 2.15.0
        assert_eq!(torch_permutation(10, 0), [4, 1, 7, 5, 3, 9, 0, 8, 6, 2]);
        assert_eq!(torch_permutation(10, 42), [2, 6, 1, 8, 4, 5, 0, 9, 3, 7]);
        let mnist = torch_permutation(60_000, 0);
        assert_eq!(mnist[..5], [36044, 10678, 57327, 55074, 21567]);
        assert_eq!(mnist[59_995..], [6024, 6465, 31951, 27130, 1544]);
        assert!(torch_permutation(0, 1).is_empty());
    }

    /// `total` numbers of `seed`, drawn `first` and then the rest.
    fn normals(total: usize, seed: u32, first: usize) -> Vec<f32> {
        let mut source = TorchNormals::new(total, seed);
        let mut all = Vec::new();
        for count in [first, total - first] {
            let drawn = source.draw(count);
            let mut part = vec![0.0; count];
            for piece in drawn.pieces(BLOCK) {
                drawn.normals(piece.clone(), &mut part[piece]);
            }
            drawn.finish(&mut part);
            all.extend(part);
        }
        all
    }

    #[test]
    fn torch_draws_the_same_normal_numbers() {
        // torch.randn(n, generator=torch.Generator().manual_seed(7)), 2.15.0 with AVX-512
        let close = |ours: &[f32], torch: &[f32]| {
            let differs = ours.iter().zip(torch).find(|(a, b)| (*a - *b).abs() > 1e-6);
            assert!(ours.len() == torch.len() && differs.is_none(), "{differs:?}");
        };
        let sixteen = normals(16, 7, 0);
        close(&sixteen[..4], &[-0.820_134_5, 0.395_631_16, 0.898_908_5, -1.388_403_9]);
        close(&sixteen[12..], &[0.708_539_07, 1.012_755_4, 0.230_396_87, 1.090_165_1]);
        // The last 16 are drawn anew.
        let twenty = normals(20, 7, 0);
        close(&twenty[..6], &[-0.820_134_5, 0.395_631_16, 0.898_908_5, -1.388_403_9, 0.198_445_05, 0.782_072_66]);
        close(&twenty[18..], &[-2.056_462_5, -0.356_722_53]);
        let more = normals(37, 7, 16);
        close(&more[16..22], &[-1.582_664_6, -0.324_566_63, 1.926_368_1, -0.330_011_73, 0.198_445_05, -0.661_867_56]);
        close(&more[35..], &[-1.367_739_7, -0.100_734_316]);
        assert_eq!(more, normals(37, 7, 0), "in one go or in several");
    }
}
