//! Attention between the tokens of a sequence, head by head.
//!
//! # The bit contract
//! With `q` a query, `k` and `v` the keys and values of the `n` tokens that it sees, in `d` dimensions, all in f32:
//!
//! ```text
//! score[j] = +0.0, then fma(q[i] · (1 / √d), k[j][i], score[j]) for i ascending
//! p[j]     = exp(score[j] − the greatest score)
//! sum      = sixteen sums of p, of j modulo 16 each, the upper half added to the lower one until one is left
//! out[i]   = (+0.0, then fma(p[j], v[j][i], …) for j ascending) · (1 / sum)
//! ```
//!
//! With a rotation, q and k are rotated before: x of token t becomes `fma(partner, sin[t][i], x[i]·cos[t][i])`. Of
//! neighbours the partner is −x[i + 1] for even i, and x[i − 1] for odd ones; of halves it is −x[i + d/2] in the lower
//! half, and x[i − d/2] in the upper one.
//!
//! Scores of a few queries at a time are all that is there of the matrix of scores.

use super::attend::{Head, Sizes};
use super::entry;
use super::rotation::Rotation;
use super::run::Scratch;
use super::share::{Pool, Shared, pieces};
use crate::error::{Error, Result};
use crate::kernel::dispatch::Kernel;

/// An attention to compute.
#[derive(Debug)]
pub struct AttentionJob<'a> {
    /// Queries, keys and values side by side, `[sequences, tokens, 3·width]`.
    pub qkv: &'a [f32],
    /// Tokens of a sequence.
    pub tokens: usize,
    /// Tokens of each sequence, the first ones, whose queries are answered.
    pub queries: usize,
    /// Tokens of each sequence, the first ones, that are no keys and values.
    pub skipped_keys: usize,
    /// The rotation of queries and keys.
    pub rotation: Option<Rotation<'a>>,
    /// Heads, which divide the width.
    pub heads: usize,
    /// Values of a token in the output.
    pub width: usize,
    /// Whether a token sees none after it.
    pub is_causal: bool,
    /// `[sequences, queries, width]`.
    pub out: &'a mut [f32],
}

/// Computes an attention by the bit contract of this module, on the threads of `pool`.
///
/// # Errors
/// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where sizes do not fit each other;
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when this machine cannot run `kernel`;
/// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
pub fn attention(kernel: Kernel, job: AttentionJob<'_>, pool: &dyn Pool, scratch: &mut Scratch) -> Result<()> {
    let functions = entry::of(kernel)?;
    let sequences = job.check()?;
    let AttentionJob { qkv, tokens, queries, skipped_keys, rotation, heads, width, is_causal, out } = job;
    let sizes = Sizes::new(tokens - skipped_keys, width / heads);
    let count = sequences * heads;
    let batches = pieces(pool, count);
    let room = scratch.packing.reserve(batches * sizes.nbytes())?;
    let out = Shared(out.as_mut_ptr());
    pool.run(batches, &|batch| {
        for piece in count * batch / batches..count * (batch + 1) / batches {
            let (sequence, head) = (piece / heads, piece % heads);
            let head = Head {
                qkv: &qkv[sequence * tokens * 3 * width..(sequence + 1) * tokens * 3 * width],
                width,
                first: head * sizes.dim,
                queries,
                skipped: skipped_keys,
                rotation,
                rows: functions.rows,
                is_causal,
                out: out.at(sequence * queries * width + head * sizes.dim),
                room: room.at(batch * sizes.nbytes()),
            };
            // SAFETY: the instruction set is there, as `entry::of` found; `check` saw that the output has a place for
            // every head of every query, and each batch has a room of its own.
            unsafe { (functions.attend)(&sizes, head) };
        }
    });
    Ok(())
}

impl AttentionJob<'_> {
    /// Everything about it that could be wrong; the number of sequences.
    fn check(&self) -> Result<usize> {
        let (tokens, width) = (self.tokens, self.width);
        if tokens == 0 || self.heads == 0 || width == 0 || !width.is_multiple_of(self.heads) {
            return Err(Error::mismatch("attention of no tokens, or heads that do not divide the width"));
        }
        if self.queries > tokens {
            return Err(Error::mismatch("more queries than tokens").expected(tokens).got(self.queries));
        }
        if self.skipped_keys >= tokens || (self.is_causal && self.skipped_keys > 0) {
            return Err(Error::mismatch("attention to no keys").got(format_args!("{} skipped", self.skipped_keys)));
        }
        if let Some(rotation) = &self.rotation {
            let dim = width / self.heads;
            if !dim.is_multiple_of(2) || rotation.factors.len() != 2 * tokens * dim {
                return Err(Error::mismatch("a rotation of another size")
                    .expected(format_args!("[2, {tokens}, {dim}], the last of them even"))
                    .got(format_args!("{} values", rotation.factors.len())));
            }
        }
        let sequences = self.qkv.len() / (tokens * 3 * width);
        let fits = self.qkv.len() == sequences * tokens * 3 * width;
        if !fits || self.out.len() != sequences * self.queries * width {
            return Err(Error::mismatch("an input or output of another size")
                .expected(format_args!("{sequences} sequences of {tokens} tokens"))
                .got(format_args!("{} and {} values", self.qkv.len(), self.out.len())));
        }
        Ok(sequences)
    }
}

