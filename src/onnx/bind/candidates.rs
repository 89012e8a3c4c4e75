//! The candidates of a base for a graph's constants: its parameters in every form that exporters give them, and whether
//! a constant is one of them.

use std::collections::HashMap;

use half::{bf16, f16};

use super::order::{EncoderPlace, slot};
use crate::checkpoint::names::is_text_tower;
use crate::checkpoint::{Checkpoint, is_image_tower};
use crate::error::Result;
use crate::tensor::{DType, Tensor, contiguous_strides};
use crate::weights::View;

/// A parameter, a part of one, or a sum of such, that a constant could be.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) parts: Vec<View>,
    /// The values, in the order in which a constant has them.
    pub(super) tensor: Tensor,
    pub(super) slot: Option<EncoderPlace>,
}

impl Candidate {
    /// The parameter, the first one of a sum.
    pub(super) fn parameter(&self) -> &str {
        self.parts.first().map_or("", |part| &part.parameter)
    }

    /// The parts, with the scale and as many times as a constant has them.
    pub(super) fn parts_of(&self, found: &Match) -> Vec<View> {
        let scale = (found.scale != 1.0).then_some(found.scale);
        let repeat = (found.repeat != 1).then_some(found.repeat);
        let view = |part: &View| View { scale: scale.or(part.scale), repeat, ..part.clone() };
        self.parts.iter().map(view).collect()
    }

    /// Whether the constant's shape is this one, extents of 1 aside: no reshaping.
    pub(super) fn has_shape(&self, shape: &[usize]) -> bool {
        let without_ones = |shape: &[usize]| shape.iter().copied().filter(|n| *n != 1).collect::<Vec<_>>();
        without_ones(self.tensor.shape()) == without_ones(shape)
    }
}

/// Every candidate of a base's image tower, by number of elements.
pub(super) struct Candidates {
    pub(super) all: Vec<Candidate>,
    by_size: HashMap<usize, Vec<usize>>,
}

const CLASS: &str = "visual.class_embedding";
const POSITIONS: &str = "visual.positional_embedding";

impl Candidates {
    pub(super) fn of(base: &Checkpoint) -> Result<Self> {
        let mut candidates = Self { all: Vec::new(), by_size: HashMap::new() };
        // What a graph computes behind a tower is the base's too. The text tower, whose values may be the same, is none
        // of a graph of images.
        let of_graph = |name: &str| is_image_tower(name) || !is_text_tower(name);
        let is_weight = |tensor: &Tensor| tensor.dtype().is_float() && tensor.numel() > 1;
        for (name, tensor) in base.iter().filter(|(name, tensor)| of_graph(name) && is_weight(tensor)) {
            let whole = View::whole(name);
            candidates.add_orders(&whole, tensor)?;
            for rows in parts_of(name, tensor.shape()) {
                candidates.add_orders(&View { rows: Some(rows), ..whole.clone() }, tensor)?;
            }
        }
        if let (Some(class), Some(positions)) = (base.get(CLASS), base.get(POSITIONS))
            && positions.shape().get(1) == class.shape().first()
        {
            candidates.add_class_token(class, positions)?;
        }
        Ok(candidates)
    }

    /// The view as it is, and with its dimensions in the orders that other layouts have.
    fn add_orders(&mut self, view: &View, parameter: &Tensor) -> Result<()> {
        let rank = parameter.shape().len();
        let orders: &[&[usize]] = match rank {
            2 => &[&[1, 0]],
            // Channels last, with the kernels first or last, and a matrix from patches to channels.
            4 => &[&[0, 2, 3, 1], &[2, 3, 1, 0], &[1, 2, 3, 0]],
            _ => &[],
        };
        let as_it_is = view.of(parameter)?;
        let mut seen = vec![essence(&as_it_is)];
        self.add(vec![view.clone()], as_it_is, parameter.shape());
        for order in orders {
            let view = View { permute: Some(order.to_vec()), ..view.clone() };
            let tensor = view.of(parameter)?;
            // With extents of 1 two orders may be the same.
            if !seen.contains(&essence(&tensor)) {
                seen.push(essence(&tensor));
                self.add(vec![view], tensor, parameter.shape());
            }
        }
        Ok(())
    }

