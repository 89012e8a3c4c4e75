//! Every instruction set against the specification, and the specification against exact arithmetic.

mod gain;

use super::entry::{TRIED, VARIANTS};
use super::*;
use crate::kernel::Kernel;

/// One thread, or several that take the pieces in an order of their own.
pub(super) struct TestPool(pub(super) usize);

impl Pool for TestPool {
    fn threads(&self) -> usize {
        self.0
    }

    fn run(&self, count: usize, work: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|scope| {
            for thread in 0..self.0 {
                scope.spawn(move || (0..count).rev().filter(|i| i % self.0 == thread).for_each(work));
            }
        });
    }
}

pub(super) fn values(seed: u64, count: usize, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| (next() + next() + next()) * scale).collect()
}

struct Aligned(Vec<[u64; 8]>, usize, usize);

impl Aligned {
    fn new(len: usize) -> Self {
        // Dirty, so that what is left unwritten is seen.
        let memory = vec![[0xabab_abab_abab_abab; 8]; len.div_ceil(64) + 1];
        let offset = memory.as_ptr().addr().next_multiple_of(64) - memory.as_ptr().addr();
        Self(memory, offset, len)
    }

    fn bytes(&mut self) -> &mut [u8] {
        let all = self.0.as_flattened_mut();
        // SAFETY: plain bytes of integers, for as long as they are borrowed.
        let all = unsafe { std::slice::from_raw_parts_mut(all.as_mut_ptr().cast::<u8>(), all.len() * 8) };
        &mut all[self.1..][..self.2]
    }
}

struct Case {
    layout: PackedLayout,
    rows: usize,
    weights: Vec<f32>,
    input: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
}

impl Case {
    fn new(rows: usize, inputs: usize, outputs: usize, precision: Precision) -> Self {
        let layout = PackedLayout::new(outputs, inputs, precision).unwrap();
        let seed = (rows * 7 + inputs * 3 + outputs) as u64;
        Self {
            layout,
            rows,
            weights: values(seed, outputs * inputs, 0.05),
            input: values(seed + 1, rows * inputs, 1.0),
            bias: values(seed + 2, outputs, 0.1),
            residual: values(seed + 3, rows * outputs, 1.0),
        }
    }

    fn run(&self, kernel: Kernel, threads: usize, activation: Activation) -> (Vec<u8>, Vec<f32>) {
        let mut packed = Aligned::new(self.layout.nbytes());
        pack(kernel, self.layout, &self.weights, packed.bytes()).unwrap();
        let mut out = vec![f32::NAN; self.rows * self.layout.outputs()];
        let job = LinearJob {
            layout: self.layout,
            weights: Matrix::Packed(packed.bytes()),
            norm: None,
            input: &self.input,
            bias: Some(&self.bias),
            activation,
            gain: None,
            residual: Some(&self.residual),
            out: &mut out,
        };
        linear(kernel, job, &TestPool(threads), &mut Scratch::default()).unwrap();
        (packed.bytes().to_vec(), out)
    }
}

/// What `work` returns with each variant of each kernel that this machine has, and the variant's name.
pub(super) fn of_every_variant<T>(mut work: impl FnMut() -> T) -> Vec<(&'static str, T)> {
    let here = VARIANTS.iter().filter(|variant| (variant.is_detected)());
    let results = here.map(|variant| {
        TRIED.set(Some(variant));
        (variant.name, work())
    });
    let results = results.collect();
    TRIED.set(None);
    results
}

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];
const ACTIVATIONS: [Activation; 5] =
    [Activation::None, Activation::QuickGelu, Activation::Gelu, Activation::TanhGelu, Activation::Silu];

pub(super) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn every_kernel_gives_the_bits_of_the_specification() {
    let shapes = [(1, 64, 32), (50, 100, 70), (3, 1, 1), (13, 257, 33), (26, 768, 96), (7, 5, 100), (97, 48, 31)];
    for ((rows, inputs, outputs), precision) in shapes.into_iter().flat_map(|s| PRECISIONS.map(|p| (s, p))) {
        let case = Case::new(rows, inputs, outputs, precision);
        for (i, activation) in ACTIVATIONS.into_iter().enumerate() {
            let (packed, out) = case.run(Kernel::Scalar, 1, activation);
            for (variant, (packed_too, out_too)) in of_every_variant(|| case.run(Kernel::best(), 1 + i, activation)) {
                assert!(packed == packed_too, "{variant} packs {rows} {inputs} {outputs} {precision:?}");
                assert!(
                    bits(&out) == bits(&out_too),
                    "{variant} {rows} {inputs} {outputs} {precision:?} {activation:?}"
                );
            }
        }
    }
}

