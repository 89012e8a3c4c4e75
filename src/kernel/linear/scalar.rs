//! One f32 at a time: the specification.

use half::bf16;

use super::lanes::Lanes;

// Nothing here needs an instruction set; pointers are as `Lanes` asks.
impl Lanes for f32 {
    const LANES: usize = 1;
    const ROWS: usize = 8;
    type Int = i32;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        value
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { from.read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { to.write_unaligned(self) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self + other
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self - other
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self * other
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self / other
    }

    #[inline(always)]
    unsafe fn mul_add(self, x: Self, sum: Self) -> Self {
        f32::mul_add(self, x, sum)
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        if self < other { self } else { other }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        if self > other { self } else { other }
    }

    #[inline(always)]
    unsafe fn if_negative(self, yes: Self, no: Self) -> Self {
        if self < 0.0 { yes } else { no }
    }

    #[inline(always)]
    unsafe fn round(self) -> i32 {
        // Out of range it is what the instruction sets do not agree about, and the contract leaves out.
        self.round_ties_even() as i32
    }

    #[inline(always)]
    unsafe fn of_int(value: i32) -> Self {
        value as f32
    }

    #[inline(always)]
    unsafe fn power_of_two(exponent: i32) -> Self {
        f32::from_bits(((exponent + 127) as u32) << 23)
    }

    #[inline(always)]
    unsafe fn reduce(self, _: impl Fn(f32, f32) -> f32) -> f32 {
        self
    }

    #[inline(always)]
    unsafe fn splat_int(value: i32) -> i32 {
        value
    }

    #[inline(always)]
    unsafe fn load_int(from: *const u8) -> i32 {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { from.cast::<i32>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_int(value: i32, to: *mut u8) {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { to.cast::<i32>().write_unaligned(value) }
    }

    #[inline(always)]
    unsafe fn add_int(a: i32, b: i32) -> i32 {
        a.wrapping_add(b)
    }

    #[inline(always)]
    unsafe fn mul_int(a: i32, b: i32) -> i32 {
        a.wrapping_mul(b)
    }

    #[inline(always)]
    unsafe fn store_bytes(value: i32, to: *mut u8) {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { to.write(value as u8) }
    }

    #[inline(always)]
    unsafe fn clamp_int(value: i32, least: i32, greatest: i32) -> i32 {
        value.clamp(least, greatest)
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u8) {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { to.cast::<u16>().write_unaligned(bf16::from_f32(self).to_bits()) }
    }

    #[inline(always)]
    unsafe fn dot_bytes(sum: i32, a: i32, b: i32) -> i32 {
        let products = a.to_le_bytes().into_iter().zip(b.to_le_bytes()).map(|(a, b)| i32::from(a) * i32::from(b as i8));
        sum + products.sum::<i32>()
    }

    #[inline(always)]
    unsafe fn dot_pairs(sum: f32, a: i32, b: i32) -> f32 {
        let upper = |pair: i32| f32::from_bits(pair as u32 & 0xffff_0000);
        let lower = |pair: i32| f32::from_bits((pair as u32) << 16);
        f32::mul_add(lower(a), lower(b), f32::mul_add(upper(a), upper(b), sum))
    }

    #[inline(always)]
    fn prefetch(_: *const u8) {}
}
