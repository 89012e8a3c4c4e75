//! A map of a graph's constants, a zero, and the graph: what the map is right about is written with a base's weights.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use taskbasis::Mapping;
use taskbasis::onnx::{BoundGraph, GraphMap, OnnxFile};

fuzz_target!(|bytes: &[u8]| {
    let Some(at) = bytes.iter().position(|byte| *byte == 0) else { return };
    let Ok(map) = serde_json::from_slice::<GraphMap>(&bytes[..at]) else { return };
    let model = Arc::new(Mapping::from_vec(bytes[at + 1..].to_vec(), "fuzz"));
    let Ok(file) = OnnxFile::parse(model) else { return };
    if let Ok(graph) = BoundGraph::with_map(Arc::new(file), map, &taskbasis_fuzz::base(), None) {
        graph.kept();
        taskbasis_fuzz::write(&graph);
    }
});
