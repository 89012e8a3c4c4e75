//! The plan of a reconstruction, found out before anything is computed: which tensors, of which base, changed by what.

use std::sync::Arc;

use super::layout::{Layout, TensorSpec};
use crate::basis::{Basis, CoefficientMatrix, Coefficients, Parameter};
use crate::checkpoint::{Checkpoint, is_image_tower, lacking};
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

/// The parameters that weights are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// The parameters of the image tower (`visual.…`): all that an encoder needs.
    #[default]
    ImageTower,
    /// Every parameter that the base holds.
    All,
}

impl Scope {
    /// The scope of what encoders over `base` may use: the image tower, or all where there is none that is known.
    pub(super) fn of(base: &Checkpoint) -> Self {
        if base.image_tower().next().is_some() { Self::ImageTower } else { Self::All }
    }

    /// The scope of what a layout is made of. A user's graph may go on behind the tower.
    pub(super) fn of_layout(base: &Checkpoint, layout: &Layout) -> Self {
        let is_of_tower = layout.parameters().all(|(name, _)| is_image_tower(name));
        if is_of_tower { Self::of(base) } else { Self::All }
    }
}

/// Weights to be.
pub(super) struct Plan<'a> {
    pub(super) coefficients: CoefficientMatrix,
    /// The rows of the coefficients, as the kernel takes them.
    pub(super) factors: Factors,
    pub(super) tensors: Vec<Planned<'a>>,
}

/// One tensor of them.
pub(super) struct Planned<'a> {
    pub(super) name: &'a str,
    pub(super) shape: &'a [usize],
    pub(super) base: Option<&'a Tensor>,
    /// The vectors' pieces to be added, and the row of their coefficients; `None` where nothing is.
    pub(super) change: Option<(&'a Parameter, usize)>,
}

/// Coefficients as the kernel takes them, one row per group of parameters.
#[derive(Default)]
pub(super) struct Factors {
    pub(super) rows: Vec<Vec<f32>>,
    /// Whether a row adds anything. With all factors zero the weights are the base, and no vector need be looked at.
    adds: Vec<bool>,
}

impl Factors {
    fn of(basis: &Basis, coefficients: &CoefficientMatrix) -> Result<Self> {
        let rows = basis.factors_by_row(coefficients).map_err(|e| e.at(basis.path()))?;
        let adds = rows.iter().map(|row| row.iter().any(|&a| a != 0.0)).collect();
        Ok(Self { rows, adds })
    }

    /// What changes a parameter, with the row of its factors; `None` where nothing does.
    fn change<'a>(
        &self,
        basis: &Basis,
        coefficients: &CoefficientMatrix,
        name: &str,
        parameter: &'a Parameter,
    ) -> Option<(&'a Parameter, usize)> {
        let row = coefficients.row_of(basis.index_of(name)?);
        (self.adds[row] && parameter.is_changed()).then_some((parameter, row))
    }
}

/// The base, changed by the vectors where there are any.
pub(super) fn of_model<'a>(
    base: &'a Checkpoint,
    basis: Option<&'a Basis>,
    coefficients: &CoefficientMatrix,
    scope: Scope,
) -> Result<Plan<'a>> {
    basis.map_or_else(|| Ok(base_alone(base, scope)), |basis| with_base(base, basis, coefficients, scope))
}

/// `base + Σ_m a_m·s_m`.
pub(super) fn with_base<'a>(
    base: &'a Checkpoint,
    basis: &'a Basis,
    coefficients: &CoefficientMatrix,
    scope: Scope,
) -> Result<Plan<'a>> {
    let factors = Factors::of(basis, coefficients)?;
    lacking::check_read(base, scope == Scope::ImageTower)?;
    check_unnamed(base, basis, scope)?;

    let mut tensors = Vec::with_capacity(base.len());
    for (name, tensor) in in_scope(base.iter(), scope) {
        let change = match basis.parameter(name) {
            Some(parameter) if tensor.dtype().is_float() => {
                check_shape(base, basis, name, tensor, parameter)?;
                factors.change(basis, coefficients, name, parameter)
            }
            Some(_) => {
                return Err(Error::mismatch("the basis changes it, and it is no float").at(base.path()).tensor(name));
            }
            // What the basis does not name stays the base's.
            None => None,
        };
        tensors.push(Planned { name, shape: tensor.shape(), base: Some(tensor), change });
    }
    for (name, parameter) in in_scope(basis.parameters(), scope) {
        if base.get(name).is_none() && parameter.is_changed() {
            return Err(Error::mismatch("the basis changes a parameter that the base does not have")
                .at(base.path())
                .tensor(name)
                .hint(format!("Is {} of another model?", basis.path().display())));
        }
    }
    Ok(Plan { coefficients: coefficients.clone(), factors, tensors })
}

