//! What AVX2 and AVX-512 have in common: the same methods, each of one instruction of the same kind.

/// The methods of [`Lanes`](super::lanes::Lanes) that are one instruction, of registers of integers of the type `int`.
///
/// In each of them: the instruction set is there, and the pointer is valid, because `Lanes` asks that of its callers.
macro_rules! shared_methods {
    (
        int: $int:ty,
        splat: $splat:ident,
        load: $load:ident,
        store: $store:ident,
        add: $add:ident,
        sub: $sub:ident,
        mul: $mul:ident,
        div: $div:ident,
        mul_add: $mul_add:ident,
        min: $min:ident,
        max: $max:ident,
        round: $round:ident,
        of_int: $of_int:ident,
        splat_int: $splat_int:ident,
        add_int: $add_int:ident,
        mul_int: $mul_int:ident,
        min_int: $min_int:ident,
        max_int: $max_int:ident,
        and_int: $and_int:ident,
        shift_left: $shift_left:ident,
        shift_left_words: $shift_left_words:ident,
        shift_right_words: $shift_right_words:ident,
        shuffle: $shuffle:ident,
    ) => {
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { Self($splat(value)) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { Self($load(from)) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { $store(to, self.0) }
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { Self($add(self.0, other.0)) }
        }

        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { Self($sub(self.0, other.0)) }
        }

        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { Self($mul(self.0, other.0)) }
        }

        #[inline(always)]
        unsafe fn div(self, other: Self) -> Self {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { Self($div(self.0, other.0)) }
        }

        #[inline(always)]
        unsafe fn mul_add(self, x: Self, sum: Self) -> Self {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { Self($mul_add(self.0, x.0, sum.0)) }
        }

        #[inline(always)]
        unsafe fn min(self, other: Self) -> Self {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { Self($min(self.0, other.0)) }
        }

        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { Self($max(self.0, other.0)) }
        }

        #[inline(always)]
        unsafe fn round(self) -> $int {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { $round(self.0) }
        }

        #[inline(always)]
        unsafe fn of_int(value: $int) -> Self {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { Self($of_int(value)) }
        }

        #[inline(always)]
        unsafe fn splat_int(value: i32) -> $int {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { $splat_int(value) }
        }

        #[inline(always)]
        unsafe fn add_int(a: $int, b: $int) -> $int {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { $add_int(a, b) }
        }

        #[inline(always)]
        unsafe fn mul_int(a: $int, b: $int) -> $int {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { $mul_int(a, b) }
        }

        #[inline(always)]
        unsafe fn clamp_int(value: $int, least: i32, greatest: i32) -> $int {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { $min_int($max_int(value, $splat_int(least)), $splat_int(greatest)) }
        }

        /// Upper halves, swapped in pairs: the second of each pair is the first part.
        #[inline(always)]
        unsafe fn store_pairs(self, to: *mut u8) {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe {
                if Self::PAIR_PARTS == 1 {
                    return self.store_bf16(to);
                }
                let upper = $and_int(self.rounded_to_bf16(), $splat_int(-0x1_0000));
                Self::store_int($shuffle::<0b10_11_00_01>(upper), to);
            }
        }

        /// The bytes with an even number are the first part.
        #[inline(always)]
        unsafe fn part_of_bytes(b: $int, part: usize) -> $int {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe {
                match (Self::BYTE_PARTS, part) {
                    (1, _) => b,
                    (_, 0) => $shift_right_words::<8>($shift_left_words::<8>(b)),
                    _ => $shift_right_words::<8>(b),
                }
            }
        }

        /// A bf16 is the upper half of the f32 of the same value.
        #[inline(always)]
        unsafe fn part_of_pairs(b: $int, part: usize) -> $int {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe {
                match (Self::PAIR_PARTS, part) {
                    (1, _) => b,
                    (_, 0) => $and_int(b, $splat_int(-0x1_0000)),
                    _ => $shift_left::<16>(b),
                }
            }
        }

        #[inline(always)]
        fn prefetch(line: *const u8) {
            // SAFETY: SSE is part of x86-64, and prefetching never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
        }

        #[inline(always)]
        fn prefetch_far(line: *const u8) {
            // SAFETY: as before.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) }
        }

        #[inline(always)]
        fn prefetch_out(line: *const u8) {
            // SAFETY: as before; where the hint is not known, it is none.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(line.cast()) }
        }

        #[inline(always)]
        fn fence() {
            // SAFETY: SSE is part of x86-64.
            unsafe { _mm_sfence() }
        }
    };
}

pub(super) use shared_methods;
