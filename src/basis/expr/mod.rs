//! Task expressions: the one way to name weights, in Rust, C and on the command line.
//!
//! ```text
//! expression = ["+" | "-"] term { ("+" | "-") term }
//! term       = name ["@" (λ | groups)]
//! name       = letters, digits, "_", "." and "/"  |  "any characters" (\" and \\ inside)  |  "#" number  |  "#mean"
//! groups     = "{" selector ":" λ { "," selector ":" λ } "}"
//! selector   = "*"  |  "a parameter's name, or a pattern of names"  |  words of ["blocks." number ["-" number]]
//!              and of `stem`, `attn`, `mlp`, `norm`, `proj`, `bias`, with "." between them
//! ```
//! `base` (no change at all), `merged` (the plain sum of the basis vectors: the paper's task addition) and `all`
//! (every task recovered and summed) are not tasks; a task of such a name is written in double quotes. `#0` is the
//! first basis vector, `#mean` PCA's mean.

mod parse;
mod selector;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::{Add, Mul, Neg, Sub};

use super::coefficients::Coefficients;
use super::spelling::{Number, quoted};
use crate::error::{Error, Result};

pub(super) use selector::LambdaByGroup;
pub use selector::Selector;

/// The words that an expression may name beside tasks.
pub(super) const WORDS: [&str; 3] = ["base", "merged", "all"];

/// The name in one term of an expression.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The recovered task vector τ̂ of this task, or the expression that the basis keeps under this name.
    Task(String),
    /// Σ_m s_m, the plain sum of the basis vectors, without coefficients and without PCA's mean.
    Merged,
    /// Σ_t τ̂_t, every task recovered and summed.
    All,
    /// s_m, the basis vector of this index.
    Vector(usize),
    /// PCA's mean vector.
    Mean,
}

/// The scaling coefficient of a term: one for all parameters, or one for each group of them.
#[derive(Clone, Debug, PartialEq)]
pub enum Scale {
    /// The λ of every parameter.
    Whole(f64),
    /// The λ of each group; for every parameter the most specific selector counts.
    Groups(Vec<(Selector, f64)>),
}

impl Scale {
    /// The one λ of all parameters, where there is one.
    pub fn whole(&self) -> Option<f64> {
        match self {
            Self::Whole(lambda) => Some(*lambda),
            Self::Groups(_) => None,
        }
    }

    fn times(&mut self, factor: f64) {
        match self {
            Self::Whole(lambda) => *lambda *= factor,
            Self::Groups(groups) => groups.iter_mut().for_each(|(_, lambda)| *lambda *= factor),
        }
    }
}

/// A linear combination of task vectors, to be added to the base: `base + Σ λ·target`, with one λ a term or one per
/// group of parameters. Empty is the base itself.
///
/// ```
/// use taskbasis::TaskExpr;
/// let expr: TaskExpr = "MNIST@0.3 + SVHN@0.3 - Cars@0.2".parse()?;
/// assert_eq!(expr, TaskExpr::task("MNIST") * 0.3 + TaskExpr::task("SVHN") * 0.3 - TaskExpr::task("Cars") * 0.2);
///
/// let grouped: TaskExpr = "MNIST@{blocks.0-5: 0.1, attn: 0.4, *: 0.3}".parse()?;
/// assert_eq!((grouped * 2.0).to_string(), "MNIST@{blocks.0-5: 0.2, attn: 0.8, *: 0.6}");
/// # Ok::<(), taskbasis::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskExpr {
    terms: Vec<(Target, Scale)>,
}

impl TaskExpr {
    /// The base: no task at all.
    pub fn base() -> Self {
        Self::default()
    }

    /// A task with λ = 1.
    pub fn task(name: impl Into<String>) -> Self {
        Self::of(Target::Task(name.into()))
    }

    /// The plain sum of the basis vectors with λ = 1.
    pub fn merged() -> Self {
        Self::of(Target::Merged)
    }

    /// Every task recovered and summed, λ = 1.
    pub fn all() -> Self {
        Self::of(Target::All)
    }

    /// This target with λ = 1.
    pub fn of(target: Target) -> Self {
        Self { terms: vec![(target, Scale::Whole(1.0))] }
    }

    /// A target with a λ for each group of parameters.
    pub fn grouped(target: Target, groups: Vec<(Selector, f64)>) -> Self {
        Self { terms: vec![(target, Scale::Groups(groups))] }
    }

