//! What nodes say reaches the kernels: inputs in their places, and attributes.

use super::*;
use crate::encoder::input::{Elements, Input};
use crate::encoder::provider::target::Target;
use crate::encoder::runtime::Runtime;
use crate::encoder::session::{GraphKind, SessionSetup};
use crate::kernel::linear::PackedLayout;
use crate::onnx::emit::{Attribute, Extent};
use crate::onnx::own::linear_attributes;

/// The result of one node; inputs without values are left out.
fn run(
    op: &str,
    attributes: &[Attribute],
    inputs: &[(&'static str, &[usize], &[f32])],
    len: usize,
) -> Result<Vec<f32>> {
    let mut model = ModelWriter::new("one node", 8, &[("", 17), (DOMAIN, 1)]);
    let names: Vec<_> = inputs.iter().map(|(name, _, values)| if values.is_empty() { "" } else { *name }).collect();
    let given = inputs.iter().filter(|(.., values)| !values.is_empty());
    for (name, shape, _) in given.clone() {
        let extents: Vec<_> = shape.iter().copied().map(Extent::Fixed).collect();
        model.input(name, TensorType::Float, &extents);
    }
    model.output("out", TensorType::Float, &[Extent::Named("rows"), Extent::Named("columns")]);
    model.node(&emit::Operator { name: "node", domain: DOMAIN, op, inputs: &names, outputs: &["out"], attributes });
    let setup = SessionSetup { runtime: Runtime::load(None)?, threads: 2, target: Target::cpu() };
    let session = setup.open(&model.to_vec()?, GraphKind::Own(Kernel::best()))?;
    let inputs = given.map(|&(name, shape, values)| Input { name, shape, values: Elements::F32(values) });
    let mut out = vec![f32::NAN; len];
    session.run_into(inputs, "out", None, &mut out)?;
    Ok(out)
}

#[test]
fn a_gain_is_the_seventh_input_of_a_linear_layer() {
    if !crate::need::runtime() {
        return;
    }
    let layout = PackedLayout::new(2, 3, Precision::F32).unwrap();
    let (x, w) = ([1.0, 2.0, 3.0, 0.0, 1.0, -1.0], [1.0, 0.0, 2.0, 0.5, 0.5, 0.0]);
    let linear = |bias: &[f32], residual: &[f32], gain: &[f32]| {
        let inputs: [(_, &[usize], _); 7] = [
            ("x", &[2, 3], &x[..]),
            ("w", &[2, 3], &w),
            ("bias", &[2], bias),
            ("residual", &[2, 2], residual),
            ("norm.weight", &[3], &[]),
            ("norm.bias", &[3], &[]),
            ("gain", &[2], gain),
        ];
        run(UNPACKED_LINEAR, &linear_attributes(layout, Activation::None, 1e-5), &inputs, 4).unwrap()
    };
    assert_eq!(linear(&[], &[], &[]), [7.0, 1.5, -2.0, 0.5]);
    assert_eq!(linear(&[], &[], &[2.0, -4.0]), [14.0, -6.0, -4.0, -2.0]);
    assert_eq!(linear(&[1.0, 0.0], &[1.0, 2.0, 3.0, 4.0], &[2.0, -4.0]), [17.0, -4.0, 1.0, 2.0]);
}

/// Attention of the first `queries` of three tokens with one head of two values, in f64.
fn attended(qkv: &[f32], queries: usize, skipped: usize, angles: [f64; 3]) -> Vec<f32> {
    let at = |token: usize, which: usize| [0, 1].map(|i| f64::from(qkv[(token * 3 + which) * 2 + i]));
    let turned = |token: usize, which: usize| {
        let ([x, y], (sin, cos)) = (at(token, which), angles[token].sin_cos());
        [x * cos - y * sin, y * cos + x * sin]
    };
    let mut out = Vec::new();
    for token in 0..queries {
        let [a, b] = turned(token, 0);
        let weight = |key: usize| ((a * turned(key, 1)[0] + b * turned(key, 1)[1]) / 2f64.sqrt()).exp();
        let sum: f64 = (skipped..3).map(weight).sum();
        out.extend([0, 1].map(|i| ((skipped..3).map(|key| weight(key) * at(key, 2)[i]).sum::<f64>() / sum) as f32));
    }
    out
}

#[test]
fn attention_skips_keys_and_rotates() {
    if !crate::need::runtime() {
        return;
    }
    let qkv: Vec<f32> = (0..18).map(|i| ((i * 7 % 11) as f32 - 5.0) * 0.3).collect();
    let angles = [0.0, 0.7, -1.9];
    let pairs = |of: fn(f64) -> f64| angles.into_iter().flat_map(move |angle| [of(angle) as f32; 2]);
    let factors: Vec<f32> = pairs(f64::cos).chain(pairs(f64::sin)).collect();
    let attributes = |queries: i64, more: &[Attribute]| {
        let always = [("num_heads", 1), ("queries", queries), ("is_causal", 0)];
        always.into_iter().map(|(name, value)| Attribute::Int(name, value)).chain(more.iter().cloned()).collect()
    };
    let attention = |attributes: Vec<Attribute>, factors: &[f32], len| {
        let inputs: [(_, &[usize], _); 2] = [("qkv", &[1, 3, 6], &qkv[..]), ("rotation", &[2, 3, 2], factors)];
        run(ATTENTION, &attributes, &inputs, len)
    };
    let is_near = |got: Vec<f32>, exact: Vec<f32>| {
        assert!(got.iter().zip(&exact).all(|(got, exact)| (got - exact).abs() < 1e-6), "{got:?} {exact:?}");
    };
    is_near(attention(attributes(0, &[]), &[], 6).unwrap(), attended(&qkv, 3, 0, [0.0; 3]));
    let skipped = [Attribute::Int("skipped_keys", 1)];
    is_near(attention(attributes(1, &skipped), &[], 2).unwrap(), attended(&qkv, 1, 1, [0.0; 3]));
    // Of two values the neighbours are the halves.
    for pairing in [Pairing::Neighbours, Pairing::Halves] {
        let rotation = [Attribute::Int("rotation", pairing.code())];
        is_near(attention(attributes(0, &rotation), &factors, 6).unwrap(), attended(&qkv, 3, 0, angles));
        assert!(attention(attributes(0, &rotation), &[], 6).is_err());
    }
    assert!(attention(attributes(0, &[]), &factors, 6).is_err());
    assert!(attention(attributes(0, &[Attribute::Int("rotation", 3)]), &factors, 6).is_err());
}

#[test]
fn gates_are_the_half_that_the_node_says() {
    if !crate::need::runtime() {
        return;
    }
    let rows = [1.0, -2.0, 3.0, 4.0, 0.5, 0.0, -1.0, 2.0];
    let silu = |x: f32| x / (1.0 + (-x).exp());
    for (gate_last, [gate, value]) in [(0, [0, 2]), (1, [2, 0])] {
        let got = run(SWIGLU, &[Attribute::Int("gate_last", gate_last)], &[("x", &[2, 4], &rows)], 4).unwrap();
        let expected = [0, 1, 4, 5].map(|i| silu(rows[i + gate]) * rows[i + value]);
        assert!(got.iter().zip(expected).all(|(got, exact)| (got - exact).abs() < 1e-6), "{got:?} {expected:?}");
    }
    assert!(run(SWIGLU, &[], &[("x", &[2, 3], &rows[..6])], 3).is_err());
}