#[test]
fn weights_that_are_packed_on_the_way_give_the_same_bits() {
    for precision in PRECISIONS {
        let case = Case::new(13, 70, 100, precision);
        let (_, expected) = case.run(Kernel::best(), 1, Activation::Gelu);
        let columns: Vec<f32> = (0..70 * 100).map(|i| case.weights[i % 100 * 70 + i / 100]).collect();
        let run = |kernel, weights| {
            let mut out = vec![f32::NAN; 13 * 100];
            let job = LinearJob {
                layout: case.layout,
                weights,
                norm: None,
                input: &case.input,
                bias: Some(&case.bias),
                activation: Activation::Gelu,
                gain: None,
                residual: Some(&case.residual),
                out: &mut out,
            };
            linear(kernel, job, &TestPool(2), &mut Scratch::default()).map(|()| out)
        };
        let by_both =
            || [Matrix::Rows(&case.weights), Matrix::Columns(&columns)].map(|matrix| run(Kernel::best(), matrix));
        for (variant, [by_rows, by_columns]) in of_every_variant(by_both) {
            assert!(bits(&by_rows.unwrap()) == bits(&expected), "{variant}");
            match by_columns {
                Ok(out) => assert!(precision == Precision::F32 && bits(&out) == bits(&expected), "{variant}"),
                Err(error) => assert!(precision != Precision::F32, "{error}"),
            }
        }
        assert!(run(Kernel::best(), Matrix::Rows(&case.weights[1..])).is_err());
    }
}

#[test]
fn a_norm_in_front_is_that_of_every_row() {
    for (inputs, precision) in [5, 16, 100, 768].into_iter().flat_map(|n| PRECISIONS.map(|p| (n, p))) {
        let case = Case::new(9, inputs, 40, precision);
        let (weight, bias) = (values(7, inputs, 1.0), values(8, inputs, 0.5));
        let norm = LayerNorm { weight: &weight, bias: &bias, epsilon: 1e-5 };
        let run = |kernel, threads, input: &[f32], norm| {
            let mut out = vec![f32::NAN; 9 * 40];
            let (layout, weights) = (case.layout, Matrix::Rows(&case.weights));
            let (bias, activation, gain, residual) = (None, Activation::None, None, None);
            let job = LinearJob { layout, weights, norm, input, bias, activation, gain, residual, out: &mut out };
            linear(kernel, job, &TestPool(threads), &mut Scratch::default()).map(|()| out)
        };
        let expected = run(Kernel::Scalar, 1, &case.input, Some(norm)).unwrap();
        for (variant, got) in of_every_variant(|| run(Kernel::best(), 2, &case.input, Some(norm)).unwrap()) {
            assert!(bits(&got) == bits(&expected), "{variant} {inputs} {precision}");
        }
        let normed: Vec<f32> = case.input.chunks(inputs).flat_map(|row| exact_norm(row, &weight, &bias)).collect();
        let exact = run(Kernel::Scalar, 1, &normed, None).unwrap();
        let length = exact.iter().map(|v| v * v).sum::<f32>().sqrt();
        let distance = exact.iter().zip(&expected).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt();
        // A value at the edge of two codes may get the other.
        let bound = if precision == Precision::F32 { 1e-6 } else { 1e-3 };
        assert!(distance < bound * length, "{inputs} {precision}: {}", distance / length);
        let short = LayerNorm { weight: &weight[1..], ..norm };
        assert!(run(Kernel::Scalar, 1, &case.input, Some(short)).is_err());
    }
}