    /// The sum of the basis vectors with these coefficients, one row of them per group. Residuals, which no expression
    /// names, must not be among them.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) where there are not as many rows as groups,
    /// where they differ in length, or a number is not finite.
    pub fn of_rows(groups: &[Selector], rows: &[Coefficients]) -> Result<Self> {
        if rows.len() != groups.len() {
            return Err(Error::invalid("there must be one row of coefficients per group")
                .expected(groups.len())
                .got(rows.len()));
        }
        let vectors = rows.first().map_or(0, |row| row.vectors.len());
        for (row, group) in rows.iter().zip(groups) {
            Coefficients::check_count(row.vectors.len(), vectors)?;
            let odd = row.vectors.iter().chain([&row.mean]).find(|a| !a.is_finite());
            if let Some(odd) = odd {
                return Err(
                    Error::invalid(format!("a coefficient of the group `{group}` must be finite")).got(Number(*odd))
                );
            }
            if row.residuals.iter().any(|&r| r != 0.0) {
                return Err(Error::invalid("an expression cannot name residuals: name their tasks"));
            }
        }
        let targets = (0..vectors).map(Target::Vector).chain([Target::Mean]);
        let mut terms = Vec::new();
        for (m, target) in targets.enumerate() {
            let of = |row: &Coefficients| row.vectors.get(m).copied().unwrap_or(row.mean);
            if rows.iter().all(|row| of(row) == 0.0) {
                continue;
            }
            let scale = match rows {
                [only] if groups[0] == Selector::rest() => Scale::Whole(of(only)),
                _ => Scale::Groups(groups.iter().cloned().zip(rows.iter().map(of)).collect()),
            };
            terms.push((target, scale));
        }
        Ok(Self { terms })
    }

    /// This expression with the λ of every term multiplied by those of these groups.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a term that has groups already.
    pub fn by_group(mut self, groups: &[(Selector, f64)]) -> Result<Self> {
        for (_, scale) in &mut self.terms {
            let Scale::Whole(lambda) = *scale else {
                return Err(Error::invalid("a term that has groups already can be scaled by a number alone"));
            };
            *scale = Scale::Groups(groups.iter().map(|(group, own)| (group.clone(), lambda * own)).collect());
        }
        Ok(self)
    }

    /// The terms, in the order they were written; each with its λ.
    pub fn terms(&self) -> &[(Target, Scale)] {
        &self.terms
    }
}

impl Mul<f64> for TaskExpr {
    type Output = Self;

    fn mul(mut self, lambda: f64) -> Self {
        self.terms.iter_mut().for_each(|(_, own)| own.times(lambda));
        self
    }
}

impl Neg for TaskExpr {
    type Output = Self;

    fn neg(self) -> Self {
        self * -1.0
    }
}

impl Add for TaskExpr {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self.terms.extend(other.terms);
        self
    }
}

impl Sub for TaskExpr {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

/// Writes the expression so that parsing it gives it back.
impl fmt::Display for TaskExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return f.write_str("base");
        }
        for (i, (target, scale)) in self.terms.iter().enumerate() {
            match (i, matches!(scale, Scale::Whole(lambda) if lambda.is_sign_negative())) {
                (0, true) => f.write_str("-")?,
                (0, false) => {}
                (_, true) => f.write_str(" - ")?,
                (_, false) => f.write_str(" + ")?,
            }
            match target {
                Target::Task(name) if is_bare(name) => f.write_str(name)?,
                Target::Task(name) => f.write_str(&quoted(name))?,
                Target::Merged => f.write_str("merged")?,
                Target::All => f.write_str("all")?,
                Target::Vector(m) => write!(f, "#{m}")?,
                Target::Mean => f.write_str("#mean")?,
            }
            match scale {
                Scale::Whole(lambda) if lambda.abs() == 1.0 => {}
                Scale::Whole(lambda) => write!(f, "@{}", Number(lambda.abs()))?,
                Scale::Groups(groups) => {
                    f.write_str("@{")?;
                    for (i, (selector, lambda)) in groups.iter().enumerate() {
                        write!(f, "{}{selector}: {}", if i == 0 { "" } else { ", " }, Number(*lambda))?;
                    }
                    f.write_str("}")?;
                }
            }
        }
        Ok(())
    }
}

fn is_bare(name: &str) -> bool {
    !name.is_empty() && name.chars().all(is_name_char) && !WORDS.contains(&name)
}

fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | '/')
}
