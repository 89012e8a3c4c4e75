//! Results that go elsewhere than side by side: transposed, cut, in other types. Computed strip by strip in a buffer
//! that stays in the cache, by the same kernels and with the same bits, and written from there in the same pass.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::combine::{Piece, Plan, check};
use super::dispatch::Kernel;
use super::threads;
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::{BLOCK, DType, Source, Tensor, checked_numel, contiguous_strides, try_zeroed};

/// One tensor to compute, as [`Segment`](super::Segment), and where its elements go.
pub struct Scattered<'a> {
    /// What errors call it.
    pub name: &'a str,
    /// What the sum is added to.
    pub base: &'a Tensor,
    /// The terms in ascending m, one a coefficient.
    pub terms: Vec<&'a Source>,
    /// Where elements go; what is in none of them is not kept.
    pub destinations: Vec<Destination<'a>>,
}

impl fmt::Debug for Scattered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, terms, destinations, .. } = self;
        let mut shown = f.debug_struct("Scattered");
        shown.field("name", name).field("terms", &terms.len()).field("destinations", destinations);
        shown.finish_non_exhaustive()
    }
}

/// Where a run of a tensor's elements goes.
#[derive(Debug)]
pub struct Destination<'a> {
    /// Which elements of the tensor, in row-major order.
    elements: Range<usize>,
    /// The shape that those are seen in, and where a step along each dimension leads in the output, in elements.
    shape: Vec<usize>,
    strides: Vec<usize>,
    scale: Option<f32>,
    dtype: DType,
    out: *mut u8,
    borrowed: PhantomData<&'a mut [u8]>,
}

// SAFETY: `out` is an exclusive borrow of bytes for `'a`. Threads that share a destination write disjoint elements of
// it: every element of the tensor goes to a place of its own (`Destination::new` makes sure of it), and every thread
// has elements of its own.
unsafe impl Sync for Destination<'_> {}
// SAFETY: as above; nothing in it belongs to a thread.
unsafe impl Send for Destination<'_> {}

impl<'a> Destination<'a> {
    /// The elements `elements` of a tensor, seen in `shape`, with its dimensions in the order `permute`, times `scale`,
    /// as `dtype`, side by side in `out`.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] where the number of elements or the permutation does not fit;
    /// [`ErrorKind::Unsupported`] for a type that is no float.
    pub fn new(
        elements: Range<usize>,
        shape: &[usize],
        permute: Option<&[usize]>,
        scale: Option<f32>,
        dtype: DType,
        out: &'a mut [u8],
    ) -> Result<Self> {
        let natural: Vec<usize> = (0..shape.len()).collect();
        let permute = permute.unwrap_or(&natural);
        let mut sorted = permute.to_vec();
        sorted.sort_unstable();
        if sorted != natural {
            return Err(Error::mismatch("not a permutation of the dimensions").got(format_args!("{permute:?}")));
        }
        if !dtype.is_float() {
            return Err(Error::unsupported("results are floats").got(dtype));
        }
        if checked_numel(shape) != Some(elements.len()) || elements.len().checked_mul(dtype.size()) != Some(out.len()) {
            return Err(Error::mismatch("the output has another size than the elements that go there")
                .expected(format_args!("{} elements of {dtype}", elements.len()))
                .got(format_args!("{shape:?} in {} bytes", out.len())));
        }
        // Row-major strides of the permuted shape, given back to the dimensions that they belong to: a bijection.
        let permuted: Vec<usize> = permute.iter().map(|&d| shape[d]).collect();
        let mut strides = vec![0; shape.len()];
        for (stride, &d) in contiguous_strides(&permuted).into_iter().zip(permute) {
            strides[d] = stride;
        }
        let (shape, strides) = simplified(shape, &strides);
        Ok(Self { elements, shape, strides, scale, dtype, out: out.as_mut_ptr(), borrowed: PhantomData })
    }

    /// Takes what is its own of `values`, which are the tensor's elements from `start` on.
    fn put(&self, start: usize, values: &[f32], buffer: &mut Vec<f32>) {
        let from = start.max(self.elements.start);
        let to = (start + values.len()).min(self.elements.end);
        if from >= to {
            return;
        }
        let values = &values[from - start..to - start];
        let at = from - self.elements.start;
        match self.scale {
            None => self.put_all(at, values),
            Some(scale) => {
                buffer.clear();
                buffer.extend(values.iter().map(|value| value * scale));
                self.put_all(at, buffer);
            }
        }
    }