#[test]
fn patches_of_images_are_rows() {
    let (patch, grid, channels, images) = (5, 3, 2, 2);
    let side = patch * grid;
    let case = Case::new(images * grid * grid, channels * patch * patch, 40, Precision::Bf16);
    let pixels = values(3, images * channels * side * side, 1.0);
    let mut rows = Vec::new();
    for (image, down, right) in
        (0..images * grid * grid).map(|row| (row / (grid * grid), row / grid % grid, row % grid))
    {
        for (channel, y, x) in (0..channels * patch * patch).map(|i| (i / patch / patch, i / patch % patch, i % patch))
        {
            rows.push(pixels[((image * channels + channel) * side + down * patch + y) * side + right * patch + x]);
        }
    }
    let run = |input: &[f32], patches: Option<Patches>| {
        let mut out = vec![f32::NAN; case.rows * 40];
        let (layout, weights, norm) = (case.layout, Matrix::Rows(&case.weights), None);
        let (bias, activation, gain, residual) = (None, Activation::None, None, None);
        let job = LinearJob { layout, weights, norm, input, bias, activation, gain, residual, out: &mut out };
        let (kernel, mut scratch) = (Kernel::best(), Scratch::default());
        match patches {
            None => linear(kernel, job, &TestPool(1), &mut scratch),
            Some(patches) => linear_of_patches(kernel, patches, job, &TestPool(2), &mut scratch),
        }
        .map(|()| out)
    };
    let expected = run(&rows, None).unwrap();
    assert!(bits(&run(&pixels, Some(Patches { patch, grid })).unwrap()) == bits(&expected));
    for patches in [Patches { patch: 4, grid }, Patches { patch, grid: 4 }, Patches { patch, grid: 0 }] {
        assert!(run(&pixels, Some(patches)).is_err());
    }
}

/// A normalised row, in f64.
fn exact_norm(row: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let (n, row) = (row.len() as f64, row.iter().map(|&v| f64::from(v)));
    let mean = row.clone().sum::<f64>() / n;
    let inverse = 1.0 / (row.clone().map(|v| (v - mean).powi(2)).sum::<f64>() / n + 1e-5).sqrt();
    let factors = weight.iter().zip(bias).map(|(&w, &b)| (f64::from(w), f64::from(b)));
    row.zip(factors).map(|(v, (w, b))| ((v - mean) * inverse * w + b) as f32).collect()
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    for precision in PRECISIONS {
        let case = Case::new(40, 96, 64, precision);
        let (_, all) = case.run(Kernel::best(), 2, Activation::Gelu);
        for row in [0, 17, 39] {
            let alone = Case {
                rows: 1,
                input: case.input[row * 96..][..96].to_vec(),
                residual: case.residual[row * 64..][..64].to_vec(),
                weights: case.weights.clone(),
                bias: case.bias.clone(),
                layout: case.layout,
            };
            let (_, alone) = alone.run(Kernel::best(), 1, Activation::Gelu);
            assert_eq!(bits(&alone), bits(&all[row * 64..][..64]));
        }
    }
}

/// The relative error, as a whole, against sums in f64.
fn error(case: &Case, activation: Activation, kernel: Kernel) -> f64 {
    let (_, out) = case.run(kernel, 1, activation);
    let (inputs, outputs) = (case.layout.inputs(), case.layout.outputs());
    let (mut wrong, mut all) = (0.0, 0.0);
    for (i, got) in out.iter().enumerate() {
        let (r, n) = (i / outputs, i % outputs);
        let products = case.input[r * inputs..][..inputs].iter().zip(&case.weights[n * inputs..][..inputs]);
        let sum: f64 = products.map(|(a, w)| f64::from(*a) * f64::from(*w)).sum::<f64>() + f64::from(case.bias[n]);
        let value = match activation {
            Activation::None => sum,
            Activation::QuickGelu => sum / (1.0 + (-1.702 * sum).exp()),
            Activation::Silu => sum / (1.0 + (-sum).exp()),
            Activation::Gelu => 0.5 * sum * (1.0 + erf(sum / 2f64.sqrt())),
            Activation::TanhGelu => {
                0.5 * sum * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (sum + 0.044_715 * sum.powi(3))).tanh())
            }
        };
        wrong += (f64::from(*got) - f64::from(case.residual[i]) - value).powi(2);
        all += value * value;
    }
    (wrong / all).sqrt()
}

/// The error function by its Taylor series, which converges everywhere.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    if x.abs() > 5.0 { x.signum() } else { sum * 2.0 / std::f64::consts::PI.sqrt() }
}

#[test]
fn products_are_right_to_the_precision() {
    for (precision, bound) in [(Precision::F32, 1e-6), (Precision::Bf16, 4e-3), (Precision::Int8, 1.6e-2)] {
        let mut case = Case::new(21, 768, 64, precision);
        // Sums far into both arms of the activations.
        case.input.iter_mut().for_each(|value| *value *= 2.0);
        for activation in ACTIVATIONS {
            let error = error(&case, activation, Kernel::best());
            assert!(error < bound, "{precision:?} {activation:?}: {error}");
            assert!(error > bound / 1e3, "{precision:?} {activation:?}: {error} is too good to be true");
        }
    }
}

