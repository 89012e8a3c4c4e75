//! An .onnx file: read it, bind it to a small base, and write what could be bound with the base's weights.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use taskbasis::Mapping;
use taskbasis::onnx::{BindOptions, BoundGraph, OnnxFile};

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = OnnxFile::parse(Arc::new(Mapping::from_vec(bytes.to_vec(), "fuzz"))) else { return };
    let missing = vec!["visual.ln_pre.weight".to_owned(), "visual.proj".to_owned()];
    let options = BindOptions { missing: missing.clone(), repeated: missing, ..BindOptions::default() };
    if let Ok(graph) = BoundGraph::bind(Arc::new(file), &taskbasis_fuzz::base(), None, &options) {
        graph.kept();
        taskbasis_fuzz::write(&graph);
    }
});
