//! Batch normalisations that exporters have folded into the layer before them.
//!
//! The weight and the bias of such a layer are no parameters, but made of up to six: `W·γ/√(σ² + ε)` and
//! `β + (b − μ)·γ/√(σ² + ε)`. Every pair of a layer and a normalisation of the base is tried that the shape allows, and
//! is believed where every element of both, to the rounding of their types, has the values that the pair gives.

use std::collections::{HashMap, HashSet};

use half::{bf16, f16};

use super::candidates::{Candidates, Match};
use super::modules;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::names::is_text_tower;
use crate::error::Result;
use crate::onnx::file::{Node, OnnxFile, is_onnx};
use crate::onnx::rewrite::{Needed, Use};
use crate::tensor::{DType, Tensor};
use crate::weights::{BatchNorm, View};

/// Values of ε, the usual ones first: no checkpoint tells it. One that cannot be told from the right one by the base's
/// values gives the same weights for them.
const EPSILONS: [f32; 8] = [1e-5, 1e-3, 1e-6, 1e-4, 1e-2, 1e-7, 1e-8, 0.0];

/// The operators that a batch normalisation can be folded into: weight at input 1, bias at input 2.
const LAYERS: [&str; 3] = ["Conv", "FusedConv", "Gemm"];

/// What was found.
#[derive(Default)]
pub(super) struct Folds {
    /// What the constant is that is read there.
    pub(super) at: HashMap<Use, Match>,
    /// The constants of all of these uses.
    pub(super) constants: HashSet<usize>,
    /// Normalisations that nothing tells apart: their values are the same.
    pub(super) alike: Vec<String>,
}

/// A layer of the base that a normalisation may be folded into.
struct Layer<'a> {
    name: &'a str,
    weight: &'a Tensor,
    bias: Option<(String, &'a Tensor)>,
}

/// A batch normalisation of the base.
struct Norm<'a> {
    module: &'a str,
    norm: BatchNorm,
    mean: String,
    bias: Option<String>,
    /// The factors of every channel for each ε.
    factors: Vec<(f32, Vec<f64>)>,
}

/// A layer and a normalisation that give the values of two constants.
struct Pair {
    layer: usize,
    norm: usize,
    weight: View,
    bias: Vec<View>,
}

/// Finds the layers of a graph that a batch normalisation was folded into, among those whose weight is nothing else.
///
/// # Errors
/// When values cannot be read.
pub(super) fn find(
    file: &OnnxFile,
    needed: &Needed,
    base: &Checkpoint,
    candidates: &mut Candidates,
    matches: &[Vec<Match>],
) -> Result<Folds> {
    let mut folds = Folds::default();
    let norms = norms(base)?;
    if norms.is_empty() {
        return Ok(folds);
    }
    let layers = layers(base);
    let sources = Sources::of(file);
    let mut known: HashMap<(usize, usize), (Match, Match)> = HashMap::new();
    let mut seen: HashMap<(usize, usize), Option<(Match, Match)>> = HashMap::new();
    let mut torn: HashSet<Use> = HashSet::new();
    for (i, node) in file.nodes.iter().enumerate().filter(|(i, _)| needed.nodes[*i]) {
        if !LAYERS.contains(&node.op.as_str()) || !(is_onnx(&node.domain) || node.op == "FusedConv") {
            continue;
        }
        let (Some((weight_at, weight)), Some((bias_at, bias))) = (sources.of_use((i, 1)), sources.of_use((i, 2)))
        else {
            continue;
        };
        let values = |constant: usize| file.constants[constant].tensor.as_ref();
        let (Some(weight_values), Some(bias_values)) = (values(weight), values(bias)) else { continue };
        if !matches[weight].is_empty() || bias_values.numel() == 0 {
            continue;
        }
        // Equal layers share their constants, and are compared once.
        let found = match seen.get(&(weight, bias)) {
            Some(found) => *found,
            None => {
                let pair = folds.only(pairs(weight_values, bias_values, &layers, &norms, base)?, &layers, &norms);
                let found = pair.map(|pair| {
                    *known.entry((pair.layer, pair.norm)).or_insert_with(|| {
                        let of_weight = candidates.enter(vec![pair.weight], weight_values);
                        (of_weight, candidates.enter(pair.bias, bias_values))
                    })
                });
                seen.insert((weight, bias), found);
                found
            }
        };
        if let Some((of_weight, of_bias)) = found {
            for (at, is) in [(weight_at, of_weight), (bias_at, of_bias)] {
                // One node that hands a constant on to two layers: nothing can take its place for one of them.
                let before = folds.at.insert(at, is);
                torn.extend(before.filter(|before| before.candidate != is.candidate).map(|_| at));
            }
            folds.constants.extend([weight, bias]);
        }
    }
    folds.at.retain(|at, _| !torn.contains(at));
    Ok(folds)
}