#[test]
fn int8_is_exact_where_codes_are() {
    // Weights and activations that the codes represent exactly: integers, with the greatest at the ends.
    let (inputs, outputs) = (64, 32);
    let mut case = Case::new(2, inputs, outputs, Precision::Int8);
    case.weights =
        (0..outputs * inputs).map(|i| if i % inputs == 0 { 127.0 } else { (i % 255) as f32 - 127.0 }).collect();
    case.input = (0..2 * inputs).map(|i| [200.0, -55.0, (i * 31 % 255) as f32 - 55.0][i.min(2) % 3]).collect();
    case.input[inputs] = 200.0;
    case.input[inputs + 1] = -55.0;
    case.bias.fill(0.0);
    case.residual.fill(0.0);
    for (variant, (_, out)) in of_every_variant(|| case.run(Kernel::best(), 1, Activation::None)) {
        for (i, got) in out.iter().enumerate() {
            let row = case.input[i / outputs * inputs..][..inputs].iter();
            let products = row.zip(&case.weights[i % outputs * inputs..]);
            assert_eq!(*got, products.map(|(a, w)| a * w).sum::<f32>(), "{variant} {i}");
        }
    }
}

#[test]
fn what_is_not_finite_stays_so() {
    for (precision, bad) in PRECISIONS.into_iter().flat_map(|p| [f32::NAN, f32::INFINITY].map(|bad| (p, bad))) {
        let mut case = Case::new(3, 70, 40, precision);
        case.input[70 + 69] = bad;
        for (variant, (_, out)) in of_every_variant(|| case.run(Kernel::best(), 1, Activation::None)) {
            let finite: Vec<_> = out.chunks(40).map(|row| row.iter().filter(|v| v.is_finite()).count()).collect();
            assert_eq!(finite, [40, 0, 40], "{variant} {precision:?} {bad}");
        }
        let mut case = Case::new(3, 70, 40, precision);
        case.weights[39 * 70] = bad;
        for (variant, (_, out)) in of_every_variant(|| case.run(Kernel::best(), 1, Activation::None)) {
            let right = out.iter().enumerate().all(|(i, v)| v.is_finite() != (i % 40 == 39));
            assert!(right, "{variant} {precision:?} {bad}");
        }
    }
    // Nothing at all, and next to nothing, are no division by zero.
    let mut case = Case::new(2, 33, 5, Precision::Int8);
    case.input.fill(1e-38);
    case.weights.fill(0.0);
    let (_, out) = case.run(Kernel::best(), 1, Activation::None);
    assert!(out.iter().zip(&case.residual).enumerate().all(|(i, (out, r))| *out == case.bias[i % 5] + r));
}

#[test]
fn what_does_not_fit_is_refused() {
    assert!(PackedLayout::new(0, 4, Precision::F32).is_err());
    assert!(PackedLayout::new(4, 1 << 20, Precision::Int8).is_err());
    let layout = PackedLayout::new(40, 70, Precision::Int8).unwrap();
    let mut packed = Aligned::new(layout.nbytes());
    pack(Kernel::best(), layout, &vec![0.0; 40 * 70], packed.bytes()).unwrap();
    let mut out = vec![0.0; 80];
    let run = |weights: &[u8], input: usize, bias: usize, out: &mut [f32]| {
        let (input, bias) = (vec![0.0; input], vec![0.0; bias]);
        let (activation, gain, residual) = (Activation::None, None, None);
        let (weights, norm) = (Matrix::Packed(weights), None);
        let bias = Some(&bias[..]);
        let job = LinearJob { layout, weights, input: &input, norm, bias, activation, gain, residual, out };
        linear(Kernel::best(), job, &TestPool(1), &mut Scratch::default())
    };
    let length = layout.nbytes();
    assert!(run(packed.bytes(), 140, 40, &mut out).is_ok());
    assert!(run(&packed.bytes()[..length - 64], 140, 40, &mut out).is_err());
    assert!(run(packed.bytes(), 139, 40, &mut out).is_err());
    assert!(run(packed.bytes(), 140, 41, &mut out).is_err());
    assert!(run(packed.bytes(), 140, 40, &mut out[1..]).is_err());
    let mut unaligned = Aligned::new(length + 64);
    assert!(run(&unaligned.bytes()[4..length + 4], 140, 40, &mut out).is_err());
}
