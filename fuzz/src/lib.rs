//! What the targets share.

pub mod structured;

use taskbasis::onnx::{BoundGraph, OnnxFile};
use taskbasis::{Checkpoint, Format, Model, ModelOptions, TaskExpr, Tensor};

/// Two parameters, with the values that `seed.py` writes into its graphs.
pub fn base() -> Checkpoint {
    let tensor = |shape: &[usize]| {
        let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|i| i as f32).collect();
        Tensor::from_f32(&values, shape, "fuzz").unwrap()
    };
    let tensors = vec![("visual.ln_pre.weight".to_owned(), tensor(&[2])), ("visual.proj".to_owned(), tensor(&[2, 3]))];
    Checkpoint::from_tensors("fuzz", Format::Safetensors, tensors).unwrap()
}

/// What could be bound can be written with the base's weights, and what was written is a model with the same ports.
pub fn write(graph: &BoundGraph) {
    let options = ModelOptions { threads: 1, cache_bytes: Some(0), ..ModelOptions::default() };
    let model = Model::new(base(), None, &options).unwrap();
    let Ok(weights) = model.weights(&TaskExpr::base()).unwrap().in_layout(graph.layout()).get() else { return };
    let path = std::env::temp_dir().join(format!("taskbasis-fuzz-{}.onnx", std::process::id()));
    for written in [graph.write(&weights, &path, &[]), graph.write_f16(&weights, &path, &[])] {
        if written.is_ok() {
            let read = OnnxFile::open(&path).unwrap();
            let names = |file: &OnnxFile| file.outputs().iter().map(|port| port.name.clone()).collect::<Vec<_>>();
            assert!(names(&read).contains(&graph.output().name), "{:?}", names(&read));
        }
    }
    let _ = std::fs::remove_file(&path);
}