impl Folds {
    /// The one pair that two constants are. Untrained normalisations are all alike, and the names of the base then tell
    /// those that follow each other.
    fn only(&mut self, mut pairs: Vec<Pair>, layers: &[Layer<'_>], norms: &[Norm<'_>]) -> Option<Pair> {
        if pairs.len() > 1 {
            let modules = |pair: &Pair| (modules::stem(layers[pair.layer].name), norms[pair.norm].module);
            let all: Vec<&str> = pairs.iter().map(|pair| modules(pair).1).collect();
            pairs.retain(|pair| {
                let (layer, norm) = modules(pair);
                follow(layer, norm)
            });
            if pairs.len() != 1 {
                self.alike.extend(all.into_iter().map(str::to_owned));
                return None;
            }
        }
        pairs.pop()
    }
}

/// The constants that nodes read, themselves or through nodes that leave them as they are.
struct Sources<'a> {
    nodes: &'a [Node],
    constants: HashMap<&'a str, usize>,
    producers: HashMap<&'a str, usize>,
}

impl<'a> Sources<'a> {
    fn of(file: &'a OnnxFile) -> Self {
        let constants = file.constants.iter().enumerate().map(|(i, constant)| (constant.name.as_str(), i)).collect();
        let mut producers = HashMap::new();
        for (i, node) in file.nodes.iter().enumerate() {
            producers.extend(node.outputs.iter().filter(|name| !name.is_empty()).map(|name| (name.as_str(), i)));
        }
        Self { nodes: &file.nodes, constants, producers }
    }

    /// The constant that is read there, and the use that reads it.
    fn of_use(&self, mut at: Use) -> Option<(Use, usize)> {
        // Equal constants are one, which exporters give several names by nodes in a row.
        for _ in 0..self.nodes.len() {
            let name = self.nodes[at.0].inputs.get(at.1).filter(|name| !name.is_empty())?;
            if let Some(constant) = self.constants.get(name.as_str()) {
                return Some((at, *constant));
            }
            let above = *self.producers.get(name.as_str())?;
            if !is_onnx(&self.nodes[above].domain) || self.nodes[above].op != "Identity" {
                return None;
            }
            at = (above, 0);
        }
        None
    }
}

fn layers(base: &Checkpoint) -> Vec<Layer<'_>> {
    let is_weight = |name: &str, tensor: &Tensor| {
        (name == "weight" || name.ends_with(".weight"))
            && tensor.dtype().is_float()
            && tensor.shape().len() >= 2
            && tensor.numel() > 0
            && !is_text_tower(name)
    };
    let weights = base.iter().filter(|(name, tensor)| is_weight(name, tensor));
    let layers = weights.map(|(name, weight)| {
        let bias = format!("{}bias", name.strip_suffix("weight").unwrap_or_default());
        Layer { name, weight, bias: base.get(&bias).map(|tensor| (bias, tensor)) }
    });
    layers.collect()
}

