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
    ) => {
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { $splat(value) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { $load(from) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { $store(to, self) }
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { $add(self, other) }
        }

        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { $sub(self, other) }
        }

        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { $mul(self, other) }
        }

        #[inline(always)]
        unsafe fn div(self, other: Self) -> Self {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { $div(self, other) }
        }

        #[inline(always)]
        unsafe fn mul_add(self, x: Self, sum: Self) -> Self {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { $mul_add(self, x, sum) }
        }

        #[inline(always)]
        unsafe fn min(self, other: Self) -> Self {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { $min(self, other) }
        }

        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { $max(self, other) }
        }

        #[inline(always)]
        unsafe fn round(self) -> $int {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { $round(self) }
        }

        #[inline(always)]
        unsafe fn of_int(value: $int) -> Self {
            // SAFETY: the caller keeps the contract of `Lanes`.
            unsafe { $of_int(value) }
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
