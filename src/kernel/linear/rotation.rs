//! Rotary positions of queries and keys.

use super::lanes::Lanes;

/// The values of a head that are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Values 2i and 2i + 1.
    Neighbours,
    /// Values i and i + d/2 of d.
    Halves,
}

impl Pairing {
    /// The number that graphs have for it; none is rotated where that is 0.
    pub(crate) fn code(self) -> i64 {
        match self {
            Self::Neighbours => 1,
            Self::Halves => 2,
        }
    }

    /// A value per pair, `half` of them for each token, put at both places of its pair.
    pub(crate) fn doubled(self, values: &[f32], half: usize) -> Vec<f32> {
        let of_token = |values: &[f32]| match self {
            Self::Neighbours => values.iter().flat_map(|&value| [value; 2]).collect(),
            Self::Halves => values.repeat(2),
        };
        values.chunks(half.max(1)).flat_map(of_token).collect::<Vec<f32>>()
    }

    /// The pairing of that number.
    pub(crate) fn of_code(code: i64) -> Option<Self> {
        [Self::Neighbours, Self::Halves].into_iter().find(|one| one.code() == code)
    }
}

/// The rotation of each token's queries and keys: of two values x and y that belong together, `x·cos − y·sin` and
/// `y·cos + x·sin`, each with the cosine and sine of its own place.
#[derive(Clone, Copy, Debug)]
pub struct Rotation<'a> {
    /// The values that belong together.
    pub pairing: Pairing,
    /// Cosines, then sines: `[2, tokens, width / heads]`. A token with cosines of 1 and sines of 0 stays as it is.
    pub factors: &'a [f32],
}

impl Rotation<'_> {
    /// Cosines and sines of a token, of `dim` values each.
    fn of_token(&self, token: usize, dim: usize) -> [&[f32]; 2] {
        let (cosines, sines) = self.factors.split_at(self.factors.len() / 2);
        [cosines, sines].map(|factors| &factors[token * dim..][..dim])
    }

    /// Values of a token rotated, in `room`, which is twice as long.
    ///
    /// # Safety
    /// The instruction set must be there.
    #[inline(always)]
    pub(super) unsafe fn apply<'r, V: Lanes>(&self, token: usize, values: &[f32], room: &'r mut [f32]) -> &'r [f32] {
        let dim = values.len();
        let [cosines, sines] = self.of_token(token, dim);
        let (partners, out) = room.split_at_mut(dim);
        assert!(out.len() == dim, "twice as much room");
        match self.pairing {
            Pairing::Neighbours => {
                for (to, pair) in partners.chunks_exact_mut(2).zip(values.chunks_exact(2)) {
                    (to[0], to[1]) = (-pair[1], pair[0]);
                }
            }
            Pairing::Halves => {
                let (low, high) = values.split_at(dim / 2);
                for (to, value) in partners.iter_mut().zip(high) {
                    *to = -value;
                }
                partners[dim / 2..].copy_from_slice(low);
            }
        }
        let whole = dim / V::LANES * V::LANES;
        // SAFETY: the caller's promise: the instruction set is there. A register is read and written where all of the
        // slices have one.
        unsafe {
            for at in (0..whole).step_by(V::LANES) {
                let (cosine, sine) = (V::load(cosines.as_ptr().add(at)), V::load(sines.as_ptr().add(at)));
                let straight = V::load(values.as_ptr().add(at)).mul(cosine);
                V::load(partners.as_ptr().add(at)).mul_add(sine, straight).store(out.as_mut_ptr().add(at));
            }
        }
        for i in whole..dim {
            out[i] = partners[i].mul_add(sines[i], values[i] * cosines[i]);
        }
        out
    }
}