fn norms(base: &Checkpoint) -> Result<Vec<Norm<'_>>> {
    let mut norms = Vec::new();
    for (name, variance) in base.iter().filter(|(name, tensor)| tensor.dtype().is_float() && !is_text_tower(name)) {
        let Some(prefix) = name.strip_suffix("running_var") else { continue };
        let like_it = |word: &str| {
            let name = format!("{prefix}{word}");
            base.get(&name).is_some_and(|tensor| tensor.shape() == variance.shape()).then_some(name)
        };
        let (Some(mean), [_]) = (like_it("running_mean"), variance.shape()) else { continue };
        let norm = BatchNorm { weight: like_it("weight"), variance: name.to_owned(), epsilon: 0.0 };
        let mut factors = Vec::new();
        for epsilon in EPSILONS {
            // Without an epsilon a variance of 0 has no root.
            if let Ok(of_epsilon) = (BatchNorm { epsilon, ..norm.clone() }).factors_of(base) {
                factors.push((epsilon, of_epsilon));
            }
        }
        norms.push(Norm { module: modules::stem(name), norm, mean, bias: like_it("bias"), factors });
    }
    Ok(norms)
}

/// The pairs that give these values, each with the first ε that does.
fn pairs(
    weight: &Tensor,
    bias: &Tensor,
    layers: &[Layer<'_>],
    norms: &[Norm<'_>],
    base: &Checkpoint,
) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    let mut ends = [[0.0]; 2];
    weight.read_f32(0, &mut ends[0])?;
    weight.read_f32(weight.numel() - 1, &mut ends[1])?;
    for (l, layer) in layers.iter().enumerate().filter(|(_, layer)| layer.weight.numel() == weight.numel()) {
        let shape = layer.weight.shape();
        let rows = shape[0];
        let turned = View { permute: Some(vec![1, 0]), ..View::whole(layer.name) };
        let view = match weight.shape() {
            same if same == shape => View::whole(layer.name),
            // The weight of a linear layer as a product wants it.
            &[columns, of] if shape == [of, columns] => turned,
            _ => continue,
        };
        let parts = layer.bias.as_ref().is_none_or(|(_, bias)| bias.shape() == [rows]);
        if !parts || bias.numel() != rows {
            continue;
        }
        // The first and the last element are of the first and the last row in either order.
        let mut own = [[0.0]; 2];
        layer.weight.read_f32(0, &mut own[0])?;
        layer.weight.read_f32(weight.numel() - 1, &mut own[1])?;
        for (n, norm) in norms.iter().enumerate() {
            for (epsilon, factors) in norm.factors.iter().filter(|(_, factors)| factors.len() == rows) {
                let tolerance = Tolerance::of(layer.weight.dtype(), weight.dtype());
                let at_end = |i: usize, row: usize| {
                    let expected = f64::from(own[i][0]) * factors[row];
                    tolerance.allows(expected, expected.abs(), ends[i][0])
                };
                if !at_end(0, 0) || !at_end(1, rows - 1) {
                    continue;
                }
                let with = BatchNorm { epsilon: *epsilon, ..norm.norm.clone() };
                let weight_view = View { norm: Some(with.clone()), ..view.clone() };
                let bias_views = bias_views(layer, norm, &with);
                if is_sum(std::slice::from_ref(&weight_view), base, weight)? && is_sum(&bias_views, base, bias)? {
                    pairs.push(Pair { layer: l, norm: n, weight: weight_view, bias: bias_views });
                    break;
                }
            }
        }
    }
    Ok(pairs)
}

/// `β + (b − μ)·γ/√(σ² + ε)`.
fn bias_views(layer: &Layer<'_>, norm: &Norm<'_>, with: &BatchNorm) -> Vec<View> {
    let mut views: Vec<View> = norm.bias.iter().map(|name| View::whole(name)).collect();
    let times = |name: &str, scale| View { scale, norm: Some(with.clone()), ..View::whole(name) };
    views.extend(layer.bias.iter().map(|(name, _)| times(name, None)));
    views.push(times(&norm.mean, Some(-1.0)));
    views
}

/// Whether a normalisation follows a layer by their names: `conv1` and `bn1`, `0` and `1`, `conv` and `norm`.
fn follow(layer: &str, norm: &str) -> bool {
    let ((parent, layer), (of, norm)) = (apart(layer), apart(norm));
    if parent != of {
        return false;
    }
    let number = |name: &str| name.parse::<usize>().ok();
    match (number(layer), number(norm)) {
        (Some(layer), Some(norm)) => layer.checked_add(1) == Some(norm),
        (None, None) => ["bn", "norm"].iter().any(|word| layer.replacen("conv", word, 1) == norm),
        _ => false,
    }
}

/// A module's parent and its own name.
fn apart(module: &str) -> (&str, &str) {
    module.rsplit_once('.').unwrap_or(("", module))
}

/// Whether a constant has the values of the sum of these views, some of which a batch normalisation multiplies.
///
/// # Errors
/// As [`View::strided`]; when values cannot be read, or have no root.
pub(super) fn is_sum(sum: &[View], base: &Checkpoint, constant: &Tensor) -> Result<bool> {
    let numel = constant.numel();
    // What is added up rounds by the size of its terms, not by that of what is left of them.
    let (mut total, mut size) = (vec![0.0f64; numel], vec![0.0f64; numel]);
    let mut tolerance = Tolerance::of(constant.dtype(), constant.dtype());
    for view in sum {
        let parameter = base.require(&view.parameter)?;
        tolerance = tolerance.max(Tolerance::of(parameter.dtype(), constant.dtype()));
        let mut values = view.of(parameter)?.to_f32()?.into_owned();
        if let Some(norm) = &view.norm {
            norm.check(parameter.shape(), base)?;
            let factors = norm.factors_of(base)?;
            let once = (values.len() / view.count()).max(1);
            for values in values.chunks_mut(once) {
                view.multiply_rows(parameter.shape(), &factors, values)?;
            }
        }
        let scale = f64::from(view.scale.unwrap_or(1.0));
        for ((value, total), size) in values.iter().zip(&mut total).zip(&mut size) {
            *total += f64::from(*value) * scale;
            *size += (f64::from(*value) * scale).abs();
        }
    }
    let mut theirs = [0.0; 1024];
    for at in (0..numel).step_by(theirs.len()) {
        let theirs = &mut theirs[..(numel - at).min(1024)];
        constant.read_f32(at, theirs)?;
        let mut all = theirs.iter().zip(&total[at..]).zip(&size[at..]);
        if !all.all(|((theirs, total), size)| tolerance.allows(*total, *size, *theirs)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The differences that folding leaves: a root, a quotient, products and sums, each rounded.
#[derive(Clone, Copy)]
struct Tolerance {
    relative: f64,
    absolute: f64,
}

impl Tolerance {
    /// That of the coarser of two types.
    fn of(a: DType, b: DType) -> Self {
        let one = |dtype| match dtype {
            DType::BF16 => Self { relative: 2.0 * f64::from(bf16::EPSILON.to_f32()), absolute: 0.0 },
            DType::F16 => Self { relative: 2.0 * f64::from(f16::EPSILON.to_f32()), absolute: 2.5e-7 },
            _ => Self { relative: 8.0 * f64::from(f32::EPSILON), absolute: f64::from(f32::MIN_POSITIVE) },
        };
        one(a).max(one(b))
    }

    fn max(self, other: Self) -> Self {
        if self.relative >= other.relative { self } else { other }
    }

    /// Whether `got` may be `expected`, which was made of terms of that size.
    fn allows(self, expected: f64, size: f64, got: f32) -> bool {
        (expected - f64::from(got)).abs() <= self.relative * size + self.absolute
    }
}
