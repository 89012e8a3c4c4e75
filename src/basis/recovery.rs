//! From tasks to numbers: the recovery table of a basis, and the coefficients that an expression comes to.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

use indexmap::IndexMap;

use super::coefficients::Coefficients;
use super::expr::{self, LambdaByGroup, Scale, Target, TaskExpr};
use super::matrix::CoefficientMatrix;
use super::method::Method;
use crate::did_you_mean::{self, clipped};
use crate::error::{Error, ErrorKind, Result};

/// The recovery table of a method: a column of coefficients per task.
///
/// `τ̂_t = Σ_m table[m,t]·s_m` (+ mean, for PCA; + the task's residual, where a bundle has one); Autoencoder: W, PCA:
/// C, Random: P, RandomSample: a unit column for each selected task and none for the others.
#[derive(Clone, Debug)]
pub struct Recovery {
    pub(super) method: Method,
    pub(super) tasks: Vec<String>,
    pub(super) vectors: usize,
    /// M rows of T, row-major; a task that cannot be recovered has a column of NaN.
    pub(super) table: Vec<f64>,
    /// The task of each residual.
    pub(super) residual_tasks: Vec<usize>,
    /// The tasks that are merges of the others, and no part of their sum.
    merges: HashSet<usize>,
    /// The tasks' columns by name: an expression may name a thousand tasks.
    columns: HashMap<String, usize>,
    /// Expressions that are kept under a name, made of tasks and vectors alone.
    pub(super) named: IndexMap<String, TaskExpr>,
}

/// A term of an expression, or one of an expression that a term names.
struct Leaf<'a> {
    target: &'a Target,
    scale: &'a Scale,
    /// The λ within the named expression, which multiplies the other.
    inner: Option<&'a Scale>,
}

impl Leaf<'_> {
    /// The λ, where it is one for all parameters.
    fn whole(&self) -> Option<f64> {
        Some(self.scale.whole()? * self.inner.map_or(Some(1.0), Scale::whole)?)
    }

    fn resolve(&self, names: &[&str]) -> Result<LeafByParameter<'_>> {
        let groups = |scale: &Scale| match scale {
            Scale::Whole(_) => Ok(Vec::new()),
            Scale::Groups(groups) => LambdaByGroup(groups).resolve(names),
        };
        Ok(LeafByParameter {
            outer: (self.scale, groups(self.scale)?),
            inner: self.inner.map(|inner| Ok::<_, Error>((inner, groups(inner)?))).transpose()?,
        })
    }
}

/// A leaf's scales, each with the group of every parameter.
struct LeafByParameter<'a> {
    outer: (&'a Scale, Vec<usize>),
    inner: Option<(&'a Scale, Vec<usize>)>,
}

impl LeafByParameter<'_> {
    fn of(&self, parameter: usize) -> f64 {
        let lambda = |(scale, groups): &(&Scale, Vec<usize>)| match scale {
            Scale::Whole(lambda) => *lambda,
            Scale::Groups(of) => of[groups[parameter]].1,
        };
        lambda(&self.outer) * self.inner.as_ref().map_or(1.0, lambda)
    }
}

impl Recovery {
    pub(super) fn new(
        method: Method,
        tasks: Vec<String>,
        vectors: usize,
        table: Vec<f64>,
        residual_tasks: Vec<usize>,
    ) -> Self {
        // Should two columns have one name, the first counts.
        let columns = tasks.iter().enumerate().rev().map(|(t, task)| (task.clone(), t)).collect();
        Self { method, tasks, vectors, table, residual_tasks, merges: HashSet::new(), columns, named: IndexMap::new() }
    }

    /// With these tasks known to be merges of the others.
    pub(super) fn with_merges(self, merges: HashSet<usize>) -> Self {
        Self { merges, ..self }
    }

