//! Numbers as bytes, vectors that may be refused, and what shapes come to.

use std::alloc::{Layout, alloc_zeroed};

use crate::error::{Error, Result};

/// The bytes of f32 values, as a little-endian file holds them.
pub(crate) fn f32_bytes(values: &[f32]) -> &[u8] {
    // SAFETY: every f32 is four bytes that may be read as such, and the slice covers exactly those.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The bytes of f32 values, to be written.
pub(crate) fn f32_bytes_mut(values: &mut [f32]) -> &mut [u8] {
    // SAFETY: the slice covers exactly the values' own bytes, and any four bytes are an f32.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// The bytes of half floats' bits.
pub(crate) fn u16_bytes(values: &[u16]) -> &[u8] {
    // SAFETY: every u16 is two bytes that may be read as such, and the slice covers exactly those.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// Numbers whose zero is zero bits, and that need not be dropped.
///
/// # Safety
/// Of its type, zero bits are a value.
pub(crate) unsafe trait Number: Copy {}

macro_rules! numbers {
    ($($number:ty)*) => {
        $(
            // SAFETY: an integer, a float, or an array of such.
            unsafe impl Number for $number {}
        )*
    };
}

numbers!(u8 u16 u64 i32 f32 f64 [i16; 64]);

/// A vector of `count` zeros, or an error where the allocator refuses. Of a large one the operating system gives no
/// page before something is written to it.
pub(crate) fn try_zeroed<T: Number>(count: usize) -> Result<Vec<T>> {
    let refused = || Error::out_of_memory(count.saturating_mul(size_of::<T>()));
    let layout = Layout::array::<T>(count).map_err(|_| refused())?;
    if layout.size() == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the layout has a size.
    let start = unsafe { alloc_zeroed(layout) };
    if start.is_null() {
        return Err(refused());
    }
    // SAFETY: allocated as a vector of `count` values allocates, and zero bits are a value of each.
    Ok(unsafe { Vec::from_raw_parts(start.cast(), count, count) })
}

/// Bytes that a writer gathers before they go to the operating system. No more, because such a buffer cannot be had but
/// by an allocation that ends the process where it is refused: what is larger than this goes past it anyway.
pub(crate) const WRITE_BUFFER: usize = 32 << 10;

/// Vectors that grow, or say that the allocator refuses: what a file's or a caller's numbers make large must not end
/// the process.
pub(crate) trait TryGrow<T> {
    /// Makes room for `more` elements.
    fn try_room(&mut self, more: usize) -> Result<()>;

    /// Appends an element.
    fn try_push(&mut self, value: T) -> Result<()>;

    /// Appends copies of elements.
    fn try_append(&mut self, values: &[T]) -> Result<()>
    where
        T: Clone;
}

impl<T> TryGrow<T> for Vec<T> {
    fn try_room(&mut self, more: usize) -> Result<()> {
        let wanted = self.len().saturating_add(more).saturating_mul(size_of::<T>());
        self.try_reserve(more).map_err(|_| Error::out_of_memory(wanted))
    }

    fn try_push(&mut self, value: T) -> Result<()> {
        self.try_room(1)?;
        self.push(value);
        Ok(())
    }

    fn try_append(&mut self, values: &[T]) -> Result<()>
    where
        T: Clone,
    {
        self.try_room(values.len())?;
        self.extend_from_slice(values);
        Ok(())
    }
}

/// A vector without elements and with room for `count`, or an error where the allocator refuses.
pub(crate) fn try_with_room<T>(count: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| Error::out_of_memory(count.saturating_mul(size_of::<T>())))?;
    Ok(values)
}

/// The elements of an iterator that knows how many it has, or an error where the allocator refuses.
pub(crate) fn try_collected<T>(values: impl ExactSizeIterator<Item = T>) -> Result<Vec<T>> {
    let mut all = try_with_room(values.len())?;
    all.extend(values);
    Ok(all)
}

/// The product of the extents, or `None` where it overflows.
pub(crate) fn checked_numel(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent))
}

/// Row-major strides, in elements.
pub(crate) fn contiguous_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i]);
    }
    strides
}

/// Whether elements of these strides stand side by side in row-major order. Dimensions of extent 1 may have any stride,
/// and an empty tensor is contiguous whatever its strides.
pub(super) fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    shape.contains(&0)
        || contiguous_strides(shape).iter().zip(strides).zip(shape).all(|((want, have), &n)| n == 1 || want == have)
}
