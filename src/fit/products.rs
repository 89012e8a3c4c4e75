//! Dot products of what expressions add to the base, from the sums over all pairs of basis vectors.
//!
//! `⟨Σ_m a_m·s_m, Σ_m b_m·s_m⟩ = aᵀ·G·b`, parameter by parameter, as coefficients may differ between parameters. The
//! vectors are read once; every product after that costs M² per parameter.

use crate::basis::{Basis, CoefficientMatrix, TaskExpr};
use crate::bundle::VectorGram;
use crate::error::{Error, Result};

/// The sums of products of a basis's vectors, its mean and its residuals, f64, for every parameter that they change.
#[derive(Clone, Debug)]
pub struct Products {
    /// By the parameter's place in the basis.
    grams: Vec<(usize, VectorGram)>,
}

impl Products {
    /// Reads every vector of `basis` once, on up to `threads` threads (0: one per processor); the sums have the same
    /// bits on any number of them. `progress` is told how many more bytes of vectors are done.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) where the vectors hold what is not finite, naming the tensor.
    pub fn of(basis: &Basis, threads: usize, progress: &dyn Fn(u64)) -> Result<Self> {
        let mut grams = Vec::new();
        for (index, (name, parameter)) in basis.parameters().enumerate() {
            let sources = parameter.sources();
            if parameter.is_changed() {
                let gram = VectorGram::of_sources(sources, threads)?;
                if !gram.is_finite() {
                    let error = Error::format("a basis vector is not finite, or its length is not");
                    return Err(error.at(basis.path()).tensor(name));
                }
                grams.push((index, gram));
            }
            progress(sources.iter().map(|source| source.nbytes() as u64).sum());
        }
        Ok(Self { grams })
    }

    /// `⟨a, b⟩` of what the two expressions add to the base, over all parameters; `basis` is the one that this is of.
    ///
    /// # Errors
    /// As [`Basis::coefficients`]; [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) where the product
    /// is not finite.
    pub fn dot(&self, basis: &Basis, a: &TaskExpr, b: &TaskExpr) -> Result<f64> {
        let parts = self.by_parameter(basis, &basis.coefficients(a)?, &basis.coefficients(b)?);
        let product: f64 = parts.iter().map(|(_, product)| product).sum();
        if product.is_finite() {
            // An empty sum is −0.
            return Ok(product + 0.0);
        }
        Err(Error::invalid(format!("the product of `{a}` and `{b}` is not finite")))
    }

    /// `‖a‖`, the length of what the expression adds to the base.
    ///
    /// # Errors
    /// As [`Products::dot`].
    pub fn norm(&self, basis: &Basis, a: &TaskExpr) -> Result<f64> {
        // What cancels out may leave a rounding below 0.
        Ok(self.dot(basis, a, a)?.max(0.0).sqrt())
    }

    /// `⟨a, b⟩ / (‖a‖·‖b‖)`, from −1 to 1.
    ///
    /// # Errors
    /// As [`Products::dot`]; [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) where one of the two
    /// adds nothing to the base, and so has no direction.
    pub fn cosine(&self, basis: &Basis, a: &TaskExpr, b: &TaskExpr) -> Result<f64> {
        let (length_a, length_b) = (self.norm(basis, a)?, self.norm(basis, b)?);
        for (expr, length) in [(a, length_a), (b, length_b)] {
            if length == 0.0 {
                return Err(Error::invalid(format!("`{expr}` adds nothing to the base: it has no direction")));
            }
        }
        Ok((self.dot(basis, a, b)? / length_a / length_b).clamp(-1.0, 1.0))
    }

    /// The Gram matrix of what these expressions add to the base, by the names beside them.
    ///
    /// # Errors
    /// As [`Basis::coefficients`]; [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for none, and for
    /// one that adds nothing to the base.
    #[cfg(feature = "build")]
    pub fn gram(&self, basis: &Basis, of: &[(String, TaskExpr)]) -> Result<crate::build::Gram> {
        let n = of.len();
        let rows = of.iter().map(|(_, expr)| basis.coefficients(expr)).collect::<Result<Vec<_>>>()?;
        let mut parts: Vec<(String, Vec<f64>)> = Vec::with_capacity(self.grams.len());
        let names: Vec<&str> = basis.parameters().map(|(name, _)| name).collect();
        for (i, a) in rows.iter().enumerate() {
            for (j, b) in rows.iter().enumerate() {
                for (at, (index, product)) in self.by_parameter(basis, a, b).into_iter().enumerate() {
                    if parts.len() == at {
                        parts.push((names[index].to_owned(), vec![0.0; n * n]));
                    }
                    parts[at].1[i * n + j] = product;
                }
            }
        }
        crate::build::Gram::of_parts(of.iter().map(|(name, _)| name.clone()).collect(), parts)
    }

    /// The parameters that anything changes, by their places, with what each adds to the product.
    fn by_parameter(&self, basis: &Basis, a: &CoefficientMatrix, b: &CoefficientMatrix) -> Vec<(usize, f64)> {
        let all = |matrix: &CoefficientMatrix| -> Vec<Vec<f64>> {
            let residuals = basis.residuals().len();
            let row = |row: &crate::basis::Coefficients| {
                let mean = basis.has_mean().then_some(row.mean);
                let mut all: Vec<f64> = row.vectors.iter().copied().chain(mean).chain(row.residuals.clone()).collect();
                all.resize(basis.vectors() + usize::from(basis.has_mean()) + residuals, 0.0);
                all
            };
            matrix.rows().iter().map(row).collect()
        };
        let (rows_a, rows_b) = (all(a), all(b));
        let products = self
            .grams
            .iter()
            .map(|(index, gram)| (*index, gram.bilinear(&rows_a[a.row_of(*index)], &rows_b[b.row_of(*index)])));
        products.collect()
    }
}