    /// Writes the elements from `at` on, counted within the destination.
    fn put_all(&self, mut at: usize, mut values: &[f32]) {
        let last = self.shape.len() - 1;
        let (width, stride) = (self.shape[last], self.strides[last]);
        // Whole rows whose elements go to other rows: written column by column, so that what is written together lies
        // together.
        let columns_lie_together = last > 0 && stride != 1 && self.strides[last - 1] == 1;
        while !values.is_empty() {
            let column = at % width;
            if columns_lie_together && column == 0 && values.len() >= 2 * width {
                let rows_left = self.shape[last - 1] - at / width % self.shape[last - 1];
                let rows = (values.len() / width).min(rows_left).min(ROWS);
                let place = self.place(at);
                let mut together = [0.0f32; ROWS];
                for c in 0..width {
                    for (r, slot) in together[..rows].iter_mut().enumerate() {
                        *slot = values[r * width + c];
                    }
                    self.write(place + c * stride, &together[..rows]);
                }
                (at, values) = (at + rows * width, &values[rows * width..]);
                continue;
            }
            let run = (width - column).min(values.len());
            let place = self.place(at);
            if stride == 1 {
                self.write(place, &values[..run]);
            } else {
                values[..run].iter().enumerate().for_each(|(i, value)| self.write(place + i * stride, &[*value]));
            }
            (at, values) = (at + run, &values[run..]);
        }
    }

    /// Where the element `at` goes, in elements of the output.
    fn place(&self, mut at: usize) -> usize {
        let mut place = 0;
        for (extent, stride) in self.shape.iter().zip(&self.strides).rev() {
            place += at % extent * stride;
            at /= extent;
        }
        place
    }

    /// Writes values side by side from the element `place` on.
    fn write(&self, place: usize, values: &[f32]) {
        assert!(place + values.len() <= self.elements.len(), "values outside the output");
        let size = self.dtype.size();
        // SAFETY: the places of elements of the destination lie inside the output (`new` made their mapping a bijection
        // onto it), and `values` stand for as many neighbours there; no other thread has these elements.
        let out = unsafe { std::slice::from_raw_parts_mut(self.out.add(place * size), values.len() * size) };
        cast(values, self.dtype, out);
    }
}

/// How many rows are written together: two cache lines of f32, one of half floats.
const ROWS: usize = 32;

/// Elements that are computed at a time, about: with the vectors' own bytes they stay in the second-level cache.
const TILE: usize = 32 << 10;

/// Values as bytes of a type, rounded to nearest.
pub(crate) fn cast(values: &[f32], dtype: DType, out: &mut [u8]) {
    fn halves<H: Copy + Default, const N: usize>(
        values: &[f32],
        out: &mut [u8],
        convert: impl Fn(&mut [H], &[f32]),
        bytes: impl Fn(H) -> [u8; N],
    ) {
        let mut buffer = [H::default(); 256];
        for (values, out) in values.chunks(buffer.len()).zip(out.chunks_mut(buffer.len() * N)) {
            let buffer = &mut buffer[..values.len()];
            convert(buffer, values);
            out.chunks_exact_mut(N).zip(&*buffer).for_each(|(slot, value)| slot.copy_from_slice(&bytes(*value)));
        }
    }
    match dtype {
        DType::F16 => halves(values, out, <[f16]>::convert_from_f32_slice, f16::to_le_bytes),
        DType::BF16 => halves(values, out, <[bf16]>::convert_from_f32_slice, bf16::to_le_bytes),
        DType::F64 => {
            out.chunks_exact_mut(8)
                .zip(values)
                .for_each(|(slot, v)| slot.copy_from_slice(&f64::from(*v).to_le_bytes()));
        }
        _ => out.chunks_exact_mut(4).zip(values).for_each(|(slot, v)| slot.copy_from_slice(&v.to_le_bytes())),
    }
}

/// The same mapping in as few dimensions as it has, but at least one: neighbours that go on where the inner one ends
/// are one.
pub(super) fn simplified(shape: &[usize], strides: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let (mut extents, mut steps): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    for (&extent, &stride) in shape.iter().zip(strides).filter(|(extent, _)| **extent != 1) {
        match (extents.last_mut(), steps.last_mut()) {
            (Some(last), Some(step)) if *step == extent * stride => (*last, *step) = (*last * extent, stride),
            _ => {
                extents.push(extent);
                steps.push(stride);
            }
        }
    }
    if extents.is_empty() {
        (extents, steps) = (vec![1], vec![1]);
    }
    (extents, steps)
}

