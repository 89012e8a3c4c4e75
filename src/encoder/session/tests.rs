use super::*;
use crate::encoder::input::Elements;
use crate::tower::arch::{Activation, Arch};
use crate::tower::graph::{self, PIXELS};
use crate::tower::{BlockForm, LayerPrecisions, Pooling, Positions, Projection, Rotary, Tokens, Variant};

/// ONNX Runtime must never see a graph with half floats without this: some of them would end the process.
#[test]
fn graphs_with_half_floats_keep_their_layout() {
    assert_eq!(entries_for_halves(false), []);
    assert_eq!(entries_for_halves(true), [("optimization.disable_specified_optimizers", "NchwcTransformer")]);
}

#[test]
fn what_onnx_runtime_says_is_passed_on() {
    if !crate::need::runtime() {
        return;
    }
    let runtime = Runtime::load(None).unwrap();
    let setup = SessionSetup { runtime, threads: 1, target: Target::cpu() };
    let error = setup.open(b"no model", GraphKind::Standard).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Runtime);
    assert!(error.to_string().to_lowercase().contains("protobuf"), "{error}");

    let arch = Arch {
        width: 8,
        layers: 1,
        heads: 1,
        mlp_width: 8,
        patch: 2,
        grid: 1,
        embed_dim: 4,
        activation: Activation::QuickGelu,
        variant: crate::tower::Variant::default(),
    };
    let session = setup.open(&graph::build(&arch).unwrap(), GraphKind::Standard).unwrap();
    let parameters: Vec<_> =
        arch.parameters().into_iter().map(|(n, s)| (n, vec![0.5; s.iter().product()], s)).collect();
    let weights =
        || parameters.iter().map(|(name, values, shape)| Input { name, shape, values: Elements::F32(values) });
    let pixels = |side| Input {
        name: PIXELS,
        shape: &[1, 3, 2, 2][..side],
        values: Elements::F32(&[0.0; 12][..3 << (side - 2)]),
    };
    let mut out = [0.0; 4];
    let mut run = |pixels: Input<'_>, more: Vec<Input<'_>>| {
        session.run_into(std::iter::once(pixels).chain(more), "embeds", None, &mut out)
    };
    run(pixels(4), weights().collect()).unwrap();

    // The wrong rank, an input that is not there, and none of the weights.
    let error = run(pixels(3), weights().collect()).unwrap_err();
    assert!(error.kind() == ErrorKind::Runtime && error.to_string().contains(PIXELS), "{error}");
    let stranger = Input { name: "stranger", ..pixels(4) };
    let error = run(pixels(4), weights().chain([stranger]).collect()).unwrap_err();
    assert!(error.to_string().contains("stranger"), "{error}");
    assert!(run(pixels(4), Vec::new()).is_err());

    run(pixels(4), weights().collect()).unwrap();
}

/// What providers other than the CPU's compute is what our own operators compute.
#[test]
fn both_forms_of_a_graph_agree() {
    if !crate::need::runtime() {
        return;
    }
    let runtime = Runtime::load(None).unwrap();
    let setup = SessionSetup { runtime, threads: 1, target: Target::cpu() };
    let plain = Variant { pre_norm: false, patch_bias: true, projection: Projection::None, ..Variant::default() };
    let registers = Tokens { registers: 2, ..Tokens::default() };
    let blocks = BlockForm { layer_scale: true, ..BlockForm::default() };
    let eva = BlockForm { gated: true, attn_norm: true, mlp_norm: true, ..BlockForm::default() };
    let with_bias = Projection::WithBias;
    for variant in [
        Variant { tokens: registers, blocks, ..plain },
        Variant { tokens: registers, blocks: eva, rotary: Some(Rotary::Eva), projection: with_bias, ..plain },
        Variant {
            tokens: registers,
            positions: Positions::None,
            rotary: Some(Rotary::DinoV3),
            pooling: Pooling::ClassAndMean,
            blocks: BlockForm { qkv_bias: false, ..blocks },
            ..plain
        },
        Variant {
            pooling: Pooling::Attention,
            rotary: Some(Rotary::PerceptionEncoder),
            pool_heads: 4,
            projection: with_bias,
            ..Variant::default()
        },
    ] {
        let activation = if variant.blocks.gated { Activation::Silu } else { Activation::Gelu };
        let width = 16;
        let embed_dim = match (variant.projection, variant.pooling.is_double()) {
            (Projection::None, true) => 2 * width,
            (Projection::None, false) => width,
            _ => 12,
        };
        let (layers, heads, mlp_width, patch, grid) = (2, 2, 24, 2, 2);
        let arch = Arch { width, layers, heads, mlp_width, patch, grid, embed_dim, activation, variant };
        let own = graph::build_own(&arch, LayerPrecisions::default(), false).unwrap();
        let parameters: Vec<(String, Vec<usize>, Vec<f32>)> = (arch.parameters().into_iter().zip(1..))
            .map(|((name, shape), seed)| {
                let value = |i: usize| ((i * 37 + seed * 11) % 97) as f32 / 97.0 - 0.4;
                (name, shape.clone(), (0..shape.iter().product()).map(value).collect())
            })
            .collect();
        let pixels: Vec<f32> = (0..2 * arch.pixels()).map(|i| (i % 13) as f32 * 0.1 - 0.6).collect();
        let side = arch.image_size();
        let run = |model: &[u8], kind: GraphKind| {
            let images = Input { name: PIXELS, shape: &[2, 3, side, side], values: Elements::F32(&pixels) };
            let weights =
                parameters.iter().map(|(name, shape, values)| Input { name, shape, values: Elements::F32(values) });
            let mut out = vec![0.0; 2 * arch.embed_dim];
            let session = setup.open(model, kind).unwrap();
            session.run_into(std::iter::once(images).chain(weights), "embeds", None, &mut out).unwrap();
            out
        };
        let standard = run(&graph::build(&arch).unwrap(), GraphKind::Standard);
        let own = run(&own, GraphKind::Own(crate::kernel::active().unwrap()));
        let apart = own.iter().zip(&standard).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-4 && standard.iter().any(|value| value.abs() > 0.1), "{arch}: {apart}");
    }
}
