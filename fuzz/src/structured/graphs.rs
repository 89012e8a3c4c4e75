//! Graphs with a map of what their constants are.

use std::sync::Arc;

use serde_json::{Value, json};
use taskbasis::Mapping;
use taskbasis::onnx::{BoundGraph, GraphMap, OnnxFile};

use super::super::{base, write};
use super::{Result, Unstructured, number, word};

const NAMES: [&str; 6] = ["x", "y", "w", "t", "p", "pixels"];
const PARAMETERS: [&str; 3] = ["visual.proj", "visual.ln_pre.weight", "visual.class_embedding"];

/// What the map is right about is written with a base's weights.
pub(super) fn mapped(u: &mut Unstructured<'_>) -> Result<()> {
    let dims: [u8; 2] = if u.arbitrary()? { [2, 3] } else { [3, 2] };
    let operator = *u.choose(&["MatMul", "Gemm", "Add", "Conv"])?;
    let model = model(dims, operator, u.arbitrary()?);
    let mut inputs = serde_json::Map::new();
    for _ in 0..u.int_in_range(1..=3)? {
        let views = (0..u.int_in_range(0..=3)?).map(|_| view(u)).collect::<Result<Vec<_>>>()?;
        let mut mapped = serde_json::Map::from_iter([("sum".to_owned(), Value::from(views))]);
        if u.arbitrary()? {
            mapped.insert("constant".into(), word(u, &NAMES)?.into());
        }
        if u.arbitrary()? {
            let uses = (0..u.int_in_range(0..=3)?).map(|_| Ok(json!([number(u)?, number(u)?])));
            mapped.insert("uses".into(), uses.collect::<Result<Vec<_>>>()?.into());
        }
        if u.arbitrary()? {
            mapped.insert("unchecked".into(), true.into());
        }
        inputs.insert(word(u, &NAMES)?, mapped.into());
    }
    let map = json!({
        "pixels": word(u, &["x", "x", "x", "y", "w"])?, "output": word(u, &["y", "y", "y", "x"])?, "tensors": inputs,
        "missing": PARAMETERS, "repeated": PARAMETERS,
    });
    let Ok(map) = serde_json::from_value::<GraphMap>(map) else { return Ok(()) };
    let Ok(file) = OnnxFile::parse(Arc::new(Mapping::from_vec(model, "fuzz"))) else { return Ok(()) };
    if let Ok(graph) = BoundGraph::with_map(Arc::new(file), map, &base(), None) {
        graph.kept();
        write(&graph);
    }
    Ok(())
}

fn view(u: &mut Unstructured<'_>) -> Result<Value> {
    let mut view = serde_json::Map::from_iter([("parameter".to_owned(), Value::from(word(u, &PARAMETERS)?))]);
    let list = |u: &mut Unstructured<'_>, of: &[usize]| -> Result<Vec<usize>> {
        (0..u.int_in_range(0..=4)?).map(|_| u.choose(of).copied()).collect()
    };
    if u.arbitrary()? {
        view.insert("rows".into(), json!([number(u)?, number(u)?]));
    }
    if u.arbitrary()? {
        view.insert("shape".into(), list(u, &[1, 2, 3, 6, 0, usize::MAX])?.into());
    }
    if u.arbitrary()? {
        view.insert("permute".into(), list(u, &[0, 1, 2, 9])?.into());
    }
    if u.ratio(1, 4)? {
        view.insert("repeat".into(), number(u)?);
    }
    if u.ratio(1, 4)? {
        view.insert("scale".into(), number(u)?);
    }
    Ok(view.into())
}

/// x [n,2] -> operator, with the constant w -> y; between them the constant's transpose, where that is asked for.
fn model(dims: [u8; 2], operator: &str, is_transposed: bool) -> Vec<u8> {
    let field = |number: u8, content: &[u8]| {
        let length = content.len();
        let length =
            if length < 128 { vec![length as u8] } else { vec![(length & 127) as u8 | 128, (length >> 7) as u8] };
        [&[number << 3 | 2][..], &length, content].concat()
    };
    let node = |inputs: [&str; 2], output: &str, operator: &str| {
        let inputs: Vec<u8> = inputs.iter().filter(|i| !i.is_empty()).flat_map(|i| field(1, i.as_bytes())).collect();
        field(1, &[inputs, field(2, output.as_bytes()), field(4, operator.as_bytes())].concat())
    };
    let values: Vec<u8> = (0..6u8).flat_map(|value| f32::from(value).to_le_bytes()).collect();
    let tensor = [&[8, dims[0], 8, dims[1], 16, 1][..], &field(8, b"w"), &field(9, &values)].concat();
    let nodes = match is_transposed {
        true => [node(["w", ""], "t", "Transpose"), node(["x", "t"], "y", operator)].concat(),
        false => node(["x", "w"], "y", operator),
    };
    let port = |number: u8, name: &[u8]| field(number, &field(1, name));
    let graph = [nodes, field(5, &tensor), port(11, b"x"), port(12, b"y")].concat();
    [&[8, 8][..], &field(7, &graph), &field(8, &[16, 13])].concat()
}