    /// With these expressions kept under their names.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a name that is a task's, and an expression that names something else than
    /// tasks and vectors.
    pub(super) fn with_names(self, named: IndexMap<String, TaskExpr>) -> Result<Self> {
        for (name, expr) in &named {
            if name.is_empty() || self.columns.contains_key(name) {
                return Err(Error::invalid("a kept expression cannot have the name of a task, or none")
                    .got(format_args!("`{}`", clipped(name))));
            }
            for (target, _) in expr.terms() {
                self.check_target(target)
                    .map_err(|e| e.hint(format!("It is in the expression kept as `{}`", clipped(name))))?;
            }
        }
        Ok(Self { named, ..self })
    }

    /// The coefficient of vector `m` for task `t`; `None` where the task cannot be recovered.
    pub fn get(&self, m: usize, t: usize) -> Option<f64> {
        self.table.get(m * self.tasks.len() + t).copied().filter(|value| !value.is_nan())
    }

    /// All coefficients, M rows of T, row-major; `None` where a task cannot be recovered.
    pub fn iter(&self) -> impl Iterator<Item = Option<f64>> + '_ {
        self.table.iter().map(|&value| (!value.is_nan()).then_some(value))
    }

    /// Whether the method can give this task back.
    pub fn is_recoverable(&self, t: usize) -> bool {
        (0..self.vectors).all(|m| self.get(m, t).is_some())
    }

    /// The coefficients that `expr` comes to for the parameters called `names`, in O(M·T) for each different row, f64.
    pub(super) fn coefficients(&self, expr: &TaskExpr, names: &[&str]) -> Result<CoefficientMatrix> {
        let leaves = self.leaves(expr);
        if let Some(lambdas) = leaves.iter().map(Leaf::whole).collect::<Option<Vec<f64>>>() {
            return Ok(self.row(expr, &leaves, &lambdas)?.into());
        }
        for leaf in &leaves {
            // What is wrong with a name is told before what is wrong with groups.
            self.check_target(leaf.target)?;
        }
        let scales = leaves.iter().map(|leaf| leaf.resolve(names)).collect::<Result<Vec<_>>>()?;
        let (mut rows, mut row_of, mut known) = (Vec::new(), Vec::new(), HashMap::<Vec<u64>, u32>::new());
        for parameter in 0..names.len() {
            let lambdas: Vec<f64> = scales.iter().map(|scale| scale.of(parameter)).collect();
            let bits = lambdas.iter().map(|lambda| lambda.to_bits()).collect();
            row_of.push(match known.entry(bits) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) => {
                    rows.push(self.row(expr, &leaves, &lambdas)?);
                    *new.insert(rows.len() as u32 - 1)
                }
            });
        }
        if rows.is_empty() {
            rows.push(self.zero());
        }
        Ok(CoefficientMatrix::of_rows(rows, &row_of))
    }

    /// The terms of `expr`, with the terms of the expressions that are kept under a name in the place of that name.
    fn leaves<'a>(&'a self, expr: &'a TaskExpr) -> Vec<Leaf<'a>> {
        let mut leaves = Vec::with_capacity(expr.terms().len());
        for (target, scale) in expr.terms() {
            let kept = match target {
                Target::Task(name) if !self.columns.contains_key(name) => self.named.get(name),
                _ => None,
            };
            match kept {
                Some(kept) => {
                    leaves.extend(kept.terms().iter().map(|(target, inner)| Leaf { target, scale, inner: Some(inner) }))
                }
                None => leaves.push(Leaf { target, scale, inner: None }),
            }
        }
        leaves
    }

    fn check_target(&self, target: &Target) -> Result<()> {
        self.add_target(target, 0.0, &mut self.zero())
    }

    /// The coefficients of these terms with these λ.
    fn row(&self, expr: &TaskExpr, leaves: &[Leaf<'_>], lambdas: &[f64]) -> Result<Coefficients> {
        let mut sum = self.zero();
        for (leaf, &lambda) in leaves.iter().zip(lambdas) {
            self.add_target(leaf.target, lambda, &mut sum)?;
        }
        if sum.vectors.iter().chain([&sum.mean]).chain(&sum.residuals).all(|a| a.is_finite()) {
            Ok(sum)
        } else {
            Err(Error::invalid(format!("the coefficients of `{}` are not finite", clipped(&expr.to_string()))))
        }
    }

    fn add_target(&self, target: &Target, lambda: f64, sum: &mut Coefficients) -> Result<()> {
        match target {
            Target::Task(name) => self.add_task(self.term_index(name)?, lambda, sum)?,
            Target::Merged => sum.vectors.iter_mut().for_each(|a| *a += lambda),
            Target::All => self.add_all(lambda, sum)?,
            Target::Vector(m) => match sum.vectors.get_mut(*m) {
                Some(a) => *a += lambda,
                None => {
                    return Err(Error::new(ErrorKind::NotFound, format!("there is no basis vector #{m}"))
                        .expected(format_args!("#0 to #{}", self.vectors.saturating_sub(1))));
                }
            },
            Target::Mean if self.method.has_mean() => sum.mean += lambda,
            Target::Mean => return Err(no_mean()),
        }
        Ok(())
    }

    /// The column of the task called `name`.
    pub(super) fn task_index(&self, name: &str) -> Result<usize> {
        let known = self.tasks.iter().map(String::as_str);
        self.columns.get(name).copied().ok_or_else(|| did_you_mean::unknown("task", name, known))
    }

    /// The column of the task called `name` in an expression; what is suggested instead is written as in one.
    fn term_index(&self, name: &str) -> Result<usize> {
        self.task_index(name).map_err(|error| {
            let known = self.tasks.iter().chain(self.named.keys()).map(String::as_str);
            match did_you_mean::nearest(name, known.chain(expr::WORDS)) {
                Some(task) if self.columns.contains_key(task) || self.named.contains_key(task) => {
                    error.hint(format!("Did you mean `{}`?", TaskExpr::task(task)))
                }
                Some(word) => error.hint(format!("Did you mean `{word}`?")),
                None => error,
            }
        })
    }

    fn add_task(&self, t: usize, lambda: f64, sum: &mut Coefficients) -> Result<()> {
        for m in 0..self.vectors {
            sum.vectors[m] += lambda * self.get(m, t).ok_or_else(|| self.not_recoverable(t))?;
        }
        if self.method.has_mean() {
            sum.mean += lambda;
        }
        if let Some(r) = self.residual_tasks.iter().position(|&task| task == t) {
            sum.residuals[r] += lambda;
        }
        Ok(())
    }

    /// PCA's coefficients are centred, Σ_t C[m,t] = 0, up to the rounding they were stored with: the sum of all tasks
    /// is T·mean, and no vector need be read for it.
    fn add_all(&self, lambda: f64, sum: &mut Coefficients) -> Result<()> {
        let mut all = self.zero();
        let mut tasks = (0..self.tasks.len()).filter(|t| !self.merges.contains(t));
        tasks.try_for_each(|t| self.add_task(t, 1.0, &mut all))?;
        for (m, a) in all.vectors.iter_mut().enumerate() {
            let size: f64 = self.of_vector(m).map(f64::abs).sum();
            if self.method.has_mean() && a.abs() <= 1e-5 * size {
                *a = 0.0;
            }
            sum.vectors[m] += lambda * *a;
        }
        sum.mean += lambda * all.mean;
        sum.residuals.iter_mut().zip(&all.residuals).for_each(|(sum, r)| *sum += lambda * r);
        Ok(())
    }

    fn zero(&self) -> Coefficients {
        Coefficients { residuals: vec![0.0; self.residual_tasks.len()], ..Coefficients::zero(self.vectors) }
    }

    fn of_vector(&self, m: usize) -> impl Iterator<Item = f64> + '_ {
        let row: Range<usize> = m * self.tasks.len()..(m + 1) * self.tasks.len();
        self.table[row].iter().copied()
    }

    fn not_recoverable(&self, t: usize) -> Error {
        let known: Vec<_> =
            (0..self.tasks.len()).filter(|&t| self.is_recoverable(t)).map(|t| self.tasks[t].as_str()).collect();
        Error::new(
            ErrorKind::NotRecoverable,
            format!(
                "task `{}` cannot be recovered: a {} basis holds only the tasks it selected",
                self.tasks[t], self.method
            ),
        )
        .hint(format!("The selected tasks are: {}", known.join(", ")))
    }
}

