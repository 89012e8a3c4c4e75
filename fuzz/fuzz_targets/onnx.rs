//! An .onnx file: read it, bind it to a small base, and rewrite what could be bound.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use taskbasis::onnx::{BindOptions, BoundGraph, OnnxFile};
use taskbasis::{Checkpoint, Format, Mapping, Tensor};

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = OnnxFile::parse(Arc::new(Mapping::from_vec(bytes.to_vec(), "fuzz"))) else { return };
    let tensor = |shape: &[usize]| {
        let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|i| i as f32).collect();
        Tensor::from_f32(&values, shape, "fuzz").unwrap()
    };
    let tensors = vec![("visual.ln_pre.weight".to_owned(), tensor(&[2])), ("visual.proj".to_owned(), tensor(&[2, 3]))];
    let base = Checkpoint::from_tensors("fuzz", Format::Safetensors, tensors).unwrap();
    let missing = vec!["visual.ln_pre.weight".to_owned(), "visual.proj".to_owned()];
    let options = BindOptions { missing: missing.clone(), repeated: missing, ..BindOptions::default() };
    if let Ok(graph) = BoundGraph::bind(Arc::new(file), &base, None, &options) {
        graph.kept();
    }
});