fn check_shape(base: &Checkpoint, basis: &Basis, name: &str, tensor: &Tensor, parameter: &Parameter) -> Result<()> {
    if parameter.shape() == tensor.shape() {
        return Ok(());
    }
    let of_another =
        format!("the basis {} is of another model than this base: the shapes differ", basis.path().display());
    Err(Error::mismatch(of_another)
        .at(base.path())
        .tensor(name)
        .expected(format_args!("{:?}, as in the basis", parameter.shape()))
        .got(format_args!("{:?}", tensor.shape())))
}

/// Checks that what the basis does not name may stay the base's: a parameter that it names in some of the blocks only
/// is of another model.
fn check_unnamed(base: &Checkpoint, basis: &Basis, scope: Scope) -> Result<()> {
    let weights = in_scope(base.iter(), scope).filter(|(_, tensor)| tensor.dtype().is_float()).map(|(name, _)| name);
    let weights: Vec<&str> = weights.filter(|name| basis.parameter(name).is_none()).collect();
    if weights.is_empty() {
        return Ok(());
    }
    let named = basis.parameters().map(|(name, _)| name);
    lacking::missing(weights.into_iter(), named).map(drop).map_err(|unknown| {
        Error::mismatch("the base has a parameter that the basis does not know, and has in other blocks")
            .at(base.path())
            .tensor(unknown)
            .hint(format!("Is {} of another model?", basis.path().display()))
    })
}

/// Whether base and basis are of one model, in every parameter that both could have.
pub(crate) fn check_models(base: &Checkpoint, basis: &Basis) -> Result<()> {
    let any = Coefficients { vectors: vec![1.0; basis.vectors()], ..Coefficients::zero(0) };
    with_base(base, basis, &any.into(), Scope::of(base))?;
    // The text tower may go by other names in one of them, but not have other shapes.
    for (name, parameter) in basis.parameters() {
        if let Some(tensor) = base.get(name) {
            check_shape(base, basis, name, tensor, parameter)?;
        }
    }
    Ok(())
}

/// The base as it is.
pub(super) fn base_alone(base: &Checkpoint, scope: Scope) -> Plan<'_> {
    let tensors = in_scope(base.iter(), scope)
        .map(|(name, tensor)| Planned { name, shape: tensor.shape(), base: Some(tensor), change: None })
        .collect();
    Plan { coefficients: Coefficients::zero(0).into(), factors: Factors::default(), tensors }
}

/// `Σ_m a_m·s_m`.
pub(super) fn vector_alone<'a>(basis: &'a Basis, coefficients: &CoefficientMatrix, scope: Scope) -> Result<Plan<'a>> {
    let factors = Factors::of(basis, coefficients)?;
    let tensors = in_scope(basis.parameters(), scope)
        .map(|(name, parameter)| Planned {
            name,
            shape: parameter.shape(),
            base: None,
            change: factors.change(basis, coefficients, name, parameter),
        })
        .collect();
    Ok(Plan { coefficients: coefficients.clone(), factors, tensors })
}

fn in_scope<'a, T>(all: impl Iterator<Item = (&'a str, T)>, scope: Scope) -> impl Iterator<Item = (&'a str, T)> {
    all.filter(move |(name, _)| scope == Scope::All || is_image_tower(name))
}

impl Plan<'_> {
    /// The plan without the tensors that `wanted` does not accept.
    pub(super) fn limited_to(mut self, wanted: impl Fn(&str) -> bool) -> Self {
        self.tensors.retain(|planned| wanted(planned.name));
        self
    }

    /// All of it under the parameters' own names, in f32; what is no float is carried over.
    pub(super) fn canonical(&self) -> Arc<Layout> {
        let dtype =
            |base: Option<&Tensor>| base.map(Tensor::dtype).filter(|dtype| !dtype.is_float()).unwrap_or(DType::F32);
        let whole = |planned: &Planned<'_>| TensorSpec::whole(planned.name, planned.shape, dtype(planned.base));
        Layout::canonical(self.tensors.iter().map(whole).collect())
    }
}