    /// Class embedding and first position, added up when the model was exported.
    fn add_class_token(&mut self, class: &Tensor, positions: &Tensor) -> Result<()> {
        let first = View { rows: Some([0, 1]), ..View::whole(POSITIONS) };
        let (a, b) = (class.to_f32()?, first.of(positions)?);
        let sum: Vec<f32> = a.iter().zip(&*b.to_f32()?).map(|(a, b)| a + b).collect();
        let tensor = Tensor::from_f32(&sum, class.shape(), "folded")?;
        self.add(vec![View::whole(CLASS), first], tensor, class.shape());
        Ok(())
    }

    /// Enters what a constant was found to be, apart from the values that others are compared with.
    pub(super) fn enter(&mut self, parts: Vec<View>, values: &Tensor) -> Match {
        self.all.push(Candidate { parts, tensor: values.clone(), slot: None });
        Match { candidate: self.all.len() - 1, scale: 1.0, repeat: 1 }
    }

    fn add(&mut self, parts: Vec<View>, tensor: Tensor, parameter: &[usize]) {
        let slot = parts.first().and_then(|part| slot(part, parameter));
        self.by_size.entry(tensor.numel()).or_default().push(self.all.len());
        self.all.push(Candidate { parts, tensor, slot });
    }

    /// The candidates that `constant` is, once or several times one after another: bit for bit in the coarser of the
    /// two types, else as near as folding and casting leave it, else scaled as optimisers scale the queries.
    pub(super) fn matching(&self, constant: &Tensor) -> Result<Vec<Match>> {
        let found = self.matching_once(constant)?;
        if !found.is_empty() {
            return Ok(found);
        }
        // What does not depend on the images has its values once for each image in a graph for a fixed batch.
        let mut repeat = 1usize;
        for (axis, &extent) in constant.shape().iter().enumerate() {
            repeat = repeat.saturating_mul(extent);
            let rest = constant.shape().get(axis + 1..).unwrap_or_default();
            if repeat < 2 || rest.is_empty() || !self.by_size.contains_key(&rest.iter().product()) {
                continue;
            }
            let Some(once) = once(constant, repeat, rest)? else { continue };
            // Rows of zeros are in many a graph for other reasons than that a parameter is one.
            let is_uniform = is_uniform(&once)?;
            let mut found = self.matching_once(&once)?;
            found.retain(|m| !is_uniform || self.all[m.candidate].slot.is_some_and(EncoderPlace::is_token));
            if !found.is_empty() {
                return Ok(found.into_iter().map(|m| Match { repeat, ..m }).collect());
            }
        }
        Ok(Vec::new())
    }

    fn matching_once(&self, constant: &Tensor) -> Result<Vec<Match>> {
        let of_size = self.by_size.get(&constant.numel()).map_or(&[][..], Vec::as_slice);
        for exact in [true, false] {
            let mut found = Vec::new();
            for &candidate in of_size {
                if same(&self.all[candidate].tensor, 1.0, constant, exact)? {
                    found.push(Match { candidate, scale: 1.0, repeat: 1 });
                }
            }
            if !found.is_empty() {
                return Ok(self.of_shape(found, constant.shape()));
            }
        }
        let mut found = Vec::new();
        for &candidate in of_size {
            if let Some(scale) = self.query_scale(candidate, constant)?
                && same(&self.all[candidate].tensor, scale, constant, false)?
            {
                found.push(Match { candidate, scale, repeat: 1 });
            }
        }
        Ok(self.of_shape(found, constant.shape()))
    }