#[cfg(test)]
mod tests {
    use super::super::rotation::Pairing;
    use super::super::tests::{TestPool, bits, of_every_variant, values};
    use super::*;

    struct Case {
        sequences: usize,
        tokens: usize,
        queries: usize,
        skipped: usize,
        pairing: Option<Pairing>,
        heads: usize,
        dim: usize,
        is_causal: bool,
    }

    impl Case {
        fn qkv(&self) -> Vec<f32> {
            values(self.tokens as u64, self.sequences * self.tokens * 3 * self.heads * self.dim, 1.5)
        }

        /// Cosines and sines of any angles, another in each place.
        fn factors(&self) -> Vec<f32> {
            let angles = values(3, self.tokens * self.dim, 2.0);
            angles.iter().map(|angle| angle.cos()).chain(angles.iter().map(|angle| angle.sin())).collect()
        }

        fn run(&self, kernel: Kernel, threads: usize, qkv: &[f32]) -> Vec<f32> {
            let Self { tokens, queries, skipped, heads, is_causal, .. } = *self;
            let (width, factors) = (heads * self.dim, self.factors());
            let rotation = self.pairing.map(|pairing| Rotation { pairing, factors: &factors });
            let mut out = vec![f32::NAN; self.sequences * queries * width];
            let job = AttentionJob {
                qkv,
                tokens,
                queries,
                skipped_keys: skipped,
                rotation,
                heads,
                width,
                is_causal,
                out: &mut out,
            };
            attention(kernel, job, &TestPool(threads), &mut Scratch::default()).unwrap();
            out
        }

        /// The same in f64.
        fn exact(&self, qkv: &[f32]) -> Vec<f64> {
            let width = self.heads * self.dim;
            let factors = self.factors();
            let plain = |s: usize, t: usize, which: usize, i: usize| {
                f64::from(qkv[((s * self.tokens + t) * 3 + which) * width + i])
            };
            // Of two values that belong together, the second is turned towards the first, and the first away from it.
            let at = |s: usize, t: usize, which: usize, i: usize| {
                let (head, i) = (i / self.dim * self.dim, i % self.dim);
                let (other, sign) = match self.pairing {
                    Some(Pairing::Neighbours) => (i ^ 1, if i % 2 == 0 { -1.0 } else { 1.0 }),
                    Some(Pairing::Halves) if i < self.dim / 2 => (i + self.dim / 2, -1.0),
                    Some(Pairing::Halves) => (i - self.dim / 2, 1.0),
                    None => return plain(s, t, which, head + i),
                };
                let factor = |which: usize| f64::from(factors[(which * self.tokens + t) * self.dim + i]);
                plain(s, t, which, head + i) * factor(0) + sign * plain(s, t, which, head + other) * factor(1)
            };
            let mut out = Vec::new();
            for (s, t, i) in (0..self.sequences)
                .flat_map(|s| (0..self.queries).flat_map(move |t| (0..width).map(move |i| (s, t, i))))
            {
                let head = i / self.dim * self.dim;
                let seen = if self.is_causal { t + 1 } else { self.tokens };
                let score = |j: usize| {
                    let products = (head..head + self.dim).map(|d| at(s, t, 0, d) * at(s, j, 1, d));
                    (products.sum::<f64>() / (self.dim as f64).sqrt()).exp()
                };
                let (seen, value) = (self.skipped..seen, |j: usize| plain(s, j, 2, i));
                let sum: f64 = seen.clone().map(score).sum();
                out.push(seen.map(|j| score(j) * value(j)).sum::<f64>() / sum);
            }
            out
        }
    }

    const PLAIN: Case =
        Case { sequences: 2, tokens: 50, queries: 50, skipped: 0, pairing: None, heads: 3, dim: 64, is_causal: false };

    const CASES: [Case; 11] = [
        PLAIN,
        Case { sequences: 3, queries: 1, heads: 2, ..PLAIN },
        Case { tokens: 77, queries: 77, heads: 2, dim: 20, is_causal: true, ..PLAIN },
        Case { sequences: 1, tokens: 1, queries: 1, heads: 1, dim: 5, ..PLAIN },
        Case { sequences: 1, tokens: 65, queries: 65, heads: 2, dim: 80, ..PLAIN },
        Case { queries: 1, skipped: 1, ..PLAIN },
        Case { tokens: 34, queries: 34, skipped: 3, dim: 20, ..PLAIN },
        Case { pairing: Some(Pairing::Neighbours), ..PLAIN },
        Case { pairing: Some(Pairing::Halves), ..PLAIN },
        Case { sequences: 1, tokens: 33, queries: 7, skipped: 1, pairing: Some(Pairing::Neighbours), dim: 22, ..PLAIN },
        Case { tokens: 33, queries: 33, pairing: Some(Pairing::Halves), dim: 22, is_causal: true, ..PLAIN },
    ];

