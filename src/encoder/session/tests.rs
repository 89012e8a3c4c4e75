use super::*;
use crate::encoder::input::Elements;
use crate::tower::arch::{Activation, Arch};
use crate::tower::graph::{self, PIXELS};

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