    /// Those of the candidates with equal values that need no reshaping, where there are any.
    fn of_shape(&self, mut found: Vec<Match>, shape: &[usize]) -> Vec<Match> {
        // What is beside a tower is only what the tower is not.
        let is_of_tower = |m: &Match| is_image_tower(self.all[m.candidate].parameter());
        if found.iter().any(is_of_tower) {
            found.retain(is_of_tower);
        }
        for part in found.clone() {
            let fits = |m: &Match| self.all[m.candidate].has_shape(shape);
            let same_part = |m: &Match| {
                let (a, b) = (&self.all[m.candidate].parts, &self.all[part.candidate].parts);
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (&a.parameter, a.rows) == (&b.parameter, b.rows))
            };
            if found.iter().any(|m| same_part(m) && fits(m)) {
                found.retain(|m| !same_part(m) || fits(m));
            }
        }
        found
    }

    /// 1/√d or 1/⁴√d, where the constant could be queries or keys scaled by it; d is the width of a head.
    fn query_scale(&self, candidate: usize, constant: &Tensor) -> Result<Option<f32>> {
        let Candidate { parts, tensor, .. } = &self.all[candidate];
        let third = match parts.as_slice() {
            [View { parameter, rows: Some([start, end]), .. }] if parameter.contains(".attn.in_proj_") => {
                let third = end - start;
                if *start > third { return Ok(None) } else { third }
            }
            _ => return Ok(None),
        };
        // The largest of a few values, so that their quotient is exact.
        let (mut ours, mut theirs) = (0.0f32, 0.0f32);
        for at in samples(tensor.numel()) {
            let (mut a, mut b) = ([0.0], [0.0]);
            tensor.read_f32(at, &mut a)?;
            constant.read_f32(at, &mut b)?;
            if a[0].abs() > ours.abs() {
                (ours, theirs) = (a[0], b[0]);
            }
        }
        let quotient = theirs / ours;
        let near = |scale: f32| ((quotient / scale) - 1.0).abs() < 1e-2;
        let widths = (1..=third).filter(|width| third % width == 0);
        Ok(widths
            .map(|d| d as f32)
            .flat_map(|d| [1.0 / d.sqrt(), 1.0 / d.sqrt().sqrt()])
            .find(|s| *s < 1.0 && near(*s)))
    }
}

/// A candidate that a constant is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Match {
    pub(super) candidate: usize,
    /// The factor of every value.
    pub(super) scale: f32,
    /// The number of times that the constant has all of it, one after another.
    pub(super) repeat: usize,
}

/// One of the `repeat` equal parts that a constant consists of, in this shape; `None` where they are not equal.
fn once(constant: &Tensor, repeat: usize, shape: &[usize]) -> Result<Option<Tensor>> {
    let constant = constant.to_contiguous()?;
    let numel: usize = shape.iter().product();
    let is_repeated = all(numel * (repeat - 1), |at, a, b| {
        constant.read_f32(at, a)?;
        constant.read_f32(at + numel, b)?;
        Ok(a.iter().zip(&*b).all(|(a, b)| a.to_bits() == b.to_bits()))
    })?;
    if !is_repeated {
        return Ok(None);
    }
    constant.rearranged(0, shape, &contiguous_strides(shape)).map(Some)
}

/// The rows that exporters keep apart: q, k and v; two of them together; the class token's position and the others.
fn parts_of(name: &str, shape: &[usize]) -> Vec<[usize; 2]> {
    match shape.first() {
        Some(&rows) if is_fused(name) && rows % 3 == 0 && rows > 0 => {
            let third = rows / 3;
            vec![[0, third], [third, 2 * third], [2 * third, rows], [0, 2 * third], [third, rows]]
        }
        Some(&rows) if name == POSITIONS && rows > 1 => vec![[0, 1], [1, rows]],
        _ => Vec::new(),
    }
}

/// Whether queries, keys and values are one parameter of this name.
fn is_fused(name: &str) -> bool {
    name.contains("in_proj_") || name.ends_with("qkv.weight") || name.ends_with("qkv.bias")
}

