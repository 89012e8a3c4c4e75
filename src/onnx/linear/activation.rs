//! Activations behind a linear layer, in the forms that graphs have them.

use super::finder::Finder;
use crate::error::Result;
use crate::kernel::linear::Activation;
use crate::onnx::attributes::AttributeValue;
use crate::onnx::file::is_onnx;

/// QuickGELU(x) = x·σ(1.702·x).
const QUICK_GELU_ALPHA: f32 = 1.702;

/// The activation of a value that nothing else reads, and its nodes, the one that gives the result last.
///
/// # Errors
/// [`ErrorKind::Format`](crate::ErrorKind::Format) for a node that is damaged.
pub(super) fn after(finder: &Finder<'_>, value: &str) -> Result<Option<(Activation, Vec<usize>)>> {
    match *finder.readers(value) {
        [(node, 0)] => Ok(of_node(finder, node)?.map(|activation| (activation, vec![node]))),
        [(a, _), (b, _)] => {
            let nodes = quick_gelu(finder, value, [a, b]).or_else(|| quick_gelu(finder, value, [b, a]));
            Ok(nodes.map(|nodes| (Activation::QuickGelu, nodes.to_vec())))
        }
        _ => Ok(None),
    }
}

/// The activation that one node is.
fn of_node(finder: &Finder<'_>, index: usize) -> Result<Option<Activation>> {
    let node = finder.node(index);
    if node.outputs.len() != 1 || node.inputs[1..].iter().any(|input| !input.is_empty()) {
        return Ok(None);
    }
    let attributes = finder.attributes(index)?;
    Ok(match (node.domain.as_str(), node.op.as_str()) {
        ("com.microsoft", "Gelu") => Some(Activation::Gelu),
        ("com.microsoft", "FastGelu") => Some(Activation::TanhGelu),
        ("com.microsoft", "QuickGelu") => match attributes.get("alpha") {
            None => Some(Activation::QuickGelu),
            Some(AttributeValue::Float(alpha)) if *alpha == QUICK_GELU_ALPHA => Some(Activation::QuickGelu),
            Some(_) => None,
        },
        (domain, "Gelu") if is_onnx(domain) => match attributes.get("approximate") {
            None => Some(Activation::Gelu),
            Some(AttributeValue::Text(text)) if text == "none" => Some(Activation::Gelu),
            Some(AttributeValue::Text(text)) if text == "tanh" => Some(Activation::TanhGelu),
            Some(_) => None,
        },
        _ => None,
    })
}

/// `Mul` by 1.702, `Sigmoid`, `Mul` with the value itself, where `first` and `last` are the two `Mul`.
fn quick_gelu(finder: &Finder<'_>, value: &str, [first, last]: [usize; 2]) -> Option<[usize; 3]> {
    let other = |node: usize, than: &str| -> Option<String> {
        match [0, 1].map(|k| finder.name((node, k))) {
            [one, other] | [other, one] if one == than && finder.node(node).inputs.len() == 2 => Some(other.to_owned()),
            _ => None,
        }
    };
    let scaled = finder.result_of(first, "Mul")?;
    finder.result_of(last, "Mul")?;
    let factor = finder.constant(&other(first, value)?).filter(|factor| factor.numel() == 1)?;
    if *factor.to_f32().ok()? != [QUICK_GELU_ALPHA] {
        return None;
    }
    let &[(sigmoid, 0)] = finder.readers(scaled) else { return None };
    let gate = finder.result_of(sigmoid, "Sigmoid")?;
    let is_gated = other(last, value)? == gate && finder.readers(gate).len() == 1;
    is_gated.then_some([first, sigmoid, last])
}
