//! A user's graph is bound by values and structure.

mod common;

use taskbasis::Checkpoint;
use taskbasis::onnx::{BindOptions, OnnxFile, bind};

#[test]
fn both_exports_bind_without_hints() {
    for file in ["torchscript_export_opset16", "transformers_style_opset14"] {
        let Some(path) = common::digits(&format!("onnx/{file}.onnx")) else { continue };
        let base = Checkpoint::open(common::digits("base/pickled_module.pt").unwrap()).unwrap();
        let file = OnnxFile::open(path).unwrap();
        let map = bind(&file, &base, &BindOptions::default()).unwrap();
        println!("{}", serde_json::to_string_pretty(&map).unwrap());
    }
}