/// As [`combine`](super::combine), to other places: each result is what [`combine`](super::combine) gives, bit for bit,
/// times the destination's scale, rounded to its type.
///
/// # Errors
/// As [`combine_cancellable`](super::combine_cancellable).
pub fn scatter(
    kernel: Kernel,
    threads: usize,
    coefficients: &[f32],
    tensors: Vec<Scattered<'_>>,
    cancel: Option<&AtomicBool>,
) -> Result<()> {
    let function = kernel.function()?;
    if let Some(bad) = coefficients.iter().find(|coefficient| !coefficient.is_finite()) {
        return Err(Error::invalid("a coefficient is not finite").got(bad));
    }
    let mut plans = Vec::with_capacity(tensors.len());
    for Scattered { name, base, terms, destinations } in tensors {
        check(Some(base), &terms, coefficients.len(), base.numel()).map_err(|error| error.tensor(name))?;
        let beyond = destinations.iter().find(|destination| destination.elements.end > base.numel());
        if let Some(beyond) = beyond {
            return Err(Error::mismatch("elements outside the tensor")
                .tensor(name)
                .got(format_args!("{:?}", beyond.elements)));
        }
        let width = base.shape().last().copied().unwrap_or(1).max(1);
        plans.push((Plan::new(Some(base), coefficients, terms), destinations, base.numel(), width));
    }
    let mut pieces = Vec::new();
    for (plan, destinations, numel, width) in &plans {
        // Many rows, in whole blocks.
        let rows = (TILE / width / ROWS).max(1) * ROWS;
        let length = (rows * width).min(4 * TILE).next_multiple_of(BLOCK);
        for start in (0..*numel).step_by(length) {
            pieces.push((plan, destinations, start, length.min(numel - start)));
        }
    }
    #[derive(Default)]
    struct Scratch {
        converted: Vec<f32>,
        result: Vec<f32>,
        scaled: Vec<f32>,
    }
    threads::share(threads::count(threads), pieces, |(plan, destinations, start, count), scratch: &mut Scratch| {
        if cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
            return Err(Error::new(ErrorKind::Cancelled, "the work was called off"));
        }
        if scratch.result.len() < count {
            scratch.result = try_zeroed(count)?;
        }
        let out = &mut scratch.result[..count];
        Piece { plan, start, out }.run(function, false, &mut scratch.converted)?;
        let values = &scratch.result[..count];
        destinations.iter().for_each(|destination| destination.put(start, values, &mut scratch.scaled));
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every destination is what the tensor's own view of it reads.
    #[test]
    fn destinations_hold_what_views_read() {
        for (shape, seen, permute) in [
            (vec![70, 40], vec![70, 40], Some(vec![1, 0])),
            (vec![70, 40], vec![70, 40], None),
            (vec![6, 3, 5, 7], vec![6, 3, 5, 7], Some(vec![0, 2, 3, 1])),
            (vec![6, 3, 5, 7], vec![6, 3, 5, 7], Some(vec![2, 3, 1, 0])),
            (vec![12, 5], vec![3, 4, 5], Some(vec![1, 0, 2])),
            (vec![130], vec![13, 10], Some(vec![1, 0])),
        ] {
            let numel: usize = shape.iter().product();
            let values: Vec<f32> = (0..numel).map(|i| i as f32 * 0.37 - 5.0).collect();
            let tensor = Tensor::from_f32(&values, &shape, "test").unwrap();
            let order = permute.clone().unwrap_or_else(|| (0..seen.len()).collect());
            let pick = |of: &[usize]| order.iter().map(|&d| of[d]).collect::<Vec<_>>();
            let view = tensor.rearranged(0, &pick(&seen), &pick(&contiguous_strides(&seen))).unwrap();
            let expected = view.to_f32().unwrap();
            for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
                let mut out = vec![0; numel * dtype.size()];
                let destination =
                    Destination::new(0..numel, &seen, permute.as_deref(), Some(0.5), dtype, &mut out).unwrap();
                let tensors =
                    vec![Scattered { name: "t", base: &tensor, terms: Vec::new(), destinations: vec![destination] }];
                scatter(Kernel::best(), 3, &[], tensors, None).unwrap();
                let halved: Vec<f32> = expected.iter().map(|v| v * 0.5).collect();
                let mut bytes = vec![0; out.len()];
                cast(&halved, dtype, &mut bytes);
                assert!(out == bytes, "{shape:?} {permute:?} {dtype}");
            }
        }
        assert!(Destination::new(0..4, &[2, 2], Some(&[0, 0]), None, DType::F32, &mut [0; 16]).is_err());
        assert!(Destination::new(0..4, &[2, 2], None, None, DType::F32, &mut [0; 15]).is_err());
        assert!(Destination::new(0..4, &[2, 3], None, None, DType::F32, &mut [0; 16]).is_err());
    }
}