/// What remains of shape and strides without extents of 1.
fn essence(tensor: &Tensor) -> Vec<(usize, usize)> {
    tensor.shape().iter().copied().zip(tensor.strides().iter().copied()).filter(|(n, _)| *n != 1).collect()
}

/// Places to look at first.
fn samples(numel: usize) -> impl Iterator<Item = usize> {
    const MAX_SAMPLES: usize = 16;
    // The golden ratio leaves no two of them at the same place of a row.
    (0..MAX_SAMPLES.min(numel)).map(move |i| ((i as f64 * 0.618_033_988_749_895).fract() * numel as f64) as usize)
}

/// Whether all values are one and the same: such a tensor could be many things.
pub(super) fn is_uniform(tensor: &Tensor) -> Result<bool> {
    let mut first = [0.0];
    tensor.read_f32(0, &mut first)?;
    all(tensor.numel(), |at, buffer, _| {
        tensor.read_f32(at, buffer)?;
        Ok(buffer.iter().all(|value| *value == first[0]))
    })
}

/// Whether `scale·ours` and `theirs` are the same values in the coarser of their types; where not `exact`, nearly.
pub(super) fn same(ours: &Tensor, scale: f32, theirs: &Tensor, exact: bool) -> Result<bool> {
    if ours.numel() != theirs.numel() {
        return Ok(false);
    }
    let coarser = coarser(ours.dtype(), theirs.dtype());
    let check = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| agree(a * scale, *b, coarser, exact));
    for at in samples(ours.numel()) {
        let (mut a, mut b) = ([0.0], [0.0]);
        ours.read_f32(at, &mut a)?;
        theirs.read_f32(at, &mut b)?;
        if !check(&a, &b) {
            return Ok(false);
        }
    }
    all(ours.numel(), |at, a, b| {
        ours.read_f32(at, a)?;
        theirs.read_f32(at, b)?;
        Ok(check(a, b))
    })
}

/// Whether `check(start, a, b)` holds for all pieces of `numel` elements; `a` and `b` are buffers of the piece's
/// length.
fn all(numel: usize, mut check: impl FnMut(usize, &mut [f32], &mut [f32]) -> Result<bool>) -> Result<bool> {
    const PIECE: usize = 4096;
    let (mut a, mut b) = (vec![0.0; PIECE], vec![0.0; PIECE]);
    for at in (0..numel).step_by(PIECE) {
        let count = PIECE.min(numel - at);
        if !check(at, &mut a[..count], &mut b[..count])? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The largest distance of the values of two tensors.
pub(super) fn distance(ours: &Tensor, theirs: &Tensor) -> Result<f32> {
    let mut most = 0.0f32;
    all(ours.numel(), |at, a, b| {
        ours.read_f32(at, a)?;
        theirs.read_f32(at, b)?;
        most = a.iter().zip(&*b).map(|(a, b)| (a - b).abs()).fold(most, f32::max);
        Ok(true)
    })?;
    Ok(most)
}

fn coarser(a: DType, b: DType) -> DType {
    let bits = |dtype| match dtype {
        DType::BF16 => 0,
        DType::F16 => 1,
        _ => 2,
    };
    if bits(a) <= bits(b) { a } else { b }
}

/// Relative and absolute differences that folding and casting leave. Converters to half floats also raise what is
/// smaller than 1e-7 to that.
fn agree(a: f32, b: f32, dtype: DType, exact: bool) -> bool {
    let (a, b, relative, absolute) = match dtype {
        DType::BF16 => (bf16::from_f32(a).to_f32(), bf16::from_f32(b).to_f32(), 1.0 / 128.0, 0.0),
        DType::F16 => (f16::from_f32(a).to_f32(), f16::from_f32(b).to_f32(), 1.0 / 512.0, 2.5e-7),
        _ => (a, b, 4.8e-7, 0.0),
    };
    a == b || (!exact && (a - b).abs() <= relative * a.abs().max(b.abs()) + absolute)
}
