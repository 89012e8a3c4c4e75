//! The outputs of results: side by side as they are computed, or transposed, cut, scaled, in other types.

use std::marker::PhantomData;
use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::linear::{PackedLayout, PanelPacker};
use crate::error::{Error, Result};
use crate::tensor::{DType, checked_numel, contiguous_strides, f32_bytes_mut};

/// A place for a stretch of a tensor's elements.
#[derive(Debug)]
pub struct Output<'a> {
    /// The elements of the tensor, in row-major order.
    elements: Range<usize>,
    /// The shape that those are seen in, and where a step along each dimension leads in the output, in elements.
    shape: Vec<usize>,
    strides: Vec<usize>,
    scale: Option<f32>,
    dtype: DType,
    /// The packed form of the whole tensor, instead of elements.
    packed: Option<PackedLayout>,
    /// Whether the tensor may have elements beyond.
    is_part: bool,
    out: *mut u8,
    borrowed: PhantomData<&'a mut [u8]>,
}

// SAFETY: `out` is an exclusive borrow of bytes for `'a`. Threads that share an output write disjoint elements of it:
// every element of the tensor goes to a place of its own (`Output::new` makes sure of it), and every thread has
// elements of its own.
unsafe impl Sync for Output<'_> {}
// SAFETY: the borrow that `out` stands for may go to another thread; nothing else in it belongs to one.
unsafe impl Send for Output<'_> {}

impl<'a> Output<'a> {
    /// All of a tensor's elements as f32, in order.
    pub fn whole(out: &'a mut [f32]) -> Self {
        let numel = out.len();
        Self {
            elements: 0..numel,
            shape: vec![numel],
            strides: vec![1],
            scale: None,
            dtype: DType::F32,
            packed: None,
            is_part: false,
            out: f32_bytes_mut(out).as_mut_ptr(),
            borrowed: PhantomData,
        }
    }

