//! The graph that is built for an architecture, as its bytes say.

use std::collections::HashSet;

use prost::Message;
use taskbasis::tower::graph::{EMBEDS, PIXELS, build};
use taskbasis::{Activation, Arch};

use crate::support::onnx::proto::ModelProto;

fn b32() -> Arch {
    Arch {
        width: 768,
        layers: 12,
        heads: 12,
        mlp_width: 3072,
        patch: 32,
        grid: 7,
        embed_dim: 512,
        activation: Activation::QuickGelu,
        variant: taskbasis::tower::Variant::default(),
    }
}

#[test]
fn the_graph_is_small_and_closed() {
    let bytes = build(&b32()).unwrap();
    assert!(bytes.len() < 64 << 10, "{} bytes", bytes.len());
    let graph = ModelProto::decode(&*bytes).unwrap().graph.unwrap();
    assert!((150..200).contains(&graph.node.len()), "{} nodes", graph.node.len());

    // Every value is made before it is read, once; every input is read.
    let mut known: HashSet<&str> = graph.input.iter().map(|input| input.name()).collect();
    let inputs = known.clone();
    known.extend(graph.initializer.iter().map(|tensor| tensor.name()));
    let mut read = HashSet::new();
    let mut names = HashSet::new();
    for node in &graph.node {
        assert!(names.insert(node.name()), "two nodes are called {}", node.name());
        for input in &node.input {
            assert!(known.contains(input.as_str()), "{} reads {input} before it is made", node.name());
            read.insert(input.as_str());
        }
        for output in &node.output {
            assert!(known.insert(output), "{output} is made twice");
        }
    }
    assert!(known.contains(EMBEDS));
    assert!(inputs.is_subset(&read), "unread: {:?}", inputs.difference(&read));
}

#[test]
fn inputs_are_the_parameters_in_order() {
    let graph = ModelProto::decode(&*build(&b32()).unwrap()).unwrap().graph.unwrap();
    let inputs: Vec<&str> = graph.input.iter().map(|input| input.name()).collect();
    let parameters = b32().parameters();
    assert_eq!(inputs[0], PIXELS);
    assert!(inputs[1..].iter().eq(parameters.iter().map(|(name, _)| name)));
}
