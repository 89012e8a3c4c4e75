//! Results multiplied by a gain, before the residual is added.

use super::*;

/// A result, and that of the same layer without gain and residual, of which the gain makes it.
fn run(case: &Case, kernel: Kernel, threads: usize, gain: Option<&[f32]>, residual: Option<&[f32]>) -> Vec<f32> {
    let mut out = vec![f32::NAN; case.rows * case.layout.outputs()];
    let job = LinearJob {
        layout: case.layout,
        weights: Matrix::Rows(&case.weights),
        norm: None,
        input: &case.input,
        bias: Some(&case.bias),
        activation: Activation::Gelu,
        gain,
        residual,
        out: &mut out,
    };
    linear(kernel, job, &TestPool(threads), &mut Scratch::default()).unwrap();
    out
}

#[test]
fn results_are_multiplied_before_the_residual_is_added() {
    for ((rows, inputs, outputs), precision) in
        [(1, 64, 32), (50, 100, 70), (13, 257, 33)].into_iter().flat_map(|s| PRECISIONS.map(|p| (s, p)))
    {
        let case = Case::new(rows, inputs, outputs, precision);
        let gain = values(9, outputs, 0.3);
        let of = |i: usize| gain[i % outputs];
        let plain = run(&case, Kernel::Scalar, 1, None, None);
        let alone: Vec<f32> = plain.iter().enumerate().map(|(i, y)| y * of(i)).collect();
        let added: Vec<f32> =
            plain.iter().zip(&case.residual).enumerate().map(|(i, (y, r))| y.mul_add(of(i), *r)).collect();
        let every = of_every_variant(|| {
            [None, Some(&case.residual[..])].map(|residual| run(&case, Kernel::best(), 2, Some(&gain), residual))
        });
        for (variant, got) in every {
            assert!(bits(&got[0]) == bits(&alone), "{variant} {rows} {inputs} {outputs} {precision:?}");
            assert!(bits(&got[1]) == bits(&added), "{variant} {rows} {inputs} {outputs} {precision:?}, added");
        }
    }
}

#[test]
fn a_gain_of_another_size_is_refused() {
    let case = Case::new(2, 8, 40, Precision::F32);
    let (gain, mut out) = (vec![1.0; 39], vec![0.0; 80]);
    let (layout, weights, input) = (case.layout, Matrix::Rows(&case.weights), &case.input[..]);
    let (norm, bias, activation, residual) = (None, None, Activation::None, None);
    let job = LinearJob { layout, weights, input, norm, bias, activation, gain: Some(&gain), residual, out: &mut out };
    let error = linear(Kernel::best(), job, &TestPool(1), &mut Scratch::default()).unwrap_err();
    assert!(error.to_string().contains("gain"), "{error}");
}