/// There is nothing that a coefficient of the mean would multiply.
pub(crate) fn no_mean() -> Error {
    Error::new(ErrorKind::NotFound, "there is no mean vector, `#mean`: only PCA has one")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recovery(method: Method, table: &[f64]) -> Recovery {
        let tasks = ["A", "B", "C"].map(String::from).to_vec();
        Recovery::new(method, tasks, 2, table.to_vec(), Vec::new())
    }

    fn coefficients(recovery: &Recovery, expr: &str) -> Result<Coefficients> {
        Ok(recovery.coefficients(&expr.parse()?, &["a", "b"])?.plain().unwrap().clone())
    }

    #[test]
    fn everything_linear_collapses() {
        let ae = recovery(Method::Autoencoder, &[1., 2., 3., 10., 20., 30.]);
        let sum = coefficients(&ae, "A@0.5 - C + merged@2").unwrap();
        assert_eq!(sum, Coefficients { vectors: vec![0.5 - 3. + 2., 5. - 30. + 2.], mean: 0.0, residuals: vec![] });
        assert_eq!(coefficients(&ae, "all@0.5").unwrap(), coefficients(&ae, "A@0.5+B@0.5+C@0.5").unwrap());
        assert_eq!(coefficients(&ae, "base").unwrap(), Coefficients::zero(2));
    }

    #[test]
    fn the_mean_counts_once_per_task_and_never_in_merged() {
        let pca = recovery(Method::Pca, &[1., 2., -3.00000001, 4., -8., 4.]);
        assert_eq!(coefficients(&pca, "A@0.5 - B@0.25").unwrap().mean, 0.25);
        assert_eq!(
            coefficients(&pca, "merged@0.4").unwrap(),
            Coefficients { vectors: vec![0.4; 2], mean: 0.0, residuals: vec![] }
        );
        let all = coefficients(&pca, "all@0.5").unwrap();
        assert_eq!(all, Coefficients { vectors: vec![0.0; 2], mean: 1.5, residuals: vec![] }, "T·mean alone");
    }

    #[test]
    fn a_task_that_was_not_selected_is_an_error() {
        let sample = recovery(Method::RandomSample, &[1., f64::NAN, 0., 0., f64::NAN, 1.]);
        let error = coefficients(&sample, "A + B").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotRecoverable);
        assert!(error.to_string().ends_with("The selected tasks are: A, C"), "{error}");
        assert_eq!(coefficients(&sample, "all").unwrap_err().kind(), ErrorKind::NotRecoverable);
        assert!(coefficients(&sample, "merged").is_ok());
    }

    #[test]
    fn unknown_tasks_and_overflow() {
        let ae = recovery(Method::Autoencoder, &[1., 2., 3., 10., 20., 30.]);
        let error = coefficients(&ae, "a").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("known: A, B, C"), "{error}");
        // What is suggested can be put in the place of what was not understood.
        let mut named = recovery(Method::Autoencoder, &[1., 2., 3., 10., 20., 30.]);
        for (expr, name, suggested) in [
            ("CIFAR-10@0.5", "CIFAR-10", "Did you mean `\"CIFAR-10\"`?"),
            ("mnst", "MNIST", "Did you mean `MNIST`?"),
            ("Merged@0.5", "Inverted", "Did you mean `merged`?"),
            ("\"Base\"", "base", "Did you mean `\"base\"`?"),
        ] {
            named.columns = HashMap::from([(name.to_owned(), 0)]);
            named.tasks[0] = name.to_owned();
            let error = coefficients(&named, expr).unwrap_err().to_string();
            assert!(error.ends_with(suggested), "{error}");
        }
        assert!(named.task_index("Base").unwrap_err().to_string().ends_with("Did you mean `base`?"), "no expression");
        assert_eq!(coefficients(&ae, "B@1e308 + B@1e308").unwrap_err().kind(), ErrorKind::InvalidArgument);
        let big = coefficients(&ae, "B@1e300").unwrap();
        assert_eq!(big.to_kernel(2, false, 0).unwrap_err().kind(), ErrorKind::InvalidArgument);
        let sum = Coefficients { vectors: vec![0.5], mean: 2.0, residuals: vec![] };
        assert_eq!(sum.to_kernel(1, true, 0).unwrap(), [0.5, 2.0]);
        assert_eq!(sum.to_kernel(1, true, 2).unwrap(), [0.5, 2.0, 0.0, 0.0]);
        let sum = Coefficients { residuals: vec![1.0], ..sum };
        assert_eq!(sum.to_kernel(1, true, 1).unwrap(), [0.5, 2.0, 1.0]);
        assert!(sum.to_kernel(1, true, 2).is_err());
    }

    #[test]
    fn a_kept_expression_is_a_task_like_any_other() {
        let ae = recovery(Method::Autoencoder, &[1., 2., 3., 10., 20., 30.]);
        let names = |text: &[(&str, &str)]| {
            let pairs = text.iter().map(|(name, expr)| ((*name).to_owned(), expr.parse().unwrap()));
            recovery(Method::Autoencoder, &[1., 2., 3., 10., 20., 30.]).with_names(pairs.collect())
        };
        let named = names(&[("best", "A@0.5 + B@0.25"), ("by parts", "A@{\"a\": 2, *: 4} + #1")]).unwrap();
        let of = |expr: &str| named.coefficients(&expr.parse().unwrap(), &["a", "b"]).unwrap();
        let plain = |expr: &str| ae.coefficients(&expr.parse().unwrap(), &["a", "b"]).unwrap();
        assert_eq!(of("best@2 - C"), plain("A + B@0.5 - C"));
        assert_eq!(of("best@{\"a\": 1, *: 2}"), plain("A@{\"a\": 0.5, *: 1} + B@{\"a\": 0.25, *: 0.5}"));
        let both = of("\"by parts\"@{\"b\": 3, *: 1}");
        assert_eq!(both, plain("A@{\"a\": 2, \"b\": 12} + #1@{\"b\": 3, *: 1}"));
        for (wrong, part) in [
            ([("A", "B")], "the name of a task"),
            ([("x", "D")], "kept as `x`"),
            ([("x", "#7")], "kept as `x`"),
            ([("x", "x")], "no task `x`"),
        ] {
            let error = names(&wrong).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let error = named.coefficients(&"bst".parse().unwrap(), &["a"]).unwrap_err().to_string();
        assert!(error.ends_with("Did you mean `best`?"), "{error}");
    }

    #[test]
    fn a_merge_is_a_task_and_no_part_of_all() {
        let pca = Recovery { residual_tasks: vec![2], ..recovery(Method::Pca, &[1., 2., 0., 10., 20., 0.]) };
        let pca = pca.with_merges(HashSet::from([2]));
        let all = coefficients(&pca, "all@0.5").unwrap();
        assert_eq!((all.vectors, all.mean, all.residuals), (vec![1.5, 15.0], 1.0, vec![0.0]));
        let merge = coefficients(&pca, "C@2").unwrap();
        assert_eq!((merge.vectors, merge.mean, merge.residuals), (vec![0.0, 0.0], 2.0, vec![2.0]));
    }

    #[test]
    fn a_residual_counts_with_its_task_and_never_in_merged() {
        let ae = Recovery { residual_tasks: vec![2], ..recovery(Method::Autoencoder, &[1., 2., 3., 10., 20., 30.]) };
        let residual = |expr| coefficients(&ae, expr).unwrap().residuals;
        assert_eq!(residual("A@0.5 + C@0.25 - C"), [-0.75]);
        assert_eq!(residual("A + merged"), [0.0]);
        assert_eq!(residual("all@0.5"), [0.5]);
    }
}