    #[test]
    fn every_kernel_gives_the_bits_of_the_specification() {
        for case in CASES {
            let qkv = case.qkv();
            let expected = case.run(Kernel::Scalar, 1, &qkv);
            for (variant, got) in of_every_variant(|| case.run(Kernel::best(), 3, &qkv)) {
                assert!(bits(&got) == bits(&expected), "{variant}, {} tokens", case.tokens);
            }
            let (mut wrong, mut all) = (0.0, 0.0);
            for (got, exact) in expected.iter().zip(case.exact(&qkv)) {
                wrong += (f64::from(*got) - exact).powi(2);
                all += exact * exact;
            }
            assert!((wrong / all).sqrt() < 1e-6, "{} tokens: {}", case.tokens, (wrong / all).sqrt());
        }
    }

    #[test]
    fn a_sequence_does_not_depend_on_the_others() {
        let case = PLAIN;
        let qkv = case.qkv();
        let both = case.run(Kernel::best(), 2, &qkv);
        let second = Case { sequences: 1, ..case }.run(Kernel::best(), 1, &qkv[qkv.len() / 2..]);
        assert!(bits(&both[both.len() / 2..]) == bits(&second));
        // The first query alone is the first of all.
        let first = Case { sequences: 1, queries: 1, ..case }.run(Kernel::best(), 1, &qkv[..qkv.len() / 2]);
        assert!(bits(&both[..first.len()]) == bits(&first));
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let case = Case { tokens: 5, queries: 5, heads: 2, dim: 8, ..PLAIN };
        let width = case.heads * case.dim;
        for (which, bad) in [0, 1, 2].into_iter().flat_map(|which| [f32::NAN, f32::INFINITY].map(|bad| (which, bad))) {
            let mut qkv = case.qkv();
            qkv[(3 * 3 + which) * width + 2] = bad;
            for (variant, out) in of_every_variant(|| case.run(Kernel::best(), 1, &qkv)) {
                let is_bad = |i: usize| {
                    let (token, value) = (i / width, i % width);
                    match which {
                        0 => token == 3 && value < case.dim,
                        1 => token < 5 && value < case.dim,
                        _ => token < 5 && value == 2,
                    }
                };
                let wrong: Vec<_> = (0..out.len()).filter(|&i| out[i].is_finite() == is_bad(i)).collect();
                // A score of −∞ is a weight of zero.
                let is_fine = wrong.is_empty() || (which == 1 && bad.is_infinite());
                assert!(is_fine, "{variant} {which} {bad}: {wrong:?}");
            }
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let attend =
            |len: usize, tokens, [queries, skipped_keys]: [usize; 2], heads, is_causal, rotation, out: usize| {
                let (qkv, factors) = (vec![0.0; len], rotation);
                let rotation =
                    (factors > 0).then(|| Rotation { pairing: Pairing::Halves, factors: &[0.0; 64][..factors] });
                let (qkv, out, width) = (&qkv[..], &mut [0.0; 64][..out], 8);
                let job = AttentionJob { qkv, tokens, queries, skipped_keys, rotation, heads, width, is_causal, out };
                attention(Kernel::best(), job, &TestPool(1), &mut Scratch::default())
            };
        let run = |len, tokens, queries, heads, out| attend(len, tokens, [queries, 0], heads, false, 0, out);
        assert!(run(2 * 2 * 24, 2, 2, 4, 32).is_ok());
        assert!(run(2 * 2 * 24 - 1, 2, 2, 4, 32).is_err());
        assert!(run(2 * 2 * 24, 2, 3, 4, 48).is_err());
        assert!(run(2 * 2 * 24, 2, 2, 3, 32).is_err());
        assert!(run(2 * 2 * 24, 2, 2, 4, 31).is_err());
        assert!(run(2 * 2 * 24, 0, 0, 4, 32).is_err());
        assert!(attend(2 * 24, 2, [1, 1], 4, false, 0, 8).is_ok());
        assert!(attend(2 * 24, 2, [1, 2], 4, false, 0, 8).is_err());
        assert!(attend(2 * 24, 2, [1, 1], 4, true, 0, 8).is_err());
        assert!(attend(2 * 24, 2, [2, 0], 4, true, 8, 16).is_ok());
        assert!(attend(2 * 24, 2, [2, 0], 4, true, 7, 16).is_err());
        // A single value has no partner.
        assert!(attend(2 * 24, 2, [2, 0], 8, true, 4, 16).is_err());
    }
}