    /// The elements `elements` of a tensor, seen in `shape`, with its dimensions in the order `permute`, times `scale`,
    /// as `dtype`, side by side in `out`.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where the number of elements or the permutation does not fit;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a type that is no float.
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
        let (is_part, out) = (true, out.as_mut_ptr());
        Ok(Self { elements, shape, strides, scale, dtype, packed: None, is_part, out, borrowed: PhantomData })
    }

    /// A matrix as the linear kernel reads it: all of a tensor, or the rows of it that begin at the element `start`,
    /// which is the beginning of a panel.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where `out` has another size than the layout, or is not
    /// aligned to [`ALIGNMENT`](super::linear::ALIGNMENT) bytes, or for another start.
    pub fn packed(layout: PackedLayout, start: Option<usize>, out: &'a mut [u8]) -> Result<Self> {
        if out.len() != layout.nbytes() || !out.as_ptr().addr().is_multiple_of(super::linear::ALIGNMENT) {
            return Err(Error::mismatch("the output has no place for a packed matrix")
                .expected(format_args!("{} aligned bytes", layout.nbytes()))
                .got(out.len()));
        }
        let (numel, first) = (layout.outputs() * layout.inputs(), start.unwrap_or(0));
        if !first.is_multiple_of(layout.panel_elements()) {
            return Err(Error::mismatch("a packed matrix that begins within a panel").got(first));
        }
        Ok(Self {
            elements: first..first.saturating_add(numel),
            shape: vec![numel],
            strides: vec![1],
            scale: None,
            dtype: DType::F32,
            packed: Some(layout),
            is_part: start.is_some(),
            out: out.as_mut_ptr(),
            borrowed: PhantomData,
        })
    }

    /// The elements that are put there together, where that matters: whole panels.
    pub(super) fn unit(&self) -> Option<usize> {
        self.packed.map(|layout| layout.panel_elements())
    }

    /// The elements of the tensor that it takes.
    pub(super) fn elements(&self) -> &Range<usize> {
        &self.elements
    }

    /// Whether the tensor may have elements beyond.
    pub(super) fn is_part(&self) -> bool {
        self.is_part
    }

    /// Bytes that it takes.
    pub(super) fn nbytes(&self) -> usize {
        self.packed.map_or_else(|| self.elements.len() * self.dtype.size(), |layout| layout.nbytes())
    }

    /// The memory itself, where all `numel` elements of the tensor belong there as f32, in order.
    pub(super) fn in_order(self, numel: usize) -> std::result::Result<&'a mut [f32], Self> {
        let is_in_order = self.elements == (0..numel)
            && self.strides == [1]
            && self.dtype == DType::F32
            && self.scale.is_none()
            && self.packed.is_none()
            && self.out.cast::<f32>().is_aligned();
        if !is_in_order {
            return Err(self);
        }
        // SAFETY: `out` is aligned, as was just seen; it is an exclusive borrow for `'a` of `numel` times four bytes
        // (`new` and `whole` made sure of it), which ends in the slice; and any four bytes are an f32.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.out.cast::<f32>(), numel) })
    }

    /// Takes what is its own of `values`, which are the tensor's elements from `start` on: whole panels of a matrix
    /// that is packed.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub(super) fn put(
        &self,
        start: usize,
        values: &[f32],
        buffer: &mut Vec<f32>,
        packer: &mut PanelPacker,
    ) -> Result<()> {
        let from = start.max(self.elements.start);
        let to = (start + values.len()).min(self.elements.end);
        if from >= to {
            return Ok(());
        }
        let values = &values[from - start..to - start];
        let at = from - self.elements.start;
        if let Some(layout) = &self.packed {
            // SAFETY: `out` is an exclusive borrow of the layout's bytes, aligned (`packed` made sure of it); of
            // threads that share it, each has panels of its own, as items of jobs with such an output are whole panels,
            // counted from the tensor's first element, and so are its own (`packed` again).
            return unsafe { packer.pack(layout, at, values, self.out) };
        }
        match self.scale {
            None => self.put_all(at, values),
            Some(scale) => {
                buffer.clear();
                buffer.extend(values.iter().map(|value| value * scale));
                self.put_all(at, buffer);
            }
        }
        Ok(())
    }

    /// Writes the elements from `at` on, counted within the output's.
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

    /// The place of the element `at`, in elements of the output.
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
        // SAFETY: the places of its elements lie inside the output (`new` made their mapping a bijection
        // onto it), and `values` stand for as many neighbours there; no other thread has these elements.
        let out = unsafe { std::slice::from_raw_parts_mut(self.out.add(place * size), values.len() * size) };
        cast(values, self.dtype, out);
    }
}

/// The rows that are written together: two cache lines of f32, one of half floats.
pub(super) const ROWS: usize = 32;

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

/// Simplifies a mapping to as few dimensions as it has, but at least one: neighbours that go on where the inner one
/// ends are one.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Kernel, TensorJob, combine};
    use crate::tensor::Tensor;

    /// Every output is what the tensor's own view of it reads.
    #[test]
    fn outputs_hold_what_views_read() {
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
                let output = Output::new(0..numel, &seen, permute.as_deref(), Some(0.5), dtype, &mut out).unwrap();
                let job = TensorJob {
                    name: "t",
                    base: Some(&tensor),
                    coefficients: &[],
                    terms: Vec::new(),
                    outputs: vec![output],
                };
                combine(Kernel::best(), 3, vec![job], None).unwrap();
                let halved: Vec<f32> = expected.iter().map(|v| v * 0.5).collect();
                let mut bytes = vec![0; out.len()];
                cast(&halved, dtype, &mut bytes);
                assert!(out == bytes, "{shape:?} {permute:?} {dtype}");
            }
        }
        assert!(Output::new(0..4, &[2, 2], Some(&[0, 0]), None, DType::F32, &mut [0; 16]).is_err());
        assert!(Output::new(0..4, &[2, 2], None, None, DType::F32, &mut [0; 15]).is_err());
        assert!(Output::new(0..4, &[2, 3], None, None, DType::F32, &mut [0; 16]).is_err());
    }
}
