//! Trying a provider out: the graph of a tiny tower, with every kind of node that a large one has.

use super::target::Target;
use crate::encoder::graph::EncoderGraph;
use crate::encoder::input::{Elements, Input};
use crate::encoder::options::Provider;
use crate::encoder::runtime::Runtime;
use crate::encoder::session::SessionSetup;
use crate::error::{Error, ErrorKind, Result};
use crate::tower::arch::{Activation, Arch, Variant};

/// Makes a session for the target and runs it, so that what is missing shows now: a provider loads its libraries late,
/// some of them when the first node wants them. TensorRT's session is made, but not run, as it would build an engine.
pub(super) fn run(runtime: &'static Runtime, target: &Target) -> Result<()> {
    let arch = Arch {
        width: 16,
        layers: 2,
        heads: 2,
        mlp_width: 32,
        patch: 4,
        grid: 2,
        embed_dim: 8,
        activation: Activation::QuickGelu,
        variant: Variant::default(),
    };
    let graph = EncoderGraph::built(&arch)?;
    let session = SessionSetup { runtime, threads: 1, target: target.clone() }.open(&graph.model, graph.kind)?;
    check(target, &session.nodes()?)?;
    if target.provider() == Provider::TensorRt {
        return Ok(());
    }
    let parameters: Vec<_> =
        arch.parameters().into_iter().map(|(name, shape)| (name, vec![0.25; shape.iter().product()], shape)).collect();
    let weights = parameters.iter().map(|(name, values, shape)| Input { name, shape, values: Elements::F32(values) });
    let size = arch.image_size();
    let pixels = vec![0.5; arch.pixels()];
    let pixels = Input { name: &graph.pixels, shape: &[1, 3, size, size], values: Elements::F32(&pixels) };
    let mut embeds = vec![f32::NAN; arch.embed_dim];
    session.run_into(std::iter::once(pixels).chain(weights), &graph.embeds, None, &mut embeds)?;
    if embeds.iter().any(|value| !value.is_finite()) {
        let what = format!("{} computes embeddings that are no numbers", target.provider().title());
        return Err(Error::new(ErrorKind::Runtime, what));
    }
    Ok(())
}

/// The matrix products, of which every encoder mostly consists, must not all be left to the CPU.
fn check(target: &Target, nodes: &[(String, usize)]) -> Result<()> {
    let on_cpu = nodes.iter().filter(|(name, _)| name == Provider::Cpu.onnx_name()).map(|(_, count)| count);
    let (on_cpu, all) = (on_cpu.sum::<usize>(), nodes.iter().map(|(_, count)| count).sum::<usize>());
    tracing::debug!(?nodes, provider = target.provider().name(), "which provider computes what");
    if all > on_cpu {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "ONNX Runtime gives all nodes of the graph to the CPU, none to {}",
        target.provider().title()
    ))
    .got(format_args!("{nodes:?}")))
}
